//! Calls with many small messages, in one direction or both.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use muxs_bench::{
    Report, Span,
    pb::{HelloReply, HelloRequest},
};
use prost::Message as _;

use crate::{
    Server,
    grpc::{self, MessageScanner, Once, Repeated},
    http2::{Nothing, Source},
};

/// The name to greet, where any will do.
const NAME: &str = "Margaret";

/// The server, and the number of messages.
#[derive(clap::Args, Debug)]
pub(crate) struct Amount {
    #[command(flatten)]
    pub(crate) server: Server,
    /// How many messages
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) messages: u32,
}

impl Amount {
    pub(crate) fn report(&self, span: Span) -> Report {
        Report {
            messages: self.messages.into(),
            seconds: span.duration().as_secs_f64(),
            ..Report::default()
        }
    }

    fn check(&self, messages: u32) -> Result<()> {
        ensure!(messages == self.messages, "{messages} messages");
        Ok(())
    }
}

/// The messages of LotsOfGreetings.
#[derive(clap::Args, Debug)]
pub(crate) struct Greetings {
    #[command(flatten)]
    amount: Amount,
    /// Size of each name
    #[arg(long, value_name = "COUNT", default_value_t = NAME.len())]
    names_bytes: usize,
}

/// The messages of BidiHello, and when they are sent.
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("how").required(true)))]
pub(crate) struct Bidi {
    #[command(flatten)]
    amount: Amount,
    /// Send as fast as possible, and read at the same time
    #[arg(long, group = "how")]
    pipelined: bool,
    /// Send each message after the answer to the last
    #[arg(long, group = "how")]
    ping_pong: bool,
}

/// LotsOfReplies: one name, many greetings.
pub(crate) fn replies(amount: &Amount) -> Result<Report> {
    let mut connection = amount.server.connect(Arc::new([]))?;
    let mut request = Once::whole(&HelloRequest {
        name: NAME.to_owned(),
        replies: amount.messages,
        interval: None,
    });
    let mut messages = MessageScanner::default();
    let mut count = 0;
    let from = Instant::now();
    let stream = grpc::call(&mut connection, "/muxs.Greeter/LotsOfReplies");
    let ended = connection.run(stream, &mut request, &mut |_, content| {
        messages.feed(content, &mut |message| {
            // The greeting may be in any language.
            ensure!(message.length > NAME.len(), "a reply without a name");
            count += 1;
            Ok(())
        })
    })?;
    let span = Span::since(from);
    grpc::check_end(ended)?;
    amount.check(count)?;
    Ok(amount.report(span))
}

/// LotsOfGreetings: many names, one greeting.
pub(crate) fn greetings(greetings: &Greetings) -> Result<Report> {
    let Greetings {
        amount,
        names_bytes,
    } = greetings;
    let mut names = Repeated::new(&request(&"x".repeat(*names_bytes)), amount.messages);
    let mut connection = amount.server.connect(names.block())?;
    let mut messages = MessageScanner::default();
    let mut count = 0;
    let from = Instant::now();
    let stream = grpc::call(&mut connection, "/muxs.Greeter/LotsOfGreetings");
    let ended = connection.run(stream, &mut names, &mut |_, content| {
        messages.feed(content, &mut |_| {
            count += 1;
            Ok(())
        })
    })?;
    let span = Span::since(from);
    grpc::check_end(ended)?;
    ensure!(count == 1, "{count} answers");
    ensure!(names.is_empty(), "it was answered before its end");
    Ok(amount.report(span))
}

/// BidiHello: a greeting for each name.
pub(crate) fn bidi(bidi: &Bidi) -> Result<Report> {
    match bidi.pipelined {
        true => pipelined(&bidi.amount),
        false => ping_pong(&bidi.amount),
    }
}

fn pipelined(amount: &Amount) -> Result<Report> {
    let mut names = Repeated::new(&request(NAME), amount.messages);
    let mut connection = amount.server.connect(names.block())?;
    let mut replies = Replies::to(NAME);
    let from = Instant::now();
    let stream = grpc::call(&mut connection, "/muxs.Greeter/BidiHello");
    let ended = connection.run(stream, &mut names, &mut |_, content| replies.feed(content))?;
    let span = Span::since(from);
    grpc::check_end(ended)?;
    amount.check(replies.count)?;
    Ok(amount.report(span))
}

fn ping_pong(amount: &Amount) -> Result<Report> {
    let mut connection = amount.server.connect(Arc::new([]))?;
    let mut replies = Replies::to(NAME);
    let mut times = Vec::with_capacity(amount.messages as usize);
    let from = Instant::now();
    let stream = grpc::call(&mut connection, "/muxs.Greeter/BidiHello");
    for number in 1..=amount.messages {
        let sent = Instant::now();
        let mut name = Once::message(&request(NAME), number == amount.messages);
        while replies.count < number {
            let open = connection.stream_end(stream).is_none();
            ensure!(
                open,
                "the stream has ended after {} messages",
                replies.count
            );
            connection.send(stream, &mut name)?;
            connection.exchange(&mut |_, content| replies.feed(content))?;
        }
        times.push(sent.elapsed());
    }
    let ended = connection.run(stream, &mut Nothing, &mut |_, content| {
        replies.feed(content)
    })?;
    let span = Span::since(from);
    grpc::check_end(ended)?;
    amount.check(replies.count)?;
    times.sort_unstable();
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    Ok(Report {
        p50_us: Some(microseconds(times[times.len() / 2])),
        p99_us: Some(microseconds(times[times.len() * 99 / 100])),
        ..amount.report(span)
    })
}

/// Counts the greetings that are received, and checks them.
pub(crate) struct Replies {
    messages: MessageScanner,
    /// The expected reply, encoded.
    reply: Vec<u8>,
    pub(crate) count: u32,
}

impl Replies {
    /// Expects greetings of `name`.
    pub(crate) fn to(name: &str) -> Self {
        let message = format!("Hello, {name}!");
        Self {
            messages: MessageScanner::default(),
            reply: HelloReply { message }.encode_to_vec(),
            count: 0,
        }
    }

    pub(crate) fn feed(&mut self, content: &[u8]) -> Result<()> {
        self.messages.feed(content, &mut |message| {
            ensure!(message.start == self.reply, "not the reply to its name");
            self.count += 1;
            Ok(())
        })
    }
}

/// A request to greet `name`.
pub(crate) fn request(name: &str) -> HelloRequest {
    HelloRequest {
        name: name.to_owned(),
        ..HelloRequest::default()
    }
}
