//! The server's own folder in the root: the lock that keeps other servers out, files on their way
//! to their place, and the one way that gets them there.

use std::{
    fs::{File, TryLockError},
    io::{self, Write},
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, MetadataExt, OpenOptions};
use parking_lot::Mutex;

use crate::files::{
    error::{Error, OpenError},
    local::{
        fsync::{rename_new, sync_filesystem, sync_folder},
        resolve::Place,
        staged::Staged,
        uploads::registry::Uploads,
        version,
    },
    path::{FilePath, OWN_FOLDER},
    settings::Settings,
    stats::StoreStats,
    upload::Precondition,
    version::Version,
};

const LOCK: &str = "lock";
const WRITES: &str = "writes";
const UPLOADS: &str = "uploads";

#[derive(Debug)]
pub(super) struct Staging {
    root: Dir,
    /// Holds the text of each Write under way, under a number.
    writes: Arc<Dir>,
    next: AtomicU64,
    pub(super) uploads: Uploads,
    /// Held while a file is put in its place, from the look at what is there to the rename; and
    /// while folders are made, until they are durable.
    placing: Mutex<Placing>,
    _lock: Lock,
}

#[derive(Debug, Default)]
struct Placing {
    /// Whether there are folders that have been made, and whose names could not be made durable.
    folders_unsure: bool,
}

impl Staging {
    /// Takes the root for this server, and removes what an earlier one left unfinished, but for
    /// uploads that can go on.
    pub(super) fn open(
        root: &Dir,
        name: &Path,
        settings: &Settings,
        stats: &Arc<StoreStats>,
    ) -> Result<Self, OpenError> {
        let not_writable = |source| OpenError::NotWritable {
            root: name.into(),
            source,
        };
        let own = create_folder(root, OWN_FOLDER).map_err(not_writable)?;
        let lock = Lock::take(&own).map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse(name.into()),
            TryLockError::Error(source) => not_writable(source),
        })?;
        let crashed = lock.was_held().map_err(not_writable)?;
        if crashed {
            // By a server that was killed. It may have made folders whose names are not durable
            // yet, and nobody could tell which: so everything is made durable.
            sync_filesystem(root).map_err(not_writable)?;
        }
        lock.sign().map_err(not_writable)?;
        let writes = match own.remove_dir_all(WRITES) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => create_folder(&own, WRITES),
        };
        let uploads = create_folder(&own, UPLOADS).map_err(not_writable)?;
        let staging = Self {
            root: root.try_clone().map_err(not_writable)?,
            writes: Arc::new(writes.map_err(not_writable)?),
            next: AtomicU64::new(0),
            uploads: Uploads::new(uploads, settings, Arc::clone(stats)),
            placing: Mutex::default(),
            _lock: lock,
        };
        let mut tidied = staging.uploads.sweep();
        if crashed {
            tidied = tidied.and_then(|()| staging.recover_outcomes());
        }
        tidied.map_err(|error| not_writable(io::Error::other(error)))?;
        Ok(staging)
    }

    /// An empty file for the text of a Write.
    pub(super) fn create(&self) -> Result<Staged, Error> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        Staged::create(&self.writes, name)
    }

    /// Puts a staged file in its place, in one step and for good: when this returns, a power cut
    /// leaves the new content, and when it fails before the rename, the old.
    ///
    /// `durable` hears of the new version when all of it is durable and nobody sees it yet; where
    /// it fails, nobody ever does.
    ///
    /// The one way from staged to visible, so that no caller can leave out a step.
    pub(super) fn commit(
        &self,
        staged: &Staged,
        path: &FilePath,
        precondition: &Precondition,
        durable: impl FnOnce(&Version) -> Result<(), Error>,
    ) -> Result<Version, Error> {
        // A first look, before the disk is put to work.
        let place = Place::locate(&self.root, path)?;
        place.check(precondition)?;
        if let Some(replaced) = place.replaced()? {
            staged.permit(replaced.mode())?;
        }
        staged.stamp(SystemTime::now())?;
        staged.sync_all()?;
        let version = version(&staged.metadata()?);
        durable(&version)?;
        let folder = {
            // What this look finds stays so until the rename. And a folder that is there may be
            // there since a moment ago: whoever made it has made it durable, or left word.
            let mut placing = self.placing.lock();
            let place = Place::locate(&self.root, path)?;
            place.check(precondition)?;
            let folder = self.create_folder(&place, &mut placing)?;
            let renamed = match precondition {
                Precondition::Absent => {
                    rename_new(staged.folder(), staged.name(), &folder, place.name())
                }
                _ => staged.folder().rename(staged.name(), &folder, place.name()),
            };
            renamed.map_err(|error| match error.kind() {
                // Another program was faster.
                io::ErrorKind::AlreadyExists => Error::Exists { etag: None },
                io::ErrorKind::IsADirectory => Error::NotAFile,
                _ => Error::io("put the file in its place", error),
            })?;
            folder
        };
        sync_folder(&folder).map_err(|error| Error::io("make the folder durable", error))?;
        Ok(version)
    }

    /// The folder of a place, made where it is missing, and durable with all on the way to it.
    fn create_folder(&self, place: &Place, placing: &mut Placing) -> Result<Dir, Error> {
        if placing.folders_unsure {
            let synced = sync_filesystem(&self.root);
            synced.map_err(|error| Error::io("make the folder durable", error))?;
            placing.folders_unsure = false;
        }
        place.create_folder(&mut placing.folders_unsure)
    }

    /// Whether `path` is now that version, and durably so.
    pub(super) fn has(&self, path: &FilePath, version: &Version) -> Result<bool, Error> {
        let mut placing = self.placing.lock();
        let place = Place::locate(&self.root, path)?;
        let there = place.version().is_some_and(|there| there == *version);
        if there {
            let folder = self.create_folder(&place, &mut placing)?;
            sync_folder(&folder).map_err(|error| Error::io("make the folder durable", error))?;
        }
        Ok(there)
    }

    /// Whether an upload to `path` could be committed now.
    pub(super) fn admits(&self, path: &FilePath, precondition: &Precondition) -> Result<(), Error> {
        Place::locate(&self.root, path)?.check(precondition)
    }
}

/// Locked as long as it is open, and so until the process ends, however it ends.
///
/// It holds the number of the process, for people, and until the process ends well: found there by
/// the next, it tells of a crash.
#[derive(Debug)]
struct Lock(File);

impl Lock {
    fn take(own: &Dir) -> Result<Self, TryLockError> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).write(true);
        let file = own.open_with(LOCK, &options).map_err(TryLockError::Error)?;
        let file = file.into_std();
        file.try_lock()?;
        Ok(Self(file))
    }

    fn was_held(&self) -> io::Result<bool> {
        Ok(self.0.metadata()?.len() > 0)
    }

    fn sign(&self) -> io::Result<()> {
        self.0.set_len(0)?;
        writeln!(&self.0, "{}", process::id())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // If that fails, the next start takes its time, no more.
        let _ = self.0.set_len(0);
    }
}

/// A folder for the server's eyes only.
fn create_folder(parent: &Dir, name: &str) -> io::Result<Dir> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    match parent.create_dir_with(name, &builder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // A link would lead the server to keep house somewhere else.
    if parent.symlink_metadata(name)?.is_symlink() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    parent.open_dir(name)
}
