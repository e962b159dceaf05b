//! Calls over an in-memory pipe with a paused clock, so that deadlines can be checked exactly.

mod commits;

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::BoxStream;
use h2::{Reason, SendStream, client};
use http::StatusCode;
use prost::Message;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_util::task::TaskTracker;
use tonic::{Code, Response as Answer, Status, Streaming};
use tonic_types::StatusExt;

use super::{methods::RequestKind, *};
use crate::{
    pb::{
        self, HelloReply, HelloRequest, Number,
        greeter_server::{Greeter, GreeterServer},
    },
    server::{
        limits::Limits,
        method_policy::MethodPolicy,
        metrics::{LimitHits, WorkerCounters},
    },
};

const SAY_HELLO: &str = "/muxs.Greeter/SayHello";
const SQUARE: &str = "/muxs.Greeter/Square";
const LOTS_OF_REPLIES: &str = "/muxs.Greeter/LotsOfReplies";
const LOTS_OF_GREETINGS: &str = "/muxs.Greeter/LotsOfGreetings";
const BIDI_HELLO: &str = "/muxs.Greeter/BidiHello";

/// A method of each shape. Its handler in [`Stubborn`] never ends by itself.
const SHAPES: [&str; 4] = [SAY_HELLO, LOTS_OF_REPLIES, LOTS_OF_GREETINGS, BIDI_HELLO];

const TIME: Duration = Duration::from_millis(1234);

/// Handlers that wait forever, reply forever, or panic. Each running one holds a [`Resource`].
#[derive(Clone, Default)]
struct Stubborn {
    held: Arc<AtomicUsize>,
}

/// Something that a handler holds until it ends.
struct Resource(Arc<AtomicUsize>);

impl Drop for Resource {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stubborn {
    fn hold(&self) -> Resource {
        self.held.fetch_add(1, Ordering::Relaxed);
        Resource(Arc::clone(&self.held))
    }
}

type Replies = BoxStream<'static, Result<HelloReply, Status>>;

#[tonic::async_trait]
impl Greeter for Stubborn {
    async fn say_hello(
        &self,
        _: tonic::Request<HelloRequest>,
    ) -> Result<Answer<HelloReply>, Status> {
        let _held = self.hold();
        pending().await
    }

    /// Panics if the number is not finite.
    async fn square(&self, request: tonic::Request<Number>) -> Result<Answer<Number>, Status> {
        let number = request.into_inner();
        assert!(number.value.is_finite(), "on purpose");
        Ok(Answer::new(number))
    }

    type LotsOfRepliesStream = Replies;

    /// Sends one reply and waits forever. The name `endless` gets replies without end, `panic` a panic.
    async fn lots_of_replies(
        &self,
        request: tonic::Request<HelloRequest>,
    ) -> Result<Answer<Replies>, Status> {
        let (held, name) = (self.hold(), request.into_inner().name);
        let replies = async_stream::stream! {
            let _held = held;
            yield Ok(HelloReply { message: name.clone() });
            if name == "endless" {
                loop {
                    yield Ok(HelloReply { message: "x".repeat(1000) });
                }
            }
            // The reply is sent before this continues.
            tokio::task::yield_now().await;
            assert!(name != "panic", "on purpose");
            pending::<()>().await;
        };
        Ok(Answer::new(Box::pin(replies)))
    }

    async fn lots_of_greetings(
        &self,
        request: tonic::Request<Streaming<HelloRequest>>,
    ) -> Result<Answer<HelloReply>, Status> {
        let _held = self.hold();
        let mut requests = request.into_inner();
        while requests.message().await?.is_some() {}
        pending().await
    }

    type BidiHelloStream = Replies;

    async fn bidi_hello(
        &self,
        request: tonic::Request<Streaming<HelloRequest>>,
    ) -> Result<Answer<Replies>, Status> {
        let held = self.hold();
        let replies = request.into_inner().map(move |request| {
            let _held = &held;
            Ok(HelloReply {
                message: request?.name,
            })
        });
        Ok(Answer::new(Box::pin(replies)))
    }
}

/// A client that enforces no rules by itself, and its server.
struct Pipe {
    client: client::SendRequest<Bytes>,
    held: Arc<AtomicUsize>,
    calls: TaskTracker,
    context: Arc<CallContext>,
    hits: Arc<LimitHits>,
}

impl Pipe {
    async fn new(limits: Limits) -> Self {
        Self::with_window(limits, 65_535).await
    }

