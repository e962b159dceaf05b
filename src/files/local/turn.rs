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

/// The file that a call is about to replace: its name, and the number of the last call that did.
#[derive(Debug)]
pub(crate) struct TargetRef(SlotRef<FilePath, AtomicU64>);

impl TargetRef {
    pub(super) fn path(&self) -> &FilePath {
        self.0.key()
    }

    /// Whether a later call has replaced the file.
    pub(super) fn is_overtaken(&self, turn: &Turn) -> bool {
        self.0.load(Ordering::Relaxed) > turn.number
    }

    /// Records that the call has replaced the file.
    pub(super) fn replaced_by(&self, turn: &Turn) {
        self.0.fetch_max(turn.number, Ordering::Relaxed);
    }
}

/// Counts the calls.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: AtomicU64,
    targets: Slots<FilePath, AtomicU64>,
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
