//! Streams that run at the same time.

use std::{sync::Barrier, thread};

use anyhow::{Context, Result, anyhow};
use muxs_bench::Span;

/// Runs `stream` on each prepared item, on a thread of its own. Returns the span of all streams.
pub(crate) fn run_concurrently<T: Send>(
    prepared: Vec<T>,
    stream: impl Fn(T) -> Result<Span> + Sync,
) -> Result<Span> {
    let start = Barrier::new(prepared.len());
    let run = |one| {
        start.wait();
        stream(one)
    };
    let spans: Result<Vec<Span>> = thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = prepared
            .into_iter()
            .map(|one| scope.spawn(move || run(one)))
            .collect();
        let panicked = |_| Err(anyhow!("a thread panicked"));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(panicked))
            .collect()
    });
    let span = spans?.into_iter().reduce(Span::union);
    span.context("no stream at all")
}
