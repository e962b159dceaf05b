//! Deadlines: who ends a call whose time is over, and how a handler passes the rest of its time on.
//!
//! Watch: DEADLINE_EXCEEDED comes from the server. If it does not answer at all, tonic's own timer ends the call, and
//! its code is CANCELLED. The relay passes on what is left, so no work outlives the client's interest.

mod support;

use std::time::Duration;

use muxs::pb::helloworld::{greeter_client, greeter_server};
use muxs::pb::{HelloReply, HelloRequest, Number, greeter_client::GreeterClient};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Request, Response, Status, metadata::MetadataMap};

#[tokio::main]
async fn main() -> Result<(), support::Failed> {
    let muxs = GreeterClient::new(support::connect().await?);
    println!("\nA stream with a reply each 0.2 s, and 0.5 s for the call:");
    report(replies(muxs.clone(), Duration::from_millis(500))).await?;
    println!("\nA peer that accepts the connection and never answers, and 0.5 s:");
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let silent = GreeterClient::connect(url).await?;
    report(replies(silent, Duration::from_millis(500))).await?;

    println!("\nA relay that works for 0.3 s before it calls the server, and 1 s:");
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let url = format!("http://{}", incoming.local_addr()?);
    let service = greeter_server::GreeterServer::new(Relay(muxs));
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut relay = greeter_client::GreeterClient::connect(url).await?;
    let mut request = Request::new(HelloRequest::default());
    request.set_timeout(Duration::from_secs(1));
    report(async { relay.say_hello(request).await.map(drop) }).await?;
    Ok(())
}

/// Reads a stream with this deadline.
async fn replies(mut greeter: GreeterClient<Channel>, timeout: Duration) -> Result<(), Status> {
    let mut request = Request::new(HelloRequest::default());
    request.get_mut().name = "Ada".to_owned();
    request.get_mut().interval = Duration::from_millis(200).try_into().ok();
    request.set_timeout(timeout);
    let mut replies = greeter.lots_of_replies(request).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        println!("  {}", reply.message);
    }
    Ok(())
}

/// Prints how the call ended. One that ends before its deadline has another failure.
async fn report(call: impl Future<Output = Result<(), Status>>) -> Result<(), Status> {
    let begin = Instant::now();
    let Err(status) = call.await else {
        return Err(Status::internal("the call ended too early"));
    };
    if begin.elapsed() < Duration::from_millis(500) {
        return Err(status);
    }
    let (seconds, code) = (begin.elapsed().as_secs_f64(), status.code());
    println!("  after {seconds:.1} s {code:?}: {}", status.message());
    Ok(())
}

type Reply<T> = Result<Response<T>, Status>;

/// Works for 0.3 s, then calls another server.
struct Relay(GreeterClient<Channel>);

#[tonic::async_trait]
impl greeter_server::Greeter for Relay {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Reply<HelloReply> {
        let begin = Instant::now();
        let timeout = parse_timeout(request.metadata()).unwrap_or(Duration::from_secs(60));
        sleep(Duration::from_millis(300)).await;
        // 0.1 s for the way of the answer.
        let left = timeout.saturating_sub(begin.elapsed() + Duration::from_millis(100));
        let seconds = left.as_secs_f64();
        println!("  relay: 1 s, less 0.3 s of work and 0.1 s for the answer:");
        println!("  relay: {seconds:.1} s are left for the server");
        replies(self.0.clone(), left).await?;
        Ok(Response::new(HelloReply::default()))
    }

    async fn square(&self, _: Request<Number>) -> Reply<Number> {
        Err(Status::unimplemented("the relay only greets"))
    }
}

/// tonic obeys `grpc-timeout`, but a handler has to parse it: up to 8 digits and a unit.
fn parse_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = "HMSmun".find(unit)?;
    let seconds = [3600.0, 60.0, 1.0, 1e-3, 1e-6, 1e-9][unit];
    Duration::try_from_secs_f64(seconds * f64::from(number.parse::<u32>().ok()?)).ok()
}
