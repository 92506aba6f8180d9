//! A leader: it proposes, replicates, commits (Raft §5.3, §5.4) and confirms reads (thesis §6.4).

use bytes::Bytes;

use super::common::Common;
use super::config::Config;
use super::event::{Effect, Rejection, RequestId};
use super::lease::Lease;
use super::log::cost_bytes;
use super::message::{
    AppendEntries, AppendEntriesReply, Heartbeat, HeartbeatReply, Message, ReadIndex, Request,
};
use super::progress::{Peers, Progress};
use super::reads::{Answers, Question, Reads};
use super::time::{AppliedTime, LeaderTime, STAMP_LEN_BYTES};
use super::transfer::{Transfer, should_leave_bad_disk};
use super::types::{Entry, Index, MemberId, Payload};
use super::{Raft, Role};

#[derive(Debug)]
pub(super) struct Leader {
    peers: Peers,
    pub(super) reads: Reads,
    /// The number of the last round of heartbeats.
    round: u64,
    /// The no-op of this term. Until it is committed, the leader does not know what is, so reads
    /// wait for it (thesis §6.4).
    noop_index: Index,
    /// What was committed at a tick, and at one before it: see `mark_committed`.
    committed_at_mark: Index,
    committed_before: Index,
    ticks_at_mark: u32,
    /// Whether it was removed, and hands over before it steps down.
    is_leaving: bool,
    uncommitted_bytes: usize,
    ticks_since_heartbeat: u32,
    /// How long it has led.
    ticks: u32,
    ticks_since_quorum: u32,
    transfer: Option<Transfer>,
    lease: Lease,
    pub(super) time: LeaderTime,
}

impl Leader {
    fn new(common: &Common, noop_index: Index) -> Leader {
        Leader {
            peers: common.peers().map(|peer| (peer, Progress::new(noop_index))).collect(),
            committed_before: noop_index,
            committed_at_mark: noop_index,
            ticks_at_mark: 0,
            is_leaving: false,
            reads: Reads::default(),
            round: 0,
            noop_index,
            uncommitted_bytes: 0,
            ticks_since_heartbeat: 0,
            ticks: 0,
            ticks_since_quorum: 0,
            transfer: None,
            lease: Lease::default(),
            time: LeaderTime::default(),
        }
    }

    pub(super) fn lost(&mut self, peer: MemberId) {
        if let Some(progress) = self.peers.get_mut(&peer) {
            progress.lost();
        }
    }

    /// Whether a quorum was heard since the last call (check-quorum).
    fn take_quorum_heard(&mut self, common: &Common) -> bool {
        let heard = self
            .peers
            .iter_mut()
            .filter_map(|(&id, peer)| std::mem::take(&mut peer.is_active).then_some(id));
        common.membership().is_quorum(heard.chain([common.config.id]))
    }

    /// When a quorum was last heard, in the time that counts.
    pub(super) fn quorum_heard_us(&self, common: &Common) -> u64 {
        let heard = self.peers.iter().map(|(&id, peer)| (id, peer.heard_us));
        let own = (common.config.id, common.time.counted_us());
        common.membership().reached_by_quorum(heard.chain([own]))
    }

    /// A peer has lost its data, and asks what it may have promised.
    pub(super) fn asked_to_join(&mut self, id: MemberId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.asks_to_join();
        }
    }

    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(super) fn peers_mut(&mut self) -> &mut Peers {
        &mut self.peers
    }

    pub(super) fn noop_index(&self) -> Index {
        self.noop_index
    }

    /// Whether it has led for so long that every peer that lives has answered it.
    pub(super) fn knows_who_lives(&self, config: &Config) -> bool {
        self.ticks >= 2 * config.heartbeat_ticks
    }

    /// What was committed half of the shortest election timeout ago, or up to twice as long ago:
    /// whoever has it has caught up.
    pub(super) fn committed_before(&self) -> Index {
        self.committed_before
    }

    /// Whether another member is to lead, so that nothing new is taken.
    pub(super) fn is_handing_over(&self) -> bool {
        self.transfer.is_some() || self.is_leaving
    }

    /// This leader was removed, and that is committed: it hands over (thesis §4.2.2).
    pub(super) fn leave(&mut self, common: &Common) {
        if !self.is_leaving {
            self.is_leaving = true;
            self.begin_transfer(common, None);
        }
    }
}

