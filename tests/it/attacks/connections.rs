//! More connections than the limits allow.

use std::{fs, net::IpAddr};

use muxs::pb::greeter_client::GreeterClient;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use muxs::pb::HelloRequest;

use crate::support::{
    TEST_TIMEOUT, assert_failure, hello,
    memory_probe::{MAX_GROWTH, MemoryProbe},
    raw_http2::{RawConnection, SETTINGS},
    with_timeout,
};

/// A client on a connection of its own, from an address of the loopback interface.
fn client(server: &MemoryProbe, from: [u8; 4]) -> GreeterClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.program.address))
        .unwrap()
        .local_address(Some(IpAddr::from(from)))
        .timeout(TEST_TIMEOUT);
    GreeterClient::new(endpoint.connect_lazy())
}

const HERE: [u8; 4] = [127, 0, 0, 1];
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];

#[track_caller]
fn assert_busy<T>(answer: Result<T, Status>) {
    let status = assert_failure(answer, Code::ResourceExhausted, "BUSY");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
}

/// Opens `count` connections that are served.
async fn connect_served(server: &MemoryProbe, count: usize) -> Vec<GreeterClient<Channel>> {
    let mut served = Vec::new();
    for _ in 0..count {
        let mut greeter = client(server, HERE);
        with_timeout(greeter.say_hello(hello("you"))).await.unwrap();
        served.push(greeter);
    }
    served
}

/// Waits until a new connection is accepted.
async fn wait_for_capacity(server: &MemoryProbe) {
    let room = async {
        while client(server, HERE).say_hello(hello("you")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(room).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_answered_busy_or_closed() {
    const CROWD: usize = 200;
    let mut server = MemoryProbe::start_with(&["--max-connections", "10"]).await;
    let served = connect_served(&server, 9).await;
    assert_busy(with_timeout(client(&server, ELSEWHERE).say_hello(hello("you"))).await);

    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(RawConnection::connect(server.program.address).await);
    }
    let mut busy = 0;
    for raw in &mut crowd {
        // A connection that gets BUSY receives SETTINGS first.
        let received = raw
            .wait_until(|received| received.closed || received.count(SETTINGS) > 0)
            .await;
        busy += usize::from(received.count(SETTINGS) > 0);
    }
    assert!((1..CROWD).contains(&busy), "{busy} were answered BUSY");
    for raw in &mut crowd {
        raw.wait_closed().await;
    }
    server.assert_serves().await;
    server.assert_growth_below(4 * MAX_GROWTH);

    drop(served);
    wait_for_capacity(&server).await;
}

#[tokio::test]
async fn connection_limit_is_per_address() {
    let flags = ["--max-connections-per-address", "4"];
    let mut server = MemoryProbe::start_with(&flags).await;
    let served = connect_served(&server, 3).await;
    assert_busy(with_timeout(client(&server, HERE).say_hello(hello("you"))).await);
    let mut elsewhere = client(&server, ELSEWHERE);
    with_timeout(elsewhere.say_hello(hello("you")))
        .await
        .unwrap();
    server.assert_serves().await;
    drop(served);
    wait_for_capacity(&server).await;
}

/// Returns the processor time of the main thread, which only accepts connections.
fn main_thread_cpu_time(process: u32) -> u64 {
    let times = fs::read_to_string(format!("/proc/{process}/task/{process}/schedstat")).unwrap();
    times.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn server_without_descriptors_accepts_again_later() {
    const PAUSE: i32 = 100_000_000;
    const PAUSES: u32 = 10;
    let mut server = MemoryProbe::start().await;
    let process = server.program.id();
    let open = fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
    let limit = Rlimit {
        current: Some(open as u64 + 4),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let pid = Pid::from_raw(process.cast_signed());
    prlimit(pid, Resource::Nofile, limit).unwrap();

    let mut crowd = Vec::new();
    for _ in 0..50 {
        crowd.push(RawConnection::connect(server.program.address).await);
    }
    let failing = "cannot accept connections";
    with_timeout(async {
        while !server.program.log().contains(failing) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let before = main_thread_cpu_time(process);
    let request = HelloRequest {
        replies: PAUSES + 1,
        interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: PAUSE,
        }),
        ..hello("you")
    };
    let replies = server.greeter.lots_of_replies(request).await;
    let mut replies = replies.unwrap().into_inner();
    while with_timeout(replies.message()).await.unwrap().is_some() {}
    let spent = main_thread_cpu_time(process) - before;
    // The main thread may be busy for a tenth of the time.
    assert!(
        spent < PAUSE as u64,
        "{spent} ns, while nothing could be done"
    );
    assert_eq!(server.program.log().matches(failing).count(), 1);
    server.assert_serves().await;
    server.assert_bounded_growth();

    drop(crowd);
    wait_for_capacity(&server).await;
}
