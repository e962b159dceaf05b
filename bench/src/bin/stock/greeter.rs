//! The greeter, in all four shapes of a call.

use std::pin::Pin;

use muxs_bench::pb::{HelloReply, HelloRequest, Number, greeter_server};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// How many names are greeted; further ones are only counted.
const MAX_GREETED_NAMES: usize = 3;

pub(crate) struct Greeter;

type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

#[tonic::async_trait]
impl greeter_server::Greeter for Greeter {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(hello(&request.into_inner().name)))
    }

    async fn square(&self, request: Request<Number>) -> Result<Response<Number>, Status> {
        let value = request.into_inner().value.sqrt();
        Ok(Response::new(Number { value }))
    }

    type LotsOfRepliesStream = Replies;

    async fn lots_of_replies(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<Replies>, Status> {
        let HelloRequest { name, replies, .. } = request.into_inner();
        let replies = (0..replies).map(move |_| Ok(hello(&name)));
        Ok(Response::new(Box::pin(futures::stream::iter(replies))))
    }

    async fn lots_of_greetings(
        &self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<HelloReply>, Status> {
        let mut requests = request.into_inner();
        let mut called = Vec::new();
        let mut others = 0;
        while let Some(request) = requests.message().await? {
            if called.len() < MAX_GREETED_NAMES {
                called.push(request.name);
            } else {
                others += 1;
            }
        }
        let names = called.join(", ");
        Ok(Response::new(hello(&match others {
            0 => names,
            1 => format!("{names} and 1 other"),
            more => format!("{names} and {more} others"),
        })))
    }

    type BidiHelloStream = Replies;

    async fn bidi_hello(
        &self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let replies = request
            .into_inner()
            .map(|request| Ok(hello(&request?.name)));
        Ok(Response::new(Box::pin(replies)))
    }
}

fn hello(name: &str) -> HelloReply {
    HelloReply {
        message: format!("Hello, {name}!"),
    }
}
