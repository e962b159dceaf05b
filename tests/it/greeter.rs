use std::time::Duration;

use muxs::pb::{
    HelloReply, HelloRequest, Number, greeter_client::GreeterClient,
    helloworld::greeter_client::GreeterClient as HelloworldClient,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::support::{TEST_TIMEOUT, TestServer, assert_failure, hello, metadata, with_timeout};

fn hellos<const N: usize>(
    names: [&'static str; N],
) -> impl tokio_stream::Stream<Item = HelloRequest> + Send + 'static {
    tokio_stream::iter(names).map(hello)
}

async fn messages(mut replies: Streaming<HelloReply>) -> Result<Vec<String>, Status> {
    let mut messages = Vec::new();
    while let Some(reply) = replies.message().await? {
        messages.push(reply.message);
    }
    Ok(messages)
}

/// Begins a call of BidiHello, and returns the sender of requests and the replies.
async fn conversation(
    greeter: &mut GreeterClient<Channel>,
) -> (mpsc::Sender<HelloRequest>, Streaming<HelloReply>) {
    let (requests, outgoing) = mpsc::channel(2);
    let outgoing = ReceiverStream::new(outgoing);
    (
        requests,
        greeter.bidi_hello(outgoing).await.unwrap().into_inner(),
    )
}

#[tokio::test]
async fn say_hello_greets_by_name() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    for (name, greeting) in [
        ("you", "Hello, you!"),
        ("", "Hello, !"),
        ("Zoë 🦀", "Hello, Zoë 🦀!"),
    ] {
        let reply = greeter.say_hello(hello(name)).await.unwrap().into_inner();
        assert_eq!(reply.message, greeting);
    }
}

#[tokio::test]
async fn square_answers_the_square_root() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    for (value, root) in [
        (231.0, 15.198684),
        (0.0, 0.0),
        (1e-45, 3.743_392e-23),
        (f32::MAX, 1.844_674_3e19),
        (f32::INFINITY, f32::INFINITY),
    ] {
        let answer = greeter.square(Number { value }).await.unwrap().into_inner();
        assert_eq!(answer.value.to_bits(), f32::to_bits(root), "of {value}");
    }
    let nan = Number { value: f32::NAN };
    assert!(
        greeter
            .square(nan)
            .await
            .unwrap()
            .into_inner()
            .value
            .is_nan()
    );
}

#[tokio::test]
async fn square_of_a_negative_number_is_refused() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    for value in [-1.0, -1e-45, f32::NEG_INFINITY] {
        let answer = greeter.square(Number { value }).await;
        assert_failure(answer, Code::InvalidArgument, "BAD_REQUEST");
    }
}

#[tokio::test]
async fn quick_start_service_is_served() {
    let server = TestServer::start();
    let mut greeter = HelloworldClient::new(server.channel().await);
    let reply = greeter.say_hello(hello("you")).await.unwrap().into_inner();
    assert_eq!(reply.message, "Hello, you!");
    let root = greeter.square(Number { value: 231.0 }).await.unwrap();
    assert_eq!(root.into_inner().value, 15.198684);
    let long = greeter.say_hello(hello("x".repeat(4097))).await;
    assert_failure(long, Code::InvalidArgument, "NAME_TOO_LONG");
}

#[tokio::test]
async fn lots_of_replies_greets_in_each_language_english_first() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    let replies = greeter.lots_of_replies(hello("you")).await.unwrap();
    let mut greetings = messages(replies.into_inner()).await.unwrap();
    assert_eq!(greetings[0], "Hello, you!");
    assert!(greetings.iter().all(|greeting| greeting.contains("you")));
    assert!(greetings.len() >= 12);
    let count = greetings.len();
    greetings.sort();
    greetings.dedup();
    assert_eq!(greetings.len(), count, "a language came twice");
}

#[tokio::test]
async fn lots_of_replies_cycles_to_the_requested_count() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    let one_round = greeter.lots_of_replies(hello("you")).await.unwrap();
    let one_round = messages(one_round.into_inner()).await.unwrap();
    for replies in [1, 2, 100] {
        let request = HelloRequest {
            replies,
            ..hello("you")
        };
        let greetings = greeter.lots_of_replies(request).await.unwrap();
        let greetings = messages(greetings.into_inner()).await.unwrap();
        let expected: Vec<_> = one_round
            .iter()
            .cycle()
            .take(replies as usize)
            .cloned()
            .collect();
        assert_eq!(greetings, expected);
    }
}

