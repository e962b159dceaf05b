//! The phases in which a server, its connections and its calls end.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Time for background tasks to stop, once the shutdown grace is over. A disk that takes longer is not
/// waited for.
pub(super) const BACKGROUND_GRACE: Duration = Duration::from_secs(10);

/// Time for the last responses of stopped background tasks to reach their clients.
pub(super) const STATUS_FLUSH_GRACE: Duration = Duration::from_secs(1);

/// Time for connections and threads to end after the abort. Only a handler that blocks its thread takes longer.
pub(super) const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Work that outlives the call that started it.
///
/// A handler spawns such work with `tasks.spawn(..)`. When the server stops, it waits for the calls first,
/// then cancels `stop`, and waits up to 10 s for the tasks. Clones are handles to the same work, which belongs to
/// one server.
#[derive(Clone, Debug, Default)]
pub struct Background {
    /// The tasks.
    pub tasks: TaskTracker,
    /// Cancelled when the tasks should save what they have, and end.
    pub stop: CancellationToken,
}

/// The phases of a shutdown, and the tasks that it waits for. Clones are handles to the same server.
#[derive(Clone, Debug, Default)]
pub(super) struct Shutdown {
    /// Connections and their calls.
    pub(super) connections: TaskTracker,
    pub(super) background: Background,
    /// Cancelled first: no new call is accepted; a connection ends with its last call.
    pub(super) draining: CancellationToken,
    /// Cancelled last: connections end at once.
    pub(super) abort: CancellationToken,
}

impl Shutdown {
    pub(super) fn new(background: Background) -> Self {
        Self {
            background,
            ..Self::default()
        }
    }

    /// Waits until no task is left. Completes only after the drain has begun.
    pub(super) async fn wait_until_idle(&self) {
        self.connections.wait().await;
        self.background.tasks.wait().await;
    }

    /// Begins the drain.
    pub(super) fn drain(&self) {
        self.draining.cancel();
        self.connections.close();
        self.background.tasks.close();
    }

    /// Returns a guard that begins the drain, stops the background tasks and aborts the connections when it is
    /// dropped.
    pub(super) fn abort_on_drop(&self) -> AbortOnDrop {
        AbortOnDrop(self.clone())
    }
}

/// See [`Shutdown::abort_on_drop`].
pub(super) struct AbortOnDrop(Shutdown);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.drain();
        self.0.background.stop.cancel();
        self.0.abort.cancel();
    }
}
