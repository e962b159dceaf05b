//! An open, unfinished upload: its bytes and its journal.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use crate::{
    checksum::{Crc32c, Prefix},
    files::{
        error::Error,
        local::{commit::Committer, staged::StagedFile, uploads::journal::Journal},
        stats::StoreStats,
        upload::{Progress, UploadSpec},
        version::Version,
    },
};

/// An unfinished upload with its open files.
pub(super) struct PartialUpload {
    pub(super) spec: UploadSpec,
    max_bytes: u64,
    ttl: Duration,
    stats: Arc<StoreStats>,
    data: StagedFile,
    /// The prefix that is written. Lock order: never locked while `durable` is.
    accepted: Mutex<Prefix>,
    durable: Mutex<Durable>,
}

struct Durable {
    journal: Journal,
    persisted: Prefix,
}

impl PartialUpload {
    /// Wraps the files of an upload whose first `persisted` bytes are durable.
    pub(super) fn new(
        spec: UploadSpec,
        data: StagedFile,
        journal: Journal,
        persisted: Prefix,
        max_bytes: u64,
        ttl: Duration,
        stats: Arc<StoreStats>,
    ) -> Self {
        Self {
            spec,
            max_bytes,
            ttl,
            stats,
            data,
            accepted: Mutex::new(persisted),
            durable: Mutex::new(Durable { journal, persisted }),
        }
    }

    /// Writes a chunk behind the accepted prefix. `crc32c` is the chunk's checksum, if the client sent one.
    pub(super) fn append(
        &self,
        offset: u64,
        crc32c: Option<Crc32c>,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.discard_if_final(self.accept(offset, crc32c, bytes))
    }

    fn accept(&self, offset: u64, crc32c: Option<Crc32c>, bytes: &[u8]) -> Result<(), Error> {
        let mut accepted = self.accepted.lock();
        if offset != accepted.len {
            let expected = accepted.len;
            return Err(Error::OffsetMismatch { expected });
        }
        let len = bytes.len() as u64;
        self.check_size(offset.saturating_add(len))?;
        let chunk = Prefix {
            len,
            crc32c: Crc32c::of(bytes),
        };
        if crc32c.is_some_and(|crc32c| crc32c != chunk.crc32c) {
            return Err(Error::ChunkCorrupt { offset });
        }
        self.data.write(bytes, offset)?;
        self.stats.written_bytes.add(len);
        *accepted = accepted.combine(chunk);
        Ok(())
    }

    /// Checks a size against the announced size and the limit.
    fn check_size(&self, received: u64) -> Result<(), Error> {
        match self.spec.size {
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

    /// Makes the accepted prefix durable: the bytes first, then the journal entry that vouches for them.
    pub(super) fn checkpoint(&self) -> Result<(), Error> {
        let accepted = *self.accepted.lock();
        let mut durable = self.durable.lock();
        if accepted.len > durable.persisted.len {
            self.data.sync()?;
            durable.journal.record_persisted(accepted)?;
            durable.persisted = accepted;
        }
        Ok(())
    }

    /// Returns the durable prefix and restarts the upload's time to live.
    pub(super) fn progress(&self) -> Result<Progress, Error> {
        let durable = self.durable.lock();
        let now = SystemTime::now();
        durable.journal.touch(now)?;
        Ok(Progress {
            persisted: durable.persisted,
            expires_at: now + self.ttl,
        })
    }

    /// Checks the upload against the announced size and checksum, and commits it.
    pub(super) fn finish(
        &self,
        committer: &Committer,
        size: u64,
        crc32c: Option<Crc32c>,
    ) -> Result<Version, Error> {
        let accepted = *self.accepted.lock();
        let committed = self.verify(accepted, size, crc32c).and_then(|()| {
            let UploadSpec {
                path, precondition, ..
            } = &self.spec;
            let mut durable = self.durable.lock();
            let committed = committer.commit(&self.data, path, precondition, |version| {
                durable.journal.record_committing(accepted, version)
            })?;
            // The file is durable. Without this entry, the previous one still leads to the result.
            let _ = durable.journal.record_committed();
            Ok(Version {
                crc32c: Some(accepted.crc32c),
                ..committed
            })
        });
        self.discard_if_final(committed)
    }

    fn verify(&self, accepted: Prefix, size: u64, crc32c: Option<Crc32c>) -> Result<(), Error> {
        for announced in [Some(size), self.spec.size].into_iter().flatten() {
            if announced != accepted.len {
                return Err(Error::SizeMismatch {
                    announced,
                    received: accepted.len,
                });
            }
        }
        match crc32c {
            Some(crc32c) if crc32c != accepted.crc32c => Err(Error::ChecksumMismatch),
            _ => Ok(()),
        }
    }

    /// Removes the upload from the disk after a failure that no retry can mend.
    fn discard_if_final<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if result.as_ref().is_err_and(is_final) {
            self.durable.lock().journal.remove();
            self.data.remove();
        }
        result
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
