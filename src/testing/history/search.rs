//! The search for an order of the calls of one key. It takes any call that may come next, and steps
//! back when none fits. Three rules shorten it:
//!
//! - A read that fits comes next, and no alternative is tried, because a read changes nothing.
//! - If reads show which writes they have seen ([`Parts`]), a write that takes a read's value away
//!   does not come next. A write that no read has seen comes next as soon as it takes no read's
//!   value away, and no alternative is tried.
//! - Otherwise: until the next read must have been answered, the value can only grow by appends,
//!   unless a put could come in between. So an order is given up as soon as its value is not the
//!   beginning of what that read saw.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::time::Instant;

use bytes::Bytes;

use super::parts::{Parts, Reached};
use super::record::{Action, Record, Shown, quoted};

/// The most steps of the search for one key. A history that needs more has too many overlapping
/// calls without a read in between.
const STEPS_MAX: u64 = 20_000_000;
/// The most steps to find an explanation once it is known that there is no order.
const STEPS_TO_EXPLAIN_MAX: u64 = 100_000;
/// How many calls an explanation shows.
const SHOWN_MAX: usize = 8;

/// Why a history is not accepted.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// No order of the calls explains the answers.
    #[error(
        "key \"{key}\": no order of its {calls} calls explains what was answered\n{explanation}"
    )]
    NotLinearizable {
        /// The key, escaped.
        key: String,
        /// Its calls.
        calls: usize,
        /// The longest order that was found, and what cannot come next in it, in a few lines.
        explanation: String,
    },
    /// The search was given up.
    #[error("key \"{key}\": undecided after {steps} steps: too many of its {calls} calls at once")]
    Undecided {
        /// The key, escaped.
        key: String,
        /// Its calls.
        calls: usize,
        /// Orders that were looked at.
        steps: u64,
    },
}

/// Leaves out each write of unknown outcome whose value no read contains: no read came between it
/// and the next put, which hides it.
pub(super) fn without_unseen_writes(calls: &[(usize, Record)]) -> Vec<(usize, Record)> {
    let is_held = |value: &Bytes| {
        let mut seen = calls.iter().filter_map(|(_, call)| call.seen()?.as_ref());
        seen.any(|seen| value.is_empty() || seen.windows(value.len()).any(|part| part == value))
    };
    let matters = |(_, call): &&(usize, Record)| match &call.action {
        Action::Put(value) | Action::Append(value) => call.returned().is_some() || is_held(value),
        Action::Get => true,
    };
    calls.iter().filter(matters).cloned().collect()
}

/// The value of one key, and how to go back to earlier values.
#[derive(Debug, Default)]
struct Value {
    bytes: Option<Vec<u8>>,
    /// Stands for the value in the memory of what was tried. 128 bits, so that no two values share
    /// one.
    hash: [u64; 2],
}

enum Undo {
    Nothing,
    Truncate(Option<usize>, [u64; 2]),
    Replace(Value),
}

impl Value {
    fn put(&mut self, value: &[u8]) -> Undo {
        let new = Value { bytes: Some(value.to_vec()), hash: chain([0; 2], value) };
        Undo::Replace(std::mem::replace(self, new))
    }

    fn append(&mut self, value: &[u8]) -> Undo {
        let undo = Undo::Truncate(self.bytes.as_ref().map(Vec::len), self.hash);
        self.bytes.get_or_insert_default().extend_from_slice(value);
        self.hash = chain(self.hash, value);
        undo
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Nothing => {}
            Undo::Replace(before) => *self = before,
            Undo::Truncate(len, hash) => {
                self.hash = hash;
                match (len, &mut self.bytes) {
                    (Some(len), Some(bytes)) => bytes.truncate(len),
                    _ => self.bytes = None,
                }
            }
        }
    }

    /// Whether appends could turn it into `later`.
    fn begins(&self, later: Option<&[u8]>) -> bool {
        match (&self.bytes, later) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(bytes), Some(later)) => later.starts_with(bytes),
        }
    }
}

fn chain(before: [u64; 2], bytes: &[u8]) -> [u64; 2] {
    [0, 1].map(|salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, before, bytes).hash(&mut hasher);
        hasher.finish()
    })
}

/// The beginning or end of a call, in the list of those that are left, in the order of time.
#[derive(Clone, Copy, Debug)]
struct Entry {
    call: usize,
    is_end: bool,
    previous: usize,
    next: usize,
}

/// The place before the first entry, which is also the one after the last.
const HEAD: usize = 0;

/// The search for an order of the calls of one key.
pub(super) struct Search<'a> {
    calls: &'a [(usize, Record)],
    list: Vec<Entry>,
    /// Where each call begins and ends in the list.
    places: Vec<(usize, Option<usize>)>,
    value: Value,
    /// `Some` if reads show which writes they have seen.
    reached: Option<Reached>,
    /// Whether a read saw what nobody wrote.
    is_impossible: bool,
    taken: Vec<u64>,
    order: Vec<Step>,
    tried: HashSet<(Vec<u64>, [u64; 2])>,
    steps: u64,
    longest: Longest,
}

