//! A server that stops with calls under way: no new connection, the calls may end, and after a grace they are cut.
//!
//! Watch: the short call ends by itself after the signal. The endless one would keep stock tonic from stopping for
//! ever; a token asks its stream to end, and the client gets UNAVAILABLE, which means: try again elsewhere.

use std::{error::Error, pin::Pin, time::Duration};

use numbers::{CountRequest, Number, numbers_client::NumbersClient, numbers_server};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::{Stream, StreamExt, iter};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Request, Response, Status};

#[expect(unreachable_pub, clippy::allow_attributes, reason = "generated")]
mod numbers {
    tonic::include_proto!("numbers");
}

/// The time that calls get to end by themselves. `muxs::server` has it as `shutdown_grace`.
const GRACE: Duration = Duration::from_secs(1);

/// Counts, ten numbers a second. The token ends streams that are still open after the grace.
struct Numbers(CancellationToken);

type Count = Pin<Box<dyn Stream<Item = Result<Number, Status>> + Send>>;

#[tonic::async_trait]
impl numbers_server::Numbers for Numbers {
    type CountStream = Count;

    async fn count(&self, request: Request<CountRequest>) -> Result<Response<Count>, Status> {
        // 0 wraps around to the largest number.
        let last = request.into_inner().last.wrapping_sub(1);
        let mut numbers = Box::pin(iter(0..=last).throttle(Duration::from_millis(100)));
        let stop = self.0.clone();
        Ok(Response::new(Box::pin(async_stream::try_stream! {
            loop {
                let next = tokio::select! {
                    next = numbers.next() => Ok(next),
                    () = stop.cancelled() => Err(Status::unavailable("the server stops")),
                };
                let Some(before) = next? else { break };
                yield Number { value: before + 1, padding: Vec::new() };
            }
        })))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let url = format!("http://{}", incoming.local_addr()?);
    let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
    let service = numbers_server::NumbersServer::new(Numbers(cut.clone()));
    let server = Server::builder().add_service(service);
    let server = server.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let server = tokio::spawn(server);
    let channel = Channel::from_shared(url.clone())?.connect().await?;
    let short = tokio::spawn(count(channel.clone(), 7));
    let endless = tokio::spawn(count(channel, 0));
    sleep(Duration::from_millis(300)).await;
    let signal = Instant::now();
    let say = |what: &str| println!("{:.1} s  {what}", signal.elapsed().as_secs_f64());
    say("the signal: the server closes its port and waits for calls");
    stop.cancel();
    say(&format!("the short call got {}", short.await??));
    let refused = NumbersClient::connect(url).await.is_err();
    say(if refused {
        "a new client is refused"
    } else {
        "a new client is let in"
    });
    sleep_until(signal + GRACE).await;
    say("the grace is over: the server ends the streams that are open");
    cut.cancel();
    say(&format!("the endless call got {}", endless.await??));
    server.await??;
    say("the server has ended");
    Ok(())
}

/// Reads numbers until the call ends.
async fn count(channel: Channel, last: u64) -> Result<String, Status> {
    let request = CountRequest { after: 0, last };
    let numbers = NumbersClient::new(channel).count(request).await?;
    let (mut numbers, mut got) = (numbers.into_inner(), 0);
    loop {
        match numbers.message().await {
            Ok(Some(number)) => got = number.value,
            Ok(None) => return Ok(format!("{got} numbers, then OK")),
            Err(status) => return Ok(format!("{got} numbers, then {:?}", status.code())),
        }
    }
}
