//! muxs put together: which services are served, what each method requires, and which metrics the files have.
//!
//! [`run`] is the entry point: the program, the examples and the tests all use it.

mod access;
mod config;
mod metrics;
mod services;

use std::{io, time::Duration};

use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use self::{access::ScopeNames, config::Config};
use crate::server::Listener;

/// The time that the sweep gets to end, on a disk that hangs.
const SWEEP_END: Duration = Duration::from_secs(5);

/// Serves muxs on all of `listeners` until `shutdown` completes, then drains. See
/// [`Server::serve`](crate::server::Server::serve).
///
/// After [`Config::shutdown_grace`], uploads save what they have and end with UNAVAILABLE, reason DRAINING.
///
/// # Errors
///
/// The worker threads cannot be started.
pub async fn run(
    listeners: Vec<Listener>,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let stop = CancellationToken::new();
    let sweep = tokio::spawn(config.store.clone().sweep(stop.clone()));
    let mut sweep = AbortOnDropHandle::new(sweep);
    let shutdown = async {
        shutdown.await;
        stop.cancel();
    };
    let served = services::server(config).serve(listeners, shutdown).await;
    stop.cancel();
    // The end counts as clean when the store, which has the root's lock, is no longer used.
    let _ = timeout(SWEEP_END, &mut sweep).await;
    served
}
