//! [`Join`]: makes whole revisions of the messages of a watch. Needs neither socket nor clock.
//!
//! A message has changes in the order of their revisions, and says up to which revision the watch
//! is complete. What it has beyond that is a part of a revision, and is held back until the rest
//! has come. When another stream begins, parts are dropped, because it begins anew behind the last
//! complete revision. Changes that were given out already are dropped, too.
//!
//! # Invariants
//! - What is given out has increasing revisions, each once and whole.
//! - Parts hold at most [`PARTS_BYTES_MAX`]. Whole revisions that wait are those of one message and
//!   the parts before it.

use std::collections::VecDeque;

use crate::kv::model::{Change, Changes, Revision};

/// How much of one revision is held until it is complete. A put of all that a transaction may write
/// is 15 MiB; only the deletion of very many keys is longer.
pub(super) const PARTS_BYTES_MAX: u64 = 256 << 20;

/// See the file.
#[derive(Debug)]
pub(super) struct Join {
    /// Everything up to here has come. [`Revision::NONE`] before a watch from "now" is made.
    complete: Revision,
    parts: Vec<Change>,
    parts_bytes: u64,
    ready: VecDeque<Changes>,
}

/// Why a message cannot be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum JoinError {
    /// Its revisions are out of order.
    OutOfOrder,
    /// This revision is longer than what is held.
    TooLarge(Revision),
}

impl Join {
    /// Of a watch from this revision on; [`Revision::NONE`]: from "now".
    pub(super) fn new(from: Revision) -> Join {
        let complete = match from {
            Revision::NONE => Revision::NONE,
            // Nothing has changed up to the first revision.
            from => Revision(from.0 - 1).max(Revision::EMPTY_STORE),
        };
        Join { complete, parts: Vec::new(), parts_bytes: 0, ready: VecDeque::new() }
    }

    /// A stream has begun, at a member that is at this revision.
    pub(super) fn begin(&mut self, revision: Revision) {
        self.parts.clear();
        self.parts_bytes = 0;
        if self.complete == Revision::NONE {
            self.complete = revision;
        }
    }

    /// The first revision that has not come whole; [`Revision::NONE`]: from "now".
    pub(super) fn wanted(&self) -> Revision {
        match self.complete {
            Revision::NONE => Revision::NONE,
            complete => complete.next(),
        }
    }

