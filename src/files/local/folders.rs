//! The folders that files are put into: a lock for each, and the durability of their entries.
//!
//! A folder is synced once for all changes that wait for it. A new folder is a change of the folder above it,
//! which everybody who puts something below it waits for.

use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::RangeInclusive,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cap_std::fs::Dir;
use parking_lot::{Mutex, MutexGuard};

use crate::files::{
    error::{Error, NotAFile},
    local::{
        disk::{self, Inode, inode_of},
        resolve::{ResolvedPath, is_missing},
        slots::{SlotRef, Slots},
    },
};

/// More levels than a path has, links included.
const MAX_HEIGHT: usize = 4096;

/// The folders in use below a root.
#[derive(Debug)]
pub(super) struct Folders {
    root: Dir,
    slots: Slots<Inode, Changes>,
    unsynced: Mutex<Unsynced>,
}

/// New folders whose names may not be durable.
#[derive(Debug, Default)]
struct Unsynced {
    folders: HashMap<Inode, NewFolder>,
    /// Whether there are others, which could not be opened.
    has_unknown: bool,
}

/// A new folder: the change of the folder above it, which has to be synced.
#[derive(Clone, Debug)]
struct NewFolder {
    parent: Folder,
    change: u64,
}

/// A folder in use. Clones share its lock.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) dir: Arc<Dir>,
    /// Opened before anything is changed: afterwards it could not be.
    synced_by: Arc<File>,
    changes: SlotRef<Inode, Changes>,
}

/// The changes of a folder's entries, by number.
#[derive(Debug, Default)]
struct Changes {
    lock: Mutex<()>,
    last: AtomicU64,
    synced: Mutex<Synced>,
}

#[derive(Debug, Default)]
struct Synced {
    /// The last change that is durable, with all before it.
    last: u64,
    /// The changes that may never be: a sync after them failed.
    failed: Vec<RangeInclusive<u64>>,
}

impl Folder {
    /// Locks the folder for a change of its entries.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.changes.lock.lock()
    }

    /// Counts a change that was made.
    pub(super) fn changed(&self) -> u64 {
        self.changes.last.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Makes a change durable, and all before it. Whoever waits for a sync by another gets its result.
    pub(super) fn sync(&self, change: u64) -> io::Result<()> {
        let mut synced = self.changes.synced.lock();
        // A later sync proves nothing for them.
        if synced.failed.iter().any(|failed| failed.contains(&change)) {
            return Err(io::Error::other("an earlier sync of the folder failed"));
        }
        if synced.last >= change {
            return Ok(());
        }
        let last = self.changes.last.load(Ordering::Acquire);
        let result = disk::fsync_dir_by(&self.synced_by);
        if result.is_err() {
            let durable = synced.last;
            // A disk that goes on failing leaves one range, and not one for each sync.
            let before = synced.failed.pop_if(|before| *before.end() == durable);
            let first = before.map_or(durable + 1, |before| *before.start());
            synced.failed.push(first..=last);
        }
        synced.last = last;
        result
    }

    /// Whether this is the directory.
    pub(super) fn is(&self, dir: &Dir) -> io::Result<bool> {
        Ok(inode_of(&disk::fstat_dir(dir)?) == *self.changes.key())
    }
}

impl Folders {
    pub(super) fn new(root: Dir) -> Self {
        Self {
            root,
            slots: Slots::default(),
            unsynced: Mutex::default(),
        }
    }

    pub(super) fn folder(&self, dir: Dir) -> io::Result<Folder> {
        let inode = inode_of(&disk::fstat_dir(&dir)?);
        Ok(Folder {
            synced_by: Arc::new(disk::open_to_sync(&dir)?),
            dir: Arc::new(dir),
            changes: self.slots.acquire(inode),
        })
    }

    /// Opens the folder of a path, and makes those that are missing, durably.
    pub(super) fn make(&self, target: &ResolvedPath) -> Result<Folder, Error> {
        let cannot = |error| Error::io("create the folder", error);
        let mut folder = self.folder(target.clone_dir()?).map_err(cannot)?;
        let mut made = Ok(());
        for name in target.missing() {
            match self.make_one(&folder, name.as_ref()) {
                Ok(next) => folder = next,
                Err(error) => {
                    made = Err(error);
                    break;
                }
            }
        }
        let synced = self.sync_names(&folder.dir);
        made.and(synced).map(|()| folder)
    }

