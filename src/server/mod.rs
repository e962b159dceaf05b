//! Serves the contract over HTTP/2.
//!
//! [`run`] is the only door. Connections come in by `accept`, as far as `admission` has room for
//! them, and are handed to one of the `workers`, each a thread with a runtime of its own. There
//! `connection` speaks HTTP/2 over TLS (`tls`) or without, and `calls` is what every call goes
//! through on its way to the routes of `services` and back. `socket` and `wait` bound how long a
//! client is waited for; `lifetime` is how all of it ends, `heartbeat` how others see that it goes on.
//! `admin` tells whoever runs the server how it is, with what `metrics` has counted.
//!
//! All this stands in place of `tonic::transport::Server`, which leaves a server to the goodwill of
//! its clients: it waits for ever for the first byte, cuts no stream at its deadline, knows no limit
//! for connections, and its drain is over when the last client likes. hyper, which it speaks HTTP/2
//! with, keeps what a handler has not read in pieces of larger buffers: a few bytes can hold
//! gigabytes. So this speaks HTTP/2 with h2 itself, the crate below hyper.

mod accept;
mod admin;
mod admission;
mod auth;
mod calls;
mod config;
mod connection;
mod heartbeat;
mod lifetime;
mod listener;
mod metrics;
mod question;
mod services;
mod socket;
mod tls;
mod wait;
mod workers;

use std::{io, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use self::{
    admin::Admin,
    admission::Admission,
    auth::Gate,
    calls::{Calls, Room},
    connection::Connections,
    lifetime::Lifetime,
    metrics::{Metrics, Refusals},
    workers::Workers,
};
pub use self::{
    auth::{Auth, AuthError, AuthSettings, KeySource, ScopeNames},
    config::{Config, Limits, Reflection},
    heartbeat::Heartbeat,
    listener::{Address, Listener},
    tls::{ClientAuth, Tls, TlsError, TlsFiles},
};
use crate::files::{FileService, MAX_CHUNK_BYTES};

/// How long uploads get to make durable what they have, once the grace is over. A disk that takes
/// longer is not waited for.
const LAST_CHECKPOINTS: Duration = Duration::from_secs(10);

/// How long the word that they have done so may take to get to their clients.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves calls on all of `listeners` until `shutdown` completes, then drains. Those
/// [for administration](Listener::for_admin) are there to the end of that. `shutdown` is first polled
/// when calls are served.
///
/// Draining: health says NOT_SERVING and ends its watches, the listeners are closed, each client is
/// told to open no further call (GOAWAY), and calls under way get [`Config::shutdown_grace`] to
/// end. Then uploads make durable what they have and end (UNAVAILABLE, reason DRAINING), and what
/// is still open is cut. So this returns at the latest a moment after that grace, or some seconds
/// where the disk is slow, whatever a client does.
///
/// Needs a Tokio runtime with time and I/O enabled, which accepts the connections; they are served
/// by threads of their own. Dropping the future cuts everything at once.
///
/// # Errors
///
/// Those threads cannot be started.
pub async fn run(
    listeners: Vec<Listener>,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let lifetime = Lifetime::default();
    let _end = lifetime.ended_when_dropped();
    // Cut with the connections, or alone when the drain begins.
    let accepting = lifetime.cut.child_token();
    let sweep = config.store.clone().sweep();
    let sweep = accepting.clone().run_until_cancelled_owned(sweep);
    lifetime.tasks.spawn(sweep);
    if let Some(auth) = &config.auth {
        let refresh = auth.keys.clone().refresh();
        let refresh = accepting.clone().run_until_cancelled_owned(refresh);
        lifetime.tasks.spawn(refresh);
    }

    let files = FileService {
        store: config.store,
        chunk_bytes: config.chunk_bytes.clamp(1, MAX_CHUNK_BYTES),
        tasks: lifetime.uploads.clone(),
        ending: lifetime.ending.clone(),
    };
    let health = services::serving().await;
    let refusals = Arc::<Refusals>::default();
    let admission = Admission::new(&config.limits, Arc::clone(&refusals));
    let (admin, listeners): (Vec<_>, Vec<_>) = listeners.into_iter().partition(|it| it.admin);
    let metrics = Arc::new(Metrics::new(
        services::methods(config.reflection),
        refusals,
        admission.clone(),
        files.store.clone(),
        lifetime.draining.clone(),
    ));
    let limits = Arc::new(config.limits);
    let room = Room::new(limits.max_calls);
    let connections = || Connections {
        calls: Calls {
            meters: (!admin.is_empty()).then(|| metrics.worker()),
            gate: config.auth.as_ref().map(Gate::new).map(Arc::new),
            #[cfg(feature = "otel")]
            tracer: config.tracer.clone(),
            ..Calls::new(
                services::routes(files.clone(), health.clone(), config.reflection),
                services::methods(config.reflection),
                room.clone(),
                Arc::clone(&limits),
            )
        },
        tls: config.tls.clone(),
        limits: Arc::clone(&limits),
        grace: config.shutdown_grace,
        lifetime: lifetime.clone(),
    };
    let (workers, workers_ended) = Workers::start(config.workers, connections)?;
    for listener in listeners {
        let accept = accept::accept(listener, admission.clone(), workers.clone());
        let accept = accepting.clone().run_until_cancelled_owned(accept);
        lifetime.tasks.spawn(accept);
    }
    if let Some(heartbeat) = config.heartbeat {
        let beating = heartbeat.keep_beating(workers.clone());
        // None of the tasks that a drain waits for.
        tokio::spawn(lifetime.cut.clone().run_until_cancelled_owned(beating));
    }
    // Dropped, and so ended, with this.
    let mut administration = JoinSet::new();
    for listener in admin {
        let keys = config.auth.as_ref().map(|auth| auth.keys.clone());
        let admin = Admin::new(Arc::clone(&metrics), workers.clone(), keys);
        administration.spawn(admin.serve(listener));
    }
    drop(workers);
    shutdown.await;

    services::stop_serving(health).await;
    accepting.cancel();
    lifetime.drain();
    tracing::info!(grace = ?config.shutdown_grace, "draining");
    if timeout(config.shutdown_grace, lifetime.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!("cutting the calls that did not end in time");
    }
    if !lifetime.uploads.is_empty() {
        lifetime.ending.cancel();
        if timeout(LAST_CHECKPOINTS, lifetime.uploads.wait())
            .await
            .is_err()
        {
            tracing::error!("the disk does not answer: what uploads sent last may be lost");
        }
        // If it takes longer, they are cut like the others.
        let _ = timeout(FAREWELL, lifetime.tasks.wait()).await;
    }
    lifetime.cut.cancel();
    lifetime.tasks.wait().await;
    if lifetime.uploads.is_empty() {
        workers_ended.wait().await;
    }
    administration.shutdown().await;
    Ok(())
}
