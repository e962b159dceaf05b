//! A conversation over one BidiHello call: say names, be greeted.
//!
//!     cargo run --example bidi_chat
//!     printf 'Ada\nGrace\n' | cargo run --example bidi_chat
//!
//! On a terminal, Ctrl-D ends the conversation when the last reply is there, and Ctrl-C cancels it.
//! From or to a pipe it is a name a line and a reply a line.

mod support;

use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
};

use clap::Parser;
use muxs::pb::{HelloReply, HelloRequest, greeter_client::GreeterClient};
use rustyline_async::{Readline, ReadlineEvent};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Streaming;

/// Names read ahead of the call. Few, so that a long input waits in the pipe and not in memory.
const NAMES_AHEAD: usize = 16;

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// The same for SIGTERM.
const TERMINATED: u8 = 143;

/// Greets the names that you say, over one call
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: support::ServerArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    support::exit(chat(Args::parse()).await)
}

async fn chat(args: Args) -> anyhow::Result<ExitCode> {
    let server = args.server.find_or_start().await?;
    let mut greeter = GreeterClient::new(server.connect().await?);

    // One call: names go in at one end, replies come out at the other, each at its own pace.
    let (names, outgoing) = mpsc::channel(NAMES_AHEAD);
    let requests = ReceiverStream::new(outgoing).map(|name| HelloRequest {
        name,
        ..Default::default()
    });
    let replies = greeter.bidi_hello(requests).await?.into_inner();

    let conversation = async {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            on_terminal(names, replies).await
        } else {
            through_pipe(names, replies).await
        }
    };
    // Dropping both ends cancels the call, and gives the terminal back as it was.
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = conversation => ended,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(INTERRUPTED)),
        _ = terminate.recv() => Ok(ExitCode::from(TERMINATED)),
    }
}

async fn on_terminal(
    names: mpsc::Sender<String>,
    mut replies: Streaming<HelloReply>,
) -> anyhow::Result<ExitCode> {
    eprintln!("Say a name. Ctrl-D ends the conversation, Ctrl-C cancels it.");
    let (mut readline, mut above_prompt) = Readline::new("> ".to_owned())?;
    loop {
        tokio::select! {
            event = readline.readline() => match event? {
                ReadlineEvent::Line(name) => {
                    readline.add_history_entry(name.clone());
                    // Refused only when the call is over; then `replies` tells why.
                    let _ = names.send(name).await;
                }
                ReadlineEvent::Eof => break,
                // Here Ctrl-C is a key like any other.
                ReadlineEvent::Interrupted => return Ok(ExitCode::from(INTERRUPTED)),
            },
            reply = replies.message() => match reply? {
                Some(reply) => writeln!(above_prompt, "{}", reply.message)?,
                None => return Ok(ExitCode::SUCCESS),
            },
        }
    }
    readline.flush()?;
    drop(readline);
    // No further request: the server sends what is left, and ends the call.
    drop(names);
    while let Some(reply) = replies.message().await? {
        println!("{}", reply.message);
    }
    Ok(ExitCode::SUCCESS)
}

async fn through_pipe(
    names: mpsc::Sender<String>,
    mut replies: Streaming<HelloReply>,
) -> anyhow::Result<ExitCode> {
    let mut lines = stdin_lines();
    let send = async {
        while let Some(line) = lines.recv().await {
            if names.send(line?).await.is_err() {
                break;
            }
        }
        drop(names);
        io::Result::Ok(())
    };
    let receive = async {
        let mut stdout = io::stdout();
        while let Some(reply) = replies.message().await? {
            match writeln!(stdout, "{}", reply.message) {
                // Whoever read has had enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                written => written?,
            }
        }
        anyhow::Ok(())
    };
    // The call is over when the replies are, however much input there still is.
    tokio::select! {
        received = receive => received?,
        Err(error) = send => anyhow::bail!("cannot read standard input: {error}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The lines of standard input, read by a thread that nobody waits for: one that Tokio knew would
/// keep the program from ending until the next line comes.
fn stdin_lines() -> mpsc::Receiver<io::Result<String>> {
    let (lines, read) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    read
}
