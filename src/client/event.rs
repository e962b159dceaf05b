//! What a transfer tells while it goes on.

use std::time::Duration;

use super::error::Error;

/// What happens to a transfer. Offsets and sizes are in bytes from the start of the file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The server answered: the transfer goes on at `offset`. Told once for each attempt.
    Opened {
        /// Where: 0 is from the start, more is a transfer that continues.
        offset: u64,
        /// The size of the whole file; unknown when a reader is uploaded.
        size: Option<u64>,
    },
    /// More has been sent or received. Told for each chunk, and each time more is durable.
    Advanced {
        /// How far it has been sent or received.
        transferred: u64,
        /// How far it would survive an interruption now.
        durable: u64,
    },
    /// An attempt failed; the next one follows after a while and continues where this one was.
    Retrying {
        /// Why it failed.
        error: Error,
        /// How long it waits.
        delay: Duration,
    },
    /// What was transferred before is of no use; the next attempt starts from 0.
    StartedOver {
        /// Why.
        reason: Error,
    },
    /// An earlier run has uploaded the same file and it is still there: nothing is sent.
    AlreadyUploaded,
}

/// Whoever wants to know.
#[derive(Default)]
pub(super) struct EventSink<'a>(Option<Box<dyn FnMut(Event) + Send + 'a>>);

impl<'a> EventSink<'a> {
    pub(super) fn new(watch: impl FnMut(Event) + Send + 'a) -> Self {
        Self(Some(Box::new(watch)))
    }

    pub(super) fn emit(&mut self, event: Event) {
        if let Some(watch) = &mut self.0 {
            watch(event);
        }
    }
}
