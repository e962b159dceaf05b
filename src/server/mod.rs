//! Serves the contract over HTTP/2.
//!
//! [`run`] is the only door. It owns the accept loop (`accept`) and each connection (`connection`);
//! what is served, and the health of it, is put together in `services`.

mod accept;
mod config;
mod connection;
mod services;

use std::time::Duration;

use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::config::Config;
use self::connection::Connections;
use crate::files::{Files, MAX_CHUNK_BYTES};

/// How long uploads get to make durable what they have, once the grace is over. A disk that takes
/// longer is not waited for.
const LAST_CHECKPOINTS: Duration = Duration::from_secs(10);

/// How long the word that they have done so may take to get to their clients.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves calls on all of `listeners` until `shutdown` completes, then drains.
///
/// Draining: health says NOT_SERVING and ends its watches, the listeners are closed, each client is
/// told to open no further call (GOAWAY), and calls under way get [`Config::shutdown_grace`] to
/// end. Then uploads make durable what they have and end (UNAVAILABLE, reason DRAINING), and what
/// is still open is cut. So this returns at the latest a moment after that grace, or some seconds
/// where the disk is slow, whatever a client does.
///
/// Needs a Tokio runtime with time and I/O enabled. Dropping the future cuts everything at once.
pub async fn run(listeners: Vec<TcpListener>, config: Config, shutdown: impl Future<Output = ()>) {
    let (tasks, uploads) = (TaskTracker::new(), TaskTracker::new());
    let (draining, ending, cut) = (
        CancellationToken::new(),
        CancellationToken::new(),
        CancellationToken::new(),
    );
    let _cut_when_dropped = cut.clone().drop_guard();
    // Cut with the connections, or alone when the drain begins.
    let accepting = cut.child_token();
    let until_draining = accepting.clone();
    tasks.spawn(until_draining.run_until_cancelled_owned(config.store.clone().sweep()));

    let files = Files {
        store: config.store,
        chunk_bytes: config.chunk_bytes.clamp(1, MAX_CHUNK_BYTES),
        tasks: uploads.clone(),
        ending: ending.clone(),
    };
    let (routes, health) = services::services(files).await;
    let connections = Connections::new(routes, tasks.clone(), draining.clone(), cut.clone());
    for listener in listeners {
        let accept = accept::accept(listener, connections.clone());
        tasks.spawn(accepting.clone().run_until_cancelled_owned(accept));
    }
    shutdown.await;

    services::stop_serving(health).await;
    accepting.cancel();
    draining.cancel();
    tasks.close();
    uploads.close();
    tracing::info!(grace = ?config.shutdown_grace, "draining");
    if timeout(config.shutdown_grace, tasks.wait()).await.is_err() {
        tracing::warn!("cutting the calls that did not end in time");
    }
    if !uploads.is_empty() {
        ending.cancel();
        if timeout(LAST_CHECKPOINTS, uploads.wait()).await.is_err() {
            tracing::error!("the disk does not answer: what uploads sent last may be lost");
        }
        // If it takes longer, they are cut like the others.
        let _ = timeout(FAREWELL, tasks.wait()).await;
    }
    cut.cancel();
    tasks.wait().await;
}
