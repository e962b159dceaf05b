//! Sockets: listeners, TLS, timeouts, and the limit on connections.

mod connection_limit;
mod listener;
mod peer;
mod timeout_io;
mod tls;

pub(super) use self::{
    connection_limit::{ConnectionLimit, ConnectionPermit},
    peer::{Peer, Stream},
    timeout_io::{ByteCounters, TimeoutIo},
};
pub use self::{
    listener::{Address, Listener},
    tls::{ClientAuth, Tls, TlsError, TlsFiles},
};
