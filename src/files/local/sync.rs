//! What makes names durable: a file is no safer than the entries of the folders that lead to it.

use std::io;

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

/// A handle that can be synced: the folder's own may be open for looking up names only.
fn reopen(folder: &Dir) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, ".", flags, Mode::empty())?)
}
