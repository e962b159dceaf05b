//! The command line: moves files to a server and back, and chats with its greeter.

mod abort;
mod args;
mod chat;
mod connection;
mod failure;
mod get;
mod probe;
mod put;
mod report;
mod stat;

use std::{io, panic, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

use self::{
    args::{Args, Command},
    connection::Connection,
    failure::Failure,
    report::{Report, report_error},
};

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// The same for SIGTERM.
const TERMINATED: u8 = 143;

fn main() -> ExitCode {
    let args = Args::parse_or_exit();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            report_error(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // On a thread of the runtime: from the main thread, each message would cost a switch of threads.
    let ended = runtime.block_on(runtime.spawn(run_until_signal(args)));
    // Does not wait for a read of standard input.
    runtime.shutdown_background();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => panic::resume_unwind(error.into_panic()),
    }
}

/// Returns the exit code.
async fn run_until_signal(args: Args) -> u8 {
    let words = match &args.command {
        Command::Chat => None,
        command if command.can_continue() => Some(" The same command continues."),
        _ => Some(""),
    };
    // Dropping the command cancels its call, and clears its line of the terminal. What is durable stays.
    let (ended, code) = tokio::select! {
        code = run(args) => return code,
        signalled = stop_signal() => match signalled {
            Ok(ended) => ended,
            Err(error) => {
                report_error(&format!("cannot handle signals: {error}"));
                return 1;
            }
        },
    };
    if let Some(words) = words {
        eprintln!("{ended}.{words}");
    }
    code
}

/// Completes at SIGINT or SIGTERM, with the word for it and the exit code.
async fn stop_signal() -> io::Result<(&'static str, u8)> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => ("Interrupted", INTERRUPTED),
        _ = terminate.recv() => ("Terminated", TERMINATED),
    })
}

async fn run(args: Args) -> u8 {
    let mut report = Report::new(args.json, args.quiet);
    match run_command(&args, &mut report).await {
        Ok(code) => code,
        Err(failure) => {
            report.failed(&failure);
            match args.command {
                Command::Chat => 1,
                _ => failure.exit_code(),
            }
        }
    }
}

async fn run_command(args: &Args, report: &mut Report) -> Result<u8, Failure> {
    // A token that others could read on its way is refused before anything is sent.
    let connection = Connection::new(&args.server, &args.token)?;
    if let Command::Chat = args.command {
        connection.check_server().await?;
        return match chat::run(&connection).await? {
            chat::Ending::Complete => Ok(0),
            chat::Ending::Interrupted => Ok(INTERRUPTED),
        };
    }
    match &args.command {
        Command::Put(put) => put::run(&connection, put, report).await?,
        Command::Get(get) => get::run(&connection, get, report).await?,
        Command::Stat { remote } => stat::run(&connection, remote, report).await?,
        Command::Abort(abort) => abort::run(&connection, abort, report).await?,
        Command::Chat => {}
    }
    Ok(0)
}
