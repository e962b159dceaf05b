//! The drain of a server and of an aged connection: running calls may finish, new calls are refused, and
//! no client can delay the end beyond the shutdown grace.

use std::{sync::Arc, time::Duration};

use muxs::{pb::HelloRequest, server::Heartbeat};
use prost::Message;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    TEST_TIMEOUT, TestServer, hello,
    methods::{BIDI_HELLO, LOTS_OF_GREETINGS, REFLECTION, SAY_HELLO, WRITE, WRITE_STREAM},
    raw_http2::{
        DATA, GO_AWAY, INITIAL_WINDOW_SIZE, PREFACE, RawConnection, call, connect_h2,
        connect_without_reading, endless_call, endless_request, frame, message, request,
    },
    with_timeout,
};

/// Longer than the timeout of a test.
const LONG: Duration = TEST_TIMEOUT.saturating_mul(2);

const SHORT: Duration = Duration::from_millis(50);

fn watch() -> HealthCheckRequest {
    HealthCheckRequest {
        service: "muxs.Greeter".to_owned(),
    }
}

#[tokio::test]
async fn drain_finishes_calls_and_refuses_new_ones() {
    let mut server = TestServer::start_with(|config| config.shutdown_grace = TEST_TIMEOUT * 2);
    let mut greeter = server.greeter().await;
    let mut health = HealthClient::new(server.channel().await);
    let mut watch = health.watch(watch()).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let (requests, outgoing) = mpsc::channel(1);
    let mut replies = greeter
        .bidi_hello(ReceiverStream::new(outgoing))
        .await
        .unwrap()
        .into_inner();
    requests.send(hello("A")).await.unwrap();
    assert!(replies.message().await.unwrap().is_some());

    server.stop();
    let second = with_timeout(watch.message()).await.unwrap().unwrap();
    assert_eq!(second.status(), ServingStatus::NotServing);
    // The drain ends health watches, which would never end by themselves.
    assert_eq!(with_timeout(watch.message()).await.unwrap(), None);
    // The running call continues until one side ends it.
    requests.send(hello("B")).await.unwrap();
    assert_eq!(
        replies.message().await.unwrap().unwrap().message,
        "Hello, B!"
    );
    drop(requests);
    assert_eq!(replies.message().await.unwrap(), None);
    server.wait_stopped().await;
    assert_eq!(
        greeter.say_hello(hello("C")).await.unwrap_err().code(),
        Code::Unavailable
    );
}

/// A watchdog must not kill a server that drains.
#[tokio::test]
async fn heartbeat_continues_during_a_drain_without_delaying_it() {
    let (tell, mut beats) = mpsc::unbounded_channel();
    let beat = move || {
        let _ = tell.send(());
    };
    let mut server = TestServer::start_with(|config| {
        config.shutdown_grace = LONG;
        config.heartbeat = Some(Heartbeat {
            every: Duration::from_millis(1),
            beat: Arc::new(beat),
        });
    });
    let mut health = HealthClient::new(server.channel().await);
    let mut watch = health.watch(watch()).await.unwrap().into_inner();
    let (requests, outgoing) = mpsc::channel::<HelloRequest>(1);
    let mut greeter = server.greeter().await;
    let call = greeter.bidi_hello(ReceiverStream::new(outgoing)).await;
    with_timeout(beats.recv()).await.unwrap();

    server.stop();
    while with_timeout(watch.message()).await.unwrap().is_some() {}
    while beats.try_recv().is_ok() {}
    for _ in 0..3 {
        with_timeout(beats.recv()).await.unwrap();
    }
    drop((requests, call));
    server.wait_stopped().await;
    while with_timeout(beats.recv()).await.is_some() {}
}

/// Calls get the whole shutdown grace, which is longer than the checkpoint grace of uploads.
#[tokio::test]
async fn drain_waits_for_a_slow_call() {
    let mut server = TestServer::start_with(|config| config.shutdown_grace = LONG);
    let mut greeter = server.greeter().await;
    let request = HelloRequest {
        replies: 2,
        interval: Some(prost_types::Duration {
            seconds: 12,
            nanos: 0,
        }),
        ..hello("you")
    };
    let mut replies = greeter.lots_of_replies(request).await.unwrap().into_inner();
    assert!(replies.message().await.unwrap().is_some());
    server.stop();
    assert!(with_timeout(replies.message()).await.unwrap().is_some());
    assert_eq!(with_timeout(replies.message()).await.unwrap(), None);
    server.wait_stopped().await;
}

