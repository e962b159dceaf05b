//! The four shapes of a gRPC call, one after the other, then a deadline that is met and one that is not.
//!
//! Watch: in LotsOfReplies a reply comes each 0.2 s, and in BidiHello requests (→) and replies take turns.

mod support;

use std::{io, io::Write, process, time::Duration};

use muxs::pb::{HelloRequest, greeter_client::GreeterClient};
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
    Ok(deadlines(&mut greeter).await?)
}

async fn unary(greeter: &mut GreeterClient<Channel>) -> Result<(), Status> {
    eprintln!("\nSayHello: one request, one reply.");
    say(&greeter.say_hello(hello("you")).await?.get_ref().message);
    Ok(())
}

async fn server_stream(greeter: &mut GreeterClient<Channel>) -> Result<(), Status> {
    eprintln!("\nLotsOfReplies: one request, a stream of replies.");
    let mut request = hello("you");
    request.replies = 5;
    request.interval = Duration::from_millis(200).try_into().ok();
    let mut replies = greeter.lots_of_replies(request).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        say(&reply.message);
    }
    Ok(())
}

async fn client_stream(greeter: &mut GreeterClient<Channel>) -> Result<(), Status> {
    eprintln!("\nLotsOfGreetings: a stream of requests, one reply.");
    let names = tokio_stream::iter(["Ada", "Grace", "Edsger", "Barbara", "Tony"]).map(hello);
    say(&greeter.lots_of_greetings(names).await?.get_ref().message);
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
        eprintln!("  → {name}");
        if let Some(reply) = replies.message().await? {
            say(&reply.message);
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
    say(&greeter.say_hello(request).await?.get_ref().message);
    eprintln!("\nDeadline exceeded: the call allows 0.5 s, but replies come a minute apart.");
    let mut request = Request::new(hello("you"));
    request.get_mut().interval = Duration::from_secs(60).try_into().ok();
    request.set_timeout(Duration::from_millis(500));
    let mut replies = greeter.lots_of_replies(request).await?.into_inner();
    while let Some(reply) = replies.next().await {
        match reply {
            Ok(reply) => say(&reply.message),
            Err(status) if status.code() == Code::DeadlineExceeded => {
                say(&format!("DeadlineExceeded: {}", status.message()));
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

/// Prints a line. Without a reader, as after `| head -1`, the program ends quietly.
fn say(line: &str) {
    writeln!(io::stdout(), "  {line}").unwrap_or_else(|_| process::exit(0));
}
