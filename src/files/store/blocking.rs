//! The bridge from asynchronous code to the blocking threads.

use std::{io, sync::Arc};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinHandle, spawn_blocking},
};
use tokio_util::task::AbortOnDropHandle;

use crate::files::error::Error;

/// The number of reads at a time that wait for the disk.
const MAX_READS: usize = 128;

/// The number of writes, syncs and changes at a time. Many of them share a sync of the disk, so more at a time
/// are faster. Together with the reads they are fewer than the threads of a runtime, which are 512.
const MAX_WRITES: usize = 256;

/// The threads of a store: those that read do not wait for those that write. Clones are the same pools.
#[derive(Clone, Debug)]
pub(super) struct Pools {
    pub(super) reads: Pool,
    pub(super) writes: Pool,
}

impl Default for Pools {
    fn default() -> Self {
        let pool = |threads| Pool(Arc::new(Semaphore::new(threads)));
        Self {
            reads: pool(MAX_READS),
            writes: pool(MAX_WRITES),
        }
    }
}

/// A bounded number of threads.
#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Semaphore>);

impl Pool {
    /// Runs `work` on a thread. If the future is dropped before there is one, the work is never begun.
    pub(super) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() {
            return join(start(permit, work)).await;
        }
        // A task of its own waits: a future that is not polled would keep what it is given.
        let waiting = tokio::spawn(async move {
            let permit = self.0.acquire_owned().await;
            match permit {
                Ok(permit) => join(start(permit, work)).await,
                Err(closed) => Err(Error::io("start the work", io::Error::other(closed))),
            }
        });
        join(AbortOnDropHandle::new(waiting)).await
    }
}

/// Begins `work`, which has the permit until it ends.
fn start<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> JoinHandle<Result<T, Error>> {
    spawn_blocking(move || {
        let _permit = permit;
        work()
    })
}

/// Waits for the result of work on a blocking thread. A panic there continues here.
async fn join<T>(
    work: impl Future<Output = Result<Result<T, Error>, JoinError>>,
) -> Result<T, Error> {
    match work.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(Error::io("start the work", io::Error::other(cancelled))),
        },
    }
}
