//! How a server, its connections and its calls end together.

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What of a server goes on, and how it is told to end. Clones are of the same server.
#[derive(Clone, Debug, Default)]
pub(super) struct Lifetime {
    /// Connections and their calls.
    pub(super) tasks: TaskTracker,
    /// What outlives a call: what has come of an upload is made durable.
    pub(super) uploads: TaskTracker,
    /// No new call is taken; connections end when their last call has.
    pub(super) draining: CancellationToken,
    /// Uploads are waited for no longer.
    pub(super) ending: CancellationToken,
    /// Connections end at once.
    pub(super) cut: CancellationToken,
}

impl Lifetime {
    /// Waits until nothing goes on. Only completes when the drain has begun.
    pub(super) async fn ended(&self) {
        self.tasks.wait().await;
        self.uploads.wait().await;
    }

    /// Begins the drain.
    pub(super) fn drain(&self) {
        self.draining.cancel();
        self.tasks.close();
        self.uploads.close();
    }

    /// Ends everything when it is dropped.
    pub(super) fn ended_when_dropped(&self) -> impl Drop + use<> {
        EndWhenDropped(self.clone())
    }
}

struct EndWhenDropped(Lifetime);

impl Drop for EndWhenDropped {
    fn drop(&mut self) {
        self.0.drain();
        self.0.ending.cancel();
        self.0.cut.cancel();
    }
}
