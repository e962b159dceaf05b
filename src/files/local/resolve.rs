//! Resolves a filename to a directory entry.
//!
//! The directory handle keeps every access inside the root, links included. This file only decides what a
//! name means.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
};

use cap_std::fs::{Dir, File, Metadata, MetadataExt, OpenOptions, OpenOptionsExt};
use rustix::{fs::OFlags, io::Errno};

use crate::files::{
    error::Error,
    local::{fsync::fsync_dir, version::version},
    path::{FilePath, InvalidPath, PRIVATE_DIR},
    upload::Precondition,
    version::Version,
};

/// The directory entry of a filename, which need not exist.
///
/// Links are followed, except a dangling one: it counts as a missing file, and a file that is written
/// replaces it.
#[derive(Debug)]
pub(super) struct ResolvedPath {
    /// The deepest existing directory on the way.
    dir: Dir,
    /// The missing directories below it, outermost first. The first may exist as another kind of file.
    missing: Vec<OsString>,
    name: OsString,
    /// The metadata of the entry itself: a link is not followed.
    found: Option<Metadata>,
}

impl ResolvedPath {
    /// Follows the links of a filename.
    pub(super) fn resolve(root: &Dir, path: &FilePath) -> Result<Self, Error> {
        let whole = Sandbox {
            dir: root,
            is_root: true,
        };
        let (Some(allowed), rest) = path.split() else {
            return whole.resolve(path.as_str().as_ref());
        };
        // The allowed directory takes the role of the root. If it is missing, there are no links below it.
        let (opened, missing) = whole.deepest_dir(allowed)?;
        if !missing.is_empty() {
            return whole.resolve(path.as_str().as_ref());
        }
        // Links may make it the root itself, which holds the server's private directory.
        let identity = |dir: &Dir| {
            let found = dir.dir_metadata();
            let found = found.map_err(|error| Error::io("look at the folder", error))?;
            Ok::<_, Error>((found.dev(), found.ino()))
        };
        let below = Sandbox {
            dir: &opened,
            is_root: identity(&opened)? == identity(root)?,
        };
        below.resolve(rest).map_err(|error| match error {
            Error::OutsideRoot => Error::OutsideFolder,
            error => error,
        })
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Opens the file for reading. Only regular files are opened: a FIFO would block the thread, and opening
    /// a device may have side effects.
    pub(super) fn open(&self) -> Result<File, Error> {
        match &self.found {
            None => return Err(Error::NotFound),
            Some(found) if found.is_symlink() => return Err(Error::NotFound),
            Some(found) if !found.is_file() => return Err(Error::NotAFile),
            Some(_) => {}
        }
        // The entry may have become a FIFO since it was checked, hence NONBLOCK and the second check.
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits() as i32);
        let file = self
            .dir
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

    /// The metadata of the regular file that a rename would replace. Fails for entries that must not be
    /// replaced, such as FIFOs.
    pub(super) fn existing_file(&self) -> Result<Option<&Metadata>, Error> {
        if let Some(first) = self.missing.first()
            && lstat(&self.dir, first)?.is_some_and(|found| !found.is_dir())
        {
            return Err(Error::NotAFile);
        }
        match &self.found {
            Some(found) if found.is_file() => Ok(Some(found)),
            Some(found) if !found.is_symlink() => Err(Error::NotAFile),
            _ => Ok(None),
        }
    }

    /// The version of the file, if it exists.
    pub(super) fn version(&self) -> Option<Version> {
        self.existing_file().ok().flatten().map(version)
    }

    /// Checks that the entry may be replaced under `precondition`, and can be.
    pub(super) fn check(&self, precondition: &Precondition) -> Result<(), Error> {
        let etag = self.existing_file()?.map(|found| version(found).etag);
        match precondition {
            Precondition::Anything => Ok(()),
            Precondition::Absent if etag.is_none() => Ok(()),
            Precondition::Absent => Err(Error::Exists { etag }),
            Precondition::Version(wanted) if etag.as_ref() == Some(wanted) => Ok(()),
            Precondition::Version(_) => Err(Error::EtagMismatch { etag }),
        }
    }

    /// Opens the parent directory, and creates the missing directories, durably.
    ///
    /// `unsynced` is set after a failure if a new directory is not durable.
    pub(super) fn create_dir(&self, unsynced: &mut bool) -> Result<Dir, Error> {
        let cannot = |error| Error::io("create the folder", error);
        let mut dir = self.dir.try_clone().map_err(cannot)?;
        for component in &self.missing {
            match dir.create_dir(component) {
                Ok(()) => *unsynced = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot(error)),
            }
            // An existing directory is synced, too: another program may have created it and not synced it
            // yet.
            fsync_dir(&dir).map_err(|error| Error::io("make the folder durable", error))?;
            *unsynced = false;
            dir = match dir.open_dir(component) {
                Err(error) if is_missing(&error) => return Err(Error::NotAFile),
                opened => opened.map_err(|error| classify("open the folder", error))?,
            };
        }
        Ok(dir)
    }
}

