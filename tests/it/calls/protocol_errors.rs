//! Malformed requests are refused without effect on other calls.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Buf, BufMut, Bytes};
use futures::{Stream, StreamExt};
use http::uri::PathAndQuery;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use muxs::pb::greeter_client::GreeterClient;
use tonic::{
    Code, Request, Status,
    body::Body,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use tower::ServiceExt;

use crate::support::{
    TEST_TIMEOUT, TestServer, hello,
    methods::{
        BIDI_HELLO, LOTS_OF_GREETINGS, LOTS_OF_REPLIES, READ, SAY_HELLO, SQUARE, STAT, WRITE,
    },
    tree, with_timeout,
};

/// A codec that sends bytes unchanged, which no generated client would do.
#[derive(Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

async fn call(
    server: &TestServer,
    path: &'static str,
    message: &'static [u8],
) -> Result<Bytes, Status> {
    let mut grpc = Grpc::new(server.channel().await);
    grpc.ready().await.unwrap();
    let request = Request::new(tokio_stream::once(Bytes::from_static(message)));
    let path = PathAndQuery::from_static(path);
    let answer = grpc.streaming(request, path, RawCodec).await?;
    match answer.into_inner().message().await? {
        Some(message) => Ok(message),
        None => Ok(Bytes::new()),
    }
}

#[tokio::test]
async fn every_method_refuses_malformed_messages() {
    let server = TestServer::start();
    let before = tree(server.root());
    let paths = [
        SAY_HELLO,
        SQUARE,
        LOTS_OF_REPLIES,
        LOTS_OF_GREETINGS,
        BIDI_HELLO,
        READ,
        WRITE,
        STAT,
        "/helloworld.Greeter/SayHello",
        "/helloworld.Greeter/Square",
    ];
    let messages: [&[u8]; 5] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", // a key without end
        b"\x0a\x7fshort",                                // a field that is cut off
        b"\x0a\x03a\xffb\x0d",                           // text that is not UTF-8
        b"\x0b",                                         // a group that never ends
        b"\x08\x01\x0f",                                 // a wire type that does not exist
    ];
    for path in paths {
        for message in messages {
            let status = call(&server, path, message).await.unwrap_err();
            assert_eq!(
                status.code(),
                Code::Internal,
                "{path} {message:?}: {status:?}"
            );
        }
    }
    assert_eq!(tree(server.root()), before);
}

/// Calls Write with a body of these frames that never ends.
fn raw_write(
    address: SocketAddr,
    pieces: impl Stream<Item = Bytes> + Send + 'static,
) -> http::Request<Body> {
    let frames = pieces.chain(tokio_stream::pending()).map(Frame::data);
    http::Request::post(format!("http://{address}/muxs.FileController/Write"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(StreamBody::new(frames.map(Ok::<_, Status>))))
        .unwrap()
}

/// Sends a Write whose prefix announces `size` bytes, and up to `mebibytes` MiB of them. Returns whether
/// all of them had been accepted when the answer came.
async fn oversize_write(size: u32, mebibytes: usize) -> bool {
    let server = TestServer::start();
    let all_taken = Arc::new(AtomicBool::new(false));
    let taken = Arc::clone(&all_taken);
    let pieces = async_stream::stream! {
        yield Bytes::from([&[0][..], &size.to_be_bytes()].concat());
        for _ in 0..mebibytes {
            yield Bytes::from(vec![b'x'; 1 << 20]);
        }
        taken.store(true, Ordering::Relaxed);
    };
    let call = server
        .channel()
        .await
        .oneshot(raw_write(server.address, pieces));
    let answer = with_timeout(call).await.unwrap().into_body();
    let answer = with_timeout(answer.collect()).await.unwrap().to_bytes();
    assert!(
        answer.windows(9).any(|word| word == b"TOO_LARGE"),
        "{answer:?}"
    );
    all_taken.load(Ordering::Relaxed)
}

/// A client may take an answer during its request for a broken connection.
#[tokio::test]
async fn oversized_write_is_answered_after_its_body() {
    assert!(oversize_write(16 << 20, 16).await);
}

#[tokio::test]
async fn endless_write_is_answered() {
    oversize_write(u32::MAX, 65).await;
}

/// A drain waits for every call, so it ends at once only if the cancelled call has ended.
#[tokio::test]
async fn partial_write_can_be_cancelled() {
    for pieces in [
        &b""[..],
        b"\0\0",
        b"\0\0\0\0\x64half of it",
        b"\0\xff\xff\xff\xffhalf of it",
    ] {
        let mut server = TestServer::start_with(|config| config.shutdown_grace = TEST_TIMEOUT * 2);
        let channel = server.channel().await;
        let pieces = tokio_stream::once(Bytes::from_static(pieces));
        let write = channel.clone().oneshot(raw_write(server.address, pieces));
        let greet = async {
            let mut greeter = GreeterClient::new(channel);
            // The reply shows that all earlier frames of the connection have arrived.
            greeter.say_hello(hello("you")).await.unwrap();
        };
        tokio::select! {
            biased;
            answer = write => panic!("{answer:?}"),
            () = greet => {}
        }
        server.stop();
        server.wait_stopped().await;
    }
}

#[tokio::test]
async fn unknown_method_or_service_is_unimplemented() {
    let server = TestServer::start();
    for path in [
        "/muxs.Greeter/Nothing",
        "/muxs.Nothing/SayHello",
        "/nothing",
    ] {
        let status = call(&server, path, b"").await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
}

#[tokio::test]
async fn other_protocols_do_not_disturb_other_clients() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = TestServer::start();
    for nonsense in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00",
        &[0; 4096],
    ] {
        let mut stream = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        stream.write_all(nonsense).await.unwrap();
        stream.shutdown().await.unwrap();
        // The server may close or reset the connection.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    let mut greeter = server.greeter().await;
    let reply = greeter.say_hello(hello("you")).await.unwrap();
    assert_eq!(reply.into_inner().message, "Hello, you!");
}
