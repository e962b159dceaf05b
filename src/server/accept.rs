//! Accepts connections and dispatches them to the workers.

use super::{
    connection::Incoming,
    transport::{ConnectionLimit, Listener},
    workers::Workers,
};

/// Accepts connections forever.
pub(super) async fn accept(listener: Listener, limit: ConnectionLimit, workers: Workers) {
    loop {
        let (stream, peer) = listener.accept().await;
        match limit.try_acquire(peer.ip()) {
            Some(permit) => workers.dispatch(Incoming {
                stream,
                peer,
                permit,
            }),
            None => tracing::debug!(%peer, "connection closed: too many connections"),
        }
    }
}
