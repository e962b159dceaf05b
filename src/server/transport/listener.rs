//! TCP addresses and Unix domain sockets that a server listens on.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::SocketAddr,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::peer::{Peer, Stream};

/// The prefix of addresses that are paths of Unix domain sockets.
const UNIX_PREFIX: &str = "unix:";

/// Pause after a failed accept. The usual cause, no free file descriptors, does not pass at once.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// TCP keepalive: idle time before the first probe, pause between probes, number of probes. It covers what
/// HTTP/2 keepalive cannot: sent bytes that the client does not acknowledge.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE_PROBES: u32 = 3;

/// Accepts connections.
#[derive(Debug)]
pub struct Listener {
    // The path is unlinked before the socket is closed: from then on, the next server may bind it.
    _unlink: Option<UnlinkOnDrop>,
    kind: ListenerKind,
    is_admin: bool,
}

#[derive(Debug)]
enum ListenerKind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Removes the path of a Unix domain socket.
#[derive(Debug)]
struct UnlinkOnDrop(PathBuf);

/// Where a [`Listener`] listens: `127.0.0.1:50051` or `unix:PATH`, as clients write it without the scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix domain socket; None for an unnamed socket.
    Unix(Option<PathBuf>),
}

impl Listener {
    /// Listens on `host:port`, or on a Unix domain socket with `unix:PATH`. Port 0 takes a free port.
    ///
    /// The socket file of a server that was killed is replaced. The socket file is removed when the listener
    /// is dropped.
    ///
    /// # Errors
    ///
    /// Those of the operating system; [`ErrorKind::AddrInUse`] if another server listens there.
    pub async fn bind(address: &str) -> io::Result<Self> {
        match address.strip_prefix(UNIX_PREFIX) {
            Some(path) => bind_unix(Path::new(path)).await,
            None => Ok(TcpListener::bind(address).await?.into()),
        }
    }

    /// Serves administration over HTTP/1.1 instead of calls: `/metrics` for Prometheus, `/healthz` for
    /// liveness probes, `/readyz` for readiness probes.
    ///
    /// The connection is neither encrypted nor authenticated, so the address must be reachable by
    /// administrators only. A server without such a listener counts no calls.
    #[must_use]
    pub fn for_admin(self) -> Self {
        Self {
            is_admin: true,
            ..self
        }
    }

    /// Returns the address that the listener is bound to.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn address(&self) -> io::Result<Address> {
        match &self.kind {
            ListenerKind::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            ListenerKind::Unix(listener) => {
                let address = listener.local_addr()?;
                Ok(Address::Unix(address.as_pathname().map(Path::to_owned)))
            }
        }
    }
}

impl Listener {
    pub(in crate::server) fn is_admin(&self) -> bool {
        self.is_admin
    }

    /// Accepts the next connection, and retries after errors.
    pub(in crate::server) async fn accept(&self) -> (Stream, Peer) {
        let mut is_failing = false;
        loop {
            match self.try_accept().await {
                Ok(accepted) => return accepted,
                // The client has closed its connection already.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // One line for the whole outage, not ten a second.
                    if !is_failing {
                        tracing::error!(%error, "cannot accept connections; retrying");
                    }
                    is_failing = true;
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    async fn try_accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.kind {
            ListenerKind::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // A connection without these options is served all the same.
                if let Err(error) = set_options(&stream) {
                    tracing::debug!(%error, "cannot set socket options");
                }
                Ok((Stream::Tcp(stream), Peer::Tcp(address)))
            }
            ListenerKind::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), Peer::Unix))
            }
        }
    }
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    // Nagle's algorithm would delay a small message until the one before it is acknowledged.
    stream.set_nodelay(true)?;
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, TCP_KEEPALIVE)?;
    set_tcp_keepintvl(stream, TCP_KEEPALIVE_INTERVAL)?;
    set_tcp_keepcnt(stream, TCP_KEEPALIVE_PROBES)?;
    Ok(())
}

async fn bind_unix(path: &Path) -> io::Result<Listener> {
    // The system would choose an abstract name that no client knows.
    if path.as_os_str().is_empty() {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "the path after unix: is empty",
        ));
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_stale(path).await => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    Ok(Listener {
        kind: ListenerKind::Unix(listener),
        _unlink: Some(UnlinkOnDrop(path.to_owned())),
        is_admin: false,
    })
}

/// Whether the path is a socket without a listening process.
async fn is_stale(path: &Path) -> bool {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let answer = UnixStream::connect(path).await;
    is_socket && answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self {
            kind: ListenerKind::Tcp(listener),
            _unlink: None,
            is_admin: false,
        }
    }
}

/// The socket file stays when the listener is dropped.
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self {
            kind: ListenerKind::Unix(listener),
            _unlink: None,
            is_admin: false,
        }
    }
}

impl Drop for UnlinkOnDrop {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Some(path)) => write!(f, "{UNIX_PREFIX}{}", path.display()),
            Self::Unix(None) => write!(f, "{UNIX_PREFIX}(unnamed)"),
        }
    }
}
