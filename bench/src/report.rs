use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use serde::Serialize;

/// When something was done.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The first byte of the request.
    pub from: Instant,
    /// The last byte of the answer.
    pub to: Instant,
}

impl Span {
    /// From then until now.
    pub fn since(from: Instant) -> Self {
        let to = Instant::now();
        Self { from, to }
    }

    /// The shortest that has both in it.
    pub fn with(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            to: self.to.max(other.to),
        }
    }

    /// How long it is.
    pub fn length(self) -> Duration {
        self.to - self.from
    }
}

/// What was measured: the one line of JSON that a program prints.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Of files, without what it takes to send them.
    pub bytes: u64,
    /// Of gRPC, those that came and those that went.
    pub messages: u64,
    /// From the first byte of a request to the end of the last stream.
    pub seconds: f64,
    /// Half of the round trips were faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<f64>,
    /// One round trip of a hundred was slower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<f64>,
}

impl Report {
    /// Prints it.
    pub fn print(&self) -> io::Result<()> {
        let line = serde_json::to_string(self)?;
        writeln!(io::stdout(), "{line}")
    }
}
