//! Resolves a filename to a directory entry.
//!
//! The directory handle keeps every access inside the root, links included. This file only decides what a
//! name means.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    path::Path,
};

use cap_std::fs::{Dir, Metadata, OpenOptions, OpenOptionsExt};
use rustix::{fs::OFlags, io::Errno};

use crate::files::{
    error::{Error, NotAFile},
    local::{
        disk::{self, Inode, inode_of},
        version::version,
    },
    path::{FilePath, InvalidPath, PRIVATE_DIR},
    upload::Precondition,
};

/// The root of a store.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) dir: Dir,
    inode: Inode,
    /// The server's private directory, under whatever name. None in a read-only store, which has none of its own.
    private: Option<Inode>,
}

impl Root {
    pub(super) fn new(dir: Dir, private: Option<&Dir>) -> io::Result<Self> {
        let inode = inode_of(&disk::fstat_dir(&dir)?);
        let private = private.map(disk::fstat_dir).transpose()?;
        let private = private.as_ref().map(inode_of);
        Ok(Self {
            dir,
            inode,
            private,
        })
    }
}

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
    pub(super) fn resolve(root: &Root, path: &FilePath) -> Result<Self, Error> {
        let whole = Sandbox {
            root,
            dir: &root.dir,
        };
        let (Some(allowed), rest) = path.split() else {
            return whole.resolve(path.as_str().as_ref());
        };
        // The allowed directory takes the role of the root. If it is missing, there are no links below it.
        let (opened, missing) = whole.deepest_dir(allowed)?;
        if !missing.is_empty() {
            return whole.resolve(path.as_str().as_ref());
        }
        let below = Sandbox { root, dir: &opened };
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
            Some(found) if !found.is_file() => return Err(NotAFile::entry(found.is_dir())),
            Some(_) => {}
        }
        // The entry may have become a FIFO since it was checked, hence NONBLOCK and the second check.
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits() as i32);
        let file = disk::open(&self.dir, &self.name, &options)
            .map_err(|error| classify("open the file", error))?
            .into_std();
        let opened = disk::fstat(&file).map_err(|error| Error::io("inspect the file", error))?;
        if !opened.is_file() {
            return Err(NotAFile::entry(opened.is_dir()));
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
            return Err(Error::NotAFile(NotAFile::BelowAFile));
        }
        match &self.found {
            Some(found) if found.is_file() => Ok(Some(found)),
            Some(found) if !found.is_symlink() => Err(NotAFile::entry(found.is_dir())),
            _ => Ok(None),
        }
    }

    /// The etag of the file. None if there is no file, or the server may not read it.
    fn etag(&self) -> Result<Option<String>, Error> {
        if self.existing_file()?.is_none() {
            return Ok(None);
        }
        let found = match self.open() {
            Ok(file) => match disk::fstat(&file) {
                Ok(found) => version(&file, &found),
                Err(error) => Err(Error::io("inspect the file", error)),
            },
            Err(error) => Err(error),
        };
        match found {
            Ok(version) => Ok(Some(version.etag)),
            Err(Error::NotFound) => Ok(None),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Checks that the entry may be replaced under `precondition`, and can be.
    pub(super) fn check(&self, precondition: &Precondition) -> Result<(), Error> {
        let existing = self.existing_file()?;
        match precondition {
            Precondition::Anything => Ok(()),
            Precondition::Absent if existing.is_some() => Err(Error::Exists { etag: self.etag()? }),
            // A link that leads nowhere is an entry all the same.
            Precondition::Absent if self.found.is_some() => Err(Error::Exists { etag: None }),
            Precondition::Absent => Ok(()),
            Precondition::Version(wanted) => match self.etag()? {
                Some(etag) if etag == *wanted => Ok(()),
                etag => Err(Error::EtagMismatch { etag }),
            },
        }
    }

    /// The directories that are missing on the way, outermost first.
    pub(super) fn missing(&self) -> &[OsString] {
        &self.missing
    }

    /// Another handle of the deepest directory that exists on the way.
    pub(super) fn clone_dir(&self) -> Result<Dir, Error> {
        disk::clone_dir(&self.dir).map_err(|error| Error::io("open the folder", error))
    }

    /// The deepest directory that exists on the way.
    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }
}

/// A directory that no path leads out of.
struct Sandbox<'a> {
    root: &'a Root,
    dir: &'a Dir,
}

impl Sandbox<'_> {
    /// Follows the links of a path below the directory.
    fn resolve(&self, path: &Path) -> Result<ResolvedPath, Error> {
        let entry = self.resolve_parent(path)?;
        if !entry.found.as_ref().is_some_and(Metadata::is_symlink) {
            return Ok(entry);
        }
        match disk::stat(self.dir, path) {
            Err(error) if is_missing(&error) => Ok(entry),
            Err(error) => Err(classify("follow the link", error)),
            Ok(found) if !found.is_file() => Err(NotAFile::entry(found.is_dir())),
            Ok(_) => {
                let real = disk::canonicalize(self.dir, path);
                self.resolve_parent(&real.map_err(|error| classify("follow the link", error))?)
            }
        }
    }

    /// Follows the links of the parent directory only.
    fn resolve_parent(&self, path: &Path) -> Result<ResolvedPath, Error> {
        let name = path.file_name().ok_or(Error::NotAFile(NotAFile::Folder))?;
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
            match disk::open_dir(self.dir, existing) {
                Ok(dir) => {
                    self.refuse_private_dir(&dir)?;
                    return Ok((dir, missing));
                }
                Err(error) if is_missing(&error) => missing.insert(0, last.to_owned()),
                Err(error) => return Err(classify("open the folder", error)),
            }
            existing = parent;
        }
        let dir = disk::clone_dir(self.dir);
        let dir = dir.map_err(|error| classify("open the folder", error))?;
        Ok((dir, missing))
    }

    /// Refuses a directory in the server's private one. The handle is looked at, and not the path that led to
    /// it: meanwhile a link on it may lead elsewhere.
    fn refuse_private_dir(&self, opened: &Dir) -> Result<(), Error> {
        let cannot = |error| Error::io("inspect the folder", error);
        let root = self.root.inode;
        let mut below = disk::inode_above(opened, 0).map_err(cannot)?;
        if below == root {
            return Ok(());
        }
        // Another server's, too, beside which this one reads.
        let named = match disk::lstat(&self.root.dir, PRIVATE_DIR) {
            Ok(found) => Some(inode_of(&found)),
            Err(error) if is_missing(&error) => None,
            Err(error) => return Err(cannot(error)),
        };
        for height in 1.. {
            if Some(below) == named || Some(below) == self.root.private {
                return Err(InvalidPath::Reserved.into());
            }
            let above = disk::inode_above(opened, height).map_err(cannot)?;
            match above {
                _ if above == root => return Ok(()),
                // Above all directories is the same again: another program has moved this one out of the root.
                _ if above == below => return Err(Error::OutsideRoot),
                _ => below = above,
            }
        }
        Ok(())
    }
}

/// The metadata of a directory entry itself, if it exists.
fn lstat(dir: &Dir, name: &OsStr) -> Result<Option<Metadata>, Error> {
    match disk::lstat(dir, name) {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(classify("inspect the file", error)),
    }
}

pub(super) fn is_missing(error: &io::Error) -> bool {
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
        _ if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
            Error::NotAFile(NotAFile::TooManyLinks)
        }
        _ => Error::io(operation, error),
    }
}
