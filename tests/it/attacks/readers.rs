//! Clients that request much and read little.

use std::fs;

use muxs::pb::{HelloRequest, ReadStreamRequest};
use prost::Message;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    hello,
    memory_probe::{MAX_GROWTH, MIB, MemoryProbe},
    methods::{LOTS_OF_REPLIES, MAX_STREAMS, READ_STREAM},
    raw_http2::{
        ACK, DATA, END_STREAM, INITIAL_WINDOW_SIZE, MAX_WINDOW, PING, PREFACE, RawConnection, call,
        frame, message, settings, streams, window_update,
    },
    with_timeout,
};

/// The memory that one download may take, with chunks of the default size, in bytes.
const MAX_DOWNLOAD: u64 = MIB;

/// The frames of as many downloads of a large file as one connection may have.
fn downloads(server: &MemoryProbe) -> Vec<u8> {
    let file = fs::File::create(server.root.path().join("a.bin")).unwrap();
    file.set_len(4096 * MIB).unwrap();
    let request = ReadStreamRequest {
        filename: "a.bin".into(),
        ..Default::default()
    };
    let request = message(&request.encode_to_vec());
    streams(MAX_STREAMS)
        .flat_map(|id| {
            let data = frame(DATA, END_STREAM, id, &request);
            [call(id, READ_STREAM), data].concat()
        })
        .collect()
}

#[tokio::test]
async fn downloads_with_closed_windows_stay_small() {
    let mut server = MemoryProbe::start().await;
    let downloads = downloads(&server);
    let mut raw =
        RawConnection::open_with(server.program.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    raw.send(&downloads).await.unwrap();
    raw.wait_until(|received| received.ok_responses == u64::from(MAX_STREAMS))
        .await;
    // A server that went on reading the file would grow during these calls.
    for _ in 0..500 {
        server.assert_serves().await;
    }
    let received = raw.assert_alive().await;
    assert_eq!(received.data, 0);
    server.assert_growth_below(u64::from(MAX_STREAMS) * MAX_DOWNLOAD + MAX_GROWTH);
}

/// Open windows do not matter if the client reads nothing from its socket.
#[tokio::test]
async fn client_that_never_reads_its_socket_is_closed() {
    let mut server = MemoryProbe::start_with(&["--write-stall-timeout", "1s"]).await;
    let mut unresponsive = TcpStream::connect(server.program.address).await.unwrap();
    let windows = [
        settings(&[(INITIAL_WINDOW_SIZE, MAX_WINDOW)]),
        window_update(0, MAX_WINDOW - 0xffff),
        downloads(&server),
    ];
    unresponsive
        .write_all(&[PREFACE, &windows.concat()].concat())
        .await
        .unwrap();
    // Frames that the client sends meanwhile do not prolong the timeout.
    let closed = async {
        while unresponsive
            .write_all(&frame(PING, ACK, 0, &[0; 8]))
            .await
            .is_ok()
        {
            server.assert_serves().await;
        }
    };
    with_timeout(closed).await;
    server.assert_growth_below(u64::from(MAX_STREAMS) * MAX_DOWNLOAD + MAX_GROWTH);
}

#[tokio::test]
async fn slow_reader_is_served() {
    const REPLIES: u32 = 20_000;
    let mut server = MemoryProbe::start_with(&["--write-stall-timeout", "1s"]).await;
    let mut raw =
        RawConnection::open_with(server.program.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    let request = HelloRequest {
        replies: REPLIES,
        ..hello("you")
    };
    let request = message(&request.encode_to_vec());
    let call = [
        call(1, LOTS_OF_REPLIES),
        frame(DATA, END_STREAM, 1, &request),
    ];
    raw.send(&call.concat()).await.unwrap();
    let mut granted = 0;
    while raw.received().ended_streams == 0 {
        granted += 1000;
        let more = [window_update(0, 1000), window_update(1, 1000)];
        raw.send(&more.concat()).await.unwrap();
        raw.wait_until(|received| received.data == granted || received.ended_streams == 1)
            .await;
    }
    raw.assert_alive().await;
    server.assert_serves().await;
    server.assert_bounded_growth();
}
