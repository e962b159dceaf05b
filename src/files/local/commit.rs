//! The commit: the only way a staged file becomes visible.

use std::{io, time::SystemTime};

use cap_std::fs::{Dir, MetadataExt};
use parking_lot::Mutex;

use crate::files::{
    error::Error,
    local::{
        fsync::{fsync_dir, rename_noreplace, syncfs},
        resolve::ResolvedPath,
        staged::StagedFile,
        version::version,
    },
    path::FilePath,
    upload::Precondition,
    version::Version,
};

/// Moves staged files into place below a root.
#[derive(Debug)]
pub(super) struct Committer {
    root: Dir,
    /// Serializes renames. Held from the check of the precondition to the rename, and while directories are
    /// created, until they are durable.
    rename_lock: Mutex<RenameGuard>,
}

#[derive(Debug, Default)]
struct RenameGuard {
    /// Whether there are new directories whose names could not be made durable.
    unsynced_dirs: bool,
}

impl Committer {
    pub(super) fn new(root: Dir) -> Self {
        Self {
            root,
            rename_lock: Mutex::default(),
        }
    }

    /// Moves a staged file into place, atomically and durably.
    ///
    /// After a power cut the file has the new content if this function returned, and the old content if the
    /// function failed before the rename.
    ///
    /// `on_durable` is called with the new version when the staged file is durable and not yet visible. Its
    /// failure ends the commit.
    pub(super) fn commit(
        &self,
        staged: &StagedFile,
        path: &FilePath,
        precondition: &Precondition,
        on_durable: impl FnOnce(&Version) -> Result<(), Error>,
    ) -> Result<Version, Error> {
        // A first check, before the expensive syncs.
        let target = ResolvedPath::resolve(&self.root, path)?;
        target.check(precondition)?;
        if let Some(existing) = target.existing_file()? {
            staged.set_mode(existing.mode())?;
        }
        staged.set_mtime(SystemTime::now())?;
        staged.sync_all()?;
        let version = version(&staged.metadata()?);
        on_durable(&version)?;
        let dir = {
            // The lock keeps the result of this check valid until the rename. A directory that exists now may
            // have been created a moment ago, by a holder of the lock: it is durable, or `unsynced_dirs` is
            // set.
            let mut guard = self.rename_lock.lock();
            let target = ResolvedPath::resolve(&self.root, path)?;
            target.check(precondition)?;
            let dir = self.create_dir(&target, &mut guard)?;
            let renamed = match precondition {
                Precondition::Absent => {
                    rename_noreplace(staged.dir(), staged.name(), &dir, target.name())
                }
                _ => staged.dir().rename(staged.name(), &dir, target.name()),
            };
            renamed.map_err(|error| match error.kind() {
                // Another program created the file after the check.
                io::ErrorKind::AlreadyExists => Error::Exists { etag: None },
                io::ErrorKind::IsADirectory => Error::NotAFile,
                _ => Error::io("put the file in its place", error),
            })?;
            dir
        };
        fsync_dir(&dir).map_err(|error| Error::io("make the folder durable", error))?;
        Ok(version)
    }

    /// Opens the parent directory of a path, and creates the missing directories, durably.
    fn create_dir(&self, target: &ResolvedPath, guard: &mut RenameGuard) -> Result<Dir, Error> {
        if guard.unsynced_dirs {
            let synced = syncfs(&self.root);
            synced.map_err(|error| Error::io("make the folder durable", error))?;
            guard.unsynced_dirs = false;
        }
        target.create_dir(&mut guard.unsynced_dirs)
    }

    /// Whether `path` now has that version. A version that is found is made durable.
    pub(super) fn is_committed(&self, path: &FilePath, version: &Version) -> Result<bool, Error> {
        let mut guard = self.rename_lock.lock();
        let target = ResolvedPath::resolve(&self.root, path)?;
        let found = target
            .version()
            .is_some_and(|found| found.etag == version.etag);
        if found {
            let dir = self.create_dir(&target, &mut guard)?;
            fsync_dir(&dir).map_err(|error| Error::io("make the folder durable", error))?;
        }
        Ok(found)
    }

    /// Checks whether a file could be committed to `path` now.
    pub(super) fn check_precondition(
        &self,
        path: &FilePath,
        precondition: &Precondition,
    ) -> Result<(), Error> {
        ResolvedPath::resolve(&self.root, path)?.check(precondition)
    }
}
