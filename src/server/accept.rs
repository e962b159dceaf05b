//! Takes in connections, and hands them to the workers.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
};
use tokio::net::{TcpStream, UnixStream};

use super::{
    admission::{Admission, Ticket},
    listener::{Kind, Listener},
    workers::Workers,
};

/// How long to wait after a failed accept. The usual cause, no descriptors left, does not go away
/// by asking again.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// When the system asks a silent client whether it is there, how often, and how many times. It does
/// so where HTTP/2 does not get to: when bytes wait that the client does not acknowledge.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE_PROBES: u32 = 3;

/// A connection that was let in.
pub(super) struct Incoming<S = Stream> {
    pub(super) stream: S,
    pub(super) peer: Peer,
    pub(super) ticket: Ticket,
}

/// What a connection is made of.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    Unix,
}

/// Accepts for ever.
pub(super) async fn accept(listener: Listener, admission: Admission, workers: Workers) {
    loop {
        let (stream, peer) = next(&listener).await;
        match admission.ticket(peer.ip()) {
            Some(ticket) => workers.hand_over(Incoming {
                stream,
                peer,
                ticket,
            }),
            None => tracing::debug!(%peer, "closed: too many connections"),
        }
    }
}

/// Accepts one connection, however long that takes.
pub(super) async fn next(listener: &Listener) -> (Stream, Peer) {
    let mut failing = false;
    loop {
        let accepted = match &listener.kind {
            Kind::Tcp(listener) => listener.accept().await.map(|(stream, address)| {
                prepare(&stream);
                (Stream::Tcp(stream), Peer::Tcp(address))
            }),
            Kind::Unix(listener) => {
                let accepted = listener.accept().await;
                accepted.map(|(stream, _)| (Stream::Unix(stream), Peer::Unix))
            }
        };
        match accepted {
            Ok(accepted) => return accepted,
            // That of one client, who has already gone.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Once, and not ten times a second as long as it lasts.
                if !failing {
                    tracing::error!(%error, "cannot accept connections; trying again");
                }
                failing = true;
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

/// Sets what a connection should have. One that is without it is served all the same.
fn prepare(stream: &TcpStream) {
    let prepared = || -> io::Result<()> {
        // Without it a small message may wait for the acknowledgement of the one before it.
        stream.set_nodelay(true)?;
        set_socket_keepalive(stream, true)?;
        set_tcp_keepidle(stream, TCP_KEEPALIVE)?;
        set_tcp_keepintvl(stream, TCP_KEEPALIVE_INTERVAL)?;
        set_tcp_keepcnt(stream, TCP_KEEPALIVE_PROBES)?;
        Ok(())
    };
    if let Err(error) = prepared() {
        tracing::debug!(%error, "cannot set the options of a socket");
    }
}

impl Peer {
    fn ip(self) -> Option<std::net::IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}