    /// A client with this flow-control window for each stream, in bytes.
    async fn with_window(limits: Limits, window: u32) -> Self {
        let handlers = Stubborn::default();
        let held = Arc::clone(&handlers.held);
        Self {
            held,
            ..Self::serving(handlers, methods(), limits, window).await
        }
    }

    /// A client of these handlers.
    async fn serving(
        handlers: impl Greeter,
        methods: Methods,
        limits: Limits,
        window: u32,
    ) -> Self {
        let (near, far) = tokio::io::duplex(1 << 20);
        let calls = TaskTracker::new();
        let running = calls.clone();
        let hits = Arc::new(LimitHits::default());
        let counters = WorkerCounters::new(methods.all().len(), Arc::clone(&hits));
        let greeter = GreeterServer::new(handlers);
        let context = Arc::new(CallContext {
            counters: Some(Arc::new(counters)),
            ..CallContext::new(
                Routes::new(vec![("muxs.Greeter", Box::new(greeter))]),
                methods,
                CallLimit::new(limits.max_calls),
                Arc::new(limits),
            )
        });
        let calls_of = Arc::clone(&context);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                if let Some(call) = calls_of.begin(request, respond) {
                    running.spawn(call);
                }
            }
        });
        let mut builder = client::Builder::new();
        builder.initial_window_size(window);
        let (client, connection) = builder.handshake(near).await.unwrap();
        tokio::spawn(connection);
        Self {
            client,
            held: Arc::default(),
            calls,
            context,
            hits,
        }
    }

    async fn call(&mut self, path: &str, headers: &[(&str, &str)]) -> RawCall {
        let mut request = Request::post(format!("http://muxs{path}"));
        for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
            if !headers.iter().any(|(given, _)| *given == name) {
                request = request.header(name, value);
            }
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        self.send(request.body(()).unwrap()).await
    }

    async fn send(&mut self, request: Request<()>) -> RawCall {
        let mut client = self.client.clone().ready().await.unwrap();
        let (response, requests) = client.send_request(request, false).unwrap();
        RawCall { response, requests }
    }

    /// Waits until no call is running.
    async fn ended(&self) {
        self.calls.close();
        self.calls.wait().await;
    }

    /// The number of calls of a method that were counted with this code.
    fn ended_with(&self, path: &str, code: Code) -> u64 {
        let counters = self.context.counters.as_ref().unwrap();
        let id = self.context.methods.id(path);
        counters.method(id).handled[code as usize].get()
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// A call of the raw client.
struct RawCall {
    response: client::ResponseFuture,
    requests: SendStream<Bytes>,
}

/// How a call ended.
#[derive(Debug)]
struct Ended {
    http: StatusCode,
    status: Option<Status>,
    bytes: Bytes,
}

impl Ended {
    #[track_caller]
    fn assert(&self, code: Code, reason: &str) {
        let status = self.status.as_ref().expect("a grpc-status");
        assert_eq!(status.code(), code, "{status:?}");
        let info = status.get_details_error_info().expect("ErrorInfo");
        assert_eq!(info.reason, reason);
    }
}

impl RawCall {
    fn say(&mut self, message: &impl Message) {
        self.requests
            .send_data(framed(&message.encode_to_vec()), false)
            .unwrap();
    }

    fn close(&mut self) {
        self.requests.send_data(Bytes::new(), true).unwrap();
    }

    /// Reads the response to its end.
    async fn ended(&mut self) -> Result<Ended, h2::Error> {
        let (head, mut body) = (&mut self.response).await?.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data?;
            bytes.put_slice(&data);
            body.flow_control().release_capacity(data.len())?;
        }
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        Ok(Ended {
            http: head.status,
            status: Status::from_header_map(&trailers),
            bytes: bytes.freeze(),
        })
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len().try_into().unwrap());
    framed.put_slice(message);
    framed.freeze()
}

