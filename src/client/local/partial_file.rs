//! The part of a file that a download has received so far, beside its target.

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

use super::{
    background_task::{BackgroundTask, run_blocking},
    read::read_prefix,
};
use crate::{checksum::Prefix, client::error::Error, pb};

/// The most received bytes that wait in memory for the disk.
const MAX_BUFFERED_BYTES: usize = 4 * 1024 * 1024;

/// A checkpoint follows after this many written bytes.
const CHECKPOINT_BYTES: u64 = 64 * 1024 * 1024;

/// A checkpoint follows after this time, if bytes were written.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// A download that was just dropped may hold the lock until its blocking work ends.
const MAX_LOCK_ATTEMPTS: u32 = 20;

const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// A file that is being received: `NAME.part`, and `NAME.part.json`, which describes it.
pub(in crate::client) struct PartialFile {
    target: PathBuf,
    path: PathBuf,
    state_path: PathBuf,
    /// Locked as long as it is open.
    file: Arc<File>,
    received: Prefix,
    /// The part of `received` that is in the file.
    written: Prefix,
    /// The content of the state file.
    state: SavedState,
    /// Received chunks, in order, after those that `writing` has.
    buffered: Vec<Bytes>,
    buffered_bytes: usize,
    writing: BackgroundTask<io::Result<Prefix>>,
    syncing: BackgroundTask<Result<Prefix, Error>>,
    synced_at: Instant,
}

/// The content of the state file.
#[derive(Clone, Default, Serialize, Deserialize)]
struct SavedState {
    filename: String,
    etag: String,
    size: u64,
    /// The number of durable bytes.
    durable: u64,
    /// The CRC-32C of the durable bytes.
    crc32c: u32,
}

impl SavedState {
    fn durable_prefix(&self) -> Prefix {
        Prefix {
            len: self.durable,
            crc32c: self.crc32c.into(),
        }
    }
}

