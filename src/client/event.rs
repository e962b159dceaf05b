//! Events of a transfer.

use std::time::Duration;

use super::error::Error;

/// An event of a transfer. Offsets and sizes are in bytes from the start of the file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The server answered, and the transfer continues at `offset`. Once for each attempt.
    Opened {
        /// 0 for a transfer from the start, more for one that is resumed.
        offset: u64,
        /// The size of the whole file, `None` for the upload of a reader.
        size: Option<u64>,
    },
    /// More bytes were sent, received or made durable. Once for each chunk and checkpoint.
    Advanced {
        /// The offset up to which bytes were sent or received.
        transferred: u64,
        /// The offset up to which bytes would survive an interruption.
        durable: u64,
    },
    /// An attempt failed. The next one follows after `delay` and continues where this one ended.
    Retrying {
        /// Why the attempt failed.
        error: Error,
        /// The time until the next attempt.
        delay: Duration,
        /// The number of the next attempt, of those that [`Retry::attempts`](super::Retry::attempts) allows without
        /// progress: 2 after the first failure. An attempt with another access token does not count.
        attempt: usize,
    },
    /// Bytes transferred so far, by this run or an earlier one, cannot be used. The next attempt starts from 0.
    StartedOver {
        /// Why they cannot be used.
        reason: Error,
    },
    /// An earlier run uploaded the same bytes, and the server still has that file: nothing is sent.
    ///
    /// The checksum of the file on the server is that of the local file, which was read for this.
    AlreadyUploaded,
}

/// Receives the events of a transfer, if a callback was set.
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
