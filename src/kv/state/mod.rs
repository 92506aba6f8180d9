//! [`State`]: the entries of a store, their past, their leases, and the limits that they keep to.
//!
//! ```text
//! Put, Append ──────> State::put, append ──┐
//! Txn ──> Execution ─> Tree (a version of its own) ──> commit ─┬─> Tree     what the keys hold now
//!            └─ range reads ─> Tree, or Past                   └─> History  what they held before
//! stamps, lease commands ──> Leases: whose keys end, and when ──> commit
//! ```
//!
//! # Invariants
//! - `revision` grows by one with each command that changes an entry, and with each lease that ends
//!   and has keys, and with nothing else.
//! - A key is among the keys of a lease if and only if the tree says that it has this lease. A key
//!   with a lease of its own has none in the tree.
//! - Every change whose revision is above `history.compacted()` is in the history, once for each
//!   key.
//! - What a command does follows from the state and the command alone.

mod changes;
mod execution;
mod held;
mod history;
mod key;
#[cfg(test)]
mod lease_tests;
mod leases;
mod pages;
mod past;
mod range_read;
#[cfg(test)]
mod tests;
mod tree;
mod value;

use bytes::Bytes;

use super::limits::{Limits, LimitsChange};
use super::model::{LeaseId, LeaseInfo, Reason, Refusal, Revision, ScanRange, Txn, TxnAnswer};
use crate::raft::Index;

pub use execution::Branches;
pub(super) use execution::Budget;
pub(super) use held::Held;
pub(super) use history::{Before, BeforeValue, History, KeyChange, Record, Timeline};
pub(super) use key::Key;
pub(super) use leases::{Lease, Leases, OwnLease};
pub(super) use pages::Pages;
pub(super) use tree::{Stored, Tree};
pub(super) use value::Value;

use changes::Changes;
use execution::{Execution, Given};
use leases::{DELETED_MAX, Due};

/// The entries of a store as of one log index. A clone takes microseconds and shares everything
/// that neither side changes.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) tree: Tree,
    pub(super) history: History,
    pub(super) leases: Leases,
    pub(super) revision: Revision,
    pub(super) limits: Limits,
    /// The cluster's feature level.
    pub(super) level: u32,
}

/// Which entry of the log a command is.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::kv) struct LogEntry {
    pub(super) index: Index,
    /// The leader's stamp, if the command has one.
    pub(super) stamp_ms: Option<u64>,
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
            leases: Leases::default(),
            revision: Revision::EMPTY_STORE,
            limits: Limits::default(),
            level: 1,
        }
    }
}

