//! A file in the server's private directory, not visible to clients.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use cap_std::fs::{Dir, MetadataExt, OpenOptions, OpenOptionsExt};

use crate::files::{error::Error, local::disk};

/// The permissions of a staged file. Those of its target would keep a later server from opening it.
const STAGED_MODE: u32 = 0o600;

/// An open file in the private directory.
///
/// After a failed sync every later operation on it fails: the kernel may have dropped the pages that it could
/// not write, so the success of a second sync would prove nothing. Where the disk is full, what was synced
/// before is still there, and can be opened again; after any other failure the file is removed.
#[derive(Debug)]
pub(super) struct StagedFile {
    dir: Arc<Dir>,
    name: String,
    file: fs::File,
    unusable: AtomicBool,
}

/// Who may do what with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) owner: u32,
    pub(super) group: u32,
    /// The access control list, as the kernel encodes it.
    pub(super) acl: Option<Vec<u8>>,
}

impl StagedFile {
    /// Creates an empty file. Fails if the name exists.
    pub(super) fn create(dir: &Arc<Dir>, name: String) -> Result<Self, Error> {
        Self::try_create(dir, name).map_err(|error| Error::io("create the temporary file", error))
    }

    /// Creates an empty file, in place of one that exists.
    pub(super) fn create_in_place(dir: &Arc<Dir>, name: String) -> Result<Self, Error> {
        let created = match Self::try_create(dir, name.clone()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk::unlink(dir, &name).and_then(|()| Self::try_create(dir, name))
            }
            created => created,
        };
        created.map_err(|error| Error::io("create the temporary file", error))
    }

    fn try_create(dir: &Arc<Dir>, name: String) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options
            .create_new(true)
            .read(true)
            .write(true)
            .mode(STAGED_MODE);
        Self::open_with(dir, name, &options)
    }

    /// Opens an existing file.
    pub(super) fn open(dir: &Arc<Dir>, name: String) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let opened = match Self::open_with(dir, name.clone(), &options) {
            // A server was killed between the preparation for a read-only target and the rename.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                disk::set_mode_of(dir, &name, STAGED_MODE)?;
                Self::open_with(dir, name, &options)
            }
            opened => opened,
        };
        opened.inspect(Self::reset_mode)
    }

    fn open_with(dir: &Arc<Dir>, name: String, options: &OpenOptions) -> io::Result<Self> {
        let file = disk::open(dir, &name, options)?.into_std();
        Ok(Self {
            dir: Arc::clone(dir),
            name,
            file,
            unusable: AtomicBool::new(false),
        })
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn file(&self) -> &fs::File {
        &self.file
    }

    /// The size in bytes.
    pub(super) fn size(&self) -> io::Result<u64> {
        Ok(disk::fstat(&self.file)?.len())
    }

    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        disk::read_all(&self.file)
    }

    pub(super) fn write(&self, content: &[u8], offset: u64) -> Result<(), Error> {
        self.check_usable()?;
        let written = disk::write_at(&self.file, content, offset);
        written.map_err(|error| Error::io("write the file", error))
    }

    /// Truncates the file to `size` bytes.
    pub(super) fn truncate(&self, size: u64) -> io::Result<()> {
        disk::truncate(&self.file, size)
    }

    /// Gives the file the attributes of its target. A group that cannot be given has no more rights than
    /// others: another one would get them.
    pub(super) fn set_attributes(&self, attributes: &Attributes) -> Result<(), Error> {
        let cannot = |error| Error::io("create the temporary file", error);
        let found = disk::fstat(&self.file).map_err(cannot)?;
        let &Attributes {
            mut mode,
            owner,
            group,
            ref acl,
        } = attributes;
        if found.gid() != group && disk::set_owner(&self.file, None, Some(group)).is_err() {
            mode = mode & !0o070 | (mode & 0o007) << 3 & mode;
        }
        if owner != found.uid() {
            // Only root may, and the server's own user is as good an owner.
            let _ = disk::set_owner(&self.file, Some(owner), None);
        }
        if let Some(acl) = acl
            && disk::set_acl(&self.file, acl).is_err()
        {
            // With a list, these bits are what it may give at most, and not what the group has.
            mode &= !0o070;
        }
        disk::set_mode(&self.file, mode).map_err(cannot)
    }

    /// Takes the attributes of a target back.
    pub(super) fn reset_mode(&self) {
        // A failure is mended when the file is opened.
        let _ = disk::remove_acl(&self.file);
        let _ = disk::set_mode(&self.file, STAGED_MODE);
    }

    pub(super) fn set_mtime(&self, time: SystemTime) -> Result<(), Error> {
        let set = disk::set_mtime(&self.file, time);
        set.map_err(|error| Error::io("set the attributes of the file", error))
    }

    /// Makes the content and the size durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.check_usable()?;
        disk::fdatasync(&self.file).map_err(|error| self.sync_failed(error))
    }

    /// Makes the content and all metadata durable: permissions and times, too.
    pub(super) fn sync_all(&self) -> Result<(), Error> {
        self.check_usable()?;
        disk::fsync(&self.file).map_err(|error| self.sync_failed(error))
    }

    fn sync_failed(&self, error: io::Error) -> Error {
        self.unusable.store(true, Ordering::Relaxed);
        let error = Error::io("sync the file to disk", error);
        if !matches!(error, Error::DiskFull) {
            self.remove();
        }
        error
    }

    /// Removes the file. If the removal fails, the next start repeats it.
    pub(super) fn remove(&self) {
        self.unusable.store(true, Ordering::Relaxed);
        let removed = disk::unlink(&self.dir, &self.name);
        let has_no_name = || disk::fstat(&self.file).is_ok_and(|found| found.nlink() == 0);
        if removed.is_ok() && has_no_name() {
            // The blocks are freed here, and not where the last handle is closed.
            let _ = disk::truncate(&self.file, 0);
        }
    }

    fn check_usable(&self) -> Result<(), Error> {
        match self.unusable.load(Ordering::Relaxed) {
            true => Err(Error::io(
                "find the temporary file",
                io::ErrorKind::NotFound.into(),
            )),
            false => Ok(()),
        }
    }
}
