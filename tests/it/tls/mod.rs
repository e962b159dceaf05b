//! TLS and client certificates. A refused client does not affect other clients.

mod handshake;
mod program;
mod reload;

use muxs::{
    client::{self, Client},
    pb::greeter_client::GreeterClient,
    server::ClientAuth,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::transport::ClientTlsConfig;

use crate::support::{
    TestServer,
    certificates::{Authority, Pem},
    connect, hello,
    pki::{Pki, assert_greeted, format_causes, greet, https, start, try_connect},
    upload_stream::content,
    with_timeout,
};

#[tokio::test]
async fn trusting_client_connects_by_name_and_by_address() {
    let pki = Pki::new();
    let server = start(pki.load(ClientAuth::Off));
    assert_greeted(greet(&https(&server), pki.trust()).await);
    let by_name = format!("https://localhost:{}", server.address.port());
    assert_greeted(greet(&by_name, pki.trust()).await);
}

#[tokio::test]
async fn file_round_trips_over_mutual_tls() {
    let pki = Pki::new();
    let server = start(pki.load(pki.required()));
    let tls = pki.trust().identity(pki.authority.client().identity());
    let endpoint = client::endpoint(https(&server)).unwrap().tls_config(tls);
    let client = Client::new(endpoint.unwrap().connect_lazy());
    let (original, copy) = (pki.path("original"), pki.path("copy"));
    let content = content(5_000_000);
    std::fs::write(&original, &content).unwrap();
    with_timeout(client.upload(&original, "a").into_future())
        .await
        .unwrap();
    with_timeout(client.download("a", &copy).into_future())
        .await
        .unwrap();
    assert!(std::fs::read(copy).unwrap() == content);
}

#[tokio::test]
async fn plaintext_client_is_refused_by_a_tls_server() {
    let pki = Pki::new();
    for clients in [ClientAuth::Off, pki.optional(), pki.required()] {
        let server = start(pki.load(clients));
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // There is no alert if the connection is reset.
        let _ = with_timeout(stream.read_to_end(&mut answer)).await;
        let alert = 21;
        assert!(answer.is_empty() || answer[0] == alert, "{answer:?}");
        let plain = client::endpoint(format!("http://{}", server.address)).unwrap();
        let mut greeter = GreeterClient::new(plain.connect_lazy());
        with_timeout(greeter.say_hello(hello("you")))
            .await
            .unwrap_err();
        let tls = pki.trust().identity(pki.authority.client().identity());
        assert_greeted(greet(&https(&server), tls).await);
    }
}

#[tokio::test]
async fn tls_client_fails_on_a_plaintext_server() {
    let pki = Pki::new();
    let server = TestServer::start();
    let failed = greet(&https(&server), pki.trust()).await.unwrap_err();
    assert!(
        format_causes(&*failed).contains("InvalidMessage"),
        "{failed:?}"
    );
    let mut greeter = GreeterClient::new(connect(server.address).await);
    greeter.say_hello(hello("you")).await.unwrap();
}

#[tokio::test]
async fn client_rejects_an_untrusted_server() {
    let pki = Pki::new();
    let stranger = Authority::new("another authority");
    let url = |server: &TestServer| format!("https://localhost:{}", server.address.port());
    let cases = [
        (stranger.server(), "UnknownIssuer"),
        (pki.authority.expired_server(), "Expired"),
        (pki.authority.server_for("muxs.example"), "NotValidForName"),
        // This certificate is for client authentication only.
        (pki.authority.client(), "InvalidPurpose"),
    ];
    for (pair, reason) in cases {
        pki.install(&pair);
        let tls = pki.load(ClientAuth::Off);
        let server = start(tls.clone());
        let failed = greet(&url(&server), pki.trust()).await.unwrap_err();
        assert!(format_causes(&*failed).contains(reason), "{failed:?}");
        pki.install(&pki.authority.server());
        tls.reload().unwrap();
        assert_greeted(greet(&url(&server), pki.trust()).await);
    }
}

/// The table of server policies and client certificates, with the alert of each refusal.
#[tokio::test]
async fn client_certificate_decides_admission() {
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
            let refusal = try_connect(server.address, pki.raw(identity)).await;
            let refusal = refusal.expect_err(reason).to_string();
            assert!(refusal.contains(reason), "{clients:?}: {refusal}");
            // A tonic client is refused as well.
            let tls = tonic_identity(pki.trust(), identity);
            greet(&https(&server), tls).await.expect_err(reason);
        }
        for identity in welcome {
            let tls = tonic_identity(pki.trust(), identity);
            assert_greeted(greet(&https(&server), tls).await);
            try_connect(server.address, pki.raw(identity))
                .await
                .unwrap();
        }
    }
}

fn tonic_identity(tls: ClientTlsConfig, identity: Option<&Pem>) -> ClientTlsConfig {
    match identity {
        Some(pair) => tls.identity(pair.identity()),
        None => tls,
    }
}