fn hello(name: &str) -> HelloRequest {
    HelloRequest {
        name: name.to_owned(),
        ..Default::default()
    }
}

/// The methods of the contract, with policies for some.
fn methods() -> Methods {
    let policies = Policies::from([
        (
            LOTS_OF_GREETINGS.to_owned(),
            MethodPolicy::default().active_requests(),
        ),
        (SQUARE.to_owned(), MethodPolicy::default().uncounted()),
    ]);
    Methods::new(&[pb::FILE_DESCRIPTOR_SET], &policies).unwrap()
}

/// Lets all tasks run until each of them waits.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn deadline_ends_calls_of_every_shape_in_time() {
    for path in SHAPES {
        for closes in [true, false] {
            let mut pipe = Pipe::new(Limits::default()).await;
            let begin = Instant::now();
            let mut call = pipe.call(path, &[("grpc-timeout", "1234m")]).await;
            call.say(&hello("you"));
            // A closed BidiHello would end by itself.
            if closes && path != BIDI_HELLO {
                call.close();
            }
            let ended = call.ended().await.unwrap();
            ended.assert(Code::DeadlineExceeded, "DEADLINE");
            let late = begin.elapsed() - TIME;
            assert!(late < Duration::from_millis(5), "{path}: {late:?} late");
            pipe.ended().await;
            assert_eq!(pipe.held(), 0, "{path}");
        }
    }
}

/// The client's window is full, so it cannot receive the status.
#[tokio::test(start_paused = true)]
async fn deadline_frees_resources_of_a_client_that_does_not_read() {
    let mut pipe = Pipe::with_window(Limits::default(), 1000).await;
    let mut call = pipe
        .call(LOTS_OF_REPLIES, &[("grpc-timeout", "1234m")])
        .await;
    call.say(&hello("endless"));
    call.close();
    tokio::time::sleep(TIME - Duration::from_millis(100)).await;
    assert_eq!(pipe.held(), 1);
    pipe.ended().await;
    assert_eq!(pipe.held(), 0);
    assert_eq!(pipe.ended_with(LOTS_OF_REPLIES, Code::DeadlineExceeded), 1);
    assert_eq!(pipe.ended_with(LOTS_OF_REPLIES, Code::Cancelled), 0);
    let reset = call.ended().await.unwrap_err();
    assert_eq!(reset.reason(), Some(Reason::CANCEL));
}

#[tokio::test(start_paused = true)]
async fn call_that_ends_before_its_deadline_is_unaffected() {
    let mut pipe = Pipe::new(Limits::default()).await;
    let mut call = pipe.call(SQUARE, &[("grpc-timeout", "1H")]).await;
    call.say(&Number { value: 2.0 });
    call.close();
    let ended = call.ended().await.unwrap();
    assert_eq!(ended.status.unwrap().code(), Code::Ok);
    assert_eq!(ended.bytes.len(), 5 + 5);
}

#[tokio::test(start_paused = true)]
async fn max_deadline_bounds_every_call() {
    let limits = Limits {
        max_deadline: Some(TIME),
        ..Limits::default()
    };
    for timeout in ["", "1H", "99999999H"] {
        let mut pipe = Pipe::new(limits.clone()).await;
        let begin = Instant::now();
        let mut call = pipe.call(SAY_HELLO, &[("grpc-timeout", timeout)]).await;
        call.say(&hello("you"));
        call.close();
        let ended = call.ended().await.unwrap();
        ended.assert(Code::DeadlineExceeded, "DEADLINE");
        assert!(begin.elapsed() - TIME < Duration::from_millis(5));
    }
}

