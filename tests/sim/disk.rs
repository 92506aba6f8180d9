//! A member's disk: what is durable, what is being written, and what a crash leaves of it.

use std::collections::VecDeque;

use bytes::Bytes;
use syncraft::raft::{Entry, HardState, Index, Message, Persist, PersistId, SnapshotMeta, Term};

/// Writes take effect in order, and share flushes: what is submitted during one is written by the next. A crash keeps any
/// prefix of the records whose write was not reported: a hard state, a reset, then entries one by one.
///
/// The log is kept from its first entry on, also where the member has forgotten it, so that it can be checked.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    hard_state: HardState,
    entries: Vec<Entry>,
    /// The newest snapshot, which is there or not, and the entries that led to it.
    snapshot: Option<SnapshotMeta>,
    snapshot_entries: Vec<Entry>,
    snapshot_state: Bytes,
    /// Submitted, with when it will be durable.
    pending: VecDeque<(u64, Persist)>,
    /// The newest flush: from when to when.
    flush_us: (u64, u64),
}

impl Disk {
    /// Queues a write; a flush that begins for it takes `duration_us`. Returns when it will be durable.
    pub(crate) fn submit(&mut self, persist: Persist, now_us: u64, duration_us: u64) -> u64 {
        let (start_us, done_us) = self.flush_us;
        let is_joined = now_us <= start_us && !self.pending.is_empty();
        if !is_joined {
            let start_us = done_us.max(now_us);
            self.flush_us = (start_us, start_us + duration_us);
        }
        self.pending.push_back((self.flush_us.1, persist));
        self.flush_us.1
    }

    /// The device does nothing else for `duration_us`.
    pub(crate) fn stall(&mut self, now_us: u64, duration_us: u64) {
        let (start_us, done_us) = self.flush_us;
        self.flush_us = (start_us, done_us.max(now_us + duration_us));
    }

    /// Everything that is due is durable: the last such write, and what may be said now.
    pub(crate) fn complete(&mut self, now_us: u64) -> (Option<PersistId>, Vec<Message>) {
        let (mut last, mut then) = (None, Vec::new());
        while self.pending.front().is_some_and(|(done_us, _)| *done_us <= now_us) {
            let Some((_, persist)) = self.pending.pop_front() else { break };
            self.write(persist.hard_state, persist.reset, &persist.entries);
            then.extend(persist.then);
            last = Some(persist.id);
        }
        (last, then)
    }

    /// The power goes: what was not reported survives up to a random record. True if something was lost.
    pub(crate) fn crash(&mut self, rng: &mut fastrand::Rng) -> bool {
        let records = |persist: &Persist| {
            let heads = [persist.hard_state.is_some(), persist.reset.is_some()];
            heads.into_iter().filter(|it| *it).count() + persist.entries.len()
        };
        let total = self.pending.iter().map(|(_, persist)| records(persist)).sum();
        let mut left = rng.usize(0..=total);
        let is_loss = left < total;
        for (_, persist) in std::mem::take(&mut self.pending) {
            let hard_state = persist.hard_state.filter(|_| left > 0);
            left -= usize::from(hard_state.is_some());
            let reset = persist.reset.filter(|_| left > 0);
            left -= usize::from(reset.is_some());
            let count = left.min(persist.entries.len());
            self.write(hard_state, reset, &persist.entries[..count]);
            left -= count;
        }
        self.flush_us = (0, 0);
        is_loss
    }

    fn write(
        &mut self,
        hard_state: Option<HardState>,
        reset: Option<SnapshotMeta>,
        entries: &[Entry],
    ) {
        if let Some(hard_state) = hard_state {
            assert!(
                hard_state.current_term >= self.hard_state.current_term,
                "a term on disk never falls"
            );
            let is_vote_kept = hard_state.current_term > self.hard_state.current_term
                || self.hard_state.voted_for.is_none()
                || hard_state.voted_for == self.hard_state.voted_for;
            assert!(is_vote_kept, "a vote on disk stands for its term");
            self.hard_state = hard_state;
        }
        if let Some(SnapshotMeta { last_included_index, .. }) = reset {
            let led_there = &self.snapshot_entries[..last_included_index.0 as usize];
            self.entries = led_there.to_vec();
        }
        for entry in entries {
            let at = entry.index.0 as usize - 1;
            assert!(at <= self.entries.len(), "no gaps on disk");
            self.entries.truncate(at);
            self.entries.push(entry.clone());
        }
    }

    /// A whole snapshot is there: the newest is kept. `committed` is all that ever was, in order.
    pub(crate) fn store_snapshot(
        &mut self,
        snapshot: SnapshotMeta,
        committed: &[Entry],
        state: Bytes,
    ) {
        let index = snapshot.last_included_index;
        if index > self.snapshot_index() {
            let known = self.snapshot_entries.len();
            self.snapshot_entries.extend_from_slice(&committed[known..index.0 as usize]);
            self.snapshot = Some(snapshot);
            self.snapshot_state = state;
        }
    }

    pub(crate) fn snapshot(&self) -> Option<SnapshotMeta> {
        self.snapshot
    }

    pub(crate) fn snapshot_state(&self) -> &[u8] {
        &self.snapshot_state
    }

    pub(crate) fn snapshot_index(&self) -> Index {
        self.snapshot.map_or(Index::ZERO, |it| it.last_included_index)
    }

    /// A start: a log that does not lead through the end of the snapshot begins anew behind it. True if it had to.
    pub(crate) fn recover(&mut self) -> bool {
        let is_reset = !self.leads_through_snapshot();
        if is_reset {
            self.entries = self.snapshot_entries.clone();
        }
        is_reset
    }

    fn leads_through_snapshot(&self) -> bool {
        self.snapshot.is_none_or(|it| {
            let entry = self.entries.get(it.last_included_index.0 as usize - 1);
            entry.map(|entry| entry.term) == Some(it.last_included_term)
        })
    }

    pub(crate) fn hard_state(&self) -> HardState {
        self.hard_state
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// As a start would find it.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        let found =
            if self.leads_through_snapshot() { &self.entries } else { &self.snapshot_entries };
        match index.0.checked_sub(1) {
            None => Some(Term::ZERO),
            Some(at) => found.get(at as usize).map(|entry| entry.term),
        }
    }
}
