//! One upload, from the first byte staged to the file in its place.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use crate::{
    checksum::Crc32c,
    files::{
        error::Error,
        local::{
            commit::Staging,
            staged::Staged,
            uploads::journal::{Journal, Outcome},
            uploads::registry::{Key, Lease, Superseded, Turn},
        },
        path::FilePath,
        stats::StoreStats,
        upload::{Extent, Progress, UploadId, UploadPlan},
        version::Version,
    },
};

/// What became of opening an upload.
pub(crate) enum Opened {
    /// It goes on.
    Unfinished(Upload, Progress),
    /// It was finished before, and this came of it.
    Committed(Version),
}

/// An upload in the hands of one stream, until another opens it.
///
/// Dropped, it leaves what the last checkpoint made durable.
pub(crate) struct Upload {
    lease: Lease,
    turn: u64,
}

/// An upload and its open files.
pub(in crate::files::local) struct Unfinished {
    plan: UploadPlan,
    max_bytes: u64,
    ttl: Duration,
    stats: Arc<StoreStats>,
    data: Staged,
    /// Never locked by whoever has locked `durable`.
    accepted: Mutex<Extent>,
    durable: Mutex<Durable>,
}

struct Durable {
    journal: Journal,
    persisted: Extent,
}

impl Staging {
    /// Opens an upload, new or known, and takes it from whoever has it: what they are doing with it
    /// has stopped when this returns, and they can do no more. `superseded` is called when that
    /// happens to the caller.
    pub(in crate::files::local) fn open_upload(
        &self,
        plan: UploadPlan,
        superseded: Superseded,
    ) -> Result<Opened, Error> {
        let limit = self.uploads.max_bytes;
        if let Some(size) = plan.size
            && size > limit
        {
            self.uploads.stats.uploads.too_large.add(1);
            return Err(Error::UploadTooLarge { limit, size });
        }
        let lease = self.uploads.lease_to_open(Key::of_plan(&plan))?;
        let mut turn = lease.alone();
        if let Some(upload) = &turn.upload
            && upload.plan == plan
        {
            // All that was accepted is kept. Where this fails, the upload is gone, and the caller
            // is told to begin again.
            let _ = upload.checkpoint();
        }
        let mut known = None;
        if let Some((mut journal, record)) = self.uploads.load(&lease.key)? {
            if record.plan != plan {
                return Err(Error::UploadMismatch);
            }
            if let Some(outcome) = record.outcome
                && let Some(version) = self.outcome(&plan.path, outcome, &mut journal)?
            {
                return Ok(Opened::Committed(version));
            }
            known = Some((journal, record.persisted));
        }
        self.admits(&plan.path, &plan.precondition)?;
        let counts = &self.uploads.stats.uploads;
        if turn.next(Some(superseded)) {
            counts.superseded.add(1);
        }
        let (upload, count) = match self.resume(&lease.key, known, &plan)? {
            Some(upload) => (upload, &counts.resumed),
            None => (self.create_upload(&lease.key, plan)?, &counts.begun),
        };
        let progress = upload.progress()?;
        count.add(1);
        turn.upload = Some(upload);
        let number = turn.number;
        drop(turn);
        let upload = Upload {
            lease,
            turn: number,
        };
        Ok(Opened::Unfinished(upload, progress))
    }

    /// The version that an upload became, where it came that far.
    fn outcome(
        &self,
        path: &FilePath,
        outcome: Outcome,
        journal: &mut Journal,
    ) -> Result<Option<Version>, Error> {
        match outcome {
            Outcome::Committed(version) => Ok(Some(version)),
            // Stopped between the two: the file itself tells on which side.
            Outcome::Committing(version) if self.has(path, &version)? => {
                let _ = journal.committed();
                Ok(Some(version))
            }
            Outcome::Committing(_) => Ok(None),
        }
    }

