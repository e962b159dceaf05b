//! The blocking side of the store: files below a directory handle of the root.

mod clock;
mod closer;
mod commit;
mod disk;
mod folders;
mod lock;
mod resolve;
mod slots;
mod snapshot;
mod staged;
#[cfg(test)]
mod tests;
mod turn;
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

use cap_std::{
    ambient_authority,
    fs::{Dir, MetadataExt, OpenOptions},
};

use self::{
    clock::RunningClock,
    closer::Closer,
    commit::{Candidate, Committer, Unrecorded, mount},
    folders::Folders,
    lock::{RootLock, private_dir},
    resolve::{ResolvedPath, Root},
    staged::StagedFile,
    turn::Turns,
    uploads::{UploadDirs, Uploads},
    version::Versions,
};
pub(super) use self::{
    snapshot::FileSnapshot,
    turn::{TargetRef, Turn},
    uploads::{OnSuperseded, OpenedUpload, UploadHandle, UploadRef},
};
use super::{
    error::{Error, OpenError},
    path::{FilePath, PRIVATE_DIR},
    settings::{AccessMode, Settings},
    stats::{StagedStats, StoreStats},
    upload::{Precondition, UploadId, UploadSpec},
    version::Version,
};
use crate::{checksum::Crc32c, commit_point::CommitPoint};

const WRITES: &str = "writes";
const UPLOADS: &str = "uploads";
const COMMITS: &str = "commits";
const RESULTS: &str = "results";

/// The files below one directory of this machine.
#[derive(Debug)]
pub(super) struct Local {
    root: Root,
    closer: Closer,
    turns: Turns,
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
    private: Dir,
    _lock: RootLock,
}

