//! Many calls over some connections, from one thread.

use std::time::Instant;

use anyhow::{Context, Result};
use muxs_bench::Span;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::{
    grpc,
    http2::{Connection, Source},
};

/// One of many calls: its request, and what has been received of its answer.
pub(crate) trait Call {
    const PATH: &'static str;

    fn request(&mut self) -> &mut impl Source;

    /// Takes the next content of the answer.
    fn receive(&mut self, content: &[u8]) -> Result<()>;

    /// Checks the answer after its end. A failed call ends like any other, but lacks the answer.
    fn check(&self) -> Result<()>;
}

/// Makes all calls, with at most `streams` at a time on each connection.
pub(crate) fn run<C: Call>(
    connections: Vec<Connection>,
    streams: u16,
    mut calls: impl Iterator<Item = C>,
) -> Result<Span> {
    let mut clients: Vec<_> = connections.into_iter().map(Client::new).collect();
    let from = Instant::now();
    for client in &mut clients {
        client.begin(calls.by_ref().take(streams.into()))?;
    }
    loop {
        clients.retain(|client| !client.running.is_empty());
        if clients.is_empty() {
            return Ok(Span::since(from));
        }
        let mut ready: Vec<_> = clients.iter().map(Client::awaited).collect();
        match poll(&mut ready, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let ready: Vec<_> = ready.iter().map(PollFd::revents).collect();
        for (client, ready) in clients.iter_mut().zip(ready) {
            if ready.is_empty() {
                continue;
            }
            // A socket that accepts bytes, and has none to receive, would block `exchange`.
            let ended = match ready {
                PollFlags::OUT => 0,
                _ => client.receive()?,
            };
            client.begin(calls.by_ref().take(ended))?;
        }
    }
}

/// A connection, and its running calls.
struct Client<C> {
    connection: Connection,
    running: Vec<Running<C>>,
}

struct Running<C> {
    stream: u32,
    call: C,
}

impl<C: Call> Client<C> {
    fn new(connection: Connection) -> Self {
        let running = Vec::new();
        Self {
            connection,
            running,
        }
    }

    /// The events to wait for.
    fn awaited(&self) -> PollFd<'_> {
        let flags = match self.connection.has_queued() {
            true => PollFlags::IN | PollFlags::OUT,
            false => PollFlags::IN,
        };
        PollFd::new(self.connection.socket(), flags)
    }

    /// Receives answers, and returns the number of calls that have ended.
    fn receive(&mut self) -> Result<usize> {
        let Self {
            connection,
            running,
        } = self;
        connection.exchange(&mut |stream, content| {
            let running = running.iter_mut().find(|running| running.stream == stream);
            let running = running.context("content of a call that is over")?;
            running.call.receive(content)
        })?;
        let before = running.len();
        let has_ended = |one: &mut Running<C>| connection.stream_end(one.stream).is_some();
        for Running { stream, call } in running.extract_if(.., has_ended) {
            let ended = connection.stream_end(stream);
            grpc::check_end(ended.context("a call that goes on")?)?;
            call.check()?;
        }
        Ok(before - self.running.len())
    }

    /// Begins calls, and sends what the socket accepts of all requests.
    fn begin(&mut self, calls: impl Iterator<Item = C>) -> Result<()> {
        for call in calls {
            let stream = grpc::call(&mut self.connection, C::PATH);
            self.running.push(Running { stream, call });
        }
        // Includes requests that a flow-control window has held back. All are sent together.
        for Running { stream, call } in &mut self.running {
            self.connection.enqueue(*stream, call.request());
        }
        self.connection.flush()
    }
}
