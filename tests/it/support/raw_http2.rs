//! A client that sends HTTP/2 frame by frame, valid or not.

use std::{collections::HashMap, io, net::SocketAddr};

use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use muxs::pb::HelloRequest;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use super::{assertions::with_timeout, hello, methods::LOTS_OF_REPLIES};

/// The connection preface, which SETTINGS follow (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GO_AWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;

/// The initial flow-control window of a stream of the server, in bytes.
pub(crate) const STREAM_WINDOW: u64 = 1024 * 1024;

/// `:status: 200`, by its index in the static table of HPACK.
const STATUS_200: u8 = 0x88;

const FRAME_HEADER_LEN: usize = 9;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The HEADERS of a call.
pub(crate) fn call(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &header_block(path))
}

/// The HEADERS of a call without a request body.
pub(crate) fn call_without_body(stream: u32, path: &str) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        &header_block(path),
    )
}

/// The header block of a call; only two fields are indexed.
pub(crate) fn header_block(path: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: http`, then `:path` and `:authority` by their index.
    let mut block = vec![0x83, 0x86, 0x04];
    block.extend(string(path));
    block.push(0x01);
    block.extend(string("muxs"));
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        block.push(0);
        block.extend(string(name));
        block.extend(string(value));
    }
    block
}

/// A string literal of HPACK, without Huffman coding.
pub(crate) fn string(text: &str) -> Vec<u8> {
    let mut string = Vec::new();
    let mut rest = text.len();
    match rest {
        0..127 => string.push(rest as u8),
        _ => {
            string.push(127);
            rest -= 127;
            while rest >= 128 {
                string.push(rest as u8 | 128);
                rest >>= 7;
            }
            string.push(rest as u8);
        }
    }
    string.extend(text.bytes());
    string
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub(crate) fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"are you?")
}

pub(crate) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// A gRPC message, not compressed.
pub(crate) fn message(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    [&[0], &length[..], content].concat()
}

/// The first `count` stream identifiers of a client.
pub(crate) fn streams(count: u32) -> impl Iterator<Item = u32> {
    (1..2 * count).step_by(2)
}

/// A connection that reads all frames and answers none.
pub(crate) struct RawConnection {
    socket: OwnedWriteHalf,
    received: watch::Receiver<Received>,
}

/// The frames that a server has sent on a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    frames: HashMap<u8, u64>,
    /// Streams that ended with END_STREAM.
    pub(crate) ended_streams: u64,
    /// Responses with HTTP status 200, which every gRPC response has.
    pub(crate) ok_responses: u64,
    /// Bytes of DATA.
    pub(crate) data: u64,
    /// The sum of the WINDOW_UPDATEs of each stream, in bytes.
    granted: HashMap<u32, u64>,
    /// The error code and the debug data of the GOAWAY.
    go_away: Option<(u32, String)>,
    pub(crate) closed: bool,
}

impl RawConnection {
    /// Opens a connection and sends nothing.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = with_timeout(TcpStream::connect(address)).await.unwrap();
        // With Nagle's algorithm, a short frame would wait for the acknowledgement of the previous one.
        stream.set_nodelay(true).unwrap();
        let (read, socket) = stream.into_split();
        let (hearing, received) = watch::channel(Received::default());
        tokio::spawn(listen(read, hearing));
        Self { socket, received }
    }

    /// Opens a connection and completes the exchange of SETTINGS.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &[]).await
    }

    pub(crate) async fn open_with(address: SocketAddr, entries: &[(u16, u32)]) -> Self {
        let mut raw = Self::connect(address).await;
        raw.send(&[PREFACE, &settings(entries)].concat())
            .await
            .unwrap();
        // Before this WINDOW_UPDATE, the window of the connection is smaller than those of its streams.
        raw.wait_until(|received| {
            received.count(SETTINGS) > 0 && received.count(WINDOW_UPDATE) > 0
        })
        .await;
        raw.send(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
        raw
    }

    /// Fails if the server has closed the connection.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        with_timeout(self.socket.write_all(bytes)).await
    }

    /// Sends `burst(0)`, `burst(1)` and so on until the server closes the connection.
    pub(crate) async fn send_until_closed(&mut self, burst: impl Fn(u32) -> Vec<u8>) -> Received {
        with_timeout(async {
            let mut number = 0;
            while self.send(&burst(number)).await.is_ok() {
                number += 1;
            }
        })
        .await;
        self.wait_closed().await
    }

    pub(crate) fn received(&self) -> Received {
        self.received.borrow().clone()
    }

    /// Waits until the received frames satisfy `reached`.
    pub(crate) async fn wait_until(&mut self, reached: impl FnMut(&Received) -> bool) -> Received {
        let received = with_timeout(self.received.wait_for(reached)).await;
        let received = received.map(|received| received.clone());
        received.unwrap_or_else(|_| panic!("the connection ended: {:?}", self.received()))
    }

    /// Waits until the server has closed the connection.
    pub(crate) async fn wait_closed(&mut self) -> Received {
        self.wait_until(|received| received.closed).await
    }

    /// Waits for the answer to a PING: the server has processed all earlier frames and not closed the
    /// connection.
    pub(crate) async fn assert_alive(&mut self) -> Received {
        let answered = self.received().count(PING);
        self.send(&ping()).await.unwrap();
        let received = self
            .wait_until(|received| received.count(PING) > answered)
            .await;
        assert_eq!(received.go_away, None);
        received
    }
}

impl Received {
    /// Returns the number of frames of a type.
    pub(crate) fn count(&self, kind: u8) -> u64 {
        self.frames.get(&kind).copied().unwrap_or_default()
    }

    /// Returns the number of bytes that a client may have sent on a stream.
    pub(crate) fn window(&self, stream: u32) -> u64 {
        STREAM_WINDOW + self.granted.get(&stream).copied().unwrap_or_default()
    }

    /// Asserts the error code and the debug data of the GOAWAY.
    #[track_caller]
    pub(crate) fn assert_goaway(&self, reason: u32, debug_data: &str) {
        assert_eq!(
            self.go_away,
            Some((reason, debug_data.to_owned())),
            "{self:?}"
        );
    }

    fn parse_frames(&mut self, received: &mut BytesMut) {
        while received.len() >= FRAME_HEADER_LEN {
            let length = u32::from_be_bytes([0, received[0], received[1], received[2]]) as usize;
            if received.len() < FRAME_HEADER_LEN + length {
                return;
            }
            let mut head = received.split_to(FRAME_HEADER_LEN);
            head.advance(3);
            let (kind, flags, stream) = (head.get_u8(), head.get_u8(), head.get_u32());
            let mut payload = received.split_to(length);
            *self.frames.entry(kind).or_default() += 1;
            match kind {
                HEADERS if payload.first() == Some(&STATUS_200) => self.ok_responses += 1,
                DATA => self.data += length as u64,
                WINDOW_UPDATE => {
                    *self.granted.entry(stream).or_default() += u64::from(payload.get_u32());
                }
                GO_AWAY => {
                    payload.advance(4);
                    let reason = payload.get_u32();
                    let debug_data = String::from_utf8_lossy(&payload).into_owned();
                    self.go_away = Some((reason, debug_data));
                }
                _ => {}
            }
            if [DATA, HEADERS].contains(&kind) && flags & END_STREAM != 0 {
                self.ended_streams += 1;
            }
        }
    }
}

async fn listen(mut socket: OwnedReadHalf, hearing: watch::Sender<Received>) {
    let mut buffer = BytesMut::new();
    // A server that cuts a connection off may reset it.
    while let Ok(1..) = socket.read_buf(&mut buffer).await {
        hearing.send_modify(|received| received.parse_frames(&mut buffer));
    }
    hearing.send_modify(|received| received.closed = true);
}

/// Opens a connection that conforms to HTTP/2, and spawns the task that drives it.
pub(crate) async fn connect_h2(address: SocketAddr) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(async move {
        // The server may end the connection with an error.
        let _ = connection.await;
    });
    (with_timeout(requests.ready()).await.unwrap(), connection)
}

/// The head of a call on such a connection.
pub(crate) fn request(address: SocketAddr, path: &str) -> Request<()> {
    Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// Returns a connection that is never read, after the server has filled its socket buffers.
pub(crate) async fn connect_without_reading(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let open = [
        PREFACE.to_vec(),
        settings(&[(INITIAL_WINDOW_SIZE, MAX_WINDOW)]),
        window_update(0, MAX_WINDOW - 65_535),
        endless_call(),
    ];
    stream.write_all(&open.concat()).await.unwrap();
    let mut before = 0;
    let filled = async {
        // The buffers are full when the number of readable bytes stops growing.
        loop {
            let mut seen = vec![0; 8 << 20];
            let there = stream.peek(&mut seen).await.unwrap();
            if there == before && there > 64 * 1024 {
                return;
            }
            before = there;
            tokio::task::yield_now().await;
        }
    };
    with_timeout(filled).await;
    stream
}

/// A request for 4 billion replies of 4 KiB.
pub(crate) fn endless_request() -> HelloRequest {
    HelloRequest {
        replies: u32::MAX,
        ..hello("x".repeat(4096))
    }
}

pub(crate) fn endless_call() -> Vec<u8> {
    let request = message(&endless_request().encode_to_vec());
    let ended = frame(DATA, 1, 1, &request);
    [call(1, LOTS_OF_REPLIES), ended].concat()
}
