//! Which messages are compressed, and which compressed messages are accepted.

use std::sync::{Arc, Mutex, MutexGuard};

use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use muxs::pb::{
    HelloRequest, StatRequest, file_controller_client::FileControllerClient,
    greeter_client::GreeterClient, helloworld::greeter_client::GreeterClient as HelloworldClient,
};
use tonic::{
    Code, Status,
    body::Body,
    codec::CompressionEncoding::Gzip,
    transport::{self, Channel},
};
use tower::{ServiceExt, util::BoxService};

use crate::support::{
    TestServer, file, hello,
    upload_stream::{content, whole},
    with_timeout,
};

const ENCODING: &str = "grpc-encoding";

/// The recorded traffic of a client.
#[derive(Clone, Default)]
struct Wire {
    sent: Direction,
    received: Direction,
}

/// The encoding header, and the bytes of all bodies.
#[derive(Clone, Default)]
struct Direction(Arc<Mutex<(Option<HeaderValue>, Vec<u8>)>>);

type RecordingChannel = BoxService<Request<Body>, Response<Body>, transport::Error>;

impl Wire {
    /// Wraps a channel to record its traffic, with this `grpc-encoding` in the requests.
    fn watch(&self, channel: Channel, encoding: Option<&'static str>) -> RecordingChannel {
        let Self { sent, received } = self.clone();
        channel
            .map_request(move |request: Request<Body>| {
                let (mut parts, body) = request.into_parts();
                if let Some(encoding) = encoding {
                    let encoding = HeaderValue::from_static(encoding);
                    parts.headers.insert(ENCODING, encoding);
                }
                sent.begin(parts.headers.get(ENCODING));
                Request::from_parts(parts, sent.note(body))
            })
            .map_response(move |response: Response<Body>| {
                received.begin(response.headers().get(ENCODING));
                response.map(|body| received.note(body))
            })
            .boxed()
    }

    /// Asserts the number of messages in each direction, and whether all or none were compressed.
    #[track_caller]
    fn assert_compressed(&self, sent: (usize, bool), received: (usize, bool)) {
        self.sent.assert_compressed(sent);
        self.received.assert_compressed(received);
    }
}

impl Direction {
    fn lock(&self) -> MutexGuard<'_, (Option<HeaderValue>, Vec<u8>)> {
        self.0.lock().unwrap()
    }

    fn begin(&self, encoding: Option<&HeaderValue>) {
        *self.lock() = (encoding.cloned(), Vec::new());
    }

    fn note(&self, body: Body) -> Body {
        let noted = self.clone();
        Body::new(body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                noted.lock().1.extend_from_slice(data);
            }
            frame
        }))
    }

    #[track_caller]
    fn assert_compressed(&self, (messages, compressed): (usize, bool)) {
        let (encoding, bytes) = &*self.lock();
        let flags = flags(bytes);
        assert_eq!(flags, vec![u8::from(compressed); messages]);
        let encoding = encoding.as_ref().map(HeaderValue::as_bytes);
        match compressed {
            true => assert_eq!(encoding, Some(&b"gzip"[..])),
            false => assert_ne!(encoding, Some(&b"gzip"[..])),
        }
    }
}

/// Returns the compressed flag of each message.
fn flags(mut bytes: &[u8]) -> Vec<u8> {
    let mut flags = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = bytes {
        flags.push(*flag);
        bytes = &rest[u32::from_be_bytes([*a, *b, *c, *d]) as usize..];
    }
    flags
}

/// Asserts that calls of all four shapes succeed, and whether requests and replies were compressed.
async fn assert_all_shapes(
    mut greeter: GreeterClient<RecordingChannel>,
    wire: Wire,
    sent: bool,
    received: bool,
) {
    let reply = with_timeout(greeter.say_hello(hello("you"))).await.unwrap();
    assert_eq!(reply.into_inner().message, "Hello, you!");
    wire.assert_compressed((1, sent), (1, received));

    let request = HelloRequest {
        replies: 3,
        ..hello("you")
    };
    let replies = with_timeout(greeter.lots_of_replies(request))
        .await
        .unwrap();
    let mut replies = replies.into_inner();
    while with_timeout(replies.message()).await.unwrap().is_some() {}
    wire.assert_compressed((1, sent), (3, received));

    let names = || tokio_stream::iter(["A", "B", "C", "D"].map(hello));
    let reply = with_timeout(greeter.lots_of_greetings(names()))
        .await
        .unwrap();
    assert_eq!(reply.into_inner().message, "Hello, A, B, C and 1 other!");
    wire.assert_compressed((4, sent), (1, received));

    let replies = with_timeout(greeter.bidi_hello(names())).await.unwrap();
    let mut replies = replies.into_inner();
    for name in ["A", "B", "C", "D"] {
        let reply = with_timeout(replies.message()).await.unwrap().unwrap();
        assert_eq!(reply.message, format!("Hello, {name}!"));
    }
    assert_eq!(with_timeout(replies.message()).await.unwrap(), None);
    wire.assert_compressed((4, sent), (4, received));
}

