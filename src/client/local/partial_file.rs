//! The part of a file that has been received so far, beside its target.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    mem,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Work, blocking, checksum_of_prefix};
use crate::{checksum::Crc32c, client::error::Error, pb};

/// How much waits in memory for the disk, in bytes.
const MOST_WAITING: usize = 4 * 1024 * 1024;

/// What an interruption may cost: so many bytes received, or so long.
const CHECKPOINT_BYTES: u64 = 64 * 1024 * 1024;
const CHECKPOINT_TIME: Duration = Duration::from_secs(1);

/// How long the part of a download that was just dropped may still be locked.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A file on its way: `NAME.part`, and `NAME.part.json`, which says what it is.
pub(in crate::client) struct Part {
    target: PathBuf,
    path: PathBuf,
    state_path: PathBuf,
    /// Locked as long as it is open.
    file: Arc<File>,
    /// What has been received, and how much of that is in the file.
    received: Prefix,
    written: Prefix,
    /// What the state file says.
    state: State,
    /// Received in order, behind what is being written.
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    writing: Work<io::Result<Prefix>>,
    syncing: Work<Result<Prefix, Error>>,
    synced_at: Instant,
}

/// So many bytes from the start, and their checksum.
#[derive(Clone, Copy, Default)]
struct Prefix {
    length: u64,
    checksum: Crc32c,
}

impl Prefix {
    fn extended_by(self, next: &[u8]) -> Self {
        Self {
            length: self.length + next.len() as u64,
            checksum: self.checksum.update(next),
        }
    }
}

/// What the state file holds.
#[derive(Clone, Default, Serialize, Deserialize)]
struct State {
    filename: String,
    etag: String,
    size: u64,
    /// How many bytes of the part are durable, and their CRC-32C.
    durable: u64,
    crc32c: u32,
}

impl Part {
    /// Opens the part of `target`, with what an earlier download of `filename` left in it, if that
    /// is still as it was received. Otherwise it is empty, and the second value says why if that
    /// is news.
    pub(in crate::client) async fn open(
        target: PathBuf,
        filename: &str,
    ) -> Result<(Self, Option<Error>), Error> {
        let filename = filename.to_owned();
        let (mut part, state) = Self::open_locked(target).await?;
        let Some(state) = state.filter(|state| state.filename == filename) else {
            part.state.filename = filename;
            part.clear().await?;
            return Ok((part, None));
        };
        let found = checksum_of_prefix(&part.file, state.durable, Default::default()).await;
        let damaged = match found {
            Ok(found) => found.value() != state.crc32c,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => true,
            Err(error) => return Err(Error::local("read", &part.path)(error)),
        };
        part.state.filename = filename;
        if damaged {
            part.clear().await?;
            let why = Error::PartDamaged(part.path.clone());
            return Ok((part, Some(why)));
        }
        part.received = Prefix {
            length: state.durable,
            checksum: state.crc32c.into(),
        };
        part.written = part.received;
        part.state = state;
        part.truncate().await?;
        Ok((part, None))
    }

    async fn open_locked(target: PathBuf) -> Result<(Self, Option<State>), Error> {
        for _ in 1..LOCK_TRIES {
            let target = target.clone();
            match blocking(move || Self::try_open(target)).await {
                Err(Error::InUse(_)) => tokio::time::sleep(LOCK_PAUSE).await,
                opened => return opened,
            }
        }
        blocking(move || Self::try_open(target)).await
    }

