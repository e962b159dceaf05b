//! The counters of calls and limits. `admin` exports them.

mod counters;
mod limit;

pub(super) use self::{
    counters::{CODE_COUNT, LATENCY_BUCKETS, MethodCounters, WorkerCounters},
    limit::{Limit, LimitHits},
};
