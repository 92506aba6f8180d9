//! What is certainly on a disk: a model of the hard state, the log, and the newest snapshot.

use syncraft::raft::{Entry, HardState, Index, Persist, SnapshotMeta, Term};

#[derive(Clone, Debug, Default)]
pub(crate) struct Durable {
    hard_state: HardState,
    entries: Vec<Entry>,
    /// The newest snapshot, if any, and the entries that led to it.
    snapshot: Option<SnapshotMeta>,
    snapshot_entries: Vec<Entry>,
}

impl Durable {
    /// Writes one record after the other, and shows the content after each.
    pub(crate) fn write_by_records(&mut self, persist: &Persist, mut after: impl FnMut(&Durable)) {
        if let Some(hard_state) = persist.hard_state {
            self.write_hard_state(hard_state);
            after(self);
        }
        if let Some(SnapshotMeta { last_included_index, .. }) = persist.reset {
            let led_there = &self.snapshot_entries[..last_included_index.0 as usize];
            self.entries = led_there.to_vec();
            after(self);
        }
        for entry in &persist.entries {
            let at = entry.index.0 as usize - 1;
            assert!(at <= self.entries.len(), "no gaps on disk");
            self.entries.truncate(at);
            self.entries.push(entry.clone());
            after(self);
        }
    }

    fn write_hard_state(&mut self, hard_state: HardState) {
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

    /// A whole snapshot is there: the newest one is kept. `committed` is everything that was ever
    /// committed, in order.
    pub(crate) fn store_snapshot(&mut self, snapshot: SnapshotMeta, committed: &[Entry]) {
        let index = snapshot.last_included_index;
        if index > self.snapshot_index() {
            let known = self.snapshot_entries.len();
            self.snapshot_entries.extend_from_slice(&committed[known..index.0 as usize]);
            let last = self.snapshot_entries.last().map(|entry| entry.term);
            assert_eq!(last, Some(snapshot.last_included_term), "a snapshot of what was committed");
            self.snapshot = Some(snapshot);
        }
    }

    /// What a start returns: the hard state, and the entries after the snapshot. A log that does
    /// not continue past the end of the snapshot begins anew after it; then the hard state has at
    /// least the snapshot's term.
    pub(crate) fn recovered(&self) -> (HardState, &[Entry]) {
        if self.leads_through_snapshot() {
            return (self.hard_state, &self.entries[self.snapshot_index().0 as usize..]);
        }
        let term = self.snapshot.map_or(Term::ZERO, |snapshot| snapshot.last_included_term);
        let is_news = term > self.hard_state.current_term;
        let bumped = HardState { current_term: term, voted_for: None };
        (if is_news { bumped } else { self.hard_state }, &[])
    }

    /// A start has found this content. Tells whether the log had to begin anew, and whether the
    /// hard state is the snapshot's.
    pub(crate) fn recover(&mut self, (hard_state, behind): (HardState, &[Entry])) -> (bool, bool) {
        let is_reset = !self.leads_through_snapshot();
        let is_term_news = is_reset && hard_state.current_term > self.hard_state.current_term;
        self.hard_state = hard_state;
        let led_there = match &self.snapshot {
            Some(_) => &self.snapshot_entries[..],
            None => &[],
        };
        self.entries = [led_there, behind].concat();
        (is_reset, is_term_news)
    }

    fn leads_through_snapshot(&self) -> bool {
        self.snapshot.is_none_or(|it| {
            let entry = self.entries.get(it.last_included_index.0 as usize - 1);
            entry.map(|entry| entry.term) == Some(it.last_included_term)
        })
    }

    pub(crate) fn snapshot(&self) -> Option<SnapshotMeta> {
        self.snapshot
    }

    pub(crate) fn snapshot_index(&self) -> Index {
        self.snapshot.map_or(Index::ZERO, |it| it.last_included_index)
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
