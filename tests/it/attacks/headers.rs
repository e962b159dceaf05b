//! Headers without end, and headers that are larger than they look.

use super::SAY_HELLO;
use crate::{
    raw::{
        CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, Raw, frame,
        header_block, string,
    },
    watched::Watched,
};

/// The most that a frame may hold, in bytes.
const MAX_FRAME: usize = 16 * 1024;

/// CVE-2024-27316 and its like. Each of the frames may be empty.
#[tokio::test]
async fn a_client_that_never_ends_its_headers_is_cut_off() {
    let mut server = Watched::start().await;
    // With `x: yy...`, as many as there is room for.
    let fields = [&[0][..], &string("x"), &string(&"y".repeat(100))].concat();
    let full = fields.repeat(MAX_FRAME / fields.len());
    for (what, more) in [
        ("nothing", &[][..]),
        ("a field", &fields),
        ("fields", &full),
    ] {
        let mut raw = Raw::open(server.program.address).await;
        raw.send(&frame(HEADERS, 0, 1, &header_block(SAY_HELLO)))
            .await
            .unwrap();
        let heard = raw
            .send_until_closed(|_| frame(CONTINUATION, 0, 1, more))
            .await;
        println!("{what}");
        heard.assert_cut(ENHANCE_YOUR_CALM, "too_many_continuations");
        server.assert_serves().await;
    }
    server.assert_small();
}

/// One byte for each repetition of a header that the table of HPACK has.
#[tokio::test]
async fn headers_that_are_larger_than_they_look_are_not_unpacked() {
    let mut server = Watched::start().await;
    let mut raw = Raw::open(server.program.address).await;
    let indexed = [&[0x40][..], &string("x"), &string(&"y".repeat(4000))].concat();
    let mut block = [header_block(SAY_HELLO), indexed].concat();
    block.resize(MAX_FRAME, 0x80 | 62);
    let heard = raw
        .send_until_closed(|number| {
            frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &block)
        })
        .await;
    heard.assert_cut(ENHANCE_YOUR_CALM, "header_list_way_too_large");
    server.assert_serves().await;
    server.assert_small();
}

#[tokio::test]
async fn a_header_without_end_is_not_gathered() {
    let mut server = Watched::start().await;
    let mut raw = Raw::open(server.program.address).await;
    let endless = [&[0][..], &string("x"), &[127, 0xff, 0xff, 0xff, 0x07]].concat();
    let block = [header_block(SAY_HELLO), endless].concat();
    raw.send(&frame(HEADERS, 0, 1, &block)).await.unwrap();
    let heard = raw
        .send_until_closed(|_| frame(CONTINUATION, 0, 1, &[b'y'; MAX_FRAME]))
        .await;
    heard.assert_cut(ENHANCE_YOUR_CALM, "too_many_continuations");
    server.assert_serves().await;
    server.assert_small();
}

/// What is too large is refused, without harm to the other calls of the connection.
#[tokio::test]
async fn a_call_with_too_many_headers_is_refused() {
    let mut server = Watched::start().await;
    let mut raw = Raw::open(server.program.address).await;
    let field = [&[0][..], &string("x"), &string(&"y".repeat(9000))].concat();
    let large = [header_block(SAY_HELLO), field.repeat(2)].concat();
    let (begin, rest) = large.split_at(MAX_FRAME);
    let mut calls = Vec::new();
    for id in [1, 3] {
        calls.extend(frame(HEADERS, END_STREAM, id, begin));
        calls.extend(frame(CONTINUATION, END_HEADERS, id, rest));
    }
    raw.send(&calls).await.unwrap();
    let heard = raw.until(|heard| heard.ended == 2).await;
    assert_eq!(heard.served, 0);
    let small = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        5,
        &header_block(SAY_HELLO),
    );
    raw.send(&small).await.unwrap();
    raw.until(|heard| heard.served == 1).await;
    server.assert_serves().await;
    server.assert_small();
}
