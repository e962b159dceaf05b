//! The command line's arguments.

mod command;
mod server;
mod token;

use clap::{CommandFactory, Parser, error::ErrorKind};

pub(crate) use self::{
    command::{AbortArgs, Command, GetArgs, PutArgs},
    server::ServerArgs,
    token::TokenArgs,
};

/// Upload and download files, or chat with the greeter
#[derive(Parser)]
#[command(name = "muxs", version, after_help = AFTER_HELP, after_long_help = AFTER_LONG_HELP)]
pub(crate) struct Args {
    /// Print one JSON object a line instead of sentences; not for chat
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub(crate) json: bool,

    /// Print failures only, and what stat shows; not for chat
    #[arg(short, long, global = true, help_heading = OUTPUT)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) server: ServerArgs,

    #[command(flatten)]
    pub(crate) token: TokenArgs,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const OUTPUT: &str = "Output";

const AFTER_HELP: &str = "--help has more: examples, access tokens, JSON lines, exit codes.";

const AFTER_LONG_HELP: &str = "\
Examples:
  muxs put big.iso
      Upload a file; run again after an interruption, it continues
  muxs put big.iso images/
      Upload it as images/big.iso
  muxs get images/big.iso /tmp
      Download it into a folder
  tar c src | muxs put - backup/src.tar
      Upload what a program prints
  muxs abort big.iso
      Discard what an interrupted put has left on the server
  muxs chat --addr https://example.com
      Be greeted, line by line

Put and get continue where the same command was interrupted, unless they read
from or write to a pipe. No command starts a server.

JSON lines have an \"event\", and with it
  opened        offset, size (null when unknown): continues at offset, in bytes
  advanced      transferred, durable: in bytes, at most twice a second
  retrying      error, delay_ms
  started_over  reason
  already_there
  done          filename, size, etag, seconds (stat: modified_at instead of
                seconds; abort: filename alone)
  failed        error, code and reason (null for a failure of this side)

Exit codes: 0; 1 for a failure of this side, and for any failure of chat; 2 for
wrong arguments; 64 + the gRPC code of a call that failed, such as 69 NOT_FOUND
or 78 UNAVAILABLE; 130 when interrupted, 143 when terminated.
";

impl Args {
    /// Parses the arguments of this process. Invalid ones end it.
    pub(crate) fn parse_or_exit() -> Self {
        let args = Self::parse();
        if let Some((kind, problem)) = args.find_problem() {
            Self::command().error(kind, problem).exit();
        }
        args
    }

    /// Finds what the attributes of the arguments cannot express.
    fn find_problem(&self) -> Option<(ErrorKind, &'static str)> {
        match &self.command {
            Command::Chat if self.json || self.quiet => Some((
                ErrorKind::ArgumentConflict,
                "chat has no --json and no --quiet",
            )),
            Command::Get(get) if get.is_to_stdout() && self.json => Some((
                ErrorKind::ArgumentConflict,
                "--json prints to standard output, where the file would go",
            )),
            Command::Put(put) if put.is_from_stdin() && put.remote_is_folder() => Some((
                ErrorKind::InvalidValue,
                "standard input has no name: REMOTE has to be a file, and ends without a slash",
            )),
            Command::Abort(abort) if abort.is_of_stdin() => Some((
                ErrorKind::InvalidValue,
                "no command continues an upload of standard input: --upload-id names one to discard",
            )),
            _ => None,
        }
    }
}
