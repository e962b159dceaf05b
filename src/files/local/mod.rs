//! The disk behind the store: plain blocking Rust over a handle of the root folder.

mod commit;
mod fsync;
mod resolve;
mod snapshot;
mod staged;
mod uploads;

use std::{io, path::Path, sync::Arc, time::SystemTime};

use cap_std::{
    ambient_authority,
    fs::{Dir, Metadata, MetadataExt},
};

use self::{commit::Staging, fsync::sync_folder, resolve::Place};
pub(super) use self::{
    snapshot::Reader,
    uploads::partial::{Opened, Upload},
    uploads::registry::Superseded,
};
use super::{
    error::{Error, OpenError},
    path::FilePath,
    settings::{AccessMode, Settings},
    stats::{StagedStats, StoreStats},
    upload::{Precondition, UploadId, UploadPlan},
    version::Version,
};
use crate::checksum::Crc32c;

/// The files below one folder of this machine.
#[derive(Debug)]
pub(super) struct Local {
    root: Dir,
    /// None in a read-only store.
    staging: Option<Staging>,
    pub(super) stats: Arc<StoreStats>,
}

impl Local {
    pub(super) fn open(root: &Path, settings: &Settings) -> Result<Self, OpenError> {
        if settings.access == AccessMode::ReadWrite && !root.exists() {
            create_root(root).map_err(|source| OpenError::NotWritable {
                root: root.into(),
                source,
            })?;
        }
        let dir =
            Dir::open_ambient_dir(root, ambient_authority()).map_err(|source| {
                match source.kind() {
                    io::ErrorKind::NotFound => OpenError::Missing(root.into()),
                    io::ErrorKind::NotADirectory => OpenError::NotAFolder(root.into()),
                    _ => OpenError::NotReadable {
                        root: root.into(),
                        source,
                    },
                }
            })?;
        let stats = Arc::<StoreStats>::default();
        let staging = match settings.access {
            AccessMode::ReadWrite => Some(Staging::open(&dir, root, settings, &stats)?),
            AccessMode::ReadOnly => None,
        };
        Ok(Self {
            root: dir,
            staging,
            stats,
        })
    }

    pub(super) fn stat(&self, path: &FilePath) -> Result<Version, Error> {
        self.open_file(path).map(|file| file.version)
    }

    /// Reads a file of at most `limit` bytes whole.
    pub(super) fn read(&self, path: &FilePath, limit: u64) -> Result<Vec<u8>, Error> {
        let file = self.open_file(path)?;
        let size = file.version.size;
        if size > limit {
            return Err(Error::TooLarge { limit, size });
        }
        let mut content = vec![0; size as usize];
        file.read(0, &mut content)?;
        Ok(content)
    }

    /// Opens a file as it is now.
    pub(super) fn open_file(&self, path: &FilePath) -> Result<Reader, Error> {
        Reader::new(Place::locate(&self.root, path)?.open()?)
    }

    /// Replaces a file, or creates it and the folders on its way. Returns when the content is
    /// durable.
    pub(super) fn write(&self, path: &FilePath, content: &[u8]) -> Result<(), Error> {
        let staging = self.staging()?;
        staging.admits(path, &Precondition::Anything)?;
        let staged = staging.create()?;
        let written = staged
            .write(content, 0)
            .and_then(|()| staging.commit(&staged, path, &Precondition::Anything, |_| Ok(())));
        if written.is_err() {
            staged.remove();
        }
        written.map(drop)
    }

    /// Opens an upload, new or known, and takes it from whoever has it.
    pub(super) fn open_upload(
        &self,
        plan: UploadPlan,
        superseded: Superseded,
    ) -> Result<Opened, Error> {
        self.staging()?.open_upload(plan, superseded)
    }

    /// Puts an upload in its place. Returns when it is durable.
    pub(super) fn finish_upload(
        &self,
        upload: &Upload,
        size: u64,
        crc32c: Option<Crc32c>,
    ) -> Result<Version, Error> {
        self.staging()?.finish_upload(upload, size, crc32c)
    }

    /// Removes an unfinished upload.
    pub(super) fn abort_upload(
        &self,
        path: &FilePath,
        id: &UploadId,
        owner: Option<&str>,
    ) -> Result<(), Error> {
        self.staging()?.abort_upload(path, id, owner)
    }

    /// Removes the uploads that nobody goes on with and that have expired.
    pub(super) fn sweep(&self) -> Result<(), Error> {
        match &self.staging {
            Some(staging) => staging.uploads.sweep(),
            None => Ok(()),
        }
    }

    /// How many uploads somebody has to do with.
    pub(super) fn open_uploads(&self) -> usize {
        let staging = self.staging.as_ref();
        staging.map_or(0, |staging| staging.uploads.open())
    }

    /// The unfinished uploads.
    pub(super) fn staged(&self) -> Result<StagedStats, Error> {
        match &self.staging {
            Some(staging) => staging.uploads.staged(),
            None => Ok(StagedStats::default()),
        }
    }

    fn staging(&self) -> Result<&Staging, Error> {
        self.staging.as_ref().ok_or(Error::ReadOnly)
    }
}

/// Creates a folder and those on the way to it, durable.
fn create_root(root: &Path) -> io::Result<()> {
    let missing = root.ancestors().take_while(|folder| !folder.exists());
    let missing: Vec<_> = missing.filter(|folder| *folder != Path::new("")).collect();
    std::fs::create_dir_all(root)?;
    for folder in missing {
        let parent = Dir::open_ambient_dir(folder.join(".."), ambient_authority())?;
        sync_folder(&parent)?;
    }
    Ok(())
}

fn version(metadata: &Metadata) -> Version {
    Version {
        size: metadata.len(),
        etag: etag(metadata),
        modified_at: metadata
            .modified()
            .map(|time| time.into_std())
            .ok()
            .filter(|time| can_be_told(*time))
            .unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

/// Whether a time is in the years 1 to 9999. A file may claim others, and a timestamp of the wire
/// cannot.
fn can_be_told(time: SystemTime) -> bool {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_secs() < 253_402_300_800,
        Err(before) => before.duration().as_secs() < 62_135_596_800,
    }
}

/// What tells the versions of a file apart: inode, size and time of change. A replacement is another inode as long as somebody has the old
/// one open, and `Staging::commit` stamps each version with its own nanosecond. The time of change
/// of the inode (ctime) is left out: it moves when a file that is being read is replaced.
type Stamp = (u64, u64, i64, i64);

fn stamp(metadata: &Metadata) -> Stamp {
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    (metadata.ino(), metadata.len(), seconds, nanoseconds)
}

fn etag(metadata: &Metadata) -> String {
    let (inode, size, seconds, nanoseconds) = stamp(metadata);
    format!("{inode:x}-{size:x}-{seconds:x}.{nanoseconds:x}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_beyond_the_calendar_are_not_told() {
        let seconds = Duration::from_secs;
        let epoch = SystemTime::UNIX_EPOCH;
        for time in [epoch, SystemTime::now(), epoch - seconds(62_135_596_799)] {
            assert!(can_be_told(time), "{time:?}");
        }
        for time in [epoch - seconds(1 << 40), epoch + seconds(253_402_300_800)] {
            assert!(!can_be_told(time), "{time:?}");
        }
    }
}
