//! Streams without end cost no memory: a million messages pass through a server of constant size.

use muxs::pb::HelloRequest;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use crate::support::Program;

const MILLION: u32 = 1_000_000;

/// A million of anything that is kept is more than this.
const MAX_GROWTH: u64 = 8 * 1024 * 1024;

#[tokio::test]
async fn a_million_replies_do_not_grow_the_server() {
    let root = tempfile::tempdir().unwrap();
    let program = Program::start(root.path()).await;
    let mut greeter = program.greeter().await;
    greeter.say_hello(HelloRequest::default()).await.unwrap();
    let before = peak_memory(&program);
    let request = HelloRequest {
        name: "you".to_owned(),
        replies: MILLION,
        interval: None,
    };
    let mut replies = greeter.lots_of_replies(request).await.unwrap().into_inner();
    let mut count = 0;
    while replies.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, MILLION);
    assert_growth(before, peak_memory(&program));
}

#[tokio::test]
async fn a_million_greetings_do_not_grow_the_server() {
    let root = tempfile::tempdir().unwrap();
    let program = Program::start(root.path()).await;
    let mut greeter = program.greeter().await;
    greeter.say_hello(HelloRequest::default()).await.unwrap();
    let before = peak_memory(&program);
    let requests = tokio_stream::iter(0..MILLION).map(|number| HelloRequest {
        name: number.to_string(),
        ..Default::default()
    });
    let reply = greeter
        .lots_of_greetings(requests)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.message, "Hello, 0, 1, 2 and 999997 others!");
    assert_growth(before, peak_memory(&program));
}

/// Four kilobytes a reply, and 4 billion of them, for a client that reads none.
#[tokio::test]
async fn replies_that_nobody_reads_are_not_made() {
    let root = tempfile::tempdir().unwrap();
    let program = Program::start(root.path()).await;
    let mut greeter = program.greeter().await;
    greeter.say_hello(HelloRequest::default()).await.unwrap();
    let before = peak_memory(&program);
    let request = HelloRequest {
        replies: u32::MAX,
        ..long_hello()
    };
    let _unread = greeter.lots_of_replies(request).await.unwrap();
    // Time enough for a server that makes them all the same.
    for _ in 0..3000 {
        greeter.say_hello(HelloRequest::default()).await.unwrap();
    }
    assert_growth(before, peak_memory(&program));
}

/// What is said to a server whose replies nobody reads waits at the client.
#[tokio::test]
async fn greetings_that_nobody_reads_are_not_made() {
    let root = tempfile::tempdir().unwrap();
    let program = Program::start(root.path()).await;
    let mut greeter = program.greeter().await;
    greeter.say_hello(HelloRequest::default()).await.unwrap();
    let before = peak_memory(&program);
    let (requests, outgoing) = mpsc::channel(1);
    let _unread = greeter
        .bidi_hello(ReceiverStream::new(outgoing))
        .await
        .unwrap();
    let mut sent = 0;
    let mut rounds_without = 0;
    while rounds_without < 1000 {
        rounds_without += 1;
        while requests.try_send(long_hello()).is_ok() {
            sent += 1;
            rounds_without = 0;
        }
        assert!(sent < 16 * 1024, "64 MiB were taken");
        // Time enough for a server that takes another.
        greeter.say_hello(HelloRequest::default()).await.unwrap();
    }
    assert_growth(before, peak_memory(&program));
}

fn long_hello() -> HelloRequest {
    HelloRequest {
        name: "x".repeat(4096),
        ..Default::default()
    }
}

#[track_caller]
fn assert_growth(before: u64, after: u64) {
    assert!(after - before < MAX_GROWTH, "{} bytes more", after - before);
}

/// The most memory the server has had at any time, in bytes.
fn peak_memory(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes * 1024
}
