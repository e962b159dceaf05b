//! What a command prints: a progress line on a terminal, sentences, or JSON.

mod progress;
mod units;

use std::{
    env,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use muxs::{
    client::{Event, Retry},
    pb::FileInfo,
};
use serde_json::{Value, json};

use self::{
    progress::Progress,
    units::{bytes, duration},
};
use crate::failure::{Failure, with_causes};

/// The time between two JSON lines about progress.
const JSON_INTERVAL: Duration = Duration::from_millis(500);

/// Below this a rate says more about starting than about the path.
const MIN_RATED_TIME: Duration = Duration::from_millis(100);

const RED: &str = "\x1b[1;31m";
const RESET: &str = "\x1b[0m";

/// Reports how one command goes.
pub(crate) struct Report {
    json: bool,
    quiet: bool,
    /// One line of the terminal of standard error, `None` if there is none or it is not wanted.
    line: Option<ProgressBar>,
    progress: Progress,
    started: Instant,
    json_at: Option<Instant>,
    was_already_there: bool,
}

impl Report {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let has_line = !json && !quiet && io::stderr().is_terminal();
        let line = has_line.then(|| {
            let style = ProgressStyle::with_template("{wide_msg}");
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                .with_style(style.expect("the template is valid"))
        });
        Self {
            json,
            quiet,
            line,
            progress: Progress::new("", has_colours()),
            started: Instant::now(),
            json_at: None,
            was_already_there: false,
        }
    }

    /// Begins a transfer. `verb` is that of its progress line.
    pub(crate) fn begin(&mut self, verb: &'static str) {
        self.progress = Progress::new(verb, has_colours());
        self.started = Instant::now();
    }

    pub(crate) fn event(&mut self, event: Event) {
        if self.json {
            self.print_event(&event);
        }
        match &event {
            Event::Opened { offset, size } => {
                self.progress.opened(*offset, *size, Instant::now());
                if let Some(sentence) = resumed(*offset, *size) {
                    self.say(&sentence);
                }
                self.show_progress();
            }
            Event::Advanced {
                transferred,
                durable,
            } => {
                self.progress.advanced(*transferred, *durable);
                self.show_progress();
            }
            Event::Retrying {
                error,
                delay,
                attempt,
            } => {
                self.progress.disconnected(Instant::now());
                let sentence = retrying(&with_causes(error), *delay, *attempt);
                match &self.line {
                    Some(line) => line.set_message(sentence),
                    None => self.say(&sentence),
                }
            }
            Event::StartedOver { reason } => {
                self.progress.started_over();
                self.say(&format!("Starting over: {}.", with_causes(reason)));
            }
            Event::AlreadyUploaded => self.was_already_there = true,
            _ => {}
        }
    }

    fn print_event(&mut self, event: &Event) {
        let is_due = |last: Instant| last.elapsed() >= JSON_INTERVAL;
        let line = match event {
            Event::Opened { offset, size } => {
                json!({"event": "opened", "offset": offset, "size": size})
            }
            Event::Advanced { .. } if !self.json_at.is_none_or(is_due) => return,
            Event::Advanced {
                transferred,
                durable,
            } => {
                self.json_at = Some(Instant::now());
                json!({"event": "advanced", "transferred": transferred, "durable": durable})
            }
            Event::Retrying { error, delay, .. } => {
                json!({"event": "retrying", "error": with_causes(error), "delay_ms": delay.as_millis()})
            }
            Event::StartedOver { reason } => {
                json!({"event": "started_over", "reason": with_causes(reason)})
            }
            Event::AlreadyUploaded => json!({"event": "already_there"}),
            _ => return,
        };
        self.print_json(&line);
    }

    /// Reports a complete transfer: on standard output, unless that has the file.
    pub(crate) fn transferred(&mut self, info: &FileInfo, done: &str, to_stdout: bool) {
        let elapsed = self.started.elapsed();
        self.end();
        if self.json {
            let seconds = elapsed.as_secs_f64();
            self.print_json(
                &json!({"event": "done", "filename": info.filename, "size": info.size,
                "etag": info.etag, "seconds": seconds}),
            );
        } else if !self.quiet {
            let filename = &info.filename;
            let sentence = match self.was_already_there {
                true => format!("{filename} already there, unchanged: {}", bytes(info.size)),
                false => format!("{filename} {done}: {}", self.amount(info.size, elapsed)),
            };
            match to_stdout {
                true => print_line(io::stdout(), &sentence),
                false => print_line(io::stderr(), &sentence),
            }
        }
    }

    /// Describes what was transferred of a file of this size, and how fast.
    fn amount(&self, size: u64, elapsed: Duration) -> String {
        let Some((began_at, connected)) = self.progress.summary(Instant::now()) else {
            return bytes(size);
        };
        let moved = size.saturating_sub(began_at);
        let mut amount = match began_at {
            0 => bytes(size),
            _ => format!("{}, the last {}", bytes(size), bytes(moved)),
        };
        amount += &format!(" in {}", duration(elapsed));
        if connected >= MIN_RATED_TIME && moved > 0 {
            let rate = moved as f64 / connected.as_secs_f64();
            amount += &format!(", {}/s", bytes(rate as u64));
        }
        if self.progress.was_disconnected() {
            let waited = elapsed.saturating_sub(connected);
            amount += &format!(" ({} without a connection)", duration(waited));
        }
        amount
    }

    /// Reports what `stat` has found, even if the report is quiet.
    pub(crate) fn found(&mut self, info: &FileInfo) {
        self.end();
        let modified_at = info.modified_at.map(|time| time.to_string());
        let line = if self.json {
            json!({"event": "done", "filename": info.filename, "size": info.size,
                "etag": info.etag, "modified_at": modified_at})
            .to_string()
        } else {
            let size = match info.size {
                size @ ..1024 => format!("{size} bytes"),
                size => format!("{size} bytes ({})", bytes(size)),
            };
            let changed = info.modified_at.map(|mut time| {
                time.nanos = 0;
                format!(", changed {time}")
            });
            let changed = changed.unwrap_or_default();
            format!("{}: {size}{changed}, etag {}", info.filename, info.etag)
        };
        print_line(io::stdout(), &line);
    }

    /// Reports that the unfinished upload of `remote` is discarded.
    pub(crate) fn aborted(&mut self, remote: &str) {
        self.end();
        if self.json {
            self.print_json(&json!({"event": "done", "filename": remote}));
        } else if !self.quiet {
            let line = format!("{remote}: the unfinished upload is discarded");
            print_line(io::stdout(), &line);
        }
    }

    pub(crate) fn failed(&mut self, failure: &Failure) {
        self.end();
        if self.json {
            self.print_json(&json!({"event": "failed", "error": failure.sentence,
                "code": failure.code.map(|code| code as i32), "reason": failure.reason}));
        }
        report_error(&failure.sentence);
    }

    /// Removes the progress line.
    pub(crate) fn end(&mut self) {
        if let Some(line) = self.line.take() {
            line.finish_and_clear();
        }
    }

    fn show_progress(&self) {
        if let Some(line) = &self.line {
            line.set_message(self.progress.line(Instant::now()));
        }
    }

    /// Prints a sentence about what happens, above the progress line.
    fn say(&self, sentence: &str) {
        match &self.line {
            _ if self.json || self.quiet => {}
            Some(line) => line.suspend(|| eprintln!("{sentence}")),
            None => eprintln!("{sentence}"),
        }
    }

    fn print_json(&self, line: &Value) {
        if !self.quiet {
            print_line(io::stdout(), &line.to_string());
        }
    }
}

