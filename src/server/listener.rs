//! Where a server listens: a TCP address or a Unix domain socket.

use std::{
    fmt, io,
    net::SocketAddr,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener};

/// What stands in front of the path of a Unix domain socket.
const UNIX: &str = "unix:";

/// Takes in connections.
#[derive(Debug)]
pub struct Listener {
    // Before the socket is closed: from then on, the next server may replace what is at its path.
    _unlink: Option<Unlink>,
    pub(super) kind: Kind,
    /// Whether administration is served here, and no calls.
    pub(super) admin: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Removes a socket that nobody will listen to any more.
#[derive(Debug)]
struct Unlink(PathBuf);

/// Where a [`Listener`] listens, as its clients spell it, but for the scheme of a TCP address:
/// `127.0.0.1:50051` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix domain socket; None if it has none.
    Unix(Option<PathBuf>),
}

impl Listener {
    /// Listens on `host:port`, or on a Unix domain socket with `unix:PATH`. Port 0 takes a free one.
    ///
    /// A socket that a server left behind which was killed is replaced. It is removed when the
    /// listener is dropped.
    ///
    /// # Errors
    ///
    /// The system's; with [`io::ErrorKind::AddrInUse`] another server listens there.
    pub async fn bind(address: &str) -> io::Result<Self> {
        match address.strip_prefix(UNIX) {
            Some(path) => bind_unix(Path::new(path)).await,
            None => Ok(TcpListener::bind(address).await?.into()),
        }
    }

    /// Serves administration instead of calls, over HTTP/1.1, for whoever runs the server: `/metrics`
    /// for Prometheus, `/healthz` and `/readyz` for whatever restarts it or sends it clients.
    ///
    /// It is not encrypted, and tells everybody who asks: it belongs on an address that only they
    /// reach. Nothing is counted where there is none.
    #[must_use]
    pub fn for_admin(self) -> Self {
        Self {
            admin: true,
            ..self
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn address(&self) -> io::Result<Address> {
        match &self.kind {
            Kind::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Kind::Unix(listener) => {
                let address = listener.local_addr()?;
                Ok(Address::Unix(address.as_pathname().map(Path::to_owned)))
            }
        }
    }
}

async fn bind_unix(path: &Path) -> io::Result<Listener> {
    // The system would make up a name that nobody knows.
    if path.as_os_str().is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path is empty",
        ));
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(path).await => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    Ok(Listener {
        kind: Kind::Unix(listener),
        _unlink: Some(Unlink(path.to_owned())),
        admin: false,
    })
}

/// Whether a socket is there and nobody listens to it.
async fn is_left_behind(path: &Path) -> bool {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let answer = tokio::net::UnixStream::connect(path).await;
    is_socket && answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self {
            kind: Kind::Tcp(listener),
            _unlink: None,
            admin: false,
        }
    }
}

/// Its socket stays when it is dropped.
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self {
            kind: Kind::Unix(listener),
            _unlink: None,
            admin: false,
        }
    }
}

impl Drop for Unlink {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Some(path)) => write!(f, "{UNIX}{}", path.display()),
            Self::Unix(None) => write!(f, "{UNIX}(unnamed)"),
        }
    }
}
