//! A monotonic counter that any thread can increment.

use std::sync::atomic::{AtomicU64, Ordering};

/// Relaxed ordering is enough: no other memory depends on its value.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
