//! What makes names durable: a file is no safer than the entries of the folders that lead to it.
//! And the rename that replaces nothing.

use std::{ffi::OsStr, io};

use cap_std::fs::Dir;
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags},
};

/// Makes the entries of a folder durable.
pub(super) fn sync_folder(folder: &Dir) -> io::Result<()> {
    Ok(rustix::fs::fsync(reopen(folder)?)?)
}

/// Makes everything durable on the filesystem of a folder.
#[cfg(target_os = "linux")]
pub(super) fn sync_filesystem(folder: &Dir) -> io::Result<()> {
    Ok(rustix::fs::syncfs(reopen(folder)?)?)
}

/// Makes everything durable on the filesystem of a folder, and on all others.
#[cfg(not(target_os = "linux"))]
pub(super) fn sync_filesystem(_folder: &Dir) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// Renames a file to a name that nobody has; [`io::ErrorKind::AlreadyExists`] where somebody does.
pub(super) fn rename_new(from: &Dir, old: &str, to: &Dir, new: &OsStr) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::{fs::RenameFlags, io::Errno};
        match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
            // A filesystem that does not know how.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            renamed => return Ok(renamed?),
        }
    }
    // A second name is given only where there is none; then the first is taken away.
    from.hard_link(old, to, new)?;
    from.remove_file(old)
}

/// A handle that can be synced: the folder's own may be open for looking up names only.
fn reopen(folder: &Dir) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, ".", flags, Mode::empty())?)
}
