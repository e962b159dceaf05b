//! What is counted, for whoever watches the server.
//!
//! Calls are counted by the worker that serves them (`meters`), what a limit refuses by all of them
//! together (`limits`), and what happens to files by the store. [`Metrics`] brings all of it together
//! when it is asked, and writes it down as Prometheus reads it (`families`). What no administrator
//! asks for is not counted.

mod families;
mod family;
mod limits;
mod meters;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use prometheus::{TextEncoder, proto::MetricFamily};
use tokio_util::sync::CancellationToken;

pub(super) use self::{
    limits::{Limit, Refusals},
    meters::Meters,
};
use super::{admission::Admission, calls::Methods, question::Question};
use crate::files::{self, StagedStats, Store};

/// How long the disk may take to say what is staged. What it does not say is left out.
const DISK: Duration = Duration::from_secs(2);

/// All that is known of a server in numbers.
#[derive(Debug)]
pub(super) struct Metrics {
    methods: Methods,
    workers: Mutex<Vec<Arc<Meters>>>,
    refusals: Arc<Refusals>,
    admission: Admission,
    store: Store,
    draining: CancellationToken,
    began: SystemTime,
    staged: Question<Result<StagedStats, files::Error>>,
}

impl Metrics {
    pub(super) fn new(
        methods: Methods,
        refusals: Arc<Refusals>,
        admission: Admission,
        store: Store,
        draining: CancellationToken,
    ) -> Self {
        Self {
            methods,
            workers: Mutex::default(),
            refusals,
            admission,
            store,
            draining,
            began: SystemTime::now(),
            staged: Question::default(),
        }
    }

    /// Where one more worker counts.
    pub(super) fn worker(&self) -> Arc<Meters> {
        let refusals = Arc::clone(&self.refusals);
        let meters = Arc::new(Meters::new(self.methods.all().len(), refusals));
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.push(Arc::clone(&meters));
        meters
    }

    /// Whether the server takes no further calls.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// All of it, in the text format of Prometheus.
    pub(super) async fn text(&self) -> Result<String, prometheus::Error> {
        let staged = self.staged().await;
        let families: Vec<MetricFamily> = families::families(self, staged);
        TextEncoder::new().encode_to_string(&families)
    }

    /// What is staged, if the disk says so in time.
    async fn staged(&self) -> Option<StagedStats> {
        let store = self.store.clone();
        let staged = self
            .staged
            .ask(DISK, || async move { store.staged().await });
        staged
            .await?
            .inspect_err(|error| tracing::warn!(?error, "cannot look at what is staged"))
            .ok()
    }
}
