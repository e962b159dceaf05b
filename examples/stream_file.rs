//! Files of any size, to a server and back, past whatever comes between.
//!
//!     cargo run --example stream_file
//!     cargo run --example stream_file -- put big.iso
//!     cargo run --example stream_file -- get big.iso copy.iso
//!
//! Without an argument it makes a file, uploads it over a connection that is cut half-way,
//! downloads it and compares. A `put` or `get` that was interrupted continues when it is run again.
//! Results are printed to standard output, what is going on to standard error.

#[path = "stream_file/cut.rs"]
mod cut;
#[path = "stream_file/demo.rs"]
mod demo;
#[path = "stream_file/report.rs"]
mod report;
mod support;
#[path = "stream_file/transfer.rs"]
mod transfer;

use std::{panic, process::ExitCode};

use bytesize::ByteSize;
use clap::{Parser, Subcommand};

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Moves files to a server and back; without a command, shows on a file of its own how
#[derive(Parser)]
#[command(after_help = AFTER_HELP)]
struct Args {
    #[command(flatten)]
    server: support::ServerArgs,

    /// Print one JSON object a line instead of sentences
    #[arg(long, global = true)]
    json: bool,

    /// Print nothing but failures
    #[arg(short, long, global = true)]
    quiet: bool,

    /// The size of the demonstration's file
    #[arg(long, default_value = "256MiB")]
    size: ByteSize,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Send a local file, or continue to
    Put {
        /// The file to send; - is standard input
        local: String,
        /// Its name on the server [default: the local file's name]
        #[arg(required_if_eq("local", "-"))]
        remote: Option<String>,
        /// Fail if the server has a file of that name, instead of replacing it
        #[arg(long)]
        create_only: bool,
    },
    /// Receive a file, or continue to
    Get {
        /// Its name on the server
        remote: String,
        /// Where to put it; - is standard output [default: the remote name's last component]
        local: Option<String>,
    },
    /// Say what a file on the server is
    Stat {
        /// Its name on the server
        remote: String,
    },
}

const AFTER_HELP: &str = "\
Put and get continue where the same command was interrupted before, unless they
read from or write to a pipe. They never start a server of their own.

JSON lines have an \"event\", and with it
  opened        offset, size (null when unknown): goes on at offset, in bytes
  advanced      transferred, durable: in bytes, at most twice a second
  retrying      error, delay_ms
  started_over  reason
  already_there
  done          filename, size, etag, seconds (stat: without seconds)
  failed        error, code and reason (null for a failure of this side)

Exit codes: 0; 1 for a failure of this side; 2 for wrong arguments; 64 + the
gRPC code of a call that failed, such as 69 NOT_FOUND or 78 UNAVAILABLE; 130
when interrupted.
";

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return support::exit(Err(error.into())),
    };
    // On a thread of the runtime: the main one is not, and would be asked to for each message.
    let result = runtime.block_on(runtime.spawn(run(args)));
    // Not waiting for a read of standard input that nobody needs any more.
    runtime.shutdown_background();
    match result {
        Ok(result) => support::exit(result),
        Err(error) => panic::resume_unwind(error.into_panic()),
    }
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let continues = match &args.command {
        Some(Command::Put { local, .. }) => local != "-",
        Some(Command::Get { local, .. }) => local.as_deref() != Some("-"),
        Some(Command::Stat { .. }) | None => false,
    };
    let work = async {
        match args.command {
            Some(command) => transfer::run(&args.server, command, args.json, args.quiet).await,
            None => demo::run(&args.server, args.size.as_u64(), args.json, args.quiet).await,
        }
    };
    // Dropping the transfer cancels its call; what is durable stays.
    tokio::select! {
        ended = work => ended,
        _ = tokio::signal::ctrl_c() => {
            match continues {
                true => eprintln!("Interrupted. The same command continues."),
                false => eprintln!("Interrupted."),
            }
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}
