//! The admin listener: it answers valid requests, bounds all others, and does not delay the drain.

use std::net::SocketAddr;

use muxs::{
    app::{self, Config},
    files::Settings,
    server::Listener,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::oneshot,
};

use crate::support::{
    TEST_TIMEOUT, TestServer,
    admin::{ask, ask_on, get},
    hello,
    methods::BIDI_HELLO,
    raw_http2::{RawConnection, call},
    with_timeout,
};

/// The number of admin connections that are served at a time.
const MAX_CONNECTIONS: usize = 32;

fn server() -> TestServer {
    TestServer::with_admin(Settings::default(), |_| {})
}

#[tokio::test]
async fn serving_server_is_healthy_and_ready() {
    let server = server();
    for (path, text) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = get(server.admin_address(), path).await;
        assert_eq!((answer.code, answer.body.as_str()), (200, text));
        let head = ask(server.admin_address(), "HEAD", path).await;
        assert_eq!((head.code, head.body.as_str()), (200, ""));
    }
    for path in ["/", "/metrics/", "/metric", "//metrics", "*"] {
        assert_eq!(get(server.admin_address(), path).await.code, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = ask(server.admin_address(), method, "/metrics").await;
        assert_eq!(answer.code, 405, "{method}");
        assert!(answer.head.contains("allow: GET, HEAD\r\n"), "{answer:?}");
    }
    let with_query = get(server.admin_address(), "/metrics?name[]=up").await;
    assert_eq!(with_query.code, 200);
    let metrics = server.metrics().await;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        metrics.value(&format!("muxs_build_info{{version={version:?}}}")),
        1.0
    );
    assert_eq!(metrics.value("muxs_draining"), 0.0);
    assert!(metrics.value("process_start_time_seconds") > 1.7e9);
}

#[tokio::test]
async fn admin_and_call_listeners_are_separate() {
    let server = server();
    let mut raw = RawConnection::connect(server.admin_address()).await;
    raw.send(crate::support::raw_http2::PREFACE).await.unwrap();
    assert_eq!(raw.wait_closed().await.ok_responses, 0);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: muxs\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = with_timeout(stream.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/1.1"));
}

#[tokio::test]
async fn admin_listener_reports_a_drain_without_delaying_it() {
    let mut server = TestServer::with_admin(Settings::default(), |config| {
        config.shutdown_grace = TEST_TIMEOUT * 2;
    });
    let mut raw = RawConnection::open(server.address).await;
    raw.send(&call(1, BIDI_HELLO)).await.unwrap();
    raw.assert_alive().await;
    // These connections stay open: after a request, within a request, and before any byte.
    let mut asked = TcpStream::connect(server.admin_address()).await.unwrap();
    let question = b"GET /healthz HTTP/1.1\r\nhost: muxs\r\n\r\n";
    asked.write_all(question).await.unwrap();
    let mut half = TcpStream::connect(server.admin_address()).await.unwrap();
    half.write_all(b"GET /he").await.unwrap();
    let _silent = TcpStream::connect(server.admin_address()).await.unwrap();

    server.stop();
    server.wait_series("muxs_draining", 1).await;
    let answer = get(server.admin_address(), "/readyz").await;
    assert_eq!((answer.code, answer.body.as_str()), (503, "draining\n"));
    let answer = get(server.admin_address(), "/healthz").await;
    assert_eq!((answer.code, answer.body.as_str()), (200, "ok\n"));
    let mut again = TcpStream::connect(server.admin_address()).await.unwrap();
    again.write_all(question).await.unwrap();

    drop(raw);
    server.wait_stopped().await;
    for mut stream in [asked, half, again] {
        let mut rest = Vec::new();
        let _ = with_timeout(stream.read_to_end(&mut rest)).await;
    }
    assert!(TcpStream::connect(server.admin_address()).await.is_err());
}

/// Two listeners of each kind show that they share no state.
#[tokio::test]
async fn admin_listener_accepts_tcp_and_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let socket = folder.path().join("admin.sock");
    let store = muxs::files::Store::open(&root, Settings::default()).unwrap();
    let calls = Listener::bind("127.0.0.1:0").await.unwrap();
    let tcp = Listener::bind("127.0.0.1:0").await.unwrap().for_admin();
    let unix = Listener::bind(&format!("unix:{}", socket.display())).await;
    let unix = unix.unwrap().for_admin();
    let address: SocketAddr = tcp.address().unwrap().to_string().parse().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = app::run(vec![unix, calls, tcp], Config::new(store), async {
        let _ = stopped.await;
    });
    let served = tokio::spawn(served);
    let stream = UnixStream::connect(&socket).await.unwrap();
    assert_eq!(ask_on(stream, "GET", "/readyz").await.code, 200);
    assert_eq!(get(address, "/readyz").await.code, 200);
    drop(stop);
    with_timeout(served).await.unwrap().unwrap();
    // The sockets and the lock of the root are released.
    assert!(!socket.exists());
    assert!(TcpStream::connect(address).await.is_err());
    muxs::files::Store::open(&root, Settings::default()).unwrap();
}

/// A new client waits until these connections are closed, and no longer.
#[tokio::test]
async fn slow_admin_clients_are_closed() {
    let server = server();
    let mut slow = Vec::new();
    for _ in 0..3 * MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(server.admin_address()).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nx-")
            .await
            .unwrap();
        slow.push(stream);
    }
    assert_eq!(get(server.admin_address(), "/healthz").await.code, 200);
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = with_timeout(stream.read_to_end(&mut rest)).await;
    }
    // Calls are not affected.
    server
        .greeter()
        .await
        .say_hello(hello("you"))
        .await
        .unwrap();
    let metrics = server.metrics().await;
    assert_eq!(metrics.sum("muxs_refused_total"), 0.0);
    assert_eq!(metrics.value("muxs_connections_total"), 1.0);
}

#[tokio::test]
async fn excess_admin_clients_wait_for_their_turn() {
    let server = server();
    let ask = || get(server.admin_address(), "/metrics");
    let answers = futures::future::join_all((0..4 * MAX_CONNECTIONS).map(|_| ask())).await;
    assert!(answers.iter().all(|answer| answer.code == 200));
}

#[tokio::test]
async fn malformed_admin_request_is_closed() {
    let server = server();
    let endless_head = [b"GET / HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(10_000)].concat();
    let long_head = [&b"GET / HTTP/1.1\r\na: "[..], &[b'x'; 100_000]].concat();
    let long_path = [&b"GET /"[..], &[b'x'; 100_000]].concat();
    let body = [
        &b"POST /metrics HTTP/1.1\r\nhost: muxs\r\ncontent-length: 1000000000000\r\n\r\n"[..],
        &[b'x'; 1 << 20],
    ]
    .concat();
    for garbage in [
        b"\0\x01\x02\xff\n\n".to_vec(),
        vec![b'x'; 1 << 20],
        endless_head,
        long_head,
        long_path,
        body,
    ] {
        let stream = TcpStream::connect(server.admin_address()).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let said = tokio::spawn(async move {
            // Writing fails if the server closes the connection first.
            let _ = write.write_all(&garbage).await;
            write
        });
        let mut answer = Vec::new();
        let _ = with_timeout(read.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP/1.1 2"));
        let _ = with_timeout(said).await;
    }
    assert_eq!(get(server.admin_address(), "/healthz").await.code, 200);
}
