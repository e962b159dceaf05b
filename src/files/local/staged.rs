//! A file in the server's private directory, not visible to clients.

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

/// An open file in the private directory.
///
/// A failed sync removes the file, and every later operation on it fails: the kernel may have dropped the
/// pages that it could not write, so the success of a second sync would prove nothing.
#[derive(Debug)]
pub(super) struct StagedFile {
    dir: Arc<Dir>,
    name: String,
    file: fs::File,
    removed: AtomicBool,
}

impl StagedFile {
    /// Creates an empty file. Fails if the name exists.
    pub(super) fn create(dir: &Arc<Dir>, name: String) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.create_new(true).read(true).write(true);
        Self::open_with(dir, name, &options).map_err(|error| Error::io("stage the file", error))
    }

    /// Opens an existing file.
    pub(super) fn open(dir: &Arc<Dir>, name: String) -> io::Result<Self> {
        Self::open_with(dir, name, OpenOptions::new().read(true).write(true))
    }

    fn open_with(dir: &Arc<Dir>, name: String, options: &OpenOptions) -> io::Result<Self> {
        let file = dir.open_with(&name, options)?.into_std();
        Ok(Self {
            dir: Arc::clone(dir),
            name,
            file,
            removed: AtomicBool::new(false),
        })
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn metadata(&self) -> Result<Metadata, Error> {
        Metadata::from_file(&self.file).map_err(|error| Error::io("look at the file", error))
    }

    /// The size in bytes.
    pub(super) fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        (&self.file).read_to_end(&mut content)?;
        Ok(content)
    }

    pub(super) fn write(&self, content: &[u8], offset: u64) -> Result<(), Error> {
        self.ensure_present()?;
        let written = self.file.write_all_at(content, offset);
        written.map_err(|error| Error::io("write the file", error))
    }

    /// Truncates the file to `size` bytes.
    pub(super) fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    /// Sets the permissions to those of `mode`, without its setuid, setgid and sticky bits: rights that were
    /// granted to a program must not pass to other content.
    pub(super) fn set_mode(&self, mode: u32) -> Result<(), Error> {
        let permissions = fs::Permissions::from_mode(mode & 0o777);
        let set = self.file.set_permissions(permissions);
        set.map_err(|error| Error::io("stage the file", error))
    }

    /// Sets the mtime. The kernel's own timestamps tick every few milliseconds, so two versions could share
    /// one.
    pub(super) fn set_mtime(&self, time: SystemTime) -> Result<(), Error> {
        let set = self.file.set_modified(time);
        set.map_err(|error| Error::io("stamp the file", error))
    }

    /// Makes the content and the size durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.ensure_present()?;
        self.file
            .sync_data()
            .map_err(|error| self.sync_failed(error))
    }

    /// Makes the content and all metadata durable: permissions and times, too.
    pub(super) fn sync_all(&self) -> Result<(), Error> {
        self.ensure_present()?;
        self.file
            .sync_all()
            .map_err(|error| self.sync_failed(error))
    }

    fn sync_failed(&self, error: io::Error) -> Error {
        self.remove();
        Error::io("make the file durable", error)
    }

    /// Removes the file. If the removal fails, the next start repeats it.
    pub(super) fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
        let _ = self.dir.remove_file(&self.name);
    }

    fn ensure_present(&self) -> Result<(), Error> {
        match self.removed.load(Ordering::Relaxed) {
            true => Err(Error::io("use the file", io::ErrorKind::NotFound.into())),
            false => Ok(()),
        }
    }
}
