//! The metrics of calls, compared with known sequences of calls.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use futures::future::join_all;
use h2::{
    Reason, SendStream,
    client::{ResponseFuture, SendRequest},
};
use muxs::{
    files::Settings,
    pb::{HelloRequest, StatRequest, greeter_client::GreeterClient},
};
use prost::Message;
use tokio_stream::iter;
use tonic::{Code, Request, codec::CompressionEncoding::Gzip};

use crate::support::{
    TEST_TIMEOUT, TestServer, assert_failure, hello,
    raw_http2::{RawConnection, call, connect_h2, message, request},
    scrape::Scrape,
    with_timeout,
};

/// All served methods and their shapes.
const METHODS: &[(&str, &str)] = &[
    ("unary", "muxs.Greeter/SayHello"),
    ("unary", "muxs.Greeter/Square"),
    ("server_stream", "muxs.Greeter/LotsOfReplies"),
    ("client_stream", "muxs.Greeter/LotsOfGreetings"),
    ("bidi_stream", "muxs.Greeter/BidiHello"),
    ("unary", "helloworld.Greeter/SayHello"),
    ("unary", "helloworld.Greeter/Square"),
    ("unary", "muxs.FileController/Read"),
    ("unary", "muxs.FileController/Write"),
    ("unary", "muxs.FileController/Stat"),
    ("unary", "muxs.FileController/AbortUpload"),
    ("server_stream", "muxs.FileController/ReadStream"),
    ("bidi_stream", "muxs.FileController/WriteStream"),
    ("unary", "grpc.health.v1.Health/Check"),
    ("server_stream", "grpc.health.v1.Health/Watch"),
    (
        "bidi_stream",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ),
    (
        "bidi_stream",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ),
];

const UNKNOWN: (&str, &str) = ("unknown", "unknown/unknown");

const SAY_HELLO: &str = "muxs.Greeter/SayHello";
const LOTS_OF_REPLIES: &str = "muxs.Greeter/LotsOfReplies";
const LOTS_OF_GREETINGS: &str = "muxs.Greeter/LotsOfGreetings";
const BIDI_HELLO: &str = "muxs.Greeter/BidiHello";
const STAT: &str = "muxs.FileController/Stat";

/// The expected value of every series of calls, except for durations.
#[derive(Debug)]
struct Expected(BTreeMap<String, f64>);

impl Expected {
    /// The values before the first call.
    fn new() -> Self {
        let mut expected = Self(BTreeMap::new());
        for &(shape, method) in METHODS {
            expected.count(shape, method, None, 0, (0, 0));
            expected.count(shape, method, Some("OK"), 0, (0, 0));
        }
        expected
    }

    /// Adds `calls` calls of a method, and the sum of their messages.
    fn calls(&mut self, method: &str, code: &str, calls: u64, messages: (u64, u64)) {
        let known = METHODS.iter().find(|(_, name)| *name == method);
        let (shape, method) = known.unwrap_or(&UNKNOWN);
        self.count(shape, method, Some(code), calls, messages);
    }

    fn count(
        &mut self,
        shape: &str,
        method: &str,
        code: Option<&str>,
        calls: u64,
        (received, sent): (u64, u64),
    ) {
        let (service, method) = method.split_once('/').unwrap();
        let common = format!("grpc_method={method:?},grpc_service={service:?},grpc_type={shape:?}");
        let mut add = |name: &str, code: Option<&str>, count: u64| {
            let code = code.map(|code| format!("grpc_code={code:?},"));
            let code = code.unwrap_or_default();
            let series = format!("grpc_server_{name}_total{{{code}{common}}}");
            *self.0.entry(series).or_default() += count as f64;
        };
        add("started", None, calls);
        add("msg_received", None, received);
        add("msg_sent", None, sent);
        if code.is_some() {
            add("handled", code, calls);
        }
    }

    /// Waits until all expected calls are counted, and asserts that all series match.
    async fn assert(&self, server: &TestServer) -> Scrape {
        let sum = |prefix: &str| {
            let all = self.0.iter().filter(|(name, _)| name.starts_with(prefix));
            all.map(|(_, count)| count).sum::<f64>()
        };
        let handled = sum("grpc_server_handled_total");
        let metrics = server
            .wait_metrics(|metrics| metrics.sum("grpc_server_handled_total") >= handled)
            .await;
        let mut counted = metrics.all("grpc_server_");
        counted.retain(|series, _| !series.starts_with("grpc_server_handling_seconds"));
        let expected: BTreeMap<_, _> = self
            .0
            .iter()
            .map(|(it, count)| (it.as_str(), *count))
            .collect();
        let wrong: Vec<_> = counted
            .iter()
            .filter(|(series, count)| expected.get(*series) != Some(count))
            .collect();
        assert!(wrong.is_empty(), "counted {wrong:#?}");
        let missing: Vec<_> = expected
            .keys()
            .filter(|series| !counted.contains_key(*series))
            .collect();
        assert!(missing.is_empty(), "{missing:#?}");
        assert_eq!(metrics.sum("grpc_server_handling_seconds_count"), handled);
        metrics
    }
}

