//! A conversation over one BidiHello call: each name that you enter is greeted.
//!
//!     cargo run --example bidi_chat
//!     printf 'Ada\nGrace\n' | cargo run --example bidi_chat
//!
//! Watch: type or paste several lines at once: each reply appears above what you have typed so far. From or to a
//! pipe, one line in is one line out, and a long input waits in the pipe while the call is busy.

mod support;

use std::error::Error;
use std::io::{self, BufRead, IsTerminal, Write};
use std::{mem, process::ExitCode, thread};

use muxs::pb::{HelloReply, HelloRequest, greeter_client::GreeterClient};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustyline_async::{Readline, ReadlineEvent};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Streaming;

/// The number of names that are read before the call takes them. Few: a long input waits in the pipe.
const NAMES_AHEAD: usize = 16;

/// The exit codes that a shell reports for a program that ended by SIGINT and SIGTERM.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

#[tokio::main]
async fn main() -> Result<ExitCode, support::Failed> {
    let mut greeter = GreeterClient::new(support::connect().await?);
    let (names, outgoing) = mpsc::channel(NAMES_AHEAD);
    let requests = ReceiverStream::new(outgoing).map(|name| HelloRequest {
        name,
        ..Default::default()
    });
    let replies = greeter.bidi_hello(requests).await?.into_inner();
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let conversation = async {
        match is_terminal {
            true => on_terminal(names, replies).await,
            false => through_pipe(names, replies).await,
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    // Dropping the conversation drops both streams, which cancels the call.
    let code = tokio::select! {
        ended = conversation => return Ok(ended?),
        _ = tokio::signal::ctrl_c() => INTERRUPTED,
        _ = terminate.recv() => TERMINATED,
    };
    if is_terminal {
        eprintln!(); // The shell's prompt gets a line of its own.
    }
    Ok(ExitCode::from(code))
}

async fn on_terminal(
    names: mpsc::Sender<String>,
    mut replies: Streaming<HelloReply>,
) -> Result<ExitCode, Box<dyn Error>> {
    eprintln!("Enter sends a name. Ctrl-D ends after the last reply, Ctrl-C cancels at once.");
    // Lines typed before this program had the terminal, such as while cargo was building.
    let input = io::stdin();
    let mut line = String::new();
    while poll(
        &mut [PollFd::new(&input, PollFlags::IN)],
        Some(&Timespec::default()),
    )? > 0
        && input.read_line(&mut line)? > 0
    {
        let _ = names.send(mem::take(&mut line).trim_end().to_owned()).await;
    }
    let (mut readline, mut above_prompt) = Readline::new("> ".to_owned())?;
    readline.should_print_line_on(true, false);
    let ended = loop {
        tokio::select! {
            event = readline.readline() => match event? {
                ReadlineEvent::Line(name) if name.is_empty() => {}
                ReadlineEvent::Line(name) => {
                    readline.add_history_entry(name.clone());
                    // This fails only after the call has ended, and then `replies` has the reason.
                    let _ = names.send(name).await;
                }
                ReadlineEvent::Eof => break None,
                ReadlineEvent::Interrupted => break Some(Ok(ExitCode::from(INTERRUPTED))),
            },
            reply = replies.message() => match reply {
                Ok(Some(reply)) => writeln!(above_prompt, "{}", reply.message)?,
                Ok(None) => break Some(Ok(ExitCode::SUCCESS)),
                Err(status) => break Some(Err(status.into())),
            },
        }
    };
    // Prints the replies so far, and removes the prompt.
    readline.flush()?;
    drop(readline);
    if let Some(ended) = ended {
        return ended;
    }
    // The half-close: the server sends the last replies, and ends the call.
    drop(names);
    while let Some(reply) = replies.message().await? {
        println!("{}", reply.message);
    }
    Ok(ExitCode::SUCCESS)
}

async fn through_pipe(
    names: mpsc::Sender<String>,
    mut replies: Streaming<HelloReply>,
) -> Result<ExitCode, Box<dyn Error>> {
    // A thread that nothing waits for, because the next line may never come.
    let (unreadable, input_error) = oneshot::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            match line.map(|name| names.blocking_send(name)) {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(error) => return drop(unreadable.send(error)),
            }
        }
    });
    let print_replies = async {
        while let Some(reply) = replies.message().await? {
            match writeln!(io::stdout(), "{}", reply.message) {
                // The reader of the pipe has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                written => written?,
            }
        }
        Ok(ExitCode::SUCCESS)
    };
    tokio::select! {
        biased;
        Ok(error) = input_error => Err(format!("cannot read standard input: {error}").into()),
        ended = print_replies => ended,
    }
}
