//! The periodic signal that a supervisor waits for.

use std::{fmt, sync::Arc, time::Duration};

/// Calls a function periodically while every thread of the server makes progress.
///
/// The threads are the runtime that [`Server::serve`](super::Server::serve) runs on, which accepts connections,
/// and each thread that serves them. If one of them is stuck, the calls stop. Disks are not checked: a
/// restart does not cure a disk that hangs.
#[derive(Clone)]
pub struct Heartbeat {
    /// The pause between two beats. The first beat comes when the server starts, the last before it aborts
    /// what is left of a drain.
    pub every: Duration,
    /// The function. It must not block: no connection is accepted while it runs.
    pub beat: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heartbeat")
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}
