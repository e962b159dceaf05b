//! A checker of histories: whether concurrent operations on a register could have taken effect one after another,
//! each at one moment between its begin and its end.
//!
//! The search is that of Wing and Gong in the order of the ends (Lowe, "Testing for linearizability", 2017). Every
//! write has a value of its own, which cuts it short: a value is overwritten only when all that see it have seen it.

use std::{
    collections::{HashMap, HashSet},
    fmt::{self, Write as _},
};

/// A value of the register. The absence of a file is one that nothing writes.
pub(crate) type Value = Option<u64>;

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) client: usize,
    pub(crate) begin: u64,
    /// The last moment at which it can have taken effect.
    pub(crate) end: u64,
    pub(crate) step: Step,
    pub(crate) outcome: Outcome,
    /// What a reader of a report wants to know.
    pub(crate) note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Read(Value),
    Write(u64),
    /// A write that takes effect only where the register has the value `from`.
    Swap {
        from: Value,
        to: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It took effect.
    Acknowledged,
    /// It took effect once, or not at all.
    Unknown,
    /// It has no effect.
    Failed,
}

impl Step {
    /// The value that the step requires.
    fn sees(self) -> Option<Value> {
        match self {
            Self::Read(value) | Self::Swap { from: value, .. } => Some(value),
            Self::Write(_) => None,
        }
    }

    fn writes(self) -> Option<u64> {
        match self {
            Self::Read(_) => None,
            Self::Write(value) | Self::Swap { to: value, .. } => Some(value),
        }
    }
}

/// Checks that a register, absent in the beginning, can have the history.
///
/// # Errors
///
/// A report of a smallest part of the history that is impossible.
pub(crate) fn check(history: &[Operation]) -> Result<(), String> {
    match Search::is_possible(history) {
        true => Ok(()),
        false => Err(report(&shrink(history.to_vec()), history)),
    }
}

/// The operations that took effect, and how many have begun and ended.
struct Search {
    operations: Vec<Operation>,
    /// Those that see each value.
    observers: HashMap<Value, Vec<usize>>,
    phases: Vec<Phase>,
    /// The running operation of each slot.
    slots: Vec<Option<usize>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Future,
    Running(usize),
    Ended,
}

/// A state that the register can be in: its value, and the slots of the running operations that have taken effect.
type Config = (Value, u128);

impl Search {
    fn new(history: &[Operation]) -> Self {
        let operations = effective(history);
        let mut observers: HashMap<_, Vec<_>> = HashMap::new();
        for (k, operation) in operations.iter().enumerate() {
            if let Some(value) = operation.step.sees() {
                observers.entry(value).or_default().push(k);
            }
        }
        Self {
            phases: vec![Phase::Future; operations.len()],
            slots: Vec::new(),
            operations,
            observers,
        }
    }

    fn is_possible(history: &[Operation]) -> bool {
        Self::new(history).run()
    }

    fn run(mut self) -> bool {
        let mut events = Vec::new();
        for (k, operation) in self.operations.iter().enumerate() {
            events.push((operation.begin, false, k));
            events.push((operation.end, true, k));
        }
        events.sort_unstable();
        let mut configs = HashSet::from([(None, 0)]);
        for (_, is_end, k) in events {
            if !is_end {
                self.begin(k);
                continue;
            }
            configs = self.linearize(configs, k);
            if configs.is_empty() {
                return false;
            }
            let slot = self.slot(k).unwrap();
            for (value, done) in std::mem::take(&mut configs) {
                configs.insert((value, done & !(1 << slot)));
            }
            self.slots[slot] = None;
            self.phases[k] = Phase::Ended;
        }
        true
    }

