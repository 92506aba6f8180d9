//! Snapshots: when they are taken, how they travel, and what may happen on the way.
//!
//! One at a time goes to a peer, outside the network's order, and takes its time. It is on the peer's disk before the peer's
//! core hears of it, and that may never be. Who sent it waits for an answer, until a deadline.

use bytes::Bytes;
use syncraft::node::StateView;
use syncraft::raft::{
    AppendEntriesReply, Body, Effect, Event, Index, MemberId, Message, SnapshotMeta, Status, Term,
};

use super::{What, World};
use crate::member::{Living, Transfer};

/// How long an answer is waited for.
const DEADLINE_US: u64 = 1_000_000;

impl World {
    /// Something was applied: perhaps a snapshot of it, or of a state a little before, is written now.
    pub(super) fn draw_snapshot(&mut self, at: usize) {
        if self.snapshot_rng.f64() >= self.plan.snapshot {
            return;
        }
        let Some(living) = &self.members[at].living else { return };
        let (index, view) = living.machine.view();
        let mut state = Vec::new();
        view.write(&mut state).expect("a vector takes all");
        let delay_us = self.snapshot_rng.u64(self.plan.disk_us.clone());
        self.after(delay_us, What::SnapshotTaken(self.who(at), index, state.into()));
    }

    pub(super) fn snapshot_taken(&mut self, at: usize, index: Index, state: Bytes) {
        self.count("snapshot taken");
        let snapshot = self.oracle.snapshot_at(index);
        self.store(at, snapshot, state);
        self.post(at, Event::SnapshotTaken(snapshot));
    }

    fn store(&mut self, at: usize, snapshot: SnapshotMeta, state: Bytes) {
        let id = self.members[at].id;
        self.trace.line(self.now_us, || format!("{id} stores {snapshot:?}"));
        let committed = self.oracle.canonical(snapshot.last_included_index);
        self.members[at].disk.store_snapshot(snapshot, committed, state);
    }

    pub(super) fn send_snapshot(&mut self, at: usize, to: MemberId, term: Term) {
        let member = &mut self.members[at];
        self.oracle.sends_snapshot(member, term);
        let snapshot = member.disk.snapshot().expect("the oracle has just looked");
        let Some(living) = &mut member.living else { return };
        if let Some(transfer) = living.transfers.get_mut(&to) {
            transfer.is_asked_again = true;
            return self.count("snapshot asked for while one is on its way");
        }
        self.count("snapshot sent");
        let token = self.scheduled + 1;
        let transfer = Transfer { token, is_asked_again: false };
        let (id, who) = (self.members[at].id, self.who(at));
        if let Some(living) = &mut self.members[at].living {
            living.transfers.insert(to, transfer);
        }
        let state = Bytes::copy_from_slice(self.members[at].disk.snapshot_state());
        let body = Body::InstallSnapshot(snapshot);
        let message = Message { from: id, to, term, token, body };
        if self.snapshot_rng.f64() < self.plan.faults.duplicate {
            let delay_us = self.transfer_us();
            self.after(delay_us, What::SnapshotArrived(who, message.clone(), state.clone()));
        }
        let delay_us = self.transfer_us();
        self.after(delay_us, What::SnapshotArrived(who, message, state));
        self.after(DEADLINE_US, What::SnapshotDeadline(who, to, token));
    }

    fn transfer_us(&mut self) -> u64 {
        self.snapshot_rng.u64(self.plan.delay_us.clone()) * self.snapshot_rng.u64(1..40)
    }

    /// The last piece gets there, or it breaks off, which its sender notices.
    pub(super) fn snapshot_arrived(&mut self, who: super::Who, message: Message, state: Bytes) {
        let (from, to) = (message.from, message.to);
        let at = Self::at_of(to);
        let is_cut = self.network.is_cut(from, to) || self.network.is_cut(to, from);
        let is_lost = self.snapshot_rng.f64() < self.plan.faults.drop;
        if is_cut || is_lost || self.members[at].living.is_none() {
            if self.is_alive(who) {
                self.snapshot_failed(who.at, to, message.token);
            }
            return self.count("snapshot lost");
        }
        let Body::InstallSnapshot(snapshot) = message.body else { return };
        self.store(at, snapshot, state.clone());
        self.draw_crash(at);
        let delay_us = self.snapshot_rng.u64(self.plan.disk_us.clone());
        self.after(delay_us, What::SnapshotStored(self.who(at), message, state));
    }

    /// The core may now be told.
    pub(super) fn snapshot_stored(&mut self, at: usize, message: Message, state: Bytes) {
        if let (Some(living), Body::InstallSnapshot(snapshot)) =
            (&mut self.members[at].living, &message.body)
        {
            living.received.push((*snapshot, state));
        }
        self.post(at, Event::Message(message));
    }

