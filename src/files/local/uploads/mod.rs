//! Resumable uploads on the disk.
//!
//! An upload is two files, named by its [`UploadKey`]: `.data` holds the received bytes, `.journal` the spec,
//! the durable prefix and the result. The journal is created first and removed first, so bytes without a
//! journal are garbage. Its mtime is the time from which the upload's time to live counts.

mod directory;
mod journal;
mod key;
mod partial;
mod registry;

use std::{sync::Arc, time::Duration};

use cap_std::fs::Dir;

pub(crate) use self::registry::OnSuperseded;
use self::{
    directory::UploadDir,
    journal::{Journal, Outcome},
    key::UploadKey,
    partial::PartialUpload,
    registry::{SlotRef, UploadRegistry},
};
use crate::{
    checksum::{Crc32c, Prefix},
    files::{
        error::Error,
        local::{commit::Committer, staged::StagedFile},
        path::FilePath,
        settings::Settings,
        stats::{StagedStats, StoreStats},
        upload::{Progress, UploadId, UploadSpec},
        version::Version,
    },
};

/// Bounds the time to live, so that adding it to the present does not overflow.
const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The uploads below one root.
#[derive(Debug)]
pub(super) struct Uploads {
    dir: UploadDir,
    ttl: Duration,
    max_bytes: u64,
    registry: UploadRegistry,
    stats: Arc<StoreStats>,
}

/// The result of opening an upload.
pub(crate) enum OpenedUpload {
    /// The upload is unfinished.
    Unfinished(UploadHandle, Progress),
    /// The upload was committed before, as this version.
    Committed(Version),
}

/// An upload owned by one stream, until another stream takes it over.
///
/// Dropping the handle leaves the durable prefix.
pub(crate) struct UploadHandle {
    slot: SlotRef,
    epoch: u64,
}

impl UploadHandle {
    /// Writes a chunk behind the accepted prefix. `crc32c` is the chunk's checksum, if the client sent one.
    pub(crate) fn append(
        &self,
        offset: u64,
        crc32c: Option<Crc32c>,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let ownership = self.slot.shared();
        ownership
            .check_epoch(self.epoch)?
            .append(offset, crc32c, bytes)
    }

    /// Makes durable at least the prefix that was accepted before the call. Chunks can be appended meanwhile.
    pub(crate) fn checkpoint(&self) -> Result<Progress, Error> {
        let ownership = self.slot.shared();
        let upload = ownership.check_epoch(self.epoch)?;
        upload.checkpoint()?;
        upload.progress()
    }
}

impl Uploads {
    /// Manages the uploads in `dir`.
    pub(super) fn new(dir: Dir, settings: &Settings, stats: Arc<StoreStats>) -> Self {
        Self {
            dir: UploadDir::new(dir),
            ttl: settings.upload_ttl.min(MAX_TTL),
            max_bytes: settings.max_upload_bytes,
            registry: UploadRegistry::new(settings.max_open_uploads),
            stats,
        }
    }

    /// Opens a new or existing upload, and takes it over from the stream that owns it.
    ///
    /// When this returns, the previous owner's work has ended, and its later calls fail with
    /// [`Error::Superseded`]. `on_superseded` is called when the same happens to the new owner.
    pub(super) fn open(
        &self,
        committer: &Committer,
        spec: UploadSpec,
        on_superseded: OnSuperseded,
    ) -> Result<OpenedUpload, Error> {
        let limit = self.max_bytes;
        if let Some(size) = spec.size
            && size > limit
        {
            self.stats.uploads.too_large.add(1);
            return Err(Error::UploadTooLarge { limit, size });
        }
        let Some(slot) = self.registry.try_acquire(UploadKey::of_spec(&spec)) else {
            self.stats.uploads.refused.add(1);
            return Err(Error::TooManyUploads);
        };
        let mut ownership = slot.exclusive();
        if let Some(upload) = &ownership.upload
            && upload.spec == spec
        {
            // Keeps all accepted bytes. A failure has removed the upload, and the client starts again at
            // zero.
            let _ = upload.checkpoint();
        }
        let mut found = None;
        if let Some((mut journal, state)) = self.dir.load_journal(&slot.key)? {
            if state.spec != spec {
                return Err(Error::UploadMismatch);
            }
            if let Some(outcome) = state.outcome
                && let Some(version) =
                    resolve_outcome(committer, &spec.path, outcome, &mut journal)?
            {
                return Ok(OpenedUpload::Committed(version));
            }
            found = Some((journal, state.persisted));
        }
        committer.check_precondition(&spec.path, &spec.precondition)?;
        let counts = &self.stats.uploads;
        if ownership.take_over(Some(on_superseded)) {
            counts.superseded.add(1);
        }
        let (upload, count) = match self.resume(&slot.key, found, &spec)? {
            Some(upload) => (upload, &counts.resumed),
            None => (self.create(&slot.key, spec)?, &counts.begun),
        };
        let progress = upload.progress()?;
        count.add(1);
        ownership.upload = Some(upload);
        let epoch = ownership.epoch;
        drop(ownership);
        Ok(OpenedUpload::Unfinished(
            UploadHandle { slot, epoch },
            progress,
        ))
    }