#[tokio::test]
async fn invalid_interval_is_refused() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    for (seconds, nanos) in [
        (-1, 0),
        (0, -1),
        (1, -1),
        (0, 1_000_000_000),
        (i64::MIN, i32::MIN),
    ] {
        let request = HelloRequest {
            interval: Some(prost_types::Duration { seconds, nanos }),
            ..hello("you")
        };
        let replies = greeter.lots_of_replies(request).await;
        assert_failure(replies, Code::InvalidArgument, "BAD_REQUEST");
    }
}

#[tokio::test]
async fn longest_interval_does_not_delay_the_first_reply() {
    let server = TestServer::start();
    let request = HelloRequest {
        interval: Some(prost_types::Duration {
            seconds: i64::MAX,
            nanos: 999_999_999,
        }),
        ..hello("you")
    };
    let replies = server
        .greeter()
        .await
        .lots_of_replies(request)
        .await
        .unwrap();
    let first = replies.into_inner().message().await.unwrap();
    assert_eq!(first.unwrap().message, "Hello, you!");
}

/// A drain waits for every call and its tasks, so it ends at once only if all cancelled calls have ended.
#[tokio::test]
async fn cancelled_call_stops_at_once() {
    let mut server = TestServer::start_with(|config| config.shutdown_grace = TEST_TIMEOUT * 2);
    let mut greeter = server.greeter().await;
    let request = HelloRequest {
        interval: Some(prost_types::Duration {
            seconds: 3600,
            nanos: 0,
        }),
        ..hello("you")
    };
    let mut replies = greeter.lots_of_replies(request).await.unwrap().into_inner();
    assert!(replies.message().await.unwrap().is_some());
    let (requests, mut greetings) = conversation(&mut greeter).await;
    requests.send(hello("A")).await.unwrap();
    assert!(with_timeout(greetings.message()).await.unwrap().is_some());
    drop((replies, requests, greetings));
    server.stop();
    server.wait_stopped().await;
}

#[tokio::test]
async fn lots_of_greetings_answers_once() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    let mut answer = async |names: Vec<&'static str>| {
        let requests = tokio_stream::iter(names).map(hello);
        greeter
            .lots_of_greetings(requests)
            .await
            .unwrap()
            .into_inner()
            .message
    };
    assert_eq!(answer(vec![]).await, "Hello, nobody!");
    assert_eq!(answer(vec![""]).await, "Hello, !");
    assert_eq!(answer(vec!["A"]).await, "Hello, A!");
    assert_eq!(answer(vec!["A", "B"]).await, "Hello, A and B!");
    assert_eq!(answer(vec!["A", "B", "C"]).await, "Hello, A, B and C!");
    assert_eq!(
        answer(vec!["A", "B", "C", "D"]).await,
        "Hello, A, B, C and 1 other!"
    );
    assert_eq!(
        answer(vec!["A", "B", "C", "D", "E"]).await,
        "Hello, A, B, C and 2 others!"
    );
}

#[tokio::test]
async fn lots_of_greetings_validates_every_name() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    for place in 0..5 {
        let mut names = vec!["A".to_owned(); 5];
        names[place] = "x".repeat(4097);
        let requests = tokio_stream::iter(names).map(hello);
        let answer = greeter.lots_of_greetings(requests).await;
        assert_failure(answer, Code::InvalidArgument, "NAME_TOO_LONG");
    }
}

#[tokio::test]
async fn bidi_hello_answers_in_order() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    let replies = greeter
        .bidi_hello(hellos(["A", "", "B", "B"]))
        .await
        .unwrap();
    let greetings = messages(replies.into_inner()).await.unwrap();
    assert_eq!(
        greetings,
        ["Hello, A!", "Hello, !", "Hello, B!", "Hello, B!"]
    );
}

