//! Many calls of SayHello over many connections, from one thread.
//!
//! This is what h2load does, except that HTTP/2 indexes the access token, which h2load forbids.

use std::sync::Arc;

use anyhow::{Result, ensure};
use muxs_bench::Report;

use crate::{
    greeter::{self, Amount, Replies},
    grpc::Once,
    http2::Source,
    many::{self, Call},
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
    let connect = |_| amount.server.connect_with(Arc::new([]), RECV_BUFFER_BYTES);
    let connections = (0..hellos.connections)
        .map(connect)
        .collect::<Result<_>>()?;
    let calls = (0..amount.messages).map(|_| Hello {
        name: Once::whole(&greeter::request(NAME)),
        replies: Replies::to(NAME),
    });
    let span = many::run(connections, hellos.streams, calls)?;
    Ok(amount.report(span))
}

struct Hello {
    name: Once,
    replies: Replies,
}

impl Call for Hello {
    const PATH: &'static str = "/muxs.Greeter/SayHello";

    fn request(&mut self) -> &mut impl Source {
        &mut self.name
    }

    fn receive(&mut self, content: &[u8]) -> Result<()> {
        self.replies.feed(content)
    }

    fn check(&self) -> Result<()> {
        let count = self.replies.count;
        ensure!(count == 1, "a call was answered with {count} greetings");
        Ok(())
    }
}
