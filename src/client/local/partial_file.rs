//! The part of a file that a download has received so far, beside its target.

use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io, mem,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::{fs::OFlags, io::Errno};

use super::{
    background_task::{BackgroundTask, run_blocking},
    paths::{remove, sync_parent_dir, with_suffix},
    read::read_prefix,
    state_file::{PartIdentity, SavedState, StateFile},
    target_file::TargetFile,
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
///
/// A part with bytes is one of a download if, and only if, its state describes it. So the state is durable before
/// the part has its first byte, and as long as it has one.
pub(in crate::client) struct PartialFile {
    target: TargetFile,
    path: PathBuf,
    state_file: StateFile,
    /// Locked as long as it is open.
    file: Arc<File>,
    received: Prefix,
    /// The part of `received` that is in the file.
    written: Prefix,
    /// The content of the state file, once it describes the part.
    state: SavedState,
    is_described: bool,
    /// Received chunks, in order, after those that `writing` has.
    buffered: Vec<Bytes>,
    buffered_bytes: usize,
    writing: BackgroundTask<Result<Prefix, Error>>,
    syncing: BackgroundTask<Result<Prefix, Error>>,
    synced_at: Instant,
}

impl PartialFile {
    /// Opens the partial file of `target`. It keeps what an earlier download of `filename` left, if that is
    /// unchanged; otherwise it is empty. The second value is set if damaged content was discarded.
    pub(in crate::client) async fn open(
        target: PathBuf,
        filename: &str,
    ) -> Result<(Self, Option<Error>), Error> {
        let mut part = Self::open_locked(target).await?;
        if !part.is_described || part.state.filename != filename {
            filename.clone_into(&mut part.state.filename);
            part.clear().await?;
            return Ok((part, None));
        }
        let durable = part.state.durable_prefix();
        let damaged = match read_prefix(&part.file, durable.len, Prefix::default()).await {
            Ok(found) => found != durable,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => true,
            Err(error) => return Err(Error::local("read", &part.path)(error)),
        };
        if damaged {
            part.clear().await?;
            let why = Error::PartDamaged(part.path.clone());
            return Ok((part, Some(why)));
        }
        part.received = durable;
        part.written = durable;
        part.truncate().await?;
        Ok((part, None))
    }

    async fn open_locked(target: PathBuf) -> Result<Self, Error> {
        for _ in 1..MAX_LOCK_ATTEMPTS {
            let target = target.clone();
            match run_blocking(move || Self::try_open(target)).await {
                Err(Error::InUse(_)) => tokio::time::sleep(LOCK_RETRY_INTERVAL).await,
                opened => return opened,
            }
        }
        run_blocking(move || Self::try_open(target)).await
    }

    fn try_open(target: PathBuf) -> Result<Self, Error> {
        let target = TargetFile::resolve(target)?;
        let path = with_suffix(target.path(), ".part");
        let state_file = StateFile::new(with_suffix(target.path(), ".part.json"));
        // Before a part is created beside a file that no download wrote.
        state_file.read()?;
        state_file.check_draft()?;
        let (file, found) = open_and_lock(&path)?;
        let part = PartIdentity::of(&found);
        let saved = state_file.read()?.filter(|state| state.part == part);
        if saved.is_none() && (found.len() > 0 || found.nlink() > 1) {
            return Err(Error::NotOurs(path));
        }
        Ok(Self {
            target,
            path,
            state_file,
            file: Arc::new(file),
            received: Prefix::default(),
            written: Prefix::default(),
            is_described: saved.is_some(),
            state: saved.unwrap_or_else(|| SavedState {
                part,
                ..Default::default()
            }),
            buffered: Vec::new(),
            buffered_bytes: 0,
            writing: BackgroundTask::idle(),
            syncing: BackgroundTask::idle(),
            synced_at: Instant::now(),
        })
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
        self.state = SavedState {
            filename: mem::take(&mut self.state.filename),
            part: mem::take(&mut self.state.part),
            ..Default::default()
        };
        if self.is_described {
            let (state_file, state) = (self.state_file.clone(), self.state.clone());
            run_blocking(move || state_file.replace_durably(&state)).await?;
        }
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
                self.written = written?;
                self.is_described = true;
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
            let (path, state_file) = (self.path.clone(), self.state_file.clone());
            let undescribed = (!self.is_described).then(|| self.state.clone());
            self.writing = BackgroundTask::spawn(move || {
                if let Some(state) = undescribed {
                    state_file.replace_durably(&state)?;
                }
                let mut offset = start;
                for chunk in chunks {
                    let written = file.write_all_at(&chunk, offset);
                    written.map_err(Error::local("write", &path))?;
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
        let (path, state_file) = (self.path.clone(), self.state_file.clone());
        let state = SavedState {
            durable: written.len,
            crc32c: written.crc32c.value(),
            ..self.state.clone()
        };
        BackgroundTask::spawn(move || {
            file.sync_data().map_err(Error::local("sync", &path))?;
            state_file.replace(&state)?;
            Ok(written)
        })
    }

    /// Makes all received bytes durable for the next run. Without any, removes the file.
    pub(in crate::client) async fn keep(&mut self) -> Result<(), Error> {
        while self.is_busy() {
            self.step().await?;
        }
        if self.received.len == 0 {
            let (file, path) = (Arc::clone(&self.file), self.path.clone());
            let state_file = self.state_file.clone();
            return run_blocking(move || {
                check_in_place(&file, &path)?;
                remove(&path)?;
                state_file.remove()
            })
            .await;
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
            let new_file_mode = || self.state_file.new_file_mode();
            self.target.apply_permissions(&self.file, new_file_mode)?;
            let synced = self.file.sync_all();
            synced.map_err(Error::local("sync", &self.path))?;
            check_in_place(&self.file, &self.path)?;
            let target = self.target.path();
            fs::rename(&self.path, target).map_err(Error::local("replace", target))?;
            sync_parent_dir(target)?;
            self.state_file.remove()
        })
        .await
    }
}

/// Opens the part, or creates it, for the caller alone: it gets the permissions of its target in the end.
fn open_and_lock(path: &Path) -> Result<(File, Metadata), Error> {
    loop {
        // Looked at before it is opened: opening a device may have effects.
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(Error::NotOurs(path.to_owned()));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(path)
            .map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::LOOP) => Error::NotOurs(path.to_owned()),
                _ => Error::local("write", path)(error),
            })?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::InUse(path.to_owned()),
            TryLockError::Error(source) => Error::local("lock", path)(source),
        })?;
        let locked = file.metadata().map_err(Error::local("look at", path))?;
        // The previous holder of the lock may have finished: then this file is the target by now.
        if is_in_place(&locked, path) {
            return Ok((file, locked));
        }
    }
}

fn check_in_place(file: &File, path: &Path) -> Result<(), Error> {
    let open = file.metadata().map_err(Error::local("look at", path))?;
    match is_in_place(&open, path) {
        true => Ok(()),
        false => Err(Error::NotOurs(path.to_owned())),
    }
}

/// Whether the file has the name `path`.
fn is_in_place(file: &Metadata, path: &Path) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()))
}
