//! One HTTP/2 connection, from its first byte to its end.

use std::{net::SocketAddr, pin::pin};

use futures::future::{Either, select};
use hyper::{rt::Executor, server::conn::http2};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::net::TcpStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

/// How much of one stream a client may send ahead of the handler, in bytes.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// The same for all streams of a connection. It limits nothing that the windows of the streams do
/// not: it is there because h2 closes a connection (`too_many_data_frames`) when its unread small
/// frames, filled up to 256 bytes each, exceed half of this. A whole stream window of the smallest
/// messages, 5 bytes each, makes 50 MiB.
const CONNECTION_WINDOW: u32 = 128 * 1024 * 1024;

/// How much of one stream is kept for a client that does not read it, in bytes.
const SEND_BUFFER: usize = 256 * 1024;

/// Calls at a time on one connection; further ones wait at the client.
const MAX_STREAMS: u32 = 128;

/// How many streams a client may make the server reset (CVE-2025-8671, "MadeYouReset") before the
/// connection is closed.
const MAX_LOCAL_RESETS: usize = 1024;

/// How many streams a client may reset before they are accepted (CVE-2023-44487, "rapid reset").
const MAX_PENDING_RESETS: usize = 50;

/// The most that the headers of a request may hold, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;

/// What every connection of a server shares.
#[derive(Clone)]
pub(super) struct Connections {
    http2: http2::Builder<Tasks>,
    routes: Routes,
    tasks: TaskTracker,
    draining: CancellationToken,
    cut: CancellationToken,
}

impl Connections {
    /// Connections whose tasks, and those of their calls, are in `tasks`. At `draining` they take
    /// no new call and end when the last has; at `cut` they end.
    pub(super) fn new(
        routes: Routes,
        tasks: TaskTracker,
        draining: CancellationToken,
        cut: CancellationToken,
    ) -> Self {
        let mut http2 = http2::Builder::new(Tasks(tasks.clone()));
        http2
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_concurrent_streams(MAX_STREAMS)
            .max_local_error_reset_streams(MAX_LOCAL_RESETS)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_header_list_size(MAX_HEADERS);
        Self {
            http2,
            routes,
            tasks,
            draining,
            cut,
        }
    }

    /// Serves one connection in a task of its own.
    pub(super) fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        let connection = self.clone().drive(stream, peer);
        self.tasks
            .spawn(self.cut.clone().run_until_cancelled_owned(connection));
    }

    async fn drive(self, stream: TcpStream, peer: SocketAddr) {
        // Without it a small message may wait for the acknowledgement of the one before it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let service = TowerToHyperService::new(self.routes);
        let mut connection = pin!(self.http2.serve_connection(TokioIo::new(stream), service));
        tracing::debug!(%peer, "connected");
        let draining = pin!(self.draining.cancelled());
        let ended = match select(connection.as_mut(), draining).await {
            Either::Left((ended, _)) => ended,
            Either::Right(_) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        match ended {
            Ok(()) => tracing::debug!(%peer, "disconnected"),
            Err(error) => tracing::debug!(%peer, %error, "disconnected"),
        }
    }
}

/// Runs the calls of a connection in tasks that the drain waits for.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.0.spawn(call);
    }
}
