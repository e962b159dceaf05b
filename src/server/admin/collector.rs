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

use crate::{
    metric_family::Family,
    server::{
        calls::Methods,
        metrics::{LimitHits, WorkerCounters},
        single_flight::SingleFlight,
        transport::ConnectionLimit,
    },
};

/// Timeout of each collector of the embedding program. Metrics of one that takes longer are left out.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A source of further metrics.
pub(in crate::server) enum Collect {
    /// Reads counters in memory.
    Inline(Box<dyn Fn() -> Vec<Family> + Send + Sync>),
    /// May block or fail.
    Blocking(Arc<dyn Fn() -> Vec<MetricFamily> + Send + Sync>),
}

/// The counters of the server, and the collectors of the embedding program.
pub(in crate::server) struct Collector {
    pub(super) methods: Methods,
    workers: Mutex<Vec<Arc<WorkerCounters>>>,
    pub(super) hits: Arc<LimitHits>,
    pub(super) connections: ConnectionLimit,
    draining: CancellationToken,
    pub(super) started_at: SystemTime,
    pub(super) inline: Vec<Box<dyn Fn() -> Vec<Family> + Send + Sync>>,
    pub(super) blocking: Vec<BlockingCollector>,
}

/// A collector that runs on a blocking thread, once at a time.
pub(super) struct BlockingCollector {
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
        collectors: Vec<Collect>,
    ) -> Self {
        let (mut inline, mut blocking) = (Vec::new(), Vec::new());
        for collect in collectors {
            match collect {
                Collect::Inline(collect) => inline.push(collect),
                Collect::Blocking(collect) => blocking.push(BlockingCollector {
                    collect,
                    running: SingleFlight::default(),
                }),
            }
        }
        Self {
            methods,
            workers: Mutex::default(),
            hits,
            connections,
            draining,
            started_at: SystemTime::now(),
            inline,
            blocking,
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

impl BlockingCollector {
    /// Returns no metrics after [`COLLECT_TIMEOUT`].
    pub(super) async fn collect(&self) -> Vec<MetricFamily> {
        let collect = Arc::clone(&self.collect);
        let start = || spawn_blocking(move || collect());
        self.running
            .run(COLLECT_TIMEOUT, start)
            .await
            .unwrap_or_default()
    }
}
