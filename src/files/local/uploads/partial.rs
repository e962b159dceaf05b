//! An open, unfinished upload: its bytes and its journal.
//!
//! Neither is on the disk before there is something to keep: the first byte makes the one, half a mebibyte or the
//! first checkpoint the other.

use std::{sync::Arc, time::SystemTime};

use parking_lot::Mutex;

use crate::{
    checksum::{Crc32c, Prefix},
    files::{
        error::Error,
        local::{
            staged::StagedFile,
            uploads::{directory::UploadDir, journal::Journal, key::UploadKey},
        },
        stats::StoreStats,
        upload::UploadSpec,
    },
};

/// An upload of this size has a journal before its first checkpoint, so that a disk that becomes full has space
/// for the record of the received bytes. Most smaller ones never need any.
const EARLY_JOURNAL_BYTES: u64 = 512 * 1024;

/// An unfinished upload with its open files.
pub(super) struct PartialUpload {
    pub(super) spec: UploadSpec,
    key: UploadKey,
    dir: UploadDir,
    max_bytes: u64,
    stats: Arc<StoreStats>,
    /// Lock order: never locked while `durable` is.
    accepted: Mutex<Accepted>,
    durable: Mutex<Durable>,
}

/// The bytes that are written.
struct Accepted {
    prefix: Prefix,
    data: Option<Arc<StagedFile>>,
}

struct Durable {
    prefix: Prefix,
    journal: Option<Journal>,
}

impl PartialUpload {
    /// A new upload, of which nothing is on the disk.
    pub(super) fn new(
        spec: UploadSpec,
        key: UploadKey,
        dir: UploadDir,
        max_bytes: u64,
        stats: Arc<StoreStats>,
    ) -> Self {
        Self {
            spec,
            key,
            dir,
            max_bytes,
            stats,
            accepted: Mutex::new(Accepted {
                prefix: Prefix::default(),
                data: None,
            }),
            durable: Mutex::new(Durable {
                prefix: Prefix::default(),
                journal: None,
            }),
        }
    }

    /// The upload with the files of an earlier one, of which `prefix` is durable.
    pub(super) fn resumed(self, prefix: Prefix, data: StagedFile, journal: Journal) -> Self {
        Self {
            accepted: Mutex::new(Accepted {
                prefix,
                data: Some(Arc::new(data)),
            }),
            durable: Mutex::new(Durable {
                prefix,
                journal: Some(journal),
            }),
            ..self
        }
    }

    /// Writes a chunk behind the accepted prefix. `crc32c` is the chunk's checksum, if the client sent one.
    pub(super) fn append(
        &self,
        offset: u64,
        crc32c: Option<Crc32c>,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let mut accepted = self.accepted.lock();
        if offset != accepted.prefix.len {
            let expected = accepted.prefix.len;
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
        if bytes.is_empty() {
            return Ok(());
        }
        self.data(&mut accepted)?.write(bytes, offset)?;
        self.stats.written_bytes.add(len);
        accepted.prefix = accepted.prefix.combine(chunk);
        if accepted.prefix.len >= EARLY_JOURNAL_BYTES {
            self.begin_journal();
        }
        Ok(())
    }

    /// Creates the journal before the disk may be full.
    fn begin_journal(&self) {
        // A checkpoint that is under way creates it itself, and reports a failure.
        if let Some(mut durable) = self.durable.try_lock()
            && durable.journal.is_none()
        {
            durable.journal = self.dir.create_journal(&self.key, &self.spec).ok();
        }
    }

    /// Whether there are bytes on the disk.
    pub(super) fn is_staged(&self) -> bool {
        self.accepted.lock().data.is_some()
    }

    fn data(&self, accepted: &mut Accepted) -> Result<Arc<StagedFile>, Error> {
        if let Some(data) = &accepted.data {
            return Ok(Arc::clone(data));
        }
        let data = Arc::new(self.dir.create_data(&self.key)?);
        accepted.data = Some(Arc::clone(&data));
        Ok(data)
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

    /// Makes the accepted prefix durable: the bytes first, then the journal entry that records them. Returns
    /// the durable prefix. The upload's time to live begins again at `now`.
    pub(super) fn checkpoint(&self, now: SystemTime) -> Result<Prefix, Error> {
        let (accepted, data) = {
            let accepted = self.accepted.lock();
            (accepted.prefix, accepted.data.clone())
        };
        let mut durable = self.durable.lock();
        if accepted.len > durable.prefix.len
            && let Some(data) = data
        {
            data.sync()?;
            let mut journal = match durable.journal.take() {
                Some(journal) => journal,
                None => self.dir.create_journal(&self.key, &self.spec)?,
            };
            let recorded = journal.record_persisted(accepted);
            durable.journal = Some(journal);
            recorded?;
            durable.prefix = accepted;
        }
        if let Some(journal) = &durable.journal {
            journal.touch(now)?;
        }
        Ok(durable.prefix)
    }

    /// Whether the upload may have files on the disk.
    pub(super) fn has_files(&self) -> bool {
        let has_journal = self.dir.has_journal(&self.key).unwrap_or(true);
        has_journal || self.dir.has_data(&self.key).unwrap_or(true)
    }

    /// Checks the upload against the announced size and checksum, and returns its bytes and their checksum.
    pub(super) fn complete(
        &self,
        size: u64,
        crc32c: Option<Crc32c>,
    ) -> Result<(Arc<StagedFile>, Crc32c), Error> {
        let mut accepted = self.accepted.lock();
        for announced in [Some(size), self.spec.size].into_iter().flatten() {
            if announced != accepted.prefix.len {
                return Err(Error::SizeMismatch {
                    announced,
                    received: accepted.prefix.len,
                });
            }
        }
        if crc32c.is_some_and(|crc32c| crc32c != accepted.prefix.crc32c) {
            return Err(Error::ChecksumMismatch);
        }
        // An empty file has had no first byte.
        let data = self.data(&mut accepted)?;
        Ok((data, accepted.prefix.crc32c))
    }

    /// Removes the upload from the disk. Bytes come last: without a journal they are of no upload.
    pub(super) fn remove(&self) {
        let data = self.accepted.lock().data.clone();
        self.remove_journal();
        if let Some(data) = data {
            data.remove();
        }
    }

    /// Removes the journal of an upload whose bytes are in place.
    pub(super) fn remove_journal(&self) {
        if let Some(journal) = &self.durable.lock().journal {
            journal.remove();
        }
    }
}
