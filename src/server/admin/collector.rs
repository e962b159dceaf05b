//! The sources of all metrics.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use prometheus::proto::MetricFamily;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::server::{
    calls::Methods,
    metrics::{LimitHits, WorkerCounters},
    single_flight::SingleFlight,
    transport::ConnectionLimit,
};

/// Timeout of each collector of the embedding program. Metrics of one that takes longer are left out.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Collectors of the embedding program's own metrics.
pub(in crate::server) type Collectors = Vec<Arc<dyn Fn() -> Vec<MetricFamily> + Send + Sync>>;

/// The counters of the server, and the collectors of the embedding program.
pub(in crate::server) struct Collector {
    pub(super) methods: Methods,
    workers: Mutex<Vec<Arc<WorkerCounters>>>,
    pub(super) hits: Arc<LimitHits>,
    pub(super) connections: ConnectionLimit,
    draining: CancellationToken,
    pub(super) started_at: SystemTime,
    pub(super) others: Vec<OtherCollector>,
}

/// A collector of the embedding program.
pub(super) struct OtherCollector {
    collect: Arc<dyn Fn() -> Vec<MetricFamily> + Send + Sync>,
    running: SingleFlight<Vec<MetricFamily>>,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

impl Collector {
    pub(in crate::server) fn new(
        methods: Methods,
        hits: Arc<LimitHits>,
        connections: ConnectionLimit,
        draining: CancellationToken,
        others: Collectors,
    ) -> Self {
        let others = others.into_iter().map(|collect| OtherCollector {
            collect,
            running: SingleFlight::default(),
        });
        Self {
            methods,
            workers: Mutex::default(),
            hits,
            connections,
            draining,
            started_at: SystemTime::now(),
            others: others.collect(),
        }
    }

    /// Returns counters for one more worker.
    pub(in crate::server) fn register_worker(&self) -> Arc<WorkerCounters> {
        let hits = Arc::clone(&self.hits);
        let counters = Arc::new(WorkerCounters::new(self.methods.all().len(), hits));
        self.workers.lock().push(Arc::clone(&counters));
        counters
    }

    /// The counters of all workers.
    pub(super) fn workers(&self) -> Vec<Arc<WorkerCounters>> {
        self.workers.lock().clone()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }
}

impl OtherCollector {
    /// Runs the collector on a blocking thread: it may read from a disk.
    pub(super) async fn collect(&self) -> Vec<MetricFamily> {
        let collect = Arc::clone(&self.collect);
        let start = || spawn_blocking(move || collect());
        self.running
            .run(COLLECT_TIMEOUT, start)
            .await
            .unwrap_or_default()
    }
}
