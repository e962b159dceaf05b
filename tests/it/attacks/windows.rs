//! Data that a client sends ahead of its handlers: as much as the flow-control windows allow, no more.

use crate::support::{
    memory_probe::{MIB, MemoryProbe},
    methods::{BIDI_HELLO, LOTS_OF_GREETINGS, MAX_STREAMS},
    raw_http2::{
        DATA, END_STREAM, FLOW_CONTROL_ERROR, INITIAL_WINDOW_SIZE, MAX_WINDOW, RawConnection,
        STREAM_WINDOW, call, frame, message, reset, settings, streams, window_update,
    },
};

/// The memory that one connection may take: the data received ahead of its handlers. Nothing is sent.
const MAX_CONNECTION: u64 = 128 * MIB;

#[tokio::test]
async fn million_small_messages_pass_in_constant_memory() {
    const MILLION: u64 = 1_000_000;
    const BURST: u64 = 1000;
    // `HelloRequest { name: "somebody" }`.
    let greeting = message(b"\x0a\x08somebody");
    let size = greeting.len() as u64;
    assert_eq!(size, 15);
    let reply = message(b"\x0a\x10Hello, somebody!").len() as u64;
    let mut server = MemoryProbe::start().await;
    let mut raw =
        RawConnection::open_with(server.program.address, &[(INITIAL_WINDOW_SIZE, MAX_WINDOW)])
            .await;
    raw.send(&window_update(0, MAX_WINDOW - 0xffff))
        .await
        .unwrap();
    raw.send(&call(1, BIDI_HELLO)).await.unwrap();
    let burst = frame(DATA, 0, 1, &greeting).repeat(BURST as usize);
    for sent in (0..MILLION).step_by(BURST as usize) {
        raw.wait_until(|received| received.window(1) >= (sent + BURST) * size)
            .await;
        raw.send(&burst).await.unwrap();
    }
    raw.send(&frame(DATA, END_STREAM, 1, b"")).await.unwrap();
    let received = raw.wait_until(|received| received.ended_streams == 1).await;
    assert_eq!(received.data, MILLION * reply);
    raw.assert_alive().await;
    server.assert_serves().await;
    server.assert_growth_below(MAX_CONNECTION / 2);
}

