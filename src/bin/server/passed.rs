//! The sockets that the service manager listens on for the server, and hands over at its start
//! (`sd_listen_fds(3)`). They stay open while the server starts again, so that no client is refused.

use std::{env, io, iter, net, os::unix};

use anyhow::{Context, bail, ensure};
use listenfd::ListenFd;
use muxs::server::Listener;
use rustix::net::sockopt::socket_acceptconn;

/// What the service manager calls the socket for administrators.
const ADMIN: &str = "admin";

/// A socket that was handed over.
pub(crate) struct Passed {
    /// By which the service manager calls it (`FileDescriptorName=`): that of its unit, unless told
    /// otherwise.
    pub(crate) name: String,
    socket: Socket,
}

enum Socket {
    Tcp(net::TcpListener),
    Unix(unix::net::UnixListener),
}

/// Takes over what was handed to this process. Only to be called when it has one thread and has
/// opened nothing: which descriptors are meant is known by their numbers, and the variables that
/// say so are removed.
///
/// # Errors
///
/// One of them is no socket that the server could listen on.
pub(crate) fn take_over() -> anyhow::Result<Vec<Passed>> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut descriptors = ListenFd::from_env();
    let named = names.split(':').chain(iter::repeat(""));
    (0..descriptors.len())
        .zip(named)
        .map(|(index, name)| Passed::take(&mut descriptors, index, name))
        .collect()
}

impl Passed {
    /// Whether it is in place of `--admin-listen`.
    pub(crate) fn is_for_admin(&self) -> bool {
        self.name == ADMIN
    }

    fn take(descriptors: &mut ListenFd, index: usize, name: &str) -> anyhow::Result<Self> {
        let name = match name {
            "" => "unknown",
            name => name,
        };
        let socket = Socket::take(descriptors, index)
            .with_context(|| format!("cannot listen on the socket {name} that was handed over"))?;
        Ok(Self {
            name: name.to_owned(),
            socket,
        })
    }

    /// What is behind a Unix socket's path is the service manager's, and stays.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn listen(self) -> io::Result<Listener> {
        Ok(match self.socket {
            Socket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(socket)?.into()
            }
            Socket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(socket)?.into()
            }
        })
    }
}

impl Socket {
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
            (None, _) => bail!("it is neither of TCP nor a Unix stream socket"),
        };
        // A unit with `Accept=yes` hands connections over.
        ensure!(listens, "it does not listen");
        Ok(socket)
    }
}
