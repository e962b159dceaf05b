//! The one client of all servers: puts load on them, and measures the time.
//!
//! Its HTTP/2 is written by hand, so that the client is never the bottleneck. An incomplete answer is an error
//! instead of a measurement.

mod files;
mod get;
mod greeter;
mod grpc;
mod hellos;
mod http2;
mod idle;
mod many;
mod protobuf;
mod raw;
mod small_files;
mod streams;
mod tonic_client;

use std::{fs, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use clap::Parser;

use files::Transfer;
use get::Get;
use greeter::{Amount, Bidi, Greetings};
use hellos::Hellos;
use http2::Connection;
use idle::Idle;
use raw::Raw;
use small_files::SmallFiles;
use tonic_client::Check;

/// The size of a connection's receive buffer, which should stay in the cache of one core.
const RECV_BUFFER_BYTES: usize = 256 << 10;

/// Measures a server, and prints a line of JSON.
#[derive(Debug, Parser)]
enum Load {
    /// Read a file with ReadStream
    Read(Transfer),
    /// Write a file with WriteStream
    Write(Transfer),
    /// Write many small files, each with a call of its own
    SmallFiles(SmallFiles),
    /// Get a file over plain HTTP
    Get(Get),
    /// Receive bytes over bare TCP
    RawRead(Raw),
    /// Send bytes over bare TCP
    RawWrite(Raw),
    /// Call SayHello many times
    Hellos(Hellos),
    /// Receive many messages with LotsOfReplies
    Replies(Amount),
    /// Send many messages with LotsOfGreetings
    Greetings(Greetings),
    /// Send and receive many messages with BidiHello
    Bidi(Bidi),
    /// Send and receive many messages with BidiHello, through the client that tonic generates
    OwnBidi(Amount),
    /// Hold open connections until standard input ends
    Idle(Idle),
    /// Read a file with ReadStream, and check every byte of it
    Check(Check),
}

/// The server's address, and what each connection sends first.
#[derive(clap::Args, Debug)]
struct Server {
    /// Where the server listens
    #[arg(long)]
    address: SocketAddr,
    /// The largest frame that the server may send
    #[arg(long, value_name = "COUNT", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(16_384..1 << 24))]
    frame_bytes: u32,
    /// A file with an access token, which each call sends; HTTP/2 indexes it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Server {
    fn connect(&self, shared: Arc<[u8]>) -> Result<Connection> {
        self.connect_with(shared, RECV_BUFFER_BYTES)
    }

    /// Connects with a receive buffer of another size, in bytes.
    fn connect_with(&self, shared: Arc<[u8]>, recv_buffer: usize) -> Result<Connection> {
        let mut connection = Connection::open(self.address, self.frame_bytes, shared, recv_buffer)?;
        connection.authorize(self.authorization()?);
        Ok(connection)
    }

    /// Returns the value of the `authorization` header, if there is a token.
    fn authorization(&self) -> Result<Option<String>> {
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let token = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(Some(format!("Bearer {}", token.trim())))
    }
}

fn main() -> ExitCode {
    match run(Load::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(load: Load) -> Result<()> {
    let report = match load {
        Load::Read(transfer) => files::read(&transfer)?,
        Load::Write(transfer) => files::write(&transfer)?,
        Load::SmallFiles(small) => small_files::write(&small)?,
        Load::Get(get) => get::get(&get)?,
        Load::RawRead(raw) => raw::read(&raw)?,
        Load::RawWrite(raw) => raw::write(&raw)?,
        Load::Hellos(hellos) => hellos::hellos(&hellos)?,
        Load::Replies(amount) => greeter::replies(&amount)?,
        Load::Greetings(greetings) => greeter::greetings(&greetings)?,
        Load::Bidi(bidi) => greeter::bidi(&bidi)?,
        Load::OwnBidi(amount) => tonic_client::bidi(&amount)?,
        Load::Idle(idle) => return idle::idle(&idle),
        Load::Check(check) => tonic_client::check(&check)?,
    };
    report.print()?;
    Ok(())
}