#[tokio::test]
async fn compressing_client_gets_compressed_answers() {
    let server = TestServer::start();
    let wire = Wire::default();
    let greeter = GreeterClient::new(wire.watch(server.channel().await, None))
        .send_compressed(Gzip)
        .accept_compressed(Gzip);
    assert_all_shapes(greeter, wire, true, true).await;

    let wire = Wire::default();
    let channel = wire.watch(server.channel().await, None);
    let mut greeter = HelloworldClient::new(channel)
        .send_compressed(Gzip)
        .accept_compressed(Gzip);
    let reply = with_timeout(greeter.say_hello(hello("you"))).await.unwrap();
    assert_eq!(reply.into_inner().message, "Hello, you!");
    wire.assert_compressed((1, true), (1, true));
}

#[tokio::test]
async fn answer_encoding_follows_accept_encoding() {
    let server = TestServer::start();
    let wire = Wire::default();
    let greeter =
        GreeterClient::new(wire.watch(server.channel().await, None)).send_compressed(Gzip);
    assert_all_shapes(greeter, wire, true, false).await;
}

#[tokio::test]
async fn uncompressed_request_gets_an_uncompressed_answer() {
    let server = TestServer::start();
    for encoding in [None, Some("identity")] {
        let wire = Wire::default();
        let greeter = GreeterClient::new(wire.watch(server.channel().await, encoding))
            .accept_compressed(Gzip);
        assert_all_shapes(greeter, wire, false, false).await;
    }
}

#[tokio::test]
async fn compression_other_than_gzip_is_refused() {
    let server = TestServer::start();
    for encoding in ["zstd", "deflate", "nonsense"] {
        let channel = Wire::default().watch(server.channel().await, Some(encoding));
        let mut greeter = GreeterClient::new(channel);
        let refused = with_timeout(greeter.say_hello(hello("you")))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
        let takes = refused.metadata().get("grpc-accept-encoding").unwrap();
        let takes = takes.to_str().unwrap();
        assert!(takes.split(',').any(|one| one == "gzip"), "{takes}");
    }
}

#[tokio::test]
async fn message_limit_counts_decompressed_bytes() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await.send_compressed(Gzip);
    let bomb = hello("x".repeat(64 * 1024 * 1024));
    let refused = with_timeout(greeter.say_hello(bomb)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    with_timeout(greeter.say_hello(hello("you"))).await.unwrap();
}

#[tokio::test]
async fn file_service_refuses_compressed_requests() {
    let server = TestServer::start();
    std::fs::write(server.path("a"), "text").unwrap();
    let mut files = server.files().await;
    files = files.send_compressed(Gzip).accept_compressed(Gzip);
    let stat = StatRequest {
        filename: "a".to_owned(),
    };
    let abort = muxs::pb::AbortUploadRequest {
        filename: "a".to_owned(),
        upload_id: "id".to_owned(),
    };
    assert_refused(files.read(file("a", "")).await);
    assert_refused(files.write(file("a", "new")).await);
    assert_refused(files.stat(stat).await);
    assert_refused(files.read_stream(whole("a")).await);
    assert_refused(files.write_stream(tokio_stream::empty()).await);
    assert_refused(files.abort_upload(abort).await);
    assert_eq!(std::fs::read(server.path("a")).unwrap(), b"text");
}

#[track_caller]
fn assert_refused<T>(result: Result<T, Status>) {
    let Err(status) = result else {
        panic!("a compressed request is taken");
    };
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
}

#[tokio::test]
async fn file_answers_are_never_compressed() {
    let server = TestServer::start();
    std::fs::write(server.path("a"), content(1_000_000)).unwrap();
    let wire = Wire::default();
    let channel = wire.watch(server.channel().await, None);
    let mut files = FileControllerClient::new(channel).accept_compressed(Gzip);
    let events = with_timeout(files.read_stream(whole("a"))).await.unwrap();
    let mut events = events.into_inner();
    let mut count = 0;
    while with_timeout(events.message()).await.unwrap().is_some() {
        count += 1;
    }
    wire.assert_compressed((1, false), (count, false));
    with_timeout(files.write(file("b", "text"))).await.unwrap();
    wire.assert_compressed((1, false), (1, false));
    with_timeout(files.read(file("b", ""))).await.unwrap();
    wire.assert_compressed((1, false), (1, false));
}
