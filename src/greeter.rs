//! The greeter: one handler for each of the four shapes of a gRPC call.
//!
//! Response streams are plain transforms that the client's flow control pulls: they need no task and no channel,
//! and buffer nothing ahead. `docs/streaming.md` explains the shapes and shows what a task and a channel cost;
//! `docs/add-a-method.md` adds a method of each shape.

use std::time::Duration;

use futures::{Stream, stream::BoxStream};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    failure::{BAD_REQUEST, Failure},
    pb,
};

const MAX_NAME_BYTES: usize = 4096;

/// LotsOfGreetings names so many clients, and counts the others.
const MAX_GREETED_NAMES: usize = 3;

/// The text before and after the name, in the order of LotsOfReplies.
const GREETINGS: [(&str, &str); 16] = [
    ("Hello, ", "!"),       // English
    ("你好，", "！"),       // Chinese
    ("नमस्ते, ", "!"),        // Hindi
    ("¡Hola, ", "!"),       // Spanish
    ("Bonjour, ", " !"),    // French
    ("مرحبًا، ", "!"),       // Arabic
    ("হ্যালো, ", "!"),        // Bengali
    ("Olá, ", "!"),         // Portuguese
    ("Привет, ", "!"),      // Russian
    ("Halo, ", "!"),        // Indonesian
    ("Hallo, ", "!"),       // German
    ("こんにちは、", "！"), // Japanese
    ("Hujambo, ", "!"),     // Swahili
    ("Merhaba, ", "!"),     // Turkish
    ("안녕하세요, ", "!"),  // Korean
    ("Ciao, ", "!"),        // Italian
];

/// Serves `muxs.Greeter` and `helloworld.Greeter`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Greeter;

#[tonic::async_trait]
impl pb::greeter_server::Greeter for Greeter {
    async fn say_hello(
        &self,
        request: Request<pb::HelloRequest>,
    ) -> Result<Response<pb::HelloReply>, Status> {
        hello(request.into_inner()).map(Response::new)
    }

    async fn square(&self, request: Request<pb::Number>) -> Result<Response<pb::Number>, Status> {
        let value = request.into_inner().value;
        if value < 0.0 {
            return Err(Failure::new(Code::InvalidArgument, BAD_REQUEST)
                .bad_field("value", "a negative number has no real square root"));
        }
        Ok(Response::new(pb::Number {
            value: value.sqrt(),
        }))
    }

    type LotsOfRepliesStream = BoxStream<'static, Result<pb::HelloReply, Status>>;

    async fn lots_of_replies(
        &self,
        request: Request<pb::HelloRequest>,
    ) -> Result<Response<Self::LotsOfRepliesStream>, Status> {
        let request = request.into_inner();
        check_name(&request.name)?;
        let pause = request.interval.map(pause).transpose()?;
        let count = match request.replies {
            0 => GREETINGS.len(),
            replies => replies as usize,
        };
        let replies = replies(request.name, count, pause);
        Ok(Response::new(Box::pin(replies.map(Ok))))
    }

    async fn lots_of_greetings(
        &self,
        request: Request<Streaming<pb::HelloRequest>>,
    ) -> Result<Response<pb::HelloReply>, Status> {
        let mut requests = request.into_inner();
        let mut greeted = Vec::with_capacity(MAX_GREETED_NAMES);
        let mut others = 0;
        while let Some(request) = requests.message().await? {
            check_name(&request.name)?;
            if greeted.len() < MAX_GREETED_NAMES {
                greeted.push(request.name);
            } else {
                others += 1;
            }
        }
        Ok(Response::new(pb::HelloReply {
            message: hello_all(&greeted, others),
        }))
    }

    type BidiHelloStream = BoxStream<'static, Result<pb::HelloReply, Status>>;