/// A directory that no path leads out of.
struct Sandbox<'a> {
    dir: &'a Dir,
    /// Whether the directory is the root, which holds the server's private directory.
    is_root: bool,
}

impl Sandbox<'_> {
    /// Follows the links of a path below the directory.
    fn resolve(&self, path: &Path) -> Result<ResolvedPath, Error> {
        let entry = self.resolve_parent(path)?;
        if !entry.found.as_ref().is_some_and(Metadata::is_symlink) {
            return Ok(entry);
        }
        match self.dir.metadata(path) {
            Err(error) if is_missing(&error) => Ok(entry),
            Err(error) => Err(classify("follow the link", error)),
            Ok(found) if !found.is_file() => Err(Error::NotAFile),
            Ok(_) => {
                let real = self.dir.canonicalize(path);
                self.resolve_parent(&real.map_err(|error| classify("follow the link", error))?)
            }
        }
    }

    /// Follows the links of the parent directory only.
    fn resolve_parent(&self, path: &Path) -> Result<ResolvedPath, Error> {
        let name = path.file_name().ok_or(Error::NotAFile)?;
        let (dir, missing) = self.deepest_dir(path.parent().unwrap_or(Path::new("")))?;
        let found = match missing.is_empty() {
            true => lstat(&dir, name)?,
            false => None,
        };
        Ok(ResolvedPath {
            dir,
            missing,
            name: name.to_owned(),
            found,
        })
    }

    /// Opens the deepest existing directory of a path. Returns it with the missing ones below it. The
    /// whole path is tried first, because most often all of it exists.
    fn deepest_dir(&self, path: &Path) -> Result<(Dir, Vec<OsString>), Error> {
        let mut existing = path;
        let mut missing = Vec::new();
        while let (Some(parent), Some(last)) = (existing.parent(), existing.file_name()) {
            match self.dir.open_dir(existing) {
                Ok(dir) => {
                    self.refuse_private_dir(existing)?;
                    return Ok((dir, missing));
                }
                Err(error) if is_missing(&error) => missing.insert(0, last.to_owned()),
                Err(error) => return Err(classify("open the folder", error)),
            }
            existing = parent;
        }
        let dir = self.dir.try_clone();
        let dir = dir.map_err(|error| classify("open the folder", error))?;
        Ok((dir, missing))
    }

    /// Refuses a path into the server's private directory, by the identity of the directory: links lead
    /// there, and some filesystems equate names that differ in case or Unicode form.
    fn refuse_private_dir(&self, path: &Path) -> Result<(), Error> {
        if !self.is_root {
            return Ok(());
        }
        let real = self
            .dir
            .canonicalize(path)
            .map_err(|error| classify("find the folder", error))?;
        let identity = |name: &Path| {
            let found = self.dir.symlink_metadata(name).ok()?;
            Some((found.dev(), found.ino()))
        };
        let first = real
            .iter()
            .next()
            .and_then(|first| identity(first.as_ref()));
        if first.is_some() && first == identity(PRIVATE_DIR.as_ref()) {
            return Err(InvalidPath::Reserved.into());
        }
        Ok(())
    }
}

/// The metadata of a directory entry itself, if it exists.
fn lstat(dir: &Dir, name: &OsStr) -> Result<Option<Metadata>, Error> {
    match dir.symlink_metadata(name) {
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

/// Classifies an error of the directory handle. Cap-std reports an attempt to leave the root as a permission
/// error of its own, without an `errno`.
fn classify(operation: &'static str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound,
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => Error::OutsideRoot,
        // A cycle of links.
        _ if Errno::from_io_error(&error) == Some(Errno::LOOP) => Error::NotAFile,
        _ => Error::io(operation, error),
    }
}
