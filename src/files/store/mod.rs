//! What the file service calls: the disk, off the asynchronous threads.

mod open_file;
mod upload_writer;

use std::{io, path::Path, sync::Arc, time::Duration};

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    open_file::Download,
    upload_writer::{Chunk, Upload},
};
use super::{
    error::{Error, OpenError},
    local::{self, Local},
    path::FilePath,
    settings::Settings,
    stats::{StagedStats, StoreStats},
    upload::{Progress, UploadId, UploadSpec},
    version::Version,
};

/// Between two sweeps, which look at each upload on the disk.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The files below one root folder. Cheap to clone; clones share the root.
#[derive(Clone, Debug)]
pub struct Store {
    local: Arc<Local>,
    checkpoint_bytes: u64,
    upload_ttl: Duration,
}

/// What became of opening an upload.
pub(crate) enum Opened {
    /// It goes on.
    Unfinished(Upload, Progress),
    /// It was finished before, and this came of it.
    Committed(Version),
}

impl Store {
    /// Opens the folder `root`, blocking.
    ///
    /// Unless it is read-only, the root is created where it is missing, and is this store's alone,
    /// among servers that write, until the last clone is dropped or the process ends.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open(root: impl AsRef<Path>, settings: Settings) -> Result<Self, OpenError> {
        Ok(Self {
            local: Arc::new(Local::open(root.as_ref(), &settings)?),
            // After nothing at all, there would be no end of them.
            checkpoint_bytes: settings.checkpoint_bytes.max(1),
            upload_ttl: settings.upload_ttl,
        })
    }

    /// Says what a file is.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::NotAFile`], [`Error::OutsideRoot`], [`Error::FilenameInvalid`]
    /// for a link into the server's own folder, [`Error::Io`].
    pub async fn stat(&self, path: FilePath) -> Result<Version, Error> {
        self.blocking(move |local| local.stat(&path)).await
    }

    /// Reads a text file of at most `limit` bytes whole.
    ///
    /// # Errors
    ///
    /// Those of [`Store::stat`], [`Error::TooLarge`], [`Error::NotText`], [`Error::FileChanged`].
    pub async fn read_text(&self, path: FilePath, limit: u64) -> Result<String, Error> {
        self.blocking(move |local| {
            let text = String::from_utf8(local.read(&path, limit)?).map_err(|_| Error::NotText)?;
            local.stats.read_bytes.add(text.len() as u64);
            Ok(text)
        })
        .await
    }

    /// Writes a text file whole, and the folders on its way. Returns when it is durable.
    ///
    /// The content is replaced in one step, and the permissions of the file stay. After a failure
    /// it is the old one, but for one case: [`Error::Io`] when the new one is in place and the disk
    /// would not confirm its name. A future that is dropped early may still write.
    ///
    /// # Errors
    ///
    /// Those of [`Store::stat`] but the first, [`Error::ReadOnly`], [`Error::DiskFull`].
    pub async fn write_text(&self, path: FilePath, text: String) -> Result<(), Error> {
        self.blocking(move |local| {
            local.write(&path, text.as_bytes())?;
            local.stats.written_bytes.add(text.len() as u64);
            Ok(())
        })
        .await
    }

    /// Opens a file to be read in pieces.
    pub(crate) async fn open_file(&self, path: FilePath) -> Result<Download, Error> {
        let file = self.blocking(move |local| local.open_file(&path)).await?;
        Ok(Download::new(file, Arc::clone(&self.local.stats)))
    }

    /// Opens an upload, new or known, and takes it from whoever has it.
    pub(crate) async fn open_upload(&self, plan: UploadSpec) -> Result<Opened, Error> {
        let superseded = CancellationToken::new();
        let tell = superseded.clone();
        let opened = self
            .blocking(move |local| local.open_upload(plan, Box::new(move || tell.cancel())))
            .await?;
        Ok(match opened {
            local::OpenedUpload::Committed(version) => Opened::Committed(version),
            local::OpenedUpload::Unfinished(upload, progress) => {
                Opened::Unfinished(Upload::new(self.clone(), upload, superseded), progress)
            }
        })
    }

    /// Removes an unfinished upload, and ends the stream that has it.
    pub(crate) async fn abort_upload(
        &self,
        path: FilePath,
        id: UploadId,
        owner: Option<String>,
    ) -> Result<(), Error> {
        self.blocking(move |local| local.abort_upload(&path, &id, owner.as_deref()))
            .await
    }

    /// What has happened in it.
    pub(crate) fn stats(&self) -> &StoreStats {
        &self.local.stats
    }

    /// How many uploads are open.
    pub(crate) fn open_uploads(&self) -> usize {
        self.local.open_uploads()
    }

    /// Counts the unfinished uploads on the disk. Blocking.
    pub(crate) fn staged(&self) -> Result<StagedStats, Error> {
        self.local.staged()
    }

    /// Removes expired uploads again and again, for ever.
    pub(crate) async fn sweep(self) {
        let pause = (self.upload_ttl / 10).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        loop {
            tokio::time::sleep(pause).await;
            if let Err(error) = self.blocking(|local| local.sweep()).await {
                tracing::warn!(?error, "cannot remove expired uploads");
            }
        }
    }

    /// Joins the blocking side to the asynchronous one.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Local) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let local = Arc::clone(&self.local);
        joined(tokio::task::spawn_blocking(move || work(&local))).await
    }
}

/// The result of work on a blocking thread. What panicked there panics here.
async fn joined<T>(
    work: impl Future<Output = Result<Result<T, Error>, JoinError>>,
) -> Result<T, Error> {
    match work.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(stopping) => Err(Error::io("start the work", io::Error::other(stopping))),
        },
    }
}
