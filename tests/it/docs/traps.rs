//! The traps of `docs/streaming.md`: each test shows what happens on tonic's own server, and what helps.

use std::{
    future::{pending, ready},
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc as blocking_mpsc,
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use hyper_util::rt::TokioIo;
use muxs::pb::{HelloReply, HelloRequest, greeter_client::GreeterClient};
use tokio::{
    sync::{Notify, mpsc},
    task::{spawn_blocking, yield_now},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};
use tower::service_fn;

use super::stock_server::{Handlers, Replies, StockServer, greet, handler, reply};
use crate::support::{
    TestServer, assert_failure, hello,
    methods::BIDI_HELLO,
    raw_http2::{
        DATA, ENHANCE_YOUR_CALM, INITIAL_WINDOW_SIZE, RawConnection, call, endless_request, frame,
        message,
    },
    with_timeout,
};

/// The deadline of calls that miss it.
const DEADLINE: Duration = Duration::from_millis(200);

/// Makes calls whose answers show that a server had the time to do what it was going to do.
async fn make_round_trips(greeter: &mut GreeterClient<Channel>) {
    for _ in 0..200 {
        with_timeout(greeter.say_hello(hello("you"))).await.unwrap();
    }
}

/// Waits until only the test and its handler hold `alive`: no call holds it any more.
async fn wait_released(alive: &Arc<()>) {
    let released = async {
        while Arc::strong_count(alive) > 2 {
            yield_now().await;
        }
    };
    with_timeout(released).await;
}

/// Begins a call of LotsOfReplies, and waits for its first reply.
async fn first_reply(greeter: &mut GreeterClient<Channel>) -> Streaming<HelloReply> {
    let replies = greeter.lots_of_replies(hello("you")).await.unwrap();
    let mut replies = replies.into_inner();
    assert!(with_timeout(replies.message()).await.unwrap().is_some());
    replies
}

/// Reads a request before it responds.
async fn read_then_respond(
    request: Request<Streaming<HelloRequest>>,
) -> Result<Response<Replies>, Status> {
    let mut requests = request.into_inner();
    let first = requests.message().await?;
    let requests = tokio_stream::iter(first.map(Ok)).chain(requests);
    let replies = requests.map(|request| request.map(greet));
    Ok(Response::new(Box::pin(replies)))
}

#[tokio::test]
async fn call_returns_when_its_response_begins() {
    let server = StockServer::start(Handlers {
        bidi: handler(read_then_respond),
        ..Handlers::default()
    })
    .await;
    let mut greeter = server.greeter().await;
    let (requests, outgoing) = mpsc::channel(1);
    let mut caller = greeter.clone();
    let call = tokio::spawn(async move { caller.bidi_hello(ReceiverStream::new(outgoing)).await });
    make_round_trips(&mut greeter).await;
    assert!(!call.is_finished());
    requests.send(hello("A")).await.unwrap();
    let mut replies = with_timeout(call).await.unwrap().unwrap().into_inner();
    let first = with_timeout(replies.message()).await.unwrap();
    assert_eq!(first, Some(reply("Hello, A!")));

    // The handler of muxs returns its stream at once.
    let server = TestServer::start();
    let outgoing = tokio_stream::pending();
    with_timeout(server.greeter().await.bidi_hello(outgoing))
        .await
        .unwrap();
}

#[tokio::test]
async fn request_stream_ends_when_its_sender_is_dropped() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    let (requests, outgoing) = mpsc::channel(1);
    let mut caller = greeter.clone();
    let outgoing = ReceiverStream::new(outgoing);
    let call = tokio::spawn(async move { caller.lots_of_greetings(outgoing).await });
    requests.send(hello("A")).await.unwrap();
    make_round_trips(&mut greeter).await;
    assert!(!call.is_finished());
    drop(requests);
    let answer = with_timeout(call).await.unwrap().unwrap().into_inner();
    assert_eq!(answer, reply("Hello, A!"));
}

/// Sends news from a task of its own.
fn spawn_news(alive: Arc<()>, news: Arc<Notify>) -> Replies {
    let (replies, outgoing) = mpsc::channel(128);
    tokio::spawn(async move {
        let _alive = alive;
        loop {
            news.notified().await;
            if replies.send(Ok(reply("news"))).await.is_err() {
                break;
            }
        }
    });
    ReceiverStream::new(outgoing).boxed()
}

