//! The files of all uploads, in one directory.

use std::{
    collections::HashSet,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use cap_std::fs::Dir;
use rustix::io::Errno;

use crate::files::{
    error::Error,
    local::{
        staged::StagedFile,
        uploads::{
            journal::{Journal, JournalState},
            key::UploadKey,
        },
    },
    stats::StagedStats,
    upload::UploadSpec,
};

/// The directory of the uploads' files.
#[derive(Debug)]
pub(super) struct UploadDir(Arc<Dir>);

impl UploadDir {
    pub(super) fn new(dir: Dir) -> Self {
        Self(Arc::new(dir))
    }

    /// Creates the files of an upload, in place of existing ones.
    pub(super) fn create(
        &self,
        key: &UploadKey,
        spec: &UploadSpec,
    ) -> Result<(Journal, StagedFile), Error> {
        self.remove(key);
        let journal = Journal::create(&self.0, key.journal_name(), spec)?;
        let data = StagedFile::create(&self.0, key.data_name())?;
        Ok((journal, data))
    }

    /// Counts the unfinished uploads on the disk and their bytes.
    pub(super) fn staged(&self) -> Result<StagedStats, Error> {
        let cannot = |error| Error::io("look at the uploads", error);
        let mut staged = StagedStats::default();
        for entry in self.0.entries().map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let name = entry.file_name();
            // A file that is gone by now belonged to an upload that was committed or aborted meanwhile.
            if name.to_str().and_then(UploadKey::from_data_name).is_some()
                && let Ok(metadata) = entry.metadata()
            {
                staged.uploads += 1;
                staged.bytes += metadata.len();
            }
        }
        Ok(staged)
    }

    /// Lists the uploads on the disk, and removes all other files.
    pub(super) fn keys(&self) -> Result<HashSet<UploadKey>, Error> {
        let cannot = |error| Error::io("look at the uploads", error);
        let mut keys = HashSet::new();
        for entry in self.0.entries().map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name();
            match name.to_str().and_then(UploadKey::from_file_name) {
                Some(key) => drop(keys.insert(key)),
                None => remove(&self.0, &name.to_string_lossy()),
            }
        }
        Ok(keys)
    }

    /// Replays the journal of an upload. None if it is missing or damaged.
    pub(super) fn load_journal(
        &self,
        key: &UploadKey,
    ) -> Result<Option<(Journal, JournalState)>, Error> {
        none_if_damaged(Journal::replay(&self.0, key.journal_name()))
    }

    /// Opens the data of an upload, truncated to its durable prefix of `len` bytes. None if it is missing,
    /// damaged or shorter.
    pub(super) fn load_data(&self, key: &UploadKey, len: u64) -> Result<Option<StagedFile>, Error> {
        let data = StagedFile::open(&self.0, key.data_name());
        none_if_damaged(data.and_then(|data| {
            let is_complete = data.size()? >= len;
            if is_complete {
                data.truncate(len)?;
            }
            Ok(is_complete.then_some(data))
        }))
    }

    /// Whether both files of the upload exist.
    pub(super) fn is_unfinished(&self, key: &UploadKey) -> bool {
        let exists = |name| self.0.symlink_metadata(name).is_ok();
        exists(key.journal_name()) && exists(key.data_name())
    }

    /// Whether the upload was last touched more than `ttl` ago, or has no journal.
    pub(super) fn has_expired(&self, key: &UploadKey, ttl: Duration) -> bool {
        let journal = self.0.symlink_metadata(key.journal_name());
        let Ok(touched_at) = journal.and_then(|journal| journal.modified()) else {
            return true;
        };
        let age = SystemTime::now().duration_since(touched_at.into_std());
        age.is_ok_and(|age| age > ttl)
    }

    /// Removes both files of an upload.
    pub(super) fn remove(&self, key: &UploadKey) {
        for name in [key.journal_name(), key.data_name()] {
            remove(&self.0, &name);
        }
    }
}

/// Treats a missing or permanently unreadable file as None. Other errors may be transient and are returned.
fn none_if_damaged<T>(loaded: io::Result<Option<T>>) -> Result<Option<T>, Error> {
    match loaded {
        Ok(loaded) => Ok(loaded),
        Err(error) if is_damage(&error) => Ok(None),
        Err(error) => Err(Error::io("open the upload", error)),
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory
    ) || matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::LOOP))
}

/// Removes a directory entry of any kind. If the removal fails, the next sweep repeats it.
fn remove(dir: &Dir, name: &str) {
    if let Err(error) = dir.remove_file(name)
        && error.kind() == io::ErrorKind::IsADirectory
    {
        let _ = dir.remove_dir_all(name);
    }
}
