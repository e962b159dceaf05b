//! System calls for durable names: fsync of directories, and a rename that replaces nothing.
//!
//! A file is only as durable as the entries of the directories above it.

use std::{ffi::OsStr, io};

use cap_std::fs::Dir;
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags},
};

/// Makes the entries of a directory durable.
pub(super) fn fsync_dir(dir: &Dir) -> io::Result<()> {
    Ok(rustix::fs::fsync(reopen(dir)?)?)
}

/// Makes the whole filesystem of a directory durable.
#[cfg(target_os = "linux")]
pub(super) fn syncfs(dir: &Dir) -> io::Result<()> {
    Ok(rustix::fs::syncfs(reopen(dir)?)?)
}

/// Makes all filesystems durable, the one of the directory among them.
#[cfg(not(target_os = "linux"))]
pub(super) fn syncfs(_dir: &Dir) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// Renames a file. Fails with [`io::ErrorKind::AlreadyExists`] if the new name exists.
pub(super) fn rename_noreplace(from: &Dir, old: &str, to: &Dir, new: &OsStr) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::{fs::RenameFlags, io::Errno};
        match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
            // The filesystem does not support the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            renamed => return Ok(renamed?),
        }
    }
    // A hard link replaces nothing either.
    from.hard_link(old, to, new)?;
    from.remove_file(old)
}

/// Opens a handle that can be synced: the directory's own may be open for looking up names only (`O_PATH`).
fn reopen(dir: &Dir) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, ".", flags, Mode::empty())?)
}
