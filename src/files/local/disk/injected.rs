//! Failures and interruptions that a test injects into the calls of its own thread.

use std::{cell::RefCell, io};

use rustix::io::Errno;

thread_local! {
    static PLAN: RefCell<Plan> = RefCell::default();
}

#[derive(Default)]
struct Plan {
    /// The calls since the plan began.
    calls: Vec<&'static str>,
    /// The number of the call that does not simply happen, and what happens instead.
    event: Option<(usize, Event)>,
}

/// What happens at a call.
pub(in crate::files::local) enum Event {
    /// The call fails.
    Fails(Errno),
    /// Something else happens before the call.
    Follows(Box<dyn FnOnce()>),
}

pub(super) fn check(call: &'static str) -> io::Result<()> {
    let event = PLAN.with_borrow_mut(|plan| {
        let number = plan.calls.len();
        plan.calls.push(call);
        plan.event.take_if(|(at, _)| *at == number)
    });
    match event {
        None => Ok(()),
        Some((_, Event::Fails(error))) => Err(error.into()),
        Some((_, Event::Follows(first))) => {
            let plan = PLAN.take();
            first();
            PLAN.set(plan);
            Ok(())
        }
    }
}

/// Runs `work`, with an event at the call of that number. Returns its result, and the calls that it made.
pub(in crate::files::local) fn run<T>(
    event: Option<(usize, Event)>,
    work: impl FnOnce() -> T,
) -> (T, Vec<&'static str>) {
    let calls = Vec::new();
    PLAN.set(Plan { calls, event });
    let result = work();
    (result, PLAN.take().calls)
}
