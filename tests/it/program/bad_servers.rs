//! The command line and servers that are none, or none for it: one sentence, without retries.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use assert_cmd::assert::Assert;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{
    program::{muxs, muxs_process},
    with_timeout,
};

/// The exit code of a call that fails with UNAVAILABLE.
const UNAVAILABLE: i32 = 78;

const COMMANDS: [&[&str]; 4] = [
    &["put", "Cargo.toml"],
    &["get", "a", "b"],
    &["stat", "a"],
    &["abort", "Cargo.toml"],
];

/// Handles each connection to a port of this machine in a thread.
fn listen(handle: fn(TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || handle(stream));
        }
    });
    format!("http://{address}")
}

/// Sends a text, and reads until the client is gone: closing earlier would be a reset.
fn answer(mut stream: TcpStream, text: &str) {
    let _ = stream.read(&mut [0; 24]);
    let _ = stream.write_all(text.as_bytes());
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

#[track_caller]
fn assert_refused(run: Assert, sentence: &str) {
    let stderr = String::from_utf8(run.code(UNAVAILABLE).get_output().stderr.clone()).unwrap();
    assert_eq!(stderr, format!("error: {sentence}\n"));
}

#[test]
fn command_without_a_server_fails_at_once() {
    for arguments in COMMANDS {
        assert_refused(
            muxs("http://127.0.0.1:1").args(arguments).assert(),
            "nothing listens at http://127.0.0.1:1: start a server there with `cargo run --bin \
             server`, or name another with --addr",
        );
    }
    let missing = tempfile::tempdir().unwrap().path().join("socket");
    let missing = format!("unix:{}", missing.display());
    let run = muxs(&missing).args(["stat", "a"]).assert();
    let output = run.code(UNAVAILABLE).get_output().clone();
    assert!(
        output
            .stderr
            .starts_with(b"error: nothing listens at unix:")
    );
    let chat = muxs("http://127.0.0.1:1").arg("chat").assert().code(1);
    let stderr = chat.get_output().stderr.clone();
    assert!(stderr.starts_with(b"error: nothing listens at "));
}

#[test]
fn http1_server_is_named() {
    let address = listen(|stream| answer(stream, "HTTP/1.1 400 Bad Request\r\n\r\n"));
    for arguments in COMMANDS {
        assert_refused(
            muxs(&address).args(arguments).assert(),
            &format!(
                "{address} is not a gRPC server: it speaks HTTP/1; check the address and its port"
            ),
        );
    }
}

#[test]
fn server_of_another_protocol_is_named() {
    let address = listen(|stream| answer(stream, "SSH-2.0-OpenSSH_9.2p1\r\n"));
    assert_refused(
        muxs(&address).args(["stat", "a"]).assert(),
        &format!(
            "{address} is not a gRPC server: it speaks another protocol; check the address and its \
             port"
        ),
    );
}

#[test]
fn server_that_sends_nothing_is_named() {
    let address = listen(|stream| answer(stream, ""));
    assert_refused(
        muxs(&address).args(["stat", "a"]).assert(),
        &format!(
            "{address} is not a gRPC server: it accepts connections and sends nothing, unless it \
             hangs; check the address and its port"
        ),
    );
}

/// Answers every request with a status of HTTP, over HTTP/2.
async fn serve_http2(status: u16) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await?;
                while let Some(request) = connection.accept().await {
                    let response = http::Response::builder().status(status).body(());
                    let mut body = request?.1.send_response(response.unwrap(), false)?;
                    body.send_data("<html></html>".into(), true)?;
                }
                Ok::<_, h2::Error>(())
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn http2_server_without_grpc_is_named() {
    let address = serve_http2(404).await;
    let mut stat = muxs(&address);
    let run = tokio::task::spawn_blocking(move || stat.args(["stat", "a"]).assert());
    let expected = format!(
        "{address} is not a gRPC server: it answers with HTTP status 404 Not Found; check the \
         address and its port"
    );
    assert_refused(with_timeout(run).await.unwrap(), &expected);
}

/// The first retry shows it: all of them take longer than a test.
async fn assert_retried(address: &str, why: &str) {
    // A get would leave its partial file here.
    for arguments in [COMMANDS[0], COMMANDS[2], COMMANDS[3]] {
        let mut run = muxs_process(address, &[arguments, &["--json"]].concat());
        let mut run = run.spawn().unwrap();
        let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
        let line = with_timeout(lines.next_line()).await.unwrap().unwrap();
        assert!(line.contains("\"event\":\"retrying\""), "{line}");
        assert!(line.contains(why), "{line}");
    }
}

/// A gateway answers so while its server is away.
#[tokio::test]
async fn gateway_whose_server_is_away_is_retried() {
    let why = "a proxy in front answers HTTP 502: the server behind it is away";
    assert_retried(&serve_http2(502).await, why).await;
    assert_retried(&listen(drop), "").await;
}

#[tokio::test]
async fn host_that_cannot_be_resolved_is_retried() {
    let address = "http://muxs.invalid:50051";
    let mut put = muxs_process(address, &["put", "Cargo.toml"]);
    let mut put = put.spawn().unwrap();
    let mut lines = BufReader::new(put.stderr.take().unwrap()).lines();
    let line = with_timeout(lines.next_line()).await.unwrap().unwrap();
    assert!(line.starts_with("Retrying in 0."), "{line}");
    let words = " s (2 of 8): the name of the server cannot be resolved: ";
    assert!(line.contains(words), "{line}");
}

#[test]
fn invalid_address_is_refused() {
    for (address, words) in [
        (
            "example.com:50051",
            "example.com:50051 has no scheme: write https://example.com:50051, or",
        ),
        (
            "ftp://localhost",
            "addresses begin with http://, https://, unix:",
        ),
        ("http://", "http:// is not an address"),
    ] {
        let run = muxs(address).args(["stat", "a"]).assert().code(1);
        let stderr = String::from_utf8(run.get_output().stderr.clone()).unwrap();
        assert!(stderr.starts_with("error: "), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}
