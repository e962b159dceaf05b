//! Holds idle connections open, to measure the server's memory for each.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use anyhow::{Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::{
    Server, greeter,
    grpc::{self, MessageScanner, Once},
    http2::Connection,
};

/// The size of the receive buffer: next to nothing is received.
const RECV_BUFFER_BYTES: usize = 4096;

/// The number of connections and streams.
#[derive(clap::Args, Debug)]
pub(crate) struct Idle {
    #[command(flatten)]
    server: Server,
    /// How many connections
    #[arg(long, value_name = "COUNT")]
    connections: usize,
    /// How many open streams of BidiHello on each of them; one message goes back and forth on each
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    streams: usize,
}

/// Opens the connections, reports that they are ready, and holds them until standard input ends.
pub(crate) fn idle(idle: &Idle) -> Result<()> {
    // Each connection takes a file descriptor.
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..limit })?;
    let connect = |_| idle.connection();
    let mut connections = (0..idle.connections)
        .map(connect)
        .collect::<Result<Vec<_>>>()?;
    writeln!(io::stdout(), r#"{{"ready":true}}"#)?;
    hold(&mut connections)
}

impl Idle {
    fn connection(&self) -> Result<Connection> {
        let mut connection = self.server.connect_with(Arc::new([]), RECV_BUFFER_BYTES)?;
        for _ in 0..self.streams {
            let stream = grpc::call(&mut connection, "/muxs.Greeter/BidiHello");
            let mut name = Once::message(&greeter::request("Margaret"), false);
            connection.send(stream, &mut name)?;
            let mut messages = MessageScanner::default();
            let mut answered = false;
            while !answered {
                connection.exchange(&mut |_, content| {
                    messages.feed(content, &mut |_| {
                        answered = true;
                        Ok(())
                    })
                })?;
                let open = connection.stream_end(stream).is_none();
                ensure!(open, "the stream has ended");
            }
        }
        Ok(connection)
    }
}

/// Answers PING and SETTINGS frames of the server.
fn hold(connections: &mut [Connection]) -> Result<()> {
    let mut stdin = io::stdin();
    loop {
        let sockets = connections
            .iter()
            .map(|connection| PollFd::new(connection.socket(), PollFlags::IN));
        let mut ready: Vec<_> = sockets.collect();
        ready.push(PollFd::new(&stdin, PollFlags::IN));
        poll(&mut ready, None)?;
        let ready: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (connection, ready) in connections.iter_mut().zip(&ready) {
            if *ready {
                connection.exchange(&mut |_, _| anyhow::bail!("an answer to nothing"))?;
            }
        }
        if ready.last() == Some(&true) && stdin.read(&mut [0])? == 0 {
            return Ok(());
        }
    }
}