/// A call in the order, and how to take it out again.
struct Step {
    call: usize,
    undo: Undo,
    /// How many writes the value consisted of before.
    held: usize,
    /// Whether no other call needs to be tried in its place.
    is_forced: bool,
}

enum Taken {
    Yes,
    No,
    /// What follows was tried before, and no other call needs to be tried in this place.
    DeadEnd,
}

/// The longest order that was found, to explain what is wrong.
#[derive(Default)]
struct Longest {
    order: Vec<usize>,
    value: Option<Vec<u8>>,
    /// The call that would have to come next and does not fit.
    misfits: Vec<usize>,
}

impl<'a> Search<'a> {
    pub(super) fn new(calls: &'a [(usize, Record)]) -> Search<'a> {
        let mut times: Vec<(u64, usize, bool)> = Vec::new();
        for (call, (_, record)) in calls.iter().enumerate() {
            times.push((record.began.order, call, false));
            times.extend(record.returned().map(|order| (order, call, true)));
        }
        times.sort_unstable();
        let len = times.len() + 1;
        let mut list = vec![Entry { call: 0, is_end: false, previous: len - 1, next: 1 % len }];
        let mut places = vec![(0, None); calls.len()];
        for (at, (_, call, is_end)) in times.into_iter().enumerate() {
            list.push(Entry { call, is_end, previous: at, next: (at + 2) % len });
            match is_end {
                true => places[call].1 = Some(at + 1),
                false => places[call].0 = at + 1,
            }
        }
        let parts = Parts::of(calls);
        let is_impossible = parts.is_err();
        Search {
            reached: parts.ok().flatten().map(Reached::new),
            is_impossible,
            calls,
            list,
            places,
            value: Value::default(),
            taken: vec![0; calls.len().div_ceil(64)],
            order: Vec::new(),
            tried: HashSet::new(),
            steps: 0,
            longest: Longest::default(),
        }
    }

    /// # Errors
    /// [`Violation`]: there is no order, or none was found.
    pub(super) fn run(mut self, key: &Bytes, began: Instant) -> Result<(), Violation> {
        let (key, calls) = (key.escape_ascii().to_string(), self.calls.len());
        let steps_max = if self.is_impossible { STEPS_TO_EXPLAIN_MAX } else { STEPS_MAX };
        let mut at = self.list[HEAD].next;
        while at != HEAD {
            self.steps += 1;
            if self.steps > steps_max {
                return Err(match self.is_impossible {
                    true => self.violation(key, began),
                    false => Violation::Undecided { key, calls, steps: steps_max },
                });
            }
            let entry = self.list[at];
            let next = match entry.is_end {
                false => match self.take(entry.call) {
                    Taken::Yes => Some(self.list[HEAD].next),
                    Taken::No => Some(entry.next),
                    Taken::DeadEnd => self.step_back(),
                },
                // The call must come before its end, and nothing else can come before it.
                true => self.step_back(),
            };
            match next {
                Some(next) => at = next,
                None => return Err(self.violation(key, began)),
            }
        }
        Ok(())
    }

    fn violation(&self, key: String, began: Instant) -> Violation {
        let explanation = self.longest.explain(self.calls, began);
        Violation::NotLinearizable { key, calls: self.calls.len(), explanation }
    }

    /// Makes this call the next one in the order, if it fits and this was not tried before.
    fn take(&mut self, call: usize) -> Taken {
        let record = &self.calls[call].1;
        let is_unseen = |reached: &Reached| reached.is_unseen(call);
        let (is_read, is_put) = (record.seen().is_some(), matches!(record.action, Action::Put(_)));
        let is_unseen = !is_read && self.reached.as_ref().is_some_and(is_unseen);
        if is_unseen && !self.reached.as_ref().is_some_and(Reached::bears_unseen) {
            return Taken::No;
        }
        let undo = match (&record.action, record.seen()) {
            (Action::Put(value), _) => self.value.put(value),
            (Action::Append(value), _) => self.value.append(value),
            (Action::Get, Some(seen)) if seen.as_deref() == self.value.bytes.as_deref() => {
                Undo::Nothing
            }
            (Action::Get, _) => return Taken::No,
        };
        let mut step = Step { call, undo, held: 0, is_forced: is_read || is_unseen };
        self.unlink(call);
        self.taken[call / 64] |= 1 << (call % 64);
        match &mut self.reached {
            Some(reached) if is_read => reached.read(call),
            Some(reached) => step.held = reached.write(call, is_put),
            None => {}
        }
        if !step.is_forced
            && let Some(read) = self.read_that_is_lost(call)
        {
            self.note_longest(Some(call), vec![read]);
            self.put_back(step);
            return Taken::No;
        }
        if !self.tried.insert((self.taken.clone(), self.value.hash)) {
            let is_forced = step.is_forced;
            self.put_back(step);
            return if is_forced { Taken::DeadEnd } else { Taken::No };
        }
        self.order.push(step);
        Taken::Yes
    }

    /// Goes back to the last call in the order that has an alternative, and takes it out. Returns
    /// where to go on. `None`: there is no such call.
    fn step_back(&mut self) -> Option<usize> {
        let next = self.left().take_while(|it| !it.is_end).map(|it| it.call).collect();
        self.note_longest(None, next);
        loop {
            let step = self.order.pop()?;
            let (call, is_forced) = (step.call, step.is_forced);
            self.put_back(step);
            if !is_forced {
                return Some(self.list[self.places[call].0].next);
            }
        }
    }

    fn put_back(&mut self, Step { call, undo, held, .. }: Step) {
        self.taken[call / 64] &= !(1 << (call % 64));
        self.value.undo(undo);
        match &mut self.reached {
            Some(reached) if self.calls[call].1.seen().is_some() => reached.unread(call),
            Some(reached) => reached.unwrite(call, held),
            None => {}
        }
        let (begin, end) = self.places[call];
        for place in end.into_iter().chain([begin]) {
            let Entry { previous, next, .. } = self.list[place];
            self.list[previous].next = place;
            self.list[next].previous = place;
        }
    }

    fn unlink(&mut self, call: usize) {
        let (begin, end) = self.places[call];
        for place in [begin].into_iter().chain(end) {
            let Entry { previous, next, .. } = self.list[place];
            self.list[previous].next = next;
            self.list[next].previous = previous;
        }
    }

    fn left(&self) -> impl Iterator<Item = Entry> {
        let at = |at: usize| (at != HEAD).then(|| (at, self.list[at]));
        std::iter::successors(at(self.list[HEAD].next), move |(_, entry)| at(entry.next))
            .map(|(_, entry)| entry)
    }

    /// A read that can no longer get its value after this write.
    fn read_that_is_lost(&self, write: usize) -> Option<usize> {
        let Some(reached) = &self.reached else { return self.read_out_of_reach() };
        let is_on_the_way = |read: usize| {
            let seen = self.calls[read].1.seen();
            self.value.begins(seen.and_then(|seen| seen.as_deref()))
        };
        let is_answer = |entry: &Entry| entry.is_end && self.calls[entry.call].1.seen().is_some();
        let next_read = || self.left().find(is_answer).map_or(write, |entry| entry.call);
        (!reached.bears(write, is_on_the_way)).then(next_read)
    }

    /// The next read that must be answered, if it can no longer get its value.
    fn read_out_of_reach(&self) -> Option<usize> {
        let seen_by = |entry: &Entry| self.calls[entry.call].1.seen().filter(|_| entry.is_end);
        let read = self.left().find(|entry| seen_by(entry).is_some())?;
        let seen = seen_by(&read)?.as_deref();
        if self.value.begins(seen) {
            return None;
        }
        let mut before = self.left().take_while(|entry| seen_by(entry).is_none());
        let may_begin_anew = before.any(|entry| match &self.calls[entry.call].1.action {
            Action::Put(value) => seen.is_some_and(|seen| seen.starts_with(value)),
            _ => false,
        });
        (!may_begin_anew).then_some(read.call)
    }

    /// The order so far, perhaps with one more call, and the call that does not fit after it.
    fn note_longest(&mut self, last: Option<usize>, misfits: Vec<usize>) {
        let len = self.order.len() + usize::from(last.is_some());
        if len > self.longest.order.len() || self.longest.misfits.is_empty() {
            let order = self.order.iter().map(|step| step.call).chain(last).collect();
            self.longest = Longest { order, value: self.value.bytes.clone(), misfits };
        }
    }
}

impl Longest {
    fn explain(&self, calls: &[(usize, Record)], began: Instant) -> String {
        let mut text = String::new();
        let show = |text: &mut String, call: usize| {
            let (number, record) = &calls[call];
            let shown = Shown { number: *number, record, began };
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {shown}");
        };
        let skipped = self.order.len().saturating_sub(SHOWN_MAX);
        let _ = writeln!(text, "an order of {} calls was found; its last ones:", self.order.len());
        self.order[skipped..].iter().for_each(|&call| show(&mut text, call));
        let value = self.value.as_deref().map_or("absent".to_owned(), quoted);
        let _ = writeln!(text, "now the value is {value}, and what must come does not fit:");
        self.misfits.iter().take(4 * SHOWN_MAX).for_each(|&call| show(&mut text, call));
        text
    }
}