#[tokio::test(start_paused = true)]
async fn malformed_timeout_is_rejected() {
    let mut pipe = Pipe::new(Limits::default()).await;
    for timeout in ["soon", "1", "123456789S", "-1S", "1.5S", "1s"] {
        let mut call = pipe.call(SAY_HELLO, &[("grpc-timeout", timeout)]).await;
        let ended = call.ended().await.unwrap();
        ended.assert(Code::InvalidArgument, "BAD_REQUEST");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_request_ends_the_call() {
    let limits = Limits {
        idle_timeout: TIME,
        ..Limits::default()
    };
    // Methods with one request message, and a stream with the idle timeout.
    for path in [SAY_HELLO, LOTS_OF_REPLIES, LOTS_OF_GREETINGS] {
        let mut pipe = Pipe::new(limits.clone()).await;
        let begin = Instant::now();
        let mut call = pipe.call(path, &[]).await;
        for _ in 0..3 {
            tokio::time::sleep(TIME / 2).await;
            // Part of a message, or an empty one.
            let some = if path == LOTS_OF_GREETINGS { 5 } else { 1 };
            let some = Bytes::from_static(&[0; 5]).slice(..some);
            call.requests.send_data(some, false).unwrap();
        }
        let ended = call.ended().await.unwrap();
        ended.assert(Code::Unavailable, "IDLE");
        let status = ended.status.unwrap();
        assert!(status.get_details_retry_info().is_some());
        let late = begin.elapsed() - TIME / 2 * 3 - TIME;
        assert!(late < Duration::from_millis(5), "{path}: {late:?} late");
        assert_eq!(pipe.held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn bidi_stream_may_pause() {
    let mut pipe = Pipe::new(Limits::default()).await;
    let mut call = pipe.call(BIDI_HELLO, &[]).await;
    for _ in 0..3 {
        call.say(&hello("you"));
        tokio::time::sleep(Duration::from_secs(24 * 60 * 60)).await;
    }
    call.close();
    let ended = call.ended().await.unwrap();
    assert_eq!(ended.status.unwrap().code(), Code::Ok);
    assert_eq!(ended.bytes.len(), 3 * (5 + 5));
}

#[tokio::test(start_paused = true)]
async fn panic_ends_only_its_own_call() {
    let mut pipe = Pipe::new(Limits::default()).await;
    let mut other = pipe.call(BIDI_HELLO, &[]).await;
    other.say(&hello("you"));
    settle().await;

    let mut in_handler = pipe.call(SQUARE, &[]).await;
    in_handler.say(&Number { value: f32::NAN });
    in_handler.close();
    let ended = in_handler.ended().await.unwrap();
    ended.assert(Code::Internal, "IO");

    let mut in_stream = pipe.call(LOTS_OF_REPLIES, &[]).await;
    in_stream.say(&hello("panic"));
    in_stream.close();
    let ended = in_stream.ended().await.unwrap();
    ended.assert(Code::Internal, "IO");
    assert_eq!(ended.bytes.len(), 5 + 7, "the reply before the panic");

    assert_eq!(pipe.held(), 1, "only the other call");
    assert_eq!(pipe.ended_with(SQUARE, Code::Internal), 1);
    assert_eq!(pipe.ended_with(LOTS_OF_REPLIES, Code::Internal), 1);
    other.say(&hello("you"));
    other.close();
    let ended = other.ended().await.unwrap();
    assert_eq!(ended.status.unwrap().code(), Code::Ok);
    assert_eq!(ended.bytes.len(), 2 * (5 + 5));
}

#[tokio::test(start_paused = true)]
async fn non_grpc_request_gets_http_status() {
    let mut pipe = Pipe::new(Limits::default()).await;
    for content_type in [
        "",
        "application/json",
        "application/grpc-web",
        "application/grpc+json",
        "application/grpcproto",
    ] {
        let mut call = pipe
            .call(SAY_HELLO, &[("content-type", content_type)])
            .await;
        let ended = call.ended().await.unwrap();
        assert_eq!(
            ended.http,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{content_type}"
        );
        assert!(ended.status.is_none());
    }
    for content_type in ["application/grpc+proto", "application/grpc;x=y"] {
        let mut call = pipe.call(SQUARE, &[("content-type", content_type)]).await;
        call.say(&Number { value: 2.0 });
        call.close();
        let ended = call.ended().await.unwrap();
        assert_eq!(ended.status.unwrap().code(), Code::Ok, "{content_type}");
    }
    for method in [http::Method::GET, http::Method::PUT, http::Method::OPTIONS] {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://muxs{SAY_HELLO}"))
            .header("content-type", "application/grpc");
        let mut call = pipe.send(request.body(()).unwrap()).await;
        let head = (&mut call.response).await.unwrap();
        assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(head.headers()["allow"], "POST");
    }
}

#[tokio::test(start_paused = true)]
async fn unary_request_with_other_message_count_is_rejected() {
    let one = framed(&hello("you").encode_to_vec());
    let two = Bytes::from([&one[..], &one].concat());
    for path in [SAY_HELLO, LOTS_OF_REPLIES] {
        for (body, closes) in [
            (Bytes::new(), true),
            (two.clone(), true),
            (two.clone(), false),
        ] {
            let mut pipe = Pipe::new(Limits::default()).await;
            let mut call = pipe.call(path, &[]).await;
            call.requests.send_data(body, closes).unwrap();
            let ended = call.ended().await.unwrap();
            ended.assert(Code::Unimplemented, "BAD_REQUEST");
            assert_eq!(pipe.held(), 0, "no handler was called");
        }
        // A request without a body.
        let mut pipe = Pipe::new(Limits::default()).await;
        let request = Request::post(format!("http://muxs{path}"))
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let (response, requests) = pipe.client.send_request(request, true).unwrap();
        let ended = RawCall { response, requests }.ended().await.unwrap();
        ended.assert(Code::Unimplemented, "BAD_REQUEST");
    }
}

#[tokio::test(start_paused = true)]
async fn oversized_message_is_rejected_by_its_length() {
    for path in SHAPES {
        let mut pipe = Pipe::new(Limits::default()).await;
        let mut call = pipe.call(path, &[]).await;
        let size = 4 * 1024 * 1024 + 1_u32;
        let head = [&[0][..], &size.to_be_bytes()].concat();
        call.requests.send_data(head.into(), false).unwrap();
        let ended = call.ended().await.unwrap();
        ended.assert(Code::ResourceExhausted, "TOO_LARGE");
    }
}

#[tokio::test(start_paused = true)]
async fn call_counts_until_its_last_byte() {
    let limits = Limits {
        max_calls: 2,
        ..Limits::default()
    };
    let mut pipe = Pipe::new(limits).await;
    // The handler has responded; the stream continues.
    let mut streaming = pipe.call(BIDI_HELLO, &[]).await;
    let mut waiting = pipe.call(SAY_HELLO, &[]).await;
    waiting.say(&hello("you"));
    settle().await;
    for _ in 0..3 {
        let mut refused = pipe.call(SAY_HELLO, &[]).await;
        let ended = refused.ended().await.unwrap();
        ended.assert(Code::ResourceExhausted, "BUSY");
        assert!(ended.status.unwrap().get_details_retry_info().is_some());
    }
    // Uncounted methods are always accepted.
    let mut always = pipe.call(SQUARE, &[]).await;
    always.say(&Number { value: 2.0 });
    always.close();
    assert_eq!(
        always.ended().await.unwrap().status.unwrap().code(),
        Code::Ok
    );

    streaming.close();
    streaming.ended().await.unwrap();
    settle().await;
    let mut next = pipe.call(BIDI_HELLO, &[]).await;
    next.close();
    assert_eq!(next.ended().await.unwrap().status.unwrap().code(), Code::Ok);
    // A cancelled call releases its permit.
    waiting.requests.send_reset(Reason::CANCEL);
    pipe.ended().await;
    let _first = pipe.call(BIDI_HELLO, &[]).await;
    let mut second = pipe.call(BIDI_HELLO, &[]).await;
    second.close();
    assert_eq!(
        second.ended().await.unwrap().status.unwrap().code(),
        Code::Ok
    );
}

#[test]
fn methods_have_the_shapes_of_their_descriptors() {
    let methods = methods();
    let kind = |path| methods.method(methods.id(path)).request_kind;
    assert_eq!(kind(SAY_HELLO), RequestKind::Unary);
    assert_eq!(kind("/helloworld.Greeter/SayHello"), RequestKind::Unary);
    assert_eq!(kind(LOTS_OF_REPLIES), RequestKind::Unary);
    assert_eq!(kind(LOTS_OF_GREETINGS), RequestKind::ActiveStream);
    assert_eq!(kind(BIDI_HELLO), RequestKind::IdleStream);
    assert_eq!(kind("/muxs.Greeter/Nothing"), RequestKind::IdleStream);
}
