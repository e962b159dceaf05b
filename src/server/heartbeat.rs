//! The sign of life that a supervisor waits for.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::workers::Workers;

/// Calls something again and again for as long as all of a server turns: the runtime that
/// [`run`](super::run) is on, which accepts connections, and every thread that serves them. Where one
/// of them is stuck, it stops, whatever the others do. Disks are not asked: one that hangs is no
/// reason to start again.
#[derive(Clone)]
pub struct Heartbeat {
    /// How long to wait after each beat. The first comes when the server starts, the last before it
    /// cuts what is left of a drain.
    pub every: Duration,
    /// What is called. It must not block: while it does, no connection is accepted.
    pub beat: Arc<dyn Fn() + Send + Sync>,
}

impl Heartbeat {
    /// Beats for ever, or until a worker is gone.
    pub(super) async fn keep_beating(self, workers: Workers) {
        while workers.turn().await {
            (self.beat)();
            sleep(self.every).await;
        }
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heartbeat")
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}
