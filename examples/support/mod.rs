//! What the examples share: the server at `--addr`, or one of their own, and how they end.

use std::{error::Error, fs, io, path::PathBuf, process::ExitCode};

use anyhow::Context;
use muxs::{
    client,
    files::{Settings, Store},
    server::{self, Config},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::{
    Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

// Not a doc comment, which would become the help of the example.
// Which server an example uses.
#[derive(clap::Args)]
pub(crate) struct ServerArgs {
    /// The server to use, such as https://example.com or unix:/run/muxs.sock; if nothing listens
    /// there, the example starts one
    #[arg(long, default_value = "http://127.0.0.1:50051", global = true)]
    pub(crate) addr: String,

    /// Trust servers with a certificate of the authorities in this file, in PEM, and no others
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,

    /// Show the server this certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "key", global = true)]
    cert: Option<PathBuf>,

    /// The key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "cert", global = true)]
    key: Option<PathBuf>,
}

/// A server that listens: the one at `--addr`, or one in this process.
pub(crate) struct Server {
    pub(crate) address: String,
    /// How to get there.
    pub(crate) endpoint: Endpoint,
    /// Removed when the example ends.
    _root: Option<TempDir>,
}

impl Server {
    pub(crate) async fn connect(&self) -> anyhow::Result<Channel> {
        let connected = self.endpoint.connect().await;
        connected.with_context(|| format!("cannot connect to {}", self.address))
    }
}

impl ServerArgs {
    /// Looks whether the server is there, and starts one in this process if nothing listens.
    pub(crate) async fn find_or_start(&self) -> anyhow::Result<Server> {
        if self.is_there().await? {
            return Ok(Server {
                address: self.addr.clone(),
                endpoint: self.endpoint()?,
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
        tokio::spawn(server::run(
            vec![listener.into()],
            Config::new(store),
            shutdown,
        ));
        Ok(Server {
            endpoint: client::endpoint(&address)?,
            address,
            _root: Some(root),
        })
    }

    /// Whether something listens.
    pub(crate) async fn is_there(&self) -> anyhow::Result<bool> {
        match self.endpoint()?.connect().await {
            Ok(_) => Ok(true),
            Err(error) if is_refused(&error) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot connect to {}", self.addr)),
        }
    }

    /// The server at `--addr`, and how to trust it.
    pub(crate) fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let addr = &self.addr;
        let endpoint =
            client::endpoint(addr).with_context(|| format!("{addr} is not an address"))?;
        if self.ca.is_none() && self.cert.is_none() {
            return Ok(endpoint);
        }
        let read = |file: &PathBuf| {
            fs::read(file).with_context(|| format!("cannot read {}", file.display()))
        };
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca {
            Some(ca) => tls.ca_certificate(Certificate::from_pem(read(ca)?)),
            None => tls.with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        endpoint
            .tls_config(tls)
            .context("cannot use these certificates")
    }
}

/// Whether the connection was refused, which is how a port with nobody behind it answers, or there
/// is no such socket.
fn is_refused(error: &tonic::transport::Error) -> bool {
    std::iter::successors(error.source(), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            )
        })
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
