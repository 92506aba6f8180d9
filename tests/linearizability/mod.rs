//! Is the history of one key linearizable?
//!
//! A history is what clients saw from outside: when they asked, when they were answered, and with what. It is linearizable
//! if there is one order of the calls in which each read gets what the writes before it lead to, and in which no call comes
//! before another that had been answered when it was asked (Herlihy and Wing, 1990). A history of many keys is
//! linearizable if that of each key is.
//!
//! The search is that of Wing and Gong, with the memory of Lowe: calls are put in order one by one, each time one of those
//! that nobody still waiting precedes; and what is known to lead nowhere (the same calls in order, the same value) is not tried again.
//!
//! A write whose outcome its client never learned may have happened at any time since it was asked, or never. One whose
//! value no read holds is left out: no read can have come between it and the next put, which hides it.
//!
//! The answer is always yes or no. So that it does not take for ever, where many writes of unknown outcome overlap:
//!
//! - A read that can be next is next: it changes nothing.
//! - If the values that are written are told apart wherever they stand (see [`parts`]), a read says which writes are in
//!   it. What would leave a read that is yet to come without one of them is not tried; and a write that no read holds
//!   is next if nothing speaks against it, as it makes no difference where nobody reads.

#![allow(dead_code, reason = "each test binary uses a part")]

mod parts;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;

use parts::Parts;

/// The longest history that is checked, in calls.
pub(crate) const CALLS_MAX: usize = 256;

/// What a key holds; `None`: it is absent.
pub(crate) type Value = Option<Vec<u8>>;

/// What was asked, and for a read what was answered.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Put(Vec<u8>),
    /// To an absent key: as to an empty one.
    Append(Vec<u8>),
    Get(Value),
}

/// One call of one client, in any unit of time in which no two things happen at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) op: Op,
    pub(crate) asked_at: u64,
    /// `None`: its outcome is not known. A read without an answer is no part of a history.
    pub(crate) answered_at: Option<u64>,
}

/// Why a history is not linearizable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// As many calls as can be put in order, in that order.
    ordered: Vec<Call>,
    /// One of these would have to be next, and none can.
    stuck: Vec<Call>,
}

/// Finds an order for the calls on one key, which is absent at first.
///
/// # Errors
/// There is none.
pub(crate) fn check(history: &[Call]) -> Result<(), Violation> {
    assert!(history.len() <= CALLS_MAX, "{} calls are too many", history.len());
    let mut calls: Vec<&Call> = history.iter().filter(|call| matters(call, history)).collect();
    calls.sort_by_key(|call| call.asked_at);
    let parts = Parts::of(&calls)
        .map_err(|read| Violation { ordered: Vec::new(), stuck: vec![calls[read.at].clone()] })?;
    let (tried, order, longest) = (HashSet::new(), Vec::new(), None);
    let mut search = Search { calls, parts, tried, order, longest };
    match search.run(Calls::default(), &State::default()) {
        true => Ok(()),
        false => Err(search.violation()),
    }
}

/// Whether a call can make a difference. See the [module](self).
fn matters(call: &Call, history: &[Call]) -> bool {
    let (Op::Put(written) | Op::Append(written)) = &call.op else { return true };
    let is_in =
        |read: &[u8]| written.is_empty() || read.windows(written.len()).any(|part| part == written);
    call.answered_at.is_some()
        || history.iter().any(|other| matches!(&other.op, Op::Get(Some(read)) if is_in(read)))
}

/// A set of calls, by their place in the history.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Calls([u64; CALLS_MAX / 64]);

impl Calls {
    fn is_empty(self) -> bool {
        self == Calls::default()
    }

    fn and(mut self, other: Calls) -> Calls {
        self.0.iter_mut().zip(other.0).for_each(|(one, other)| *one &= other);
        self
    }

    fn has(self, at: usize) -> bool {
        self.0[at / 64] & 1 << (at % 64) != 0
    }

    fn with(mut self, at: usize) -> Calls {
        self.0[at / 64] |= 1 << (at % 64);
        self
    }
}

/// What the key holds, and which writes it is made of.
#[derive(Clone, Default)]
struct State {
    value: Value,
    held: Calls,
}

struct Search<'a> {
    /// By when they were asked.
    calls: Vec<&'a Call>,
    /// Which writes are in which reads, if that can be told.
    parts: Option<Parts>,
    /// What leads nowhere, or is being tried: which calls are in order, and what the key then holds.
    tried: HashSet<(Calls, Value)>,
    order: Vec<usize>,
    /// The longest order so far, and what could not follow it.
    longest: Option<(Vec<usize>, Vec<usize>)>,
}