/// Sends news as the client reads them.
fn stream_news(alive: Arc<()>, news: Arc<Notify>) -> Replies {
    let news = async_stream::stream! {
        let _alive = alive;
        loop {
            news.notified().await;
            yield Ok(reply("news"));
        }
    };
    news.boxed()
}

/// Begins and cancels a call of such a handler. Returns whether the handler still runs.
async fn outlives_its_call(news_handler: fn(Arc<()>, Arc<Notify>) -> Replies) -> bool {
    let (alive, news) = (Arc::new(()), Arc::new(Notify::new()));
    let (held, awaited) = (alive.clone(), news.clone());
    let server = StockServer::start(Handlers {
        server_stream: handler(move |_| {
            ready(Ok(Response::new(news_handler(
                held.clone(),
                awaited.clone(),
            ))))
        }),
        ..Handlers::default()
    })
    .await;
    let mut greeter = server.greeter().await;
    news.notify_one();
    let replies = first_reply(&mut greeter).await;
    drop(replies);
    make_round_trips(&mut greeter).await;
    let outlives = Arc::strong_count(&alive) > 2;
    news.notify_one();
    wait_released(&alive).await;
    outlives
}

#[tokio::test]
async fn spawned_task_outlives_its_call_and_a_stream_does_not() {
    assert!(outlives_its_call(spawn_news).await);
    assert!(!outlives_its_call(stream_news).await);
}

/// Returns how many replies of 64 KiB are made for a client that reads none.
async fn replies_made_ahead(in_a_task: bool) -> usize {
    let made = Arc::new(AtomicUsize::new(0));
    let counter = made.clone();
    let make = move || {
        let counter = counter.clone();
        tokio_stream::iter(0..1_000_000).map(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(reply("x".repeat(64 * 1024)))
        })
    };
    let server_stream = handler(move |_| {
        let mut source = make();
        let replies = match in_a_task {
            false => source.boxed(),
            true => {
                let (replies, outgoing) = mpsc::channel(128);
                tokio::spawn(async move {
                    while let Some(reply) = source.next().await {
                        if replies.send(reply).await.is_err() {
                            break;
                        }
                    }
                });
                ReceiverStream::new(outgoing).boxed()
            }
        };
        ready(Ok(Response::new(replies)))
    });
    let server = StockServer::start(Handlers {
        server_stream,
        ..Handlers::default()
    })
    .await;
    let mut greeter = server.greeter().await;
    let _unread = greeter.lots_of_replies(hello("you")).await.unwrap();
    loop {
        let before = made.load(Ordering::Relaxed);
        make_round_trips(&mut greeter).await;
        if made.load(Ordering::Relaxed) == before {
            return before;
        }
    }
}

#[tokio::test]
async fn channel_buffers_beside_the_windows() {
    let pulled = replies_made_ahead(false).await;
    let pushed = replies_made_ahead(true).await;
    assert!(pulled < 64, "{pulled}");
    assert!(pushed >= pulled + 128, "{pushed} after {pulled}");
}

/// Reads replies for as long as they are good.
async fn count_while_ok(mut replies: Streaming<HelloReply>) -> usize {
    let mut count = 0;
    while let Some(Ok(_)) = replies.next().await {
        count += 1;
    }
    count
}

/// Reads all replies.
async fn count_all(mut replies: Streaming<HelloReply>) -> Result<usize, Status> {
    let mut count = 0;
    while replies.message().await?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[tokio::test]
async fn loop_over_good_replies_hides_the_failure() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    let names = || tokio_stream::iter([hello("A"), hello("x".repeat(4097)), hello("B")]);
    let replies = greeter.bidi_hello(names()).await.unwrap().into_inner();
    assert_eq!(count_while_ok(replies).await, 1);
    let replies = greeter.bidi_hello(names()).await.unwrap().into_inner();
    let failed = count_all(replies).await;
    assert_failure(failed, Code::InvalidArgument, "NAME_TOO_LONG");
}

