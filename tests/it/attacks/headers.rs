//! Header blocks without end, and header bombs.

use crate::support::{
    memory_probe::MemoryProbe,
    methods::SAY_HELLO,
    raw_http2::{
        CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, RawConnection, frame,
        header_block, string,
    },
};

/// The largest payload of a frame, in bytes.
const MAX_FRAME: usize = 16 * 1024;

/// CVE-2024-27316 and similar: CONTINUATION frames without end, full or empty.
#[tokio::test]
async fn endless_continuation_frames_are_cut_off() {
    let mut server = MemoryProbe::start().await;
    // A full frame holds as many `x: yy...` fields as fit.
    let fields = [&[0][..], &string("x"), &string(&"y".repeat(100))].concat();
    let full = fields.repeat(MAX_FRAME / fields.len());
    for (what, more) in [
        ("nothing", &[][..]),
        ("a field", &fields),
        ("fields", &full),
    ] {
        let mut raw = RawConnection::open(server.program.address).await;
        raw.send(&frame(HEADERS, 0, 1, &header_block(SAY_HELLO)))
            .await
            .unwrap();
        let received = raw
            .send_until_closed(|_| frame(CONTINUATION, 0, 1, more))
            .await;
        println!("{what}");
        received.assert_goaway(ENHANCE_YOUR_CALM, "too_many_continuations");
        server.assert_serves().await;
    }
    server.assert_bounded_growth();
}

/// Each byte repeats a large header field of the dynamic table of HPACK.
#[tokio::test]
async fn header_bomb_is_not_decompressed() {
    let mut server = MemoryProbe::start().await;
    let mut raw = RawConnection::open(server.program.address).await;
    let indexed = [&[0x40][..], &string("x"), &string(&"y".repeat(4000))].concat();
    let mut block = [header_block(SAY_HELLO), indexed].concat();
    block.resize(MAX_FRAME, 0x80 | 62);
    let received = raw
        .send_until_closed(|number| {
            frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &block)
        })
        .await;
    received.assert_goaway(ENHANCE_YOUR_CALM, "header_list_way_too_large");
    server.assert_serves().await;
    server.assert_bounded_growth();
}

#[tokio::test]
async fn endless_header_is_not_buffered() {
    let mut server = MemoryProbe::start().await;
    let mut raw = RawConnection::open(server.program.address).await;
    let endless = [&[0][..], &string("x"), &[127, 0xff, 0xff, 0xff, 0x07]].concat();
    let block = [header_block(SAY_HELLO), endless].concat();
    raw.send(&frame(HEADERS, 0, 1, &block)).await.unwrap();
    let received = raw
        .send_until_closed(|_| frame(CONTINUATION, 0, 1, &[b'y'; MAX_FRAME]))
        .await;
    received.assert_goaway(ENHANCE_YOUR_CALM, "too_many_continuations");
    server.assert_serves().await;
    server.assert_bounded_growth();
}

/// The other calls of the connection are not affected.
#[tokio::test]
async fn call_with_too_many_headers_is_refused() {
    let mut server = MemoryProbe::start().await;
    let mut raw = RawConnection::open(server.program.address).await;
    let field = [&[0][..], &string("x"), &string(&"y".repeat(9000))].concat();
    let large = [header_block(SAY_HELLO), field.repeat(2)].concat();
    let (begin, rest) = large.split_at(MAX_FRAME);
    let mut calls = Vec::new();
    for id in [1, 3] {
        calls.extend(frame(HEADERS, END_STREAM, id, begin));
        calls.extend(frame(CONTINUATION, END_HEADERS, id, rest));
    }
    raw.send(&calls).await.unwrap();
    let received = raw.wait_until(|received| received.ended_streams == 2).await;
    assert_eq!(received.ok_responses, 0);
    let small = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        5,
        &header_block(SAY_HELLO),
    );
    raw.send(&small).await.unwrap();
    raw.wait_until(|received| received.ok_responses == 1).await;
    server.assert_serves().await;
    server.assert_bounded_growth();
}
