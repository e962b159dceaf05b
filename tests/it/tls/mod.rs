//! TLS: who is let in, who is not, and that a refusal is nobody else's business.

mod certificates;
mod handshake;
mod program;
mod reload;

use std::{error::Error, io, net::SocketAddr, path::PathBuf, sync::Arc};

use muxs::{
    client::{self, Client},
    pb::greeter_client::GreeterClient,
    server::{ClientAuth, Tls, TlsFiles},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use tonic::transport::{Certificate, ClientTlsConfig};

use self::certificates::{Authority, Pem};
use crate::{
    streams::content,
    support::{TestServer, bounded, connect, hello},
};

/// An authority, and a folder with a server's certificate and key that can be replaced.
struct Pki {
    authority: Authority,
    folder: TempDir,
}

impl Pki {
    fn new() -> Self {
        let pki = Self {
            authority: Authority::new("authority"),
            folder: tempfile::tempdir().unwrap(),
        };
        pki.install(&pki.authority.server());
        pki.write("authority.pem", &pki.authority.pem());
        pki
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same, as a flag of a program needs it.
    fn flag(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Puts a pair to where the server looks for its own.
    fn install(&self, pair: &Pem) {
        self.write("cert.pem", &pair.cert);
        self.write("key.pem", &pair.key);
    }

    fn files(&self, clients: ClientAuth) -> TlsFiles {
        TlsFiles {
            cert: self.path("cert.pem"),
            key: self.path("key.pem"),
            clients,
        }
    }

    fn load(&self, clients: ClientAuth) -> Tls {
        Tls::load(self.files(clients)).unwrap()
    }

    fn required(&self) -> ClientAuth {
        ClientAuth::Required(self.path("authority.pem"))
    }

    fn optional(&self) -> ClientAuth {
        ClientAuth::Optional(self.path("authority.pem"))
    }

    /// What a client of tonic trusts.
    fn trust(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.authority.pem()))
    }

    /// The same for a client that knows nothing but TLS.
    fn raw(&self, identity: Option<&Pem>) -> ClientConfig {
        with_identity(
            ClientConfig::builder().with_root_certificates(self.roots()),
            identity,
        )
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der()).unwrap();
        roots
    }
}

