//! The bridge from asynchronous code to the blocking threads.

use std::{io, sync::Arc};

use tokio::task::{JoinError, spawn_blocking};

use crate::files::{error::Error, local::Local};

/// Runs `work` on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    local: &Arc<Local>,
    work: impl FnOnce(&Local) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let local = Arc::clone(local);
    join(spawn_blocking(move || work(&local))).await
}

/// Waits for the result of work on a blocking thread. A panic there continues here.
pub(super) async fn join<T>(
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
