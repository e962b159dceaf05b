//! The client side of HTTP/2, written by hand.
//!
//! It does as little work as possible for each byte, so that the server is the bottleneck.

mod connection;
mod frame;
mod hpack;
mod outgoing;
mod parser;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use connection::Connection;
pub(crate) use outgoing::{Nothing, Outgoing, Source};
pub(crate) use state::StreamEnd;
