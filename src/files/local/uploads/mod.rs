//! Resumable uploads on the disk.
//!
//! An unfinished upload is two files, named by its [`UploadKey`]: `.data` holds the received bytes, `.journal` the
//! spec and the durable prefix. The journal is removed first, so bytes without a journal are garbage. Its
//! mtime is the time from which the upload's time to live counts. A finished upload is a record in `outcomes`.

mod directory;
mod journal;
mod key;
mod outcomes;
mod partial;
mod registry;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use cap_std::fs::Dir;

pub(crate) use self::registry::{OnSuperseded, UploadRef};
use self::{
    directory::UploadDir,
    key::UploadKey,
    outcomes::{Outcome, Outcomes, PendingCommit},
    partial::PartialUpload,
    registry::{UploadLimits, UploadRegistry},
};
use crate::{
    checksum::{Crc32c, Prefix},
    files::{
        error::Error,
        local::{
            clock::RunningClock,
            commit::{Candidate, Committer},
            folders::Folders,
            turn::{TargetRef, Turn},
        },
        path::FilePath,
        settings::Settings,
        stats::{StagedStats, StoreStats},
        upload::{Progress, UploadId, UploadSpec},
        version::Version,
    },
};

/// Bounds the time to live, so that adding it to the present does not overflow.
const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The directories of the uploads.
pub(super) struct UploadDirs {
    pub(super) uploads: Dir,
    pub(super) commits: Dir,
    pub(super) results: Dir,
}

/// The uploads below one root.
#[derive(Debug)]
pub(super) struct Uploads {
    dir: UploadDir,
    outcomes: Outcomes,
    clock: Arc<RunningClock>,
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
    upload: UploadRef,
    epoch: u64,
    clock: Arc<RunningClock>,
    ttl: Duration,
}

impl UploadHandle {
    /// Writes a chunk behind the accepted prefix. `crc32c` is the chunk's checksum, if the client sent one.
    pub(crate) fn append(
        &self,
        offset: u64,
        crc32c: Option<Crc32c>,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let ownership = self.upload.shared();
        let upload = ownership.check_epoch(self.epoch)?;
        let was_staged = upload.is_staged();
        let appended = upload.append(offset, crc32c, bytes);
        if upload.is_staged() != was_staged {
            self.upload.set_stored(true);
        }
        if appended.as_ref().is_err_and(is_final) {
            upload.remove();
            self.upload.set_stored(upload.has_files());
        }
        appended
    }

    /// Makes durable at least the prefix that was accepted before the call. Chunks can be appended meanwhile.
    pub(crate) fn checkpoint(&self) -> Result<Progress, Error> {
        let ownership = self.upload.shared();
        let upload = ownership.check_epoch(self.epoch)?;
        let persisted = upload.checkpoint(self.clock.now());
        if persisted.is_err() {
            self.upload.set_stored(upload.has_files());
        }
        Ok(self.progress(persisted?))
    }

    fn progress(&self, persisted: Prefix) -> Progress {
        let expires_at = SystemTime::now() + self.ttl;
        Progress {
            persisted,
            expires_at,
        }
    }
}

impl Uploads {
    /// Manages the uploads in `dirs`. Reads the names of the unfinished ones only.
    pub(super) fn recover(
        dirs: UploadDirs,
        folders: &Folders,
        clock: RunningClock,
        settings: &Settings,
        stats: Arc<StoreStats>,
    ) -> Result<Self, Error> {
        let cannot = |error| Error::io("list the uploads", error);
        let uploads = Self {
            dir: UploadDir::new(dirs.uploads),
            outcomes: Outcomes::new(folders, dirs.commits, dirs.results).map_err(cannot)?,
            clock: Arc::new(clock),
            ttl: settings.upload_ttl.min(MAX_TTL),
            max_bytes: settings.max_upload_bytes,
            registry: UploadRegistry::new(UploadLimits {
                open: settings.max_open_uploads,
                unfinished: settings.max_unfinished_uploads,
                unfinished_per_owner: settings.max_unfinished_uploads_per_owner,
            }),
            stats,
        };
        for key in uploads.outcomes.all_pending()? {
            uploads.decide(&key)?;
        }
        for key in uploads.dir.keys()? {
            uploads.registry.add_stored(&key?);
        }
        Ok(uploads)
    }

    /// Decides a commit that a crash interrupted.
    fn decide(&self, key: &UploadKey) -> Result<(), Error> {
        match self.dir.has_data(key)? {
            true => self.outcomes.cancel(key),
            false => self.complete(key),
        }
    }

    /// Records that a commit is done.
    fn complete(&self, key: &UploadKey) -> Result<(), Error> {
        self.outcomes.complete(key)?;
        // The result counts, whatever is left of the upload.
        let _ = self.dir.remove(key);
        Ok(())
    }

