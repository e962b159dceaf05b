//! Where a filename leads on the disk.
//!
//! The folder handle keeps every access inside the root, links included; this file only decides
//! what a name means.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
};

use cap_std::fs::{Dir, File, Metadata, MetadataExt, OpenOptions, OpenOptionsExt};
use rustix::{fs::OFlags, io::Errno};

use crate::files::{
    error::Error,
    local::{fsync::sync_folder, version},
    path::{FilePath, InvalidPath, OWN_FOLDER},
    upload::Precondition,
    version::Version,
};

/// The place of a file, whether it is there or not.
///
/// Links have been followed, except one that leads nowhere: there is no file at its place, and one
/// that is written takes the place of the link.
#[derive(Debug)]
pub(super) struct Place {
    /// The deepest folder on the way that exists.
    folder: Dir,
    /// The folders below it that do not, outermost first. The first may be there as something else
    /// than a folder.
    missing: Vec<OsString>,
    name: OsString,
    /// What was at the place, itself and not what it links to.
    found: Option<Metadata>,
}

impl Place {
    /// Follows the links of a name.
    pub(super) fn locate(root: &Dir, path: &FilePath) -> Result<Self, Error> {
        let whole = Bounds {
            folder: root,
            is_root: true,
        };
        let (Some(folder), rest) = path.split() else {
            return whole.locate(path.as_str().as_ref());
        };
        // The folder takes the place of the root. Where it is missing, there are no links below it.
        let (opened, missing) = whole.deepest_folder(folder)?;
        if !missing.is_empty() {
            return whole.locate(path.as_str().as_ref());
        }
        // Where links lead it back to the root, the server's own folder is in it.
        let identity = |folder: &Dir| {
            let found = folder.dir_metadata();
            let found = found.map_err(|error| Error::io("look at the folder", error))?;
            Ok::<_, Error>((found.dev(), found.ino()))
        };
        let below = Bounds {
            folder: &opened,
            is_root: identity(&opened)? == identity(root)?,
        };
        below.locate(rest).map_err(|error| match error {
            Error::OutsideRoot => Error::OutsideFolder,
            error => error,
        })
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Opens the file for reading. What is not a regular file is never opened: a FIFO would park
    /// the thread, a device might do anything.
    pub(super) fn open(&self) -> Result<File, Error> {
        match &self.found {
            None => return Err(Error::NotFound),
            Some(found) if found.is_symlink() => return Err(Error::NotFound),
            Some(found) if !found.is_file() => return Err(Error::NotAFile),
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
        let opened = file
            .metadata()
            .map_err(|error| Error::io("look at the file", error))?;
        if !opened.is_file() {
            return Err(Error::NotAFile);
        }
        rustix::fs::fcntl_setfl(&file, OFlags::empty())
            .map_err(|error| Error::io("open the file", error.into()))?;
        Ok(file)
    }

    /// The file at this place that one put there would replace, if any. Refuses what a rename would
    /// wrongly replace, such as a FIFO.
    pub(super) fn replaced(&self) -> Result<Option<&Metadata>, Error> {
        if let Some(first) = self.missing.first()
            && look(&self.folder, first)?.is_some_and(|found| !found.is_dir())
        {
            return Err(Error::NotAFile);
        }
        match &self.found {
            Some(found) if found.is_file() => Ok(Some(found)),
            Some(found) if !found.is_symlink() => Err(Error::NotAFile),
            _ => Ok(None),
        }
    }

    /// The version of the file at this place, if there is one.
    pub(super) fn version(&self) -> Option<Version> {
        self.replaced().ok().flatten().map(version)
    }

    /// Refuses what may not be replaced, or cannot.
    pub(super) fn check(&self, precondition: &Precondition) -> Result<(), Error> {
        let etag = self.replaced()?.map(|found| version(found).etag);
        match precondition {
            Precondition::Anything => Ok(()),
            Precondition::Absent if etag.is_none() => Ok(()),
            Precondition::Absent => Err(Error::Exists { etag }),
            Precondition::Version(wanted) if etag.as_ref() == Some(wanted) => Ok(()),
            Precondition::Version(_) => Err(Error::EtagMismatch { etag }),
        }
    }

    /// The folder of the file, with the missing ones made and durable. `unsure` tells, after a
    /// failure, whether one was made and is not.
    pub(super) fn create_folder(&self, unsure: &mut bool) -> Result<Dir, Error> {
        let cannot = |error| Error::io("create the folder", error);
        let mut folder = self.folder.try_clone().map_err(cannot)?;
        for component in &self.missing {
            match folder.create_dir(component) {
                Ok(()) => *unsure = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot(error)),
            }
            // Also where it was there already: whoever made it in the meantime may not have come
            // this far.
            sync_folder(&folder).map_err(|error| Error::io("make the folder durable", error))?;
            *unsure = false;
            folder = match folder.open_dir(component) {
                Err(error) if is_missing(&error) => return Err(Error::NotAFile),
                opened => opened.map_err(|error| classify("open the folder", error))?,
            };
        }
        Ok(folder)
    }
}

/// A folder that no way leads out of.
struct Bounds<'a> {
    folder: &'a Dir,
    /// Whether it is the root, with the server's own folder in it.
    is_root: bool,
}

