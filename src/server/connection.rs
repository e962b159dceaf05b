//! One HTTP/2 connection, from its first byte to its end.

use std::{
    future::ready,
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
use tokio_util::task::TaskTracker;

use super::{
    accept::{Incoming, Peer, Stream},
    calls::Calls,
    config::Limits,
    lifetime::Lifetime,
    metrics::{Limit, Meters},
    socket::{Moved, Socket},
    tls::Tls,
};

/// How much of one stream a client may send ahead of the handler, in bytes.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// The same for all streams of a connection: as much as the windows of the 128 it may have, so that
/// a call that does not read holds back no other. Half of it is, for h2, also the room for small
/// frames, filled up to 256 bytes each, that have come and that no call has taken in yet.
const CONNECTION_WINDOW: u32 = 128 * 1024 * 1024;

/// The largest frame that is taken in, in bytes: twice what HTTP/2 takes unless told otherwise, for
/// half the calls of the operating system. More than that gains nothing, and one that is not read
/// keeps more.
const MAX_FRAME: u32 = 32 * 1024;

/// How much of one stream is kept for a client that does not read it, in bytes.
const SEND_BUFFER: usize = 256 * 1024;

/// How many streams a client may make the server reset (CVE-2025-8671, "MadeYouReset") before the
/// connection is closed.
const MAX_LOCAL_RESETS: usize = 1024;

/// How many streams a client may reset before they are accepted (CVE-2023-44487, "rapid reset").
const MAX_PENDING_RESETS: usize = 50;

/// The most that the headers of a request may hold, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;

/// How long a client that is refused may take to ask for something and hear so.
const REFUSAL: Duration = Duration::from_secs(1);

/// How long a connection that takes no further call, and has none, waits for a client that says
/// and takes nothing.
const SILENCE: Duration = Duration::from_secs(2);

/// Serves connections. Clones share what there is.
#[derive(Clone)]
pub(super) struct Connections {
    pub(super) calls: Calls,
    pub(super) tls: Option<Tls>,
    pub(super) limits: Arc<Limits>,
    /// How long calls may go on when their connection is old.
    pub(super) grace: Duration,
    pub(super) lifetime: Lifetime,
}

impl Connections {
    /// Serves one connection in a task of its own.
    pub(super) fn serve(&self, incoming: Incoming) {
        let connections = self.clone();
        // Its own, or all connections would ask the same one whenever they are woken.
        let cut = self.lifetime.cut.child_token();
        self.lifetime.tasks.spawn(async move {
            let calls = TaskTracker::new();
            cut.run_until_cancelled(connections.drive(incoming, &calls))
                .await;
            // They notice that their connection is gone.
            calls.close();
            calls.wait().await;
        });
    }

    async fn drive(&self, incoming: Incoming, calls: &TaskTracker) {
        let Incoming {
            stream,
            peer,
            ticket,
        } = incoming;
        tracing::debug!(%peer, admitted = ticket.admitted, "connected");
        let ended = match (stream, &self.tls) {
            (Stream::Unix(stream), _) => self.speak(stream, peer, ticket.admitted, calls).await,
            (Stream::Tcp(stream), None) => self.speak(stream, peer, ticket.admitted, calls).await,
            (Stream::Tcp(stream), Some(tls)) => {
                let handshake = timeout(self.limits.handshake_timeout, tls.accept(stream));
                match self.lifetime.draining.run_until_cancelled(handshake).await {
                    Some(Ok(Ok(stream))) => self.speak(stream, peer, ticket.admitted, calls).await,
                    Some(Ok(Err(error))) => Err(error.into()),
                    Some(Err(late)) => {
                        if let Some(meters) = self.meters(ticket.admitted) {
                            meters.refused(Limit::HandshakeTimeout);
                        }
                        Err(late.into())
                    }
                    None => Ok(()),
                }
            }
        };
        match ended {
            Ok(()) => tracing::debug!(%peer, "disconnected"),
            Err(error) => tracing::debug!(%peer, error, "disconnected"),
        }
    }

    /// Speaks HTTP/2 until the client goes, or has no more business here.
    async fn speak<S>(
        &self,
        stream: S,
        peer: Peer,
        admitted: bool,
        tasks: &TaskTracker,
    ) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.limits;
        let meters = self.meters(admitted);
        let refused = |limit| {
            if let Some(meters) = meters {
                meters.refused(limit);
            }
        };
        let socket = Socket::new(
            stream,
            limits.handshake_timeout,
            limits.write_stall_timeout,
            meters.cloned(),
        );
        let moved = socket.moved();
        // Counted for this connection alone, and so on this core.
        let calls = self.calls.of(peer, admitted);
        let (age, grace) = match admitted {
            true => (limits.max_connection_age.map(jittered), self.grace),
            false => (Some(REFUSAL), REFUSAL),
        };
        let handshake = self.http2().handshake::<_, Bytes>(socket);
        let draining = self.lifetime.draining.child_token();
        let Some(connection) = draining.run_until_cancelled(handshake).await else {
            return Ok(());
        };
        let mut connection = connection?;
        let pings = connection.ping_pong().expect("it is asked for once");
        // All that has come begins together, so that what is answered at once leaves together.
        let mut come: Vec<(Request<RecvStream>, SendResponse<Bytes>)> = Vec::new();
        let begin = async |come: &mut Vec<_>| {
            for (request, respond) in come.drain(..) {
                if let Some(call) = calls.begin(request, respond) {
                    tasks.spawn(call);
                }
                // After so many, the others of this thread have their turn.
                consume_budget().await;
            }
        };
        // Unconstrained: else a client that keeps the connection busy could keep them from being
        // asked.
        let mut gone = pin!(unconstrained(self.gone(pings, &moved)));
        let mut old = pin!(unconstrained(passed(age)));
        let mut drained = pin!(draining.cancelled());
        let grace = loop {
            tokio::select! {
                biased;
                accepted = connection.accept() => match accepted {
                    Some(call) => come.push(call?),
                    None => return Ok(()),
                },
                () = ready(()), if !come.is_empty() => begin(&mut come).await,
                // The drain has a grace of its own for all of them, and cuts.
                () = &mut drained => break None,
                () = &mut old => break Some(grace),
                () = &mut gone => {
                    refused(Limit::KeepaliveTimeout);
                    return Err("it does not answer".into());
                }
            }
        };
        connection.graceful_shutdown();
        let mut late = pin!(unconstrained(passed(grace)));
        let mut silent = pin!(unconstrained(silence(tasks, &moved)));
        loop {
            tokio::select! {
                biased;
                accepted = connection.accept() => match accepted {
                    // It was on its way.
                    Some(call) => come.push(call?),
                    None => return Ok(()),
                },
                () = ready(()), if !come.is_empty() => begin(&mut come).await,
                () = &mut late => {
                    refused(Limit::ShutdownGrace);
                    return Err("its calls did not end in time".into());
                }
                () = &mut silent => {
                    refused(Limit::Silence);
                    return Err("it did not go by itself".into());
                }
                () = &mut gone => {
                    refused(Limit::KeepaliveTimeout);
                    return Err("it does not answer".into());
                }
            }
        }
    }

    /// Where it is counted if a connection is cut. One that was refused has been.
    fn meters(&self, admitted: bool) -> Option<&Arc<Meters>> {
        self.calls.meters.as_ref().filter(|_| admitted)
    }

    /// Completes when the client does not answer whether it is there.
    async fn gone(&self, mut pings: PingPong, moved: &Moved) {
        loop {
            let before = moved.received();
            sleep(self.limits.keepalive_interval).await;
            if moved.received() != before {
                continue;
            }
            let answer = timeout(self.limits.keepalive_timeout, pings.ping(Ping::opaque()));
            // An error is that of the connection, which ends by itself.
            if answer.await.is_err() {
                return;
            }
        }
    }

    fn http2(&self) -> server::Builder {
        let mut http2 = server::Builder::new();
        http2
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_streams(self.limits.max_streams)
            .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_header_list_size(MAX_HEADERS)
            .max_frame_size(MAX_FRAME);
        http2
    }
}

/// Completes after a time; without one, never.
async fn passed(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Completes when a connection without calls has moved nothing for a while: its client does not
/// take the last bytes, or does not acknowledge that it may go.
async fn silence(calls: &TaskTracker, moved: &Moved) {
    loop {
        let before = moved.bytes();
        sleep(SILENCE).await;
        if calls.is_empty() && moved.bytes() == before {
            return;
        }
    }
}

/// Ages of connections that began together do not end together.
fn jittered(age: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 201;
    age.mul_f64(0.9 + random as f64 / 1000.0)
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