    /// Puts on record which uploads had come into their place when a server was killed. Later
    /// somebody may have put another file there, and nothing would tell.
    pub(in crate::files::local) fn recover_outcomes(&self) -> Result<(), Error> {
        for key in self.uploads.keys()? {
            if let Ok(Some((mut journal, record))) = self.uploads.load(&key)
                && let Some(outcome) = record.outcome
            {
                // Where this fails, whoever opens the upload is told.
                let _ = self.outcome(&record.plan.path, outcome, &mut journal);
            }
        }
        Ok(())
    }

    /// Goes on with what the disk has of an upload. None if that is nothing, or damaged.
    fn resume(
        &self,
        key: &Key,
        known: Option<(Journal, Extent)>,
        plan: &UploadPlan,
    ) -> Result<Option<Unfinished>, Error> {
        let Some((journal, persisted)) = known else {
            return Ok(None);
        };
        let data = self.uploads.load_data(key, persisted.size)?;
        Ok(data.map(|data| self.unfinished(plan.clone(), data, journal, persisted)))
    }

    fn create_upload(&self, key: &Key, plan: UploadPlan) -> Result<Unfinished, Error> {
        self.uploads.remove(key);
        let journal = Journal::create(self.uploads.folder(), key.journal(), &plan)?;
        let data = Staged::create(self.uploads.folder(), key.data())?;
        Ok(self.unfinished(plan, data, journal, Extent::default()))
    }

    fn unfinished(
        &self,
        plan: UploadPlan,
        data: Staged,
        journal: Journal,
        persisted: Extent,
    ) -> Unfinished {
        Unfinished {
            plan,
            max_bytes: self.uploads.max_bytes,
            ttl: self.uploads.ttl,
            stats: Arc::clone(&self.uploads.stats),
            data,
            accepted: Mutex::new(persisted),
            durable: Mutex::new(Durable { journal, persisted }),
        }
    }

    /// Puts an upload in its place, if it is what the client says it is. Returns when it is
    /// durable, and its result is on record if the disk lets it be.
    pub(in crate::files::local) fn finish_upload(
        &self,
        upload: &Upload,
        size: u64,
        crc32c: Option<Crc32c>,
    ) -> Result<Version, Error> {
        let mut turn = upload.lease.alone();
        let finished = upload.in_turn(&turn)?.finish(self, size, crc32c)?;
        turn.upload = None;
        self.uploads.stats.uploads.committed.add(1);
        Ok(finished)
    }

    /// Removes an unfinished upload, and takes it from whoever has it.
    pub(in crate::files::local) fn abort_upload(
        &self,
        path: &FilePath,
        id: &UploadId,
        owner: Option<&str>,
    ) -> Result<(), Error> {
        let lease = self.uploads.lease(Key::of(path, id, owner));
        let mut turn = lease.alone();
        let (mut journal, record) = self
            .uploads
            .load(&lease.key)?
            .ok_or(Error::UploadNotFound)?;
        if let Some(outcome) = record.outcome
            && self.outcome(path, outcome, &mut journal)?.is_some()
        {
            return Err(Error::UploadNotFound);
        }
        turn.next(None);
        self.uploads.remove(&lease.key);
        self.uploads.stats.uploads.aborted.add(1);
        Ok(())
    }
}

impl Upload {
    /// Adds a chunk behind those accepted so far. `crc32c` is its checksum, if the client sent one.
    pub(crate) fn append(
        &self,
        offset: u64,
        crc32c: Option<Crc32c>,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let turn = self.lease.shared();
        self.in_turn(&turn)?.append(offset, crc32c, bytes)
    }

    /// Makes durable all that was accepted before this was called. Chunks can be added meanwhile.
    pub(crate) fn checkpoint(&self) -> Result<Progress, Error> {
        let turn = self.lease.shared();
        let upload = self.in_turn(&turn)?;
        upload.checkpoint()?;
        upload.progress()
    }

