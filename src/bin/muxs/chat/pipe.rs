//! The chat of a program: a name a line, a reply a line.

use std::{
    io::{self, BufRead, Write},
    pin::pin,
};

use muxs::pb::HelloReply;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::ending::{ChatError, STOPPING};

pub(super) async fn converse(
    names: mpsc::Sender<String>,
    mut replies: Streaming<HelloReply>,
    stopping: impl Future<Output = ()>,
) -> Result<(), ChatError> {
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
                // The program that reads the replies needs no more.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                written => {
                    written.map_err(|error| ChatError::Io("write standard output", error))?
                }
            }
        }
        Ok::<(), ChatError>(())
    };
    let (mut send, mut receive, mut stopping) = (pin!(send), pin!(receive), pin!(stopping));
    let (mut all_sent, mut is_stopping) = (false, false);
    // The call is over when the replies are, however much input is left.
    loop {
        tokio::select! {
            received = &mut receive => return received,
            sent = &mut send, if !all_sent => match sent {
                Ok(()) => all_sent = true,
                Err(error) => return Err(ChatError::Io("read standard input", error)),
            },
            () = &mut stopping, if !is_stopping => {
                is_stopping = true;
                eprintln!("{STOPPING}");
            }
        }
    }
}

/// The lines of standard input. They are read by a thread of their own: the program would wait for one of the
/// runtime, until the next line arrives.
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