    /// Opens the data of an existing upload. None if there is no journal, or the data is missing or damaged.
    fn resume(
        &self,
        key: &UploadKey,
        found: Option<(Journal, Prefix)>,
        spec: &UploadSpec,
    ) -> Result<Option<PartialUpload>, Error> {
        let Some((journal, persisted)) = found else {
            return Ok(None);
        };
        let data = self.dir.load_data(key, persisted.len)?;
        Ok(data.map(|data| self.partial_upload(spec.clone(), data, journal, persisted)))
    }

    fn create(&self, key: &UploadKey, spec: UploadSpec) -> Result<PartialUpload, Error> {
        let (journal, data) = self.dir.create(key, &spec)?;
        Ok(self.partial_upload(spec, data, journal, Prefix::default()))
    }

    fn partial_upload(
        &self,
        spec: UploadSpec,
        data: StagedFile,
        journal: Journal,
        persisted: Prefix,
    ) -> PartialUpload {
        let stats = Arc::clone(&self.stats);
        PartialUpload::new(
            spec,
            data,
            journal,
            persisted,
            self.max_bytes,
            self.ttl,
            stats,
        )
    }

    /// Commits an upload if its size and checksum match.
    ///
    /// When this returns, the file is durable, and its result is in the journal unless the disk failed.
    pub(super) fn finish(
        &self,
        committer: &Committer,
        upload: &UploadHandle,
        size: u64,
        crc32c: Option<Crc32c>,
    ) -> Result<Version, Error> {
        let mut ownership = upload.slot.exclusive();
        let partial = ownership.check_epoch(upload.epoch)?;
        let version = partial.finish(committer, size, crc32c)?;
        ownership.upload = None;
        self.stats.uploads.committed.add(1);
        Ok(version)
    }

    /// Removes an unfinished upload, and supersedes the stream that owns it.
    pub(super) fn abort(
        &self,
        committer: &Committer,
        path: &FilePath,
        id: &UploadId,
        owner: Option<&str>,
    ) -> Result<(), Error> {
        let slot = self.registry.acquire(UploadKey::of(path, id, owner));
        let mut ownership = slot.exclusive();
        let (mut journal, state) = self
            .dir
            .load_journal(&slot.key)?
            .ok_or(Error::UploadNotFound)?;
        if let Some(outcome) = state.outcome
            && resolve_outcome(committer, path, outcome, &mut journal)?.is_some()
        {
            self.dir.remove(&slot.key);
            return Err(Error::UploadNotFound);
        }
        ownership.take_over(None);
        self.dir.remove(&slot.key);
        self.stats.uploads.aborted.add(1);
        Ok(())
    }

    /// Records the results of uploads whose commit a crash interrupted. Once a client replaces such a file,
    /// its result can no longer be determined.
    pub(super) fn recover_outcomes(&self, committer: &Committer) -> Result<(), Error> {
        for key in self.dir.keys()? {
            if let Ok(Some((mut journal, state))) = self.dir.load_journal(&key)
                && let Some(outcome) = state.outcome
            {
                // A failure occurs again, and is reported, when a client opens the upload.
                let _ = resolve_outcome(committer, &state.spec.path, outcome, &mut journal);
            }
        }
        Ok(())
    }

    /// Removes expired uploads that are not in use, and all files that belong to no upload.
    pub(super) fn sweep(&self) -> Result<(), Error> {
        for key in self.dir.keys()? {
            let slot = self.registry.acquire(key);
            if !slot.is_only() {
                continue;
            }
            // A stream that opens the upload from here on waits for the result.
            let ownership = slot.exclusive();
            if ownership.upload.is_none() && self.dir.has_expired(&slot.key, self.ttl) {
                // Most expired journals hold the result of a committed upload, which does not count.
                if self.dir.is_unfinished(&slot.key) {
                    self.stats.uploads.expired.add(1);
                }
                self.dir.remove(&slot.key);
            }
        }
        Ok(())
    }

    /// The number of uploads in use.
    pub(super) fn open_count(&self) -> usize {
        self.registry.len()
    }

    /// Counts the unfinished uploads on the disk.
    pub(super) fn staged(&self) -> Result<StagedStats, Error> {
        self.dir.staged()
    }
}

/// The version that an upload became, if its commit reached the rename.
fn resolve_outcome(
    committer: &Committer,
    path: &FilePath,
    outcome: Outcome,
    journal: &mut Journal,
) -> Result<Option<Version>, Error> {
    match outcome {
        Outcome::Committed(version) => Ok(Some(version)),
        // A crash came between the two entries. The file itself shows whether the rename happened.
        Outcome::Committing(version) if committer.is_committed(path, &version)? => {
            let _ = journal.record_committed();
            Ok(Some(version))
        }
        Outcome::Committing(_) => Ok(None),
    }
}