impl State {
    /// Replaces the value of `key`, which loses its lease.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        self.change(LogEntry::default(), |execution| execution.put(key, value))
    }

    /// Appends `more` to the value of `key`.
    pub(super) fn append(&mut self, key: &[u8], more: &[u8]) -> Result<(), Refusal> {
        self.change(LogEntry::default(), |execution| execution.append(key, more).map(drop))
    }

    /// Runs a transaction.
    pub(super) fn run(&mut self, entry: LogEntry, txn: &Txn) -> Result<Ran, Refusal> {
        let mut branches = Branches::default();
        let answer = self.change(entry, |execution| {
            let answer = execution.run_all(txn);
            branches = execution.branches;
            answer
        })?;
        Ok(Ran { answer, branches })
    }

    /// Runs a transaction that changes nothing.
    pub(super) fn read(&self, txn: &Txn, budget: &mut Budget<'_>) -> Result<TxnAnswer, Refusal> {
        let (mut tree, mut leases) = (self.tree.clone(), self.leases.clone());
        let mut changes = Changes::default();
        let given = self.given(LogEntry::default());
        let history = &self.history;
        let mut execution =
            Execution::new(&mut tree, &mut leases, &mut changes, history, given, budget);
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

    /// The time is `stamp_ms` now: ends the leases whose deadline has passed, without those that
    /// the same entry keeps alive (`kept`).
    pub(super) fn pass_time(&mut self, stamp_ms: u64, kept: &[LeaseId]) {
        self.leases.raise_time(stamp_ms);
        let mut deleted = 0;
        for due in self.leases.due(kept) {
            if deleted >= DELETED_MAX {
                break;
            }
            deleted += match due {
                Due::WithId(id) => self.end_lease(id).expect("it was there"),
                Due::OfKey(key) => {
                    self.leases.end_own(&key);
                    self.delete_all([&key])
                }
            };
        }
    }

    /// Grants a lease with this id, or with one that is free. Returns its id.
    pub(super) fn grant(
        &mut self,
        entry: LogEntry,
        id: LeaseId,
        ttl_ms: u64,
    ) -> Result<LeaseId, Refusal> {
        if self.leases.contains(id) {
            return Err(Refusal::of(Reason::LeaseExists, id.0));
        }
        let Limits { bytes_max, leases_max, .. } = self.limits;
        if self.tree.bytes() > bytes_max {
            return Err(Refusal::of(Reason::NoSpace, bytes_max));
        }
        if self.leases.len() as u64 >= leases_max {
            return Err(Refusal::of(Reason::NoSpace, leases_max));
        }
        let id = match id {
            LeaseId::NONE => self.leases.first_free_id(entry.index),
            id => Some(id),
        };
        let id = id.ok_or(Refusal::of(Reason::NoSpace, leases_max))?;
        self.leases.grant(id, ttl_ms, entry.stamp_ms());
        Ok(id)
    }

    /// Ends a lease and deletes its keys.
    pub(super) fn revoke(&mut self, id: LeaseId) -> Result<(), Refusal> {
        self.end_lease(id).map(drop).ok_or(Refusal::of(Reason::NoSuchLease, id.0))
    }

    /// Keeps leases alive. Returns the time to live of each; 0 if there is no such lease.
    pub(super) fn keep_alive(&mut self, entry: LogEntry, ids: &[LeaseId]) -> Vec<u64> {
        let keep = |id| self.leases.keep_alive(id, entry.stamp_ms()).unwrap_or(0);
        ids.iter().copied().map(keep).collect()
    }

    /// What a client may know of a lease.
    pub(super) fn lease(&self, id: LeaseId, wants_keys: bool) -> Result<LeaseInfo, Refusal> {
        self.leases.info(id, wants_keys)
    }

    /// At most `limit` leases with higher ids than `after`, and whether there are more.
    pub(super) fn leases_after(&self, after: LeaseId, limit: usize) -> (Vec<LeaseInfo>, bool) {
        let mut infos = self.leases.infos_after(after);
        let page = infos.by_ref().take(limit).collect();
        (page, infos.next().is_some())
    }

    /// Returns how many keys it had; `None`: there is no such lease.
    fn end_lease(&mut self, id: LeaseId) -> Option<u64> {
        let keys = self.leases.remove(id)?;
        Some(self.delete_all(&keys))
    }

    /// Deletes keys whose lease has ended, which takes one revision. Returns how many.
    fn delete_all<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>) -> u64 {
        let (mut changes, mut count) = (Changes::default(), 0);
        for key in keys {
            let before = self.tree.remove(key);
            changes.replaced(key, before);
            count += 1;
        }
        self.commit(changes);
        count
    }

    fn given(&self, entry: LogEntry) -> Given {
        Given { revision: self.revision, limits: self.limits, entry }
    }

    /// Runs `change`. If it succeeds and changes anything, that takes the next revision. If it
    /// fails, it has changed nothing.
    fn change<T>(
        &mut self,
        entry: LogEntry,
        change: impl FnOnce(&mut Execution<'_, '_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let (mut changes, mut budget) = (Changes::default(), Budget::of_a_command());
        let given = self.given(entry);
        let State { tree, leases, history, .. } = self;
        let mut execution = Execution::new(tree, leases, &mut changes, history, given, &mut budget);
        let done = change(&mut execution)?;
        self.commit(changes);
        Ok(done)
    }

    /// The changes have been made to the tree: they enter the history, and take the next revision.
    fn commit(&mut self, changes: Changes) {
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
    }
}

impl LogEntry {
    /// The stamp of a command whose kind has one.
    pub(super) fn stamp_ms(self) -> u64 {
        self.stamp_ms.expect("no command of a stamped kind is decoded without its stamp")
    }
}