impl Bounds<'_> {
    /// Follows the links of a name below the folder.
    fn locate(&self, path: &Path) -> Result<Place, Error> {
        let place = self.place(path)?;
        if !place.found.as_ref().is_some_and(Metadata::is_symlink) {
            return Ok(place);
        }
        // A link: the file is what it leads to.
        match self.folder.metadata(path) {
            Err(error) if is_missing(&error) => Ok(place),
            Err(error) => Err(classify("follow the link", error)),
            Ok(found) if !found.is_file() => Err(Error::NotAFile),
            Ok(_) => {
                let real = self.folder.canonicalize(path);
                self.place(&real.map_err(|error| classify("follow the link", error))?)
            }
        }
    }

    /// The place of a name, following the links to its folder only.
    fn place(&self, path: &Path) -> Result<Place, Error> {
        let name = path.file_name().ok_or(Error::NotAFile)?;
        let (folder, missing) = self.deepest_folder(path.parent().unwrap_or(Path::new("")))?;
        let found = match missing.is_empty() {
            true => look(&folder, name)?,
            false => None,
        };
        Ok(Place {
            folder,
            missing,
            name: name.to_owned(),
            found,
        })
    }

    /// The deepest folder on a way that exists, and the ones below it that do not. Looks at the
    /// whole way first, because most often all of it exists.
    fn deepest_folder(&self, way: &Path) -> Result<(Dir, Vec<OsString>), Error> {
        let mut existing = way;
        let mut missing = Vec::new();
        while let (Some(parent), Some(last)) = (existing.parent(), existing.file_name()) {
            match self.folder.open_dir(existing) {
                Ok(folder) => {
                    self.refuse_own_folder(existing)?;
                    return Ok((folder, missing));
                }
                Err(error) if is_missing(&error) => missing.insert(0, last.to_owned()),
                Err(error) => return Err(classify("open the folder", error)),
            }
            existing = parent;
        }
        let folder = self.folder.try_clone();
        let folder = folder.map_err(|error| classify("open the folder", error))?;
        Ok((folder, missing))
    }

    /// Refuses a way into the server's own folder, whatever links or spelling it takes: there are
    /// filesystems for which other names are the same.
    fn refuse_own_folder(&self, way: &Path) -> Result<(), Error> {
        if !self.is_root {
            return Ok(());
        }
        let real = self
            .folder
            .canonicalize(way)
            .map_err(|error| classify("find the folder", error))?;
        let identity = |name: &Path| {
            let found = self.folder.symlink_metadata(name).ok()?;
            Some((found.dev(), found.ino()))
        };
        let first = real
            .iter()
            .next()
            .and_then(|first| identity(first.as_ref()));
        if first.is_some() && first == identity(OWN_FOLDER.as_ref()) {
            return Err(InvalidPath::Reserved.into());
        }
        Ok(())
    }
}

/// What has a name in a folder, itself and not what it links to.
fn look(folder: &Dir, name: &OsStr) -> Result<Option<Metadata>, Error> {
    match folder.symlink_metadata(name) {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(classify("look at the file", error)),
    }
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
