//! Certificates that are replaced while calls are running.

use std::fs;

use muxs::{
    client,
    pb::{
        file_controller_client::FileControllerClient, greeter_client::GreeterClient,
        read_stream_response::Event,
    },
    server::{ClientAuth, Tls, TlsError},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{
    TestServer,
    certificates::{Authority, Pem},
    hello,
    pki::{Pki, assert_greeted, assert_serves_certificate, greet, https, start, try_connect},
    upload_stream::{UploadStream, content, get, open, whole},
    with_timeout,
};

#[tokio::test]
async fn reload_keeps_calls_and_serves_the_new_certificate() {
    let pki = Pki::new();
    let first = pki.authority.server();
    pki.install(&first);
    let tls = pki.load(ClientAuth::Off);
    let server = start(tls.clone());
    let endpoint = client::endpoint(https(&server)).unwrap();
    let endpoint = endpoint.tls_config(pki.trust()).unwrap();
    let channel = with_timeout(endpoint.connect()).await.unwrap();
    let mut greeter = GreeterClient::new(channel.clone());
    let mut files = FileControllerClient::new(channel);

    let (requests, outgoing) = mpsc::channel(1);
    let replies = with_timeout(greeter.bidi_hello(ReceiverStream::new(outgoing))).await;
    let mut replies = replies.unwrap().into_inner();
    let content = content(6_000_000);
    fs::write(server.path("down.bin"), &content).unwrap();
    let mut upload = UploadStream::open(&mut files, open("up.bin", "id", &content)).await;
    assert_eq!(upload.progress().await.persisted_size, 0);
    upload.chunks(&content[..2_000_000], 0, 64 * 1024).await;
    let download = with_timeout(files.read_stream(whole("down.bin"))).await;
    let mut download = download.unwrap().into_inner();
    assert!(with_timeout(download.message()).await.unwrap().is_some());
    assert_serves_certificate(&pki, server.address, &first).await;

    for name in ["A", "B", "C"] {
        let next = pki.authority.server();
        pki.install(&next);
        tls.reload().unwrap();
        assert_serves_certificate(&pki, server.address, &next).await;
        requests.send(hello(name)).await.unwrap();
        let reply = with_timeout(replies.message()).await.unwrap().unwrap();
        assert_eq!(reply.message, format!("Hello, {name}!"));
    }
    upload.chunks(&content, 2_000_000, 64 * 1024).await;
    upload.finish(&content).await;
    upload.wait_committed().await;
    let mut received = Vec::new();
    while let Some(event) = with_timeout(download.message()).await.unwrap() {
        if let Some(Event::Chunk(chunk)) = event.event {
            received.extend_from_slice(&chunk.data);
        }
    }
    assert!(received == content);
    assert!(get(&mut files, whole("up.bin")).await.unwrap().1 == content);
}

/// Makes the files of the server invalid, by themselves or together.
type Spoil = fn(&Pki, &Pem);

/// Returns whether this is the expected error.
type Expected = fn(&TlsError) -> bool;

#[tokio::test]
async fn invalid_pair_keeps_the_old_one_until_a_valid_one_comes() {
    let pki = Pki::new();
    let first = pki.authority.server();
    pki.install(&first);
    let tls = pki.load(pki.optional());
    let server = start(tls.clone());
    let second = pki.authority.server();
    let spoilt: [(Spoil, Expected); 8] = [
        (
            |pki, pair| pki.write("cert.pem", &pair.cert),
            |error| matches!(error, TlsError::Pair { .. }),
        ),
        (
            |pki, pair| pki.write("key.pem", &pair.key),
            |error| matches!(error, TlsError::Pair { .. }),
        ),
        (
            |pki, _| pki.write("cert.pem", "garbage"),
            |error| matches!(error, TlsError::Empty(_)),
        ),
        (
            |pki, pair| pki.write("cert.pem", &pair.cert.replace("MII", "MI*")),
            |error| matches!(error, TlsError::Unreadable { .. }),
        ),
        (
            |pki, _| pki.write("key.pem", "garbage"),
            |error| matches!(error, TlsError::NoKey(_)),
        ),
        (
            |pki, _| fs::remove_file(pki.path("key.pem")).unwrap(),
            |error| matches!(error, TlsError::Unreadable { .. }),
        ),
        (
            |pki, _| fs::remove_file(pki.path("cert.pem")).unwrap(),
            |error| matches!(error, TlsError::Unreadable { .. }),
        ),
        (
            |pki, _| pki.write("authority.pem", "garbage"),
            |error| matches!(error, TlsError::Empty(_)),
        ),
    ];
    for (spoil, expected) in spoilt {
        spoil(&pki, &second);
        let error = tls.reload().unwrap_err();
        assert!(expected(&error), "{error}");
        let sentence = error.to_string();
        assert!(
            sentence.contains(&pki.flag("")),
            "the error names the file: {sentence}"
        );
        assert_serves_certificate(&pki, server.address, &first).await;
        // Restores the files for the next case.
        pki.install(&first);
        pki.write("authority.pem", &pki.authority.pem());
    }
    pki.install(&second);
    tls.reload().unwrap();
    assert_serves_certificate(&pki, server.address, &second).await;
    assert_greeted(greet(&https(&server), pki.trust()).await);
}

#[tokio::test]
async fn load_fails_on_mismatched_certificate_and_key() {
    let pki = Pki::new();
    pki.write("cert.pem", &pki.authority.server().cert);
    let error = Tls::load(pki.files(ClientAuth::Off)).unwrap_err();
    assert!(matches!(error, TlsError::Pair { .. }), "{error}");
    pki.install(&pki.authority.server());
    fs::remove_file(pki.path("authority.pem")).unwrap();
    for clients in [pki.required(), pki.optional()] {
        let error = Tls::load(pki.files(clients)).unwrap_err();
        assert!(matches!(error, TlsError::Unreadable { .. }), "{error}");
    }
}

/// Session resumption does not bypass the new authorities.
#[tokio::test]
async fn reload_replaces_client_authorities() {
    let pki = Pki::new();
    let tls = pki.load(pki.required());
    let server: TestServer = start(tls.clone());
    let (before, after) = (pki.authority.client(), Authority::new("the next authority"));
    let known = pki.raw(Some(&before));
    for _ in 0..2 {
        try_connect(server.address, known.clone()).await.unwrap();
    }
    pki.write("authority.pem", &after.pem());
    tls.reload().unwrap();
    try_connect(server.address, known).await.unwrap_err();
    let client = after.client();
    try_connect(server.address, pki.raw(Some(&client)))
        .await
        .unwrap();
}

#[tokio::test]
async fn self_signed_certificate_verifies_and_ignores_reload() {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let (tls, pem) = Tls::development(names.to_vec()).unwrap();
    let server = start(tls.clone());
    tls.reload().unwrap();
    let trust = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(pem));
    assert_greeted(greet(&https(&server), trust).await);
    let strangers = Pki::new().trust();
    greet(&https(&server), strangers).await.unwrap_err();
}
