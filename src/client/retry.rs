//! How often, and how long after each other, the attempts of a transfer follow.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tonic::Code;

use super::{
    error::Error,
    event::{Event, EventSink},
    session::Session,
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
    pub(super) session: Session,
}

impl Attempts {
    pub(super) fn new(retry: Retry, session: Session) -> Self {
        Self {
            delays: retry.delays(),
            retry,
            failed: 0,
            started_over: 0,
            furthest: 0,
            session,
        }
    }

    /// Notes how far the transfer is. Further than ever, and the count of failures starts again.
    pub(super) fn record_progress(&mut self, offset: u64) {
        if offset > self.furthest {
            self.furthest = offset;
            self.session.record_progress();
            self.failed = 0;
            self.delays = self.retry.delays();
        }
    }

    /// Waits until the next attempt may follow one that failed, or says that there is none.
    pub(super) async fn wait_to_retry(
        &mut self,
        mut error: Error,
        events: &mut EventSink<'_>,
    ) -> Result<(), Error> {
        if error.code() == Some(Code::Unauthenticated) {
            match self.session.renew_token().await {
                Ok(true) => {
                    let delay = Duration::ZERO;
                    events.emit(Event::Retrying { error, delay });
                    return Ok(());
                }
                Ok(false) => return Err(error),
                Err(no_token) => error = no_token.into(),
            }
        }
        if !error.is_transient() {
            return Err(error);
        }
        self.failed += 1;
        let Some(delay) = self.delays.next() else {
            return Err(retries_exhausted(self.failed, error));
        };
        let delay = delay.max(error.retry_delay().unwrap_or_default());
        events.emit(Event::Retrying { error, delay });
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Notes that the transfer starts over from 0, which no progress makes legal for ever.
    pub(super) fn start_over(
        &mut self,
        reason: Error,
        events: &mut EventSink<'_>,
    ) -> Result<(), Error> {
        self.started_over += 1;
        if self.started_over >= self.retry.attempts {
            return Err(retries_exhausted(self.started_over, reason));
        }
        self.furthest = 0;
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
