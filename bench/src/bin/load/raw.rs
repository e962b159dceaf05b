//! Transfers over bare TCP, without a protocol.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Instant,
};

use anyhow::{Result, ensure};
use muxs_bench::{Report, Span, noise};

use crate::streams;

/// The most bytes that one system call moves.
const BUFFER_BYTES: usize = 256 << 10;

/// How much, and how often.
#[derive(clap::Args, Debug)]
pub(crate) struct Raw {
    /// Where the server listens
    #[arg(long)]
    address: SocketAddr,
    /// How much each stream moves
    #[arg(long, value_name = "COUNT")]
    bytes: u64,
    /// How many connections at once
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    streams: usize,
}

impl Raw {
    fn run(&self, stream: impl Fn(TcpStream) -> Result<Span> + Sync) -> Result<Report> {
        let connect = |_| Ok(TcpStream::connect(self.address)?);
        let sockets = (0..self.streams).map(connect).collect::<Result<_>>()?;
        let span = streams::run_concurrently(sockets, |socket| {
            socket.set_nodelay(true)?;
            stream(socket)
        })?;
        Ok(Report {
            bytes: self.bytes * self.streams as u64,
            seconds: span.duration().as_secs_f64(),
            ..Report::default()
        })
    }
}

/// Receives what the server sends.
pub(crate) fn read(raw: &Raw) -> Result<Report> {
    raw.run(|mut socket| {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut bytes = 0;
        let from = Instant::now();
        loop {
            match socket.read(&mut buffer)? {
                0 => break,
                more => bytes += more as u64,
            }
        }
        let span = Span::since(from);
        ensure!(bytes == raw.bytes, "{bytes} bytes");
        Ok(span)
    })
}

/// Sends bytes, and waits until the server acknowledges all of them.
pub(crate) fn write(raw: &Raw) -> Result<Report> {
    let hot = noise(BUFFER_BYTES);
    raw.run(|mut socket| {
        let mut rest = raw.bytes;
        let from = Instant::now();
        while rest > 0 {
            let next = rest.min(BUFFER_BYTES as u64);
            socket.write_all(&hot[..next as usize])?;
            rest -= next;
        }
        socket.shutdown(Shutdown::Write)?;
        socket.read_exact(&mut [0])?;
        Ok(Span::since(from))
    })
}
