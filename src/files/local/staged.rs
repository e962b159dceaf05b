//! A file in the server's own folder, which nobody else sees.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{FileExt, PermissionsExt},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use cap_std::fs::{Dir, Metadata, OpenOptions};

use crate::files::error::Error;

/// A staged file.
///
/// When a sync of it has failed, the file is removed: what the kernel could not write it may have
/// forgotten, and a second sync that succeeds would say nothing. All that is asked of it then
/// fails.
#[derive(Debug)]
pub(super) struct Staged {
    folder: Arc<Dir>,
    name: String,
    file: fs::File,
    removed: AtomicBool,
}

impl Staged {
    /// Creates an empty file, where there was none.
    pub(super) fn create(folder: &Arc<Dir>, name: String) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.create_new(true).read(true).write(true);
        Self::open_with(folder, name, &options).map_err(|error| Error::io("stage the file", error))
    }

    /// Opens the file of an earlier stream.
    pub(super) fn open(folder: &Arc<Dir>, name: String) -> io::Result<Self> {
        Self::open_with(folder, name, OpenOptions::new().read(true).write(true))
    }

    fn open_with(folder: &Arc<Dir>, name: String, options: &OpenOptions) -> io::Result<Self> {
        let file = folder.open_with(&name, options)?.into_std();
        Ok(Self {
            folder: Arc::clone(folder),
            name,
            file,
            removed: AtomicBool::new(false),
        })
    }

    pub(super) fn folder(&self) -> &Dir {
        &self.folder
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn metadata(&self) -> Result<Metadata, Error> {
        Metadata::from_file(&self.file).map_err(|error| Error::io("look at the file", error))
    }

    pub(super) fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        (&self.file).read_to_end(&mut content)?;
        Ok(content)
    }

    pub(super) fn write(&self, content: &[u8], offset: u64) -> Result<(), Error> {
        self.there()?;
        let written = self.file.write_all_at(content, offset);
        written.map_err(|error| Error::io("write the file", error))
    }

    /// Cuts it off behind `size` bytes.
    pub(super) fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    /// Gives it the permissions of a file that it will replace. Not the bits that lend somebody's
    /// rights to a program: its content is another now.
    pub(super) fn permit(&self, mode: u32) -> Result<(), Error> {
        let permissions = fs::Permissions::from_mode(mode & 0o777);
        let permitted = self.file.set_permissions(permissions);
        permitted.map_err(|error| Error::io("stage the file", error))
    }

    /// Stamps it with a time of change. The kernel's own stamp ticks only every few milliseconds,
    /// in which two versions could pass for one.
    pub(super) fn stamp(&self, time: SystemTime) -> Result<(), Error> {
        let stamped = self.file.set_modified(time);
        stamped.map_err(|error| Error::io("stamp the file", error))
    }

    /// Makes durable what it holds, and that it holds it.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.there()?;
        self.file.sync_data().map_err(|error| self.lost(error))
    }

    /// Makes durable its permissions and times, too.
    pub(super) fn sync_all(&self) -> Result<(), Error> {
        self.there()?;
        self.file.sync_all().map_err(|error| self.lost(error))
    }

    fn lost(&self, error: io::Error) -> Error {
        self.remove();
        Error::io("make the file durable", error)
    }

    /// Removes it. Should that fail, the next start does.
    pub(super) fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
        let _ = self.folder.remove_file(&self.name);
    }

    fn there(&self) -> Result<(), Error> {
        match self.removed.load(Ordering::Relaxed) {
            true => Err(Error::io("use the file", io::ErrorKind::NotFound.into())),
            false => Ok(()),
        }
    }
}
