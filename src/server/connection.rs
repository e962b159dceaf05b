//! One HTTP/2 connection, from its first byte to its end.

use std::{
    future::{poll_fn, ready},
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, RecvStream,
    server::{self, SendResponse},
};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{coop::consume_budget, unconstrained},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::BoxError;

use super::{
    calls::CallContext,
    limits::Limits,
    metrics::{Limit, WorkerCounters},
    shutdown::Shutdown,
    timer::LazyTimeout,
    transport::{ByteCounters, ConnectionPermit, Peer, Stream, TimeoutIo, Tls},
};

/// The flow-control window of a stream: how far a client may send ahead of the handler, in bytes.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// The flow-control window of a connection: the sum of the windows of 128 streams, so that a call that does
/// not read cannot block another. Half of the window is also h2's budget for small frames, each counted as 256
/// bytes, that have been received and not yet taken by a call.
const CONNECTION_WINDOW: u32 = 128 * 1024 * 1024;

/// The largest frame that is accepted, in bytes: twice HTTP/2's default, which halves the system calls.
/// Larger ones gain nothing, and an unread frame would hold more memory.
const MAX_FRAME_BYTES: u32 = 32 * 1024;

/// The most response bytes that h2 keeps for a stream whose client does not read.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Maximum number of streams that a client may make the server reset before the connection is closed
/// (CVE-2025-8671, "MadeYouReset").
const MAX_LOCAL_RESETS: usize = 1024;

/// Maximum number of streams that a client may reset before they are accepted (CVE-2023-44487, "rapid
/// reset").
const MAX_PENDING_RESETS: usize = 50;

/// The largest header list of a request, in bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// Age at which a connection beyond the limit gets GOAWAY, and time for its calls, which are answered with BUSY.
const REFUSED_CONNECTION_AGE: Duration = Duration::from_secs(1);

/// Time without a byte in either direction after which a draining connection without calls is closed.
const IDLE_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that was accepted.
pub(super) struct Incoming<S = Stream> {
    pub(super) stream: S,
    pub(super) peer: Peer,
    pub(super) permit: ConnectionPermit,
}

/// What all connections of a worker share.
#[derive(Clone)]
pub(super) struct ConnectionContext {
    pub(super) calls: CallContext,
    pub(super) tls: Option<Tls>,
    pub(super) limits: Arc<Limits>,
    /// Time for running calls to end when their connection has reached its age.
    pub(super) grace: Duration,
    pub(super) shutdown: Shutdown,
}

impl ConnectionContext {
    /// Serves one connection in a task of its own.
    pub(super) fn serve(&self, incoming: Incoming) {
        let context = self.clone();
        // A child token, since all connections would contend for the lock of a shared one at each wakeup.
        let abort = self.shutdown.abort.child_token();
        self.shutdown.connections.spawn(async move {
            let calls = TaskTracker::new();
            abort
                .run_until_cancelled(context.handle(incoming, &calls))
                .await;
            // Calls end by themselves when their connection is gone.
            calls.close();
            calls.wait().await;
        });
    }

    async fn handle(&self, incoming: Incoming, calls: &TaskTracker) {
        let Incoming {
            stream,
            peer,
            permit,
        } = incoming;
        let is_admitted = permit.is_admitted;
        tracing::debug!(%peer, admitted = is_admitted, "connected");
        let result = match (stream, &self.tls) {
            (Stream::Unix(stream), _) => self.serve_http2(stream, peer, is_admitted, calls).await,
            (Stream::Tcp(stream), None) => self.serve_http2(stream, peer, is_admitted, calls).await,
            (Stream::Tcp(stream), Some(tls)) => {
                let handshake = timeout(self.limits.handshake_timeout, tls.accept(stream));
                match self.shutdown.draining.run_until_cancelled(handshake).await {
                    Some(Ok(Ok(stream))) => {
                        self.serve_http2(stream, peer, is_admitted, calls).await
                    }
                    Some(Ok(Err(error))) => Err(error.into()),
                    Some(Err(elapsed)) => {
                        if let Some(counters) = self.counters(is_admitted) {
                            counters.hit(Limit::HandshakeTimeout);
                        }
                        Err(elapsed.into())
                    }
                    None => Ok(()),
                }
            }
        };
        match result {
            Ok(()) => tracing::debug!(%peer, "disconnected"),
            Err(error) => tracing::debug!(%peer, error, "disconnected"),
        }
    }