    fn begin(&mut self, k: usize) {
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.slots.len());
        assert!(slot < 128, "too many operations at the same time");
        self.slots.resize(self.slots.len().max(slot + 1), None);
        self.slots[slot] = Some(k);
        self.phases[k] = Phase::Running(slot);
    }

    fn slot(&self, k: usize) -> Option<usize> {
        match self.phases[k] {
            Phase::Running(slot) => Some(slot),
            Phase::Future | Phase::Ended => None,
        }
    }

    /// Returns the states in which operation `k` has taken effect.
    fn linearize(&self, configs: HashSet<Config>, k: usize) -> HashSet<Config> {
        let last = 1 << self.slot(k).unwrap();
        let mut found = HashSet::new();
        let mut seen = HashSet::new();
        let mut open: Vec<_> = configs.into_iter().collect();
        while let Some(config) = open.pop() {
            let config = self.with_reads(config);
            if config.1 & last != 0 {
                found.insert(config);
            } else if seen.insert(config) {
                let running = self.slots.iter().flatten();
                open.extend(running.filter_map(|&next| self.write(config, next)));
            }
        }
        found
    }

    /// Lets all reads of the current value take effect: a read that has begun loses nothing by it.
    fn with_reads(&self, (value, mut done): Config) -> Config {
        for &k in self.observers.get(&value).into_iter().flatten() {
            if let (Some(slot), Step::Read(_)) = (self.slot(k), self.operations[k].step) {
                done |= 1 << slot;
            }
        }
        (value, done)
    }

    /// Lets a running operation write, if it can.
    fn write(&self, (value, mut done): Config, k: usize) -> Option<Config> {
        let slot = self.slot(k)?;
        let step = self.operations[k].step;
        let written = step.writes()?;
        let is_possible = done & (1 << slot) == 0
            && step.sees().is_none_or(|from| from == value)
            && !self.is_awaited((value, done | 1 << slot));
        if !is_possible {
            return None;
        }
        if step.sees().is_none() {
            // A write that nothing sees takes effect best when it is overwritten at once.
            for (slot, k) in self.slots.iter().enumerate() {
                let hidden = k.is_some_and(|k| self.is_unseen_write(k));
                done |= u128::from(hidden) << slot;
            }
        }
        Some((Some(written), done | 1 << slot))
    }

    /// Whether an operation that has not taken effect needs the current value.
    fn is_awaited(&self, (value, done): Config) -> bool {
        let mut observers = self.observers.get(&value).into_iter().flatten();
        observers.any(|&k| match self.phases[k] {
            Phase::Future => true,
            Phase::Running(slot) => done & (1 << slot) == 0,
            Phase::Ended => false,
        })
    }

    fn is_unseen_write(&self, k: usize) -> bool {
        matches!(self.operations[k].step, Step::Write(value) if !self.observers.contains_key(&Some(value)))
    }
}

/// Returns the operations that took effect. An unknown one did if its value was seen, and then before it was; one
/// whose value nobody saw can be left out, as it makes no difference.
fn effective(history: &[Operation]) -> Vec<Operation> {
    let acknowledged = |operation: &&Operation| operation.outcome == Outcome::Acknowledged;
    let mut found: Vec<_> = history.iter().filter(acknowledged).cloned().collect();
    let unknown = |operation: &&Operation| operation.outcome == Outcome::Unknown;
    let mut unknown: Vec<_> = history.iter().filter(unknown).collect();
    loop {
        let mut seen_until = HashMap::new();
        for operation in &found {
            if let Some(Some(value)) = operation.step.sees() {
                let until = seen_until.entry(value).or_insert(u64::MAX);
                *until = operation.end.min(*until);
            }
        }
        let mut changed = false;
        unknown.retain(|operation| {
            let value = operation.step.writes();
            let seen = value.is_some_and(|value| seen_until.contains_key(&value));
            if seen {
                found.push((*operation).clone());
                changed = true;
            }
            !seen
        });
        for operation in &mut found {
            let value = operation.step.writes();
            let until = value.and_then(|value| seen_until.get(&value));
            // One that was seen before it began ends as it begins, too late.
            let until = until.map_or(u64::MAX, |&until| until.max(operation.begin));
            if operation.outcome == Outcome::Unknown && until < operation.end {
                operation.end = until;
                changed = true;
            }
        }
        if !changed {
            return found;
        }
    }
}

/// Takes away what does not make the history impossible. Each step keeps a possible history possible.
fn shrink(mut part: Vec<Operation>) -> Vec<Operation> {
    loop {
        let before = part.clone();
        let mut size = part.len();
        while size > 0 {
            let mut at = 0;
            while at < part.len() {
                let end = part.len().min(at + size);
                let smaller = [relaxed(&part, at..end), without(&part, at..end)];
                let smaller = smaller.into_iter().filter(|smaller| *smaller != part);
                match smaller
                    .into_iter()
                    .find(|smaller| !Search::is_possible(smaller))
                {
                    Some(smaller) if smaller.len() < part.len() => part = smaller,
                    Some(smaller) => (part, at) = (smaller, end),
                    None => at = end,
                }
            }
            size /= 2;
        }
        if part == before {
            return part;
        }
    }
}

/// Removes conditions.
fn relaxed(part: &[Operation], range: std::ops::Range<usize>) -> Vec<Operation> {
    let mut relaxed = part.to_vec();
    for operation in &mut relaxed[range] {
        if let Step::Swap { to, .. } = operation.step {
            operation.step = Step::Write(to);
        }
    }
    relaxed
}

