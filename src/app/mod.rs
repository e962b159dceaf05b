//! muxs put together: which services are served, what each method requires, and which metrics the files have.
//!
//! [`run`] is the entry point: the program, the examples and the tests all use it.

mod access;
mod config;
mod metrics;
mod services;

use std::io;

use tokio_util::task::AbortOnDropHandle;

pub use self::{access::ScopeNames, config::Config};
use crate::server::Listener;

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
    let sweep = AbortOnDropHandle::new(tokio::spawn(config.store.clone().sweep()));
    let shutdown = async {
        shutdown.await;
        drop(sweep);
    };
    services::server(config).serve(listeners, shutdown).await
}
