//! What is told of a transfer: a bar on a terminal, sentences, or JSON.

use std::{
    error::Error as _,
    io::{self, Write},
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use muxs::{
    client::{Error, Event},
    pb::FileInfo,
};
use serde_json::{Value, json};

use crate::support::advice;

/// How often JSON tells how far it is.
const JSON_PAUSE: Duration = Duration::from_millis(500);

const BAR: &str = "{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
const BAR_WITHOUT_SIZE: &str = "{msg} {spinner} {bytes}, {bytes_per_sec}";

/// Tells how one transfer goes.
pub(crate) struct Report {
    json: bool,
    quiet: bool,
    bar: ProgressBar,
    started: Instant,
    /// Where this run began, in bytes; none before it did, or if there was nothing to do.
    began_at: Option<u64>,
    json_at: Option<Instant>,
}

impl Report {
    pub(crate) fn new(verb: &'static str, json: bool, quiet: bool) -> anyhow::Result<Self> {
        // Not drawn unless standard error is a terminal.
        let bar = match json || quiet {
            true => ProgressBar::hidden(),
            false => ProgressBar::no_length(),
        };
        bar.set_style(ProgressStyle::with_template(BAR_WITHOUT_SIZE)?);
        bar.set_message(verb);
        Ok(Self {
            json,
            quiet,
            bar,
            started: Instant::now(),
            began_at: None,
            json_at: None,
        })
    }

    pub(crate) fn event(&mut self, event: Event) {
        match &event {
            Event::Opened { offset, size } => {
                if let Some(size) = size {
                    self.bar.set_length(*size);
                    if let Ok(style) = ProgressStyle::with_template(BAR) {
                        self.bar.set_style(style.progress_chars("=> "));
                    }
                }
                self.began_at.get_or_insert(*offset);
                self.bar.set_position(*offset);
                self.bar.reset_eta();
            }
            Event::Advanced { transferred, .. } => self.bar.set_position(*transferred),
            Event::StartedOver { .. } => self.began_at = None,
            _ => {}
        }
        if self.json {
            self.event_as_json(&event);
        } else if let Some(sentence) = sentence(&event) {
            self.say(&sentence);
        }
    }

    fn event_as_json(&mut self, event: &Event) {
        let is_due = |last: Instant| last.elapsed() >= JSON_PAUSE;
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
                json!({"event": "retrying", "error": told(error), "delay_ms": delay.as_millis()})
            }
            Event::StartedOver { reason } => {
                json!({"event": "started_over", "reason": told(reason)})
            }
            Event::AlreadyUploaded => json!({"event": "already_there"}),
            _ => return,
        };
        self.print(&line);
    }

    /// Says what is going on, on standard error.
    pub(crate) fn say(&self, sentence: &str) {
        if !self.json && !self.quiet {
            self.bar.suspend(|| eprintln!("{sentence}"));
        }
    }

    /// Says how it ended: to `out`, in `words` or as JSON.
    pub(crate) fn done(&self, info: &FileInfo, words: &str, out: impl Write) {
        self.bar.finish_and_clear();
        if self.json {
            let seconds = self.started.elapsed().as_secs_f64();
            self.print(
                &json!({"event": "done", "filename": info.filename, "size": info.size,
                "etag": info.etag, "seconds": seconds}),
            );
        } else if !self.quiet {
            print_line(out, words);
        }
    }

    pub(crate) fn failed(&self, error: &Error) {
        self.bar.finish_and_clear();
        if self.json {
            self.print(&json!({"event": "failed", "error": told(error),
                "code": error.code().map(|code| code as i32), "reason": error.reason()}));
        }
        let advice = error.code().map_or("", advice);
        eprintln!("Failed: {}.{advice}", told(error));
    }

    fn print(&self, line: &Value) {
        if !self.quiet {
            print_line(io::stdout(), &line.to_string());
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What this run has moved of a file, in how much time.
    pub(crate) fn rate(&self, size: u64) -> String {
        let Some(began_at) = self.began_at else {
            return HumanBytes(size).to_string();
        };
        let moved = size.saturating_sub(began_at);
        let all = match began_at {
            0 => String::new(),
            _ => format!("{}, the last ", HumanBytes(size)),
        };
        format!("{all}{}", rate(moved, self.elapsed()))
    }
}

/// Whoever read may have had enough; the transfer is not worse for it.
pub(crate) fn print_line(mut out: impl Write, line: &str) {
    let _ = writeln!(out, "{line}");
}

fn sentence(event: &Event) -> Option<String> {
    Some(match event {
        Event::Opened {
            offset: 1..,
            size: None,
        } => "Resumed.".to_owned(),
        Event::Opened {
            offset: offset @ 1..,
            size: Some(size),
        } => format!(
            "Resumed at {} of {}.",
            HumanBytes(*offset),
            HumanBytes(*size)
        ),
        Event::Retrying {
            error,
            delay: Duration::ZERO,
            ..
        } => format!("Trying again: {}.", told(error)),
        Event::Retrying { error, delay, .. } => {
            format!("Trying again in {delay:.1?}: {}.", told(error))
        }
        Event::StartedOver { reason } => format!("Started over: {}.", told(reason)),
        Event::AlreadyUploaded => "It is there already.".to_owned(),
        _ => return None,
    })
}

/// A failure and what caused it, as one sentence.
pub(crate) fn told(error: &Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

/// Bytes and seconds as a person reads them.
fn rate(bytes: u64, time: Duration) -> String {
    let megabytes = bytes as f64 / 1e6 / time.as_secs_f64().max(1e-9);
    format!("{} in {time:.2?}, {megabytes:.0} MB/s", HumanBytes(bytes))
}
