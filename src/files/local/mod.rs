//! The blocking side of the store: files below a directory handle of the root.

mod commit;
mod fsync;
mod lock;
mod resolve;
mod snapshot;
mod staged;
mod uploads;
mod version;

use std::{
    fs::TryLockError,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cap_std::{ambient_authority, fs::Dir};

use self::{
    commit::Committer,
    fsync::{fsync_dir, syncfs},
    lock::{RootLock, private_dir},
    resolve::ResolvedPath,
    staged::StagedFile,
    uploads::Uploads,
};
pub(super) use self::{
    snapshot::FileSnapshot,
    uploads::{OnSuperseded, OpenedUpload, UploadHandle},
};
use super::{
    error::{Error, OpenError},
    path::{FilePath, PRIVATE_DIR},
    settings::{AccessMode, Settings},
    stats::{StagedStats, StoreStats},
    upload::{Precondition, UploadId, UploadSpec},
    version::Version,
};
use crate::checksum::Crc32c;

const WRITES: &str = "writes";
const UPLOADS: &str = "uploads";

/// The files below one directory of this machine.
#[derive(Debug)]
pub(super) struct Local {
    root: Dir,
    /// None in a read-only store.
    writer: Option<Writer>,
    pub(super) stats: Arc<StoreStats>,
}

/// The parts of a store that write.
#[derive(Debug)]
struct Writer {
    committer: Committer,
    uploads: Uploads,
    /// Holds the new content of each Write in progress, in a file named by a number.
    writes: Arc<Dir>,
    next_write: AtomicU64,
    _lock: RootLock,
}

impl Local {
    /// Opens a root. In a writable store, creates it if it is missing, locks it, and recovers from a crash.
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
        let writer = match settings.access {
            AccessMode::ReadWrite => Some(Writer::open(&dir, root, settings, &stats)?),
            AccessMode::ReadOnly => None,
        };
        Ok(Self {
            root: dir,
            writer,
            stats,
        })
    }

    pub(super) fn stat(&self, path: &FilePath) -> Result<Version, Error> {
        self.open_file(path).map(|file| file.version)
    }

    /// Reads a whole file of at most `limit` bytes.
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

    /// Opens the current version of a file.
    pub(super) fn open_file(&self, path: &FilePath) -> Result<FileSnapshot, Error> {
        FileSnapshot::new(ResolvedPath::resolve(&self.root, path)?.open()?)
    }

    /// Replaces or creates a file, and creates missing directories. Returns when the content is durable.
    pub(super) fn write(&self, path: &FilePath, content: &[u8]) -> Result<(), Error> {
        self.writer()?.write(path, content)
    }

    /// Opens a new or existing upload, and takes it over from the stream that owns it.
    pub(super) fn open_upload(
        &self,
        spec: UploadSpec,
        on_superseded: OnSuperseded,
    ) -> Result<OpenedUpload, Error> {
        let Writer {
            uploads, committer, ..
        } = self.writer()?;
        uploads.open(committer, spec, on_superseded)
    }

    /// Commits an upload. Returns when the file is durable.
    pub(super) fn finish_upload(
        &self,
        upload: &UploadHandle,
        size: u64,
        crc32c: Option<Crc32c>,
    ) -> Result<Version, Error> {
        let Writer {
            uploads, committer, ..
        } = self.writer()?;
        uploads.finish(committer, upload, size, crc32c)
    }

    /// Removes an unfinished upload.
    pub(super) fn abort_upload(
        &self,
        path: &FilePath,
        id: &UploadId,
        owner: Option<&str>,
    ) -> Result<(), Error> {
        let Writer {
            uploads, committer, ..
        } = self.writer()?;
        uploads.abort(committer, path, id, owner)
    }

    /// Removes expired uploads that are not in use.
    pub(super) fn sweep(&self) -> Result<(), Error> {
        match &self.writer {
            Some(writer) => writer.uploads.sweep(),
            None => Ok(()),
        }
    }

    /// The number of uploads in use.
    pub(super) fn open_uploads(&self) -> usize {
        let writer = self.writer.as_ref();
        writer.map_or(0, |writer| writer.uploads.open_count())
    }

    /// Counts the unfinished uploads.
    pub(super) fn staged(&self) -> Result<StagedStats, Error> {
        match &self.writer {
            Some(writer) => writer.uploads.staged(),
            None => Ok(StagedStats::default()),
        }
    }

    fn writer(&self) -> Result<&Writer, Error> {
        self.writer.as_ref().ok_or(Error::ReadOnly)
    }
}

impl Writer {
    /// Locks the root, removes unfinished Writes and expired uploads, and recovers from a crash.
    fn open(
        root: &Dir,
        root_path: &Path,
        settings: &Settings,
        stats: &Arc<StoreStats>,
    ) -> Result<Self, OpenError> {
        let not_writable = |source| OpenError::NotWritable {
            root: root_path.into(),
            source,
        };
        let private = private_dir(root, PRIVATE_DIR).map_err(not_writable)?;
        let lock = RootLock::acquire(&private).map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse(root_path.into()),
            TryLockError::Error(source) => not_writable(source),
        })?;
        let crashed = lock.found_crash().map_err(not_writable)?;
        if crashed {
            // The crash may have come between the creation of a directory and its sync, anywhere in the root.
            syncfs(root).map_err(not_writable)?;
        }
        lock.write_pid().map_err(not_writable)?;
        let writes = match private.remove_dir_all(WRITES) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => private_dir(&private, WRITES),
        };
        let uploads = private_dir(&private, UPLOADS).map_err(not_writable)?;
        let writer = Self {
            committer: Committer::new(root.try_clone().map_err(not_writable)?),
            uploads: Uploads::new(uploads, settings, Arc::clone(stats)),
            writes: Arc::new(writes.map_err(not_writable)?),
            next_write: AtomicU64::new(0),
            _lock: lock,
        };
        let mut recovered = writer.uploads.sweep();
        if crashed {
            let recover = || writer.uploads.recover_outcomes(&writer.committer);
            recovered = recovered.and_then(|()| recover());
        }
        recovered.map_err(|error| not_writable(io::Error::other(error)))?;
        Ok(writer)
    }

    fn write(&self, path: &FilePath, content: &[u8]) -> Result<(), Error> {
        let any = &Precondition::Anything;
        self.committer.check_precondition(path, any)?;
        let name = self.next_write.fetch_add(1, Ordering::Relaxed).to_string();
        let staged = StagedFile::create(&self.writes, name)?;
        let written = staged
            .write(content, 0)
            .and_then(|()| self.committer.commit(&staged, path, any, |_| Ok(())));
        if written.is_err() {
            staged.remove();
        }
        written.map(drop)
    }
}

/// Creates a directory and its missing ancestors, durably.
fn create_root(root: &Path) -> io::Result<()> {
    let missing = root.ancestors().take_while(|dir| !dir.exists());
    let missing: Vec<_> = missing.filter(|dir| *dir != Path::new("")).collect();
    std::fs::create_dir_all(root)?;
    for dir in missing {
        let parent = Dir::open_ambient_dir(dir.join(".."), ambient_authority())?;
        fsync_dir(&parent)?;
    }
    Ok(())
}