#[tokio::test]
async fn failure_is_the_last_item_of_a_stream() {
    let server = StockServer::start(Handlers {
        server_stream: handler(|_| {
            let skipped = Err(Status::not_found("B is skipped"));
            let replies = [Ok(reply("A")), skipped, Ok(reply("C"))];
            ready(Ok(Response::new(tokio_stream::iter(replies).boxed())))
        }),
        ..Handlers::default()
    })
    .await;
    let mut replies = first_reply(&mut server.greeter().await).await;
    assert_eq!(replies.message().await.unwrap_err().code(), Code::NotFound);
    assert_eq!(replies.message().await.unwrap(), None);
}

/// Takes the end of the requests for their completion.
async fn order_at_the_end(
    request: Request<Streaming<HelloRequest>>,
    events: mpsc::UnboundedSender<String>,
) -> Result<Response<HelloReply>, Status> {
    let mut requests = request.into_inner();
    while let Some(request) = requests.message().await? {
        let _ = events.send(request.name);
    }
    let _ = events.send("ordered".to_owned());
    Ok(Response::new(reply("ordered")))
}

#[tokio::test]
async fn cancelled_requests_end_like_completed_ones() {
    let (events, mut received) = mpsc::unbounded_channel();
    let server = StockServer::start(Handlers {
        client_stream: handler(move |request| order_at_the_end(request, events.clone())),
        ..Handlers::default()
    })
    .await;
    let mut greeter = server.greeter().await;
    let (requests, outgoing) = mpsc::channel(1);
    let outgoing = ReceiverStream::new(outgoing);
    let call = tokio::spawn(async move { greeter.lots_of_greetings(outgoing).await });
    requests.send(hello("A")).await.unwrap();
    assert_eq!(with_timeout(received.recv()).await.unwrap(), "A");
    call.abort();
    assert_eq!(with_timeout(received.recv()).await.unwrap(), "ordered");
}

/// A handler that reports each name, and whose call holds `alive`.
fn report_names(alive: Arc<()>, names: mpsc::UnboundedSender<String>) -> Handlers {
    Handlers {
        bidi: handler(move |request: Request<Streaming<HelloRequest>>| {
            let (alive, names) = (alive.clone(), names.clone());
            let replies = request.into_inner().map(move |request| {
                let _alive = &alive;
                let request = request?;
                let _ = names.send(request.name.clone());
                Ok(greet(request))
            });
            ready(Ok(Response::new(replies.boxed())))
        }),
        ..Handlers::default()
    }
}

#[tokio::test]
async fn call_is_cancelled_when_both_halves_are_dropped() {
    let alive = Arc::new(());
    let (names, mut received) = mpsc::unbounded_channel();
    let server = StockServer::start(report_names(alive.clone(), names)).await;
    let mut greeter = server.greeter().await;
    let (requests, outgoing) = mpsc::channel(1);
    let outgoing = ReceiverStream::new(outgoing);
    let replies = greeter.bidi_hello(outgoing).await.unwrap();
    drop(replies);
    make_round_trips(&mut greeter).await;
    requests.send(hello("A")).await.unwrap();
    assert_eq!(with_timeout(received.recv()).await.unwrap(), "A");
    drop(requests);
    wait_released(&alive).await;

    // A cancellation handle ends both halves at once.
    let (requests, outgoing) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(outgoing));
    let cancellation = request.cancellation_handle();
    let _replies = greeter.bidi_hello(request).await.unwrap();
    requests.send(hello("B")).await.unwrap();
    assert_eq!(with_timeout(received.recv()).await.unwrap(), "B");
    cancellation.cancel();
    wait_released(&alive).await;
}

#[tokio::test]
async fn deadline_of_a_stream_does_not_end_it() {
    let server = StockServer::start(Handlers {
        server_stream: handler(|_| {
            let replies = async_stream::stream! {
                yield Ok(reply("first"));
                sleep(2 * DEADLINE).await;
                yield Ok(reply("late"));
            };
            ready(Ok(Response::new(replies.boxed())))
        }),
        ..Handlers::default()
    })
    .await;
    let request = |interval| {
        let mut request = Request::new(HelloRequest {
            interval,
            ..hello("you")
        });
        request.set_timeout(DEADLINE);
        request
    };
    let begin = Instant::now();
    let late = server.greeter().await.lots_of_replies(request(None)).await;
    let count = count_all(late.unwrap().into_inner()).await.unwrap();
    assert_eq!(count, 2);
    assert!(begin.elapsed() > DEADLINE);

    // muxs ends the call where its response is sent.
    let server = TestServer::start();
    let hour = prost_types::Duration {
        seconds: 3600,
        nanos: 0,
    };
    let late = server
        .greeter()
        .await
        .lots_of_replies(request(Some(hour)))
        .await;
    let failed = with_timeout(count_all(late.unwrap().into_inner())).await;
    assert_failure(failed, Code::DeadlineExceeded, "DEADLINE");
}

