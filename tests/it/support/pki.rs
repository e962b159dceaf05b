//! A certificate authority, servers that use it, and TLS clients of them.

use std::{error::Error, io, net::SocketAddr, path::PathBuf, sync::Arc};

use muxs::{
    client,
    pb::greeter_client::GreeterClient,
    server::{ClientAuth, Tls, TlsFiles},
};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use tonic::transport::{Certificate, ClientTlsConfig};

use super::{
    TestServer,
    assertions::with_timeout,
    certificates::{Authority, Pem},
    hello,
};

/// An authority, and a directory with the certificate and key of a server, which can be replaced.
pub(crate) struct Pki {
    pub(crate) authority: Authority,
    folder: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let pki = Self {
            authority: Authority::new("authority"),
            folder: tempfile::tempdir().unwrap(),
        };
        pki.install(&pki.authority.server());
        pki.write("authority.pem", &pki.authority.pem());
        pki
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Such a path as the value of a flag.
    pub(crate) fn flag(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Writes a pair to the files that the server loads.
    pub(crate) fn install(&self, pair: &Pem) {
        self.write("cert.pem", &pair.cert);
        self.write("key.pem", &pair.key);
    }

    pub(crate) fn files(&self, clients: ClientAuth) -> TlsFiles {
        TlsFiles {
            cert: self.path("cert.pem"),
            key: self.path("key.pem"),
            clients,
        }
    }

    pub(crate) fn load(&self, clients: ClientAuth) -> Tls {
        Tls::load(self.files(clients)).unwrap()
    }

    pub(crate) fn required(&self) -> ClientAuth {
        ClientAuth::Required(self.path("authority.pem"))
    }

    pub(crate) fn optional(&self) -> ClientAuth {
        ClientAuth::Optional(self.path("authority.pem"))
    }

    /// The TLS settings of a tonic client that trusts the authority.
    pub(crate) fn trust(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.authority.pem()))
    }

    /// The same for a client of rustls.
    pub(crate) fn raw(&self, identity: Option<&Pem>) -> ClientConfig {
        with_identity(
            ClientConfig::builder().with_root_certificates(self.roots()),
            identity,
        )
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der()).unwrap();
        roots
    }
}

pub(crate) fn with_identity(
    builder: tokio_rustls::rustls::ConfigBuilder<
        ClientConfig,
        tokio_rustls::rustls::client::WantsClientCert,
    >,
    identity: Option<&Pem>,
) -> ClientConfig {
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

pub(crate) fn start(tls: Tls) -> TestServer {
    TestServer::start_with(|config| config.tls = Some(tls))
}

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// Calls SayHello over a new connection.
pub(crate) async fn greet(url: &str, tls: ClientTlsConfig) -> Result<String, BoxError> {
    let endpoint = client::endpoint(url)?.tls_config(tls)?;
    let mut greeter = GreeterClient::new(with_timeout(endpoint.connect()).await?);
    let reply = with_timeout(greeter.say_hello(hello("you"))).await?;
    Ok(reply.into_inner().message)
}

/// Asserts that the call was served.
#[track_caller]
pub(crate) fn assert_greeted(greeting: Result<String, BoxError>) {
    assert_eq!(greeting.unwrap(), "Hello, you!");
}

/// Formats an error and its causes.
pub(crate) fn format_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes
        .map(|cause| format!("{cause} ({cause:?}). "))
        .collect()
}

/// Performs the client's side of a handshake.
pub(crate) async fn handshake(
    address: SocketAddr,
    config: ClientConfig,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    with_timeout(connector.connect(name, stream)).await
}

/// Returns whether a client is accepted: after the handshake it receives a byte of HTTP/2, or an alert.
/// In TLS 1.3 the alert about a client's certificate arrives only after the client's side is complete.
pub(crate) async fn try_connect(address: SocketAddr, config: ClientConfig) -> io::Result<()> {
    let mut stream = handshake(address, config).await?;
    with_timeout(stream.read_u8()).await.map(drop)
}

pub(crate) fn https(server: &TestServer) -> String {
    format!("https://{}", server.address)
}

/// Asserts which certificate the server presents on a new connection.
pub(crate) async fn assert_serves_certificate(
    pki: &Pki,
    address: std::net::SocketAddr,
    pair: &Pem,
) {
    let stream = handshake(address, pki.raw(None)).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap();
    let installed = CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
    assert!(shown[0] == installed, "another certificate is shown");
}