/// The smallest messages have the largest overhead.
#[tokio::test]
async fn client_may_fill_a_stream_window_before_it_reads() {
    let greeting = message(b"");
    let count = STREAM_WINDOW / greeting.len() as u64;
    let reply = message(b"\x0a\x08Hello, !").len() as u64;
    let mut server = MemoryProbe::start().await;
    let mut raw =
        RawConnection::open_with(server.program.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    raw.send(&call(1, BIDI_HELLO)).await.unwrap();
    raw.wait_until(|received| received.ok_responses == 1).await;
    let greetings = frame(DATA, 0, 1, &greeting).repeat(count as usize);
    raw.send(&greetings).await.unwrap();
    let blocked = raw.assert_alive().await;
    assert_eq!((blocked.data, blocked.window(1)), (0, STREAM_WINDOW));
    server.assert_serves().await;

    let opened = [
        settings(&[(INITIAL_WINDOW_SIZE, MAX_WINDOW)]),
        window_update(0, MAX_WINDOW - 0xffff),
        frame(DATA, END_STREAM, 1, b""),
    ];
    raw.send(&opened.concat()).await.unwrap();
    let received = raw.wait_until(|received| received.ended_streams == 1).await;
    assert_eq!(received.data, count * reply);
    raw.assert_alive().await;
    server.assert_growth_below(MAX_CONNECTION);
}

/// Opens as many calls as a connection may have, whose handlers do not read because a zero window
/// blocks their replies.
async fn open_blocked_calls(server: &MemoryProbe) -> RawConnection {
    let mut raw =
        RawConnection::open_with(server.program.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    let calls: Vec<u8> = streams(MAX_STREAMS)
        .flat_map(|id| call(id, BIDI_HELLO))
        .collect();
    raw.send(&calls).await.unwrap();
    raw.wait_until(|received| received.ok_responses == u64::from(MAX_STREAMS))
        .await;
    raw
}

#[tokio::test]
async fn connection_memory_is_bounded_by_its_window() {
    const FRAME: usize = 16 * 1024;
    let mut server = MemoryProbe::start().await;
    let mut raw = open_blocked_calls(&server).await;
    for _ in (0..STREAM_WINDOW).step_by(FRAME) {
        for id in streams(MAX_STREAMS) {
            raw.send(&frame(DATA, 0, id, &[0; FRAME])).await.unwrap();
        }
        server.assert_serves().await;
    }
    raw.assert_alive().await;
    server.assert_growth_below(MAX_CONNECTION + MAX_CONNECTION / 4);

    // One byte more exceeds the window.
    raw.send(&frame(DATA, 0, 1, b"x")).await.unwrap();
    let received = raw.wait_closed().await;
    received.assert_goaway(FLOW_CONTROL_ERROR, "");
    server.assert_serves().await;
}

/// Each frame has an overhead that flow control does not count. Frames are kept only until their call
/// reads them, and h2 bounds their number.
#[tokio::test]
async fn connection_memory_is_bounded_for_small_frames() {
    const STREAMS: u64 = 4;
    let mut server = MemoryProbe::start().await;
    let mut raw = open_blocked_calls(&server).await;
    let round: Vec<u8> = streams(STREAMS as u32)
        .flat_map(|id| frame(DATA, 0, id, b"\0"))
        .collect();
    let rounds = round.repeat(1024);
    for _ in 0..STREAM_WINDOW / 1024 {
        raw.send(&rounds).await.unwrap();
    }
    raw.assert_alive().await;
    server.assert_serves().await;
    server.assert_growth_below(STREAMS * STREAM_WINDOW + MAX_CONNECTION / 2);
}

/// The small frames of calls that ended before reading them are not counted forever.
#[tokio::test]
async fn unread_data_of_a_call_is_freed_with_it() {
    const CALLS: u32 = 500;
    let mut server = MemoryProbe::start().await;
    let mut raw =
        RawConnection::open_with(server.program.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    for (id, begun) in streams(CALLS).zip(1..) {
        raw.send(&call(id, BIDI_HELLO)).await.unwrap();
        raw.wait_until(|received| received.ok_responses == begun)
            .await;
        let unread = frame(DATA, 0, id, b"\0").repeat(1000);
        raw.send(&[unread, reset(id)].concat()).await.unwrap();
    }
    raw.assert_alive().await;
    server.assert_serves().await;
    server.assert_bounded_growth();
}

/// The unread bytes arrived in one read with bytes that are ignored.
#[tokio::test]
async fn ignored_data_is_not_kept_beside_unread_data() {
    const UNKNOWN: u8 = 0xfa;
    let mut server = MemoryProbe::start().await;
    let mut raw = open_blocked_calls(&server).await;
    let ignored = frame(UNKNOWN, 0, 0, &[0; 16 * 1024]);
    let pair = [frame(DATA, 0, 1, b"\0"), ignored].concat();
    for _ in 0..400 {
        raw.send(&pair.repeat(50)).await.unwrap();
    }
    server.assert_serves().await;
    server.assert_bounded_growth();
}

/// The same with valid frames: one call reads, and one does not.
#[tokio::test]
async fn read_data_is_not_kept_beside_unread_data_of_another_call() {
    let mut server = MemoryProbe::start().await;
    let mut raw =
        RawConnection::open_with(server.program.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    raw.send(&call(1, BIDI_HELLO)).await.unwrap();
    raw.wait_until(|received| received.ok_responses == 1).await;
    raw.send(&call(3, LOTS_OF_GREETINGS)).await.unwrap();
    let name = [&[0x0a, 0xa0, 0x1f][..], &[b'x'; 4000]].concat();
    let read = frame(DATA, 0, 3, &message(&name).repeat(4));
    let read_bytes = read.len() as u64 - 9;
    let pair = [frame(DATA, 0, 1, b"\0"), read].concat();
    for sent in 1..20_000_u64 {
        raw.wait_until(|received| received.window(3) >= sent * read_bytes)
            .await;
        raw.send(&pair).await.unwrap();
    }
    server.assert_serves().await;
    server.assert_bounded_growth();
}
