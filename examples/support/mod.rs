//! What the examples share: the server at `--addr`, or one of their own, and how they end.

use std::{error::Error, io, process::ExitCode, time::Duration};

use anyhow::Context;
use muxs::{
    files::{Settings, Store},
    server::{self, Config},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::{Status, transport::Endpoint};

// Not a doc comment, which would become the help of the example.
// Which server an example uses.
#[derive(clap::Args)]
pub(crate) struct ServerArgs {
    /// The server to use; if nothing listens there, the example starts one
    #[arg(long, default_value = "http://127.0.0.1:50051", global = true)]
    pub(crate) addr: String,
}

/// A server that listens: the one at `--addr`, or one in this process.
pub(crate) struct Server {
    pub(crate) address: String,
    /// Removed when the example ends.
    _root: Option<TempDir>,
}

impl ServerArgs {
    /// Looks whether the server is there, and starts one in this process if nothing listens.
    pub(crate) async fn find_or_start(&self) -> anyhow::Result<Server> {
        if self.is_there().await? {
            return Ok(Server {
                address: self.addr.clone(),
                _root: None,
            });
        }
        let root = tempfile::tempdir()?;
        let store = Store::open(root.path(), Settings::default())?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        eprintln!(
            "Nothing listens at {}, so this example starts a server of its own at {address}.",
            self.addr
        );
        // It ends with the process.
        let shutdown = std::future::pending();
        tokio::spawn(server::run(vec![listener], Config::new(store), shutdown));
        Ok(Server {
            address,
            _root: Some(root),
        })
    }

    /// Whether something listens.
    pub(crate) async fn is_there(&self) -> anyhow::Result<bool> {
        let addr = &self.addr;
        let endpoint = Endpoint::from_shared(addr.clone())
            .with_context(|| format!("{addr} is not an address"))?
            .connect_timeout(Duration::from_secs(5));
        match endpoint.connect().await {
            Ok(_) => Ok(true),
            Err(error) if is_refused(&error) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot connect to {addr}")),
        }
    }
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
