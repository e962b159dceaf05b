//! An accepted socket and the address at its other end.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use tokio::net::{TcpStream, UnixStream};

/// An accepted socket.
pub(in crate::server) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The address of a client.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl Peer {
    pub(in crate::server) fn ip(self) -> Option<IpAddr> {
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
