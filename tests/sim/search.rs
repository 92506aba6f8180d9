//! What the clerks saw, checked by a checker that is not ours: stateright's search for an order of
//! all calls.
//!
//! The [`History`](crate::history) takes its order from the log. The search knows only what clients
//! know: when each call began and ended, and what it was told. It looks at each key alone, in runs
//! whose clerks only put, append and get: a history is linearizable if that of each key is (Herlihy
//! and Wing 1990, §3).
//!
//! A write of which no clerk knows whether it took effect has done so if a read saw its value, and
//! before the first such read ended. If none did, leaving it out changes no answer.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// A search that takes more steps is given up.
const STEPS_MAX: u64 = 100_000;

/// A call of one clerk. Moments are numbers that grow with time; no two are equal.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) clerk: usize,
    pub(crate) key: Bytes,
    pub(crate) began: u64,
    /// `None`: nobody knows whether it took effect.
    pub(crate) ended: Option<u64>,
    pub(crate) step: Step,
}

/// What a call did, or was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The value is one that no other call writes.
    Put(Bytes),
    /// The same.
    Append(Bytes),
    Got(Option<Bytes>),
}

/// How the search ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    AnOrder,
    NoOrder,
    /// It would have taken too long.
    Nothing,
}

/// Searches an order of all calls of each key that explains every answer. The first key without one
/// ends it.
pub(crate) fn search(calls: &[Seen]) -> Found {
    let keys: BTreeSet<&Bytes> = calls.iter().map(|call| &call.key).collect();
    let results = keys.into_iter().map(|key| {
        let of_key: Vec<&Seen> = calls.iter().filter(|call| call.key == *key).collect();
        search_key(&of_key)
    });
    results.into_iter().find(|found| *found != Found::AnOrder).unwrap_or(Found::AnOrder)
}

fn search_key(calls: &[&Seen]) -> Found {
    // What happens at each moment, and by which thread: a clerk is one, and so is each write of an
    // unknown outcome, which may take effect while its clerk goes on.
    let mut events = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        let (thread, ended) = match call.ended {
            Some(ended) => ((call.clerk, 0), Some((ended, 1))),
            None => ((call.clerk, at + 1), first_read_of(call, calls).map(|ended| (ended, 0))),
        };
        // A write ends before the read that saw it.
        if let Some((moment, order)) = ended {
            events.insert((call.began, 0, at), Event::Begin(thread, call.step.clone()));
            events.insert((moment, order, at), Event::End(thread));
        }
    }
    let steps_left = Rc::new(Cell::new(STEPS_MAX));
    let register = Register { value: None, steps_left: Rc::clone(&steps_left) };
    let mut tester = LinearizabilityTester::new(register);
    for event in events.into_values() {
        let taken = match event {
            Event::Begin(thread, step) => tester.on_invoke(thread, step),
            Event::End(thread) => tester.on_return(thread, ()),
        };
        taken.expect("a thread makes one call after the other");
    }
    match (tester.is_consistent(), steps_left.get()) {
        (true, _) => Found::AnOrder,
        (false, 0) => Found::Nothing,
        (false, _) => Found::NoOrder,
    }
}

enum Event {
    Begin((usize, usize), Step),
    End((usize, usize)),
}

/// When the first read ended that saw the value of this write.
fn first_read_of(write: &Seen, calls: &[&Seen]) -> Option<u64> {
    let (Step::Put(value) | Step::Append(value)) = &write.step else { return None };
    let reads = calls.iter().filter_map(|call| match &call.step {
        Step::Got(Some(got)) if got.windows(value.len()).any(|part| part == value) => call.ended,
        _ => None,
    });
    reads.min()
}

/// What one key holds.
#[derive(Clone)]
struct Register {
    value: Option<Vec<u8>>,
    /// Of the whole search.
    steps_left: Rc<Cell<u64>>,
}

impl SequentialSpec for Register {
    /// With the answer, so that it needs no second type.
    type Op = Step;
    type Ret = ();

