//! Calls that are opened to be reset, by the client or by a server that is provoked to.

use crate::support::{
    memory_probe::MemoryProbe,
    methods::{BIDI_HELLO, MAX_STREAMS},
    raw_http2::{
        DATA, END_HEADERS, ENHANCE_YOUR_CALM, HEADERS, MAX_WINDOW, PRIORITY, PROTOCOL_ERROR,
        RST_STREAM, RawConnection, call, call_without_body, frame, header_block, reset, streams,
        string, window_update,
    },
};

/// The number of resets that a client may provoke.
const MAX_LOCAL_RESETS: u64 = 1024;

/// The number of calls in one write.
const BURST: u32 = 100;

/// The stream identifiers of burst `number`.
fn burst(number: u32) -> impl Iterator<Item = u32> {
    streams(BURST).map(move |stream| 2 * BURST * number + stream)
}

/// CVE-2023-44487, "rapid reset".
#[tokio::test]
async fn rapid_reset_is_cut_off() {
    let mut server = MemoryProbe::start().await;
    let mut raw = RawConnection::open(server.program.address).await;
    let received = raw
        .send_until_closed(|number| {
            let frames = burst(number).map(|id| [call(id, BIDI_HELLO), reset(id)].concat());
            frames.collect::<Vec<_>>().concat()
        })
        .await;
    received.assert_goaway(ENHANCE_YOUR_CALM, "too_many_resets");
    server.assert_serves().await;
    server.assert_bounded_growth();
}

/// A client may cancel calls. Their resources are freed: the server allows few calls at a time.
#[tokio::test]
async fn calls_reset_while_running_leave_no_memory() {
    let mut server = MemoryProbe::start_with(&["--max-calls", "250"]).await;
    let mut raw = RawConnection::open(server.program.address).await;
    for number in 0..100 {
        let calls: Vec<u8> = burst(number).flat_map(|id| call(id, BIDI_HELLO)).collect();
        raw.send(&calls).await.unwrap();
        // BidiHello sends its headers when it begins.
        let begun = u64::from(BURST * (number + 1));
        raw.wait_until(|received| received.ok_responses == begun)
            .await;
        server.assert_serves().await;
        let resets: Vec<u8> = burst(number).flat_map(reset).collect();
        raw.send(&resets).await.unwrap();
    }
    let received = raw.assert_alive().await;
    assert_eq!(
        (received.ended_streams, received.count(RST_STREAM)),
        (0, 0),
        "{received:?}"
    );
    server.assert_bounded_growth();
}

/// Calls within the limit are served; the server resets the others until their number is too large.
#[tokio::test]
async fn client_that_exceeds_max_streams_is_cut_off() {
    let mut server = MemoryProbe::start().await;
    let mut raw = RawConnection::open(server.program.address).await;
    let begun = u64::from(MAX_STREAMS);
    let calls: Vec<u8> = streams(MAX_STREAMS)
        .flat_map(|id| call(id, BIDI_HELLO))
        .collect();
    raw.send(&calls).await.unwrap();
    raw.wait_until(|received| received.ok_responses == begun)
        .await;
    raw.send(&call(2 * MAX_STREAMS + 1, BIDI_HELLO))
        .await
        .unwrap();
    raw.wait_until(|received| received.count(RST_STREAM) == 1)
        .await;
    server.assert_serves().await;
    let received = raw
        .send_until_closed(|number| {
            let calls = burst(number + 2).flat_map(|id| call(id, BIDI_HELLO));
            calls.collect()
        })
        .await;
    received.assert_goaway(ENHANCE_YOUR_CALM, "too_many_internal_resets");
    assert_eq!(received.ok_responses, begun);
    assert!(
        received.count(RST_STREAM) <= MAX_LOCAL_RESETS,
        "{received:?}"
    );
    server.assert_serves().await;
    server.assert_bounded_growth();
}

