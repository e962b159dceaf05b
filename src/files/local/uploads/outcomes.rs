//! The records of commits that are under way, and of those that are done.
//!
//! A record is a symbolic link that leads nowhere: its name is the upload's key, and its text the version. Such
//! a link is made whole in one step, and one sync of its folder makes any number of them durable.
//!
//! The record of a commit is durable before its rename. After a crash the bytes themselves tell on which side of
//! the rename it came: they are still staged, or they are not.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use cap_std::fs::Dir;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    checksum::Crc32c,
    files::{
        error::Error,
        local::{
            commit::CommitRecord,
            disk,
            folders::{Folder, Folders},
            resolve::is_missing,
            uploads::key::{UploadKey, hex},
        },
        upload::{Precondition, UploadSpec},
        version::Version,
    },
};

/// The records below one root.
#[derive(Debug)]
pub(super) struct Outcomes {
    /// The commits that are under way.
    pending: Folder,
    /// The last change of `pending` that removed a record whose commit was not made.
    last_cancel: AtomicU64,
    /// The results of uploads.
    results: Folder,
}

/// What is known of a commit.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    size: u64,
    etag: String,
    modified_at: SystemTime,
    crc32c: u32,
    /// Distinguishes specs.
    spec: String,
    /// By the clock of the store.
    begun_at: SystemTime,
}

impl Outcome {
    fn new(spec: &UploadSpec, version: &Version, now: SystemTime) -> Self {
        Self {
            size: version.size,
            etag: version.etag.clone(),
            modified_at: version.modified_at,
            crc32c: version.crc32c.unwrap_or_default().value(),
            spec: digest(spec),
            begun_at: now,
        }
    }

    pub(super) fn is_of(&self, spec: &UploadSpec) -> bool {
        self.spec == digest(spec)
    }

    pub(super) fn begun_at(&self) -> SystemTime {
        self.begun_at
    }

    pub(super) fn into_version(self) -> Version {
        Version {
            size: self.size,
            etag: self.etag,
            modified_at: self.modified_at,
            crc32c: Some(Crc32c::from(self.crc32c)),
        }
    }
}

/// The part of a spec that is not in its key.
fn digest(spec: &UploadSpec) -> String {
    let mut digest = Sha256::new();
    match &spec.precondition {
        Precondition::Anything => digest.update([0]),
        Precondition::Absent => digest.update([1]),
        Precondition::Version(etag) => {
            digest.update([2]);
            digest.update(etag);
        }
    }
    digest.update(format!(" {:?}", spec.size));
    let digest = digest.finalize();
    hex(&digest[..16])
}

impl Outcomes {
    pub(super) fn new(folders: &Folders, pending: Dir, results: Dir) -> io::Result<Self> {
        Ok(Self {
            pending: folders.folder(pending)?,
            last_cancel: AtomicU64::new(0),
            results: folders.folder(results)?,
        })
    }

    /// The record of a commit that is under way.
    pub(super) fn pending(&self, key: &UploadKey) -> Result<Option<Outcome>, Error> {
        read(&self.pending.dir, key)
    }

    /// The record of a commit that is done.
    pub(super) fn result(&self, key: &UploadKey) -> Result<Option<Outcome>, Error> {
        read(&self.results.dir, key)
    }

    /// The commits that are under way.
    pub(super) fn all_pending(&self) -> Result<Vec<UploadKey>, Error> {
        keys(&self.pending.dir)?.collect()
    }

    /// The commits that are done.
    pub(super) fn all_results(
        &self,
    ) -> Result<impl Iterator<Item = Result<UploadKey, Error>>, Error> {
        keys(&self.results.dir)
    }

    /// Turns the record of a commit that is under way into one of a commit that is done.
    pub(super) fn complete(&self, key: &UploadKey) -> Result<(), Error> {
        let name = key.as_str();
        let renamed = disk::rename(&self.pending.dir, name, &self.results.dir, name.as_ref());
        renamed.map_err(cannot_record)
    }

