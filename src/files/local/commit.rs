//! The commit: the only way a staged file becomes visible.

use std::{ffi::OsStr, fs, io};

use cap_std::fs::{Dir, MetadataExt};

use crate::{
    checksum::Crc32c,
    files::{
        error::{Error, NotAFile},
        local::{
            closer::Closer,
            disk::{self, Mount, inode_of},
            folders::{Folder, Folders},
            resolve::{ResolvedPath, Root, is_missing},
            staged::{Attributes, StagedFile},
            turn::{TargetRef, Turn},
            version::Versions,
        },
        path::FilePath,
        upload::Precondition,
        version::Version,
    },
};

/// The bit of a folder's mode that gives its files the folder's group.
const SET_GROUP_ID: u32 = 0o2000;

/// How often a commit begins again because another program changed the folder or the target meanwhile.
const MAX_ATTEMPTS: usize = 8;

/// Moves staged files into place below a root.
#[derive(Debug)]
pub(super) struct Committer {
    pub(super) root: Root,
    pub(super) folders: Folders,
    pub(super) versions: Versions,
    pub(super) closer: Closer,
    /// The mount of the staged files.
    pub(super) mount: Mount,
    /// The permissions of new files.
    pub(super) new_mode: u32,
}

/// A file that is to be committed, with everything that decides whether it may be.
pub(super) struct Candidate<'a> {
    pub(super) staged: &'a StagedFile,
    pub(super) crc32c: Crc32c,
    pub(super) target: &'a TargetRef,
    pub(super) turn: &'a Turn,
    pub(super) precondition: &'a Precondition,
}

/// The steps around the one that makes the file visible.
pub(super) trait CommitRecord {
    /// The file is durable, and about to become this version. The record is durable before the file is visible.
    fn make(&mut self, version: &Version) -> Result<(), Error>;

    /// The file is not put in place.
    fn cancel(&mut self);
}

/// No record: after a crash no client asks for the result of a Write.
pub(super) struct Unrecorded;

impl CommitRecord for Unrecorded {
    fn make(&mut self, _version: &Version) -> Result<(), Error> {
        Ok(())
    }

    fn cancel(&mut self) {}
}

/// What became of a file that is committed.
pub(super) struct Committed {
    pub(super) version: Version,
    /// Whether a later call had replaced the target before: then the file was never visible.
    pub(super) is_overtaken: bool,
    folder: Folder,
    change: u64,
}

impl Committed {
    /// Makes the name durable. After a failure it may be or not.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let synced = self.folder.sync(self.change);
        synced.map_err(|error| Error::io("sync the folder to disk", error))
    }
}

impl Committer {
    /// Moves a staged file into place, atomically. It is durable once [`Committed::sync`] returns.
    ///
    /// After a power cut the file has the new content if the sync succeeded, and the old content if this
    /// function failed. A file whose target is the staged one counts as moved, whatever the rename said.
    pub(super) fn commit(
        &self,
        candidate: &Candidate<'_>,
        record: &mut impl CommitRecord,
    ) -> Result<Committed, Error> {
        let committed = self.try_commit(candidate, record);
        if committed.is_err() {
            record.cancel();
            candidate.staged.reset_mode();
        }
        committed
    }

    fn try_commit(
        &self,
        candidate: &Candidate<'_>,
        record: &mut impl CommitRecord,
    ) -> Result<Committed, Error> {
        for _ in 0..MAX_ATTEMPTS {
            if let Some(committed) = self.attempt(candidate, record)? {
                return Ok(committed);
            }
            record.cancel();
            candidate.staged.reset_mode();
        }
        let changing = io::Error::other("another program keeps changing the folder");
        Err(Error::io("rename the file into place", changing))
    }

    /// None if another program has changed the folder or the attributes of the target meanwhile.
    fn attempt(
        &self,
        candidate: &Candidate<'_>,
        record: &mut impl CommitRecord,
    ) -> Result<Option<Committed>, Error> {
        let Candidate { staged, turn, .. } = candidate;
        // A first check, before the expensive syncs.
        let target = self.resolve(candidate.target.path())?;
        target.check(candidate.precondition)?;
        turn.check_live()?;
        let folder = self.folders.make(&target)?;
        let attributes = self.attributes(&target, &folder)?;
        let marked = self.versions.mark(staged.file(), candidate.crc32c);
        let version = marked.map_err(|error| Error::io("set the attributes of the file", error))?;
        // Last, because a read-only file cannot be marked.
        staged.set_attributes(&attributes)?;
        // First the file: a record whose file is gone says that the file was renamed.
        staged.sync_all()?;
        record.make(&version)?;
        let (change, is_overtaken, replaced) = {
            let _lock = folder.lock();
            // The lock keeps the results of these checks valid until the rename.
            let target = self.resolve(candidate.target.path())?;
            target.check(candidate.precondition)?;
            let is_same = target.missing().is_empty()
                && is_current(&folder, &target)?
                && self.attributes(&target, &folder)? == attributes;
            if !is_same {
                return Ok(None);
            }
            let is_overtaken = *candidate.precondition == Precondition::Anything
                && candidate.target.is_overtaken(turn)?;
            turn.act()?;
            let mut replaced = None;
            if !is_overtaken {
                replaced = self.rename(candidate, &target, &folder)?;
                candidate.target.replaced_by(turn, candidate.precondition);
            }
            (folder.changed(), is_overtaken, replaced)
        };
        if let Some(replaced) = replaced {
            self.closer.close(replaced);
        }
        Ok(Some(Committed {
            version,
            is_overtaken,
            folder,
            change,
        }))
    }

