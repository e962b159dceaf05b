//! The four shapes of a gRPC call, one after the other, and what a deadline does to them.
//!
//!     cargo run --example hello
//!
//! Replies are printed to standard output, what is going on to standard error.

mod support;

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use muxs::{
    client::AuthorizedChannel,
    pb::{HelloRequest, greeter_client::GreeterClient},
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request};

/// Walks through the four shapes of a gRPC call, and a deadline that is kept and one that is missed
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: support::ServerArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    support::exit(walk_through(Args::parse()).await)
}

async fn walk_through(args: Args) -> anyhow::Result<ExitCode> {
    let server = args.server.find_or_start().await?;
    let mut greeter = GreeterClient::new(server.connect().await?);
    unary(&mut greeter).await?;
    server_stream(&mut greeter).await?;
    client_stream(&mut greeter).await?;
    both_ways(&mut greeter).await?;
    deadline_kept(&mut greeter).await?;
    deadline_missed(&mut greeter).await?;
    Ok(ExitCode::SUCCESS)
}

async fn unary(greeter: &mut GreeterClient<AuthorizedChannel>) -> Result<(), tonic::Status> {
    eprintln!("SayHello: one request, one reply.");
    let reply = greeter.say_hello(hello("you")).await?.into_inner();
    println!("{}", reply.message);
    Ok(())
}

async fn server_stream(
    greeter: &mut GreeterClient<AuthorizedChannel>,
) -> Result<(), tonic::Status> {
    eprintln!("LotsOfReplies: one request, a stream of replies.");
    let request = HelloRequest {
        replies: 5,
        ..hello("you")
    };
    let mut replies = greeter.lots_of_replies(request).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        println!("{}", reply.message);
    }
    Ok(())
}

async fn client_stream(
    greeter: &mut GreeterClient<AuthorizedChannel>,
) -> Result<(), tonic::Status> {
    eprintln!("LotsOfGreetings: a stream of requests, one reply.");
    let requests = tokio_stream::iter(["Ada", "Grace", "Edsger", "Barbara", "Tony"]).map(hello);
    let reply = greeter.lots_of_greetings(requests).await?.into_inner();
    println!("{}", reply.message);
    Ok(())
}

async fn both_ways(greeter: &mut GreeterClient<AuthorizedChannel>) -> anyhow::Result<()> {
    eprintln!("BidiHello: a stream each way. Here each request waits for the reply before it.");
    let (requests, outgoing) = mpsc::channel(1);
    let outgoing = ReceiverStream::new(outgoing);
    let mut replies = greeter.bidi_hello(outgoing).await?.into_inner();
    for name in ["Ada", "Grace", "Edsger"] {
        requests.send(hello(name)).await?;
        if let Some(reply) = replies.message().await? {
            println!("{}", reply.message);
        }
    }
    // No further request: the server ends the call, with OK.
    drop(requests);
    while replies.message().await?.is_some() {}
    Ok(())
}

async fn deadline_kept(
    greeter: &mut GreeterClient<AuthorizedChannel>,
) -> Result<(), tonic::Status> {
    eprintln!("A deadline: the call may take ten seconds, and does not need them.");
    let mut request = Request::new(hello("you"));
    request.set_timeout(Duration::from_secs(10));
    let reply = greeter.say_hello(request).await?.into_inner();
    println!("{}", reply.message);
    Ok(())
}

async fn deadline_missed(greeter: &mut GreeterClient<AuthorizedChannel>) -> anyhow::Result<()> {
    eprintln!("A deadline that is missed: half a second, for replies with a minute between them.");
    let mut request = Request::new(HelloRequest {
        interval: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..hello("you")
    });
    request.set_timeout(Duration::from_millis(500));
    let mut replies = greeter.lots_of_replies(request).await?.into_inner();
    loop {
        match replies.message().await {
            Ok(Some(reply)) => println!("{}", reply.message),
            Ok(None) => anyhow::bail!("the replies ended before their deadline"),
            Err(status) if status.code() == Code::DeadlineExceeded => {
                println!("DeadlineExceeded: {}", status.message());
                return Ok(());
            }
            Err(status) => return Err(status.into()),
        }
    }
}

fn hello(name: &str) -> HelloRequest {
    HelloRequest {
        name: name.to_owned(),
        ..Default::default()
    }
}