impl Raft {
    /// The election is won (Raft §5.2). The no-op lets entries of earlier terms commit (§5.4.2,
    /// §8).
    pub(super) fn become_leader(&mut self) {
        assert!(matches!(self.role, Role::Candidate(_)), "only an election makes a leader");
        let common = &mut self.common;
        assert_eq!(common.hard_state().voted_for, Some(common.config.id), "it voted for itself");
        assert!(common.is_hard_state_durable(), "a leader has its own vote on its disk");
        assert!(self.joining.is_none(), "a leader knows all its promises");
        common.set_leader(Some(common.config.id));
        let mut leader = Leader::new(common, common.log.last_index().next());
        leader.append(common, Payload::Noop);
        leader.send_heartbeats(common);
        self.role = Role::Leader(Box::new(leader));
    }
}

impl Leader {
    /// Adds an entry of this leader at the end of its log.
    pub(super) fn append(&mut self, common: &mut Common, payload: Payload) -> Index {
        let (index, term) = (common.log.last_index().next(), common.current_term());
        let entry = Entry { index, term, payload };
        self.uncommitted_bytes += cost_bytes(&entry);
        common.append([entry]);
        index
    }

    /// A tick has passed. False if no quorum was heard for an election timeout, so that this leader
    /// must step down (thesis §6.2).
    #[must_use]
    pub(super) fn tick(&mut self, common: &mut Common) -> bool {
        self.ticks = self.ticks.saturating_add(1);
        self.ticks_since_quorum += 1;
        self.ticks_since_heartbeat += 1;
        self.peers.values_mut().for_each(Progress::tick);
        self.part_with_peers(common);
        self.reads.tick();
        self.mark_committed(common);
        let is_heartbeat_due = self.ticks_to_heartbeat(common) == 0;
        if self.ticks_since_quorum >= common.config.election_ticks_min {
            self.ticks_since_quorum = 0;
            if !self.take_quorum_heard(common) {
                return false;
            }
        }
        self.transfer.take_if(|transfer| transfer.tick(&common.config));
        // A leader that was removed has handed over by now, or nobody can take over.
        if self.is_leaving && self.transfer.is_none() {
            return false;
        }
        if self.transfer.is_none() && should_leave_bad_disk(common, &self.peers) {
            self.begin_transfer(common, None);
        }
        if is_heartbeat_due {
            self.beat(common);
        }
        true
    }

    /// After how many ticks the next heartbeat is due, if nothing happens. Heartbeats are rare
    /// while all peers have everything and know it. One of these may go unanswered.
    fn ticks_to_heartbeat(&self, common: &Common) -> u32 {
        let Config { heartbeat_ticks, rare_heartbeat_ticks, .. } = common.config;
        let due_in = |ticks: u32| ticks.saturating_sub(self.ticks_since_heartbeat);
        let last_index = common.log.last_index();
        let settled_for =
            |peer: &Progress| peer.settled_ticks(last_index, 2 * rare_heartbeat_ticks);
        let settled_ticks = match self.reads.is_any_in_round() {
            // The round may be lost.
            true => 0,
            false => self.peers.values().map(settled_for).min().unwrap_or(u32::MAX),
        };
        due_in(rare_heartbeat_ticks).min(due_in(heartbeat_ticks).max(settled_ticks))
    }

    /// The regular heartbeat, which also repairs lost messages.
    fn beat(&mut self, common: &mut Common) {
        self.ticks_since_heartbeat = 0;
        self.peers.values_mut().for_each(Progress::heartbeat);
        self.send_heartbeats(common);
    }

    /// A learner is sent what is committed, so it lags behind by a message and a write, which may
    /// take longer than a heartbeat.
    fn mark_committed(&mut self, common: &Common) {
        let passed = self.ticks.saturating_sub(self.ticks_at_mark);
        if passed >= common.config.election_ticks_min / 2 {
            self.committed_before = self.committed_at_mark;
            self.committed_at_mark = common.commit_index().max(self.noop_index);
            self.ticks_at_mark = self.ticks;
        }
    }

    /// Starts a new round of heartbeats to all peers.
    fn send_heartbeats(&mut self, common: &mut Common) {
        self.round += 1;
        let round = self.round;
        if let Some(now_us) = common.now_us {
            self.lease.sent(round, now_us);
        }
        let (term, commit_index) = (common.current_term(), common.commit_index());
        for (&to, peer) in &mut self.peers {
            let leader_commit = commit_index.min(peer.match_index());
            peer.told_commit(leader_commit, round);
            let heartbeat = Request::Heartbeat(Heartbeat { leader_commit, round });
            common.effects.push(Effect::Send(common.request(to, term, heartbeat)));
        }
    }

