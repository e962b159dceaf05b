//! Socket activation: listening sockets inherited from the service manager (`sd_listen_fds(3)`).
//!
//! They stay open while the server restarts, so that no client is refused.

use std::{env, io, iter, net, os::unix};

use anyhow::{Context, bail, ensure};
use listenfd::ListenFd;
use muxs::server::Listener;
use rustix::net::sockopt::socket_acceptconn;

/// The name of the socket for administrators.
const ADMIN_SOCKET_NAME: &str = "admin";

/// A listening socket inherited from the service manager.
pub(crate) struct InheritedSocket {
    /// The socket's `FileDescriptorName=`, by default the name of its unit.
    pub(crate) name: String,
    listener: InheritedListener,
}

enum InheritedListener {
    Tcp(net::TcpListener),
    Unix(unix::net::UnixListener),
}

/// Takes the sockets that the environment announces to this process.
///
/// Must be called before the process opens a file or starts a thread: the sockets are known by their
/// descriptor numbers, and the variables that announce them are removed.
///
/// # Errors
///
/// A descriptor is not a socket that the server can listen on.
pub(crate) fn from_env() -> anyhow::Result<Vec<InheritedSocket>> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut descriptors = ListenFd::from_env();
    let named = names.split(':').chain(iter::repeat(""));
    (0..descriptors.len())
        .zip(named)
        .map(|(index, name)| InheritedSocket::take(&mut descriptors, index, name))
        .collect()
}

impl InheritedSocket {
    /// Whether the socket replaces `--admin-listen`.
    pub(crate) fn is_for_admin(&self) -> bool {
        self.name == ADMIN_SOCKET_NAME
    }

    fn take(descriptors: &mut ListenFd, index: usize, name: &str) -> anyhow::Result<Self> {
        let name = match name {
            "" => "unknown",
            name => name,
        };
        let listener = InheritedListener::take(descriptors, index)
            .with_context(|| format!("cannot use the inherited socket {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            listener,
        })
    }

    /// Converts the socket to a [`Listener`]. The path of a Unix socket belongs to the service manager, and is
    /// not removed.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn into_listener(self) -> io::Result<Listener> {
        Ok(match self.listener {
            InheritedListener::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(socket)?.into()
            }
            InheritedListener::Unix(socket) => {
                socket.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(socket)?.into()
            }
        })
    }
}

impl InheritedListener {
    fn take(descriptors: &mut ListenFd, index: usize) -> anyhow::Result<Self> {
        let tcp = descriptors.take_tcp_listener(index).ok().flatten();
        let unix = descriptors.take_unix_listener(index);
        let (socket, listens) = match (tcp, unix) {
            (Some(tcp), _) => {
                let listens = socket_acceptconn(&tcp)?;
                (Self::Tcp(tcp), listens)
            }
            (None, Ok(Some(unix))) => {
                let listens = socket_acceptconn(&unix)?;
                (Self::Unix(unix), listens)
            }
            (None, _) => bail!("it is neither a TCP nor a Unix stream socket"),
        };
        // A unit with `Accept=yes` passes connections instead of listening sockets.
        ensure!(listens, "it is not a listening socket");
        Ok(socket)
    }
}