    fn invoke(&mut self, step: &Step) {
        match step {
            Step::Put(value) => self.value = Some(value.to_vec()),
            Step::Append(more) => self.value.get_or_insert_default().extend_from_slice(more),
            Step::Got(_) => {}
        }
    }

    fn is_valid_step(&mut self, step: &Step, (): &()) -> bool {
        let left = self.steps_left.get();
        self.steps_left.set(left.saturating_sub(1));
        self.invoke(step);
        left > 0 && !matches!(step, Step::Got(got) if got.as_deref() != self.value.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call of `clerk` from `began` to `ended`.
    fn call(clerk: usize, began: u64, ended: impl Into<Option<u64>>, step: Step) -> Seen {
        Seen { clerk, key: Bytes::from("key"), began, ended: ended.into(), step }
    }

    fn put(value: &'static str) -> Step {
        Step::Put(Bytes::from(value))
    }

    fn append(value: &'static str) -> Step {
        Step::Append(Bytes::from(value))
    }

    fn got(value: &'static str) -> Step {
        Step::Got(Some(Bytes::from(value)))
    }

    #[test]
    fn calls_at_the_same_time_have_either_order() {
        for value in ["[1][2]", "[2][1]"] {
            let calls = [
                call(1, 1, 4, append("[1]")),
                call(2, 2, 3, append("[2]")),
                call(3, 5, 6, got(value)),
            ];
            assert_eq!(search(&calls), Found::AnOrder, "{value}");
        }
    }

    #[test]
    fn a_stale_read_has_no_order() {
        let stale =
            [call(1, 1, 2, put("[1]")), call(1, 3, 4, put("[2]")), call(2, 5, 6, got("[1]"))];
        assert_eq!(search(&stale), Found::NoOrder);
        let absent = [call(1, 1, 2, put("[1]")), call(2, 3, 4, Step::Got(None))];
        assert_eq!(search(&absent), Found::NoOrder);
    }

    #[test]
    fn two_reads_do_not_go_back() {
        let calls =
            [call(1, 1, 9, put("[1]")), call(2, 2, 3, got("[1]")), call(3, 4, 5, Step::Got(None))];
        assert_eq!(search(&calls), Found::NoOrder);
    }

    #[test]
    fn a_write_that_took_effect_twice_has_no_order() {
        let calls = [call(1, 1, 2, append("[1]")), call(2, 3, 4, got("[1][1]"))];
        assert_eq!(search(&calls), Found::NoOrder);
    }

    #[test]
    fn a_write_of_unknown_outcome_takes_effect_late_or_never() {
        let unknown = call(1, 1, None, put("[1]"));
        let other = call(1, 2, 3, put("[2]"));
        let read = |began, value| call(2, began, began + 1, got(value));
        assert_eq!(search(&[unknown.clone(), other.clone(), read(4, "[2]")]), Found::AnOrder);
        let late = [unknown.clone(), other.clone(), read(4, "[2]"), read(6, "[1]")];
        assert_eq!(search(&late), Found::AnOrder);
        let back = [unknown, other, read(4, "[1]"), read(6, "[2]")];
        assert_eq!(search(&back), Found::NoOrder);
    }

    #[test]
    fn an_order_is_searched_for_each_key_alone() {
        let mut of_other = call(1, 1, 2, put("[1]"));
        of_other.key = Bytes::from("other");
        assert_eq!(search(&[of_other, call(2, 3, 4, Step::Got(None))]), Found::AnOrder);
    }

    #[test]
    fn a_search_that_takes_too_long_is_given_up() {
        let mut calls: Vec<Seen> =
            (0..12).map(|clerk| call(clerk, clerk as u64, 100, append("[1]"))).collect();
        calls.iter_mut().enumerate().for_each(|(at, call)| call.ended = Some(100 + at as u64));
        calls.push(call(20, 200, 201, got("[2]")));
        assert_eq!(search(&calls), Found::Nothing);
    }
}