    fn try_open(target: PathBuf) -> Result<(Self, Option<State>), Error> {
        let not_a_file = |kind| Error::local("replace", &target)(io::Error::from(kind));
        if target.is_dir() {
            return Err(not_a_file(io::ErrorKind::IsADirectory));
        }
        if target.file_name().is_none() {
            return Err(not_a_file(io::ErrorKind::InvalidInput));
        }
        let path = with_suffix(&target, ".part");
        let state_path = with_suffix(&target, ".part.json");
        let file = lock(&path)?;
        let state = fs::read(&state_path).ok();
        let state = state.and_then(|state| serde_json::from_slice(&state).ok());
        let part = Self {
            target,
            path,
            state_path,
            file: Arc::new(file),
            received: Prefix::default(),
            written: Prefix::default(),
            state: State::default(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            writing: Work::none(),
            syncing: Work::none(),
            synced_at: Instant::now(),
        };
        Ok((part, state))
    }

    /// How much has been received, in bytes: where the download goes on.
    pub(in crate::client) fn received(&self) -> u64 {
        self.received.length
    }

    /// How much would survive an interruption, in bytes.
    pub(in crate::client) fn durable(&self) -> u64 {
        self.state.durable
    }

    /// The version that it is a part of; empty before there is any.
    pub(in crate::client) fn etag(&self) -> &str {
        &self.state.etag
    }

    /// Notes which version follows.
    pub(in crate::client) fn begin(&mut self, info: &pb::FileInfo) {
        self.state.etag.clone_from(&info.etag);
        self.state.size = info.size;
    }

    /// Throws away what has been received.
    pub(in crate::client) async fn clear(&mut self) -> Result<(), Error> {
        self.waiting.clear();
        self.waiting_bytes = 0;
        while self.is_busy() {
            self.step().await?;
        }
        self.received = Prefix::default();
        self.written = Prefix::default();
        let filename = mem::take(&mut self.state.filename);
        self.state = State {
            filename,
            ..Default::default()
        };
        let state_path = self.state_path.clone();
        blocking(move || remove(&state_path)).await?;
        self.truncate().await
    }

    /// Cuts off what is behind the received bytes.
    async fn truncate(&self) -> Result<(), Error> {
        let (file, length) = (Arc::clone(&self.file), self.received.length);
        let truncated = blocking(move || file.set_len(length)).await;
        truncated.map_err(Error::local("write", &self.path))
    }

    /// Whether it takes more at the moment.
    pub(in crate::client) fn has_room(&self) -> bool {
        self.waiting_bytes < MOST_WAITING
    }

    /// Takes the next piece.
    pub(in crate::client) fn push(&mut self, data: Bytes) {
        self.received = self.received.extended_by(&data);
        self.waiting_bytes += data.len();
        self.waiting.push(data);
        self.start_what_is_due();
    }

    /// Whether something is going on that [`Part::step`] waits for.
    pub(in crate::client) fn is_busy(&self) -> bool {
        !self.writing.is_none() || !self.syncing.is_none()
    }

    /// Waits for the disk to get on. Dropped before, nothing is lost.
    pub(in crate::client) async fn step(&mut self) -> Result<(), Error> {
        tokio::select! {
            written = self.writing.done() => {
                self.written = written.map_err(Error::local("write", &self.path))?;
            }
            synced = self.syncing.done() => {
                let synced = synced?;
                self.state.durable = synced.length;
                self.state.crc32c = synced.checksum.value();
                self.synced_at = Instant::now();
            }
        }
        self.start_what_is_due();
        Ok(())
    }

    fn start_what_is_due(&mut self) {
        if self.writing.is_none() && !self.waiting.is_empty() {
            let (file, start) = (Arc::clone(&self.file), self.written.length);
            let pieces = mem::take(&mut self.waiting);
            self.waiting_bytes = 0;
            let after = self.received;
            self.writing = Work::start(move || {
                let mut offset = start;
                for piece in pieces {
                    file.write_all_at(&piece, offset)?;
                    offset += piece.len() as u64;
                }
                Ok(after)
            });
        }
        let new = self.written.length - self.state.durable;
        let is_due =
            new >= CHECKPOINT_BYTES || (new > 0 && self.synced_at.elapsed() >= CHECKPOINT_TIME);
        if self.syncing.is_none() && is_due {
            self.syncing = self.checkpoint();
        }
    }

    /// Makes what is written durable, and then says so in the state file. The receiving goes on
    /// meanwhile.
    fn checkpoint(&self) -> Work<Result<Prefix, Error>> {
        let (file, written) = (Arc::clone(&self.file), self.written);
        let (path, state_path) = (self.path.clone(), self.state_path.clone());
        let state = State {
            durable: written.length,
            crc32c: written.checksum.value(),
            ..self.state.clone()
        };
        Work::start(move || {
            file.sync_data().map_err(Error::local("sync", &path))?;
            replace(&state_path, &state).map_err(Error::local("write", &state_path))?;
            Ok(written)
        })
    }

    /// Makes all that has been received durable, for the next run. Nothing leaves nothing.
    pub(in crate::client) async fn keep(&mut self) -> Result<(), Error> {
        while self.is_busy() {
            self.step().await?;
        }
        if self.received.length == 0 {
            let path = self.path.clone();
            return blocking(move || remove(&path)).await;
        }
        if self.written.length > self.state.durable {
            self.syncing = self.checkpoint();
            self.step().await?;
        }
        Ok(())
    }

    /// Puts the file in its place, in one step and for good.
    pub(in crate::client) async fn finish(mut self) -> Result<(), Error> {
        while self.is_busy() {
            self.step().await?;
        }
        blocking(move || {
            let synced = self.file.sync_all();
            synced.map_err(Error::local("sync", &self.path))?;
            fs::rename(&self.path, &self.target).map_err(Error::local("replace", &self.target))?;
            sync_folder_of(&self.target)?;
            remove(&self.state_path)
        })
        .await
    }
}

/// Opens and locks the part.
fn lock(path: &Path) -> Result<File, Error> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::local("write", path))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::InUse(path.to_owned()),
            TryLockError::Error(source) => Error::local("lock", path)(source),
        })?;
        let locked = file.metadata().map_err(Error::local("look at", path))?;
        // Whoever had the lock before may have finished: then this is the target by now.
        let is_same = fs::metadata(path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (locked.dev(), locked.ino()));
        if is_same {
            return Ok(file);
        }
    }
}

/// Replaces the state file in one step.
fn replace(path: &Path, state: &State) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(state)?)?;
    file.sync_data()?;
    fs::rename(new, path)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::local("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn sync_folder_of(path: &Path) -> Result<(), Error> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::local("sync", folder))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
