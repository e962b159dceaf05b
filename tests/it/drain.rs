//! How a server ends, and a connection that is old: calls under way may end, new ones are not taken,
//! and nobody can make it wait for longer than it says.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use muxs::{pb::HelloRequest, server::Heartbeat};
use prost::Message;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    raw::{
        DATA, GO_AWAY, INITIAL_WINDOW_SIZE, MAX_WINDOW, PREFACE, Raw, call, frame, message, polite,
        request, settings, window_update,
    },
    support::{PATIENCE, TestServer, bounded, hello},
};

/// Longer than any test waits.
const LONG: Duration = PATIENCE.saturating_mul(2);

const SHORT: Duration = Duration::from_millis(50);

const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

fn watch() -> HealthCheckRequest {
    HealthCheckRequest {
        service: "muxs.Greeter".to_owned(),
    }
}

/// Four kilobytes a reply, and 4 billion of them.
fn endless() -> HelloRequest {
    HelloRequest {
        replies: u32::MAX,
        ..hello("x".repeat(4096))
    }
}

#[tokio::test]
async fn a_drain_lets_calls_end_and_takes_no_new_ones() {
    let mut server = TestServer::start_with(|config| config.shutdown_grace = PATIENCE * 2);
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
    let second = bounded(watch.message()).await.unwrap().unwrap();
    assert_eq!(second.status(), ServingStatus::NotServing);
    // A watch would never end by itself, and is no reason to wait.
    assert_eq!(bounded(watch.message()).await.unwrap(), None);
    // The call under way goes on as long as both want.
    requests.send(hello("B")).await.unwrap();
    assert_eq!(
        replies.message().await.unwrap().unwrap().message,
        "Hello, B!"
    );
    drop(requests);
    assert_eq!(replies.message().await.unwrap(), None);
    server.stopped().await;
    assert_eq!(
        greeter.say_hello(hello("C")).await.unwrap_err().code(),
        Code::Unavailable
    );
}

/// Whoever watches over the server shall not end it while it drains.
#[tokio::test]
async fn a_heartbeat_goes_on_in_a_drain_and_does_not_hold_it_up() {
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
    bounded(beats.recv()).await.unwrap();

    server.stop();
    while bounded(watch.message()).await.unwrap().is_some() {}
    while beats.try_recv().is_ok() {}
    for _ in 0..3 {
        bounded(beats.recv()).await.unwrap();
    }
    drop((requests, call));
    server.stopped().await;
    while bounded(beats.recv()).await.is_some() {}
}

/// The grace is theirs, however long it is: longer than uploads get for their last bytes, for
/// instance.
#[tokio::test]
async fn a_drain_lets_a_call_go_on_that_takes_its_time() {
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
    assert!(bounded(replies.message()).await.unwrap().is_some());
    assert_eq!(bounded(replies.message()).await.unwrap(), None);
    server.stopped().await;
}

/// None of these calls ends by itself, and neither does the connection of a peer that never says a
/// word.
#[tokio::test]
async fn a_drain_ends_whatever_a_client_does() {
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
    let endless = HelloRequest {
        replies: u32::MAX,
        ..hello("x".repeat(4096))
    };
    let mut unread = greeter.lots_of_replies(endless).await.unwrap().into_inner();
    let (_requests, outgoing) = mpsc::channel::<HelloRequest>(1);
    let replies = greeter.bidi_hello(ReceiverStream::new(outgoing)).await;
    let mut silent = replies.unwrap().into_inner();
    let _speechless = TcpStream::connect(server.address).await.unwrap();

    server.stop();
    server.stopped().await;
    assert!(bounded(pausing.message()).await.is_err());
    assert!(bounded(silent.message()).await.is_err());
    let cut = async { while unread.message().await.is_ok() {} };
    bounded(cut).await;
}

