//! The files of unfinished uploads, in one directory.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use cap_std::fs::{Dir, Metadata, MetadataExt};
use rustix::io::Errno;

use crate::files::{
    error::Error,
    local::{
        disk,
        staged::StagedFile,
        uploads::{
            journal::{Journal, JournalState},
            key::UploadKey,
        },
    },
    stats::StagedStats,
    upload::UploadSpec,
};

/// The directory of the uploads' files. Clones are the same directory.
#[derive(Clone, Debug)]
pub(super) struct UploadDir(Arc<Dir>);

impl UploadDir {
    pub(super) fn new(dir: Dir) -> Self {
        Self(Arc::new(dir))
    }

    /// Creates the file for the bytes of an upload, in place of one whose removal failed.
    pub(super) fn create_data(&self, key: &UploadKey) -> Result<StagedFile, Error> {
        StagedFile::create_in_place(&self.0, key.data_name())
    }

    /// Creates the journal of an upload.
    pub(super) fn create_journal(
        &self,
        key: &UploadKey,
        spec: &UploadSpec,
    ) -> Result<Journal, Error> {
        Journal::create(&self.0, key.journal_name(), spec)
    }

    /// Counts the unfinished uploads on the disk and their bytes.
    pub(super) fn staged(&self) -> Result<StagedStats, Error> {
        let mut staged = StagedStats::default();
        for entry in disk::list(&self.0).map_err(cannot_list)? {
            let entry = entry.map_err(cannot_list)?;
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

    /// Lists the uploads on the disk, some of them twice, and removes all other files.
    pub(super) fn keys(&self) -> Result<impl Iterator<Item = Result<UploadKey, Error>>, Error> {
        let entries = disk::list(&self.0).map_err(cannot_list)?;
        Ok(entries.filter_map(|entry| match entry {
            Ok(entry) => {
                let name = entry.file_name();
                let key = name.to_str().and_then(UploadKey::from_file_name);
                if key.is_none() {
                    // The next sweep tries again.
                    let _ = remove_entry(&self.0, &name.to_string_lossy());
                }
                key.map(Ok)
            }
            Err(error) => Some(Err(cannot_list(error))),
        }))
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

    /// Whether the bytes of an upload are still staged, and have no other name.
    pub(super) fn has_data(&self, key: &UploadKey) -> Result<bool, Error> {
        let found = self.lstat(&key.data_name())?;
        Ok(found.is_some_and(|found| found.nlink() == 1))
    }

    /// Whether the upload has a journal.
    pub(super) fn has_journal(&self, key: &UploadKey) -> Result<bool, Error> {
        Ok(self.lstat(&key.journal_name())?.is_some())
    }

    fn lstat(&self, name: &str) -> Result<Option<Metadata>, Error> {
        match disk::lstat(&self.0, name) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("inspect the upload", error)),
        }
    }

    /// Makes removals durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let synced = disk::fsync_dir(&self.0);
        synced.map_err(|error| Error::io("sync the folder to disk", error))
    }

    /// Whether the upload was last touched more than `ttl` before `now`, or has no journal.
    pub(super) fn has_expired(
        &self,
        key: &UploadKey,
        now: SystemTime,
        ttl: Duration,
    ) -> Result<bool, Error> {
        let name = key.journal_name();
        let cannot = |error| Error::io("inspect the upload", error);
        let Some(journal) = self.lstat(&name)? else {
            return Ok(true);
        };
        let touched_at = journal.modified().map_err(cannot)?.into_std();
        match now.duration_since(touched_at) {
            Ok(age) => Ok(age > ttl),
            // A stamp of the future would keep the upload until then.
            Err(_) => {
                disk::set_mtime_of(&self.0, &name, now).map_err(cannot)?;
                Ok(false)
            }
        }
    }

    /// Removes both files of an upload. Bytes whose removal fails are removed by the next sweep.
    pub(super) fn remove(&self, key: &UploadKey) -> Result<(), Error> {
        let removed = remove_entry(&self.0, &key.journal_name());
        removed.map_err(|error| Error::io("remove the upload", error))?;
        let _ = remove_entry(&self.0, &key.data_name());
        Ok(())
    }
}

fn cannot_list(error: io::Error) -> Error {
    Error::io("list the uploads", error)
}

/// Treats a missing file, or one that is no file, as None. Other errors may be transient and are returned.
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
    ) || Errno::from_io_error(error) == Some(Errno::LOOP)
}

/// Removes a directory entry of any kind, if it is there.
fn remove_entry(dir: &Dir, name: &str) -> io::Result<()> {
    match disk::unlink(dir, name) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => disk::remove_tree(dir, name),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