    fn in_turn<'a>(&self, turn: &'a Turn) -> Result<&'a Unfinished, Error> {
        match &turn.upload {
            Some(upload) if turn.number == self.turn => Ok(upload),
            _ => Err(Error::Superseded),
        }
    }
}

impl Unfinished {
    fn append(&self, offset: u64, crc32c: Option<Crc32c>, bytes: &[u8]) -> Result<(), Error> {
        self.unless_final(self.accept(offset, crc32c, bytes))
    }

    fn accept(&self, offset: u64, crc32c: Option<Crc32c>, bytes: &[u8]) -> Result<(), Error> {
        let mut accepted = self.accepted.lock();
        if offset != accepted.size {
            let expected = accepted.size;
            return Err(Error::OffsetMismatch { expected });
        }
        let size = bytes.len() as u64;
        self.check_size(offset.saturating_add(size))?;
        let found = Crc32c::of(bytes);
        if crc32c.is_some_and(|crc32c| crc32c != found) {
            return Err(Error::ChunkCorrupt { offset });
        }
        self.data.write(bytes, offset)?;
        self.stats.written_bytes.add(size);
        let chunk = Extent {
            size,
            crc32c: found,
        };
        *accepted = accepted.followed_by(chunk);
        Ok(())
    }

    /// Refuses to become larger than announced or allowed.
    fn check_size(&self, received: u64) -> Result<(), Error> {
        match self.plan.size {
            Some(announced) if received > announced => Err(Error::SizeMismatch {
                announced,
                received,
            }),
            _ if received > self.max_bytes => {
                self.stats.uploads.too_large.add(1);
                Err(Error::UploadTooLarge {
                    limit: self.max_bytes,
                    size: received,
                })
            }
            _ => Ok(()),
        }
    }

    /// Makes durable what has been accepted so far: first the bytes, then the word for it.
    fn checkpoint(&self) -> Result<(), Error> {
        let accepted = *self.accepted.lock();
        let mut durable = self.durable.lock();
        if accepted.size > durable.persisted.size {
            self.data.sync()?;
            durable.journal.persisted(accepted)?;
            durable.persisted = accepted;
        }
        Ok(())
    }

    /// What is durable; and from now on, the upload is kept for its whole time again.
    fn progress(&self) -> Result<Progress, Error> {
        let durable = self.durable.lock();
        let now = SystemTime::now();
        durable.journal.touch(now)?;
        Ok(Progress {
            persisted: durable.persisted,
            expires_at: now + self.ttl,
        })
    }

    fn finish(
        &self,
        staging: &Staging,
        size: u64,
        crc32c: Option<Crc32c>,
    ) -> Result<Version, Error> {
        let accepted = *self.accepted.lock();
        let committed = self.check(accepted, size, crc32c).and_then(|()| {
            let UploadPlan {
                path, precondition, ..
            } = &self.plan;
            let mut durable = self.durable.lock();
            let committed = staging.commit(&self.data, path, precondition, |version| {
                durable.journal.committing(accepted, version)
            })?;
            // It is there for good: what is on record says so less plainly if this fails.
            let _ = durable.journal.committed();
            Ok(committed)
        });
        self.unless_final(committed)
    }

    fn check(&self, accepted: Extent, size: u64, crc32c: Option<Crc32c>) -> Result<(), Error> {
        for announced in [Some(size), self.plan.size].into_iter().flatten() {
            if announced != accepted.size {
                return Err(Error::SizeMismatch {
                    announced,
                    received: accepted.size,
                });
            }
        }
        match crc32c {
            Some(crc32c) if crc32c != accepted.crc32c => Err(Error::ChecksumMismatch),
            _ => Ok(()),
        }
    }

    /// After a failure that is final, removes the upload from the disk. Nothing can be done with it
    /// any more.
    fn unless_final<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if result.as_ref().is_err_and(is_final) {
            self.durable.lock().journal.remove();
            self.data.remove();
        }
        result
    }
}

/// Whether the same bytes can never be committed under the same plan.
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
