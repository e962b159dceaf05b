//! Streams without end cost no memory: a million messages pass through a server of constant size,
//! and what nobody reads is not made.

use muxs::pb::{HelloRequest, greeter_client::GreeterClient};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::Channel;

use crate::support::{Program, hello};

const MILLION: u32 = 1_000_000;

/// In bytes. A million of anything that is kept is more than this.
const MAX_GROWTH: u64 = 8 * 1024 * 1024;

/// A server whose memory is watched from its first call on.
struct Watched {
    greeter: GreeterClient<Channel>,
    program: Program,
    before: u64,
    _root: TempDir,
}

impl Watched {
    async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let program = Program::start(root.path()).await;
        let mut greeter = program.greeter().await;
        greeter.say_hello(hello("you")).await.unwrap();
        let before = peak_memory(&program);
        Self {
            greeter,
            program,
            before,
            _root: root,
        }
    }

    #[track_caller]
    fn assert_small(&self) {
        let growth = peak_memory(&self.program) - self.before;
        assert!(growth < MAX_GROWTH, "it grew by {growth} bytes");
    }
}

#[tokio::test]
async fn a_million_replies_do_not_grow_the_server() {
    let mut server = Watched::start().await;
    let request = HelloRequest {
        replies: MILLION,
        ..hello("you")
    };
    let replies = server.greeter.lots_of_replies(request).await.unwrap();
    let mut replies = replies.into_inner();
    let mut count = 0;
    while replies.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, MILLION);
    server.assert_small();
}

#[tokio::test]
async fn a_million_greetings_do_not_grow_the_server() {
    let mut server = Watched::start().await;
    let names = tokio_stream::iter(0..MILLION).map(|number| hello(number.to_string()));
    let reply = server.greeter.lots_of_greetings(names).await.unwrap();
    let message = reply.into_inner().message;
    assert_eq!(message, "Hello, 0, 1, 2 and 999997 others!");
    server.assert_small();
}

/// Four kilobytes a reply, and 4 billion of them, for a client that reads none.
#[tokio::test]
async fn replies_that_nobody_reads_are_not_made() {
    let mut server = Watched::start().await;
    let request = HelloRequest {
        replies: u32::MAX,
        ..hello("x".repeat(4096))
    };
    let _unread = server.greeter.lots_of_replies(request).await.unwrap();
    // Time enough for a server that makes them all the same.
    for _ in 0..3000 {
        server.greeter.say_hello(hello("you")).await.unwrap();
    }
    server.assert_small();
}

/// What is said to a server whose replies nobody reads waits at the client.
#[tokio::test]
async fn greetings_that_nobody_reads_are_not_made() {
    let mut server = Watched::start().await;
    let (requests, outgoing) = mpsc::channel(1);
    let outgoing = ReceiverStream::new(outgoing);
    let _unread = server.greeter.bidi_hello(outgoing).await.unwrap();
    let mut sent = 0;
    let mut rounds_without = 0;
    while rounds_without < 1000 {
        rounds_without += 1;
        while requests.try_send(hello("x".repeat(4096))).is_ok() {
            sent += 1;
            rounds_without = 0;
        }
        assert!(sent < 16 * 1024, "64 MiB were taken");
        // Time enough for a server that takes another.
        server.greeter.say_hello(hello("you")).await.unwrap();
    }
    server.assert_small();
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
