//! Resumable uploads on the disk.
//!
//! An upload is two files, named by its [`UploadKey`]: `.data` holds the received bytes, `.journal` the spec,
//! the durable prefix and the result. The journal is created first and removed first, so bytes without a
//! journal are garbage. Its mtime is the time from which the upload's time to live counts.

mod journal;
mod key;
mod partial;
mod registry;

use std::{
    collections::HashSet,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use cap_std::fs::Dir;
use rustix::io::Errno;

pub(crate) use self::registry::OnSuperseded;
use self::{
    journal::{Journal, JournalState, Outcome},
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
    dir: Arc<Dir>,
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
            dir: Arc::new(dir),
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
        if let Some((mut journal, state)) = self.load_journal(&slot.key)? {
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
        let data = self.load_data(key, persisted.len)?;
        Ok(data.map(|data| self.partial_upload(spec.clone(), data, journal, persisted)))
    }

    fn create(&self, key: &UploadKey, spec: UploadSpec) -> Result<PartialUpload, Error> {
        self.remove(key);
        let journal = Journal::create(&self.dir, key.journal_name(), &spec)?;
        let data = StagedFile::create(&self.dir, key.data_name())?;
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
        let (mut journal, state) = self.load_journal(&slot.key)?.ok_or(Error::UploadNotFound)?;
        if let Some(outcome) = state.outcome
            && resolve_outcome(committer, path, outcome, &mut journal)?.is_some()
        {
            return Err(Error::UploadNotFound);
        }
        ownership.take_over(None);
        self.remove(&slot.key);
        self.stats.uploads.aborted.add(1);
        Ok(())
    }

    /// Records the results of uploads whose commit a crash interrupted. Once a client replaces such a file,
    /// its result can no longer be determined.
    pub(super) fn recover_outcomes(&self, committer: &Committer) -> Result<(), Error> {
        for key in self.keys()? {
            if let Ok(Some((mut journal, state))) = self.load_journal(&key)
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
        for key in self.keys()? {
            let slot = self.registry.acquire(key);
            if !slot.is_only() {
                continue;
            }
            // A stream that opens the upload from here on waits for the result.
            let ownership = slot.exclusive();
            if ownership.upload.is_none() && self.has_expired(&slot.key) {
                // Most expired journals hold the result of a committed upload, which does not count.
                if self.is_unfinished(&slot.key) {
                    self.stats.uploads.expired.add(1);
                }
                self.remove(&slot.key);
            }
        }
        Ok(())
    }

    /// The number of uploads in use.
    pub(super) fn open_count(&self) -> usize {
        self.registry.len()
    }

    /// Counts the unfinished uploads on the disk and their bytes.
    pub(super) fn staged(&self) -> Result<StagedStats, Error> {
        let cannot = |error| Error::io("look at the uploads", error);
        let mut staged = StagedStats::default();
        for entry in self.dir.entries().map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let name = entry.file_name();
            // A file that is gone by now belonged to an upload that was committed or aborted meanwhile.
            if name.to_str().and_then(UploadKey::from_data_name).is_some()
                && let Ok(metadata) = entry.metadata()
            {
                staged.uploads += 1;
                staged.bytes += metadata.len();
            }
        }
        Ok(staged)
    }

    /// Lists the uploads on the disk, and removes all other files.
    fn keys(&self) -> Result<HashSet<UploadKey>, Error> {
        let cannot = |error| Error::io("look at the uploads", error);
        let mut keys = HashSet::new();
        for entry in self.dir.entries().map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name();
            match name.to_str().and_then(UploadKey::from_file_name) {
                Some(key) => drop(keys.insert(key)),
                None => remove(&self.dir, &name.to_string_lossy()),
            }
        }
        Ok(keys)
    }

    /// Replays the journal of an upload. None if it is missing or damaged.
    fn load_journal(&self, key: &UploadKey) -> Result<Option<(Journal, JournalState)>, Error> {
        none_if_damaged(Journal::replay(&self.dir, key.journal_name()))
    }

    /// Opens the data of an upload, truncated to its durable prefix of `len` bytes. None if it is missing,
    /// damaged or shorter.
    fn load_data(&self, key: &UploadKey, len: u64) -> Result<Option<StagedFile>, Error> {
        let data = StagedFile::open(&self.dir, key.data_name());
        none_if_damaged(data.and_then(|data| {
            let is_complete = data.size()? >= len;
            if is_complete {
                data.truncate(len)?;
            }
            Ok(is_complete.then_some(data))
        }))
    }

    fn is_unfinished(&self, key: &UploadKey) -> bool {
        let exists = |name| self.dir.symlink_metadata(name).is_ok();
        exists(key.journal_name()) && exists(key.data_name())
    }

    fn has_expired(&self, key: &UploadKey) -> bool {
        let journal = self.dir.symlink_metadata(key.journal_name());
        let Ok(touched_at) = journal.and_then(|journal| journal.modified()) else {
            return true;
        };
        let age = SystemTime::now().duration_since(touched_at.into_std());
        age.is_ok_and(|age| age > self.ttl)
    }

    /// Removes both files of an upload.
    fn remove(&self, key: &UploadKey) {
        for name in [key.journal_name(), key.data_name()] {
            remove(&self.dir, &name);
        }
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

/// Treats a missing or permanently unreadable file as None. Other errors may be transient and are returned.
fn none_if_damaged<T>(loaded: io::Result<Option<T>>) -> Result<Option<T>, Error> {
    match loaded {
        Ok(loaded) => Ok(loaded),
        Err(error) if is_damage(&error) => Ok(None),
        Err(error) => Err(Error::io("open the upload", error)),
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory
    ) || matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::LOOP))
}

/// Removes a directory entry of any kind. If the removal fails, the next sweep repeats it.
fn remove(dir: &Dir, name: &str) {
    if let Err(error) = dir.remove_file(name)
        && error.kind() == io::ErrorKind::IsADirectory
    {
        let _ = dir.remove_dir_all(name);
    }
}
