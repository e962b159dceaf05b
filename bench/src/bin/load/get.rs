//! Downloads a file by plain HTTP, from a web server.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use muxs_bench::{Report, Span};

use crate::{
    Server,
    http2::{Connection, Nothing, StreamEnd},
    streams,
};

/// The size of the receive buffer.
const BUFFER_BYTES: usize = 256 << 10;

/// Which file, and how.
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("version").required(true)))]
pub(crate) struct Get {
    #[command(flatten)]
    server: Server,
    /// Path of the file on the server, with a slash in front
    #[arg(long)]
    path: String,
    /// Size of the file
    #[arg(long, value_name = "COUNT")]
    bytes: u64,
    /// How many streams at once, each on a connection of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    streams: usize,
    /// By HTTP/1.1
    #[arg(long, group = "version")]
    http1: bool,
    /// By HTTP/2, without TLS
    #[arg(long, group = "version")]
    http2: bool,
}

/// Gets the file.
pub(crate) fn get(get: &Get) -> Result<Report> {
    let streams = 0..get.streams;
    let span = if get.http1 {
        let connect = |_| Ok(TcpStream::connect(get.server.address)?);
        let sockets = streams.map(connect).collect::<Result<_>>()?;
        streams::run_concurrently(sockets, |socket| get.http1(socket))?
    } else {
        let connect = |_| get.server.connect(Arc::new([]));
        let connections = streams.map(connect).collect::<Result<_>>()?;
        streams::run_concurrently(connections, |connection| get.http2(connection))?
    };
    Ok(Report {
        bytes: get.bytes * get.streams as u64,
        seconds: span.duration().as_secs_f64(),
        ..Report::default()
    })
}

impl Get {
    fn http1(&self, mut socket: TcpStream) -> Result<Span> {
        socket.set_nodelay(true)?;
        let request = format!("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", self.path);
        let mut buffer = vec![0; BUFFER_BYTES];
        let from = Instant::now();
        socket.write_all(request.as_bytes())?;
        let (head, begun) = head(&mut socket, &mut buffer)?;
        check(&head, self.bytes)?;
        let mut bytes = begun;
        while bytes < self.bytes {
            match socket.read(&mut buffer)? {
                0 => bail!("the server has closed the connection after {bytes} bytes"),
                more => bytes += more as u64,
            }
        }
        let span = Span::since(from);
        ensure!(bytes == self.bytes, "{bytes} bytes");
        Ok(span)
    }

    fn http2(&self, mut connection: Connection) -> Result<Span> {
        let headers = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", &self.path),
            (":authority", "localhost"),
        ];
        let mut bytes = 0;
        let from = Instant::now();
        let stream = connection.request(&headers, false);
        let ended = connection.run(stream, &mut Nothing, &mut |_, content| {
            bytes += content.len() as u64;
            Ok(())
        })?;
        let span = Span::since(from);
        ensure!(bytes == self.bytes, "{bytes} bytes");
        ensure!(ended == StreamEnd::WithData, "a file with trailers");
        Ok(span)
    }
}

/// Receives the head of a response.
///
/// Returns the head in lower case, and the number of content bytes received with it.
fn head(socket: &mut TcpStream, buffer: &mut [u8]) -> Result<(String, u64)> {
    let end = b"\r\n\r\n";
    let mut length = 0;
    loop {
        match socket.read(&mut buffer[length..])? {
            0 => bail!("an answer without an end of its head"),
            more => length += more,
        }
        let received = &buffer[..length];
        if let Some(at) = received.windows(end.len()).position(|bytes| bytes == end) {
            let content = length - at - end.len();
            let head = String::from_utf8_lossy(&received[..at]).to_ascii_lowercase();
            return Ok((head, content as u64));
        }
    }
}

/// Checks that a head announces a file of that size.
fn check(head: &str, bytes: u64) -> Result<()> {
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    ensure!(status.starts_with("http/1.1 200 "), "{status}");
    let length = lines.find_map(|line| line.strip_prefix("content-length:"));
    let length: u64 = length
        .context("an answer without its length")?
        .trim()
        .parse()?;
    ensure!(length == bytes, "{length} bytes");
    Ok(())
}