    /// Takes a reference to the upload of a stream, before it waits for a thread.
    pub(super) fn open_ref(&self, spec: &UploadSpec) -> Result<UploadRef, Error> {
        if let Some(size) = spec.size
            && size > self.max_bytes
        {
            self.stats.uploads.too_large.add(1);
            return Err(Error::UploadTooLarge {
                limit: self.max_bytes,
                size,
            });
        }
        let upload = self.registry.open(UploadKey::of_spec(spec));
        upload.ok_or_else(|| {
            self.stats.uploads.refused.add(1);
            Error::TooManyUploads
        })
    }

    /// Takes a reference to the upload that a call is about to abort.
    pub(super) fn abort_ref(
        &self,
        path: &FilePath,
        id: &UploadId,
        owner: Option<&str>,
    ) -> UploadRef {
        self.registry.acquire(UploadKey::of(path, id, owner))
    }

    /// Opens a new or existing upload, and takes it over from the stream that owns it.
    ///
    /// When this returns, the previous owner's work has ended, and its later calls fail with
    /// [`Error::Superseded`]. `on_superseded` is called when the same happens to the new owner.
    pub(super) fn open(
        &self,
        committer: &Committer,
        upload: UploadRef,
        spec: UploadSpec,
        turn: &Turn,
        on_superseded: OnSuperseded,
    ) -> Result<OpenedUpload, Error> {
        let mut ownership = upload.exclusive();
        ownership.check_turn(turn)?;
        if let Some(outcome) = self.outcome(committer, &upload.key)? {
            return match outcome.is_of(&spec) {
                true => Ok(OpenedUpload::Committed(outcome.into_version())),
                false => Err(Error::UploadMismatch),
            };
        }
        if let Some(previous) = &ownership.upload {
            if previous.spec != spec {
                return Err(Error::UploadMismatch);
            }
            // Keeps all accepted bytes. After a failure, the client sends them again.
            let _ = previous.checkpoint(self.clock.now());
        }
        let is_stored = upload.is_stored();
        let found = match is_stored {
            true => self.dir.load_journal(&upload.key)?,
            false => None,
        };
        if let Some((_, state)) = &found
            && state.spec != spec
        {
            return Err(Error::UploadMismatch);
        }
        committer.check_precondition(&spec.path, &spec.precondition)?;
        turn.check_live()?;
        let counts = &self.stats.uploads;
        if ownership.take_over(turn, Some(on_superseded)) {
            counts.superseded.add(1);
        }
        let (key, dir) = (upload.key.clone(), self.dir.clone());
        let stats = Arc::clone(&self.stats);
        let mut partial = PartialUpload::new(spec, key, dir, self.max_bytes, stats);
        let data = match &found {
            Some((_, state)) => self.dir.load_data(&upload.key, state.persisted.len)?,
            None => None,
        };
        match (found, data) {
            (Some((journal, state)), Some(data)) => {
                partial = partial.resumed(state.persisted, data, journal);
                counts.resumed.add(1);
            }
            _ => {
                if is_stored {
                    self.dir.remove(&upload.key)?;
                    upload.set_stored(false);
                }
                counts.begun.add(1);
            }
        }
        let persisted = partial.checkpoint(self.clock.now())?;
        ownership.upload = Some(partial);
        let epoch = ownership.epoch;
        drop(ownership);
        let (clock, ttl) = (Arc::clone(&self.clock), self.ttl);
        let handle = UploadHandle {
            upload,
            epoch,
            clock,
            ttl,
        };
        let progress = handle.progress(persisted);
        Ok(OpenedUpload::Unfinished(handle, progress))
    }

    /// The outcome of a finished upload.
    fn outcome(&self, committer: &Committer, key: &UploadKey) -> Result<Option<Outcome>, Error> {
        if let Some(outcome) = self.outcomes.result(key)? {
            return Ok(Some(outcome));
        }
        // A failure came between the rename and the result.
        let Some(outcome) = self.outcomes.pending(key)? else {
            return Ok(None);
        };
        if self.dir.has_data(key)? {
            self.outcomes.cancel(key)?;
            return Ok(None);
        }
        committer.sync_filesystem()?;
        self.complete(key)?;
        Ok(Some(outcome))
    }

