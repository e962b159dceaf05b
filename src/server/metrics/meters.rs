//! What is counted of calls.
//!
//! Each worker counts for itself, and what they have counted is added up when somebody asks: a
//! number that all of them changed would travel from core to core with every call.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tonic::Code;

/// The codes of gRPC, 0 to 16.
pub(super) const CODES: usize = 17;

/// Up to how many seconds a call may take to count for a bucket: those that dashboards of other
/// servers have, and longer ones for streams.
pub(super) const BUCKETS: [f64; 15] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0,
];

/// A number that only grows, or that many count up and down.
#[derive(Debug, Default)]
pub(in crate::server) struct Count(AtomicU64);

impl Count {
    pub(in crate::server) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(in crate::server) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker has counted, by the number of the method.
#[derive(Debug)]
pub(in crate::server) struct Meters(Vec<Meter>);

impl Meters {
    pub(in crate::server) fn new(methods: usize) -> Self {
        Self((0..methods).map(|_| Meter::default()).collect())
    }

    pub(in crate::server) fn of(&self, method: usize) -> &Meter {
        &self.0[method]
    }
}

/// What is counted of one method.
#[derive(Debug, Default)]
pub(in crate::server) struct Meter {
    pub(in crate::server) started: Count,
    /// Messages.
    pub(in crate::server) received: Count,
    pub(in crate::server) sent: Count,
    handled: [Count; CODES],
    /// By the first of [`BUCKETS`] that a call fits, the longest last.
    seconds: [Count; BUCKETS.len() + 1],
    nanoseconds: Count,
}

impl Meter {
    pub(in crate::server) fn ended(&self, code: Code, took: Duration) {
        self.handled[code as usize].add(1);
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|most| seconds <= *most);
        self.seconds[bucket.unwrap_or(BUCKETS.len())].add(1);
        self.nanoseconds
            .add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}