/// None of these has a call that could end.
#[tokio::test]
async fn a_client_without_a_call_does_not_hold_a_drain_up() {
    let mut server = TestServer::start_with(|config| {
        config.shutdown_grace = LONG;
        config.limits.handshake_timeout = LONG;
    });
    let _idle = server.greeter().await;
    let _speechless = Raw::connect(server.address).await;
    let mut interrupted = Raw::connect(server.address).await;
    interrupted.send(&PREFACE[..10]).await.unwrap();
    // It hears that it shall go, and does not acknowledge it.
    let mut deaf = Raw::open(server.address).await;
    deaf.assert_alive().await;
    let mut health = HealthClient::new(server.channel().await);
    let _watch = health.watch(watch()).await.unwrap();

    server.stop();
    server.stopped().await;
    assert!(deaf.closed().await.count(GO_AWAY) > 0);
}

/// Each of these calls could go on for ever.
#[tokio::test]
async fn a_client_with_a_call_that_does_not_end_is_cut_off_when_the_grace_is_over() {
    let mut server = TestServer::start_with(|config| config.shutdown_grace = SHORT);
    let mut stuck = Vec::new();
    for path in [
        "/muxs.Greeter/SayHello",
        "/muxs.Greeter/LotsOfGreetings",
        "/muxs.Greeter/BidiHello",
        "/muxs.FileController/Write",
        "/muxs.FileController/WriteStream",
        REFLECTION,
    ] {
        let mut raw = Raw::open(server.address).await;
        // Half of the head of a message.
        raw.send(&[call(1, path), frame(DATA, 0, 1, &[0; 3])].concat())
            .await
            .unwrap();
        raw.assert_alive().await;
        stuck.push(raw);
    }
    // It takes nothing from the stream.
    let mut closed_window = Raw::open_with(server.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    closed_window.send(&endless_call()).await.unwrap();
    closed_window.assert_alive().await;
    stuck.push(closed_window);
    let deaf = never_reading(server.address).await;

    server.stop();
    server.stopped().await;
    for raw in &mut stuck {
        raw.closed().await;
    }
    drop(deaf);
}

fn endless_call() -> Vec<u8> {
    let request = message(&endless().encode_to_vec());
    let ended = frame(DATA, 1, 1, &request);
    [call(1, "/muxs.Greeter/LotsOfReplies"), ended].concat()
}

/// A client that takes nothing from its socket, which the server has filled.
pub(crate) async fn never_reading(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let open = [
        PREFACE.to_vec(),
        settings(&[(INITIAL_WINDOW_SIZE, MAX_WINDOW)]),
        window_update(0, MAX_WINDOW - 65_535),
        endless_call(),
    ];
    stream.write_all(&open.concat()).await.unwrap();
    let mut before = 0;
    let filled = async {
        // As much as there is to read, and no more of it comes.
        loop {
            let mut seen = vec![0; 8 << 20];
            let there = stream.peek(&mut seen).await.unwrap();
            if there == before && there > 64 * 1024 {
                return;
            }
            before = there;
            tokio::task::yield_now().await;
        }
    };
    bounded(filled).await;
    stream
}

#[tokio::test]
async fn an_old_connection_takes_no_new_call_and_lets_the_old_ones_end() {
    let server = TestServer::start_with(|config| {
        config.limits.max_connection_age = Some(SHORT);
        config.shutdown_grace = LONG;
    });
    let (client, _connection) = polite(server.address).await;
    let begin = request(server.address, "/muxs.Greeter/BidiHello");
    let (replies, mut requests) = client.clone().send_request(begin, false).unwrap();
    let mut replies = bounded(replies).await.unwrap().into_body();
    let told_to_go = async {
        while client.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    bounded(told_to_go).await;

    let greeting = message(&hello("you").encode_to_vec());
    requests.send_data(greeting.into(), true).unwrap();
    let reply = bounded(replies.data()).await.unwrap().unwrap();
    assert!(reply.ends_with(b"Hello, you!"));
    let trailers = bounded(replies.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn an_old_connection_whose_calls_do_not_end_is_cut_off() {
    let server = TestServer::start_with(|config| {
        config.limits.max_connection_age = Some(SHORT);
        config.shutdown_grace = SHORT;
    });
    let mut raw = Raw::open(server.address).await;
    raw.send(&call(1, "/muxs.Greeter/BidiHello")).await.unwrap();
    assert!(raw.closed().await.count(GO_AWAY) > 0);
}
