//! A call that is cancelled, seen from both ends: the client drops it, the server drops the handler and its stream.
//!
//! Watch: each way to leave ends in the same line from the server, and it comes from `Drop`. Cleanup belongs there,
//! because a handler that is cancelled runs no further line. A task that it spawned would go on.

use std::{error::Error, pin::Pin, time::Duration};

use numbers::{CountRequest, Number, numbers_client::NumbersClient, numbers_server};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};
use tokio_stream::{Stream, StreamExt, iter};
use tonic::transport::{Server, server::TcpIncoming};
use tonic::{Request, Response, Status};

#[expect(unreachable_pub, clippy::allow_attributes, reason = "generated")]
mod numbers {
    tonic::include_proto!("numbers");
}

/// Counts from 1 on. Takes a minute to think before, if `after` is set.
struct Numbers(UnboundedSender<String>);

/// Belongs to the handler, then to its stream. Dropped with them.
struct Guard {
    made: u64,
    events: UnboundedSender<String>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let made = self.made;
        let _ = self.events.send(format!("dropped after {made} numbers"));
    }
}

#[tonic::async_trait]
impl numbers_server::Numbers for Numbers {
    type CountStream = Pin<Box<dyn Stream<Item = Result<Number, Status>> + Send>>;

    async fn count(
        &self,
        request: Request<CountRequest>,
    ) -> Result<Response<Self::CountStream>, Status> {
        let events = self.0.clone();
        let mut guard = Guard { made: 0, events };
        if request.get_ref().after > 0 {
            sleep(Duration::from_secs(60)).await;
        }
        let numbers = iter(1..).throttle(Duration::from_millis(50));
        let numbers = numbers.map(move |value| {
            let guard = &mut guard; // With this, the stream owns all of the guard.
            guard.made = value;
            let padding = Vec::new();
            Ok(Number { value, padding })
        });
        Ok(Response::new(Box::pin(numbers)))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (events, mut reports) = unbounded_channel();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let url = format!("http://{}", incoming.local_addr()?);
    let service = numbers_server::NumbersServer::new(Numbers(events));
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = NumbersClient::connect(url).await?;
    let count = CountRequest::default();

    println!("client: takes three numbers and drops the stream");
    let numbers = client.count(count).await?.into_inner();
    let three: Vec<_> = numbers.take(3).collect().await;
    println!("client: got {}", three.len());
    println!("server: {}", reports.recv().await.ok_or("no event")?);

    println!("client: waits 0.1 s for the response, and drops the call");
    let slow = CountRequest { after: 1, ..count };
    let gave_up = timeout(Duration::from_millis(100), client.count(slow)).await;
    println!("client: {}", gave_up.err().ok_or("the call was answered")?);
    println!("server: {}", reports.recv().await.ok_or("no event")?);

    println!("client: aborts the task that reads");
    let mut reader = client.clone();
    let reads = tokio::spawn(async move {
        let mut numbers = reader.count(count).await?.into_inner();
        while numbers.message().await?.is_some() {}
        Ok::<_, Status>(())
    });
    sleep(Duration::from_millis(200)).await;
    reads.abort();
    println!("client: {}", reads.await.err().ok_or("the numbers ended")?);
    println!("server: {}", reports.recv().await.ok_or("no event")?);
    Ok(())
}
