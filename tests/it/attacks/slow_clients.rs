//! Clients that connect and send nothing, or never complete what they send.

use bytes::Bytes;
use futures::future::join_all;
use tonic::{Code, Status};

use crate::support::{
    assert_failure,
    memory_probe::{MAX_GROWTH, MIB, MemoryProbe},
    methods::{BIDI_HELLO, MAX_STREAMS, SAY_HELLO, WRITE_STREAM},
    raw_http2::{PING, PREFACE, RawConnection, connect_h2, message, request, settings},
    with_timeout,
};

#[tokio::test]
async fn clients_that_send_nothing_are_closed() {
    const EACH: usize = 100;
    let mut server = MemoryProbe::start_with(&["--handshake-timeout", "200ms"]).await;
    let begun: [&[u8]; 4] = [b"", b"P", &PREFACE[..12], PREFACE];
    let mut silent = Vec::new();
    for said in begun.repeat(EACH) {
        let mut raw = RawConnection::connect(server.program.address).await;
        raw.send(said).await.unwrap();
        silent.push(raw);
    }
    server.assert_serves().await;
    for raw in &mut silent {
        raw.wait_closed().await;
    }
    server.assert_serves().await;
    server.assert_growth_below(4 * MAX_GROWTH);
}

/// Single bytes do not prolong the timeout.
#[tokio::test]
async fn clients_with_a_slow_preface_are_closed() {
    const CLIENTS: usize = 100;
    let mut server = MemoryProbe::start_with(&["--handshake-timeout", "200ms"]).await;
    let connects = (0..CLIENTS).map(|_| RawConnection::connect(server.program.address));
    let mut trickling = join_all(connects).await;
    for byte in PREFACE.chunks(1) {
        for raw in &mut trickling {
            // Sending fails if the server has closed the connection.
            let _ = raw.send(byte).await;
        }
        server.assert_serves().await;
    }
    for raw in &mut trickling {
        raw.wait_closed().await;
    }
    server.assert_serves().await;
    server.assert_growth_below(4 * MAX_GROWTH);
}

/// One client ignores the PING, the other is in the middle of a frame.
#[tokio::test]
async fn client_that_does_not_answer_keepalive_is_closed() {
    let flags = ["--keepalive-interval", "200ms", "--keepalive-timeout", "1s"];
    let mut server = MemoryProbe::start_with(&flags).await;
    let (mut requests, connection) = connect_h2(server.program.address).await;
    let mut absent = RawConnection::open(server.program.address).await;
    let mut halting = RawConnection::connect(server.program.address).await;
    let half = &settings(&[(4, 0)])[..9];
    halting.send(&[PREFACE, half].concat()).await.unwrap();
    for raw in [&mut absent, &mut halting] {
        let received = raw.wait_closed().await;
        assert!(received.count(PING) > 0, "{received:?}");
    }

    // An idle client that answers is kept.
    assert!(!connection.is_finished());
    let head = request(server.program.address, SAY_HELLO);
    let (response, mut sending) = requests.send_request(head, false).unwrap();
    sending.send_data(message(b"").into(), true).unwrap();
    assert!(with_timeout(response).await.is_ok());
    server.assert_serves().await;
    server.assert_bounded_growth();
}

/// The idle timeout ends calls that wait for their message, but not streams that may be idle.
#[tokio::test]
async fn abandoned_calls_end_after_the_idle_timeout() {
    const CONNECTIONS: u32 = 4;
    // The abandoned calls take up the whole call limit until they end.
    let max_calls = (CONNECTIONS * MAX_STREAMS).to_string();
    let flags = ["--idle-timeout", "500ms", "--max-calls", &max_calls];
    let mut server = MemoryProbe::start_with(&flags).await;
    let address = server.program.address;
    let mut left = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let (mut requests, connection) = connect_h2(address).await;
        for number in 0..MAX_STREAMS {
            requests = with_timeout(requests.ready()).await.unwrap();
            let path = [SAY_HELLO, WRITE_STREAM][number as usize % 2];
            let call = requests.send_request(request(address, path), false);
            left.push(call.unwrap());
        }
        connections.push((requests, connection));
    }
    for (response, _sending) in left {
        let response = with_timeout(response).await.unwrap();
        let failure = match Status::from_header_map(response.headers()) {
            Some(failure) => failure,
            None => {
                let trailers = with_timeout(response.into_body().trailers()).await;
                Status::from_header_map(&trailers.unwrap().unwrap()).unwrap()
            }
        };
        assert_failure(Err::<(), _>(failure), Code::Unavailable, "IDLE");
    }
    server.assert_serves().await;
    server.assert_growth_below(32 * MIB);
}

#[tokio::test]
async fn abandoned_streams_stay_small() {
    const CONNECTIONS: u32 = 4;
    let mut server = MemoryProbe::start_with(&["--idle-timeout", "200ms"]).await;
    let address = server.program.address;
    let mut left = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let (mut requests, connection) = connect_h2(address).await;
        for _ in 0..MAX_STREAMS {
            requests = with_timeout(requests.ready()).await.unwrap();
            let call = requests.send_request(request(address, BIDI_HELLO), false);
            let (response, sending) = call.unwrap();
            left.push((with_timeout(response).await.unwrap(), sending));
        }
        connections.push((requests, connection));
    }
    // A call that is subject to the idle timeout shows that it has passed.
    let (mut requests, _connection) = connect_h2(address).await;
    let (response, _sending) = requests
        .send_request(request(address, SAY_HELLO), false)
        .unwrap();
    let failure = Status::from_header_map(with_timeout(response).await.unwrap().headers()).unwrap();
    assert_failure(Err::<(), _>(failure), Code::Unavailable, "IDLE");
    for (response, mut sending) in left {
        sending.send_data(Bytes::from(message(b"")), true).unwrap();
        let mut replies = response.into_body();
        assert_eq!(
            with_timeout(replies.data()).await.unwrap().unwrap().len(),
            15
        );
    }
    server.assert_serves().await;
    server.assert_growth_below(32 * MIB);
}