fn server() -> TestServer {
    TestServer::with_admin(Settings::default(), |_| {})
}

/// A client that sends any headers and enforces no deadline.
struct Client {
    requests: SendRequest<Bytes>,
    address: SocketAddr,
}

impl Client {
    async fn new(server: &TestServer) -> Self {
        let (requests, _connection) = connect_h2(server.address).await;
        Self {
            requests,
            address: server.address,
        }
    }

    /// Begins a call with these headers and no message.
    async fn begin(
        &mut self,
        method: &str,
        headers: &[(&'static str, &'static str)],
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut head = request(self.address, &format!("/{method}"));
        for (name, value) in headers {
            head.headers_mut().insert(*name, value.parse().unwrap());
        }
        let mut requests = with_timeout(self.requests.clone().ready()).await.unwrap();
        requests.send_request(head, false).unwrap()
    }
}

/// Returns the code that a call ends with, and the bytes before that.
async fn wait_end(response: ResponseFuture) -> (Option<Code>, Bytes) {
    let (head, mut body) = with_timeout(response).await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = with_timeout(body.data()).await {
        bytes.extend(data.unwrap());
    }
    let trailers = with_timeout(body.trailers()).await.unwrap();
    let headers = trailers.unwrap_or(head.headers);
    let status = tonic::Status::from_header_map(&headers);
    (status.map(|status| status.code()), bytes.into())
}

fn greeting() -> Vec<u8> {
    message(&hello("you").encode_to_vec())
}

#[tokio::test]
async fn every_method_is_exported_before_its_first_call() {
    let server = server();
    let metrics = Expected::new().assert(&server).await;
    assert_eq!(
        metrics.all("grpc_server_handling_seconds_count").len(),
        METHODS.len()
    );
    // Methods without answers have no durations.
    assert_eq!(metrics.sum("grpc_server_handling_seconds"), 0.0);
}

#[tokio::test]
async fn calls_of_all_shapes_are_counted_with_their_messages() {
    let server = server();
    let mut expected = Expected::new();
    let mut greeter = server.greeter().await;
    for _ in 0..3 {
        greeter.say_hello(hello("you")).await.unwrap();
    }
    expected.calls(SAY_HELLO, "OK", 3, (3, 3));
    let five = HelloRequest {
        replies: 5,
        ..hello("you")
    };
    let mut replies = greeter.lots_of_replies(five).await.unwrap().into_inner();
    while replies.message().await.unwrap().is_some() {}
    expected.calls(LOTS_OF_REPLIES, "OK", 1, (1, 5));
    let many = iter((0..1000).map(|_| hello("you")));
    greeter.lots_of_greetings(many).await.unwrap();
    expected.calls(LOTS_OF_GREETINGS, "OK", 1, (1000, 1));
    let four = iter((0..4).map(|_| hello("you")));
    let mut replies = greeter.bidi_hello(four).await.unwrap().into_inner();
    while replies.message().await.unwrap().is_some() {}
    expected.calls(BIDI_HELLO, "OK", 1, (4, 4));
    // This client compresses in both directions.
    let mut compressing = GreeterClient::new(server.channel().await)
        .send_compressed(Gzip)
        .accept_compressed(Gzip);
    compressing
        .say_hello(hello("x".repeat(1000)))
        .await
        .unwrap();
    expected.calls(SAY_HELLO, "OK", 1, (1, 1));
    let metrics = expected.assert(&server).await;
    assert_eq!(metrics.value("muxs_connections_total"), 2.0);
}

/// Separate connections are spread over both workers.
#[tokio::test]
async fn counters_sum_over_workers() {
    let server = server();
    let greet = async || {
        let mut greeter = server.greeter().await;
        for _ in 0..10 {
            greeter.say_hello(hello("you")).await.unwrap();
        }
        greeter
    };
    let greeters = join_all((0..4).map(|_| greet())).await;
    let mut expected = Expected::new();
    expected.calls(SAY_HELLO, "OK", 40, (40, 40));
    let metrics = expected.assert(&server).await;
    assert_eq!(metrics.value("muxs_connections"), 4.0);
    drop(greeters);
    server.wait_series("muxs_connections", 0).await;
    assert_eq!(server.metrics().await.value("muxs_connections_total"), 4.0);
}

