//! The point from which a call has its effect, whether or not it ends in time.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

const LIVE: u8 = 0;
const PASSED: u8 = 1;
const ENDED: u8 = 2;

/// Decides between a handler, which is about to make its change, and its server, which is about to end the
/// call: whichever comes first excludes the other. Clones are the same point, on any thread.
///
/// The server puts one into the extensions of the requests of a method with
/// [`MethodPolicy::commits`](crate::server::MethodPolicy::commits). A handler that finds none, as in a test, may
/// use [`CommitPoint::default`], whose call never ends.
#[derive(Clone, Debug, Default)]
pub struct CommitPoint(Arc<AtomicU8>);

/// The call has ended. Its client may know that already, so nothing must be changed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call has ended")]
pub struct CallEnded;

impl CommitPoint {
    /// Passes the point: from now on the call counts as made. A handler does so directly before its change is
    /// visible to others, and again as often as it likes.
    ///
    /// # Errors
    ///
    /// The call has ended, so that the handler must not make its change.
    pub fn pass(&self) -> Result<(), CallEnded> {
        match self.leave_live(PASSED) {
            LIVE | PASSED => Ok(()),
            _ => Err(CallEnded),
        }
    }

    /// Whether the call has ended without having passed the point. Work for it may then stop.
    pub fn is_ended(&self) -> bool {
        self.0.load(Ordering::Acquire) == ENDED
    }

    /// Ends the call, unless it has passed the point. Returns whether it is ended.
    pub fn end(&self) -> bool {
        self.leave_live(ENDED) != PASSED
    }

    /// Changes the state if it is live. Returns the state before.
    fn leave_live(&self, state: u8) -> u8 {
        self.0
            .compare_exchange(LIVE, state, Ordering::AcqRel, Ordering::Acquire)
            .unwrap_or_else(|before| before)
    }
}

/// Ends a call when it is dropped: its client no longer waits for it.
pub(crate) struct EndOnDrop(pub(crate) CommitPoint);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use super::*;

    #[test]
    fn call_that_passed_is_not_ended() {
        let point = CommitPoint::default();
        assert!(!point.is_ended());
        assert_eq!(point.pass(), Ok(()));
        assert!(!point.end());
        assert!(!point.is_ended());
        assert_eq!(point.pass(), Ok(()), "again");
    }

    #[test]
    fn call_that_ended_does_not_pass() {
        let point = CommitPoint::default();
        let handlers = point.clone();
        assert!(point.end());
        assert!(handlers.is_ended());
        assert_eq!(handlers.pass(), Err(CallEnded));
        assert!(point.end(), "again");
    }

    #[test]
    fn exactly_one_of_pass_and_end_wins_a_race() {
        const RACES: usize = 5_000;
        let points: Vec<_> = (0..RACES).map(|_| CommitPoint::default()).collect();
        let start = Barrier::new(2);
        let (passed, ended) = thread::scope(|scope| {
            let pass = scope.spawn(|| {
                let race = points.iter().map(|point| {
                    start.wait();
                    point.pass().is_ok()
                });
                race.collect::<Vec<_>>()
            });
            let end = scope.spawn(|| {
                let race = points.iter().map(|point| {
                    start.wait();
                    point.end()
                });
                race.collect::<Vec<_>>()
            });
            (pass.join().unwrap(), end.join().unwrap())
        });
        for ((point, passed), ended) in points.iter().zip(passed).zip(ended) {
            assert_ne!(passed, ended);
            assert_eq!(point.is_ended(), ended);
        }
    }
}
