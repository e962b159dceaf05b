//! The order of the calls that change something.
//!
//! A client that gave a call up may make the next one while the first still waits for a thread. The number of
//! a call, given when it arrives, and its commit point are looked at under the lock of what is changed, last
//! before the change.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{
    commit_point::CommitPoint,
    files::{
        error::Error,
        local::slots::{SlotRef, Slots},
        path::FilePath,
        upload::Precondition,
    },
};

/// A call's place in the order, and whether it may still act.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(super) number: u64,
    point: CommitPoint,
}

impl Turn {
    /// Fails if the call has ended.
    pub(super) fn check_live(&self) -> Result<(), Error> {
        match self.point.is_ended() {
            true => Err(Error::CallEnded),
            false => Ok(()),
        }
    }

    /// Begins the change. Fails if the call has ended; from here on it no longer ends without an answer.
    pub(super) fn act(&self) -> Result<(), Error> {
        self.point.pass().map_err(|_| Error::CallEnded)
    }
}

/// The file that a call is about to replace: its name, and the last calls that did.
#[derive(Debug)]
pub(crate) struct TargetRef(SlotRef<FilePath, LastTurns>);

/// The numbers of the last calls that replaced a file.
#[derive(Debug, Default)]
struct LastTurns {
    /// Of all calls.
    any: AtomicU64,
    /// Of those with a precondition.
    conditional: AtomicU64,
}

impl TargetRef {
    pub(super) fn path(&self) -> &FilePath {
        self.0.key()
    }

    /// Whether a later call has replaced the file, so that a call without a precondition counts as one that
    /// came right before it.
    ///
    /// Fails if the later call had a precondition: what it found there was not what this call would have left.
    pub(super) fn is_overtaken(&self, turn: &Turn) -> Result<bool, Error> {
        let is_later = |last: &AtomicU64| last.load(Ordering::Relaxed) > turn.number;
        match is_later(&self.0.conditional) {
            true => Err(Error::Overtaken),
            false => Ok(is_later(&self.0.any)),
        }
    }

    /// Records that the call has replaced the file.
    pub(super) fn replaced_by(&self, turn: &Turn, precondition: &Precondition) {
        self.0.any.fetch_max(turn.number, Ordering::Relaxed);
        if *precondition != Precondition::Anything {
            self.0.conditional.fetch_max(turn.number, Ordering::Relaxed);
        }
    }
}

/// Counts the calls.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: AtomicU64,
    targets: Slots<FilePath, LastTurns>,
}

impl Turns {
    pub(super) fn next(&self, point: CommitPoint) -> Turn {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        Turn { number, point }
    }

    /// Takes a name before its call has a number, so that no later call on it goes unnoticed.
    pub(super) fn target(&self, path: FilePath) -> TargetRef {
        TargetRef(self.targets.acquire(path))
    }
}