#[tokio::test]
async fn message_counts_ignore_framing() {
    let server = server();
    let mut expected = Expected::new();
    let mut client = Client::new(&server).await;
    let (response, mut sending) = client.begin(BIDI_HELLO, &[]).await;
    // Many messages in one frame, one message in many frames, and an empty frame.
    sending
        .send_data(greeting().repeat(50).into(), false)
        .unwrap();
    for byte in greeting().chunks(1) {
        sending
            .send_data(Bytes::copy_from_slice(byte), false)
            .unwrap();
    }
    sending.send_data(message(b"").into(), true).unwrap();
    let (code, _) = wait_end(response).await;
    assert_eq!(code, Some(Code::Ok));
    expected.calls(BIDI_HELLO, "OK", 1, (52, 52));
    expected.assert(&server).await;
}

#[tokio::test]
async fn calls_are_counted_by_final_code() {
    let server = server();
    let mut expected = Expected::new();
    let mut files = server.files().await;
    let filename = "missing.txt".to_owned();
    let missing = files.stat(StatRequest { filename }).await;
    assert_failure(missing, Code::NotFound, "NOT_FOUND");
    expected.calls(STAT, "NotFound", 1, (1, 0));
    let mut greeter = server.greeter().await;
    let long = greeter.say_hello(hello("x".repeat(100_000))).await;
    assert_failure(long, Code::InvalidArgument, "NAME_TOO_LONG");
    expected.calls(SAY_HELLO, "InvalidArgument", 1, (1, 0));

    let mut client = Client::new(&server).await;
    // Deadlines before the headers and after a reply.
    let (before, _sending) = client.begin(SAY_HELLO, &[("grpc-timeout", "50m")]).await;
    let (within, mut sending) = client.begin(BIDI_HELLO, &[("grpc-timeout", "500m")]).await;
    sending.send_data(greeting().into(), false).unwrap();
    assert_eq!(wait_end(before).await.0, Some(Code::DeadlineExceeded));
    assert_eq!(wait_end(within).await.0, Some(Code::DeadlineExceeded));
    expected.calls(SAY_HELLO, "DeadlineExceeded", 1, (0, 0));
    expected.calls(BIDI_HELLO, "DeadlineExceeded", 1, (1, 1));

    // Two messages in one frame where one is allowed: the handler receives neither.
    let (two, mut sending) = client.begin(SAY_HELLO, &[]).await;
    sending
        .send_data(greeting().repeat(2).into(), true)
        .unwrap();
    assert_eq!(wait_end(two).await.0, Some(Code::Unimplemented));
    expected.calls(SAY_HELLO, "Unimplemented", 1, (0, 0));
    expected.assert(&server).await;
}

#[tokio::test]
async fn disconnected_call_is_counted_as_canceled() {
    let server = server();
    let mut expected = Expected::new();
    let mut client = Client::new(&server).await;
    // Cancelled before the answer and after a reply.
    let (_response, mut sending) = client.begin(SAY_HELLO, &[]).await;
    sending.send_reset(Reason::CANCEL);
    expected.calls(SAY_HELLO, "Canceled", 1, (0, 0));
    let (response, mut sending) = client.begin(BIDI_HELLO, &[]).await;
    sending.send_data(greeting().into(), false).unwrap();
    let mut replies = with_timeout(response).await.unwrap().into_body();
    with_timeout(replies.data()).await.unwrap().unwrap();
    sending.send_reset(Reason::CANCEL);
    expected.calls(BIDI_HELLO, "Canceled", 1, (1, 1));
    expected.assert(&server).await;

    // The connection breaks within a message.
    for method in [SAY_HELLO, LOTS_OF_GREETINGS, BIDI_HELLO] {
        let mut raw = RawConnection::open(server.address).await;
        let half = crate::support::raw_http2::frame(
            crate::support::raw_http2::DATA,
            0,
            1,
            &greeting()[..7],
        );
        let begun = [call(1, &format!("/{method}")), half].concat();
        raw.send(&begun).await.unwrap();
        raw.assert_alive().await;
        expected.calls(method, "Canceled", 1, (1, 0));
    }
    expected.assert(&server).await;
}

