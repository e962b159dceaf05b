//! The counters of calls.
//!
//! Each worker has its own, which are summed at a scrape: a shared counter's cache line would move between
//! cores with every call.

use std::{sync::Arc, time::Duration};

use tonic::Code;

use super::limit::{Limit, LimitHits};
use crate::counter::Counter;

/// The number of gRPC status codes, 0 to 16.
pub(in crate::server) const CODE_COUNT: usize = 17;

/// The upper bounds of the latency histogram, in seconds: those of other servers' dashboards, and longer ones
/// for streams.
pub(in crate::server) const LATENCY_BUCKETS: [f64; 15] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0,
];

/// The counters of one worker.
#[derive(Debug)]
pub(in crate::server) struct WorkerCounters {
    /// Indexed by method id.
    methods: Vec<MethodCounters>,
    hits: Arc<LimitHits>,
}

impl WorkerCounters {
    pub(in crate::server) fn new(methods: usize, hits: Arc<LimitHits>) -> Self {
        Self {
            methods: (0..methods).map(|_| MethodCounters::default()).collect(),
            hits,
        }
    }

    /// The counters of the method with this id.
    pub(in crate::server) fn method(&self, id: usize) -> &MethodCounters {
        &self.methods[id]
    }

    /// Counts that a limit was reached.
    pub(in crate::server) fn hit(&self, limit: Limit) {
        self.hits.add(limit);
    }
}

/// The counters of one method.
#[derive(Debug, Default)]
pub(in crate::server) struct MethodCounters {
    pub(in crate::server) started: Counter,
    pub(in crate::server) messages_received: Counter,
    pub(in crate::server) messages_sent: Counter,
    /// Indexed by status code.
    pub(in crate::server) handled: [Counter; CODE_COUNT],
    /// Indexed by the first of [`LATENCY_BUCKETS`] that fits; the last is for longer calls.
    pub(in crate::server) latencies: [Counter; LATENCY_BUCKETS.len() + 1],
    pub(in crate::server) nanoseconds: Counter,
}

impl MethodCounters {
    /// Counts the end of a call.
    pub(in crate::server) fn finish(&self, code: Code, latency: Duration) {
        self.handled[code as usize].add(1);
        let seconds = latency.as_secs_f64();
        let bucket = LATENCY_BUCKETS.iter().position(|bound| seconds <= *bound);
        self.latencies[bucket.unwrap_or(LATENCY_BUCKETS.len())].add(1);
        self.nanoseconds
            .add(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }
}
