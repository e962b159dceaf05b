//! Blocking work beside a transfer.

use std::{future, panic};

use tokio::task::JoinHandle;

/// At most one blocking task, on one of Tokio's blocking threads.
pub(super) struct BackgroundTask<T>(Option<JoinHandle<T>>);

impl<T: Send + 'static> BackgroundTask<T> {
    pub(super) fn spawn(work: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(Some(tokio::task::spawn_blocking(work)))
    }

    pub(super) fn idle() -> Self {
        Self(None)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the task's result and becomes idle; never completes while idle. Cancel safe.
    pub(super) async fn join(&mut self) -> T {
        let Some(task) = &mut self.0 else {
            return future::pending().await;
        };
        let joined = task.await;
        self.0 = None;
        match joined {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => panic::resume_unwind(panic),
                // The runtime is shutting down, which drops this future as well.
                Err(_) => future::pending().await,
            },
        }
    }
}

/// Runs `work` on one of Tokio's blocking threads.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    BackgroundTask::spawn(work).join().await
}
