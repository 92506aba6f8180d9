//! A leader: it proposes, replicates, commits (Raft §5.3, §5.4) and confirms reads (thesis §6.4).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::config::Config;
use super::event::{Effect, Rejection, RequestId};
use super::lease::Lease;
use super::log::cost_bytes;
use super::message::*;
use super::progress::Progress;
use super::reads::{Answers, Reads};
use super::transfer::Transfer;
use super::types::{Entry, Index, MemberId, Payload};
use super::{Raft, Role};

#[derive(Debug)]
pub(super) struct Leader {
    pub(super) peers: BTreeMap<MemberId, Progress>,
    pub(super) reads: Reads,
    /// Number of the last round of heartbeats.
    round: u64,
    /// The no-op of this term: what is committed before it is unknown, so reads wait for it (thesis §6.4).
    noop_index: Index,
    uncommitted_bytes: usize,
    ticks_since_heartbeat: u32,
    ticks_since_quorum: u32,
    pub(super) transfer: Option<Transfer>,
    pub(super) lease: Lease,
}

impl Leader {
    fn new(config: &Config, noop_index: Index) -> Leader {
        Leader {
            peers: config.peers().map(|peer| (peer, Progress::new(noop_index))).collect(),
            reads: Reads::default(),
            round: 0,
            noop_index,
            uncommitted_bytes: 0,
            ticks_since_heartbeat: 0,
            ticks_since_quorum: 0,
            transfer: None,
            lease: Lease::default(),
        }
    }

    pub(super) fn lost(&mut self, peer: MemberId) {
        if let Some(progress) = self.peers.get_mut(&peer) {
            progress.lost();
        }
    }

    /// Whether a quorum was heard since the last call (check-quorum).
    fn take_quorum_heard(&mut self, config: &Config) -> bool {
        let heard = self
            .peers
            .values_mut()
            .filter_map(|peer| std::mem::take(&mut peer.is_active).then_some(()));
        1 + heard.count() >= config.quorum()
    }
}

/// The largest value that a quorum has reached, given all members' values.
pub(super) fn quorum_reached<T: Ord + Copy>(mut values: Vec<T>, quorum: usize) -> T {
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[quorum - 1]
}

impl Raft {
    /// The election is won (Raft §5.2). The no-op lets entries of earlier terms commit (§5.4.2, §8).
    pub(super) fn become_leader(&mut self) {
        assert!(matches!(self.role, Role::Candidate(_)), "only an election makes a leader");
        assert!(self.is_hard_state_durable(), "a leader has its own vote on its disk");
        self.leader = Some(self.config.id);
        let noop_index = self.log.last_index().next();
        self.role = Role::Leader(Box::new(Leader::new(&self.config, noop_index)));
        self.append_own(Payload::Noop);
        self.send_heartbeats();
    }

    fn append_own(&mut self, payload: Payload) -> Index {
        let entry =
            Entry { index: self.log.last_index().next(), term: self.current_term(), payload };
        let (index, bytes) = (entry.index, cost_bytes(&entry));
        self.log.append(entry);
        if let Role::Leader(leader) = &mut self.role {
            leader.uncommitted_bytes += bytes;
        }
        index
    }

    pub(super) fn tick_leader(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.ticks_since_quorum += 1;
        leader.ticks_since_heartbeat += 1;
        leader.peers.values_mut().for_each(Progress::tick);
        let is_heartbeat_due = leader.ticks_since_heartbeat >= self.config.heartbeat_ticks;
        if leader.ticks_since_quorum >= self.config.election_ticks_min {
            leader.ticks_since_quorum = 0;
            if !leader.take_quorum_heard(&self.config) {
                return self.become_follower(self.current_term(), None);
            }
        }
        self.tick_transfer();
        self.leave_bad_disk();
        if is_heartbeat_due {
            self.beat();
        }
    }

    /// The regular heartbeat: also what repairs lost messages.
    fn beat(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.ticks_since_heartbeat = 0;
        leader.peers.values_mut().for_each(Progress::heartbeat);
        self.send_heartbeats();
    }

