//! What the examples share: the server at `--addr`, or one of their own, and how they end.

use std::{error::Error, io, process::ExitCode, time::Duration};

use anyhow::Context;
use muxs::{
    files::{Settings, Store},
    server::{self, Config},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

// Not a doc comment, which would become the help of the example.
// Which server an example uses.
#[derive(clap::Args)]
pub(crate) struct ServerArgs {
    /// The server to use; if nothing listens there, the example starts one
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    addr: String,
}

/// A connection to a server, and the server too where none was listening.
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    /// Removed when the example ends.
    _root: Option<TempDir>,
}

impl ServerArgs {
    /// Connects to the server, or starts one in this process if nothing listens there.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let addr = &self.addr;
        let endpoint = Endpoint::from_shared(addr.clone())
            .with_context(|| format!("{addr} is not an address"))?
            .connect_timeout(Duration::from_secs(5));
        match endpoint.connect().await {
            Ok(channel) => Ok(Connection {
                channel,
                _root: None,
            }),
            Err(error) if is_refused(&error) => start_and_connect(addr).await,
            Err(error) => Err(error).with_context(|| format!("cannot connect to {addr}")),
        }
    }
}

async fn start_and_connect(addr: &str) -> anyhow::Result<Connection> {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Settings::default())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let own = format!("http://{}", listener.local_addr()?);
    eprintln!("Nothing listens at {addr}, so this example starts a server of its own at {own}.");
    // It ends with the process.
    let shutdown = std::future::pending();
    tokio::spawn(server::run(vec![listener], Config::new(store), shutdown));
    Ok(Connection {
        channel: Endpoint::from_shared(own)?.connect().await?,
        _root: Some(root),
    })
}

/// Whether the connection was refused, which is how a port with nobody behind it answers.
fn is_refused(error: &tonic::transport::Error) -> bool {
    std::iter::successors(error.source(), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Ends an example: a failure is told in one sentence on standard error.
pub(crate) fn exit(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        match error.downcast_ref::<Status>() {
            Some(status) => eprintln!(
                "The call failed with {:?}: {}.",
                status.code(),
                status.message()
            ),
            None => eprintln!("Failed: {error:#}."),
        }
        ExitCode::FAILURE
    })
}
