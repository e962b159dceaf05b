//! The limit on concurrent calls.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counts the running calls of all workers. Clones share the count.
#[derive(Clone, Debug)]
pub(in crate::server) struct CallLimit {
    max: usize,
    running: Arc<AtomicUsize>,
}

/// A place among the running calls, released when it is dropped.
#[derive(Debug)]
pub(super) struct CallPermit(CallLimit);

impl CallLimit {
    pub(in crate::server) fn new(max: usize) -> Self {
        Self {
            max,
            running: Arc::default(),
        }
    }

    /// Returns a permit if the limit is not reached.
    pub(super) fn try_acquire(&self) -> Option<CallPermit> {
        // The permit is dropped, and so returned, if it exceeds the limit.
        let permit = CallPermit(self.clone());
        (self.running.fetch_add(1, Ordering::Relaxed) < self.max).then_some(permit)
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