    /// Renames the staged file. Returns the file that it replaced, which is to be closed without the lock.
    fn rename(
        &self,
        candidate: &Candidate<'_>,
        target: &ResolvedPath,
        folder: &Folder,
    ) -> Result<Option<fs::File>, Error> {
        let Candidate { staged, .. } = candidate;
        let replaced = match target.existing_file()? {
            // What cannot be held is only freed under the lock.
            Some(_) => disk::hold(&folder.dir, target.name()).ok(),
            None => None,
        };
        let renamed = match candidate.precondition {
            Precondition::Absent => {
                disk::rename_noreplace(staged.dir(), staged.name(), &folder.dir, target.name())
            }
            _ => disk::rename(staged.dir(), staged.name(), &folder.dir, target.name()),
        };
        match renamed {
            Ok(()) => Ok(replaced),
            // A network filesystem may have done it, and lost the answer.
            Err(_) if is_in_place(candidate, target, folder) => Ok(replaced),
            // Another program created the file after the check.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::Exists { etag: None })
            }
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Err(NotAFile::entry(true)),
            Err(error) => Err(Error::io("rename the file into place", error)),
        }
    }

    /// Checks whether a file could be committed to `path` now.
    pub(super) fn check_precondition(
        &self,
        path: &FilePath,
        precondition: &Precondition,
    ) -> Result<(), Error> {
        self.resolve(path)?.check(precondition)
    }

    /// Makes everything durable, after a sync that failed: its repetition would prove nothing.
    pub(super) fn sync_filesystem(&self) -> Result<(), Error> {
        let synced = disk::syncfs(&self.root.dir);
        synced.map_err(|error| Error::io("sync the folder to disk", error))
    }

    /// Finds the place of a file, on the mount of the staged ones: a rename does not reach another.
    fn resolve(&self, path: &FilePath) -> Result<ResolvedPath, Error> {
        let target = ResolvedPath::resolve(&self.root, path)?;
        let is_same = || {
            let is_here = mount(target.dir())? == self.mount;
            // The file itself may be a mount point, too.
            Ok(is_here
                && match target.existing_file() {
                    // Files of an overlay have devices of their own.
                    Ok(Some(_)) => disk::mount(target.dir(), target.name())?.0 == self.mount.0,
                    _ => true,
                })
        };
        match is_same() {
            Ok(true) => Ok(target),
            Ok(false) => Err(Error::OtherFilesystem),
            // Another program has just removed the file.
            Err(error) if is_missing(&error) => Ok(target),
            Err(error) => Err(Error::io("inspect the folder", error)),
        }
    }

    /// The attributes that a file gets at its place: those of the file that it replaces, without setuid, setgid
    /// and sticky bits. Rights that were granted to a program must not pass to other content.
    fn attributes(&self, target: &ResolvedPath, folder: &Folder) -> Result<Attributes, Error> {
        let cannot = |error| Error::io("inspect the folder", error);
        if let Some(existing) = target.existing_file()? {
            return Ok(Attributes {
                mode: existing.mode() & 0o777,
                owner: existing.uid(),
                group: existing.gid(),
                acl: match disk::acl(target.dir(), target.name()) {
                    Err(error) if !is_missing(&error) => return Err(cannot(error)),
                    acl => acl.ok().flatten(),
                },
            });
        }
        let found = disk::fstat_dir(&folder.dir).map_err(cannot)?;
        Ok(Attributes {
            acl: None,
            mode: self.new_mode,
            owner: rustix::process::geteuid().as_raw(),
            group: match found.mode() & SET_GROUP_ID {
                0 => rustix::process::getegid().as_raw(),
                _ => found.gid(),
            },
        })
    }
}

/// The mount of a directory.
pub(super) fn mount(dir: &Dir) -> io::Result<Mount> {
    disk::mount(dir, OsStr::new(""))
}

/// Whether the target is the staged file.
fn is_in_place(candidate: &Candidate<'_>, target: &ResolvedPath, folder: &Folder) -> bool {
    let staged = disk::fstat(candidate.staged.file());
    let found = disk::lstat(&folder.dir, target.name());
    matches!((staged, found), (Ok(staged), Ok(found)) if inode_of(&staged) == inode_of(&found))
}

/// Whether the folder is still where the path leads.
fn is_current(folder: &Folder, target: &ResolvedPath) -> Result<bool, Error> {
    let current = folder.is(target.dir());
    current.map_err(|error| Error::io("inspect the folder", error))
}