    /// Where crashes happen at all, they often do between a snapshot's arrival and the end of what follows from it.
    fn draw_crash(&mut self, at: usize) {
        if self.plan.faults.crash > 0.0 && self.snapshot_rng.u8(0..4) == 0 {
            let delay_us = self.snapshot_rng.u64(..3 * self.plan.disk_us.end);
            self.after(delay_us, What::Crash(self.who(at)));
        }
    }

    pub(super) fn snapshot_failed(&mut self, at: usize, peer: MemberId, token: u64) {
        if self.end_transfer(at, peer, token).is_some() {
            self.count("snapshot waited for in vain");
            self.post(at, Event::Disconnected(peer));
        }
    }

    fn end_transfer(&mut self, at: usize, peer: MemberId, token: u64) -> Option<Transfer> {
        let transfers = &mut self.members[at].living.as_mut()?.transfers;
        transfers.get(&peer).filter(|it| it.token == token)?;
        transfers.remove(&peer)
    }

    /// A message reaches a member that lives: perhaps the answer to a snapshot.
    pub(super) fn arrived(&mut self, at: usize, message: Message) {
        let (from, token) = (message.from, message.token);
        let is_answer = matches!(message.body, Body::AppendEntriesReply(_));
        self.post(at, Event::Message(message));
        let transfer = is_answer.then(|| self.end_transfer(at, from, token)).flatten();
        if transfer.is_some_and(|it| it.is_asked_again) {
            self.post(at, Event::Disconnected(from));
        }
    }

    pub(super) fn install(&mut self, at: usize, snapshot: SnapshotMeta) {
        self.oracle.installs(&self.members[at], snapshot);
        let Some(Living { machine, received, .. }) = &mut self.members[at].living else { return };
        let received = received.iter().find(|(meta, _)| *meta == snapshot);
        let (_, state) = received.expect("the core installs what has just arrived");
        machine.load(snapshot.last_included_index, &mut &state[..]);
        self.oracle.states.loaded(machine);
    }

    pub(super) fn count_restart(&mut self, at: usize, is_reset: bool) {
        let member = &self.members[at];
        let Some(living) = &member.living else { return };
        let status = living.status;
        assert!(status.snapshot_index >= member.snapshot_index, "a snapshot index never falls");
        assert_eq!(status.commit_index, status.snapshot_index, "that much is known at a start");
        let is_told = status.snapshot_index == member.snapshot_index;
        let is_term_news = status.role.term > member.disk.hard_state().current_term;
        for (is_so, name) in [
            (status.snapshot_index > Index::ZERO, "restart from a snapshot"),
            (is_reset, "restart with a log that ends before the snapshot"),
            (is_term_news, "restart in the snapshot's term"),
            (!is_told, "snapshot stored by who is not told"),
        ] {
            if is_so {
                self.count(name);
            }
        }
    }

    /// What became of the snapshots that arrived in a step.
    pub(super) fn count_snapshots(
        &mut self,
        at: usize,
        before: Status,
        snapshots: &[(Term, SnapshotMeta)],
        effects: &[Effect],
    ) {
        let Some(after) = self.members[at].living.as_ref().map(|it| it.status) else { return };
        for (term, snapshot) in snapshots {
            let index = snapshot.last_included_index;
            let is_installed = effects.contains(&Effect::Install(*snapshot));
            self.count(if *term < before.role.term {
                "snapshot refused"
            } else if is_installed {
                "snapshot installed"
            } else if index <= before.commit_index {
                "snapshot that was no news"
            } else if after.commit_index >= index && after.last_index > index {
                "snapshot kept what follows it"
            } else {
                "snapshot that ends the log"
            });
        }
        // What it matched in an earlier term of the same batch, a later leader may have replaced since: that answer is late,
        // as any message may be.
        let is_stale = |effect: &Effect| {
            matches!(effect, Effect::Send(Message {
                term,
                body: Body::AppendEntriesReply(AppendEntriesReply::Matched { match_index }), ..
            }) if *term == after.role.term && *match_index > after.last_index)
        };
        assert!(!effects.iter().any(is_stale), "nobody matches what it has not");
    }
}

/// The snapshots that arrive among `events`, with their leader's term.
pub(super) fn among(events: &[Event]) -> Vec<(Term, SnapshotMeta)> {
    let snapshot = |event: &Event| match event {
        Event::Message(Message { term, body: Body::InstallSnapshot(snapshot), .. }) => {
            Some((*term, *snapshot))
        }
        _ => None,
    };
    events.iter().filter_map(snapshot).collect()
}