    /// Removes the record of a commit that was not made, durably: it must not be there when the bytes are gone,
    /// or it would say that they were renamed.
    pub(super) fn cancel(&self, key: &UploadKey) -> Result<(), Error> {
        let cannot = |error| Error::io("cancel the commit", error);
        match disk::unlink(&self.pending.dir, key.as_str()) {
            Ok(()) => {
                let change = self.pending.changed();
                self.last_cancel.fetch_max(change, Ordering::Relaxed);
            }
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(cannot(error)),
        }
        // The sync of an earlier removal may have failed.
        let last = self.last_cancel.load(Ordering::Relaxed);
        if self.pending.sync(last).is_err() {
            let change = self.pending.changed();
            self.pending.sync(change).map_err(cannot)?;
            self.last_cancel.fetch_max(change, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes all records durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let synced = self.pending.sync(self.pending.changed());
        synced.map_err(cannot_record)
    }

    /// Forgets a result, durably: its id may begin another upload.
    pub(super) fn forget(&self, key: &UploadKey) -> Result<(), Error> {
        self.expire(key)?;
        let synced = self.results.sync(self.results.changed());
        synced.map_err(|error| Error::io("remove the result of the upload", error))
    }

    /// Forgets a result. After a crash it may be there again.
    pub(super) fn expire(&self, key: &UploadKey) -> Result<(), Error> {
        match disk::unlink(&self.results.dir, key.as_str()) {
            Err(error) if !is_missing(&error) => {
                Err(Error::io("remove the result of the upload", error))
            }
            _ => Ok(()),
        }
    }
}

/// The record of one commit that is under way.
pub(super) struct PendingCommit<'a> {
    pub(super) outcomes: &'a Outcomes,
    pub(super) key: &'a UploadKey,
    pub(super) spec: &'a UploadSpec,
    pub(super) now: SystemTime,
    /// Whether there is something to cancel.
    pub(super) is_made: bool,
}

impl CommitRecord for PendingCommit<'_> {
    fn make(&mut self, version: &Version) -> Result<(), Error> {
        let outcome = Outcome::new(self.spec, version, self.now);
        let text = serde_json::to_string(&outcome).map_err(|error| cannot_record(error.into()))?;
        let (pending, name) = (&self.outcomes.pending, self.key.as_str());
        let mut made = disk::symlink(&pending.dir, name, &text);
        if made
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
        {
            disk::unlink(&pending.dir, name).map_err(cannot_record)?;
            made = disk::symlink(&pending.dir, name, &text);
        }
        made.map_err(cannot_record)?;
        self.is_made = true;
        self.outcomes.sync()
    }

    fn cancel(&mut self) {
        if std::mem::take(&mut self.is_made) {
            // A record that stays says nothing as long as the bytes are staged, and is removed before they are.
            let _ = self.outcomes.cancel(self.key);
        }
    }
}

fn cannot_record(error: io::Error) -> Error {
    Error::io("record the commit", error)
}

fn read(dir: &Dir, key: &UploadKey) -> Result<Option<Outcome>, Error> {
    let cannot = |error| Error::io("inspect the upload", error);
    match disk::readlink(dir, key.as_str()) {
        // What is no record was not made here.
        Ok(text) => Ok(serde_json::from_str(&text).ok()),
        Err(error) if is_missing(&error) || error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(cannot(error)),
    }
}

/// The keys in a directory. Other entries are left alone.
fn keys(dir: &Dir) -> Result<impl Iterator<Item = Result<UploadKey, Error>> + use<>, Error> {
    let cannot = |error| Error::io("list the uploads", error);
    let entries = disk::list(dir).map_err(cannot)?;
    Ok(entries.filter_map(move |entry| match entry {
        Ok(entry) => Some(Ok(UploadKey::parse(entry.file_name().to_str()?)?)),
        Err(error) => Some(Err(cannot(error))),
    }))
}