    fn make_one(&self, parent: &Folder, name: &Path) -> Result<Folder, Error> {
        let cannot = |error| Error::io("create the folder", error);
        // Nobody finds a new folder before it is known here.
        let mut unsynced = self.unsynced.lock();
        match disk::mkdir(&parent.dir, name.as_os_str()) {
            // Another program may have made it, and not synced it.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(cannot(error));
            }
            _ => {}
        }
        let change = parent.changed();
        let opened = disk::open_dir(&parent.dir, name);
        let made = opened.and_then(|dir| self.folder(dir));
        match made {
            Ok(folder) => {
                let parent = parent.clone();
                let new = NewFolder { parent, change };
                unsynced.folders.insert(*folder.changes.key(), new);
                Ok(folder)
            }
            Err(error) => {
                unsynced.has_unknown = true;
                match is_missing(&error) {
                    true => Err(Error::NotAFile(NotAFile::BelowAFile)),
                    false => Err(cannot(error)),
                }
            }
        }
    }

    /// Makes the names of a folder and of those above it durable, as far as they are new.
    fn sync_names(&self, dir: &Dir) -> Result<(), Error> {
        let cannot = |error| Error::io("sync the folder to disk", error);
        let new = {
            let mut unsynced = self.unsynced.lock();
            if unsynced.has_unknown {
                disk::syncfs(&self.root).map_err(cannot)?;
                *unsynced = Unsynced::default();
            }
            if unsynced.folders.is_empty() {
                return Ok(());
            }
            self.new_above(dir, &unsynced.folders).map_err(cannot)?
        };
        for (inode, NewFolder { parent, change }) in new.into_iter().rev() {
            let synced = parent.sync(change);
            let mut unsynced = self.unsynced.lock();
            // The folder may have been removed and made again.
            let is_same = unsynced
                .folders
                .get(&inode)
                .is_some_and(|new| new.change == change);
            if is_same {
                unsynced.folders.remove(&inode);
            }
            // The repetition of a failed sync proves nothing, unless it is one of the whole filesystem.
            unsynced.has_unknown |= synced.is_err();
            synced.map_err(cannot)?;
        }
        Ok(())
    }

    /// The new folders among a directory and those above it, from the lowest.
    fn new_above(
        &self,
        dir: &Dir,
        new: &HashMap<Inode, NewFolder>,
    ) -> io::Result<Vec<(Inode, NewFolder)>> {
        let root = inode_of(&disk::fstat_dir(&self.root)?);
        let mut found = Vec::new();
        for height in 0..MAX_HEIGHT {
            let inode = disk::inode_above(dir, height)?;
            if inode == root {
                break;
            }
            if let Some(new) = new.get(&inode) {
                found.push((inode, new.clone()));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use cap_std::ambient_authority;
    use rustix::io::Errno;
    use tempfile::TempDir;

    use super::*;
    use crate::files::local::disk::injected::{self, Event};

    fn folder() -> (TempDir, Folder) {
        let root = tempfile::tempdir().unwrap();
        let open = || Dir::open_ambient_dir(root.path(), ambient_authority()).unwrap();
        let folder = Folders::new(open()).folder(open()).unwrap();
        (root, folder)
    }

    #[test]
    fn change_whose_sync_failed_is_not_durable_after_a_later_sync() {
        let (_root, folder) = folder();
        let before = folder.changed();
        folder.sync(before).unwrap();
        let (first, second) = (folder.changed(), folder.changed());
        let fails = Event::Fails(Errno::IO);
        let (failed, _) = injected::run_at("fsync_dir", fails, || folder.sync(second));
        failed.unwrap_err();
        let later = folder.changed();
        folder.sync(later).unwrap();
        folder.sync(first).unwrap_err();
        folder.sync(second).unwrap_err();
        folder.sync(before).unwrap();
    }

    #[test]
    fn sync_needs_no_file_descriptor_once_there_is_a_change() {
        let (_root, folder) = folder();
        let (first, second) = (folder.changed(), folder.changed());
        let (synced, calls) = injected::run(None, || folder.sync(first));
        synced.unwrap();
        // Neither this call nor the answer to the others can fail for want of one.
        assert_eq!(calls, ["fsync_dir"]);
        let (synced, calls) = injected::run(None, || folder.sync(second));
        synced.unwrap();
        assert!(calls.is_empty(), "{calls:?}");
    }
}
