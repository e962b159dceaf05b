//! Takes in connections.

use std::{io::ErrorKind, time::Duration};

use tokio::net::TcpListener;

use super::connection::Connections;

/// How long to wait after a failed accept. The usual cause, no descriptors left, does not go away
/// by asking again.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Accepts for ever.
pub(super) async fn accept(listener: TcpListener, connections: Connections) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => connections.serve(stream, peer),
            // That of one client, who has already gone.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}