impl Local {
    /// Opens a root. In a writable store, creates it if it is missing, locks it, and recovers from a crash.
    pub(super) fn open(root: &Path, settings: &Settings) -> Result<Self, OpenError> {
        if settings.access == AccessMode::ReadWrite && !root.exists() {
            create_root(root).map_err(|source| OpenError::NotCreatable {
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
        let closer = Closer::start().map_err(|source| OpenError::NotReadable {
            root: root.into(),
            source,
        })?;
        let writer = match settings.access {
            AccessMode::ReadWrite => Some(Writer::open(&dir, root, settings, &stats, &closer)?),
            AccessMode::ReadOnly => None,
        };
        let private = writer.as_ref().map(|writer| &writer.private);
        let root = Root::new(dir, private).map_err(|source| OpenError::NotReadable {
            root: root.into(),
            source,
        })?;
        Ok(Self {
            root,
            closer,
            turns: Turns::default(),
            writer,
            stats,
        })
    }

    /// Gives a call its place in the order.
    pub(super) fn next_turn(&self, point: CommitPoint) -> Turn {
        self.turns.next(point)
    }

    /// Takes the name that a call is about to replace. To be called before [`Local::next_turn`].
    pub(super) fn target(&self, path: FilePath) -> TargetRef {
        self.turns.target(path)
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
        FileSnapshot::new(
            ResolvedPath::resolve(&self.root, path)?.open()?,
            &self.closer,
        )
    }

    /// Replaces or creates a file, and creates missing directories. Returns when the content is durable.
    pub(super) fn write(
        &self,
        target: &TargetRef,
        content: &[u8],
        turn: &Turn,
    ) -> Result<(), Error> {
        self.writer()?.write(target, content, turn)
    }

    /// Takes a reference to the upload of a stream.
    pub(super) fn open_ref(&self, spec: &UploadSpec) -> Result<UploadRef, Error> {
        self.writer()?.uploads.open_ref(spec)
    }

    /// Opens a new or existing upload, and takes it over from the stream that owns it.
    pub(super) fn open_upload(
        &self,
        upload: UploadRef,
        spec: UploadSpec,
        turn: &Turn,
        on_superseded: OnSuperseded,
    ) -> Result<OpenedUpload, Error> {
        let Writer {
            uploads, committer, ..
        } = self.writer()?;
        uploads.open(committer, upload, spec, turn, on_superseded)
    }

    /// Commits an upload. Returns when the file is durable.
    pub(super) fn finish_upload(
        &self,
        upload: &UploadHandle,
        turn: (&TargetRef, &Turn),
        size: u64,
        crc32c: Option<Crc32c>,
    ) -> Result<Version, Error> {
        let Writer {
            uploads, committer, ..
        } = self.writer()?;
        uploads.finish(committer, upload, turn, size, crc32c)
    }

    /// Takes a reference to an upload that is to be aborted.
    pub(super) fn abort_ref(
        &self,
        path: &FilePath,
        id: &UploadId,
        owner: Option<&str>,
    ) -> Result<UploadRef, Error> {
        Ok(self.writer()?.uploads.abort_ref(path, id, owner))
    }

    /// Removes an unfinished upload.
    pub(super) fn abort_upload(&self, upload: &UploadRef, turn: &Turn) -> Result<(), Error> {
        let Writer {
            uploads, committer, ..
        } = self.writer()?;
        uploads.abort(committer, upload, turn)
    }

    /// Removes expired uploads that are not in use, until `stops` says so.
    pub(super) fn sweep(&self, stops: &dyn Fn() -> bool) -> Result<(), Error> {
        match &self.writer {
            Some(writer) => writer.uploads.sweep(&writer.committer, stops),
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
    /// Locks the root, removes unfinished Writes, and recovers from a crash.
    fn open(
        root: &Dir,
        root_path: &Path,
        settings: &Settings,
        stats: &Arc<StoreStats>,
        closer: &Closer,
    ) -> Result<Self, OpenError> {
        let not_writable = |source| OpenError::NotWritable {
            root: root_path.into(),
            source,
        };
        let private = private_dir(root, PRIVATE_DIR).map_err(not_writable)?;
        let mut lock = RootLock::acquire(&private).map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse(root_path.into()),
            TryLockError::Error(source) => not_writable(source),
        })?;
        if lock.found_crash().map_err(not_writable)? {
            // The crash may have come between the creation of a directory and its sync, anywhere in the root.
            disk::syncfs(root).map_err(not_writable)?;
        }
        lock.write_pid().map_err(not_writable)?;
        let clock = RunningClock::resume(&private).map_err(not_writable)?;
        match disk::remove_tree(&private, WRITES) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(not_writable(error));
            }
            _ => {}
        }
        let private_dir = |name| private_dir(&private, name).map_err(not_writable);
        let writes = private_dir(WRITES)?;
        let dirs = UploadDirs {
            uploads: private_dir(UPLOADS)?,
            commits: private_dir(COMMITS)?,
            results: private_dir(RESULTS)?,
        };
        for dir in [&private, root] {
            disk::fsync_dir(dir).map_err(not_writable)?;
        }
        let (versions, new_mode) = probe(&writes).map_err(not_writable)?;
        let versions = versions.ok_or_else(|| OpenError::NoVersions(root_path.into()))?;
        let mount_of_root = mount(root).map_err(not_writable)?;
        if mount(&private).map_err(not_writable)? != mount_of_root {
            let problem = format!("its folder {PRIVATE_DIR} is on another filesystem");
            return Err(not_writable(io::Error::new(
                io::ErrorKind::CrossesDevices,
                problem,
            )));
        }
        let committer = Committer {
            root: Root::new(root.try_clone().map_err(not_writable)?, Some(&private))
                .map_err(not_writable)?,
            folders: Folders::new(root.try_clone().map_err(not_writable)?),
            versions,
            closer: closer.clone(),
            mount: mount_of_root,
            new_mode,
        };
        let uploads =
            Uploads::recover(dirs, &committer.folders, clock, settings, Arc::clone(stats));
        Ok(Self {
            uploads: uploads.map_err(|error| not_writable(io::Error::other(error)))?,
            committer,
            writes: Arc::new(writes),
            next_write: AtomicU64::new(0),
            private,
            _lock: lock,
        })
    }

    fn write(&self, target: &TargetRef, content: &[u8], turn: &Turn) -> Result<(), Error> {
        turn.check_live()?;
        let precondition = &Precondition::Anything;
        self.committer
            .check_precondition(target.path(), precondition)?;
        let name = self.next_write.fetch_add(1, Ordering::Relaxed).to_string();
        let staged = StagedFile::create(&self.writes, name)?;
        let candidate = Candidate {
            staged: &staged,
            crc32c: Crc32c::of(content),
            target,
            turn,
            precondition,
        };
        let written = staged
            .write(content, 0)
            .and_then(|()| self.committer.commit(&candidate, &mut Unrecorded));
        match written {
            Ok(committed) => {
                if committed.is_overtaken {
                    staged.remove();
                }
                committed.sync()
            }
            Err(error) => {
                staged.remove();
                Err(error)
            }
        }
    }
}

/// Finds out how versions can be distinguished on the filesystem, and which permissions new files get.
fn probe(dir: &Dir) -> io::Result<(Option<Versions>, u32)> {
    const NAME: &str = "probe";
    let mut options = OpenOptions::new();
    let file = disk::open(dir, NAME, options.create_new(true).write(true))?.into_std();
    let mode = disk::fstat(&file)?.mode() & 0o777;
    let versions = Versions::probe(&file);
    disk::unlink(dir, NAME)?;
    // Records are links.
    disk::symlink(dir, NAME, NAME)?;
    disk::unlink(dir, NAME)?;
    Ok((versions?, mode))
}

/// Creates a directory and its missing ancestors, durably.
fn create_root(root: &Path) -> io::Result<()> {
    let missing = root.ancestors().take_while(|dir| !dir.exists());
    let missing: Vec<_> = missing.filter(|dir| *dir != Path::new("")).collect();
    std::fs::create_dir_all(root)?;
    for dir in missing {
        let parent = Dir::open_ambient_dir(dir.join(".."), ambient_authority())?;
        disk::fsync_dir(&parent)?;
    }
    Ok(())
}
