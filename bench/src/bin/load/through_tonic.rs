//! What the client does that tonic generates: for a look at every byte, and to see what such a
//! client makes of the server.

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

/// Which file.
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

/// Reads a file, and believes nothing that is said of it.
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
        // Its end is `None` only with a grpc-status of 0.
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
            seconds: Span::since(from).length().as_secs_f64(),
            ..Report::default()
        })
    })
}

/// BidiHello, the client of which sends as fast as it can and reads meanwhile.
pub(crate) fn bidi(amount: &Amount) -> Result<Report> {
    let runtime = Runtime::new()?;
    let channel = runtime.block_on(connect(&amount.server))?;
    // What is spawned runs where the connection does, and not beside the runtime.
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

/// A request that says who calls, if the server shall be told.
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
