//! Requests that are no messages of the contract: refused, with nobody hurt.

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use muxs::pb::HelloRequest;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::support::{TestServer, tree};

/// Sends bytes as they are, for what no generated client would send.
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
async fn what_is_no_message_is_refused_by_every_method() {
    let server = TestServer::start();
    let before = tree(server.root());
    let paths = [
        "/muxs.Greeter/SayHello",
        "/muxs.Greeter/Square",
        "/muxs.Greeter/LotsOfReplies",
        "/muxs.Greeter/LotsOfGreetings",
        "/muxs.Greeter/BidiHello",
        "/muxs.FileController/Read",
        "/muxs.FileController/Write",
        "/muxs.FileController/Stat",
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

#[tokio::test]
async fn an_unknown_method_or_service_is_unimplemented() {
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
async fn a_client_that_speaks_another_protocol_disturbs_nobody() {
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
        // It is closed, politely or not.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    let request = HelloRequest {
        name: "you".to_owned(),
        ..Default::default()
    };
    let reply = server.greeter().await.say_hello(request).await.unwrap();
    assert_eq!(reply.into_inner().message, "Hello, you!");
}
