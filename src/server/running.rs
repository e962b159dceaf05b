//! A server from its start to the end of its drain.

use std::{io, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    accept::accept,
    admin::{Admin, Collector},
    auth::Authenticator,
    builder::Server,
    calls::{CallContext, CallLimit},
    connection::ConnectionContext,
    metrics::LimitHits,
    services::Health,
    shutdown::{ABORT_TIMEOUT, AbortOnDrop, BACKGROUND_GRACE, STATUS_FLUSH_GRACE, Shutdown},
    transport::{ConnectionLimit, Listener},
    workers::{Workers, WorkersDone},
};

impl Server {
    /// Serves calls on all of `listeners` until `shutdown` completes, then drains. Admin listeners
    /// ([`Listener::for_admin`]) answer until the drain has ended. `shutdown` is first polled when calls are
    /// served.
    ///
    /// The drain: health reports NOT_SERVING and ends its watches, the listeners are closed, each client is
    /// asked to open no further calls (GOAWAY), and running calls get [`Server::shutdown_grace`] to end. Then
    /// the [`Background`](super::Background) tasks are asked to stop, and get 10 s. Then the connections are
    /// aborted; background tasks that still run end with their threads. So this returns at the latest some seconds
    /// after these times, whatever clients do.
    ///
    /// Requires a Tokio runtime with time and I/O enabled, which accepts the connections. Dropping the future
    /// aborts the connections at once.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`]: a policy names no service, or a descriptor set is invalid. Others:
    /// the threads cannot be started.
    pub async fn serve(
        self,
        listeners: Vec<Listener>,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let running = RunningServer::start(self, listeners).await?;
        shutdown.await;
        running.drain().await;
        Ok(())
    }
}

/// A server that accepts calls. Dropping it aborts everything.
struct RunningServer {
    shutdown: Shutdown,
    shutdown_grace: Duration,
    /// Cancelled when the drain begins, or with the server.
    accepting: CancellationToken,
    health: Health,
    workers_done: WorkersDone,
    /// The admin listeners. They end when this is dropped.
    admin: JoinSet<()>,
    _abort_on_drop: AbortOnDrop,
}

impl RunningServer {
    /// Starts the workers, then the listeners.
    async fn start(server: Server, listeners: Vec<Listener>) -> io::Result<Self> {
        let services = server.services.build().await;
        let services =
            services.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let shutdown = Shutdown::new(server.background);
        let abort_on_drop = shutdown.abort_on_drop();
        let accepting = shutdown.abort.child_token();
        let hits = Arc::<LimitHits>::default();
        let connection_limit = ConnectionLimit::new(&server.limits, Arc::clone(&hits));
        let collector = Arc::new(Collector::new(
            services.methods.clone(),
            hits,
            connection_limit.clone(),
            shutdown.draining.clone(),
            server.collectors,
        ));
        let (admin, listeners): (Vec<_>, Vec<_>) =
            listeners.into_iter().partition(Listener::is_admin);

        let limits = Arc::new(server.limits);
        let call_limit = CallLimit::new(limits.max_calls);
        let context = || ConnectionContext {
            calls: CallContext {
                counters: (!admin.is_empty()).then(|| collector.register_worker()),
                authenticator: server.auth.as_ref().map(Authenticator::new).map(Arc::new),
                #[cfg(feature = "otel")]
                tracer: server.tracer.clone(),
                ..CallContext::new(
                    services.routes(),
                    services.methods.clone(),
                    call_limit.clone(),
                    Arc::clone(&limits),
                )
            },
            tls: server.tls.clone(),
            limits: Arc::clone(&limits),
            grace: server.shutdown_grace,
            shutdown: shutdown.clone(),
        };
        let (workers, workers_done) = Workers::start(server.threads, context)?;

        if let Some(auth) = &server.auth {
            spawn_while_accepting(&accepting, &shutdown, auth.keys.clone().refresh());
        }
        for listener in listeners {
            let accept = accept(listener, connection_limit.clone(), workers.clone());
            spawn_while_accepting(&accepting, &shutdown, accept);
        }
        if let Some(heartbeat) = server.heartbeat {
            let beating = workers.clone().keep_beating(heartbeat);
            // The drain does not wait for this task.
            tokio::spawn(shutdown.abort.clone().run_until_cancelled_owned(beating));
        }
        let mut admin_tasks = JoinSet::new();
        for listener in admin {
            let keys = server.auth.as_ref().map(|auth| auth.keys.clone());
            let admin = Admin::new(Arc::clone(&collector), workers.clone(), keys);
            admin_tasks.spawn(admin.serve(listener));
        }
        Ok(Self {
            shutdown,
            shutdown_grace: server.shutdown_grace,
            accepting,
            health: services.health,
            workers_done,
            admin: admin_tasks,
            _abort_on_drop: abort_on_drop,
        })
    }

    /// Ends the calls, then the background tasks, then aborts what is left.
    async fn drain(mut self) {
        let shutdown = &self.shutdown;
        self.health.stop().await;
        self.accepting.cancel();
        shutdown.drain();
        tracing::info!(grace = ?self.shutdown_grace, "draining");
        let calls = timeout(self.shutdown_grace, shutdown.connections.wait());
        if calls.await.is_err() {
            tracing::warn!("aborting the calls that did not end in time");
        }
        let background = &shutdown.background;
        if !background.tasks.is_empty() {
            background.stop.cancel();
            let tasks = timeout(BACKGROUND_GRACE, background.tasks.wait());
            if tasks.await.is_err() {
                tracing::error!(
                    "background tasks did not stop in time: their unsaved data may be lost"
                );
            }
            // Connections that take longer are aborted like the others.
            let _ = timeout(STATUS_FLUSH_GRACE, shutdown.connections.wait()).await;
        }
        shutdown.abort.cancel();
        let aborted = async {
            shutdown.connections.wait().await;
            if background.tasks.is_empty() {
                self.workers_done.wait().await;
            }
        };
        if timeout(ABORT_TIMEOUT, aborted).await.is_err() {
            tracing::error!("a handler still blocks its thread; stopping without waiting for it");
        }
        self.admin.shutdown().await;
    }
}

/// Spawns a task that ends when the drain begins, and that the drain waits for.
fn spawn_while_accepting(
    accepting: &CancellationToken,
    shutdown: &Shutdown,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let task = accepting.clone().run_until_cancelled_owned(task);
    shutdown.connections.spawn(task);
}
