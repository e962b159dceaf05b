//! The count of what each limit has refused or cut off. The limits of calls and uploads are tested with
//! these.

use std::time::Duration;

use muxs::{app::Config, files::Settings, server::Tls};
use tokio::net::TcpStream;

use crate::support::{
    TEST_TIMEOUT, TestServer, hello,
    methods::{BIDI_HELLO, SAY_HELLO},
    raw_http2::{PREFACE, RawConnection, call, connect_without_reading},
    with_timeout,
};

const SHORT: Duration = Duration::from_millis(100);

fn server(adjust: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::with_admin(Settings::default(), adjust)
}

#[tokio::test]
async fn connections_beyond_the_limit_are_counted() {
    let server = server(|config| config.limits.max_connections = 2);
    let _first = RawConnection::open(server.address).await;
    let mut second = RawConnection::open(server.address).await;
    let refused = server.greeter().await.say_hello(hello("you")).await;
    assert!(refused.is_err());
    server.wait_refused("max_connections", 1).await;
    second.assert_alive().await;
    let metrics = server.metrics().await;
    assert_eq!(metrics.value("muxs_connections"), 2.0);
    assert_eq!(metrics.value("muxs_connections_total"), 2.0);
    // The client received RESOURCE_EXHAUSTED.
    let busy = "grpc_server_handled_total{grpc_code=\"ResourceExhausted\",grpc_method=\"SayHello\",\
        grpc_service=\"muxs.Greeter\",grpc_type=\"unary\"}";
    assert_eq!(metrics.value(busy), 1.0);
}

/// Connections that are closed without an answer are counted as well.
#[tokio::test]
async fn connections_beyond_the_address_limit_are_counted() {
    const CROWD: u64 = 100;
    let server = server(|config| config.limits.max_connections_per_address = 1);
    let _first = RawConnection::open(server.address).await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(
            with_timeout(TcpStream::connect(server.address))
                .await
                .unwrap(),
        );
    }
    server
        .wait_refused("max_connections_per_address", CROWD)
        .await;
}

#[tokio::test]
async fn handshake_timeouts_are_counted() {
    let server = server(|config| config.limits.handshake_timeout = SHORT);
    let mut silent = RawConnection::connect(server.address).await;
    let mut slow = RawConnection::connect(server.address).await;
    slow.send(&PREFACE[..10]).await.unwrap();
    silent.wait_closed().await;
    slow.wait_closed().await;
    server.wait_refused("handshake_timeout", 2).await;

    let tls = server_with_tls();
    let _silent = with_timeout(TcpStream::connect(tls.address)).await.unwrap();
    tls.wait_refused("handshake_timeout", 1).await;
}

fn server_with_tls() -> TestServer {
    server(|config| {
        let (tls, _pem) = Tls::development(vec!["localhost".to_owned()]).unwrap();
        config.tls = Some(tls);
        config.limits.handshake_timeout = SHORT;
    })
}

#[tokio::test]
async fn write_stalls_are_counted() {
    let server = server(|config| config.limits.write_stall_timeout = SHORT);
    let _deaf = connect_without_reading(server.address).await;
    server.wait_refused("write_stall_timeout", 1).await;
    // The running call of the connection is counted as canceled.
    let canceled = "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"LotsOfReplies\",\
        grpc_service=\"muxs.Greeter\",grpc_type=\"server_stream\"}";
    server.wait_series(canceled, 1).await;
}

#[tokio::test]
async fn keepalive_timeouts_are_counted() {
    let server = server(|config| {
        config.limits.keepalive_interval = SHORT;
        config.limits.keepalive_timeout = SHORT;
    });
    let mut absent = RawConnection::open(server.address).await;
    absent.wait_closed().await;
    server.wait_refused("keepalive_timeout", 1).await;
}

#[tokio::test]
async fn idle_calls_are_counted() {
    let server = server(|config| config.limits.idle_timeout = SHORT);
    let mut raw = RawConnection::open(server.address).await;
    raw.send(&call(1, SAY_HELLO)).await.unwrap();
    raw.wait_until(|received| received.ended_streams == 1).await;
    server.wait_refused("idle_timeout", 1).await;
}

#[tokio::test]
async fn exceeded_max_deadlines_are_counted() {
    let server = server(|config| config.limits.max_deadline = Some(SHORT));
    let mut raw = RawConnection::open(server.address).await;
    let both = [call(1, SAY_HELLO), call(3, BIDI_HELLO)].concat();
    raw.send(&both).await.unwrap();
    raw.wait_until(|received| received.ended_streams == 2).await;
    server.wait_refused("max_deadline", 2).await;
    // A call whose own deadline is shorter is not counted.
    let mut with_deadline = tonic::Request::new(tokio_stream::pending());
    with_deadline.set_timeout(SHORT / 2);
    let mut greeter = server.greeter().await;
    let answer = greeter.bidi_hello(with_deadline).await;
    let ended = async {
        let mut replies = answer.unwrap().into_inner();
        replies.message().await
    };
    assert!(with_timeout(ended).await.is_err());
    server.wait_refused("max_deadline", 2).await;
}

#[tokio::test]
async fn cut_off_calls_of_aged_connections_are_counted() {
    let server = server(|config| {
        config.limits.max_connection_age = Some(SHORT);
        config.shutdown_grace = SHORT;
    });
    let mut raw = RawConnection::open(server.address).await;
    raw.send(&call(1, BIDI_HELLO)).await.unwrap();
    raw.wait_closed().await;
    server.wait_refused("shutdown_grace", 1).await;
}

#[tokio::test]
async fn cut_off_aged_connection_is_counted() {
    let server = server(|config| {
        config.limits.max_connection_age = Some(SHORT);
        config.shutdown_grace = TEST_TIMEOUT;
    });
    // This client receives GOAWAY and does not acknowledge the PING.
    let mut unresponsive = RawConnection::open(server.address).await;
    unresponsive.wait_closed().await;
    server.wait_refused("silence", 1).await;
}
