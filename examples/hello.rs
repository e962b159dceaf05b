//! The four shapes of a gRPC call, one after the other.
//!
//!     cargo run --example hello
//!
//! Replies are printed to standard output, what is going on to standard error.

mod support;

use std::process::ExitCode;

use clap::Parser;
use muxs::pb::{HelloRequest, greeter_client::GreeterClient};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::Channel;

/// Walks through the four shapes of a gRPC call
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
    Ok(ExitCode::SUCCESS)
}

async fn unary(greeter: &mut GreeterClient<Channel>) -> Result<(), tonic::Status> {
    eprintln!("SayHello: one request, one reply.");
    let reply = greeter.say_hello(hello("you")).await?.into_inner();
    println!("{}", reply.message);
    Ok(())
}

async fn server_stream(greeter: &mut GreeterClient<Channel>) -> Result<(), tonic::Status> {
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

async fn client_stream(greeter: &mut GreeterClient<Channel>) -> Result<(), tonic::Status> {
    eprintln!("LotsOfGreetings: a stream of requests, one reply.");
    let requests = tokio_stream::iter(["Ada", "Grace", "Edsger", "Barbara", "Tony"]).map(hello);
    let reply = greeter.lots_of_greetings(requests).await?.into_inner();
    println!("{}", reply.message);
    Ok(())
}

async fn both_ways(greeter: &mut GreeterClient<Channel>) -> anyhow::Result<()> {
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

fn hello(name: &str) -> HelloRequest {
    HelloRequest {
        name: name.to_owned(),
        ..Default::default()
    }
}
