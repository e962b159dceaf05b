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
        Self {
            reads: Pool::new(MAX_READS),
            writes: Pool::new(MAX_WRITES),
        }
    }
}

/// A bounded number of threads.
#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Semaphore>);

impl Pool {
    pub(super) fn new(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new(threads)))
    }

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
                Err(closed) => Err(Error::io("start the disk access", io::Error::other(closed))),
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
            Err(cancelled) => Err(Error::io(
                "start the disk access",
                io::Error::other(cancelled),
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use futures::{FutureExt, future::BoxFuture};
    use tokio::time::timeout;

    use super::*;

    /// Bounds the wait for what never comes if the test fails.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Takes a thread of the pool until the sender is dropped.
    fn occupy(pool: &Pool) -> (mpsc::Sender<()>, BoxFuture<'static, Result<(), Error>>) {
        let (sender, receiver) = mpsc::channel();
        let work = pool.clone().run(move || {
            let _ = receiver.recv();
            Ok(())
        });
        let mut work = work.boxed();
        assert!((&mut work).now_or_never().is_none());
        (sender, work)
    }

    #[tokio::test]
    async fn waiting_work_that_is_not_polled_keeps_no_thread() {
        let pool = Pool::new(1);
        let (busy, first) = occupy(&pool);
        let mut unpolled: Vec<_> = (0..3)
            .map(|_| pool.clone().run(|| Ok(())).boxed())
            .collect();
        for work in &mut unpolled {
            assert!(work.now_or_never().is_none());
        }
        drop(busy);
        let last = pool.clone().run(|| Ok(()));
        timeout(PATIENCE, last).await.unwrap().unwrap();
        first.await.unwrap();
        for work in unpolled {
            work.await.unwrap();
        }
    }

    #[tokio::test]
    async fn waiting_work_that_is_dropped_is_never_begun() {
        let pool = Pool::new(1);
        let (busy, first) = occupy(&pool);
        let is_begun = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&is_begun);
        let mut dropped = pool
            .clone()
            .run(move || {
                begins.store(true, Ordering::Relaxed);
                Ok(())
            })
            .boxed();
        assert!((&mut dropped).now_or_never().is_none());
        drop(dropped);
        drop(busy);
        first.await.unwrap();
        // It would have come first.
        let last = pool.clone().run(|| Ok(()));
        timeout(PATIENCE, last).await.unwrap().unwrap();
        assert!(!is_begun.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn work_has_its_thread_until_it_ends_even_if_nobody_waits_for_it() {
        let pool = Pool::new(1);
        let (sender, receiver) = mpsc::channel::<()>();
        let has_ended = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&has_ended);
        let mut first = pool
            .clone()
            .run(move || {
                let _ = receiver.recv();
                ends.store(true, Ordering::Relaxed);
                Ok(())
            })
            .boxed();
        assert!((&mut first).now_or_never().is_none());
        drop(first);
        let mut second = pool
            .clone()
            .run(move || Ok(has_ended.load(Ordering::Relaxed)))
            .boxed();
        assert!((&mut second).now_or_never().is_none());
        drop(sender);
        assert!(timeout(PATIENCE, second).await.unwrap().unwrap());
    }
}
