//! Many calls of SayHello over many connections, from one thread: what h2load does, but for the
//! access token, which h2load lets nobody index.

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

/// How much is received at once, in bytes: so many answers do not come.
const INBOX: usize = 16 << 10;

/// Who is greeted: whom `constant` answers.
const NAME: &str = "name";

/// How many calls.
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

/// SayHello: a name, and a greeting for it.
pub(crate) fn hellos(hellos: &Hellos) -> Result<Report> {
    let amount = &hellos.amount;
    let connect = |_| Caller::connect(hellos);
    let mut callers = (0..hellos.connections)
        .map(connect)
        .collect::<Result<Vec<_>>>()?;
    let mut unsaid = amount.messages;
    let from = Instant::now();
    for caller in &mut callers {
        caller.call(hellos.streams, &mut unsaid)?;
    }
    loop {
        callers.retain(|caller| !caller.calls.is_empty());
        if callers.is_empty() {
            return Ok(amount.report(Span::since(from)));
        }
        // What a socket has not taken yet goes out when an answer comes: one comes, for a socket
        // that is full has whole calls in it.
        let sockets = callers
            .iter()
            .map(|caller| PollFd::new(caller.connection.socket(), PollFlags::IN));
        let mut ready: Vec<_> = sockets.collect();
        match poll(&mut ready, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let ready: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (caller, ready) in callers.iter_mut().zip(ready) {
            if ready {
                caller.listen(&mut unsaid)?;
            }
        }
    }
}

/// A connection, and the calls on it that are not over.
struct Caller {
    connection: Connection,
    calls: Vec<Call>,
}

struct Call {
    stream: u32,
    name: Once,
    replies: Replies,
}

impl Caller {
    fn connect(hellos: &Hellos) -> Result<Self> {
        let server = &hellos.amount.server;
        Ok(Self {
            connection: server.connect_with(Arc::new([]), INBOX)?,
            calls: Vec::new(),
        })
    }

    /// Takes what has come, and calls again for each call that is over.
    fn listen(&mut self, unsaid: &mut u32) -> Result<()> {
        let Self { connection, calls } = self;
        connection.exchange(&mut |stream, content| {
            let call = calls.iter_mut().find(|call| call.stream == stream);
            let call = call.context("content of a call that is over")?;
            call.replies.feed(content)
        })?;
        let mut over = 0;
        for call in calls.extract_if(.., |call| connection.ended(call.stream).is_some()) {
            call.check(connection)?;
            over += 1;
        }
        self.call(over, unsaid)
    }

    /// Begins so many calls, if there are so many left.
    fn call(&mut self, count: u16, unsaid: &mut u32) -> Result<()> {
        for _ in 0..(*unsaid).min(count.into()) {
            *unsaid -= 1;
            self.calls.push(Call {
                stream: grpc::call(&mut self.connection, "/muxs.Greeter/SayHello"),
                name: Once::whole(&greeter::request(NAME)),
                replies: Replies::to(NAME),
            });
        }
        // Also those that a window has held back. All leave together.
        for Call { stream, name, .. } in &mut self.calls {
            self.connection.enqueue(*stream, name);
        }
        self.connection.flush()
    }
}

impl Call {
    fn check(&self, connection: &Connection) -> Result<()> {
        let ended = connection.ended(self.stream);
        grpc::check_end(ended.context("a call that goes on")?)?;
        let count = self.replies.count;
        // A call that fails has trailers, too, but no greeting.
        ensure!(count == 1, "a call was answered with {count} greetings");
        Ok(())
    }
}
