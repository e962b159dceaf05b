//! The retry policy of transfers.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tonic::Code;

use super::{
    error::Error,
    event::{Event, EventSink},
    session::Session,
};

/// When a failed attempt is retried.
///
/// The default is 8 attempts without progress, 0.1 to 10 seconds apart.
///
/// Transient failures are retried: UNAVAILABLE, INTERNAL, DEADLINE_EXCEEDED, CANCELLED, a connection that
/// cannot be made or is lost, ABORTED except for `SUPERSEDED`, RESOURCE_EXHAUSTED with a `RetryInfo`,
/// damaged chunks, and an authorization server that cannot be reached.
///
/// UNAUTHENTICATED is retried at once with another token, if there can be one: once, until the transfer
/// makes progress. A token that the transfer requested, and that is refused before any progress, is not
/// replaced.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// The number of attempts in a row that may fail without progress. 1 means no retry.
    ///
    /// Also the number of times, in all, that a transfer may start over from 0. Starting over because of
    /// what an earlier run has left on the server does not count.
    pub attempts: usize,
    /// The first delay. Each delay is twice the one before it, plus a random part of itself.
    pub min_delay: Duration,
    /// The longest delay, before the random part is added. A server may ask for a longer one.
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
    /// The number of failures since the last progress.
    failures: usize,
    restarts: usize,
    furthest_offset: u64,
    pub(super) session: Session,
}

impl Attempts {
    pub(super) fn new(retry: Retry, session: Session) -> Self {
        Self {
            delays: retry.delays(),
            retry,
            failures: 0,
            restarts: 0,
            furthest_offset: 0,
            session,
        }
    }

    /// Records that the transfer has reached `offset`. Progress renews the retry budget.
    pub(super) fn record_progress(&mut self, offset: u64) {
        if offset > self.furthest_offset {
            self.furthest_offset = offset;
            self.session.record_progress();
            self.failures = 0;
            self.delays = self.retry.delays();
        }
    }

    /// Waits until the next attempt may start.
    ///
    /// # Errors
    ///
    /// `error` is permanent, or the retry budget is exhausted.
    pub(super) async fn wait_to_retry(
        &mut self,
        mut error: Error,
        events: &mut EventSink<'_>,
    ) -> Result<(), Error> {
        if error.code() == Some(Code::Unauthenticated) {
            match self.session.renew_token().await {
                Ok(true) => {
                    let delay = Duration::ZERO;
                    let attempt = self.failures + 1;
                    events.emit(Event::Retrying {
                        error,
                        delay,
                        attempt,
                    });
                    return Ok(());
                }
                Ok(false) => return Err(error),
                Err(no_token) => error = no_token.into(),
            }
        }
        if !error.is_transient() {
            return Err(error);
        }
        self.failures += 1;
        let Some(delay) = self.delays.next() else {
            return Err(retries_exhausted(self.failures, error));
        };
        let delay = delay.max(error.retry_delay().unwrap_or_default());
        events.emit(Event::Retrying {
            error,
            delay,
            attempt: self.failures + 1,
        });
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Restarts the transfer from 0. Progress does not renew the budget for this.
    ///
    /// # Errors
    ///
    /// The transfer has started over too often.
    pub(super) fn start_over(
        &mut self,
        reason: Error,
        events: &mut EventSink<'_>,
    ) -> Result<(), Error> {
        self.restarts += 1;
        if self.restarts >= self.retry.attempts {
            return Err(retries_exhausted(self.restarts, reason));
        }
        self.furthest_offset = 0;
        events.emit(Event::StartedOver { reason });
        Ok(())
    }
}

fn retries_exhausted(attempts: usize, last: Error) -> Error {
    Error::RetriesExhausted {
        attempts,
        last: Box::new(last),
    }
}
