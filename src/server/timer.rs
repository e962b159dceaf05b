//! Timeouts that are armed and disarmed often, and seldom elapse.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// The longest timeout: longer ones would overflow `Instant`.
const MAX_TIMEOUT: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A timeout that registers a timer only when it is polled while armed, and reuses the timer when it is
/// armed again.
#[derive(Debug, Default)]
pub(super) struct LazyTimeout {
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl LazyTimeout {
    /// A timeout that is armed.
    pub(super) fn at(deadline: Instant) -> Self {
        Self {
            deadline: Some(deadline),
            timer: None,
        }
    }

    /// Arms the timeout, unless it is armed.
    pub(super) fn arm(&mut self, timeout: Duration) {
        self.deadline.get_or_insert_with(|| deadline_after(timeout));
    }

    pub(super) fn disarm(&mut self) {
        self.deadline = None;
    }

    /// Whether the deadline has passed. Registers no timer.
    pub(super) fn has_elapsed(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Completes at the deadline; pending while disarmed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            // The timer may still be set to an earlier deadline that was disarmed.
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

/// The instant after `timeout`, which may be of any length.
pub(super) fn deadline_after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(MAX_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn disarmed_timeout_does_not_shorten_the_next() {
        let mut timeout = LazyTimeout::default();
        timeout.arm(SECOND);
        assert_eq!(poll_fn(|cx| timeout.poll(cx)).now_or_never(), None);
        tokio::time::advance(SECOND / 2).await;
        timeout.disarm();
        let begin = Instant::now();
        timeout.arm(SECOND);
        timeout.arm(10 * SECOND);
        poll_fn(|cx| timeout.poll(cx)).await;
        assert_eq!(begin.elapsed(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn unarmed_timeout_never_elapses() {
        let mut timeout = LazyTimeout::default();
        assert_eq!(poll_fn(|cx| timeout.poll(cx)).now_or_never(), None);
        timeout.arm(Duration::MAX);
        assert_eq!(poll_fn(|cx| timeout.poll(cx)).now_or_never(), None);
    }
}
