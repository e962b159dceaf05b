//! TLS handshakes: ALPN, versions and timeouts.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use muxs::{
    pb::greeter_client::GreeterClient,
    server::{ClientAuth, Limits},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, SupportedProtocolVersion,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use tonic::transport::Endpoint;
use tower::service_fn;

use crate::support::{
    TEST_TIMEOUT, TestServer, hello,
    pki::{Pki, assert_greeted, greet, handshake, https, start, try_connect, with_identity},
    with_timeout,
};

/// A client that does not negotiate h2 may speak another protocol.
#[tokio::test]
async fn client_without_alpn_h2_is_refused() {
    let pki = Pki::new();
    for clients in [ClientAuth::Off, pki.optional(), pki.required()] {
        let server = start(pki.load(clients));
        let client = pki.authority.client();
        let mut config = pki.raw(Some(&client));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let refusal = try_connect(server.address, config.clone()).await;
        let refusal = refusal.unwrap_err().to_string();
        assert!(refusal.contains("NoApplicationProtocol"), "{refusal}");

        // Without ALPN, the handshake completes before the server closes the connection.
        config.alpn_protocols = vec![];
        try_connect(server.address, config.clone())
            .await
            .unwrap_err();

        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        try_connect(server.address, config).await.unwrap();
        let tls = pki.trust().identity(client.identity());
        assert_greeted(greet(&https(&server), tls).await);
    }
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_accepted() {
    let pki = Pki::new();
    for clients in [ClientAuth::Off, pki.optional(), pki.required()] {
        let server = start(pki.load(clients));
        for (version, negotiated) in [
            (&TLS12, ProtocolVersion::TLSv1_2),
            (&TLS13, ProtocolVersion::TLSv1_3),
        ] {
            let config = config_for_version(&pki, version);
            let stream = handshake(server.address, config.clone()).await.unwrap();
            assert_eq!(stream.get_ref().1.protocol_version(), Some(negotiated));
            assert_eq!(greet_with(&server, config).await, "Hello, you!");
        }
    }
}

fn config_for_version(pki: &Pki, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let builder = ClientConfig::builder_with_protocol_versions(&[version]);
    let builder = builder.with_root_certificates(pki.roots());
    with_identity(builder, Some(&pki.authority.client()))
}

/// Calls SayHello over a connection with this rustls configuration.
async fn greet_with(server: &TestServer, config: ClientConfig) -> String {
    let address = server.address;
    let connector = service_fn(move |_| {
        let config = config.clone();
        async move { handshake(address, config).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = with_timeout(endpoint.connect_with_connector(connector)).await;
    let mut greeter = GreeterClient::new(channel.unwrap());
    let reply = with_timeout(greeter.say_hello(hello("you"))).await.unwrap();
    reply.into_inner().message
}

/// Returns the ClientHello of a client.
fn client_hello(pki: &Pki) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let config = Arc::new(pki.raw(None));
    let mut connection = ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// Opens connections that begin a handshake and do not complete it.
async fn open_stuck_handshakes(pki: &Pki, server: &TestServer) -> Vec<TcpStream> {
    let hello = client_hello(pki);
    let mut stuck = Vec::new();
    for said in [&[][..], &hello[..1], &hello[..hello.len() / 2], &hello] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        stuck.push(stream);
    }
    stuck
}

#[tokio::test]
async fn incomplete_handshake_times_out() {
    let pki = Pki::new();
    let tls = pki.load(ClientAuth::Off);
    let server = TestServer::start_with(|config| {
        config.tls = Some(tls);
        config.limits.handshake_timeout = Duration::from_millis(300);
    });
    // A client that completes the handshake and sends no preface is closed too.
    let mut silent = handshake(server.address, pki.raw(None)).await.unwrap();
    for mut stream in open_stuck_handshakes(&pki, &server).await {
        let _ = with_timeout(stream.read_to_end(&mut Vec::new())).await;
    }
    let _ = with_timeout(silent.read_to_end(&mut Vec::new())).await;
    assert_greeted(greet(&https(&server), pki.trust()).await);
}

#[tokio::test]
async fn drain_does_not_wait_for_handshakes() {
    let pki = Pki::new();
    let tls = pki.load(ClientAuth::Off);
    let mut server = TestServer::start_with(|config| {
        config.tls = Some(tls);
        config.shutdown_grace = TEST_TIMEOUT * 3;
        config.limits = Limits {
            handshake_timeout: TEST_TIMEOUT * 2,
            ..Limits::default()
        };
    });
    let _stuck = open_stuck_handshakes(&pki, &server).await;
    // This connection came later, so the others have been accepted.
    assert_greeted(greet(&https(&server), pki.trust()).await);
    server.stop();
    server.wait_stopped().await;
}