impl PartialFile {
    /// Opens the partial file of `target`. It keeps what an earlier download of `filename` left, if that is
    /// unchanged; otherwise it is empty. The second value is set if damaged content was discarded.
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
        let durable = state.durable_prefix();
        let damaged = match read_prefix(&part.file, durable.len, Prefix::default()).await {
            Ok(found) => found != durable,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => true,
            Err(error) => return Err(Error::local("read", &part.path)(error)),
        };
        part.state.filename = filename;
        if damaged {
            part.clear().await?;
            let why = Error::PartDamaged(part.path.clone());
            return Ok((part, Some(why)));
        }
        part.received = durable;
        part.written = durable;
        part.state = state;
        part.truncate().await?;
        Ok((part, None))
    }

    async fn open_locked(target: PathBuf) -> Result<(Self, Option<SavedState>), Error> {
        for _ in 1..MAX_LOCK_ATTEMPTS {
            let target = target.clone();
            match run_blocking(move || Self::try_open(target)).await {
                Err(Error::InUse(_)) => tokio::time::sleep(LOCK_RETRY_INTERVAL).await,
                opened => return opened,
            }
        }
        run_blocking(move || Self::try_open(target)).await
    }

    fn try_open(target: PathBuf) -> Result<(Self, Option<SavedState>), Error> {
        let not_a_file = |kind| Error::local("replace", &target)(io::Error::from(kind));
        if target.is_dir() {
            return Err(not_a_file(io::ErrorKind::IsADirectory));
        }
        if target.file_name().is_none() {
            return Err(not_a_file(io::ErrorKind::InvalidInput));
        }
        let path = with_suffix(&target, ".part");
        let state_path = with_suffix(&target, ".part.json");
        let file = open_and_lock(&path)?;
        let state = fs::read(&state_path).ok();
        let state = state.and_then(|state| serde_json::from_slice(&state).ok());
        let part = Self {
            target,
            path,
            state_path,
            file: Arc::new(file),
            received: Prefix::default(),
            written: Prefix::default(),
            state: SavedState::default(),
            buffered: Vec::new(),
            buffered_bytes: 0,
            writing: BackgroundTask::idle(),
            syncing: BackgroundTask::idle(),
            synced_at: Instant::now(),
        };
        Ok((part, state))
    }

    /// The number of received bytes, which is the offset where the download continues.
    pub(in crate::client) fn received(&self) -> u64 {
        self.received.len
    }

    /// The number of bytes that survive an interruption.
    pub(in crate::client) fn durable(&self) -> u64 {
        self.state.durable
    }

    /// The etag of the version being received, empty before [`PartialFile::begin`].
    pub(in crate::client) fn etag(&self) -> &str {
        &self.state.etag
    }

    /// Records which version the next chunks are of.
    pub(in crate::client) fn begin(&mut self, info: &pb::FileInfo) {
        self.state.etag.clone_from(&info.etag);
        self.state.size = info.size;
    }

    /// Discards all received bytes.
    pub(in crate::client) async fn clear(&mut self) -> Result<(), Error> {
        self.buffered.clear();
        self.buffered_bytes = 0;
        while self.is_busy() {
            self.step().await?;
        }
        self.received = Prefix::default();
        self.written = Prefix::default();
        let filename = mem::take(&mut self.state.filename);
        self.state = SavedState {
            filename,
            ..Default::default()
        };
        let state_path = self.state_path.clone();
        run_blocking(move || remove(&state_path)).await?;
        self.truncate().await
    }

    /// Truncates the file to the received bytes.
    async fn truncate(&self) -> Result<(), Error> {
        let (file, len) = (Arc::clone(&self.file), self.received.len);
        let truncated = run_blocking(move || file.set_len(len)).await;
        truncated.map_err(Error::local("write", &self.path))
    }

    /// Whether the buffer has capacity for another chunk.
    pub(in crate::client) fn has_capacity(&self) -> bool {
        self.buffered_bytes < MAX_BUFFERED_BYTES
    }

    /// Buffers the next chunk.
    pub(in crate::client) fn push(&mut self, data: Bytes) {
        self.received = self.received.update(&data);
        self.buffered_bytes += data.len();
        self.buffered.push(data);
        self.start_due_tasks();
    }

    /// Whether a write or a checkpoint is under way, for which [`PartialFile::step`] waits.
    pub(in crate::client) fn is_busy(&self) -> bool {
        !self.writing.is_idle() || !self.syncing.is_idle()
    }

    /// Waits until a write or a checkpoint is done, and starts the next. Cancel safe.
    pub(in crate::client) async fn step(&mut self) -> Result<(), Error> {
        tokio::select! {
            written = self.writing.join() => {
                self.written = written.map_err(Error::local("write", &self.path))?;
            }
            synced = self.syncing.join() => {
                let synced = synced?;
                self.state.durable = synced.len;
                self.state.crc32c = synced.crc32c.value();
                self.synced_at = Instant::now();
            }
        }
        self.start_due_tasks();
        Ok(())
    }

    fn start_due_tasks(&mut self) {
        if self.writing.is_idle() && !self.buffered.is_empty() {
            let (file, start) = (Arc::clone(&self.file), self.written.len);
            let chunks = mem::take(&mut self.buffered);
            self.buffered_bytes = 0;
            let after = self.received;
            self.writing = BackgroundTask::spawn(move || {
                let mut offset = start;
                for chunk in chunks {
                    file.write_all_at(&chunk, offset)?;
                    offset += chunk.len() as u64;
                }
                Ok(after)
            });
        }
        let new = self.written.len - self.state.durable;
        let is_due =
            new >= CHECKPOINT_BYTES || (new > 0 && self.synced_at.elapsed() >= CHECKPOINT_INTERVAL);
        if self.syncing.is_idle() && is_due {
            self.syncing = self.checkpoint();
        }
    }

    /// Syncs the written bytes, then records them in the state file. Receiving continues meanwhile.
    fn checkpoint(&self) -> BackgroundTask<Result<Prefix, Error>> {
        let (file, written) = (Arc::clone(&self.file), self.written);
        let (path, state_path) = (self.path.clone(), self.state_path.clone());
        let state = SavedState {
            durable: written.len,
            crc32c: written.crc32c.value(),
            ..self.state.clone()
        };
        BackgroundTask::spawn(move || {
            file.sync_data().map_err(Error::local("sync", &path))?;
            replace(&state_path, &state).map_err(Error::local("write", &state_path))?;
            Ok(written)
        })
    }

    /// Makes all received bytes durable for the next run. Without any, removes the file.
    pub(in crate::client) async fn keep(&mut self) -> Result<(), Error> {
        while self.is_busy() {
            self.step().await?;
        }
        if self.received.len == 0 {
            let path = self.path.clone();
            return run_blocking(move || remove(&path)).await;
        }
        if self.written.len > self.state.durable {
            self.syncing = self.checkpoint();
            self.step().await?;
        }
        Ok(())
    }

    /// Renames the file to its target, durably.
    pub(in crate::client) async fn finish(mut self) -> Result<(), Error> {
        while self.is_busy() {
            self.step().await?;
        }
        run_blocking(move || {
            let synced = self.file.sync_all();
            synced.map_err(Error::local("sync", &self.path))?;
            fs::rename(&self.path, &self.target).map_err(Error::local("replace", &self.target))?;
            sync_parent_dir(&self.target)?;
            remove(&self.state_path)
        })
        .await
    }
}

fn open_and_lock(path: &Path) -> Result<File, Error> {
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
        // The previous holder of the lock may have finished: then this file is the target by now.
        let is_same = fs::metadata(path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (locked.dev(), locked.ino()));
        if is_same {
            return Ok(file);
        }
    }
}

/// Replaces the state file in one step.
fn replace(path: &Path, state: &SavedState) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(state)?)?;
    file.sync_data()?;
    fs::rename(new, path)
}

/// Removes a file, if it exists.
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::local("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn sync_parent_dir(path: &Path) -> Result<(), Error> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::local("sync", parent))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
