//! Backpressure: a server that makes messages as fast as it can, and a client that reads slowly.
//!
//! Watch: the server gets ahead by the client's window and a little, then it waits, without a line of code for it.
//! The window is what the reader pays in memory. A larger one pays off on a long link, not for a slow reader.

use std::sync::atomic::{AtomicU64, Ordering};
use std::{error::Error, pin::Pin, sync::Arc, time::Duration};

use numbers::{CountRequest, Number, numbers_client::NumbersClient, numbers_server};
use tokio_stream::{Stream, StreamExt, iter};
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Request, Response, Status};

#[expect(unreachable_pub, clippy::allow_attributes, reason = "generated")]
mod numbers {
    tonic::include_proto!("numbers");
}

/// The size of a message.
const KIB: u64 = 16;
const MESSAGES: u64 = 5;

/// Counts, and counts what it has made.
struct Numbers(Arc<AtomicU64>);

#[tonic::async_trait]
impl numbers_server::Numbers for Numbers {
    type CountStream = Pin<Box<dyn Stream<Item = Result<Number, Status>> + Send>>;

    async fn count(&self, _: Request<CountRequest>) -> Result<Response<Self::CountStream>, Status> {
        let made = self.0.clone();
        // Pulled: the closure runs when there is room for another message.
        let numbers = iter(1..).map(move |value| {
            made.store(value, Ordering::Relaxed);
            let padding = vec![0; 1024 * KIB as usize];
            Ok(Number { value, padding })
        });
        Ok(Response::new(Box::pin(numbers)))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let made = Arc::new(AtomicU64::new(0));
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let url = format!("http://{}", incoming.local_addr()?);
    let service = numbers_server::NumbersServer::new(Numbers(made.clone()));
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));

    println!("Messages of {KIB} KiB. The client reads one, then pauses for 0.2 s.\n");
    println!("window    read  made  ahead");
    for window in [64, 256, 1024, 4096] {
        // The client's window bounds what is under way to it: per stream, and per connection.
        let channel = Channel::from_shared(url.clone())?
            .initial_stream_window_size(window * 1024)
            .initial_connection_window_size(window * 1024);
        let mut client = NumbersClient::new(channel.connect().await?);
        let mut numbers = client.count(CountRequest::default()).await?.into_inner();
        let (mut read, mut most) = (0, 0);
        while read < MESSAGES && numbers.message().await?.is_some() {
            read += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
            most = most.max(made.load(Ordering::Relaxed) - read);
        }
        let made = made.load(Ordering::Relaxed);
        println!(
            "{window:>4} KiB  {read:>4}  {made:>4}  {:>4} KiB",
            most * KIB
        );
    }
    println!("\nWhat exceeds the window is in buffers of tonic, the same for each window.");
    Ok(())
}