    /// Commits an upload if its size and checksum match.
    ///
    /// When this returns, the file is durable, and so is its result.
    pub(super) fn finish(
        &self,
        committer: &Committer,
        handle: &UploadHandle,
        (target, turn): (&TargetRef, &Turn),
        size: u64,
        crc32c: Option<Crc32c>,
    ) -> Result<Version, Error> {
        let upload = &handle.upload;
        let mut ownership = upload.exclusive();
        let partial = ownership.check_epoch(handle.epoch)?;
        let committed = partial.complete(size, crc32c).and_then(|(staged, crc32c)| {
            let candidate = Candidate {
                staged: &staged,
                crc32c,
                target,
                turn,
                precondition: &partial.spec.precondition,
            };
            let mut record = PendingCommit {
                outcomes: &self.outcomes,
                key: &upload.key,
                spec: &partial.spec,
                now: self.clock.now(),
                is_made: false,
            };
            committer.commit(&candidate, &mut record)
        });
        let committed = match committed {
            Ok(committed) => committed,
            Err(error) => {
                if is_final(&error) && self.outcomes.cancel(&upload.key).is_ok() {
                    partial.remove();
                }
                upload.set_stored(partial.has_files());
                return Err(error);
            }
        };
        if committed.is_overtaken {
            // Later than the call that overtook this one, the bytes would come back as an unfinished upload.
            self.outcomes.complete(&upload.key)?;
            self.outcomes.sync()?;
            partial.remove();
        }
        let synced = committed.sync();
        if synced.is_ok() && !committed.is_overtaken {
            // Without the result, the record of the commit still leads to it.
            let _ = self.outcomes.complete(&upload.key);
            partial.remove_journal();
        }
        ownership.upload = None;
        upload.set_stored(false);
        synced?;
        self.stats.uploads.committed.add(1);
        Ok(committed.version)
    }

    /// Removes an unfinished upload, and supersedes the stream that owns it. Forgets the result of a finished one.
    pub(super) fn abort(
        &self,
        committer: &Committer,
        upload: &UploadRef,
        turn: &Turn,
    ) -> Result<(), Error> {
        let mut ownership = upload.exclusive();
        ownership.check_turn(turn)?;
        turn.act()?;
        if self.outcome(committer, &upload.key)?.is_some() {
            ownership.take_over(turn, None);
            self.outcomes.forget(&upload.key)?;
            return Err(Error::UploadNotFound);
        }
        let is_stored = self.dir.has_data(&upload.key)?;
        if !is_stored && ownership.upload.is_none() {
            return Err(Error::UploadNotFound);
        }
        ownership.take_over(turn, None);
        self.outcomes.cancel(&upload.key)?;
        self.dir.remove(&upload.key)?;
        self.dir.sync()?;
        upload.set_stored(false);
        self.stats.uploads.aborted.add(1);
        Ok(())
    }

    /// Removes expired uploads that are not in use, expired results, and all files that belong to no upload. One
    /// that cannot be looked at stays, and the others are removed all the same. Ends early when `stops` says so.
    pub(super) fn sweep(
        &self,
        committer: &Committer,
        stops: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        let mut failure = None;
        for key in self.dir.keys()?.take_while(|_| !stops()) {
            if let Err(error) = self.sweep_upload(committer, self.registry.acquire(key?)) {
                failure.get_or_insert(error);
            }
        }
        for key in self.outcomes.all_results()?.take_while(|_| !stops()) {
            if let Err(error) = self.sweep_result(self.registry.acquire(key?)) {
                failure.get_or_insert(error);
            }
        }
        let saved = self.clock.save();
        saved.map_err(|error| Error::io("save the clock", error))?;
        failure.map_or(Ok(()), Err)
    }

    fn sweep_upload(&self, committer: &Committer, upload: UploadRef) -> Result<(), Error> {
        if !upload.is_only() {
            return Ok(());
        }
        // A stream that opens the upload from here on waits for the result.
        let ownership = upload.exclusive();
        let key = &upload.key;
        if ownership.upload.is_none() && self.dir.has_expired(key, self.clock.now(), self.ttl)? {
            // What is left of an upload that is in its place is not what expires.
            let is_committed = self.outcome(committer, key)?.is_some();
            if !is_committed && self.dir.has_journal(key)? {
                self.stats.uploads.expired.add(1);
            }
            self.dir.remove(key)?;
            upload.set_stored(false);
        }
        Ok(())
    }

    fn sweep_result(&self, upload: UploadRef) -> Result<(), Error> {
        let _ownership = upload.exclusive();
        let Some(outcome) = self.outcomes.result(&upload.key)? else {
            return Ok(());
        };
        let age = self.clock.now().duration_since(outcome.begun_at());
        match age.is_ok_and(|age| age > self.ttl) {
            true => self.outcomes.expire(&upload.key),
            false => Ok(()),
        }
    }

    /// The number of uploads in use.
    pub(super) fn open_count(&self) -> usize {
        self.registry.open_count()
    }

    /// Counts the unfinished uploads on the disk.
    pub(super) fn staged(&self) -> Result<StagedStats, Error> {
        self.dir.staged()
    }
}

/// Whether the same bytes can never be committed under the same spec.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::SizeMismatch { .. }
            | Error::UploadTooLarge { .. }
            | Error::ChecksumMismatch
            | Error::Exists { .. }
            | Error::EtagMismatch { .. }
    )
}
