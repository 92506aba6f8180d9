//! [`State`]: the entries of a store, their past, and the limits that they keep to.
//!
//! ```text
//! Put, Append ──────> State::put, append ──┐
//! Txn ──> Execution ─> Tree (a version of its own) ──> commit ─┬─> Tree     what the keys hold now
//!            └─ range reads ─> Tree, or Past                   └─> History  what they held before
//! ```
//!
//! # Invariants
//! - `revision` grows by one with each command that changes an entry, and with nothing else.
//! - Every change whose revision is above `history.compacted()` is in the history, once for each
//!   key.
//! - What a command does follows from the state and the command alone.

mod changes;
mod execution;
mod held;
mod history;
mod key;
mod pages;
mod past;
mod range_read;
#[cfg(test)]
mod tests;
mod tree;
mod value;

use bytes::Bytes;

use super::limits::{Limits, LimitsChange};
use super::model::{Reason, Refusal, Revision, ScanRange, Txn, TxnAnswer};

pub use execution::Branches;
pub(super) use execution::Budget;
pub(super) use held::Held;
pub(super) use history::{Before, BeforeValue, History, KeyChange, Record, Timeline};
pub(super) use key::Key;
pub(super) use pages::Pages;
pub(super) use tree::{Stored, Tree};
pub(super) use value::Value;

use changes::Changes;
use execution::Execution;

/// The entries of a store as of one log index. A clone takes microseconds and shares everything
/// that neither side changes.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) tree: Tree,
    pub(super) history: History,
    pub(super) revision: Revision,
    pub(super) limits: Limits,
    /// The cluster's feature level.
    pub(super) level: u32,
}

/// What a transaction did.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) answer: TxnAnswer,
    pub(super) branches: Branches,
}

impl Default for State {
    fn default() -> State {
        State {
            tree: Tree::default(),
            history: History::default(),
            revision: Revision::EMPTY_STORE,
            limits: Limits::default(),
            level: 1,
        }
    }
}

impl State {
    /// Replaces the value of `key`, which loses its lease.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        self.change(|execution| execution.put(key, value))
    }

    /// Appends `more` to the value of `key`.
    pub(super) fn append(&mut self, key: &[u8], more: &[u8]) -> Result<(), Refusal> {
        self.change(|execution| execution.append(key, more).map(drop))
    }

    /// Runs a transaction.
    pub(super) fn run(&mut self, txn: &Txn) -> Result<Ran, Refusal> {
        let mut branches = Branches::default();
        let answer = self.change(|execution| {
            let answer = execution.run_all(txn);
            branches = execution.branches;
            answer
        })?;
        Ok(Ran { answer, branches })
    }

    /// Runs a transaction that changes nothing.
    pub(super) fn read(&self, txn: &Txn, budget: &mut Budget<'_>) -> Result<TxnAnswer, Refusal> {
        let (mut tree, mut changes) = (self.tree.clone(), Changes::default());
        let mut execution = Execution::new(
            &mut tree,
            &mut changes,
            &self.history,
            self.revision,
            self.limits,
            budget,
        );
        let answer = execution.run_all(txn);
        assert!(changes.is_empty(), "a read changes nothing");
        answer
    }

    /// Begins a scan.
    pub(super) fn pages<'a>(&'a self, scan: &'a ScanRange) -> Result<Pages<'a>, Refusal> {
        Pages::new(self, scan)
    }

    /// Forgets all states before `revision`.
    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), Refusal> {
        if revision <= self.history.compacted() {
            return Err(Refusal::of(Reason::Compacted, self.history.compacted().0));
        }
        if revision > self.revision {
            return Err(Refusal::of(Reason::InTheFuture, self.revision.0));
        }
        self.history.compact(revision);
        Ok(())
    }

    pub(super) fn set_limits(&mut self, change: LimitsChange) -> Result<(), Refusal> {
        let limits = self.limits.changed(change);
        self.limits = limits.map_err(|limit| Refusal::of(Reason::LimitOutOfBounds, limit))?;
        self.history.shrink_to(self.limits.history_bytes_max);
        Ok(())
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.tree.get(key).map(|stored| stored.value.to_bytes())
    }

    /// Runs `change`. If it succeeds and changes anything, that takes the next revision. If it
    /// fails, it has changed nothing.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Execution<'_, '_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut changes = Changes::default();
        let mut budget = Budget::of_a_command();
        let mut execution = Execution::new(
            &mut self.tree,
            &mut changes,
            &self.history,
            self.revision,
            self.limits,
            &mut budget,
        );
        let done = change(&mut execution)?;
        let revision = self.revision.next();
        let mut has_changed = false;
        for (key, before) in changes.into_iter() {
            // A key that came to be and is gone again has not changed.
            if before.is_some() || self.tree.get(&key).is_some() {
                let before = before.as_ref().map(Before::borrowed);
                self.history.push(&Record { revision, key: &key, before });
                has_changed = true;
            }
        }
        if has_changed {
            self.revision = revision;
            self.history.shrink_to(self.limits.history_bytes_max);
        }
        Ok(done)
    }
}
