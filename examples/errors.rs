//! Errors that a program can act on: the code, and the details that `google.rpc` defines and tonic-types reads.
//!
//! Watch: the code says what kind of failure it is, the reason says which one. The sentence is for people and may
//! change; a program never looks at it.

mod support;

use std::time::Duration;

use muxs::pb::file_controller_client::FileControllerClient;
use muxs::pb::{Files, HelloRequest, Number, StatRequest, greeter_client::GreeterClient};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

#[tokio::main]
async fn main() -> Result<(), support::Failed> {
    let channel = support::connect().await?;
    let mut greeter = GreeterClient::new(channel.clone());
    let mut files = FileControllerClient::new(channel);

    println!("The root of a negative number:");
    explain(greeter.square(Number { value: -1.0 }).await)?;

    println!("A name that is too long:");
    let name = "x".repeat(5000);
    explain(
        greeter
            .say_hello(HelloRequest {
                name,
                ..Default::default()
            })
            .await,
    )?;

    println!("A file that is not there:");
    let filename = "no/such/file".to_owned();
    explain(files.stat(StatRequest { filename }).await)?;

    println!("A file outside of the folder:");
    let filename = "../passwords".to_owned();
    explain(files.stat(StatRequest { filename }).await)?;

    println!("What a busy server answers, made as a handler makes it:");
    explain::<()>(Err(busy()))?;

    // Read and Write always answer OK, for their first clients. Their failure is in the message.
    println!("A unary Read, which answers OK:");
    let (filename, text) = ("no/such/file".to_owned(), String::new());
    let content = files.read(Files { filename, text }).await?.into_inner();
    let failure = content.failure.ok_or("the file is there")?;
    println!("  code     {:?}", Code::from(failure.code));
    println!("  reason   {}", failure.reason);
    Ok(())
}

/// Prints what a status says to a program. A status of the connection is a failure of this example.
fn explain<T>(result: Result<T, Status>) -> Result<(), Status> {
    let status = match result {
        Err(status) if status.get_details_error_info().is_some() => status,
        Err(status) => return Err(status),
        Ok(_) => return Err(Status::internal("the call did not fail")),
    };
    println!("  code     {:?}: {}", status.code(), advice(status.code()));
    println!("  message  {}", status.message());
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        println!("  reason   {}, of {}", info.reason, info.domain);
        for (key, value) in &info.metadata {
            println!("           {key} is {value}");
        }
    }
    let fields = details
        .bad_request()
        .map(|bad| bad.field_violations.as_slice());
    for violation in fields.unwrap_or_default() {
        println!("  field    {}", violation.field);
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        println!("  retry    after {delay:?}");
    }
    Ok(())
}

/// What a caller does about a code, where the reason says no more.
fn advice(code: Code) -> &'static str {
    match code {
        Code::Unavailable => "try again later",
        Code::ResourceExhausted => "try again only when RetryInfo says so",
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition => "mend the request",
        _ => "report it",
    }
}

/// What a handler returns when it has too much to do.
fn busy() -> Status {
    let limit = [("limit".to_owned(), "max_calls".to_owned())];
    let mut details = ErrorDetails::with_error_info("BUSY", "muxs", limit);
    details.set_retry_info(Some(Duration::from_secs(1)));
    Status::with_error_details(Code::ResourceExhausted, "too many calls", details)
}
