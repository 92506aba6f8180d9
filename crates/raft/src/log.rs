//! The log as the core sees it: the entries that are not applied yet, a tail of those that are, and
//! how many of them are on the disk.
//!
//! ```text
//!       base │ first ............ durable .......... submitted .......... last
//!            │ on this disk             │ being written      │ to be written
//!
//!       base │ first ..... dispensable │ ................. applied │ ..... last
//!            │ to be forgotten         │ a tail, at most so large  │ all of it
//! ```
//!
//! The tail is for peers that are behind ([`Log::retain`]). Its size does not depend on snapshots:
//! what is forgotten here is still in the log on the disk, which loses only what a snapshot holds.
//!
//! Entries are forgotten a few at a time ([`Log::forget`]), because to free a million of them takes
//! longer than a heartbeat may.
//!
//! Invariants: indexes are contiguous, terms never fall, `durable <= submitted <= last`, and
//! `base <= dispensable <= applied <= submitted`: what is not applied yet is there.

use std::collections::VecDeque;

use super::event::PersistId;
use super::types::{Entry, Index, SnapshotMeta, Term};

/// The cost of an entry besides its command, on the wire and in memory.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 48;

/// The position before the first entry, where a log without a snapshot begins.
const NO_SNAPSHOT: SnapshotMeta =
    SnapshotMeta { last_included_index: Index::ZERO, last_included_term: Term::ZERO };

/// The bytes of an entry, as limits count them.
pub(super) fn cost_bytes(entry: &Entry) -> usize {
    entry.len_bytes() + ENTRY_OVERHEAD_BYTES
}

#[derive(Debug)]
pub(super) struct Log {
    /// The entry just before the first one, or zero.
    base: SnapshotMeta,
    /// Entries up to here are no longer needed, and are forgotten little by little.
    dispensable: Index,
    /// The last entry that the state machine has applied, as of the last [`Log::retain`].
    applied: Index,
    /// The cost of the tail: of the entries behind `dispensable`, up to `applied`.
    tail_bytes: usize,
    entries: VecDeque<Entry>,
    /// The last entry that a `Persist` has carried.
    submitted: Index,
    /// The last entry that is on this member's disk.
    durable: Index,
    /// Writes under way, each with the last entry that it makes durable. A truncation lowers these.
    writes: VecDeque<(PersistId, Index)>,
}

impl Log {
    /// The log that the disk has, after the snapshot if there is one.
    pub(super) fn recovered(snapshot: Option<SnapshotMeta>, entries: Vec<Entry>) -> Log {
        let base = snapshot.unwrap_or(NO_SNAPSHOT);
        let counts_up = |(at, entry): (usize, &Entry)| {
            entry.index.0 == base.last_included_index.0 + 1 + at as u64
        };
        assert!(
            entries.iter().enumerate().all(counts_up),
            "a log counts up from its snapshot, or from index 1"
        );
        let terms = entries.iter().map(|entry| entry.term);
        assert!(
            std::iter::once(base.last_included_term).chain(terms).is_sorted(),
            "terms never fall along the log"
        );
        let last = Index(base.last_included_index.0 + entries.len() as u64);
        Log {
            base,
            dispensable: base.last_included_index,
            applied: base.last_included_index,
            tail_bytes: 0,
            entries: entries.into(),
            submitted: last,
            durable: last,
            writes: VecDeque::new(),
        }
    }

    /// The entry just before the first one in memory.
    pub(super) fn base_index(&self) -> Index {
        self.base.last_included_index
    }

    pub(super) fn last_index(&self) -> Index {
        Index(self.base.last_included_index.0 + self.entries.len() as u64)
    }

    pub(super) fn last_term(&self) -> Term {
        self.entries.back().map_or(self.base.last_included_term, |entry| entry.term)
    }

    /// The last entry that was given out to be written.
    pub(super) fn submitted_index(&self) -> Index {
        self.submitted
    }

