//! The asynchronous side of the store.

mod blocking;
mod open_file;
#[cfg(test)]
mod tests;
mod upload_writer;

use std::{path::Path, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::blocking::{Pool, Pools};
use self::upload_writer::UploadCall;
pub(crate) use self::{
    open_file::OpenFile,
    upload_writer::{Chunk, UploadWriter},
};
use super::{
    error::{Error, OpenError},
    local::{Local, OpenedUpload},
    path::FilePath,
    settings::Settings,
    stats::{StagedStats, StoreStats},
    upload::{Progress, UploadId, UploadSpec},
    version::Version,
};
use crate::commit_point::{CommitPoint, EndOnDrop};

/// Bounds the pause between two sweeps, each of which reads the metadata of all uploads.
const MIN_SWEEP_INTERVAL: Duration = Duration::from_millis(100);
const MAX_SWEEP_INTERVAL: Duration = Duration::from_secs(600);

/// The files below one root directory. Cheap to clone; clones share the root.
#[derive(Clone, Debug)]
pub struct Store {
    local: Arc<Local>,
    pools: Pools,
    checkpoint_bytes: u64,
    upload_ttl: Duration,
}

/// The result of opening an upload.
pub(crate) enum OpenOutcome {
    /// The upload is unfinished.
    Unfinished(UploadWriter, Progress),
    /// The upload was committed before, as this version.
    Committed(Version),
}

impl Store {
    /// Opens the directory `root`. Blocks the thread.
    ///
    /// A writable store creates a missing root, and locks the root against other writable stores until the
    /// last clone is dropped or the process ends.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open(root: impl AsRef<Path>, settings: Settings) -> Result<Self, OpenError> {
        Ok(Self {
            local: Arc::new(Local::open(root.as_ref(), &settings)?),
            pools: Pools::default(),
            // A checkpoint every 0 bytes would never end.
            checkpoint_bytes: settings.checkpoint_bytes.max(1),
            upload_ttl: settings.upload_ttl,
        })
    }

    /// Returns the current version of a file.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::NotAFile`], [`Error::OutsideRoot`], [`Error::FilenameInvalid`]
    /// for a link into the server's private directory, [`Error::Io`].
    pub async fn stat(&self, path: FilePath) -> Result<Version, Error> {
        self.read(move |local| local.stat(&path)).await
    }

    /// Reads a whole text file of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// Those of [`Store::stat`], [`Error::TooLarge`], [`Error::NotText`], [`Error::FileChanged`].
    pub async fn read_text(&self, path: FilePath, limit: u64) -> Result<String, Error> {
        self.read(move |local| {
            let text = String::from_utf8(local.read(&path, limit)?).map_err(|_| Error::NotText)?;
            local.stats.read_bytes.add(text.len() as u64);
            Ok(text)
        })
        .await
    }

    /// Replaces or creates a text file, and creates missing directories. Returns when the file is durable.
    ///
    /// The content is replaced atomically, and the permissions of the file are kept. A failure leaves the old
    /// content, with one exception: the rename succeeded, and the sync of the directory did not. Dropping the
    /// future before that step leaves the old content for good. Of several calls for one file the last
    /// decides, in the order in which they were made.
    ///
    /// # Errors
    ///
    /// Those of [`Store::stat`] but the first, [`Error::ReadOnly`], [`Error::DiskFull`],
    /// [`Error::OtherFilesystem`], [`Error::Exhausted`].
    pub async fn write_text(&self, path: FilePath, text: String) -> Result<(), Error> {
        self.write_text_unless_ended(path, text, CommitPoint::default())
            .await
    }

    /// The same for a call, which may end before it changes anything.
    pub(crate) async fn write_text_unless_ended(
        &self,
        path: FilePath,
        text: String,
        point: CommitPoint,
    ) -> Result<(), Error> {
        let target = self.local.target(path);
        let _end = EndOnDrop(point.clone());
        let turn = self.local.next_turn(point);
        self.write(move |local| {
            local.write(&target, text.as_bytes(), &turn)?;
            local.stats.written_bytes.add(text.len() as u64);
            Ok(())
        })
        .await
    }

    /// Opens the current version of a file for reads of parts.
    pub(crate) async fn open_file(&self, path: FilePath) -> Result<OpenFile, Error> {
        let file = self.read(move |local| local.open_file(&path)).await?;
        let (stats, reads) = (Arc::clone(&self.local.stats), self.pools.reads.clone());
        Ok(OpenFile::new(file, stats, reads))
    }

    /// Opens a new or existing upload, and takes it over from the stream that owns it. The call changes nothing
    /// once it has ended.
    pub(crate) async fn open_upload(
        &self,
        spec: UploadSpec,
        point: CommitPoint,
    ) -> Result<OpenOutcome, Error> {
        let superseded = CancellationToken::new();
        let on_superseded = {
            let superseded = superseded.clone();
            Box::new(move || superseded.cancel())
        };
        let path = spec.path.clone();
        let upload = self.local.open_ref(&spec)?;
        let turn = self.local.next_turn(point.clone());
        let opened = self
            .write(move |local| local.open_upload(upload, spec, &turn, on_superseded))
            .await?;
        Ok(match opened {
            OpenedUpload::Committed(version) => OpenOutcome::Committed(version),
            OpenedUpload::Unfinished(upload, progress) => {
                let local = Arc::clone(&self.local);
                let writes = self.pools.writes.clone();
                let upload = UploadWriter::new(
                    local,
                    writes,
                    self.checkpoint_bytes,
                    UploadCall { path, point },
                    upload,
                    superseded,
                );
                OpenOutcome::Unfinished(upload, progress)
            }
        })
    }

    /// Removes an unfinished upload, and supersedes the stream that owns it.
    pub(crate) async fn abort_upload(
        &self,
        path: FilePath,
        id: UploadId,
        owner: Option<String>,
        point: CommitPoint,
    ) -> Result<(), Error> {
        let upload = self.local.abort_ref(&path, &id, owner.as_deref())?;
        let _end = EndOnDrop(point.clone());
        let turn = self.local.next_turn(point);
        self.write(move |local| local.abort_upload(&upload, &turn))
            .await
    }

    /// The counters of this store.
    pub(crate) fn stats(&self) -> &StoreStats {
        &self.local.stats
    }

    /// The number of open uploads.
    pub(crate) fn open_uploads(&self) -> usize {
        self.local.open_uploads()
    }

    /// Counts the unfinished uploads on the disk. Blocks the thread.
    pub(crate) fn staged(&self) -> Result<StagedStats, Error> {
        self.local.staged()
    }

    /// Removes expired uploads at once, and then periodically, until `stop` is cancelled.
    pub(crate) async fn sweep(self, stop: CancellationToken) {
        let interval = (self.upload_ttl / 10).clamp(MIN_SWEEP_INTERVAL, MAX_SWEEP_INTERVAL);
        while !stop.is_cancelled() {
            let stopping = stop.clone();
            let swept = self.write(move |local| local.sweep(&|| stopping.is_cancelled()));
            if let Err(error) = swept.await {
                tracing::warn!(?error, "cannot remove expired uploads");
            }
            let _ = timeout(interval, stop.cancelled()).await;
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Local) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(&self.pools.reads, work).await
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Local) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(&self.pools.writes, work).await
    }

    async fn run<T: Send + 'static>(
        &self,
        pool: &Pool,
        work: impl FnOnce(&Local) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let local = Arc::clone(&self.local);
        pool.clone().run(move || work(&local)).await
    }
}