    /// Returns the stream before it reads a request: in many clients, the call returns only when the response
    /// begins.
    async fn bidi_hello(
        &self,
        request: Request<Streaming<pb::HelloRequest>>,
    ) -> Result<Response<Self::BidiHelloStream>, Status> {
        let replies = request.into_inner().map(|request| request.and_then(hello));
        Ok(Response::new(Box::pin(replies)))
    }
}

#[tonic::async_trait]
impl pb::helloworld::greeter_server::Greeter for Greeter {
    async fn say_hello(
        &self,
        request: Request<pb::HelloRequest>,
    ) -> Result<Response<pb::HelloReply>, Status> {
        pb::greeter_server::Greeter::say_hello(self, request).await
    }

    async fn square(&self, request: Request<pb::Number>) -> Result<Response<pb::Number>, Status> {
        pb::greeter_server::Greeter::square(self, request).await
    }
}

fn hello(request: pb::HelloRequest) -> Result<pb::HelloReply, Status> {
    check_name(&request.name)?;
    Ok(greeting(0, &request.name))
}

fn greeting(language: usize, name: &str) -> pb::HelloReply {
    let (before, after) = GREETINGS[language % GREETINGS.len()];
    pb::HelloReply {
        message: [before, name, after].concat(),
    }
}

/// A stream of `count` greetings with a pause between them.
fn replies(
    name: String,
    count: usize,
    pause: Option<Duration>,
) -> impl Stream<Item = pb::HelloReply> {
    async_stream::stream! {
        for at in 0..count {
            if let Some(pause) = pause && at > 0 {
                tokio::time::sleep(pause).await;
            }
            yield greeting(at, &name);
        }
    }
}

/// Greets the given names, and `others` more.
fn hello_all(greeted: &[String], others: u64) -> String {
    let others = match others {
        0 => None,
        1 => Some("1 other".to_owned()),
        more => Some(format!("{more} others")),
    };
    let names: Vec<&str> = greeted.iter().chain(&others).map(String::as_str).collect();
    match names.split_last() {
        None => "Hello, nobody!".to_owned(),
        Some((only, [])) => format!("Hello, {only}!"),
        Some((last, before)) => format!("Hello, {} and {last}!", before.join(", ")),
    }
}

fn check_name(name: &str) -> Result<(), Status> {
    if name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    Err(Failure::new(Code::InvalidArgument, "NAME_TOO_LONG")
        .metadata("limit", MAX_NAME_BYTES)
        .metadata("size", name.len())
        .bad_field(
            "name",
            format!(
                "the name has {} bytes, the most is {MAX_NAME_BYTES}",
                name.len()
            ),
        ))
}

fn pause(interval: prost_types::Duration) -> Result<Duration, Status> {
    // `Duration::try_from` would normalize durations that protobuf calls malformed.
    match (interval.seconds, interval.nanos) {
        (seconds @ 0.., nanos @ 0..1_000_000_000) => {
            Ok(Duration::new(seconds as u64, nanos as u32))
        }
        _ => Err(Failure::new(Code::InvalidArgument, BAD_REQUEST)
            .bad_field("interval", "the interval is negative or malformed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greeting_names_three_and_counts_the_rest() {
        let names = ["A", "B", "C"].map(str::to_owned);
        assert_eq!(hello_all(&[], 0), "Hello, nobody!");
        assert_eq!(hello_all(&names[..1], 0), "Hello, A!");
        assert_eq!(hello_all(&names[..2], 0), "Hello, A and B!");
        assert_eq!(hello_all(&names, 0), "Hello, A, B and C!");
        assert_eq!(hello_all(&names, 1), "Hello, A, B, C and 1 other!");
        assert_eq!(
            hello_all(&names, 999_997),
            "Hello, A, B, C and 999997 others!"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn pause_separates_replies() {
        let begin = tokio::time::Instant::now();
        let hour = Duration::from_secs(3600);
        let replies: Vec<_> = replies("you".to_owned(), 4, Some(hour)).collect().await;
        assert_eq!(replies.len(), 4);
        assert_eq!(begin.elapsed(), 3 * hour);
    }
}