#[tokio::test]
async fn refused_calls_are_counted_by_code() {
    let server = TestServer::with_admin(Settings::default(), |config| {
        config.limits.max_calls = 2;
    });
    let mut expected = Expected::new();
    let mut client = Client::new(&server).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let (response, sending) = client.begin(BIDI_HELLO, &[]).await;
        held.push((with_timeout(response).await.unwrap(), sending));
    }
    for _ in 0..3 {
        let (response, _sending) = client.begin(SAY_HELLO, &[]).await;
        assert_eq!(wait_end(response).await.0, Some(Code::ResourceExhausted));
    }
    expected.calls(SAY_HELLO, "ResourceExhausted", 3, (0, 0));
    for (replies, mut sending) in held {
        sending.send_data(Bytes::new(), true).unwrap();
        let trailers = with_timeout(replies.into_body().trailers()).await.unwrap();
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
    }
    expected.calls(BIDI_HELLO, "OK", 2, (0, 0));
    expected.assert(&server).await;
    server.wait_refused("max_calls", 3).await;

    let (malformed, _sending) = client.begin(SAY_HELLO, &[("grpc-timeout", "soon")]).await;
    assert_eq!(wait_end(malformed).await.0, Some(Code::InvalidArgument));
    expected.calls(SAY_HELLO, "InvalidArgument", 1, (0, 0));
    let (no_grpc, _sending) = client
        .begin(SAY_HELLO, &[("content-type", "text/html")])
        .await;
    assert_eq!(wait_end(no_grpc).await.0, None);
    expected.calls(SAY_HELLO, "Unimplemented", 1, (0, 0));
    expected.assert(&server).await;
}

#[tokio::test]
async fn oversized_message_is_counted_as_refused_only() {
    let server = server();
    let mut expected = Expected::new();
    let mut client = Client::new(&server).await;
    for method in [SAY_HELLO, BIDI_HELLO] {
        let (response, mut sending) = client.begin(method, &[]).await;
        let head = [&[0][..], &(5_u32 << 20).to_be_bytes()].concat();
        sending.send_data(head.into(), false).unwrap();
        assert_eq!(wait_end(response).await.0, Some(Code::ResourceExhausted));
        expected.calls(method, "ResourceExhausted", 1, (0, 0));
    }
    expected.assert(&server).await;
    server.wait_refused("message_bytes", 2).await;
}

/// A client could otherwise create any number of series.
#[tokio::test]
async fn unknown_method_name_is_not_a_label() {
    let server = server();
    let mut expected = Expected::new();
    let mut client = Client::new(&server).await;
    for made_up in [
        "made.Up/Name",
        "muxs.Greeter/MadeUp",
        "a%22%7D%0A/b",
        "muxs.Greeter/SayHello/",
    ] {
        let (response, mut sending) = client.begin(made_up, &[]).await;
        // Sending fails if the call has ended.
        let _ = sending.send_data(greeting().into(), true);
        assert_eq!(wait_end(response).await.0, Some(Code::Unimplemented));
    }
    expected.calls("made up", "Unimplemented", 4, (0, 0));
    let metrics = expected.assert(&server).await;
    for series in metrics.all("").keys() {
        assert!(
            !series.contains("ade") || !series.contains("p/"),
            "{series}"
        );
    }
}

#[tokio::test]
async fn call_duration_falls_into_its_bucket() {
    let server = server();
    let mut greeter = server.greeter().await;
    let mut request = Request::new(HelloRequest {
        replies: 2,
        interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 150_000_000,
        }),
        ..hello("you")
    });
    request.set_timeout(TEST_TIMEOUT);
    let mut replies = greeter.lots_of_replies(request).await.unwrap().into_inner();
    while replies.message().await.unwrap().is_some() {}
    let labels =
        "grpc_method=\"LotsOfReplies\",grpc_service=\"muxs.Greeter\",grpc_type=\"server_stream\"";
    let count = format!("grpc_server_handling_seconds_count{{{labels}}}");
    let metrics = server.wait_series(&count, 1).await;
    let bucket = |le: &str| {
        metrics.value(&format!(
            "grpc_server_handling_seconds_bucket{{{labels},le={le:?}}}"
        ))
    };
    assert_eq!(
        (bucket("0.1"), bucket("60"), bucket("+Inf")),
        (0.0, 1.0, 1.0)
    );
    let sum = metrics.value(&format!("grpc_server_handling_seconds_sum{{{labels}}}"));
    assert!((0.15..60.0).contains(&sum), "{sum}");
}