#[tokio::test]
async fn missed_deadline_of_a_unary_call_is_reported_as_cancelled() {
    let server = StockServer::start(Handlers {
        unary: handler(|_| pending()),
        ..Handlers::default()
    })
    .await;
    let mut request = Request::new(hello("you"));
    request.set_timeout(DEADLINE);
    let failed = with_timeout(server.greeter().await.say_hello(request)).await;
    assert_eq!(failed.unwrap_err().code(), Code::Cancelled);
}

/// The endpoint of `greeter()` has a timeout.
#[tokio::test]
async fn timeout_of_an_endpoint_is_not_sent() {
    let server = StockServer::start(Handlers {
        unary: handler(|request| {
            let metadata = request.metadata();
            let header = metadata.get("grpc-timeout").map(|it| it.to_str().unwrap());
            ready(Ok(Response::new(reply(header.unwrap_or("none")))))
        }),
        ..Handlers::default()
    })
    .await;
    let mut greeter = server.greeter().await;
    let answer = greeter.say_hello(hello("you")).await.unwrap();
    assert_eq!(answer.into_inner(), reply("none"));
    let mut request = Request::new(hello("you"));
    request.set_timeout(Duration::from_secs(10));
    let answer = greeter.say_hello(request).await.unwrap();
    assert_eq!(answer.into_inner(), reply("10000000u"));
}

#[tokio::test]
async fn message_above_4_mib_is_refused_by_its_reader() {
    const MIB: usize = 1024 * 1024;
    let server = StockServer::start(Handlers {
        unary: handler(|request| ready(Ok(Response::new(greet(request.into_inner()))))),
        server_stream: handler(|_| {
            let large = tokio_stream::once(Ok(reply("x".repeat(5 * MIB))));
            ready(Ok(Response::new(large.boxed())))
        }),
        ..Handlers::default()
    })
    .await;
    let mut greeter = server.greeter().await;
    let replies = greeter.lots_of_replies(hello("you")).await.unwrap();
    let failed = count_all(replies.into_inner()).await.unwrap_err();
    assert_eq!(failed.code(), Code::OutOfRange);
    let failed = greeter.say_hello(hello("x".repeat(5 * MIB))).await;
    assert_eq!(failed.unwrap_err().code(), Code::OutOfRange);
    let mut greeter = greeter.max_decoding_message_size(8 * MIB);
    let replies = greeter.lots_of_replies(hello("you")).await.unwrap();
    assert_eq!(count_all(replies.into_inner()).await.unwrap(), 1);

    let server = TestServer::start();
    let large = hello("x".repeat(5 * MIB));
    let failed = with_timeout(server.greeter().await.say_hello(large)).await;
    assert_failure(failed, Code::ResourceExhausted, "TOO_LARGE");
}

#[tokio::test]
async fn blocking_work_outlives_its_call() {
    let alive = Arc::new(());
    let held = alive.clone();
    let (begun, mut begins) = mpsc::unbounded_channel();
    let server = StockServer::start(Handlers {
        unary: handler(move |_| {
            let (alive, begun) = (held.clone(), begun.clone());
            async move {
                let _alive = alive;
                let (release, released) = blocking_mpsc::channel::<()>();
                let (report, written) = tokio::sync::oneshot::channel();
                let _ = begun.send((release, written));
                let write = spawn_blocking(move || {
                    let _ = released.recv();
                    report.send("written")
                });
                let _ = write.await;
                Ok(Response::new(reply("written")))
            }
        }),
        ..Handlers::default()
    })
    .await;
    let mut greeter = server.greeter().await;
    let call = tokio::spawn(async move { greeter.say_hello(hello("you")).await });
    let (release, written) = with_timeout(begins.recv()).await.unwrap();
    call.abort();
    wait_released(&alive).await;
    drop(release);
    assert_eq!(with_timeout(written).await.unwrap(), "written");
}

