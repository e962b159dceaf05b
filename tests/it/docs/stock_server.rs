//! tonic's own server, with the greeter's handlers as a test sets them.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use futures::{FutureExt, future::BoxFuture, stream::BoxStream};
use muxs::pb::{HelloReply, HelloRequest, greeter_client::GreeterClient};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::Grpc,
    transport::{Channel, Error, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::support::{
    connect,
    methods::{LOTS_OF_GREETINGS, LOTS_OF_REPLIES, SAY_HELLO},
};

pub(super) type Replies = BoxStream<'static, Result<HelloReply, Status>>;

type Handler<T, U> =
    Arc<dyn Fn(Request<T>) -> BoxFuture<'static, Result<Response<U>, Status>> + Send + Sync>;

/// One handler for each shape. SayHello greets unless it is set, the others fail.
#[derive(Clone)]
pub(super) struct Handlers {
    pub(super) unary: Handler<HelloRequest, HelloReply>,
    pub(super) server_stream: Handler<HelloRequest, Replies>,
    pub(super) client_stream: Handler<Streaming<HelloRequest>, HelloReply>,
    pub(super) bidi: Handler<Streaming<HelloRequest>, Replies>,
}

pub(super) fn handler<T, U, F>(
    handle: impl Fn(Request<T>) -> F + Send + Sync + 'static,
) -> Handler<T, U>
where
    F: Future<Output = Result<Response<U>, Status>> + Send + 'static,
{
    Arc::new(move |request| handle(request).boxed())
}

impl Default for Handlers {
    fn default() -> Self {
        let unset = || Status::unimplemented("not set");
        Self {
            unary: handler(|request: Request<HelloRequest>| async {
                Ok(Response::new(greet(request.into_inner())))
            }),
            server_stream: handler(move |_| async move { Err(unset()) }),
            client_stream: handler(move |_| async move { Err(unset()) }),
            bidi: handler(move |_| async move { Err(unset()) }),
        }
    }
}

/// Answers a call as the code does that tonic generates.
async fn answer(
    handlers: Handlers,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Infallible> {
    let mut grpc = Grpc::new(ProstCodec::<HelloReply, HelloRequest>::default());
    let Handlers {
        unary,
        server_stream,
        client_stream,
        bidi,
    } = handlers;
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        SAY_HELLO => grpc.unary(service_fn(|it| unary(it)), request).await,
        LOTS_OF_REPLIES => {
            let service = service_fn(|it| server_stream(it));
            grpc.server_streaming(service, request).await
        }
        LOTS_OF_GREETINGS => {
            let service = service_fn(|it| client_stream(it));
            grpc.client_streaming(service, request).await
        }
        _ => grpc.streaming(service_fn(|it| bidi(it)), request).await,
    })
}

pub(super) fn greet(request: HelloRequest) -> HelloReply {
    reply(format!("Hello, {}!", request.name))
}

pub(super) fn reply(message: impl Into<String>) -> HelloReply {
    HelloReply {
        message: message.into(),
    }
}

/// A server on the runtime of its test.
pub(super) struct StockServer {
    pub(super) address: SocketAddr,
    pub(super) stop: oneshot::Sender<()>,
    pub(super) served: JoinHandle<Result<(), Error>>,
}

impl StockServer {
    pub(super) async fn start(handlers: Handlers) -> Self {
        Self::start_with(Server::builder(), handlers).await
    }

    pub(super) async fn start_with(builder: Server, handlers: Handlers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = service_fn(move |request| answer(handlers.clone(), request));
        let served = builder.serve_with_incoming_shutdown(service, incoming, stopped.map(|_| ()));
        Self {
            address,
            stop,
            served: tokio::spawn(served),
        }
    }

    pub(super) async fn greeter(&self) -> GreeterClient<Channel> {
        GreeterClient::new(connect(self.address).await)
    }
}