/// The call begins before its first request, and each request is sent after the reply to the previous one.
#[tokio::test]
async fn bidi_hello_answers_each_request_immediately() {
    let server = TestServer::start();
    let (requests, mut replies) = conversation(&mut server.greeter().await).await;
    for name in ["A", "B", "C"] {
        requests.send(hello(name)).await.unwrap();
        let reply = with_timeout(replies.message()).await.unwrap().unwrap();
        assert_eq!(reply.message, format!("Hello, {name}!"));
    }
    drop(requests);
    assert_eq!(replies.message().await.unwrap(), None);
}

/// The client's window is the smallest possible, so the names wait unread at the server, each in its own
/// frame. Without a large connection window, h2 would take these frames for an attack.
#[tokio::test]
async fn client_may_send_everything_before_reading() {
    const COUNT: usize = 20_000;
    let server = TestServer::start();
    let channel = Endpoint::from_shared(format!("http://{}", server.address))
        .unwrap()
        .initial_stream_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let (requests, replies) = conversation(&mut GreeterClient::new(channel)).await;
    for number in 0..COUNT {
        with_timeout(requests.send(hello(number.to_string())))
            .await
            .unwrap();
    }
    drop(requests);
    let greetings = with_timeout(messages(replies)).await.unwrap();
    assert_eq!(greetings.len(), COUNT);
    for (number, greeting) in greetings.iter().enumerate() {
        assert_eq!(*greeting, format!("Hello, {number}!"));
    }
}

#[tokio::test]
async fn server_can_end_bidi_hello_early() {
    let server = TestServer::start();
    let (requests, mut replies) = conversation(&mut server.greeter().await).await;
    requests.send(hello("A")).await.unwrap();
    requests.send(hello("x".repeat(4097))).await.unwrap();
    // The client has not half-closed, and need not.
    assert_eq!(
        with_timeout(replies.message())
            .await
            .unwrap()
            .unwrap()
            .message,
        "Hello, A!"
    );
    assert_failure(
        replies.message().await,
        Code::InvalidArgument,
        "NAME_TOO_LONG",
    );
    requests.closed().await;
}

#[tokio::test]
async fn name_limit_is_4096_bytes_in_every_shape() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    for shape in [say_hello, lots_of_replies, lots_of_greetings, bidi_hello] {
        let longest = "é".repeat(2048);
        assert!(
            shape(&mut greeter, longest.clone())
                .await
                .unwrap()
                .contains(&longest)
        );
        let too_long = shape(&mut greeter, longest + "x").await;
        let status = assert_failure(too_long, Code::InvalidArgument, "NAME_TOO_LONG");
        assert_eq!(metadata(&status, "limit"), "4096");
        assert_eq!(metadata(&status, "size"), "4097");
    }

    type Greeting<'a> = futures::future::BoxFuture<'a, Result<String, Status>>;
    type Client = GreeterClient<Channel>;
    fn say_hello(greeter: &mut Client, name: String) -> Greeting<'_> {
        Box::pin(async { Ok(greeter.say_hello(hello(name)).await?.into_inner().message) })
    }
    fn lots_of_replies(greeter: &mut Client, name: String) -> Greeting<'_> {
        Box::pin(async {
            let replies = greeter.lots_of_replies(hello(name)).await?;
            messages(replies.into_inner()).await.map(|all| all.concat())
        })
    }
    fn lots_of_greetings(greeter: &mut Client, name: String) -> Greeting<'_> {
        Box::pin(async {
            let requests = tokio_stream::iter([hello(name)]);
            Ok(greeter
                .lots_of_greetings(requests)
                .await?
                .into_inner()
                .message)
        })
    }
    fn bidi_hello(greeter: &mut Client, name: String) -> Greeting<'_> {
        Box::pin(async {
            let replies = greeter
                .bidi_hello(tokio_stream::iter([hello(name)]))
                .await?;
            messages(replies.into_inner()).await.map(|all| all.concat())
        })
    }
}

#[tokio::test]
async fn disconnecting_client_does_not_disturb_others() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    for _ in 0..100 {
        let (requests, replies) = conversation(&mut greeter).await;
        requests.send(hello("A")).await.unwrap();
        drop((requests, replies));
    }
    let reply = tokio::time::timeout(Duration::from_secs(10), greeter.say_hello(hello("you")));
    assert_eq!(
        reply.await.unwrap().unwrap().into_inner().message,
        "Hello, you!"
    );
}