    pub(super) fn durable_index(&self) -> Index {
        self.durable
    }

    /// The term of the entry at `index`. `None` if it is forgotten, or beyond the end.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.last_included_index {
            return Some(self.base.last_included_term);
        }
        self.position(index).and_then(|at| self.entries.get(at)).map(|entry| entry.term)
    }

    /// The entries from `from` on: as many as fit in `bytes_max`, but at least one if there is one.
    pub(super) fn batch(&self, from: Index, to: Index, bytes_max: usize) -> Vec<Entry> {
        let Some(at) = self.position(from) else { return Vec::new() };
        let mut bytes = 0;
        self.entries
            .range(at.min(self.entries.len())..)
            .take_while(|entry| {
                let is_first = bytes == 0;
                bytes += cost_bytes(entry);
                entry.index <= to && (is_first || bytes <= bytes_max)
            })
            .cloned()
            .collect()
    }

    /// Whether the entries from `from` on cost at least this many bytes.
    pub(super) fn holds_bytes(&self, from: Index, bytes: usize) -> bool {
        let Some(at) = self.position(from) else { return false };
        let mut sum = 0;
        self.entries.range(at.min(self.entries.len())..).any(|entry| {
            sum += cost_bytes(entry);
            sum >= bytes
        })
    }

    /// The cost of the entries from `from` to `to`.
    pub(super) fn cost_bytes_of(&self, from: Index, to: Index) -> usize {
        let at = |index| self.position(index).expect("callers ask for what is not committed");
        self.entries.range(at(from)..at(to.next())).map(cost_bytes).sum()
    }

    /// Appends one entry at the end.
    pub(super) fn append(&mut self, entry: Entry) {
        assert!(entry.index == self.last_index().next(), "entries are contiguous");
        assert!(entry.term >= self.last_term(), "terms never fall along the log");
        self.entries.push_back(entry);
        // Forgets faster than the log grows, however much it grows in a step.
        self.forget(2);
    }

    /// Removes everything from `from` on. Writes of these entries that are under way no longer
    /// count.
    pub(super) fn truncate(&mut self, from: Index) {
        assert!(from <= self.last_index(), "only what there is can be removed");
        let at = self
            .position(from)
            .expect("callers truncate what is not committed, so it is not forgotten");
        self.entries.truncate(at);
        let last = from.prev();
        self.submitted = self.submitted.min(last);
        self.durable = self.durable.min(last);
        for (_, up_to) in &mut self.writes {
            *up_to = last.min(*up_to);
        }
    }

    /// The entries that no `Persist` has carried yet. From now on, `id` carries them.
    pub(super) fn take_unwritten(&mut self, id: PersistId) -> Vec<Entry> {
        assert!(self.writes.back().is_none_or(|&(last, _)| last < id), "writes are in order");
        let entries = self.batch(self.submitted.next(), self.last_index(), usize::MAX);
        self.submitted = self.last_index();
        self.writes.push_back((id, self.submitted));
        entries
    }

    pub(super) fn has_unwritten(&self) -> bool {
        self.submitted < self.last_index()
    }

    /// The state machine has applied the entries up to `applied`. The last `tail_bytes_max` of them
    /// stay, and of those behind `needed`, for which peers wait, the last `needed_bytes_max`.
    #[inline]
    pub(super) fn retain(
        &mut self,
        applied: Index,
        tail_bytes_max: usize,
        needed: Index,
        needed_bytes_max: usize,
    ) {
        assert!(applied >= self.applied, "what was applied stays applied");
        assert!(applied <= self.submitted, "what is not yet being written stays");
        if applied > self.applied {
            self.tail_bytes += self.cost_bytes_of(self.applied.next(), applied);
            self.applied = applied;
        }
        while self.dispensable < applied {
            let is_needed = self.dispensable >= needed;
            if self.tail_bytes <= tail_bytes_max || is_needed && self.tail_bytes <= needed_bytes_max
            {
                return;
            }
            let first = self.dispensable.next();
            self.tail_bytes -= self.cost_bytes_of(first, first);
            self.dispensable = first;
        }
    }

    /// Forgets some of the entries that are not needed. To free a million at once would delay
    /// heartbeats.
    pub(super) fn forget(&mut self, entries_max: usize) {
        for _ in 0..entries_max {
            let Some(first) = self.entries.pop_front_if(|it| it.index <= self.dispensable) else {
                return;
            };
            self.base =
                SnapshotMeta { last_included_index: first.index, last_included_term: first.term };
        }
    }

    /// Begins again after a snapshot, which replaces the whole log.
    pub(super) fn reset(&mut self, snapshot: SnapshotMeta) {
        assert!(snapshot.last_included_index > self.base_index(), "a log begins ever later");
        self.base = snapshot;
        self.dispensable = snapshot.last_included_index;
        self.applied = snapshot.last_included_index;
        self.tail_bytes = 0;
        self.entries.clear();
        self.submitted = snapshot.last_included_index;
        // Until the write that records this is on the disk.
        self.durable = Index::ZERO;
        self.writes.iter_mut().for_each(|(_, up_to)| *up_to = Index::ZERO);
    }

    /// The write `id` and all before it are on the disk.
    pub(super) fn written(&mut self, id: PersistId) {
        while let Some(&(write, up_to)) = self.writes.front()
            && write <= id
        {
            self.durable = self.durable.max(up_to);
            self.writes.pop_front();
        }
    }

    /// The last entry at or before `index` whose term is at most `term`: the last place where two
    /// logs could agree (end of Raft §5.3; thesis §3.5).
    pub(super) fn last_at_most(&self, index: Index, term: Term) -> (Index, Term) {
        // Terms never fall along the log, so the entries with terms up to `term` are a prefix of
        // it.
        let prefix = self.entries.partition_point(|entry| entry.term <= term) as u64;
        let at = index
            .min(Index(self.base.last_included_index.0 + prefix))
            .max(self.base.last_included_index);
        let found = self.term_at(at).expect("it lies between the base and the last entry");
        (at, found)
    }

    /// Whether a log that ends with this entry is at least as up to date as this one (Raft §5.4.1).
    pub(super) fn is_up_to_date(&self, last_index: Index, last_term: Term) -> bool {
        (last_term, last_index) >= (self.last_term(), self.last_index())
    }

    /// Asserts what holds between any two steps.
    pub(super) fn assert_sound(&self) {
        assert!(self.durable <= self.submitted, "only what was given out can be on the disk");
        assert!(self.submitted == self.last_index(), "each step gives out what it added");
        assert!(
            self.base_index() <= self.dispensable && self.dispensable <= self.applied,
            "only what was applied is forgotten"
        );
    }

    fn position(&self, index: Index) -> Option<usize> {
        index.0.checked_sub(self.base.last_included_index.0 + 1).map(|at| at as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Payload;

    fn log(terms: &[u64]) -> Log {
        Log::recovered(
            None,
            terms.iter().enumerate().map(|(at, &term)| entry(at as u64 + 1, term)).collect(),
        )
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            index: Index(index),
            term: Term(term),
            payload: Payload::Command(vec![0; 10].into()),
        }
    }

    #[test]
    fn a_write_that_a_truncation_overtook_makes_nothing_durable() {
        let mut log = log(&[1, 1]);
        log.append(entry(3, 1));
        assert_eq!(log.take_unwritten(PersistId(1)).len(), 1);
        log.truncate(Index(3));
        log.append(entry(3, 2));
        assert_eq!(log.take_unwritten(PersistId(2)), vec![entry(3, 2)]);
        log.written(PersistId(1));
        assert_eq!(
            log.durable_index(),
            Index(2),
            "the write of the old entry 3 says nothing of the new one"
        );
        log.written(PersistId(2));
        assert_eq!(log.durable_index(), Index(3));
    }

    #[test]
    fn a_truncation_takes_durability_back() {
        let mut log = log(&[1, 1, 1]);
        log.truncate(Index(2));
        assert_eq!((log.durable_index(), log.last_index()), (Index(1), Index(1)));
    }

    #[test]
    fn a_batch_holds_at_least_one_entry_and_no_more_than_fits() {
        let log = log(&[1, 1, 1]);
        let size = cost_bytes(&entry(1, 1));
        let check = |from, to, bytes_max, expected: usize| {
            assert_eq!(
                log.batch(Index(from), Index(to), bytes_max).len(),
                expected,
                "{from} {to} {bytes_max}"
            );
        };
        check(1, 3, 0, 1);
        check(1, 3, 2 * size, 2);
        check(1, 3, 2 * size - 1, 1);
        check(2, 3, usize::MAX, 2);
        check(1, 2, usize::MAX, 2);
        check(4, 9, usize::MAX, 0);
        check(0, 9, usize::MAX, 0);
    }

    #[test]
    fn what_was_applied_stays_up_to_a_size_that_is_larger_for_peers() {
        let size = cost_bytes(&entry(1, 1));
        let check = |tail: usize, needed, needed_bytes: usize, expected| {
            let mut log = log(&[1; 9]);
            // In one piece or in two, the tail is the same.
            for applied in [Index(4), Index(6)] {
                log.retain(applied, tail, Index(needed), needed_bytes);
            }
            log.forget(9);
            assert_eq!(log.base_index(), Index(expected), "{tail} {needed} {needed_bytes}");
        };
        let nobody = u64::MAX;
        check(0, nobody, usize::MAX, 6);
        check(size - 1, nobody, usize::MAX, 6);
        check(size, nobody, usize::MAX, 5);
        check(2 * size, nobody, usize::MAX, 4);
        check(usize::MAX, nobody, usize::MAX, 0);
        check(0, 3, usize::MAX, 3);
        check(0, 0, 4 * size, 2);
        check(0, 5, 4 * size, 5);
        check(3 * size, 5, 4 * size, 3);
        check(3 * size, 0, size, 3);
    }

    #[test]
    fn what_is_dispensable_goes_little_by_little_and_faster_than_the_log_grows() {
        let mut log = log(&[1; 10]);
        log.retain(Index(8), 0, Index(u64::MAX), 0);
        assert_eq!(log.base_index(), Index(0));
        log.forget(3);
        assert_eq!((log.base_index(), log.term_at(Index(3))), (Index(3), Some(Term(1))));
        log.append(entry(11, 1));
        assert_eq!(log.base_index(), Index(5));
        log.forget(10);
        assert_eq!((log.base_index(), log.last_index()), (Index(8), Index(11)));
        log.reset(SnapshotMeta { last_included_index: Index(20), last_included_term: Term(1) });
        log.append(entry(21, 1));
        log.forget(10);
        assert_eq!((log.base_index(), log.last_index()), (Index(20), Index(21)));
    }

    #[test]
    fn where_two_logs_could_still_agree() {
        let log = log(&[1, 1, 4, 4, 5]);
        let check = |index, term, expected: (u64, u64)| {
            assert_eq!(
                log.last_at_most(Index(index), Term(term)),
                (Index(expected.0), Term(expected.1))
            );
        };
        check(5, 5, (5, 5));
        check(5, 4, (4, 4));
        check(5, 3, (2, 1));
        check(9, 9, (5, 5));
        check(3, 0, (0, 0));
    }

    #[test]
    fn the_later_term_wins_then_the_longer_log() {
        let log = log(&[1, 2, 2]);
        let check = |index, term, expected| {
            assert_eq!(log.is_up_to_date(Index(index), Term(term)), expected, "{index} {term}");
        };
        check(3, 2, true);
        check(2, 2, false);
        check(4, 2, true);
        check(1, 3, true);
        check(9, 1, false);
    }
}
