//! Where a filename leads on the disk.
//!
//! The folder handle keeps every access inside the root, links included; this file only decides
//! what a name means.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
};

use cap_std::fs::{Dir, File, FileType, OpenOptions, OpenOptionsExt};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::files::{
    error::Error,
    path::{FilePath, InvalidPath, is_reserved},
};

/// The place of a file, whether it is there or not. No link is left in it, unless one that leads
/// nowhere.
#[derive(Debug)]
pub(super) struct Place {
    /// The deepest folder on the way that exists.
    folder: Dir,
    /// The folders below it that do not, outermost first. The first may be there as something else
    /// than a folder.
    missing: Vec<OsString>,
    name: OsString,
}

impl Place {
    /// Follows the links of a name.
    pub(super) fn locate(root: &Dir, path: &FilePath) -> Result<Self, Error> {
        let place = Self::below(root, path.folder(), path.name().as_ref())?;
        if !place.file_type()?.is_some_and(|kind| kind.is_symlink()) {
            return Ok(place);
        }
        // A link: the file is what it leads to.
        match root.metadata(path.as_str()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(place),
            Err(error) => Err(classify("follow the link", error)),
            Ok(metadata) if !metadata.is_file() => Err(Error::NotAFile),
            Ok(_) => {
                let real = root
                    .canonicalize(path.as_str())
                    .map_err(|error| classify("follow the link", error))?;
                let name = real.file_name().ok_or(Error::NotAFile)?;
                Self::below(root, real.parent().unwrap_or(Path::new("")), name)
            }
        }
    }

    /// The file `name` in `folder`, whose links are followed.
    fn below(root: &Dir, folder: &Path, name: &OsStr) -> Result<Self, Error> {
        let mut existing = folder;
        let mut missing = Vec::new();
        // A handle of the deepest folder that exists; walking up, because most often all of them
        // do.
        let folder = loop {
            let (Some(parent), Some(last)) = (existing.parent(), existing.file_name()) else {
                break root.try_clone();
            };
            match root.metadata(existing) {
                Ok(metadata) if metadata.is_dir() => {
                    let real = root
                        .canonicalize(existing)
                        .map_err(|error| classify("find the folder", error))?;
                    if is_reserved(&real) {
                        return Err(InvalidPath::Reserved.into());
                    }
                    break root.open_dir(real);
                }
                Ok(_) => {}
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(classify("find the folder", error)),
            }
            missing.insert(0, last.to_owned());
            existing = parent;
        };
        Ok(Self {
            folder: folder.map_err(|error| classify("open the folder", error))?,
            missing,
            name: name.to_owned(),
        })
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Opens the file for reading. What is not a regular file is never opened: a FIFO would park
    /// the thread, a device might do anything.
    pub(super) fn open(&self) -> Result<File, Error> {
        match self.file_type()? {
            None => return Err(Error::NotFound),
            Some(kind) if kind.is_symlink() => return Err(Error::NotFound),
            Some(kind) if !kind.is_file() => return Err(Error::NotAFile),
            Some(_) => {}
        }
        // Between that look and this call it may have become a FIFO, hence NONBLOCK, and the second
        // look.
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits() as i32);
        let file = self
            .folder
            .open_with(&self.name, &options)
            .map_err(|error| classify("open the file", error))?;
        let kind = file
            .metadata()
            .map_err(|error| Error::io("look at the file", error))?;
        if !kind.is_file() {
            return Err(Error::NotAFile);
        }
        rustix::fs::fcntl_setfl(&file, OFlags::empty())
            .map_err(|error| Error::io("open the file", error.into()))?;
        Ok(file)
    }

    /// Refuses what a rename would wrongly replace, such as a FIFO.
    pub(super) fn check_replaceable(&self) -> Result<(), Error> {
        match self.file_type()? {
            Some(kind) if !kind.is_file() && !kind.is_symlink() => Err(Error::NotAFile),
            _ => Ok(()),
        }
    }

    /// The folder of the file, with the missing ones made and durable.
    pub(super) fn create_folder(&self) -> Result<Dir, Error> {
        let cannot = |error| Error::io("create the folder", error);
        let mut folder = self.folder.try_clone().map_err(cannot)?;
        for component in &self.missing {
            match folder.create_dir(component) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot(error)),
            }
            // Also where it was there already: whoever made it in the meantime may not have come
            // this far.
            sync_folder(&folder)?;
            folder = match folder.open_dir(component) {
                Err(error) if is_missing(&error) => return Err(Error::NotAFile),
                opened => opened.map_err(|error| classify("open the folder", error))?,
            };
        }
        Ok(folder)
    }

    /// What is at the place, itself and not what it links to.
    fn file_type(&self) -> Result<Option<FileType>, Error> {
        if !self.missing.is_empty() {
            return Ok(None);
        }
        match self.folder.symlink_metadata(&self.name) {
            Ok(metadata) => Ok(Some(metadata.file_type())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(classify("look at the file", error)),
        }
    }
}

/// Makes the entries of a folder durable.
///
/// The handle itself may be open for looking up names only, hence the second one.
pub(super) fn sync_folder(folder: &Dir) -> Result<(), Error> {
    rustix::fs::openat(
        folder,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .and_then(rustix::fs::fsync)
    .map_err(|error| Error::io("make the folder durable", error.into()))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What the folder handle says about a name. It reports an attempt to leave the root as a refusal
/// of its own, without a number of the operating system's.
fn classify(operation: &'static str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound,
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => Error::OutsideRoot,
        // Links that lead to each other.
        _ if Errno::from_io_error(&error) == Some(Errno::LOOP) => Error::NotAFile,
        _ => Error::io(operation, error),
    }
}
