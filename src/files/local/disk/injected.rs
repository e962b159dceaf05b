//! Failures that a test injects into the calls of its own thread.

use std::{cell::RefCell, io};

use rustix::io::Errno;

thread_local! {
    static PLAN: RefCell<Plan> = RefCell::default();
}

#[derive(Default)]
struct Plan {
    /// The calls since the plan began.
    calls: Vec<&'static str>,
    /// The number of the call that fails, and how.
    failure: Option<(usize, Errno)>,
}

pub(super) fn check(call: &'static str) -> io::Result<()> {
    PLAN.with_borrow_mut(|plan| {
        let number = plan.calls.len();
        plan.calls.push(call);
        match plan.failure {
            Some((failing, error)) if failing == number => Err(error.into()),
            _ => Ok(()),
        }
    })
}

/// Runs `work`, in which the call of that number fails. Returns its result, and the calls that it made.
pub(in crate::files::local) fn run<T>(
    failure: Option<(usize, Errno)>,
    work: impl FnOnce() -> T,
) -> (T, Vec<&'static str>) {
    let calls = Vec::new();
    PLAN.set(Plan { calls, failure });
    let result = work();
    (result, PLAN.take().calls)
}
