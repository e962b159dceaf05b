//! A client that speaks HTTP/2 frame by frame, as badly as a test wants it to.

use std::{collections::HashMap, io, net::SocketAddr};

use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use crate::support::bounded;

/// What every client says first. Its SETTINGS follow.
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

/// How much a client may send on a stream before the server has read of it, in bytes.
pub(crate) const STREAM_WINDOW: u64 = 1024 * 1024;

/// `:status: 200`, as the static table of HPACK has it.
const STATUS_200: u8 = 0x88;

const HEAD_BYTES: usize = 9;

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

/// The HEADERS of a call without a request.
pub(crate) fn ended_call(stream: u32, path: &str) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        &header_block(path),
    )
}

/// The headers of a call, all spelled out but for the two in the static table.
pub(crate) fn header_block(path: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: http`, then `:path` and `:authority` by their number.
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

/// A string of HPACK, as it is.
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

/// A message of gRPC, not compressed.
pub(crate) fn message(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    [&[0], &length[..], content].concat()
}

/// The numbers of a client's streams.
pub(crate) fn streams(count: u32) -> impl Iterator<Item = u32> {
    (1..2 * count).step_by(2)
}

/// A connection that hears everything and answers nothing.
pub(crate) struct Raw {
    socket: OwnedWriteHalf,
    heard: watch::Receiver<Heard>,
}

/// What a server has said on a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    frames: HashMap<u8, u64>,
    /// How many streams it has ended, other than by a reset.
    pub(crate) ended: u64,
    /// How many it has answered with 200 of HTTP, as it does where there is a gRPC server.
    pub(crate) served: u64,
    /// Bytes of DATA.
    pub(crate) data: u64,
    /// By how much more than at first each stream may send, in bytes.
    granted: HashMap<u32, u64>,
    /// The reason and the word of its GOAWAY.
    go_away: Option<(u32, String)>,
    pub(crate) closed: bool,
}

impl Raw {
    /// A connection on which the client has said nothing.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = bounded(TcpStream::connect(address)).await.unwrap();
        // Else a short frame may wait for the acknowledgement of the one before it.
        stream.set_nodelay(true).unwrap();
        let (read, socket) = stream.into_split();
        let (hearing, heard) = watch::channel(Heard::default());
        tokio::spawn(listen(read, hearing));
        Self { socket, heard }
    }

    /// A connection that has begun well.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &[]).await
    }

    pub(crate) async fn open_with(address: SocketAddr, entries: &[(u16, u32)]) -> Self {
        let mut raw = Self::connect(address).await;
        raw.send(&[PREFACE, &settings(entries)].concat())
            .await
            .unwrap();
        // The window of the connection is only then as large as those of the streams need.
        raw.until(|heard| heard.count(SETTINGS) > 0 && heard.count(WINDOW_UPDATE) > 0)
            .await;
        raw.send(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
        raw
    }

    /// Fails if the server has closed the connection.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        bounded(self.socket.write_all(bytes)).await
    }

    /// Sends what `burst` makes of 0, 1, 2 and so on until the server has closed the connection,
    /// which it has to.
    pub(crate) async fn send_until_closed(&mut self, burst: impl Fn(u32) -> Vec<u8>) -> Heard {
        bounded(async {
            let mut number = 0;
            while self.send(&burst(number)).await.is_ok() {
                number += 1;
            }
        })
        .await;
        self.closed().await
    }

    pub(crate) fn heard(&self) -> Heard {
        self.heard.borrow().clone()
    }

    /// Waits until the server has said something.
    pub(crate) async fn until(&mut self, reached: impl FnMut(&Heard) -> bool) -> Heard {
        let heard = bounded(self.heard.wait_for(reached)).await;
        let heard = heard.map(|heard| heard.clone());
        heard.unwrap_or_else(|_| panic!("the connection ended: {:?}", self.heard()))
    }

    /// Waits until the server has closed the connection.
    pub(crate) async fn closed(&mut self) -> Heard {
        self.until(|heard| heard.closed).await
    }

    /// Waits until the server has dealt with all that was sent to it, which shows that it has not
    /// closed the connection.
    pub(crate) async fn assert_alive(&mut self) -> Heard {
        let answered = self.heard().count(PING);
        self.send(&ping()).await.unwrap();
        let heard = self.until(|heard| heard.count(PING) > answered).await;
        assert_eq!(heard.go_away, None);
        heard
    }
}

impl Heard {
    /// How many frames of a kind there were.
    pub(crate) fn count(&self, kind: u8) -> u64 {
        self.frames.get(&kind).copied().unwrap_or_default()
    }

    /// How much a client may have sent on a stream, in bytes.
    pub(crate) fn window(&self, stream: u32) -> u64 {
        STREAM_WINDOW + self.granted.get(&stream).copied().unwrap_or_default()
    }

    /// Asserts that the connection was closed for this reason, with this word.
    #[track_caller]
    pub(crate) fn assert_cut(&self, reason: u32, word: &str) {
        assert_eq!(self.go_away, Some((reason, word.to_owned())), "{self:?}");
    }

    fn take(&mut self, received: &mut BytesMut) {
        while received.len() >= HEAD_BYTES {
            let length = u32::from_be_bytes([0, received[0], received[1], received[2]]) as usize;
            if received.len() < HEAD_BYTES + length {
                return;
            }
            let mut head = received.split_to(HEAD_BYTES);
            head.advance(3);
            let (kind, flags, stream) = (head.get_u8(), head.get_u8(), head.get_u32());
            let mut payload = received.split_to(length);
            *self.frames.entry(kind).or_default() += 1;
            match kind {
                HEADERS if payload.first() == Some(&STATUS_200) => self.served += 1,
                DATA => self.data += length as u64,
                WINDOW_UPDATE => {
                    *self.granted.entry(stream).or_default() += u64::from(payload.get_u32());
                }
                GO_AWAY => {
                    payload.advance(4);
                    let reason = payload.get_u32();
                    let word = String::from_utf8_lossy(&payload).into_owned();
                    self.go_away = Some((reason, word));
                }
                _ => {}
            }
            if [DATA, HEADERS].contains(&kind) && flags & END_STREAM != 0 {
                self.ended += 1;
            }
        }
    }
}

async fn listen(mut socket: OwnedReadHalf, hearing: watch::Sender<Heard>) {
    let mut received = BytesMut::new();
    // A server that cuts a connection off may do so without more ado.
    while let Ok(1..) = socket.read_buf(&mut received).await {
        hearing.send_modify(|heard| heard.take(&mut received));
    }
    hearing.send_modify(|heard| heard.closed = true);
}

/// A polite connection, and the task that drives it.
pub(crate) async fn polite(address: SocketAddr) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(async move {
        // It ends as the server wants it to.
        let _ = connection.await;
    });
    (bounded(requests.ready()).await.unwrap(), connection)
}

/// The head of a call on a polite connection.
pub(crate) fn request(address: SocketAddr, path: &str) -> Request<()> {
    Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}
