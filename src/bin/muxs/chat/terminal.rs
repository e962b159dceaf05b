//! The chat of a person: a line to type at the bottom of a terminal, and the replies above it.

use std::{
    io::{self, Write},
    pin::pin,
};

use crossterm::{
    event::EventStream,
    terminal::{disable_raw_mode, enable_raw_mode, size},
};
use muxs::pb::HelloReply;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::Streaming;

use super::{
    editor::{Input, LineEditor},
    ending::{ChatError, Ending, STOPPING},
};

const HELP: &str = "Type a name and press Enter. Ctrl-D ends the chat, Ctrl-C cancels it.";

pub(super) async fn converse(
    names: mpsc::Sender<String>,
    mut replies: Streaming<HelloReply>,
    stopping: impl Future<Output = ()>,
) -> Result<Ending, ChatError> {
    let cannot = |error| ChatError::Io("use the terminal", error);
    let mut screen = Screen::open().map_err(cannot)?;
    let mut keys = EventStream::new();
    let mut stopping = pin!(stopping);
    let (mut next, mut is_stopping) = (None, false);
    loop {
        tokio::select! {
            // Full only if the call stalls. The next keys wait, and replies are still shown.
            permit = names.reserve(), if next.is_some() => {
                // Refused only when the call is over: `replies` has the reason.
                if let (Ok(permit), Some(name)) = (permit, next.take()) {
                    permit.send(name);
                }
            }
            key = keys.next(), if next.is_none() => {
                // A terminal that is closed.
                let Some(key) = key else { return Ok(Ending::Interrupted) };
                let (input, output) = screen.editor.handle(&key.map_err(cannot)?);
                screen.write(&output).map_err(cannot)?;
                match input {
                    None => {}
                    Some(Input::Line(name)) => next = Some(name),
                    Some(Input::End) => break,
                    Some(Input::Interrupt) => return Ok(Ending::Interrupted),
                }
            },
            reply = replies.message() => match reply? {
                Some(reply) => screen.print(&reply.message).map_err(cannot)?,
                None => return Ok(Ending::Complete),
            },
            () = &mut stopping, if !is_stopping => {
                is_stopping = true;
                screen.print(STOPPING).map_err(cannot)?;
            }
        }
    }
    drop(screen);
    // No further request: the server sends what is left, and ends the call.
    drop(names);
    while let Some(reply) = replies.message().await? {
        println!("{}", reply.message);
    }
    Ok(Ending::Complete)
}

/// The terminal, whose keys arrive one by one. Dropping it removes the prompt and restores the terminal.
struct Screen {
    editor: LineEditor,
}

impl Screen {
    fn open() -> io::Result<Self> {
        let (columns, _) = size()?;
        enable_raw_mode()?;
        let mut screen = Self {
            editor: LineEditor::new(columns),
        };
        // What was typed ahead is on the line, and will be drawn behind the prompt.
        screen.print(HELP)?;
        Ok(screen)
    }

    /// Prints a line above the prompt.
    fn print(&mut self, line: &str) -> io::Result<()> {
        let line: String = line.chars().filter(|char| !char.is_control()).collect();
        let output = format!("{}{line}\r\n{}", self.editor.erase(), self.editor.draw());
        self.write(&output)
    }

    fn write(&mut self, output: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(output.as_bytes())?;
        stdout.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let erased = self.editor.erase();
        let _ = self.write(&erased);
        let _ = disable_raw_mode();
    }
}
