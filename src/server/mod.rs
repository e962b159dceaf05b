//! Serves the contract over HTTP/2.
//!
//! [`run`] is the only door. It owns the accept loop (`accept`) and each connection (`connection`);
//! what is served, and the health of it, is put together in `services`.

mod accept;
mod config;
mod connection;
mod services;

use std::future::Future;

use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::config::Config;
use self::connection::Connections;

/// Serves calls on all of `listeners` until `shutdown` completes, then drains.
///
/// Draining: health says NOT_SERVING and ends its watches, the listeners are closed, each client is told to open no
/// further call (GOAWAY), and calls under way get [`Config::shutdown_grace`] to end. Then what is
/// still open is cut. So this returns at the latest a moment after that grace, whatever a client
/// does.
///
/// Needs a Tokio runtime with time and I/O enabled. Dropping the future cuts everything at once.
pub async fn run(listeners: Vec<TcpListener>, config: Config, shutdown: impl Future<Output = ()>) {
    let (routes, health) = services::services(config.store).await;
    let tasks = TaskTracker::new();
    let (draining, cut) = (CancellationToken::new(), CancellationToken::new());
    let _cut_when_dropped = cut.clone().drop_guard();

    let connections = Connections::new(routes, tasks.clone(), draining.clone(), cut.clone());
    // Cut with the connections, or alone when the drain begins.
    let accepting = cut.child_token();
    for listener in listeners {
        let accept = accept::accept(listener, connections.clone());
        tasks.spawn(accepting.clone().run_until_cancelled_owned(accept));
    }
    shutdown.await;

    services::stop_serving(health).await;
    accepting.cancel();
    draining.cancel();
    tasks.close();
    tracing::info!(grace = ?config.shutdown_grace, "draining");
    if tokio::time::timeout(config.shutdown_grace, tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!("cutting the calls that did not end in time");
        cut.cancel();
        tasks.wait().await;
    }
}
