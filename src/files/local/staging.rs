//! The server's own folder in the root: the lock that keeps other servers out, and files on their
//! way to their place.

use std::{
    fs::{self, TryLockError},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, OpenOptions, Permissions, PermissionsExt as _};

use crate::files::{
    error::{Error, OpenError},
    local::{
        place::Place,
        sync::{sync_filesystem, sync_folder},
    },
    path::OWN_FOLDER,
};

const LOCK: &str = "lock";
const WRITES: &str = "writes";

#[derive(Debug)]
pub(super) struct Staging {
    /// Holds the staged files, each under a number.
    writes: Dir,
    next: AtomicU64,
    /// Held while folders are made, until they are durable.
    making_folders: Mutex<()>,
    /// Locked as long as it is open, and so until the process ends, however it ends.
    _lock: fs::File,
}

impl Staging {
    /// Takes the root for this server, and removes what an earlier one left unfinished.
    pub(super) fn open(root: &Dir, name: &Path) -> Result<Self, OpenError> {
        let not_writable = |source| OpenError::NotWritable {
            root: name.into(),
            source,
        };
        let own = create_folder(root, OWN_FOLDER).map_err(not_writable)?;
        let lock = own
            .open_with(LOCK, OpenOptions::new().create(true).write(true))
            .map_err(not_writable)?
            .into_std();
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse(name.into()),
            TryLockError::Error(source) => not_writable(source),
        })?;
        remove_unfinished(root, &own).map_err(not_writable)?;
        Ok(Self {
            writes: create_folder(&own, WRITES).map_err(not_writable)?,
            next: AtomicU64::new(0),
            making_folders: Mutex::new(()),
            _lock: lock,
        })
    }

    /// An empty file that nobody sees yet, with the permissions of the file that it will replace.
    pub(super) fn create(&self, replaced: Option<Permissions>) -> Result<Staged<'_>, Error> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let cannot = |error| Error::io("stage the file", error);
        let file = self
            .writes
            .open_with(&name, OpenOptions::new().create_new(true).write(true))
            .map_err(cannot)?
            .into_std();
        let staged = Staged {
            staging: self,
            name,
            file,
            committed: false,
        };
        if let Some(permissions) = replaced {
            // Not the bits that lend somebody's rights to a program: its content is another now.
            let permissions = fs::Permissions::from_mode(permissions.mode() & 0o777);
            staged.file.set_permissions(permissions).map_err(cannot)?;
        }
        Ok(staged)
    }
}

/// A file on its way. Dropped before it is committed, it is gone.
#[derive(Debug)]
pub(super) struct Staged<'a> {
    staging: &'a Staging,
    name: String,
    file: fs::File,
    committed: bool,
}

impl Staged<'_> {
    pub(super) fn write(&mut self, content: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(content)
            .map_err(|error| Error::io("write the file", error))
    }

    /// Puts the file in its place, in one step and for good: when this returns, a power cut leaves
    /// the new content, and when it fails before the rename, the old.
    ///
    /// The one way from staged to visible, so that no caller can leave out a step.
    pub(super) fn commit(mut self, place: &Place) -> Result<(), Error> {
        let cannot = |error| Error::io("make the file durable", error);
        // The kernel's own stamp ticks only every few milliseconds, in which two versions could
        // pass for one.
        self.file.set_modified(SystemTime::now()).map_err(cannot)?;
        self.file.sync_all().map_err(cannot)?;
        let folder = {
            // A folder that is there already may be there since a moment ago, and not durable yet.
            let _nobody_else = self.staging.making_folders.lock();
            place.create_folder()?
        };
        self.staging
            .writes
            .rename(&self.name, &folder, place.name())
            .map_err(|error| match error.kind() {
                // A folder has come to the place in the meantime.
                io::ErrorKind::IsADirectory => Error::NotAFile,
                _ => Error::io("put the file in its place", error),
            })?;
        self.committed = true;
        sync_folder(&folder).map_err(|error| Error::io("make the folder durable", error))
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.committed {
            // If that fails too, the next start removes it.
            let _ = self.staging.writes.remove_file(&self.name);
        }
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

/// Removes what an earlier server was writing when it was killed. It may also have made folders
/// whose names are not durable yet, and nobody could tell which: so everything is made durable.
fn remove_unfinished(root: &Dir, own: &Dir) -> io::Result<()> {
    let unfinished = match own.read_dir(WRITES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?.next().is_some(),
    };
    if unfinished {
        sync_filesystem(root)?;
        own.remove_dir_all(WRITES)?;
    }
    Ok(())
}