    /// Everything up to here was given out.
    pub(super) fn given(&self) -> Revision {
        match self.ready.front() {
            Some(next) => Revision(next.revision.0 - 1),
            None => self.complete,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    pub(super) fn pop(&mut self) -> Option<Changes> {
        self.ready.pop_front()
    }

    /// A message has come.
    pub(super) fn take(
        &mut self,
        changes: Vec<Change>,
        complete_to: Revision,
    ) -> Result<(), JoinError> {
        let mut last = self.parts.last().map_or(Revision::NONE, Change::revision);
        for change in changes {
            let revision = change.revision();
            if revision < last {
                return Err(JoinError::OutOfOrder);
            }
            last = revision;
            if revision > self.complete {
                self.parts_bytes += change.len_bytes();
                self.parts.push(change);
            }
        }
        let whole = self.parts.partition_point(|change| change.revision() <= complete_to);
        for change in self.parts.drain(..whole) {
            self.parts_bytes -= change.len_bytes();
            let revision = change.revision();
            match self.ready.back_mut() {
                Some(changes) if changes.revision == revision => changes.changes.push(change),
                _ => self.ready.push_back(Changes { revision, changes: vec![change] }),
            }
        }
        self.complete = self.complete.max(complete_to);
        match self.parts.first() {
            Some(first) if self.parts_bytes > PARTS_BYTES_MAX => {
                Err(JoinError::TooLarge(first.revision()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn delete(key: &'static str, revision: u64) -> Change {
        Change::Delete { key: key.into(), revision: Revision(revision), previous: None }
    }

    fn take(join: &mut Join, changes: &[(&'static str, u64)], complete_to: u64) {
        let changes = changes.iter().map(|&(key, revision)| delete(key, revision)).collect();
        join.take(changes, Revision(complete_to)).unwrap();
    }

    #[track_caller]
    fn check(join: &mut Join, expected: &[(u64, &[&str])]) {
        let key = |change: &Change| String::from_utf8(change.key().to_vec()).unwrap();
        let found: Vec<(u64, Vec<String>)> = std::iter::from_fn(|| join.pop())
            .map(|it| (it.revision.0, it.changes.iter().map(key).collect()))
            .collect();
        let keys = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect();
        let expected: Vec<(u64, Vec<String>)> =
            expected.iter().map(|&(revision, it)| (revision, keys(it))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_revision_comes_when_all_its_parts_are_there() {
        let mut join = Join::new(Revision(3));
        join.begin(Revision(9));
        take(&mut join, &[("a", 3), ("a", 5), ("b", 5)], 4);
        assert_eq!((join.given(), join.wanted()), (Revision(2), Revision(5)));
        check(&mut join, &[(3, &["a"])]);
        assert_eq!(join.given(), Revision(4));
        take(&mut join, &[("c", 5)], 4);
        check(&mut join, &[]);
        take(&mut join, &[("d", 5), ("a", 6)], 6);
        assert_eq!(join.given(), Revision(4));
        check(&mut join, &[(5, &["a", "b", "c", "d"]), (6, &["a"])]);
        assert_eq!((join.given(), join.wanted()), (Revision(6), Revision(7)));
    }

    #[test]
    fn parts_are_dropped_when_another_stream_begins_and_nothing_comes_twice() {
        let mut join = Join::new(Revision::NONE);
        assert_eq!(join.wanted(), Revision::NONE);
        join.begin(Revision(4));
        assert_eq!(join.wanted(), Revision(5));
        take(&mut join, &[("a", 5), ("a", 6)], 5);
        join.begin(Revision(6));
        assert_eq!(join.wanted(), Revision(6));
        // A member that begins too early.
        take(&mut join, &[("a", 4), ("a", 5), ("a", 6), ("b", 6)], 6);
        check(&mut join, &[(5, &["a"]), (6, &["a", "b"])]);
    }

    #[test]
    fn a_watch_from_the_first_revision_is_not_one_from_now() {
        let mut join = Join::new(Revision::EMPTY_STORE);
        join.begin(Revision(9));
        take(&mut join, &[("a", 2)], 9);
        check(&mut join, &[(2, &["a"])]);
    }

    #[test]
    fn a_note_without_changes_moves_on_and_never_back() {
        let mut join = Join::new(Revision(2));
        take(&mut join, &[], 8);
        take(&mut join, &[], 6);
        assert_eq!((join.given(), join.wanted()), (Revision(8), Revision(9)));
        take(&mut join, &[("a", 7)], 7);
        check(&mut join, &[]);
    }

    #[test]
    fn changes_out_of_order_are_refused() {
        let mut join = Join::new(Revision(2));
        let changes = vec![delete("a", 4), delete("a", 3)];
        assert_eq!(join.take(changes, Revision(4)), Err(JoinError::OutOfOrder));
        let mut join = Join::new(Revision(2));
        take(&mut join, &[("a", 5)], 4);
        assert_eq!(join.take(vec![delete("a", 3)], Revision(5)), Err(JoinError::OutOfOrder));
    }

    #[test]
    fn a_revision_without_end_is_refused() {
        let mut join = Join::new(Revision(2));
        let key = Bytes::from(vec![0; 1 << 20]);
        let part = || Change::Delete { key: key.clone(), revision: Revision(3), previous: None };
        let taken = (0..1000)
            .find_map(|at| join.take(vec![part()], Revision(2)).err().map(|error| (at, error)));
        assert_eq!(taken, Some((255, JoinError::TooLarge(Revision(3)))));
    }
}
