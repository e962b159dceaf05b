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
    /// The calls that do not simply happen, and what happens instead.
    events: Vec<(Place, Event)>,
}

/// The call at which an event happens.
enum Place {
    /// The call of that number.
    Number(usize),
    /// The next call of that name.
    Next(&'static str),
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
        let place = plan.events.iter().position(|(place, _)| match *place {
            Place::Number(at) => at == number,
            Place::Next(name) => name == call,
        });
        place.map(|place| plan.events.remove(place))
    });
    match event {
        None => Ok(()),
        Some((_, Event::Fails(error))) => Err(error.into()),
        Some((_, Event::Follows(first))) => {
            let plan = PLAN.take();
            first();
            let added = PLAN.replace(plan).events;
            PLAN.with_borrow_mut(|plan| plan.events.extend(added));
            Ok(())
        }
    }
}

/// Lets the next call of that name fail, or the one after it if that one fails anyway.
pub(in crate::files::local) fn fail_next(call: &'static str, error: Errno) {
    PLAN.with_borrow_mut(|plan| {
        plan.events.push((Place::Next(call), Event::Fails(error)));
    });
}

/// Runs `work`, with an event at the call of that number. Returns its result, and the calls that it made.
pub(in crate::files::local) fn run<T>(
    event: Option<(usize, Event)>,
    work: impl FnOnce() -> T,
) -> (T, Vec<&'static str>) {
    let events = event.map(|(number, event)| (Place::Number(number), event));
    let (result, plan) = run_plan(events.into_iter().collect(), work);
    (result, plan.calls)
}

/// Runs `work`, with an event at the first call of that name, which has to be made. Returns the same.
pub(in crate::files::local) fn run_at<T>(
    call: &'static str,
    event: Event,
    work: impl FnOnce() -> T,
) -> (T, Vec<&'static str>) {
    let (result, plan) = run_plan(vec![(Place::Next(call), event)], work);
    assert!(plan.events.is_empty(), "{:?}", plan.calls);
    (result, plan.calls)
}

fn run_plan<T>(events: Vec<(Place, Event)>, work: impl FnOnce() -> T) -> (T, Plan) {
    PLAN.set(Plan {
        calls: Vec::new(),
        events,
    });
    let result = work();
    (result, PLAN.take())
}