    /// Starts a new round of heartbeats to all peers.
    fn send_heartbeats(&mut self) {
        let commit_index = self.commit_index;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.round += 1;
        let round = leader.round;
        if let Some(now_us) = self.now_us {
            leader.lease.sent(round, now_us);
        }
        let commits: Vec<_> = leader
            .peers
            .iter()
            .map(|(&id, peer)| (id, commit_index.min(peer.match_index)))
            .collect();
        for (peer, leader_commit) in commits {
            let heartbeat = Body::Heartbeat(Heartbeat { leader_commit, round });
            self.effects.push(Effect::Send(self.request(peer, self.current_term(), heartbeat)));
        }
    }

    /// A client's command: into the log, or refused.
    pub(super) fn propose(&mut self, id: RequestId, command: Bytes) {
        let uncommitted_entries = self.log.last_index().0 - self.commit_index.0;
        let unapplied_entries = self.commit_index.0.saturating_sub(self.applied_index.0);
        let reason = match &self.role {
            // Nothing new may come, or the one who is to take over never has everything (thesis §3.10).
            Role::Leader(leader) if leader.transfer.is_some() => Rejection::Busy,
            Role::Leader(leader)
                if leader.uncommitted_bytes >= self.config.uncommitted_bytes_max =>
            {
                Rejection::Busy
            }
            Role::Leader(_)
                if uncommitted_entries >= self.config.uncommitted_entries_max
                    || unapplied_entries >= self.config.unapplied_entries_max =>
            {
                Rejection::Busy
            }
            Role::Leader(_) => {
                let index = self.append_own(Payload::Command(command));
                return self.effects.push(Effect::Proposed {
                    id,
                    index,
                    term: self.current_term(),
                });
            }
            _ => Rejection::NotLeader(self.leader),
        };
        self.effects.push(Effect::Rejected { id, reason });
    }

    /// A client's read: waits for the next round of heartbeats, or is refused.
    pub(super) fn read(&mut self, id: RequestId) {
        let reason = match &mut self.role {
            Role::Leader(leader) if leader.reads.len() >= self.config.reads_max => Rejection::Busy,
            Role::Leader(leader) => return leader.reads.wait(id),
            _ if self.leader.is_none() => Rejection::NotLeader(None),
            _ if self.forwarded.len() >= self.config.reads_max => Rejection::Busy,
            _ => return self.forwarded.wait(id),
        };
        self.effects.push(Effect::Rejected { id, reason });
    }

    /// All reads that wait share one round, once an entry of this term is committed: only then does the leader know what is
    /// (thesis §6.4). Under a lease they need none.
    pub(super) fn start_read_round(&mut self) {
        let (commit_index, has_lease) = (self.commit_index, self.has_lease());
        let Role::Leader(leader) = &mut self.role else { return };
        if commit_index < leader.noop_index || !leader.reads.is_any_waiting() {
            return;
        }
        let term =
            self.log.term_at(commit_index).expect("the last committed entry's term is known");
        let committed = (commit_index, term);
        if has_lease {
            let answers = leader.reads.confirm_waiting(committed);
            return self.answer_followers(answers);
        }
        if leader.reads.wants_round() {
            leader.reads.start_round(leader.round + 1, committed);
            self.send_heartbeats();
            self.confirm_reads();
        }
    }

    fn confirm_reads(&mut self) {
        let quorum = self.config.quorum();
        let Role::Leader(leader) = &mut self.role else { return };
        let mut rounds: Vec<u64> = leader.peers.values().map(|peer| peer.acked_round).collect();
        rounds.push(leader.round);
        let answers = leader.reads.confirm(quorum_reached(rounds, quorum));
        self.answer_followers(answers);
    }

    fn answer_followers(&mut self, answers: Answers) {
        for (message, committed) in answers {
            let Body::ReadIndex(ReadIndex { batch }) = message.body else { continue };
            let reply = ReadIndexReply { batch, committed: Some(committed) };
            self.answer_read_index(&message, reply);
        }
    }

