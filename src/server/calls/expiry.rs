//! When the server ends a call.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use tonic::Status;

use super::status;
use crate::{
    commit_point::CommitPoint,
    server::{metrics::Limit, timer::LazyTimeout},
};

/// Time for a call to answer that has passed its commit point when its time is over. A sync of a busy disk
/// takes seconds; a longer one is more likely a disk that hangs.
const COMMIT_GRACE: Duration = Duration::from_secs(10);

/// When the server ends a call, and with which status.
pub(super) struct Expiry {
    pub(super) timer: LazyTimeout,
    pub(super) status: fn() -> Status,
    /// The limit that sets the time, if it is the server's.
    pub(super) limit: Option<Limit>,
    /// The point after which the call is not ended without its answer, if its method has one.
    pub(super) commit_point: Option<CommitPoint>,
    /// Whether the timer is that of [`COMMIT_GRACE`].
    pub(super) is_in_grace: bool,
}

impl Expiry {
    /// Whether the call is over. Registers no timer.
    pub(super) fn has_elapsed(&mut self) -> bool {
        self.timer.has_elapsed() && !self.begin_grace()
    }

    /// Completes when the call is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.poll(cx));
            if !self.begin_grace() {
                return Poll::Ready(());
            }
        }
    }

    /// The status of a call that is over.
    pub(super) fn status(&self) -> Status {
        match self.is_in_grace {
            false => (self.status)(),
            true => status::after_commit(&(self.status)()),
        }
    }

    /// Ends the call at its commit point. True if the call has passed it, the first time.
    fn begin_grace(&mut self) -> bool {
        let is_ended = self.commit_point.as_ref().is_none_or(CommitPoint::end);
        if is_ended || self.is_in_grace {
            return false;
        }
        self.is_in_grace = true;
        self.timer.disarm();
        self.timer.arm(COMMIT_GRACE);
        true
    }
}