    /// A client's command, which goes into the log or is refused.
    #[inline]
    pub(super) fn propose(&mut self, common: &mut Common, id: RequestId, command: Bytes) {
        // Or the next leader would never have everything (thesis §3.10).
        if self.is_handing_over() {
            return common.reject(id, Rejection::HandingOver);
        }
        if self.is_busy(common) {
            return common.reject(id, Rejection::Busy);
        }
        let index = self.append(common, Payload::Command(command));
        let term = common.current_term();
        common.effects.push(Effect::Proposed { id, index, term });
    }

    /// As [`propose`](Leader::propose), with a stamp behind the command.
    pub(super) fn propose_stamped(
        &mut self,
        common: &mut Common,
        id: RequestId,
        command: &[u8],
        is_time: bool,
    ) {
        let Some(now_ms) = self.time.now_ms(&common.time) else {
            return common.reject(id, Rejection::Busy);
        };
        let mut stamped = Vec::with_capacity(command.len() + STAMP_LEN_BYTES);
        stamped.extend_from_slice(command);
        stamped.extend_from_slice(&now_ms.to_le_bytes());
        let last_index = common.log.last_index();
        self.propose(common, id, stamped.into());
        if is_time && common.log.last_index() > last_index {
            self.time.told(common.log.last_index(), &common.time);
        }
    }

    /// The state machine has come further.
    pub(super) fn applied(&mut self, common: &Common) {
        self.time.applied(common.applied_index);
        if common.applied_index >= self.noop_index {
            self.time.fix(&common.time);
        }
    }

    /// Whether a bound is reached.
    fn is_busy(&self, common: &Common) -> bool {
        let config = &common.config;
        let uncommitted_entries = common.log.last_index().0 - common.commit_index().0;
        let unapplied_entries = common.commit_index().0.saturating_sub(common.applied_index.0);
        self.uncommitted_bytes >= config.uncommitted_bytes_max
            || uncommitted_entries >= config.uncommitted_entries_max
            || unapplied_entries >= config.unapplied_entries_max
    }

    /// A client's read, which waits for the next round of heartbeats or is refused.
    pub(super) fn read(&mut self, common: &mut Common, id: RequestId) {
        match self.reads.len() < common.config.reads_max {
            true => self.reads.wait(id),
            false => common.reject(id, Rejection::Busy),
        }
    }

    /// A follower's question: like a read at this leader, except that the follower serves it.
    pub(super) fn on_read_index(
        &mut self,
        common: &mut Common,
        message: &Message,
        request: ReadIndex,
    ) {
        match self.reads.len() < common.config.reads_max {
            true => self.reads.wait_for(Question::new(message, request)),
            false => common.refuse_read_index(message, request),
        }
    }

    /// Does what remains after a batch of events.
    pub(super) fn finish(&mut self, common: &mut Common) {
        self.reconfigure(common);
        self.start_read_round(common);
        self.send_appends(common);
        self.send_timeout_now(common);
    }

    /// Starts one round for all reads that wait, once an entry of this term is committed: only then
    /// does the leader know what is committed (thesis §6.4). Under a lease no round is needed.
    fn start_read_round(&mut self, common: &mut Common) {
        let commit_index = common.commit_index();
        if commit_index < self.noop_index || !self.reads.is_any_waiting() {
            return;
        }
        let term = common.log.term_at(commit_index);
        let committed = (commit_index, term.expect("the last committed entry's term is known"));
        if common.now_us.is_some_and(|now_us| now_us < self.lease_end_us(common)) {
            let answers = self.reads.confirm_waiting(committed);
            return answer_followers(common, answers);
        }
        if self.reads.wants_round(common.unanswered_reads) {
            self.reads.start_round(self.round + 1, committed);
            self.send_heartbeats(common);
            self.confirm_reads(common);
        }
    }

    /// Until when reads need no round; 0 without a lease.
    pub(super) fn lease_end_us(&self, common: &Common) -> u64 {
        if common.commit_index() < self.noop_index {
            return 0;
        }
        let promises = self.peers.iter().map(|(&id, peer)| (id, peer.promise_end_us));
        self.lease.holds_until_us(common, promises)
    }

    /// Whether reads wait for a round, and perhaps for others to be answered before it.
    pub(super) fn holds_reads(&self) -> bool {
        self.reads.is_any_waiting()
    }