    pub(super) fn release_reads(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let ready = leader.reads.take_ready(self.handed_out);
        if !ready.is_empty() {
            self.effects.push(Effect::ReadReady(ready));
        }
    }

    pub(super) fn send_appends(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let (id, term, leader_commit) =
            (self.config.id, self.hard_state.current_term, self.commit_index);
        for (&to, peer) in &mut leader.peers {
            let last_index = self.log.last_index();
            let is_full = |from| self.log.holds_bytes(from, self.config.append_gather_bytes);
            while (peer.next_index <= last_index || peer.is_probed())
                && peer.may_send(&self.config, || is_full(peer.next_index))
            {
                let prev_log_index = peer.next_index.prev();
                // Before the log's beginning there is the snapshot only.
                let Some(prev_log_term) = self.log.term_at(prev_log_index) else {
                    assert!(self.snapshot.is_some(), "what is forgotten is in a snapshot");
                    peer.snapshot_sent();
                    self.effects.push(Effect::SendSnapshot { to, term });
                    break;
                };
                let entries =
                    self.log.batch(peer.next_index, last_index, self.config.append_bytes_max);
                let sent_index = entries.last().map_or(prev_log_index, |entry| entry.index);
                peer.sent(sent_index, entries.iter().map(cost_bytes).sum());
                let body = Body::AppendEntries(AppendEntries {
                    prev_log_index,
                    prev_log_term,
                    entries,
                    leader_commit,
                });
                self.effects.push(Effect::Send(Message { from: id, to, term, token: 0, body }));
            }
        }
    }

    pub(super) fn on_append_entries_reply(&mut self, message: &Message, reply: AppendEntriesReply) {
        let last_index = self.log.last_index();
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get_mut(&message.from) else { return };
        peer.heard();
        match reply {
            AppendEntriesReply::Matched { match_index } if match_index > last_index => {
                self.nonsense(message, "it matches entries that were never sent");
            }
            AppendEntriesReply::Matched { match_index } => {
                peer.matched(match_index);
                self.advance_commit_index();
            }
            AppendEntriesReply::Conflict { rejected_index, conflict_index, conflict_term } => {
                let (agree_max, _) = self.log.last_at_most(conflict_index, conflict_term);
                let match_index = peer.match_index;
                if peer.conflicted(rejected_index, agree_max) {
                    let peer = message.from;
                    self.effects.push(Effect::PeerLostData { peer, match_index });
                }
            }
            AppendEntriesReply::Stale => peer.refused(),
        }
    }

    pub(super) fn on_heartbeat_reply(&mut self, message: &Message, reply: HeartbeatReply) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get_mut(&message.from) else { return };
        if reply.round > leader.round {
            return self.nonsense(message, "it answers a heartbeat that was never sent");
        }
        peer.can_write = !reply.cannot_write;
        peer.heard();
        peer.acked_round = peer.acked_round.max(reply.round);
        let promise_end_us = leader.lease.end_us(reply.round, reply.promised_us);
        peer.promise_end_us = peer.promise_end_us.max(promise_end_us);
        self.confirm_reads();
    }

    /// Commits what a quorum has on its disks, if it is of the current term; what is before it is then committed too
    /// (Raft §5.3, §5.4.2).
    pub(super) fn advance_commit_index(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let mut on_disk: Vec<Index> = leader.peers.values().map(|peer| peer.match_index).collect();
        on_disk.push(self.log.durable_index());
        let reached = quorum_reached(on_disk, self.config.quorum());
        if reached <= self.commit_index
            || self.log.term_at(reached) != Some(self.hard_state.current_term)
        {
            return;
        }
        let own_from = leader.noop_index.max(self.commit_index.next());
        leader.uncommitted_bytes -= self.log.cost_bytes_of(own_from, reached);
        self.commit_index = reached;
    }
}