impl Search<'_> {
    /// Whether what is not in order can follow.
    fn run(&mut self, ordered: Calls, state: &State) -> bool {
        if self.is_done(ordered) {
            return true;
        }
        let next = self.candidates(ordered);
        self.note(&next);
        let mut steps: Vec<(usize, State)> = Vec::new();
        for at in next {
            let Some(then) = self.calls[at].op.after(at, state) else { continue };
            let is_write = !matches!(self.calls[at].op, Op::Get(_));
            if is_write && self.is_hopeless(ordered.with(at), &then) {
                continue;
            }
            let is_indifferent = self.parts.as_ref().is_some_and(|parts| !parts.is_read(at));
            if !is_write || is_indifferent {
                steps = vec![(at, then)];
                break;
            }
            steps.push((at, then));
        }
        steps.into_iter().any(|(at, then)| self.step(ordered.with(at), at, &then))
    }

    fn step(&mut self, ordered: Calls, at: usize, then: &State) -> bool {
        if !self.tried.insert((ordered, then.value.clone())) {
            return false;
        }
        self.order.push(at);
        let is_found = self.run(ordered, then);
        self.order.pop();
        is_found
    }

    /// Whether a read that is not in order will never get its value.
    fn is_hopeless(&self, ordered: Calls, state: &State) -> bool {
        let Some(parts) = &self.parts else { return false };
        let mut calls = self.calls.iter().enumerate().filter(|(at, _)| !ordered.has(*at));
        calls.any(|(at, call)| match &call.op {
            Op::Get(read) => parts.is_lost(at, read, ordered, state),
            _ => false,
        })
    }

    /// The calls that may be next: asked before any other that is left had been answered.
    fn candidates(&self, ordered: Calls) -> Vec<usize> {
        let (mut first_answer, mut found) = (u64::MAX, Vec::new());
        for (at, call) in self.calls.iter().enumerate().filter(|(at, _)| !ordered.has(*at)) {
            if call.asked_at > first_answer {
                break;
            }
            first_answer = first_answer.min(call.answered_at.unwrap_or(u64::MAX));
            found.push(at);
        }
        found.retain(|&at| self.calls[at].asked_at < first_answer);
        found
    }

    /// What is left need not have happened.
    fn is_done(&self, ordered: Calls) -> bool {
        let mut calls = self.calls.iter().enumerate();
        calls.all(|(at, call)| ordered.has(at) || call.answered_at.is_none())
    }

    fn note(&mut self, next: &[usize]) {
        let longest = self.longest.as_ref().map_or(0, |(order, _)| order.len() + 1);
        if self.order.len() >= longest {
            self.longest = Some((self.order.clone(), next.to_vec()));
        }
    }

    fn violation(&self) -> Violation {
        let calls = |places: &[usize]| places.iter().map(|&at| self.calls[at].clone()).collect();
        let (order, next) = self.longest.clone().unwrap_or_default();
        Violation { ordered: calls(&order), stuck: calls(&next) }
    }
}

impl Op {
    /// What there is after this, the call at a place; `None`: a read that does not get this value.
    fn after(&self, at: usize, State { value, held }: &State) -> Option<State> {
        match self {
            Op::Put(written) => {
                Some(State { value: Some(written.clone()), held: Calls::default().with(at) })
            }
            Op::Append(written) => {
                let value = [value.as_deref().unwrap_or_default(), written].concat();
                Some(State { value: Some(value), held: held.with(at) })
            }
            Op::Get(read) => (read == value).then(|| State { value: value.clone(), held: *held }),
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Put(value) => write!(f, "put {}", String::from_utf8_lossy(value)),
            Op::Append(value) => write!(f, "append {}", String::from_utf8_lossy(value)),
            Op::Get(Some(value)) => write!(f, "get -> {}", String::from_utf8_lossy(value)),
            Op::Get(None) => write!(f, "get -> absent"),
        }
    }
}

/// The last calls that fit, and those of which none does.
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 20;
        let hidden = self.ordered.len().saturating_sub(SHOWN_MAX);
        writeln!(f, "the history is not linearizable. After {hidden} calls, in order:")?;
        self.ordered[hidden..].iter().try_for_each(|call| writeln!(f, "    {call}"))?;
        writeln!(f, "none of these can be next:")?;
        self.stuck.iter().try_for_each(|call| writeln!(f, "    {call}"))
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { op, asked_at, answered_at } = self;
        match answered_at {
            Some(answered_at) => write!(f, "{asked_at} to {answered_at}: {op:?}"),
            None => write!(f, "since {asked_at}: {op:?}, outcome unknown"),
        }
    }
}
