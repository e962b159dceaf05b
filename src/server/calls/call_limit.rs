//! The limit on concurrent calls.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counts the running calls of all workers. Clones share the count.
#[derive(Clone, Debug)]
pub(in crate::server) struct CallLimit(Arc<Semaphore>);

/// A place among the running calls, released when it is dropped.
pub(super) type CallPermit = OwnedSemaphorePermit;

impl CallLimit {
    pub(in crate::server) fn new(max: usize) -> Self {
        Self(Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))))
    }

    /// Returns a permit if the limit is not reached.
    pub(super) fn try_acquire(&self) -> Option<CallPermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}
