//! Patience with a client.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Later than anything here is waited for, and soon enough to be counted from now.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A timeout that begins and ends often and seldom passes: only a wait that is polled costs a
/// timer, and the next one takes it over.
#[derive(Debug, Default)]
pub(super) struct Wait {
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Wait {
    /// A wait that has begun.
    pub(super) fn until(time: Instant) -> Self {
        Self {
            until: Some(time),
            timer: None,
        }
    }

    /// Begins, unless it has begun.
    pub(super) fn begin(&mut self, timeout: Duration) {
        self.until.get_or_insert_with(|| after(timeout));
    }

    pub(super) fn end(&mut self) {
        self.until = None;
    }

    /// Whether the time has passed, for who does not wait.
    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Ready when the time has passed; pending as long as nothing is waited for.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        loop {
            ready!(timer.as_mut().poll(cx));
            // It may be that of a wait that has ended.
            if timer.deadline() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

/// The time after `timeout`, of any length.
pub(super) fn after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(FOREVER)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_ended_does_not_shorten_the_next() {
        let mut wait = Wait::default();
        wait.begin(SECOND);
        assert_eq!(poll_fn(|cx| wait.poll(cx)).now_or_never(), None);
        tokio::time::advance(SECOND / 2).await;
        wait.end();
        let begin = Instant::now();
        wait.begin(SECOND);
        wait.begin(10 * SECOND);
        poll_fn(|cx| wait.poll(cx)).await;
        assert_eq!(begin.elapsed(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_wait_is_never_over() {
        let mut wait = Wait::default();
        assert_eq!(poll_fn(|cx| wait.poll(cx)).now_or_never(), None);
        wait.begin(Duration::MAX);
        assert_eq!(poll_fn(|cx| wait.poll(cx)).now_or_never(), None);
    }
}
