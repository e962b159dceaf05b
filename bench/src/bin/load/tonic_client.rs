//! Calls through the client that tonic generates.
//!
//! They check every byte, or measure a server with such a client.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use muxs_bench::{
    Report, Span, crc32c,
    pb::{
        HelloRequest, ReadStreamRequest, file_controller_client::FileControllerClient,
        greeter_client::GreeterClient, read_stream_response::Event,
    },
};
use tokio::runtime::Runtime;
use tonic::{
    IntoStreamingRequest, Request,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};

use crate::{
    Server,
    greeter::{Amount, request},
};

/// The file to check.
#[derive(clap::Args, Debug)]
pub(crate) struct Check {
    #[command(flatten)]
    server: Server,
    /// Name of the file
    #[arg(long, value_name = "NAME")]
    filename: String,
    /// Size of the file
    #[arg(long, value_name = "COUNT")]
    bytes: u64,
}

/// Reads a file, and checks all that the server reports of it.
pub(crate) fn check(check: &Check) -> Result<Report> {
    Runtime::new()?.block_on(async {
        let mut files = FileControllerClient::new(connect(&check.server).await?);
        let request = ReadStreamRequest {
            filename: check.filename.clone(),
            ..ReadStreamRequest::default()
        };
        let request = authorized(request, &check.server)?;
        let from = Instant::now();
        let mut events = files.read_stream(request).await?.into_inner();
        let mut messages = 0;
        let mut bytes = 0;
        // The stream ends with `None` only if its grpc-status is 0.
        while let Some(response) = events.message().await? {
            match response.event.context("neither info nor a chunk")? {
                Event::Info(info) => {
                    ensure!(messages == 0, "info is not first");
                    ensure!(info.size == check.bytes, "{info:?}");
                }
                Event::Chunk(chunk) => {
                    ensure!(messages > 0, "info is not first");
                    ensure!(chunk.offset == bytes, "{} follows {bytes}", chunk.offset);
                    let right = chunk.crc32c == Some(crc32c(0, &chunk.data));
                    ensure!(right, "the chunk at {bytes} has another checksum");
                    bytes += chunk.data.len() as u64;
                }
            }
            messages += 1;
        }
        ensure!(bytes == check.bytes, "{bytes} bytes");
        Ok(Report {
            bytes,
            messages,
            seconds: Span::since(from).duration().as_secs_f64(),
            ..Report::default()
        })
    })
}

/// Calls BidiHello, sends as fast as possible, and reads at the same time.
pub(crate) fn bidi(amount: &Amount) -> Result<Report> {
    let runtime = Runtime::new()?;
    let channel = runtime.block_on(connect(&amount.server))?;
    // As a task, the call runs on the runtime's threads, like the connection; `block_on` would run it elsewhere.
    let names = (0..amount.messages).map(|_| request("Margaret"));
    let names = authorized(futures::stream::iter(names), &amount.server)?;
    let greeted = runtime.spawn(greet(channel, names, amount.messages));
    let span = runtime.block_on(greeted)??;
    Ok(amount.report(span))
}

async fn greet(
    channel: Channel,
    names: impl IntoStreamingRequest<Message = HelloRequest>,
    messages: u32,
) -> Result<Span> {
    let mut greeter = GreeterClient::new(channel);
    let from = Instant::now();
    let mut replies = greeter.bidi_hello(names).await?.into_inner();
    let mut count = 0;
    while let Some(reply) = replies.message().await? {
        ensure!(
            reply.message == "Hello, Margaret!",
            "not the reply to its name"
        );
        count += 1;
    }
    let span = Span::since(from);
    ensure!(count == messages, "{count} messages");
    Ok(span)
}

/// Adds the access token to a request, if there is one.
fn authorized<T>(message: T, server: &Server) -> Result<Request<T>> {
    let mut request = Request::new(message);
    if let Some(authorization) = server.authorization()? {
        let mut value: AsciiMetadataValue = authorization.parse()?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
    }
    Ok(request)
}

async fn connect(server: &Server) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address))?;
    Ok(endpoint.connect().await?)
}
