//! Many calls of SayHello over many connections, from one thread.
//!
//! This is what h2load does, except that HTTP/2 indexes the access token, which h2load forbids.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use muxs_bench::{Report, Span};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::{
    greeter::{self, Amount, Replies},
    grpc::{self, Once},
    http2::Connection,
};

/// The size of the receive buffer. The answers of one moment fit.
const RECV_BUFFER_BYTES: usize = 16 << 10;

/// The name to greet: the one that `constant` answers.
const NAME: &str = "name";

/// The number of calls and connections.
#[derive(clap::Args, Debug)]
pub(crate) struct Hellos {
    #[command(flatten)]
    amount: Amount,
    /// Over how many connections
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// How many calls at a time on each of them
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    streams: u16,
}

/// Calls SayHello until all messages are sent and answered.
pub(crate) fn hellos(hellos: &Hellos) -> Result<Report> {
    let amount = &hellos.amount;
    let connect = |_| Client::connect(hellos);
    let mut clients = (0..hellos.connections)
        .map(connect)
        .collect::<Result<Vec<_>>>()?;
    let mut remaining = amount.messages;
    let from = Instant::now();
    for client in &mut clients {
        client.call(hellos.streams, &mut remaining)?;
    }
    loop {
        clients.retain(|client| !client.calls.is_empty());
        if clients.is_empty() {
            return Ok(amount.report(Span::since(from)));
        }
        // Bytes that a socket has not accepted are sent when the next answer is received. There is a next answer,
        // because a full socket contains complete calls.
        let sockets = clients
            .iter()
            .map(|client| PollFd::new(client.connection.socket(), PollFlags::IN));
        let mut ready: Vec<_> = sockets.collect();
        match poll(&mut ready, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let ready: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (client, ready) in clients.iter_mut().zip(ready) {
            if ready {
                client.receive(&mut remaining)?;
            }
        }
    }
}

/// A connection, and its running calls.
struct Client {
    connection: Connection,
    calls: Vec<Call>,
}

struct Call {
    stream: u32,
    name: Once,
    replies: Replies,
}

impl Client {
    fn connect(hellos: &Hellos) -> Result<Self> {
        let server = &hellos.amount.server;
        Ok(Self {
            connection: server.connect_with(Arc::new([]), RECV_BUFFER_BYTES)?,
            calls: Vec::new(),
        })
    }

    /// Receives answers, and begins a call for each one that has ended.
    fn receive(&mut self, remaining: &mut u32) -> Result<()> {
        let Self { connection, calls } = self;
        connection.exchange(&mut |stream, content| {
            let call = calls.iter_mut().find(|call| call.stream == stream);
            let call = call.context("content of a call that is over")?;
            call.replies.feed(content)
        })?;
        let mut ended = 0;
        for call in calls.extract_if(.., |call| connection.stream_end(call.stream).is_some()) {
            call.check(connection)?;
            ended += 1;
        }
        self.call(ended, remaining)
    }

    /// Begins `count` calls, at most as many as remain.
    fn call(&mut self, count: u16, remaining: &mut u32) -> Result<()> {
        for _ in 0..(*remaining).min(count.into()) {
            *remaining -= 1;
            self.calls.push(Call {
                stream: grpc::call(&mut self.connection, "/muxs.Greeter/SayHello"),
                name: Once::whole(&greeter::request(NAME)),
                replies: Replies::to(NAME),
            });
        }
        // Includes requests that a flow-control window has held back. All are sent together.
        for Call { stream, name, .. } in &mut self.calls {
            self.connection.enqueue(*stream, name);
        }
        self.connection.flush()
    }
}

impl Call {
    fn check(&self, connection: &Connection) -> Result<()> {
        let ended = connection.stream_end(self.stream);
        grpc::check_end(ended.context("a call that goes on")?)?;
        let count = self.replies.count;
        // A failed call has trailers as well, but no greeting.
        ensure!(count == 1, "a call was answered with {count} greetings");
        Ok(())
    }
}
