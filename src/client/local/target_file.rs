//! The file that a download replaces. It is treated as `cp` treats it, except that it is replaced in one step.

use std::{
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::client::error::Error;

/// The permissions of owner, group and others: set-user-id and set-group-id are for the content that had them.
const PERMISSIONS: u32 = 0o777;

/// A regular file, or a name without one.
pub(super) struct TargetFile {
    /// Not a symbolic link.
    path: PathBuf,
}

impl TargetFile {
    /// Follows a symbolic link, and refuses what cannot be replaced.
    pub(super) fn resolve(path: PathBuf) -> Result<Self, Error> {
        let cannot = |why: io::Error| Error::local("replace", &path)(why);
        if path.file_name().is_none() {
            return Err(cannot(io::ErrorKind::InvalidInput.into()));
        }
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self { path }),
            Err(error) => return Err(cannot(error)),
        };
        let target = match found.is_symlink() {
            true => fs::canonicalize(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => cannot(io::Error::new(
                    io::ErrorKind::NotFound,
                    "it is a symbolic link that leads to no file",
                )),
                _ => cannot(error),
            })?,
            false => path.clone(),
        };
        check_replaceable(&target).map_err(cannot)?;
        Ok(Self { path: target })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives `file`, which is about to replace the target, its permissions: those of the target, or those that
    /// `new_file_mode` returns.
    pub(super) fn apply_permissions(
        &self,
        file: &File,
        new_file_mode: impl FnOnce() -> Result<u32, Error>,
    ) -> Result<(), Error> {
        let cannot = |why: io::Error| Error::local("replace", &self.path)(why);
        let mode = match fs::symlink_metadata(&self.path) {
            Ok(target) if target.is_file() => keep_owner(file, &target).map_err(cannot)?,
            Ok(_) => return Err(cannot(not_regular())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => new_file_mode()?,
            Err(error) => return Err(cannot(error)),
        };
        let permissions = Permissions::from_mode(mode & PERMISSIONS);
        file.set_permissions(permissions).map_err(cannot)
    }
}

fn check_replaceable(path: &Path) -> io::Result<()> {
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // Looked at before it is opened: opening a device may have effects.
    if !found.is_file() {
        return Err(not_regular());
    }
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path);
    match opened {
        // A program that runs cannot be written, but replaced.
        Err(error) if error.kind() != io::ErrorKind::ExecutableFileBusy => Err(error),
        _ => Ok(()),
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// Gives `file` the owner and the group of `target`, as far as the caller may, and returns the mode to set.
fn keep_owner(file: &File, target: &Metadata) -> io::Result<u32> {
    let (owner, group) = (Some(target.uid()), Some(target.gid()));
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (target.uid(), target.gid()) && fchown(file, owner, group).is_err()
    {
        let _ = fchown(file, None, group);
    }
    let mode = target.mode();
    match file.metadata()?.gid() == target.gid() {
        true => Ok(mode),
        // Another group may do no more than everybody.
        false => Ok(mode & !0o070 | mode & (mode & 0o007) << 3),
    }
}