/// Returns frames that violate the protocol on a new stream.
type Misdeed = fn(u32) -> Vec<u8>;

async fn assert_goaway(misdeeds: &[(&str, Misdeed)], reason: u32, debug_data: &str) {
    let mut server = MemoryProbe::start().await;
    for (what, misdeed) in misdeeds {
        let mut raw = RawConnection::open(server.program.address).await;
        let received = raw
            .send_until_closed(|number| burst(number).flat_map(misdeed).collect())
            .await;
        println!("{what}");
        received.assert_goaway(reason, debug_data);
        assert!(
            received.count(RST_STREAM) <= MAX_LOCAL_RESETS,
            "{received:?}"
        );
        server.assert_serves().await;
    }
    server.assert_bounded_growth();
}

/// CVE-2025-8671, "MadeYouReset": an error of one stream makes the server reset it.
#[tokio::test]
async fn client_that_provokes_server_resets_is_cut_off() {
    let misdeeds: &[(&str, Misdeed)] = &[
        ("a window of more than there can be", |id| {
            [call(id, BIDI_HELLO), window_update(id, MAX_WINDOW)].concat()
        }),
        ("a call that depends on itself", |id| {
            let priority = [&id.to_be_bytes()[..], &[0]].concat();
            [call(id, BIDI_HELLO), frame(PRIORITY, 0, id, &priority)].concat()
        }),
    ];
    assert_goaway(misdeeds, ENHANCE_YOUR_CALM, "too_many_internal_resets").await;
}

/// The server has forgotten these streams, and resets each again.
#[tokio::test]
async fn data_for_closed_streams_is_cut_off() {
    let mut server = MemoryProbe::start().await;
    let mut raw = RawConnection::open(server.program.address).await;
    let ids: Vec<u32> = streams(2 * MAX_LOCAL_RESETS as u32).collect();
    for (ids, ended) in ids.chunks(BURST as usize).zip(1..) {
        let calls: Vec<u8> = ids
            .iter()
            .flat_map(|&id| call_without_body(id, BIDI_HELLO))
            .collect();
        raw.send(&calls).await.unwrap();
        let ended = u64::from(BURST * ended).min(2 * MAX_LOCAL_RESETS);
        raw.wait_until(|received| received.ended_streams == ended)
            .await;
    }
    raw.assert_alive().await;
    let received = raw
        .send_until_closed(|number| {
            let id = ids[number as usize % ids.len()];
            frame(DATA, 0, id, &[0; 256])
        })
        .await;
    received.assert_goaway(ENHANCE_YOUR_CALM, "too_many_internal_resets");
    assert!(
        received.count(RST_STREAM) <= MAX_LOCAL_RESETS,
        "{received:?}"
    );
    server.assert_serves().await;
    server.assert_bounded_growth();
}

/// These are errors of the connection, not of a stream.
#[tokio::test]
async fn malformed_frames_are_cut_off_at_once() {
    let misdeeds: &[(&str, Misdeed)] = &[
        ("an increment of nothing", |id| {
            [call(id, BIDI_HELLO), window_update(id, 0)].concat()
        }),
        ("a priority of the wrong length", |id| {
            [call(id, BIDI_HELLO), frame(PRIORITY, 0, id, &[0; 4])].concat()
        }),
        ("a header in capitals", |id| {
            let header = [&[0][..], &string("X"), &string("y")].concat();
            let block = [header_block(BIDI_HELLO), header].concat();
            frame(HEADERS, END_HEADERS, id, &block)
        }),
        ("HEADERS after the end of a call", |id| {
            call_without_body(id, BIDI_HELLO).repeat(2)
        }),
        ("DATA after the end of a call", |id| {
            [call_without_body(id, BIDI_HELLO), frame(DATA, 0, id, b"x")].concat()
        }),
    ];
    assert_goaway(misdeeds, PROTOCOL_ERROR, "").await;
}
