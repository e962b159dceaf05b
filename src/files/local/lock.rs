//! The private directory in the root, and the lock in it that excludes a second writing server.

use std::{
    fs::{File, TryLockError},
    io, process,
};

use cap_std::fs::{Dir, MetadataExt, OpenOptions};

use crate::files::local::disk;

const LOCK: &str = "lock";

/// An exclusive lock, held until it is dropped or the process ends in any way.
///
/// The lock file holds the process id while the lock is held, and is emptied on a clean end. A process id in
/// it is therefore the sign of a crash.
#[derive(Debug)]
pub(super) struct RootLock {
    file: File,
    /// Whether this process is on record. Before, the file has the sign of the last holder's crash.
    is_recorded: bool,
}

impl RootLock {
    pub(super) fn acquire(private: &Dir) -> Result<Self, TryLockError> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).write(true);
        let file = disk::open(private, LOCK, &options).map_err(TryLockError::Error)?;
        let file = file.into_std();
        file.try_lock()?;
        Ok(Self {
            file,
            is_recorded: false,
        })
    }

    /// Whether the last holder crashed. To be called before [`RootLock::write_pid`].
    pub(super) fn found_crash(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() > 0)
    }

    /// Records this process, durably: after a power cut the next start has to know.
    pub(super) fn write_pid(&mut self) -> io::Result<()> {
        disk::truncate(&self.file, 0)?;
        self.is_recorded = true;
        disk::write_at(&self.file, format!("{}\n", process::id()).as_bytes(), 0)?;
        disk::fsync(&self.file)
    }
}

impl Drop for RootLock {
    fn drop(&mut self) {
        if self.is_recorded {
            // A failure only makes the next start slower: the end counts as a crash.
            let _ = self.file.set_len(0);
        }
    }
}

/// Opens a directory that only the server's user may enter, and creates it if it is missing.
pub(super) fn private_dir(parent: &Dir, name: &str) -> io::Result<Dir> {
    match disk::mkdir_private(parent, name) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // A link would make the server keep its private files in another directory.
    if disk::lstat(parent, name)?.is_symlink() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let dir = disk::open_dir(parent, name)?;
    let found = disk::fstat_dir(&dir)?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        let problem = format!("its folder {name} belongs to another user");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
    }
    if found.mode() & 0o077 != 0 {
        disk::set_mode_of(parent, name, 0o700)?;
    }
    Ok(dir)
}
