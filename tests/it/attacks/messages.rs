//! Oversized messages and decompression bombs.

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tonic::{Code, Status};

use crate::support::{
    assert_failure,
    memory_probe::{MIB, MemoryProbe},
    metadata,
    methods::{BIDI_HELLO, LOTS_OF_GREETINGS, SAY_HELLO, WRITE_STREAM},
    raw_http2::{connect_h2, request},
    with_timeout,
};

/// Sends these bytes as far as flow control allows, and returns the status of the call.
async fn status(requests: &mut SendRequest<Bytes>, head: Request<()>, body: Bytes) -> Status {
    let (response, mut sending) = requests.send_request(head, false).unwrap();
    // Sending fails if the server has ended the call before.
    let _ = sending.send_data(body, false);
    let response = with_timeout(response).await.unwrap();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    let mut body = response.into_body();
    while let Some(data) = with_timeout(body.data()).await {
        data.unwrap();
    }
    let trailers = with_timeout(body.trailers()).await.unwrap().unwrap();
    Status::from_header_map(&trailers).unwrap()
}

#[tokio::test]
async fn oversized_message_is_refused_by_its_prefix() {
    let paths = [SAY_HELLO, LOTS_OF_GREETINGS, BIDI_HELLO, WRITE_STREAM];
    let mut server = MemoryProbe::start().await;
    let (mut requests, _connection) = connect_h2(server.program.address).await;
    for path in paths {
        let head = request(server.program.address, path);
        let body = Bytes::from_static(b"\0\xff\xff\xff\xffand so on");
        let failure = status(&mut requests, head, body).await;
        let status = assert_failure(Err::<(), _>(failure), Code::ResourceExhausted, "TOO_LARGE");
        assert_eq!(metadata(&status, "size"), u32::MAX.to_string());
    }
    server.assert_serves().await;
    server.assert_bounded_growth();
}

/// 4 GiB of zeros, compressed by gzip into 4 MiB.
fn gzip_bomb() -> Bytes {
    const SIZE: usize = 4 * MIB as usize - 100;
    // The header of gzip, then the codes of deflate: one bit for a match of 258 zeros, one for its distance.
    let mut bomb = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    bomb.extend(b"\xed\xc1\x01\x01\0\0\0\x82\x20\xff\xaf\x6e\x48\x40\x01");
    bomb.resize(SIZE, 0);
    let head = [&[1], &(bomb.len() as u32).to_be_bytes()[..]].concat();
    Bytes::from([head, bomb].concat())
}

#[tokio::test]
async fn decompression_bomb_is_refused() {
    let mut server = MemoryProbe::start().await;
    let (mut requests, _connection) = connect_h2(server.program.address).await;
    for path in [SAY_HELLO, LOTS_OF_GREETINGS] {
        let mut head = request(server.program.address, path);
        let gzip = "gzip".parse().unwrap();
        head.headers_mut().insert("grpc-encoding", gzip);
        let status = status(&mut requests, head, gzip_bomb()).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        server.assert_serves().await;
    }
    server.assert_growth_below(32 * MIB);
}