/// Removes reads, and writes that nothing sees.
fn without(part: &[Operation], range: std::ops::Range<usize>) -> Vec<Operation> {
    let enumerated = part.iter().enumerate();
    let is_kept_read = |k: usize, operation: &Operation| {
        !range.contains(&k) || !matches!(operation.step, Step::Read(_))
    };
    let seen: HashSet<_> = enumerated
        .clone()
        .filter(|(k, operation)| is_kept_read(*k, operation))
        .filter_map(|(_, operation)| operation.step.sees())
        .collect();
    let is_kept = |(k, operation): &(usize, &Operation)| match operation.step.writes() {
        Some(value) => !range.contains(k) || seen.contains(&Some(value)),
        None => !range.contains(k),
    };
    enumerated
        .filter(is_kept)
        .map(|(_, operation)| operation.clone())
        .collect()
}

fn report(part: &[Operation], history: &[Operation]) -> String {
    let seen: Vec<_> = part
        .iter()
        .filter_map(|operation| operation.step.sees())
        .collect();
    let is_part = |whole: &&Operation| {
        let is_kept = |kept: &Operation| (kept.client, kept.begin) == (whole.client, whole.begin);
        let writes_seen = |value| seen.contains(&Some(value));
        part.iter().any(is_kept) || whole.step.writes().is_some_and(writes_seen)
    };
    // From the history, because a condition that was taken away is part of what happened.
    let mut part: Vec<_> = history.iter().filter(is_part).collect();
    part.sort_by_key(|operation| operation.begin);
    let mut text = format!(
        "{} of {} operations are impossible in any order:\n",
        part.len(),
        history.len()
    );
    for operation in part {
        writeln!(text, "  {operation}").unwrap();
    }
    text
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            begin,
            end,
            step,
            outcome,
            note,
        } = self;
        let end = match end {
            &u64::MAX => "the end".to_owned(),
            end => end.to_string(),
        };
        write!(f, "client {client}, from {begin} to {end}: ")?;
        let value = |value: &Value| value.map_or("no file".to_owned(), |value| format!("#{value}"));
        match step {
            Step::Read(seen) => write!(f, "sees {}", value(seen))?,
            Step::Write(written) => write!(f, "writes #{written}")?,
            Step::Swap { from, to } => write!(f, "replaces {} by #{to}", value(from))?,
        }
        write!(f, ", {outcome:?} ({note})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(begin: u64, end: u64, step: Step, outcome: Outcome) -> Operation {
        Operation {
            client: begin as usize,
            begin,
            end,
            step,
            outcome,
            note: String::new(),
        }
    }

    fn done(begin: u64, end: u64, step: Step) -> Operation {
        operation(begin, end, step, Outcome::Acknowledged)
    }

    fn unknown(begin: u64, step: Step) -> Operation {
        operation(begin, u64::MAX, step, Outcome::Unknown)
    }

    use Step::{Read, Write};

    fn swap(from: Value, to: u64) -> Step {
        Step::Swap { from, to }
    }

    #[track_caller]
    fn assert_impossible(history: &[Operation], smallest: usize) {
        let report = check(history).unwrap_err();
        let beginning = format!("{smallest} of {} operations", history.len());
        assert!(report.starts_with(&beginning), "{report}");
    }

    #[test]
    fn possible_histories_are_accepted() {
        let histories = [
            vec![],
            vec![
                done(1, 2, Read(None)),
                done(3, 4, Write(1)),
                done(5, 6, Read(Some(1))),
            ],
            // Two writes at the same time, in the order that the reads saw.
            vec![
                done(1, 9, Write(1)),
                done(2, 8, Write(2)),
                done(3, 4, Read(Some(2))),
                done(5, 6, Read(Some(1))),
                done(10, 11, Read(Some(1))),
            ],
            // A write is seen before it is answered.
            vec![
                done(1, 9, Write(1)),
                done(2, 3, Read(None)),
                done(4, 5, Read(Some(1))),
            ],
            // A write without an answer takes effect late, or never.
            vec![
                unknown(1, Write(1)),
                done(2, 3, Write(2)),
                done(4, 5, Read(Some(2))),
                done(6, 7, Read(Some(1))),
            ],
            vec![
                unknown(1, Write(1)),
                done(2, 3, Read(None)),
                unknown(4, swap(Some(1), 2)),
            ],
            // A chain of unknown swaps of which only the last is seen.
            vec![
                unknown(1, Write(1)),
                unknown(2, swap(Some(1), 2)),
                unknown(3, swap(Some(2), 3)),
                done(4, 5, Read(Some(3))),
            ],
            // Of two swaps from the same value, one failed.
            vec![
                done(1, 2, Write(1)),
                done(3, 6, swap(Some(1), 2)),
                operation(3, 6, swap(Some(1), 3), Outcome::Failed),
                done(7, 8, Read(Some(2))),
            ],
        ];
        for history in histories {
            check(&history).unwrap();
        }
    }

    #[test]
    fn stale_read_is_refused() {
        let history = [
            done(1, 2, Write(1)),
            done(0, 2, Read(None)),
            done(3, 4, Write(2)),
            done(5, 6, Read(Some(1))),
            done(7, 8, Write(3)),
        ];
        assert_impossible(&history, 3);
    }

    #[test]
    fn lost_write_is_refused() {
        assert_impossible(&[done(1, 2, Write(1)), done(3, 4, Read(None))], 2);
    }

    #[test]
    fn value_that_comes_back_is_refused() {
        let history = [
            done(1, 20, Write(1)),
            done(2, 20, Write(2)),
            done(3, 4, Read(Some(1))),
            done(5, 6, Read(Some(2))),
            done(7, 8, Read(Some(1))),
        ];
        assert_impossible(&history, 5);
        // A write without an answer takes effect once.
        let history = [
            unknown(1, Write(1)),
            done(2, 3, Read(Some(1))),
            done(4, 5, Write(2)),
            done(6, 7, Read(Some(1))),
        ];
        assert_impossible(&history, 4);
    }

    #[test]
    fn effect_of_a_failed_write_is_refused() {
        let history = [
            operation(1, 2, Write(1), Outcome::Failed),
            done(3, 4, Write(2)),
            done(5, 6, Read(Some(1))),
        ];
        assert_impossible(&history, 2);
    }

    #[test]
    fn effect_after_the_last_moment_is_refused() {
        let history = |end| {
            [
                operation(1, end, Write(1), Outcome::Unknown),
                done(2, 4, Write(2)),
                done(5, 6, Read(Some(2))),
                done(7, 8, Read(Some(1))),
            ]
        };
        check(&history(6)).unwrap();
        assert_impossible(&history(4), 4);
    }

    #[test]
    fn value_seen_before_its_write_begins_is_refused() {
        assert_impossible(&[done(1, 2, Read(Some(1))), unknown(3, Write(1))], 2);
        assert_impossible(&[done(1, 2, Read(Some(1))), done(3, 4, Write(1))], 2);
    }

    #[test]
    fn two_swaps_from_one_value_are_refused() {
        let history = [
            done(1, 2, swap(None, 1)),
            done(3, 6, swap(Some(1), 2)),
            done(3, 6, swap(Some(1), 3)),
        ];
        assert_impossible(&history, 3);
        assert_impossible(&[done(1, 2, Write(1)), done(3, 4, swap(None, 2))], 2);
    }

    /// Tries all orders.
    fn is_possible(value: Value, left: &[Operation]) -> bool {
        let mut mandatory = left
            .iter()
            .filter(|left| left.outcome == Outcome::Acknowledged);
        mandatory.next().is_none()
            || left.iter().enumerate().any(|(k, next)| {
                // What has ended before takes effect before, unless it never does.
                let mut others = left.to_vec();
                others.remove(k);
                let skips = others
                    .iter()
                    .any(|other| other.outcome == Outcome::Acknowledged && other.end < next.begin);
                others.retain(|other| other.end >= next.begin);
                next.outcome != Outcome::Failed
                    && !skips
                    && next.step.sees().is_none_or(|from| from == value)
                    && is_possible(next.step.writes().map_or(value, Some), &others)
            })
    }

    #[test]
    fn verdict_is_that_of_a_search_of_all_orders() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let mut verdicts = [0; 2];
        for round in 0..10_000 {
            let count = 2 + round % 6;
            let history: Vec<_> = (0..count)
                .map(|k| {
                    let begin = 1 + random(2 * count);
                    let end = begin + 1 + random(6);
                    let value = |k: u64| k.checked_sub(1);
                    let step = match random(4) {
                        0 | 1 => Read(value(random(count + 1))),
                        2 => Write(k),
                        _ => swap(value(random(count + 1)), k),
                    };
                    let outcome = match random(4) {
                        0 => Outcome::Unknown,
                        _ => Outcome::Acknowledged,
                    };
                    let is_read = matches!(step, Read(_));
                    match is_read {
                        true => done(begin, end, step),
                        false => operation(begin, end, step, outcome),
                    }
                })
                .collect();
            let expected = is_possible(None, &history);
            assert_eq!(Search::is_possible(&history), expected, "{history:#?}");
            verdicts[usize::from(expected)] += 1;
        }
        assert!(verdicts.iter().all(|&count| count > 1000), "{verdicts:?}");
    }
}
