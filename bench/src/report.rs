use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use serde::Serialize;

/// The time that a request took.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The first byte of the request.
    pub from: Instant,
    /// The last byte of the answer.
    pub to: Instant,
}

impl Span {
    /// The span from `from` until now.
    pub fn since(from: Instant) -> Self {
        let to = Instant::now();
        Self { from, to }
    }

    /// The shortest span that contains both.
    pub fn union(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            to: self.to.max(other.to),
        }
    }

    /// The length of the span.
    pub fn duration(self) -> Duration {
        self.to - self.from
    }
}

/// A measurement, which a program prints as one line of JSON.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Bytes of files, without the overhead of protocols.
    pub bytes: u64,
    /// gRPC messages in both directions.
    pub messages: u64,
    /// Time from the first byte of a request to the end of the last stream.
    pub seconds: f64,
    /// Median of the round trips, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<f64>,
    /// 99th percentile of the round trips, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<f64>,
}

impl Report {
    /// Prints the report to standard output.
    pub fn print(&self) -> io::Result<()> {
        let line = serde_json::to_string(self)?;
        writeln!(io::stdout(), "{line}")
    }
}
