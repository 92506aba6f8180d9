//! What the clerks saw, checked against the [`Reference`] and the order of time.
//!
//! The log is an order of all writes, and a read comes after the entry that its member had applied
//! last. So what clerks saw is linearizable, for the whole store and not only for each key, if
//! - each answer is the one that the reference has at its place in this order,
//! - a write comes after everything that was committed when its clerk began it, and
//! - a read comes after everything that any clerk had been told when its clerk began it.

use bytes::Bytes;
use syncraft::kv::{Change, Outcome, Query};
use syncraft::raft::Index;

use crate::clerk::{End, Ended, Read};
use crate::commands::Drawn;
use crate::reference::{Reference, WriteId};
use crate::search::{Seen, Step};
use crate::workload::Workload;

/// The most calls of all clerks in one run.
const CALLS_MAX: usize = 700;

/// This leaves room for some reads at the end.
const CALLS_BEGUN_MAX: usize = 650;

/// Calls of all clerks.
#[derive(Default)]
pub(crate) struct History {
    calls: Vec<Call>,
    /// The last place that any clerk was told of.
    told: Index,
    /// Counts beginnings and ends of calls.
    moment: u64,
}

struct Call {
    clerk: usize,
    asked: Drawn,
    began: u64,
    ended: u64,
    /// What was committed when it began.
    committed: Index,
    /// The last place that any clerk had been told of when it began.
    told: Index,
    end: Option<Ended>,
}

/// A call in the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallId(usize);

impl History {
    pub(crate) fn has_room(&self) -> bool {
        self.calls.len() < CALLS_BEGUN_MAX
    }

    /// A call of `clerk` begins.
    pub(crate) fn begin(&mut self, clerk: usize, asked: Drawn, committed: Index) -> CallId {
        assert!(self.calls.len() < CALLS_MAX, "too many calls");
        self.moment += 1;
        let (told, began, ended) = (self.told, self.moment, u64::MAX);
        self.calls.push(Call { clerk, asked, began, ended, committed, told, end: None });
        CallId(self.calls.len() - 1)
    }

    /// A call has ended.
    ///
    /// # Panics
    ///
    /// If it cannot have ended so.
    pub(crate) fn end(&mut self, CallId(at): CallId, ended: Ended, reference: &Reference) {
        self.moment += 1;
        let call = &mut self.calls[at];
        call.ended = self.moment;
        match &ended.end {
            End::Written(outcome) => {
                let write = ended.writes.last().expect("a write has an id");
                assert!(
                    reference.has_said(write, outcome),
                    "{write:?} is answered with what no copy of it came to: {outcome:?}"
                );
                let place = reference.took_effect(write);
                let place = place.unwrap_or_else(|| panic!("{write:?} never took effect"));
                // Its copies all take effect. The answer is that of one of them.
                let place = match outcome {
                    Outcome::KeptAlive { index, .. } => *index,
                    _ => place,
                };
                assert!(
                    place > call.committed,
                    "{write:?} took effect at {place}, before it began: {} was committed then",
                    call.committed
                );
                self.told = self.told.max(place);
            }
            End::Read { query, at, read } => {
                assert!(
                    *at >= call.told,
                    "stale answer: a read sees {at}, but a clerk knew of {} before",
                    call.told
                );
                let expected = Read::expected(query, *at, reference);
                assert_eq!(*read, expected, "the answer to {query:?} at {at}");
                self.told = self.told.max(*at);
            }
            End::NotApplied | End::Unknown => {}
        }
        call.end = Some(ended);
    }

    /// Whether the newest `count` calls were answered.
    pub(crate) fn are_answered(&self, count: usize) -> bool {
        let newest = &self.calls[self.calls.len() - count..];
        newest.iter().all(|call| {
            matches!(&call.end, Some(Ended { end: End::Read { .. } | End::Written(_), .. }))
        })
    }

    /// Everything has been committed that ever will be: each write took effect if its clerk was
    /// told so, and not if it was told that. (That no write takes effect twice, the reference
    /// checks.)
    ///
    /// # Panics
    ///
    /// If a clerk was told something else.
    pub(crate) fn check(&self, reference: &Reference) {
        for Ended { writes, end } in self.calls.iter().filter_map(|call| call.end.as_ref()) {
            let effective: Vec<&WriteId> =
                writes.iter().filter(|write| reference.took_effect(write).is_some()).collect();
            let is_so = match end {
                End::Written(_) => effective == [writes.last().expect("a write has an id")],
                End::NotApplied | End::Read { .. } => effective.is_empty(),
                End::Unknown => effective.len() <= 1,
            };
            assert!(is_so, "of a write that ended with {end:?}, these took effect: {effective:?}");
        }
    }

    /// The puts, appends and gets of keys that only clerks write, as they saw them.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let seen = self.calls.iter().filter_map(Call::seen);
        seen.filter(|call| !Workload::writes(&call.key)).collect()
    }
}

impl Call {
    fn seen(&self) -> Option<Seen> {
        let (key, step): (&Bytes, Step) = match (&self.asked, &self.end.as_ref()?.end) {
            (_, End::NotApplied) => return None,
            (Drawn::Write(Change::Put { key, value }), _) => (key, Step::Put(value.clone())),
            (Drawn::Write(Change::Append { key, value }), _) => (key, Step::Append(value.clone())),
            (Drawn::Read(Query::Get { key }), End::Read { read: Read::Value(value), .. }) => {
                (key, Step::Got(value.clone()))
            }
            _ => return None,
        };
        let is_known = !matches!(self.end.as_ref()?.end, End::Unknown);
        let ended = is_known.then_some(self.ended);
        Some(Seen { clerk: self.clerk, key: key.clone(), began: self.began, ended, step })
    }
}
