//! How often, and how long after each other, the attempts of a transfer follow.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tonic::Code;

use super::{
    error::Error,
    event::{Event, Watcher},
    session::Caller,
};

/// When to try again, and when to give up. By default 8 attempts that get no further, 0.1 seconds
/// to 10 apart.
///
/// Tried again is what may pass: UNAVAILABLE, INTERNAL, DEADLINE_EXCEEDED, CANCELLED, a connection
/// that cannot be made or is lost, ABORTED but for `SUPERSEDED`, RESOURCE_EXHAUSTED with a
/// `RetryInfo`, damaged chunks, and an authorization server that cannot be reached.
///
/// UNAUTHENTICATED is tried again at once, with another token, if there can be one: once, until the
/// transfer gets further. A token that was asked for by the transfer, and refused before it got any
/// further, is not replaced.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// How many attempts in a row may fail without getting further. As many times in all may a
    /// transfer start over from 0. 1 is none again.
    pub attempts: usize,
    /// The first pause. Each is twice the one before it, and longer by a random part of itself.
    pub min_delay: Duration,
    /// The longest pause, but for the random part, and for a server that asks for more.
    pub max_delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 8,
            min_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(10),
        }
    }
}

impl Retry {
    fn delays(&self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(self.min_delay)
            .with_max_delay(self.max_delay)
            .with_max_times(self.attempts.saturating_sub(1))
            .build()
    }
}

/// The attempts of one transfer.
pub(super) struct Attempts {
    retry: Retry,
    delays: ExponentialBackoff,
    failed: usize,
    started_over: usize,
    furthest: u64,
    pub(super) caller: Caller,
}

impl Attempts {
    pub(super) fn new(retry: Retry, caller: Caller) -> Self {
        Self {
            delays: retry.delays(),
            retry,
            failed: 0,
            started_over: 0,
            furthest: 0,
            caller,
        }
    }

    /// Notes how far the transfer is. Further than ever, and the count of failures starts again.
    pub(super) fn reached(&mut self, offset: u64) {
        if offset > self.furthest {
            self.furthest = offset;
            self.caller.advanced();
            self.failed = 0;
            self.delays = self.retry.delays();
        }
    }

    /// Waits until the next attempt may follow one that failed, or says that there is none.
    pub(super) async fn failed(
        &mut self,
        mut error: Error,
        watcher: &mut Watcher<'_>,
    ) -> Result<(), Error> {
        if error.code() == Some(Code::Unauthenticated) {
            match self.caller.renew().await {
                Ok(true) => {
                    let delay = Duration::ZERO;
                    watcher.tell(Event::Retrying { error, delay });
                    return Ok(());
                }
                Ok(false) => return Err(error),
                Err(no_token) => error = no_token.into(),
            }
        }
        if !error.is_passing() {
            return Err(error);
        }
        self.failed += 1;
        let Some(delay) = self.delays.next() else {
            return Err(gave_up(self.failed, error));
        };
        let delay = delay.max(error.least_delay().unwrap_or_default());
        watcher.tell(Event::Retrying { error, delay });
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Notes that the transfer starts over from 0, which no progress makes legal for ever.
    pub(super) fn start_over(
        &mut self,
        reason: Error,
        watcher: &mut Watcher<'_>,
    ) -> Result<(), Error> {
        self.started_over += 1;
        if self.started_over >= self.retry.attempts {
            return Err(gave_up(self.started_over, reason));
        }
        self.furthest = 0;
        watcher.tell(Event::StartedOver { reason });
        Ok(())
    }
}

fn gave_up(attempts: usize, last: Error) -> Error {
    Error::GaveUp {
        attempts,
        last: Box::new(last),
    }
}
