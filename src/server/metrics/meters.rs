//! What is counted of calls.
//!
//! Each worker counts for itself, and what they have counted is added up when somebody asks: a
//! number that all of them changed would travel from core to core with every call.

use std::{sync::Arc, time::Duration};

use tonic::Code;

use super::{Limit, Refusals};
use crate::counter::Counter;

/// The codes of gRPC, 0 to 16.
pub(super) const CODES: usize = 17;

/// Up to how many seconds a call may take to count for a bucket: those that dashboards of other
/// servers have, and longer ones for streams.
pub(super) const BUCKETS: [f64; 15] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0,
];

/// What one worker has counted.
#[derive(Debug)]
pub(in crate::server) struct Meters {
    /// By the number of the method.
    methods: Vec<Meter>,
    refusals: Arc<Refusals>,
}

impl Meters {
    pub(in crate::server) fn new(methods: usize, refusals: Arc<Refusals>) -> Self {
        Self {
            methods: (0..methods).map(|_| Meter::default()).collect(),
            refusals,
        }
    }

    pub(in crate::server) fn of(&self, method: usize) -> &Meter {
        &self.methods[method]
    }

    /// Counts what a limit has refused or cut.
    pub(in crate::server) fn refused(&self, limit: Limit) {
        self.refusals.add(limit);
    }
}

/// What is counted of one method.
#[derive(Debug, Default)]
pub(in crate::server) struct Meter {
    pub(in crate::server) started: Counter,
    /// Messages.
    pub(in crate::server) received: Counter,
    pub(in crate::server) sent: Counter,
    pub(in crate::server) handled: [Counter; CODES],
    /// By the first of [`BUCKETS`] that a call fits, the longest last.
    pub(super) seconds: [Counter; BUCKETS.len() + 1],
    pub(super) nanoseconds: Counter,
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