    /// See [`Raft::calm_ticks`](super::Raft::calm_ticks).
    pub(super) fn calm_ticks(&self, common: &Common) -> u32 {
        let last_index = common.log.last_index();
        let is_waited_for = self.holds_reads()
            || self.transfer.is_some()
            || self.is_leaving
            || common.applied_index < self.noop_index
            || self.peers.values().any(|peer| peer.is_gathering(&common.config, last_index));
        match is_waited_for || self.is_any_due_soon(common, 0, None) {
            true => 0,
            // The state machine may have news of the time.
            false if common.applied_index < common.handed_out() => 1,
            false => self.ticks_to_heartbeat(common).max(1),
        }
    }

    /// See [`Raft::is_any_due_soon`](super::Raft::is_any_due_soon).
    pub(super) fn is_any_due_soon(
        &self,
        common: &Common,
        since_reading_us: u64,
        news: Option<AppliedTime>,
    ) -> bool {
        let Config { heartbeat_ticks, tick_us, .. } = common.config;
        let soon_us = 2 * u64::from(heartbeat_ticks) * tick_us + since_reading_us;
        self.time.is_any_due_within(soon_us.div_ceil(1000), &common.time, news)
    }

    pub(super) fn confirm_reads(&mut self, common: &mut Common) {
        if !self.reads.is_any_in_round() {
            return;
        }
        let acked = self.peers.iter().map(|(&id, peer)| (id, peer.acked_round));
        let own = (common.config.id, self.round);
        let confirmed = common.membership().reached_by_quorum(acked.chain([own]));
        let answers = self.reads.confirm(confirmed);
        answer_followers(common, answers);
    }

    pub(super) fn release_reads(&mut self, common: &mut Common) {
        let ready = self.reads.take_ready(common.handed_out());
        if !ready.is_empty() {
            common.effects.push(Effect::ReadReady(ready));
        }
    }

    /// Voters are sent the whole log, and learners what is committed: see [`membership`].
    ///
    /// [`membership`]: super::membership
    fn send_appends(&mut self, common: &mut Common) {
        for (&to, peer) in &mut self.peers {
            let (last_index, committed) = (common.log.last_index(), common.commit_index());
            let last_index = match last_index == committed || common.membership().is_voter(to) {
                true => last_index,
                false => committed,
            };
            let is_full = |common: &Common, from| {
                common.log.holds_bytes(from, common.config.append_gather_bytes)
            };
            while (peer.next_index() <= last_index || peer.is_probed())
                && peer.may_send(&common.config, || is_full(common, peer.next_index()))
            {
                match next_append(common, peer.next_index(), last_index) {
                    Some(request) => {
                        let last = request.entries.last();
                        let sent_index = last.map_or(request.prev_log_index, |entry| entry.index);
                        peer.sent(sent_index, request.entries.iter().map(cost_bytes).sum());
                        let append = Request::AppendEntries(request);
                        let message = common.request(to, common.current_term(), append);
                        common.effects.push(Effect::Send(message));
                    }
                    None => send_snapshot(common, to, peer),
                }
            }
        }
    }

    /// There is a new snapshot: peers may wait for it.
    pub(super) fn snapshot_taken(&mut self) {
        self.peers.values_mut().for_each(Progress::snapshot_taken);
    }

    /// Entries behind this one are kept for peers.
    #[inline]
    pub(super) fn kept_behind(&self) -> Index {
        self.peers.values().filter_map(Progress::kept_behind).min().unwrap_or(Index(u64::MAX))
    }

    /// Begins a transfer, which replaces one that is under way.
    pub(super) fn begin_transfer(&mut self, common: &Common, to: Option<MemberId>) {
        self.transfer = Transfer::begin(common.membership(), &self.peers, to);
    }

    /// Asks the next leader to stand once it has the whole log on its disk.
    fn send_timeout_now(&mut self, common: &mut Common) {
        let Some(transfer) = &mut self.transfer else { return };
        let last_index = common.log.last_index();
        if let Some(to) = transfer.take_ready(common.membership(), &self.peers, last_index) {
            self.lease.give_away();
            let message = common.request(to, common.current_term(), Request::TimeoutNow);
            common.effects.push(Effect::Send(message));
        }
    }