/// Prints the sentence of a failure on standard error.
pub(crate) fn report_error(sentence: &str) {
    match has_colours() {
        true => eprintln!("{RED}error:{RESET} {sentence}"),
        false => eprintln!("error: {sentence}"),
    }
}

/// Whether standard error takes colours (<https://no-color.org>).
fn has_colours() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stderr().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// A reader that has gone does not make the transfer a failure.
fn print_line(mut out: impl Write, line: &str) {
    let _ = writeln!(out, "{line}");
}

fn resumed(offset: u64, size: Option<u64>) -> Option<String> {
    match (offset, size) {
        (0, _) => None,
        (_, None) => Some(format!("Resumed at {}.", bytes(offset))),
        (_, Some(size)) => Some(format!("Resumed at {} of {}.", bytes(offset), bytes(size))),
    }
}

/// The number comes first: a terminal may have no room for all of the error.
fn retrying(error: &str, delay: Duration, attempt: usize) -> String {
    match delay {
        // With another access token.
        Duration::ZERO => format!("Trying again: {error}"),
        delay => format!(
            "Retrying in {:.1} s ({attempt} of {}): {error}",
            delay.as_secs_f64(),
            Retry::default().attempts
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_is_described_with_its_delay_and_number() {
        let words = retrying("no route", Duration::from_millis(170), 2);
        assert_eq!(words, "Retrying in 0.2 s (2 of 8): no route");
        assert_eq!(
            retrying("refused", Duration::ZERO, 1),
            "Trying again: refused"
        );
    }

    #[test]
    fn resumption_is_described_from_its_second_byte_on() {
        assert_eq!(resumed(0, Some(10)), None);
        let words = resumed(1024, Some(2048));
        assert_eq!(words.unwrap(), "Resumed at 1.00 KiB of 2.00 KiB.");
        assert_eq!(resumed(5, None).unwrap(), "Resumed at 5 B.");
    }
}
