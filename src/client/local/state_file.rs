//! `NAME.part.json`, which tells of a partial file what it holds.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::paths::{remove, sync_parent_dir, with_suffix};
use crate::{checksum::Prefix, client::error::Error};

/// More than any state has: a filename and an etag of the server.
const MAX_BYTES: u64 = 64 * 1024;

/// How every state begins.
const BEGINNING: &[u8] = b"{\"filename\":";

/// The content of the state file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedState {
    pub(super) filename: String,
    pub(super) etag: String,
    pub(super) size: u64,
    /// The number of durable bytes.
    pub(super) durable: u64,
    /// The CRC-32C of the durable bytes.
    pub(super) crc32c: u32,
    /// The partial file that this describes.
    pub(super) part: PartIdentity,
}

impl SavedState {
    pub(super) fn durable_prefix(&self) -> Prefix {
        Prefix {
            len: self.durable,
            crc32c: self.crc32c.into(),
        }
    }
}

/// Identifies a file of a directory, also after a restart of the machine, which may number its devices anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartIdentity {
    inode: u64,
    /// The time of its creation in nanoseconds, where the filesystem keeps it: another file may get the inode
    /// of one that was removed.
    created: Option<u128>,
}

impl PartIdentity {
    pub(super) fn of(part: &Metadata) -> Self {
        let created = part.created().ok();
        let created = created.and_then(|created| created.duration_since(UNIX_EPOCH).ok());
        Self {
            inode: part.ino(),
            created: created.map(|created| created.as_nanos()),
        }
    }
}

#[derive(Clone)]
pub(super) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads the state, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::NotOurs`] for a file that no download wrote.
    pub(super) fn read(&self) -> Result<Option<SavedState>, Error> {
        let Some(content) = read_own(&self.path)? else {
            return Ok(None);
        };
        match serde_json::from_slice(&content) {
            Ok(state) => Ok(Some(state)),
            Err(_) => Err(Error::NotOurs(self.path.clone())),
        }
    }

    /// Checks that no other program has made a file of the name that [`StateFile::replace`] uses.
    pub(super) fn check_draft(&self) -> Result<(), Error> {
        self.has_draft().map(|_| ())
    }

    /// Replaces the state in one step. After a crash it is the new one or the one before.
    pub(super) fn replace(&self, state: &SavedState) -> Result<(), Error> {
        let (mut file, draft) = self.create_draft()?;
        let write = || {
            file.write_all(&serde_json::to_vec(state)?)?;
            file.sync_data()?;
            fs::rename(draft, &self.path)
        };
        write().map_err(Error::local("write", &self.path))
    }

    /// Like [`StateFile::replace`], but after a crash it is the new one.
    pub(super) fn replace_durably(&self, state: &SavedState) -> Result<(), Error> {
        self.replace(state)?;
        sync_parent_dir(&self.path)
    }

    pub(super) fn remove(&self) -> Result<(), Error> {
        remove(&self.path)
    }

    /// The mode that the operating system gives to new files of this directory.
    pub(super) fn new_file_mode(&self) -> Result<u32, Error> {
        let (file, draft) = self.create_draft()?;
        let made = file.metadata();
        remove(&draft)?;
        Ok(made.map_err(Error::local("look at", draft))?.mode())
    }

    /// Creates the file that becomes the state when it is complete.
    fn create_draft(&self) -> Result<(File, PathBuf), Error> {
        let path = self.draft_path();
        if self.has_draft()? {
            remove(&path)?;
        }
        let created = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = created.map_err(Error::local("write", &path))?;
        Ok((file, path))
    }

    fn draft_path(&self) -> PathBuf {
        with_suffix(&self.path, ".new")
    }

    /// Whether a crash has left a draft.
    fn has_draft(&self) -> Result<bool, Error> {
        let path = self.draft_path();
        let Some(left) = read_own(&path)? else {
            return Ok(false);
        };
        match left.starts_with(BEGINNING) || left.iter().all(|byte| *byte == 0) {
            true => Ok(true),
            false => Err(Error::NotOurs(path)),
        }
    }
}

/// Reads a file, if there is one, that has at most the size and the kind of a state file.
fn read_own(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::local("look at", path)(error)),
    };
    if !found.is_file() || found.len() > MAX_BYTES {
        return Err(Error::NotOurs(path.to_owned()));
    }
    let read = || -> io::Result<Vec<u8>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(path)?;
        let mut content = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut content)?;
        Ok(content)
    };
    match read() {
        Ok(content) => Ok(Some(content)),
        // A download that is about to end has removed it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::local("read", path)(error)),
    }
}
