//! A stream that is read to its end through failures: which codes to retry, after what delay, and when to give up.
//!
//! Watch: each attempt goes on after the last number that arrived. Progress renews the budget of attempts, the
//! delays double with jitter, `RetryInfo` overrides them, and INVALID_ARGUMENT is not tried again.

use std::{error::Error, pin::Pin, sync::Mutex, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use numbers::{CountRequest, Number, numbers_client::NumbersClient, numbers_server};
use tokio_stream::{Stream, StreamExt, iter};
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

#[expect(unreachable_pub, clippy::allow_attributes, reason = "generated")]
mod numbers {
    tonic::include_proto!("numbers");
}

/// For each call, the last one first: how many numbers it gets, and how it fails.
struct Numbers(Mutex<Vec<(usize, Option<Status>)>>);
type Count = Pin<Box<dyn Stream<Item = Result<Number, Status>> + Send>>;

#[tonic::async_trait]
impl numbers_server::Numbers for Numbers {
    type CountStream = Count;
    async fn count(&self, request: Request<CountRequest>) -> Result<Response<Count>, Status> {
        let CountRequest { after, last } = request.into_inner();
        let script = self.0.lock().ok().and_then(|mut script| script.pop());
        let (count, failure) = script.unwrap_or((usize::MAX, None));
        let numbers = iter(after + 1..=last).take(count).map(|value| {
            let padding = Vec::new();
            Ok(Number { value, padding })
        });
        let numbers = numbers.chain(iter(failure.map(Err)));
        Ok(Response::new(Box::pin(numbers)))
    }
}

/// Reads all numbers, over as many calls as it takes.
async fn read(client: &mut NumbersClient<Channel>, last: u64) -> Result<(), Status> {
    let policy = ExponentialBuilder::default().with_min_delay(Duration::from_millis(100));
    let policy = policy.with_max_times(3).with_jitter();
    let (mut after, mut delays) = (0, policy.build());
    loop {
        let begin = after;
        let attempt = async {
            let request = CountRequest { after, last };
            let mut numbers = client.count(request).await?.into_inner();
            while let Some(number) = numbers.message().await? {
                after = number.value;
            }
            Ok(())
        };
        let Err::<_, Status>(status) = attempt.await else {
            println!("  all {after} numbers");
            return Ok(());
        };
        if after > begin {
            println!("  (progress: the budget starts anew)");
            delays = policy.build();
        }
        // RESOURCE_EXHAUSTED may last. RetryInfo says when it passes.
        let retry_info = status.get_details_retry_info();
        let asked = retry_info.and_then(|info| info.retry_delay);
        let is_transient = status.code() == Code::Unavailable || asked.is_some();
        let Some(delay) = delays.next().filter(|_| is_transient) else {
            return Err(status);
        };
        let (delay, code) = (asked.unwrap_or(delay), status.code());
        let by = asked.map_or("", |_| " (RetryInfo)");
        println!("  {after:>2} numbers, then {code:?}; next attempt in {delay:.0?}{by}");
        tokio::time::sleep(delay).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let lost = || Some(Status::unavailable("the connection is lost"));
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(300)));
    let busy = Status::with_error_details(Code::ResourceExhausted, "too many calls", details);
    let invalid = Status::invalid_argument("no number is that large");
    let mut script = Vec::from([3, 0, 3, 0].map(|count| (count, lost())));
    script.insert(2, (0, Some(busy)));
    script.extend([(usize::MAX, None), (2, Some(invalid))]);
    script.reverse();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let url = format!("http://{}", incoming.local_addr()?);
    let service = numbers_server::NumbersServer::new(Numbers(Mutex::new(script)));
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = NumbersClient::connect(url).await?;
    println!("Five failures that pass, with a budget of three attempts without progress:");
    read(&mut client, 10).await?;
    println!("A failure that does not pass:");
    if let Err(status) = read(&mut client, 10).await {
        println!("  given up: {:?}, {}", status.code(), status.message());
    }
    Ok(())
}