#[tokio::test]
async fn unread_streams_block_their_connection() {
    let server = TestServer::start();
    let mut greeter = server.greeter().await;
    let mut other = server.greeter().await;
    let mut unread = Vec::new();
    for _ in 0..3 {
        unread.push(greeter.lots_of_replies(endless_request()).await.unwrap());
    }
    let mut blocked = None;
    for _ in 0..100 {
        let mut caller = greeter.clone();
        let call = tokio::spawn(async move { caller.say_hello(hello("you")).await });
        make_round_trips(&mut other).await;
        if !call.is_finished() {
            blocked = Some(call);
            break;
        }
    }
    let blocked = blocked.expect("the window of the connection is never full");
    drop(unread);
    assert!(with_timeout(blocked).await.unwrap().is_ok());
}

/// The same messages to muxs: `client_may_fill_a_stream_window_before_it_reads`.
#[tokio::test]
async fn unread_small_messages_close_their_connection() {
    let server = StockServer::start(report_names(Arc::new(()), mpsc::unbounded_channel().0)).await;
    let mut raw = RawConnection::open_with(server.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    raw.send(&call(1, BIDI_HELLO)).await.unwrap();
    raw.wait_until(|received| received.ok_responses == 1).await;
    let greetings = frame(DATA, 0, 1, &message(b"")).repeat(5000);
    // The server may close the connection before it has read all of them.
    let _ = raw.send(&greetings).await;
    let received = raw.wait_closed().await;
    received.assert_goaway(ENHANCE_YOUR_CALM, "too_many_data_frames");
}

#[tokio::test]
async fn concurrency_limit_does_not_count_streams() {
    let handlers = Handlers {
        server_stream: handler(|_| {
            let replies = tokio_stream::once(Ok(reply("first"))).chain(tokio_stream::pending());
            ready(Ok(Response::new(replies.boxed())))
        }),
        ..Handlers::default()
    };
    let builder = Server::builder().concurrency_limit_per_connection(1);
    let server = StockServer::start_with(builder, handlers).await;
    let mut greeter = server.greeter().await;
    let _first = first_reply(&mut greeter).await;
    let _second = first_reply(&mut greeter).await;
}

/// Reads a file of the server.
fn read_motd() -> Result<String, Status> {
    Ok(std::fs::read_to_string("/nowhere/motd")?)
}

#[test]
fn stray_question_mark_sends_the_text_of_the_operating_system() {
    let status = read_motd().unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "No such file or directory (os error 2)");
    assert!(status.details().is_empty());
}

#[tokio::test]
async fn shutdown_waits_for_the_last_stream() {
    let handlers = Handlers {
        server_stream: handler(|_| {
            let replies = tokio_stream::once(Ok(reply("first"))).chain(tokio_stream::pending());
            ready(Ok(Response::new(replies.boxed())))
        }),
        ..Handlers::default()
    };
    let server = StockServer::start(handlers).await;
    let replies = first_reply(&mut server.greeter().await).await;
    server.stop.send(()).unwrap();
    for _ in 0..1000 {
        yield_now().await;
    }
    assert!(!server.served.is_finished());
    drop(replies);
    with_timeout(server.served).await.unwrap().unwrap();
}

/// Calls a server that never answers, for an hour at most.
async fn call_silent_server(endpoint: Endpoint) -> Option<Status> {
    let (near, _far) = tokio::io::duplex(1 << 16);
    let mut near = Some(TokioIo::new(near));
    let connector = service_fn(move |_| {
        ready(
            near.take()
                .ok_or_else(|| io::Error::other("it connects once")),
        )
    });
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let mut greeter = GreeterClient::new(channel);
    let call = greeter.say_hello(hello("you"));
    let answer = timeout(Duration::from_secs(3600), call).await.ok()?;
    Some(answer.unwrap_err())
}

#[tokio::test(start_paused = true)]
async fn client_without_keepalive_waits_for_a_dead_server() {
    let endpoint = Endpoint::from_static("http://silent");
    assert!(call_silent_server(endpoint.clone()).await.is_none());
    let keepalive = Duration::from_secs(15);
    let endpoint = endpoint
        .http2_keep_alive_interval(keepalive)
        .keep_alive_timeout(keepalive);
    let failed = call_silent_server(endpoint).await.unwrap();
    assert_eq!(failed.code(), Code::Unavailable);
}
