//! The four shapes of a gRPC call, one after the other, then a deadline that is met and one that is not.
//!
//! Watch: streams bring their replies one by one, and in BidiHello requests and replies take turns in one call.

mod support;

use std::time::Duration;

use muxs::pb::{HelloReply, HelloRequest, greeter_client::GreeterClient};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Status, transport::Channel};

#[tokio::main]
async fn main() -> Result<(), support::Failed> {
    let mut greeter = GreeterClient::new(support::connect().await?);
    unary(&mut greeter).await?;
    server_stream(&mut greeter).await?;
    client_stream(&mut greeter).await?;
    both_ways(&mut greeter).await?;
    deadlines(&mut greeter).await?;
    Ok(())
}

async fn unary(greeter: &mut GreeterClient<Channel>) -> Result<(), Status> {
    eprintln!("\nSayHello: one request, one reply.");
    say(greeter.say_hello(hello("you")).await?.get_ref());
    Ok(())
}

async fn server_stream(greeter: &mut GreeterClient<Channel>) -> Result<(), Status> {
    eprintln!("\nLotsOfReplies: one request, a stream of replies.");
    let mut request = hello("you");
    request.replies = 5;
    let mut replies = greeter.lots_of_replies(request).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        say(&reply);
    }
    Ok(())
}

async fn client_stream(greeter: &mut GreeterClient<Channel>) -> Result<(), Status> {
    eprintln!("\nLotsOfGreetings: a stream of requests, one reply.");
    let requests = tokio_stream::iter(["Ada", "Grace", "Edsger", "Barbara", "Tony"]).map(hello);
    say(greeter.lots_of_greetings(requests).await?.get_ref());
    Ok(())
}

async fn both_ways(greeter: &mut GreeterClient<Channel>) -> Result<(), Status> {
    eprintln!("\nBidiHello: a stream each way. Here each request waits for the reply before.");
    let (requests, outgoing) = mpsc::channel(1);
    let outgoing = ReceiverStream::new(outgoing);
    let mut replies = greeter.bidi_hello(outgoing).await?.into_inner();
    for name in ["Ada", "Grace", "Edsger"] {
        // This fails only after the call has ended, and then `replies` has the reason.
        let _ = requests.send(hello(name)).await;
        if let Some(reply) = replies.message().await? {
            say(&reply);
        }
    }
    // The half-close: no further request. The server ends the call with OK.
    drop(requests);
    while replies.message().await?.is_some() {}
    Ok(())
}

async fn deadlines(greeter: &mut GreeterClient<Channel>) -> Result<(), Status> {
    eprintln!("\nDeadline met: the call allows 10 s, and needs less.");
    let mut request = Request::new(hello("you"));
    request.set_timeout(Duration::from_secs(10));
    say(greeter.say_hello(request).await?.get_ref());

    eprintln!("\nDeadline exceeded: the call allows 0.5 s, but replies come a minute apart.");
    let mut request = Request::new(hello("you"));
    request.get_mut().interval = Duration::from_secs(60).try_into().ok();
    request.set_timeout(Duration::from_millis(500));
    let mut replies = greeter.lots_of_replies(request).await?.into_inner();
    while let Some(reply) = replies.next().await {
        match reply {
            Ok(reply) => say(&reply),
            Err(status) if status.code() == Code::DeadlineExceeded => {
                println!("  DeadlineExceeded: {}", status.message());
            }
            Err(status) => return Err(status),
        }
    }
    Ok(())
}

fn hello(name: &str) -> HelloRequest {
    HelloRequest {
        name: name.to_owned(),
        ..Default::default()
    }
}

fn say(reply: &HelloReply) {
    println!("  {}", reply.message);
}