fn with_identity(
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

fn start(tls: Tls) -> TestServer {
    TestServer::start_with(|config| config.tls = Some(tls))
}

type BoxError = Box<dyn Error + Send + Sync>;

/// A greeting over a new connection.
async fn greet(url: &str, tls: ClientTlsConfig) -> Result<String, BoxError> {
    let endpoint = client::endpoint(url)?.tls_config(tls)?;
    let mut greeter = GreeterClient::new(bounded(endpoint.connect()).await?);
    let reply = bounded(greeter.say_hello(hello("you"))).await?;
    Ok(reply.into_inner().message)
}

/// Asserts that the server still serves who should be.
#[track_caller]
fn assert_greeted(greeting: Result<String, BoxError>) {
    assert_eq!(greeting.unwrap(), "Hello, you!");
}

/// All that an error says, and all that led to it.
fn told(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes
        .map(|cause| format!("{cause} ({cause:?}). "))
        .collect()
}

/// The client's side of a handshake.
async fn shake(address: SocketAddr, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    bounded(connector.connect(name, stream)).await
}

/// Whether a client is let in: it hears something of HTTP/2, or by an alert of TLS why it does not.
/// A client learns that its certificate is no good only after it has done its part.
async fn admission(address: SocketAddr, config: ClientConfig) -> io::Result<()> {
    let mut stream = shake(address, config).await?;
    bounded(stream.read_u8()).await.map(drop)
}

fn https(server: &TestServer) -> String {
    format!("https://{}", server.address)
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_is_greeted_by_name_and_by_address() {
    let pki = Pki::new();
    let server = start(pki.load(ClientAuth::Off));
    assert_greeted(greet(&https(&server), pki.trust()).await);
    let by_name = format!("https://localhost:{}", server.address.port());
    assert_greeted(greet(&by_name, pki.trust()).await);
}

#[tokio::test]
async fn files_go_there_and_back_over_tls_with_certificates_on_both_sides() {
    let pki = Pki::new();
    let server = start(pki.load(pki.required()));
    let tls = pki.trust().identity(pki.authority.client().identity());
    let endpoint = client::endpoint(https(&server)).unwrap().tls_config(tls);
    let client = Client::new(endpoint.unwrap().connect_lazy());
    let (original, copy) = (pki.path("original"), pki.path("copy"));
    let content = content(5_000_000);
    std::fs::write(&original, &content).unwrap();
    bounded(client.upload(&original, "a").into_future())
        .await
        .unwrap();
    bounded(client.download("a", &copy).into_future())
        .await
        .unwrap();
    assert!(std::fs::read(copy).unwrap() == content);
}

#[tokio::test]
async fn a_client_without_tls_is_turned_away_and_the_server_goes_on() {
    let pki = Pki::new();
    for clients in [ClientAuth::Off, pki.optional(), pki.required()] {
        let server = start(pki.load(clients));
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // Perhaps not even an alert, where the connection is reset.
        let _ = bounded(stream.read_to_end(&mut answer)).await;
        let alert = 21;
        assert!(answer.is_empty() || answer[0] == alert, "{answer:?}");
        let plain = client::endpoint(format!("http://{}", server.address)).unwrap();
        let mut greeter = GreeterClient::new(plain.connect_lazy());
        bounded(greeter.say_hello(hello("you"))).await.unwrap_err();
        let tls = pki.trust().identity(pki.authority.client().identity());
        assert_greeted(greet(&https(&server), tls).await);
    }
}

#[tokio::test]
async fn a_client_with_tls_gets_nowhere_with_a_server_without_and_the_server_goes_on() {
    let pki = Pki::new();
    let server = TestServer::start();
    let failed = greet(&https(&server), pki.trust()).await.unwrap_err();
    assert!(told(&*failed).contains("InvalidMessage"), "{failed:?}");
    let mut greeter = GreeterClient::new(connect(server.address).await);
    greeter.say_hello(hello("you")).await.unwrap();
}

#[tokio::test]
async fn a_client_turns_away_from_a_server_that_it_cannot_trust_and_the_server_goes_on() {
    let pki = Pki::new();
    let stranger = Authority::new("another authority");
    let url = |server: &TestServer| format!("https://localhost:{}", server.address.port());
    let cases = [
        (stranger.server(), "UnknownIssuer"),
        (pki.authority.expired_server(), "Expired"),
        (pki.authority.server_for("muxs.example"), "NotValidForName"),
        // It may vouch for a client only.
        (pki.authority.client(), "InvalidPurpose"),
    ];
    for (pair, reason) in cases {
        pki.install(&pair);
        let tls = pki.load(ClientAuth::Off);
        let server = start(tls.clone());
        let failed = greet(&url(&server), pki.trust()).await.unwrap_err();
        assert!(told(&*failed).contains(reason), "{failed:?}");
        pki.install(&pki.authority.server());
        tls.reload().unwrap();
        assert_greeted(greet(&url(&server), pki.trust()).await);
    }
}

/// Who is let in, by what the server wants and what the client has; or why not, as TLS says it.
#[tokio::test]
async fn a_client_is_let_in_by_its_certificate() {
    let pki = Pki::new();
    let stranger = Authority::new("another authority");
    let good = pki.authority.client();
    let none = None;
    let (good, unknown, expired, not_for_clients) = (
        Some(&good),
        &stranger.client(),
        &pki.authority.expired_client(),
        &pki.authority.server(),
    );
    let (unknown, expired, not_for_clients) = (Some(unknown), Some(expired), Some(not_for_clients));
    let refusals = [
        (unknown, "UnknownCA"),
        (expired, "CertificateExpired"),
        (not_for_clients, "UnsupportedCertificate"),
    ];
    let table = [
        (ClientAuth::Off, vec![none, good, unknown, expired], vec![]),
        (pki.optional(), vec![none, good], refusals.to_vec()),
        (
            pki.required(),
            vec![good],
            [&refusals[..], &[(none, "CertificateRequired")]].concat(),
        ),
    ];
    for (clients, welcome, refused) in table {
        let server = start(pki.load(clients.clone()));
        for (identity, reason) in refused {
            let refusal = admission(server.address, pki.raw(identity)).await;
            let refusal = refusal.expect_err(reason).to_string();
            assert!(refusal.contains(reason), "{clients:?}: {refusal}");
            // The one that comes to a user of tonic, too.
            let tls = tonic_identity(pki.trust(), identity);
            greet(&https(&server), tls).await.expect_err(reason);
        }
        for identity in welcome {
            let tls = tonic_identity(pki.trust(), identity);
            assert_greeted(greet(&https(&server), tls).await);
            admission(server.address, pki.raw(identity)).await.unwrap();
        }
    }
}

fn tonic_identity(tls: ClientTlsConfig, identity: Option<&Pem>) -> ClientTlsConfig {
    match identity {
        Some(pair) => tls.identity(pair.identity()),
        None => tls,
    }
}
