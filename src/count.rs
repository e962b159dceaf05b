//! A number of things that happened.

use std::sync::atomic::{AtomicU64, Ordering};

/// It only grows. Nothing else is told by it, so nothing waits for it.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
