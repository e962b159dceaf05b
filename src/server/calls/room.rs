//! Room for so many calls.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counts the calls under way, on all workers. Clones count together.
#[derive(Clone, Debug)]
pub(in crate::server) struct Room {
    max: usize,
    taken: Arc<AtomicUsize>,
}

/// Room for one call, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Room);

impl Room {
    pub(in crate::server) fn new(max: usize) -> Self {
        Self {
            max,
            taken: Arc::default(),
        }
    }

    /// Takes a place, if one is left.
    pub(super) fn take(&self) -> Option<Place> {
        // Given back at once where it is one too many.
        let place = Place(self.clone());
        (self.taken.fetch_add(1, Ordering::Relaxed) < self.max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
