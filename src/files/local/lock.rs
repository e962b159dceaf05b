//! The private directory in the root, and the lock in it that excludes a second writing server.

use std::{
    fs::{File, TryLockError},
    io, process,
};

use cap_std::fs::{Dir, OpenOptions};

use crate::files::local::disk;

const LOCK: &str = "lock";

/// An exclusive lock, held until it is dropped or the process ends in any way.
///
/// The lock file holds the process id while the lock is held, and is emptied on a clean end. A process id in
/// it is therefore the sign of a crash.
#[derive(Debug)]
pub(super) struct RootLock(File);

impl RootLock {
    pub(super) fn acquire(private: &Dir) -> Result<Self, TryLockError> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).write(true);
        let file = disk::open(private, LOCK, &options).map_err(TryLockError::Error)?;
        let file = file.into_std();
        file.try_lock()?;
        Ok(Self(file))
    }

    /// Whether the last holder crashed. To be called before [`RootLock::write_pid`].
    pub(super) fn found_crash(&self) -> io::Result<bool> {
        Ok(self.0.metadata()?.len() > 0)
    }

    /// Records this process, durably: after a power cut the next start has to know.
    pub(super) fn write_pid(&self) -> io::Result<()> {
        disk::truncate(&self.0, 0)?;
        disk::write_at(&self.0, format!("{}\n", process::id()).as_bytes(), 0)?;
        disk::fsync(&self.0)
    }
}

impl Drop for RootLock {
    fn drop(&mut self) {
        // A failure only makes the next start slower: the end counts as a crash.
        let _ = self.0.set_len(0);
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
    disk::open_dir(parent, name)
}