    pub(super) fn on_append_entries_reply(
        &mut self,
        common: &mut Common,
        message: &Message,
        reply: AppendEntriesReply,
    ) {
        let Some(peer) = self.peers.get_mut(&message.from) else {
            return common.nonsense(message, "it is not from a member");
        };
        peer.heard();
        peer.heard_us = common.time.counted_us();
        match reply {
            AppendEntriesReply::Matched { match_index }
                if match_index > common.log.last_index() =>
            {
                common.nonsense(message, "it matches entries that were never sent");
            }
            AppendEntriesReply::Matched { match_index } => {
                peer.matched(match_index);
                self.advance_commit_index(common);
            }
            AppendEntriesReply::Conflict { rejected_index, conflict_index, conflict_term } => {
                let (agree_max, _) = common.log.last_at_most(conflict_index, conflict_term);
                let match_index = peer.match_index();
                if peer.conflicted(rejected_index, agree_max) {
                    let peer = message.from;
                    common.effects.push(Effect::PeerLostData { peer, match_index });
                }
            }
            AppendEntriesReply::Stale => peer.refused(),
        }
    }

    pub(super) fn on_heartbeat_reply(
        &mut self,
        common: &mut Common,
        message: &Message,
        reply: HeartbeatReply,
    ) {
        if reply.round > self.round {
            return common.nonsense(message, "it answers a heartbeat that was never sent");
        }
        let promise_end_us = self.lease.end_us(reply.round, reply.promised_us);
        let Some(peer) = self.peers.get_mut(&message.from) else {
            return common.nonsense(message, "it is not from a member");
        };
        peer.can_write = !reply.cannot_write;
        peer.heard();
        peer.heard_us = common.time.counted_us();
        peer.acked_round = peer.acked_round.max(reply.round);
        peer.promise_end_us = peer.promise_end_us.max(promise_end_us);
        self.confirm_reads(common);
    }

    /// Commits the last entry that a quorum has on its disks, if it is of the current term, and
    /// with it everything before (Raft §5.3, §5.4.2).
    pub(super) fn advance_commit_index(&mut self, common: &mut Common) {
        let matched = self.peers.iter().map(|(&id, peer)| (id, peer.match_index()));
        let own = (common.config.id, common.log.durable_index());
        let reached = common.membership().reached_by_quorum(matched.chain([own]));
        if reached <= common.commit_index()
            || common.log.term_at(reached) != Some(common.current_term())
        {
            return;
        }
        assert!(reached >= self.noop_index, "a leader's term begins with its no-op (§5.4.2)");
        let own_from = self.noop_index.max(common.commit_index().next());
        self.uncommitted_bytes -= common.log.cost_bytes_of(own_from, reached);
        common.commit_to(reached);
    }

    /// Asserts what holds between any two steps.
    pub(super) fn assert_sound(&self, common: &Common) {
        assert!(common.is_leading(), "a leader knows that it leads");
        assert!(self.noop_index <= common.log.last_index(), "a leader keeps its entries");
        assert!(self.reads.len() <= common.config.reads_max, "reads have a bound");
    }
}

/// The entries from `next_index` up to `last_index`, as many as fit in one message; none if that is
/// before. `None` if the log no longer has them, so that the peer needs a snapshot.
fn next_append(common: &Common, next_index: Index, last_index: Index) -> Option<AppendEntries> {
    let next_of_log = common.log.last_index().next();
    assert!(next_index <= next_of_log, "nothing beyond the log is sent (figure 2)");
    let prev_log_index = next_index.prev();
    let prev_log_term = common.log.term_at(prev_log_index)?;
    let entries = common.log.batch(next_index, last_index, common.config.append_bytes_max);
    let leader_commit = common.commit_index();
    Some(AppendEntries { prev_log_index, prev_log_term, entries, leader_commit })
}

/// The peer lacks forgotten entries, and is sent the newest snapshot. If there would still be a gap
/// between that snapshot and the log, the shell is asked for another one.
fn send_snapshot(common: &mut Common, to: MemberId, peer: &mut Progress) {
    match common.snapshot_to_send() {
        Some(snapshot) => {
            peer.snapshot_sent(snapshot.last_included_index);
            let term = common.current_term();
            common.effects.push(Effect::SendSnapshot { to, term });
        }
        None => {
            peer.await_snapshot(common.applied_index);
            common.effects.push(Effect::TakeSnapshot);
        }
    }
}

/// Tells followers, which serve these reads, what they must have applied first.
fn answer_followers(common: &mut Common, answers: Answers) {
    for (question, committed) in answers {
        common.answer_question(question, Some(committed));
    }
}
