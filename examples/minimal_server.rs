//! A server of one's own on stock tonic: the four shapes of a call, each in a few lines, and a client that calls them.
//!
//! Watch: no handler has a task or a channel. The client asks for 4294967295 replies, takes three and drops the
//! stream: tonic makes what fits the client's window, and the other four billion are never made.

use std::{error::Error, pin::Pin};

use muxs::pb::greeter_client::GreeterClient;
use muxs::pb::greeter_server::{Greeter, GreeterServer};
use muxs::pb::{HelloReply, HelloRequest, Number};
use tokio_stream::{Stream, StreamExt, iter};
use tonic::transport::{Server, server::TcpIncoming};
use tonic::{Request, Response, Status, Streaming};

struct Hello;

type Reply<T> = Result<Response<T>, Status>;
type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Reply<HelloReply> {
        Ok(Response::new(hello(&request.into_inner().name)))
    }

    async fn square(&self, request: Request<Number>) -> Reply<Number> {
        // The contract's name misleads: it is the root.
        let value = request.into_inner().value.sqrt();
        Ok(Response::new(Number { value }))
    }

    type LotsOfRepliesStream = Replies;

    async fn lots_of_replies(&self, request: Request<HelloRequest>) -> Reply<Replies> {
        let HelloRequest { name, replies, .. } = request.into_inner();
        let replies = (1..=replies).map(move |number| Ok(hello(&format!("{name} {number}"))));
        Ok(Response::new(Box::pin(iter(replies))))
    }

    async fn lots_of_greetings(
        &self,
        requests: Request<Streaming<HelloRequest>>,
    ) -> Reply<HelloReply> {
        let names = requests.into_inner();
        let names = names.map(|request| request.map(|request| request.name));
        let names: Vec<_> = names.collect::<Result<_, _>>().await?;
        Ok(Response::new(hello(&names.join(" and "))))
    }

    type BidiHelloStream = Replies;

    async fn bidi_hello(&self, requests: Request<Streaming<HelloRequest>>) -> Reply<Replies> {
        let requests = requests.into_inner();
        let replies = requests.map(|request| Ok(hello(&request?.name)));
        Ok(Response::new(Box::pin(replies)))
    }
}

fn hello(name: &str) -> HelloReply {
    let message = format!("Hello, {name}!");
    HelloReply { message }
}

fn request(name: &str) -> HelloRequest {
    let name = name.to_owned();
    HelloRequest {
        name,
        ..Default::default()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let url = format!("http://{}", incoming.local_addr()?);
    let server = Server::builder().add_service(GreeterServer::new(Hello));
    tokio::spawn(server.serve_with_incoming(incoming));

    let mut greeter = GreeterClient::connect(url).await?;
    let reply = greeter.say_hello(request("unary")).await?.into_inner();
    println!("SayHello         {}", reply.message);

    let mut many = request("server stream");
    many.replies = u32::MAX;
    let mut replies = greeter.lots_of_replies(many).await?.into_inner().take(3);
    while let Some(reply) = replies.next().await {
        println!("LotsOfReplies    {}", reply?.message);
    }
    drop(replies); // Leaves: the call is cancelled.
    let names = iter(["client", "stream"]).map(request);
    let reply = greeter.lots_of_greetings(names).await?.into_inner();
    println!("LotsOfGreetings  {}", reply.message);

    let names = iter(["both", "ways"]).map(request);
    let mut replies = greeter.bidi_hello(names).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        println!("BidiHello        {}", reply.message);
    }
    Ok(())
}
