//! Connections on which nothing happens, to see what each of them costs the server.

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
    grpc::{self, Messages, Once},
    http2::Connection,
};

/// How much is received at once, in bytes: next to nothing comes.
const INBOX: usize = 4096;

/// How many.
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

/// Opens the connections, says so, and holds them until standard input ends.
pub(crate) fn idle(idle: &Idle) -> Result<()> {
    // Each connection is a file to the system.
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
        let mut connection = self.server.connect_with(Arc::new([]), INBOX)?;
        for _ in 0..self.streams {
            let stream = grpc::call(&mut connection, "/muxs.Greeter/BidiHello");
            let mut name = Once::message(&greeter::request("Margaret"), false);
            connection.send(stream, &mut name)?;
            let mut messages = Messages::default();
            let mut answered = false;
            while !answered {
                connection.exchange(&mut |_, content| {
                    messages.feed(content, &mut |_| {
                        answered = true;
                        Ok(())
                    })
                })?;
                let open = connection.ended(stream).is_none();
                ensure!(open, "the stream has ended");
            }
        }
        Ok(connection)
    }
}

/// Answers what the server asks of its connections, such as whether they are still there.
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