/// None of these calls ends by itself, and neither does a connection that never sends a byte.
#[tokio::test]
async fn drain_ends_despite_stuck_clients() {
    let mut server =
        TestServer::start_with(|config| config.shutdown_grace = Duration::from_millis(50));
    let mut greeter = server.greeter().await;
    let hour = prost_types::Duration {
        seconds: 3600,
        nanos: 0,
    };
    let pausing = HelloRequest {
        interval: Some(hour),
        ..hello("you")
    };
    let mut pausing = greeter.lots_of_replies(pausing).await.unwrap().into_inner();
    assert!(pausing.message().await.unwrap().is_some());
    let mut unread = greeter
        .lots_of_replies(endless_request())
        .await
        .unwrap()
        .into_inner();
    let (_requests, outgoing) = mpsc::channel::<HelloRequest>(1);
    let replies = greeter.bidi_hello(ReceiverStream::new(outgoing)).await;
    let mut silent = replies.unwrap().into_inner();
    let _silent_connection = TcpStream::connect(server.address).await.unwrap();

    server.stop();
    server.wait_stopped().await;
    assert!(with_timeout(pausing.message()).await.is_err());
    assert!(with_timeout(silent.message()).await.is_err());
    let cut = async { while unread.message().await.is_ok() {} };
    with_timeout(cut).await;
}

/// None of these connections has a call.
#[tokio::test]
async fn idle_connection_does_not_delay_a_drain() {
    let mut server = TestServer::start_with(|config| {
        config.shutdown_grace = LONG;
        config.limits.handshake_timeout = LONG;
    });
    let _idle = server.greeter().await;
    let _silent_connection = RawConnection::connect(server.address).await;
    let mut interrupted = RawConnection::connect(server.address).await;
    interrupted.send(&PREFACE[..10]).await.unwrap();
    // This client receives GOAWAY and does not acknowledge the PING of the drain.
    let mut unresponsive = RawConnection::open(server.address).await;
    unresponsive.assert_alive().await;
    let mut health = HealthClient::new(server.channel().await);
    let _watch = health.watch(watch()).await.unwrap();

    server.stop();
    server.wait_stopped().await;
    assert!(unresponsive.wait_closed().await.count(GO_AWAY) > 0);
}

/// None of these calls ends by itself.
#[tokio::test]
async fn endless_call_is_cut_off_after_the_shutdown_grace() {
    let mut server = TestServer::start_with(|config| config.shutdown_grace = SHORT);
    let mut stuck = Vec::new();
    for path in [
        SAY_HELLO,
        LOTS_OF_GREETINGS,
        BIDI_HELLO,
        WRITE,
        WRITE_STREAM,
        REFLECTION,
    ] {
        let mut raw = RawConnection::open(server.address).await;
        // An incomplete prefix of a message.
        raw.send(&[call(1, path), frame(DATA, 0, 1, &[0; 3])].concat())
            .await
            .unwrap();
        raw.assert_alive().await;
        stuck.push(raw);
    }
    // The window of this stream is zero.
    let mut closed_window =
        RawConnection::open_with(server.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    closed_window.send(&endless_call()).await.unwrap();
    closed_window.assert_alive().await;
    stuck.push(closed_window);
    let unresponsive = connect_without_reading(server.address).await;

    server.stop();
    server.wait_stopped().await;
    for raw in &mut stuck {
        raw.wait_closed().await;
    }
    drop(unresponsive);
}

#[tokio::test]
async fn aged_connection_refuses_new_calls_and_finishes_old_ones() {
    let server = TestServer::start_with(|config| {
        config.limits.max_connection_age = Some(SHORT);
        config.shutdown_grace = LONG;
    });
    let (client, _connection) = connect_h2(server.address).await;
    let begin = request(server.address, BIDI_HELLO);
    let (replies, mut requests) = client.clone().send_request(begin, false).unwrap();
    let mut replies = with_timeout(replies).await.unwrap().into_body();
    let told_to_go = async {
        while client.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(told_to_go).await;

    let greeting = message(&hello("you").encode_to_vec());
    requests.send_data(greeting.into(), true).unwrap();
    let reply = with_timeout(replies.data()).await.unwrap().unwrap();
    assert!(reply.ends_with(b"Hello, you!"));
    let trailers = with_timeout(replies.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn aged_connection_with_endless_calls_is_cut_off() {
    let server = TestServer::start_with(|config| {
        config.limits.max_connection_age = Some(SHORT);
        config.shutdown_grace = SHORT;
    });
    let mut raw = RawConnection::open(server.address).await;
    raw.send(&call(1, BIDI_HELLO)).await.unwrap();
    assert!(raw.wait_closed().await.count(GO_AWAY) > 0);
}
