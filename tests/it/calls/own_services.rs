//! Services that are not muxs's own, on `muxs::server`.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use http::Response as HttpResponse;
use muxs::{
    pb::{
        self, HelloReply, HelloRequest, Number,
        greeter_client::GreeterClient,
        greeter_server::{Greeter, GreeterServer},
    },
    server::{Background, CallEnded, CommitPoint, Limits, Listener, MethodPolicy, Server},
};
use prometheus::proto::{Metric, MetricFamily, MetricType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{Notify, oneshot},
    task::JoinHandle,
};
use tokio_stream::Stream;
use tonic::{
    Code, Request, Response, Status, Streaming, body::Body, service::LayerExt, transport::Channel,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::{BoxError, ServiceBuilder, layer::layer_fn, service_fn};

use crate::support::{
    connect, hello,
    methods::{SAY_HELLO, SQUARE},
    scrape::Scrape,
    with_timeout,
};

/// SayHello returns the name of its thread. Square passes its commit point, unless the number is zero, and waits
/// for `gate`.
#[derive(Clone, Default)]
struct Stub {
    entered: Arc<Notify>,
    gate: Arc<Notify>,
    /// That of the last Square.
    commit_point: Arc<Mutex<Option<CommitPoint>>>,
    background: Background,
    has_saved: Arc<AtomicBool>,
}

type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

#[tonic::async_trait]
impl Greeter for Stub {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = thread::current().name().unwrap_or_default().to_owned();
        Ok(Response::new(HelloReply { message }))
    }

    async fn square(&self, request: Request<Number>) -> Result<Response<Number>, Status> {
        let point = request.extensions().get::<CommitPoint>().cloned();
        let number = request.into_inner();
        if let Some(point) = point.as_ref().filter(|_| number.value != 0.0) {
            assert_eq!(point.pass(), Ok(()));
        }
        *self.commit_point.lock().unwrap() = point;
        self.entered.notify_one();
        self.gate.notified().await;
        Ok(Response::new(number))
    }

    type LotsOfRepliesStream = Replies;

    async fn lots_of_replies(&self, _: Request<HelloRequest>) -> Result<Response<Replies>, Status> {
        Err(Status::unimplemented("not here"))
    }

    /// Starts a task that saves when it is asked to stop and `gate` opens.
    async fn lots_of_greetings(
        &self,
        _: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<HelloReply>, Status> {
        let stub = self.clone();
        self.background.tasks.spawn(async move {
            stub.background.stop.cancelled().await;
            stub.entered.notify_one();
            stub.gate.notified().await;
            stub.has_saved.store(true, Ordering::Relaxed);
        });
        Ok(Response::new(HelloReply::default()))
    }

    type BidiHelloStream = Replies;

    async fn bidi_hello(
        &self,
        _: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<Replies>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

struct RunningServer {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<io::Result<()>>,
}

impl RunningServer {
    async fn start(server: Server) -> Self {
        Self::with_admin(server, None).await
    }

    async fn with_admin(server: Server, admin: Option<Listener>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let listeners = [Some(listener.into()), admin].into_iter().flatten();
        let served = server.serve(listeners.collect(), async {
            let _ = stopped.await;
        });
        Self {
            address,
            stop,
            served: tokio::spawn(served),
        }
    }

    async fn greeter(&self) -> GreeterClient<Channel> {
        GreeterClient::new(connect(self.address).await)
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        with_timeout(self.served).await.unwrap().unwrap();
    }
}

/// A server that fails to start.
async fn start_error(server: Server) -> io::Error {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = server.serve(vec![listener.into()], std::future::pending());
    with_timeout(served).await.unwrap_err()
}

#[tokio::test]
async fn interceptor_rejects_and_passes_calls() {
    let interceptor = |request: Request<()>| match request.metadata().get("x-key") {
        Some(_) => Ok(request),
        None => Err(Status::permission_denied("no key")),
    };
    let service = GreeterServer::with_interceptor(Stub::default(), interceptor);
    let server = RunningServer::start(Server::builder().service(service)).await;
    let mut greeter = server.greeter().await;
    let rejected = greeter.say_hello(hello("you")).await.unwrap_err();
    assert_eq!(rejected.code(), Code::PermissionDenied);
    let mut request = Request::new(hello("you"));
    request.metadata_mut().insert("x-key", "1".parse().unwrap());
    assert!(greeter.say_hello(request).await.is_ok());
    drop(greeter);
    server.stop().await;
}

#[tokio::test]
async fn call_waits_for_a_layer_to_be_ready() {
    let stub = Stub::default();
    let layers = ServiceBuilder::new().concurrency_limit(1).into_inner();
    let service = layers.named_layer(GreeterServer::new(stub.clone()));
    let server = RunningServer::start(Server::builder().service(service)).await;
    let mut greeter = server.greeter().await;
    let mut first = greeter.clone();
    let first = tokio::spawn(async move { first.square(Number { value: 2.0 }).await });
    stub.entered.notified().await;
    let mut second = greeter.clone();
    let second = tokio::spawn(async move { second.say_hello(hello("you")).await });
    // The health check follows on the same connection, so the second call has begun when it is answered.
    tokio::task::yield_now().await;
    let mut health = HealthClient::new(connect(server.address).await);
    health.check(HealthCheckRequest::default()).await.unwrap();
    assert!(!second.is_finished());
    stub.gate.notify_one();
    assert_eq!(
        with_timeout(first)
            .await
            .unwrap()
            .unwrap()
            .into_inner()
            .value,
        2.0
    );
    assert!(with_timeout(second).await.unwrap().is_ok());
    assert!(greeter.say_hello(hello("again")).await.is_ok());
    drop((greeter, health));
    server.stop().await;
}

#[tokio::test]
async fn error_of_a_layer_becomes_a_status() {
    let errors: [(fn() -> BoxError, Code); 2] = [
        (|| Status::data_loss("lost").into(), Code::DataLoss),
        (|| "broken".into(), Code::Unknown),
    ];
    for (error, code) in errors {
        let failing = layer_fn(move |_: GreeterServer<Stub>| {
            service_fn(move |_: http::Request<Body>| async move {
                Err::<HttpResponse<Body>, BoxError>(error())
            })
        });
        let service = failing.named_layer(GreeterServer::new(Stub::default()));
        let server = RunningServer::start(Server::builder().service(service)).await;
        let mut greeter = server.greeter().await;
        let failed = greeter.say_hello(hello("you")).await.unwrap_err();
        assert_eq!(failed.code(), code);
        drop(greeter);
        server.stop().await;
    }
}

#[test]
fn handlers_run_on_the_chosen_threads() {
    let shared = tokio::runtime::Builder::new_multi_thread()
        .thread_name("shared")
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let handle = shared.handle().clone();
    shared.block_on(async {
        for (server, thread) in [
            (Server::builder(), "muxs-worker"),
            (Server::builder().runtime(handle), "shared"),
        ] {
            let service = GreeterServer::new(Stub::default());
            let server = RunningServer::start(server.service(service)).await;
            let mut greeter = server.greeter().await;
            let reply = greeter.say_hello(hello("you")).await.unwrap();
            assert_eq!(reply.into_inner().message, thread);
            drop(greeter);
            server.stop().await;
        }
    });
}

#[tokio::test]
async fn drain_waits_for_background_tasks_to_save() {
    let stub = Stub::default();
    let server = Server::builder()
        .service(GreeterServer::new(stub.clone()))
        .background(stub.background.clone());
    let server = RunningServer::start(server).await;
    let mut greeter = server.greeter().await;
    let requests = tokio_stream::iter([hello("you")]);
    greeter.lots_of_greetings(requests).await.unwrap();
    drop(greeter);
    server.stop.send(()).unwrap();
    with_timeout(stub.entered.notified()).await;
    // A server that did not wait would end during these turns.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!server.served.is_finished());
    stub.gate.notify_one();
    with_timeout(server.served).await.unwrap().unwrap();
    assert!(stub.has_saved.load(Ordering::Relaxed));
}

#[tokio::test]
async fn policy_of_a_method_bounds_its_messages() {
    let server = Server::builder()
        .service(GreeterServer::new(Stub::default()))
        .method(
            "/muxs.Greeter/",
            MethodPolicy::default().max_message_bytes(8),
        )
        .method(SAY_HELLO, MethodPolicy::default().max_message_bytes(16));
    let server = RunningServer::start(server).await;
    let mut greeter = server.greeter().await;
    let name = |length: usize| hello("x".repeat(length));
    assert!(greeter.say_hello(name(14)).await.is_ok());
    let failed = greeter.say_hello(name(15)).await.unwrap_err();
    assert_eq!(failed.code(), Code::ResourceExhausted);
    // The policy of the service holds for its other methods.
    let failed = greeter.lots_of_replies(name(7)).await.unwrap_err();
    assert_eq!(failed.code(), Code::ResourceExhausted);
    let reached = greeter.lots_of_replies(name(6)).await.unwrap_err();
    assert_eq!(reached.code(), Code::Unimplemented);
    drop(greeter);
    server.stop().await;
}

/// The deadline is the server's: a client that sets one gives up by itself.
#[tokio::test]
async fn deadline_ends_a_call_before_its_commit_point_only() {
    let stub = Stub::default();
    let server = Server::builder()
        .service(GreeterServer::new(stub.clone()))
        .method(SQUARE, MethodPolicy::default().commits())
        .limits(Limits {
            max_deadline: Some(Duration::from_millis(500)),
            ..Limits::default()
        });
    let server = RunningServer::start(server).await;
    let mut greeter = server.greeter().await;
    let mut passing = greeter.clone();
    let passing = tokio::spawn(async move { passing.square(Number { value: 2.0 }).await });
    with_timeout(stub.entered.notified()).await;
    // It begins later, so the time of the other call is over, too, when it ends.
    let ended = with_timeout(greeter.square(Number { value: 0.0 })).await;
    assert_eq!(ended.unwrap_err().code(), Code::DeadlineExceeded);
    let point = stub.commit_point.lock().unwrap().take().unwrap();
    assert_eq!(point.pass(), Err(CallEnded));
    assert!(!passing.is_finished());
    stub.gate.notify_one();
    let passed = with_timeout(passing).await.unwrap().unwrap();
    assert_eq!(passed.into_inner().value, 2.0);
    drop(greeter);
    server.stop().await;
}

#[tokio::test]
async fn call_that_a_shutdown_aborts_does_not_pass_its_commit_point() {
    let stub = Stub::default();
    let server = Server::builder()
        .service(GreeterServer::new(stub.clone()))
        .method(SQUARE, MethodPolicy::default().commits())
        .shutdown_grace(Duration::ZERO);
    let server = RunningServer::start(server).await;
    let mut greeter = server.greeter().await;
    let call = tokio::spawn(async move { greeter.square(Number { value: 0.0 }).await });
    with_timeout(stub.entered.notified()).await;
    server.stop().await;
    assert!(with_timeout(call).await.unwrap().is_err());
    let point = stub.commit_point.lock().unwrap().take().unwrap();
    assert_eq!(point.pass(), Err(CallEnded));
}

#[tokio::test]
async fn start_fails_on_a_policy_without_service() {
    for path in [
        "/muxs.Nothing/SayHello",
        "/muxs.Nothing/",
        "muxs.Greeter/SayHello",
        "",
    ] {
        let server = Server::builder()
            .service(GreeterServer::new(Stub::default()))
            .method(path, MethodPolicy::default());
        let error = start_error(server).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path:?}");
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[tokio::test]
async fn start_fails_on_a_policy_for_a_misspelled_method() {
    let server = Server::builder()
        .service(GreeterServer::new(Stub::default()))
        .descriptors(pb::FILE_DESCRIPTOR_SET)
        .method("/muxs.Greeter/SayHelo", MethodPolicy::default());
    let error = start_error(server).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("SayHelo"), "{error}");
}

#[tokio::test]
async fn start_fails_on_a_service_that_is_there_twice() {
    let health = tonic_health::server::HealthReporter::new();
    let health = tonic_health::server::HealthService::from_health_reporter(health);
    let health = tonic_health::pb::health_server::HealthServer::new(health);
    let greeter = || GreeterServer::new(Stub::default());
    for server in [
        Server::builder().service(greeter()).service(greeter()),
        Server::builder().service(health),
    ] {
        let error = start_error(server).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("twice"), "{error}");
    }
}

#[tokio::test]
async fn panic_of_an_interceptor_ends_only_its_own_call() {
    let interceptor = |request: Request<()>| match request.metadata().get("x-panic") {
        Some(_) => panic!("on purpose"),
        None => Ok(request),
    };
    let stub = Stub::default();
    let service = GreeterServer::with_interceptor(stub.clone(), interceptor);
    // On this thread: a panic of a worker thread fails all tests.
    let server = Server::builder()
        .service(service)
        .runtime(Handle::current());
    let server = RunningServer::start(server).await;
    let mut greeter = server.greeter().await;
    let mut other = greeter.clone();
    let other = tokio::spawn(async move { other.square(Number { value: 2.0 }).await });
    stub.entered.notified().await;
    let mut request = Request::new(hello("you"));
    let metadata = request.metadata_mut();
    metadata.insert("x-panic", "1".parse().unwrap());
    let failed = greeter.say_hello(request).await.unwrap_err();
    assert_eq!(failed.code(), Code::Internal);
    stub.gate.notify_one();
    assert!(with_timeout(other).await.unwrap().is_ok());
    drop(greeter);
    server.stop().await;
}

#[tokio::test]
async fn start_fails_on_malformed_descriptors() {
    let server = Server::builder()
        .service(GreeterServer::new(Stub::default()))
        .descriptors(b"\xff");
    assert_eq!(start_error(server).await.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn health_and_metrics_cover_own_services() {
    let registry = prometheus::Registry::new();
    let own = prometheus::IntCounter::new("own_total", "A counter of the program.").unwrap();
    registry.register(Box::new(own.clone())).unwrap();
    own.inc_by(3);
    let untyped = || {
        let mut family = MetricFamily::default();
        family.set_name("untyped".to_owned());
        family.set_field_type(MetricType::UNTYPED);
        family.set_metric(vec![Metric::default()]);
        vec![family]
    };
    let server = Server::builder()
        .service(GreeterServer::new(Stub::default()))
        // A descriptor may be there twice.
        .descriptors(pb::FILE_DESCRIPTOR_SET)
        .descriptors(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .metrics(move || registry.gather())
        .metrics(untyped)
        .metrics(|| panic!("a collector that fails"));
    let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin_address = admin.local_addr().unwrap();
    let admin = Listener::from(admin).for_admin();
    let server = RunningServer::with_admin(server, Some(admin)).await;

    let mut health = HealthClient::new(connect(server.address).await);
    for service in ["", "muxs.Greeter"] {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
    let mut greeter = server.greeter().await;
    greeter.say_hello(hello("you")).await.unwrap();

    let mut connection = TcpStream::connect(admin_address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    with_timeout(connection.read_to_string(&mut response))
        .await
        .unwrap();
    let (head, _) = response.split_once("\r\n\r\n").unwrap();
    let scrape = Scrape::parse(&response[head.len() + 4..]);
    assert_eq!(scrape.value("own_total"), 3.0);
    let handled = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"SayHello\",\
                   grpc_service=\"muxs.Greeter\",grpc_type=\"unary\"}";
    assert_eq!(scrape.value(handled), 1.0);
    drop((health, greeter));
    server.stop().await;
}
