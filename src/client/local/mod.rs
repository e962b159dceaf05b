//! The local side of a transfer: the file that is sent, the part that is received.

#![expect(
    clippy::disallowed_methods,
    reason = "these files are the user's, not a server's store"
)]

mod file_source;
mod partial_file;

use std::{fs::File, future, io, os::unix::fs::FileExt, panic, sync::Arc};

use tokio::task::JoinHandle;

pub(super) use self::{file_source::LocalFile, partial_file::Part};
use crate::checksum::Crc32c;

/// How much is read at a time to compute a checksum, in bytes.
const CHECKED_AT_ONCE: u64 = 4 * 1024 * 1024;

/// Blocking work on a thread of its own, if there is any.
struct Work<T>(Option<JoinHandle<T>>);

impl<T: Send + 'static> Work<T> {
    fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(Some(tokio::task::spawn_blocking(work)))
    }

    fn none() -> Self {
        Self(None)
    }

    fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// What the work came to; never, where there is none. Dropped before, it is not lost.
    async fn done(&mut self) -> T {
        let Some(work) = &mut self.0 else {
            return future::pending().await;
        };
        let done = work.await;
        self.0 = None;
        match done {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => panic::resume_unwind(panic),
                // The runtime is going down, and this future with it.
                Err(_) => future::pending().await,
            },
        }
    }
}

/// Does blocking work.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    Work::start(work).done().await
}

/// The checksum of the first `length` bytes of a file, the first `known` of which have `checksum`.
/// In steps, so that it can be dropped on the way.
async fn checksum_of_prefix(
    file: &Arc<File>,
    length: u64,
    (mut known, mut checksum): (u64, Crc32c),
) -> io::Result<Crc32c> {
    while known < length {
        let step = (length - known).min(CHECKED_AT_ONCE);
        let file = Arc::clone(file);
        let read = move || read_at(&file, known, step).map(|data| checksum.update(&data));
        checksum = blocking(read).await?;
        known += step;
    }
    Ok(checksum)
}

/// Reads exactly `length` bytes.
fn read_at(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut data = vec![0; length as usize];
    file.read_exact_at(&mut data, offset)?;
    Ok(data)
}
