//! What the file service calls: the disk, off the asynchronous threads.

use std::{io, path::Path, sync::Arc};

use super::{
    error::{Error, OpenError},
    local::{Access, Local},
    path::FilePath,
    version::Version,
};

/// The files below one root folder. Cheap to clone; clones share the root.
#[derive(Clone, Debug)]
pub struct Store {
    local: Arc<Local>,
}

impl Store {
    /// Opens the folder `root`, blocking.
    ///
    /// With [`Access::ReadWrite`] the root is created where it is missing, and is this store's
    /// alone, among servers that write, until the last clone is dropped or the process ends.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open(root: impl AsRef<Path>, access: Access) -> Result<Self, OpenError> {
        let local = Arc::new(Local::open(root.as_ref(), access)?);
        Ok(Self { local })
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
            String::from_utf8(local.read(&path, limit)?).map_err(|_| Error::NotText)
        })
        .await
    }

    /// Writes a text file whole, and the folders on its way. Returns when it is durable.
    ///
    /// The content is replaced in one step, and the permissions of the file stay. After a failure it
    /// is the old one, but for one case: [`Error::Io`] when the new one is in place and the disk
    /// would not confirm its name. A future that is dropped early may still write.
    ///
    /// # Errors
    ///
    /// Those of [`Store::stat`] but the first, [`Error::ReadOnly`], [`Error::DiskFull`].
    pub async fn write_text(&self, path: FilePath, text: String) -> Result<(), Error> {
        self.blocking(move |local| local.write(&path, text.as_bytes()))
            .await
    }

    /// Joins the blocking side to the asynchronous one.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Local) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let local = Arc::clone(&self.local);
        match tokio::task::spawn_blocking(move || work(&local)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(stopping) => Err(Error::io("start the work", io::Error::other(stopping))),
            },
        }
    }
}