    /// Serves HTTP/2 until the client closes the connection, or the server does.
    async fn serve_http2<S>(
        &self,
        stream: S,
        peer: Peer,
        is_admitted: bool,
        call_tasks: &TaskTracker,
    ) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.limits;
        let counters = self.counters(is_admitted);
        let io = TimeoutIo::new(
            stream,
            limits.handshake_timeout,
            limits.write_stall_timeout,
            counters.cloned(),
        );
        let bytes = io.byte_counters();
        let draining = self.shutdown.draining.child_token();
        let handshake = self.http2().handshake::<_, Bytes>(io);
        let Some(connection) = draining.run_until_cancelled(handshake).await else {
            return Ok(());
        };
        // A context of this connection alone, so its reference count stays on this core.
        let calls = self.calls.for_connection(peer, is_admitted);
        let served = self.serve_calls(connection?, &calls, &bytes, &draining, call_tasks);
        let Some(limit) = served.await? else {
            return Ok(());
        };
        if let Some(counters) = counters {
            counters.hit(limit);
        }
        Err(match limit {
            Limit::ShutdownGrace => "its calls did not end in time, and were aborted",
            Limit::Silence => "the client did not close the connection",
            _ => "the client did not answer a ping",
        }
        .into())
    }

    /// Accepts calls until the client closes the connection. Returns the limit that ends it before.
    async fn serve_calls<S>(
        &self,
        mut connection: server::Connection<S, Bytes>,
        calls: &Arc<CallContext>,
        bytes: &ByteCounters,
        draining: &CancellationToken,
        call_tasks: &TaskTracker,
    ) -> Result<Option<Limit>, h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let pings = connection.ping_pong().expect("taken once");
        let (max_age, age_grace) = match calls.is_admitted {
            true => (self.limits.max_connection_age.map(jitter), self.grace),
            false => (Some(REFUSED_CONNECTION_AGE), REFUSED_CONNECTION_AGE),
        };
        // The timers are unconstrained: a client that keeps the connection busy would otherwise use up the
        // task's budget before they are polled.
        let mut keepalive = pin!(unconstrained(self.keepalive(pings, bytes)));
        let mut too_old = pin!(unconstrained(sleep_or_pending(max_age)));
        let mut drained = pin!(draining.cancelled());
        let mut idle = pin!(unconstrained(wait_until_idle(call_tasks, bytes)));
        let mut grace = LazyTimeout::default();
        let mut pending_calls = PendingCalls::default();
        let mut phase = Phase::Open;
        loop {
            tokio::select! {
                biased;
                accepted = connection.accept() => match accepted {
                    Some(call) => pending_calls.push(call?),
                    None => return Ok(None),
                },
                () = ready(()), if !pending_calls.is_empty() => {
                    pending_calls.begin(calls, call_tasks).await;
                }
                // The shutdown has a grace of its own for all connections, and aborts them.
                () = &mut drained, if phase == Phase::Open => {
                    phase = Phase::Draining;
                    connection.graceful_shutdown();
                }
                () = &mut too_old, if phase == Phase::Open => {
                    phase = Phase::Draining;
                    grace.arm(age_grace);
                    connection.graceful_shutdown();
                }
                () = unconstrained(poll_fn(|cx| grace.poll(cx))) => {
                    return Ok(Some(Limit::ShutdownGrace));
                }
                () = &mut idle, if phase == Phase::Draining => return Ok(Some(Limit::Silence)),
                () = &mut keepalive => return Ok(Some(Limit::KeepaliveTimeout)),
            }
        }
    }

    /// The counters of connections that are cut. A connection beyond the limit was counted already.
    fn counters(&self, is_admitted: bool) -> Option<&Arc<WorkerCounters>> {
        self.calls.counters.as_ref().filter(|_| is_admitted)
    }

    /// Pings a silent client. Completes when a ping is not answered in time.
    async fn keepalive(&self, mut pings: PingPong, bytes: &ByteCounters) {
        loop {
            let before = bytes.received();
            sleep(self.limits.keepalive_interval).await;
            if bytes.received() != before {
                continue;
            }
            let pong = timeout(self.limits.keepalive_timeout, pings.ping(Ping::opaque()));
            // An error is that of the connection, which ends by itself.
            if pong.await.is_err() {
                return;
            }
        }
    }

    fn http2(&self) -> server::Builder {
        let mut http2 = server::Builder::new();
        http2
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .max_concurrent_streams(self.limits.max_streams)
            .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_frame_size(MAX_FRAME_BYTES);
        http2
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// GOAWAY is sent: calls that were on their way are still accepted.
    Draining,
}

/// Calls that were accepted and have not begun. All that arrived together begin together, so that responses
/// which are ready at once share a write.
#[derive(Default)]
struct PendingCalls(Vec<(Request<RecvStream>, SendResponse<Bytes>)>);

impl PendingCalls {
    fn push(&mut self, call: (Request<RecvStream>, SendResponse<Bytes>)) {
        self.0.push(call);
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    async fn begin(&mut self, calls: &Arc<CallContext>, tasks: &TaskTracker) {
        for (request, respond) in self.0.drain(..) {
            if let Some(call) = calls.begin(request, respond) {
                tasks.spawn(call);
            }
            // Yields to other tasks of this thread after many calls.
            consume_budget().await;
        }
    }
}

async fn sleep_or_pending(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Completes when a connection without calls has transferred no byte for a while: its client does not read
/// the last bytes, or does not close the connection.
async fn wait_until_idle(calls: &TaskTracker, bytes: &ByteCounters) {
    loop {
        let before = bytes.total();
        sleep(IDLE_CLOSE_TIMEOUT).await;
        if calls.is_empty() && bytes.total() == before {
            return;
        }
    }
}

/// Varies an age by up to a tenth in both directions, so that connections which began together do not end together.
fn jitter(age: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 201;
    age.mul_f64(0.9 + random as f64 / 1000.0)
}
