//! The client's side of HTTP/2, by hand: as little work as there can be for each byte, so that the
//! server is what is measured.

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
pub(crate) use state::Ended;
