//! A follower: it answers (Raft §5.2, §5.3), and asks the leader before it serves reads (thesis
//! §6.4). Members of every role give votes here.

use super::Raft;
use super::common::Common;
use super::event::{Effect, Rejection, RequestId};
use super::message::{
    AppendEntries, AppendEntriesReply, Body, Heartbeat, HeartbeatReply, Message, ReadIndex,
    ReadIndexReply, Reply, Request, RequestVote, RequestVoteReply,
};
use super::types::{Entry, HardState, Index, Snapshot, SnapshotMeta, Term};

/// No log gets this long. A peer's snapshot must not use up the indexes.
const INDEX_MAX: u64 = 1 << 62;

impl Raft {
    /// Answers a request of an earlier term with the current one, so that its sender steps down. A
    /// member without its data is in an early term, and gets a real answer.
    pub(super) fn refuse_stale(&mut self, message: &Message, request: &Request) {
        let common = &mut self.common;
        match request {
            Request::RequestVote(request) => common.refuse_vote(message, *request),
            Request::AppendEntries(_) | Request::InstallSnapshot(_) => {
                let stale = AppendEntriesReply::Stale;
                common.reply(message.caller(), Reply::AppendEntries(stale));
            }
            // The same member may lead again, and its rounds of an earlier term mean nothing then.
            Request::Heartbeat(_) => {
                let round = HeartbeatReply::NO_ROUND;
                let reply = HeartbeatReply { round, promised_us: 0, cannot_write: false };
                common.reply(message.caller(), Reply::Heartbeat(reply));
            }
            Request::TimeoutNow => common.reply(message.caller(), Reply::TimeoutNow),
            Request::ReadIndex(request) => common.refuse_read_index(message, *request),
            Request::Join(request) => self.on_join(message, *request),
        }
    }
}

impl Common {
    /// A candidate asks for a vote (Raft §5.2, §5.4.1) or whether it would get one (thesis §9.6).
    pub(super) fn on_request_vote(&mut self, message: &Message, request: RequestVote) {
        let is_up_to_date = self.log.is_up_to_date(request.last_log_index, request.last_log_term);
        // A promise forbids to help another one, unless the leader itself hands over.
        let may_help = self.promise_ticks == 0 || request.is_transfer;
        // A former member would win nothing: everybody else would count without it.
        let may_help = may_help && !self.was_removed(message.from);
        match (is_up_to_date && may_help, request.pre_vote) {
            (true, true) if message.term > self.current_term() && !self.hears_leader() => {
                self.grant_pre_vote(message)
            }
            (true, false) if self.may_vote_for(message) => self.grant_vote(message),
            _ => self.refuse_vote(message, request),
        }
    }

    /// One vote per term, for the first candidate that asks. The same candidate may ask again.
    fn may_vote_for(&self, message: &Message) -> bool {
        match self.hard_state().voted_for {
            Some(candidate) => candidate == message.from,
            // A known leader of this term has the votes of a majority already.
            None => self.leader().is_none(),
        }
    }

    fn grant_vote(&mut self, message: &Message) {
        if self.hard_state().voted_for.is_none() {
            self.change_hard_state(HardState {
                voted_for: Some(message.from),
                ..self.hard_state()
            });
        }
        assert_eq!(self.hard_state().voted_for, Some(message.from), "a vote is for its asker");
        assert_eq!(self.current_term(), message.term, "a vote is of the current term");
        self.reset_timer();
        let granted = RequestVoteReply { pre_vote: false, vote_granted: true, is_removed: false };
        self.reply(message.caller(), Reply::RequestVote(granted));
    }

    /// Promises nothing: the grant names the term that would begin, and leaves at once. This member
    /// then waits a little before it asks for pre-votes itself, so that two members that lost their
    /// leader at the same moment do not split the vote.
    fn grant_pre_vote(&mut self, message: &Message) {
        let left_ticks = self.timer.timeout_ticks.saturating_sub(self.timer.elapsed_ticks);
        self.timer.timeout_ticks += self.config.leader_lost_ticks_max.saturating_sub(left_ticks);
        let granted = RequestVoteReply { pre_vote: true, vote_granted: true, is_removed: false };
        self.effects.push(Effect::Send(Message {
            from: self.config.id,
            to: message.from,
            body: Body::Reply(Reply::RequestVote(granted)),
            term: message.term,
            token: message.token,
        }));
    }

    pub(super) fn refuse_vote(&mut self, message: &Message, request: RequestVote) {
        let RequestVote { pre_vote, .. } = request;
        let is_removed = self.was_removed(message.from);
        let refusal = RequestVoteReply { pre_vote, vote_granted: false, is_removed };
        self.reply(message.caller(), Reply::RequestVote(refusal));
    }

    /// The leader replicates (Raft §5.3).
    pub(super) fn on_append_entries(&mut self, message: &Message, request: &AppendEntries) {
        if !is_well_formed(request, message.term) {
            return self.nonsense(message, "its entries do not follow each other");
        }
        // Committed entries match by leader completeness (§5.4.3), even if only the snapshot has
        // them.
        let is_match = request.prev_log_index <= self.commit_index()
            || self.log.term_at(request.prev_log_index) == Some(request.prev_log_term);
        if !is_match {
            return self.refuse_append(message, request);
        }
        if !self.take_entries(&request.entries) {
            return self.nonsense(message, "it contradicts what is committed");
        }
        let match_index =
            request.entries.last().map_or(request.prev_log_index, |entry| entry.index);
        self.commit_up_to(request.leader_commit.min(match_index));
        self.commit_what_is_known();
        let reply = Reply::AppendEntries(AppendEntriesReply::Matched { match_index });
        self.reply_once_durable(message.caller(), reply, match_index);
    }

    fn refuse_append(&mut self, message: &Message, request: &AppendEntries) {
        let (conflict_index, conflict_term) =
            self.log.last_at_most(request.prev_log_index, request.prev_log_term);
        assert!(request.prev_log_index > self.commit_index(), "what is committed always matches");
        let rejected_index = request.prev_log_index;
        let conflict =
            AppendEntriesReply::Conflict { rejected_index, conflict_index, conflict_term };
        self.reply(message.caller(), Reply::AppendEntries(conflict));
    }

    /// Adds new entries. Only a conflict removes entries: an old, short message must not remove
    /// what a later one brought (§5.3). Returns false and changes nothing if the entries contradict
    /// committed ones, or terms would fall between the log and them.
    fn take_entries(&mut self, entries: &[Entry]) -> bool {
        let known = |entry: &&Entry| {
            entry.index <= self.log.base_index()
                || self.log.term_at(entry.index) == Some(entry.term)
        };
        let new = &entries[entries.iter().take_while(known).count()..];
        let Some(first) = new.first() else { return true };
        let joins = self.log.term_at(first.index.prev()).is_some_and(|term| term <= first.term);
        if first.index <= self.commit_index() || !joins {
            return false;
        }
        if first.index <= self.log.last_index() {
            self.truncate(first.index);
        }
        self.append(new.iter().cloned());
        true
    }

    /// A snapshot has arrived (Raft §7). If the log has the snapshot's last entry, it has
    /// everything in it, and the snapshot only says that this is committed. Otherwise it replaces
    /// log and state.
    pub(super) fn on_install_snapshot(&mut self, message: &Message, arrived: &Snapshot) {
        let snapshot = arrived.meta;
        if !self.may_be_committed(snapshot, message.term) {
            return self.nonsense(message, "it cannot end with a committed entry");
        }
        let match_index = snapshot.last_included_index;
        if match_index > self.commit_index() {
            if self.log.term_at(match_index) == Some(snapshot.last_included_term) {
                self.commit_up_to(match_index);
            } else {
                self.install(arrived);
            }
        }
        let reply = Reply::AppendEntries(AppendEntriesReply::Matched { match_index });
        self.reply_once_durable(message.caller(), reply, match_index);
    }

    /// Whether a leader of `term` can have committed the snapshot's last entry: terms do not fall
    /// along the log, and do not pass the leader's own.
    fn may_be_committed(&self, snapshot: SnapshotMeta, term: Term) -> bool {
        let SnapshotMeta { last_included_index, last_included_term } = snapshot;
        let committed_term = self.log.term_at(self.commit_index());
        let is_later = last_included_index > self.commit_index();
        last_included_index.0 <= INDEX_MAX
            && last_included_term <= term
            && (!is_later || committed_term.is_some_and(|it| it <= last_included_term))
    }

    /// The leader lives. If it counts on entries that this member does not have, this member's disk
    /// was emptied, and the entries that it has may not be the ones that the leader means. Then it
    /// commits nothing. It answers all the same, or the leader would send it nothing.
    pub(super) fn on_heartbeat(&mut self, message: &Message, request: Heartbeat) {
        if request.leader_commit <= self.log.last_index() {
            self.commit_up_to(request.leader_commit);
        }
        let promised_us = self.promise();
        let cannot_write = self.is_disk_full || self.is_disk_stalled();
        let reply = HeartbeatReply { round: request.round, promised_us, cannot_write };
        self.reply(message.caller(), Reply::Heartbeat(reply));
    }

    /// A client's read at a member that does not lead: it waits for a question to the leader, or is
    /// refused (thesis §6.4).
    pub(super) fn read_through_leader(&mut self, id: RequestId) {
        match self.leader() {
            None => self.reject(id, Rejection::NotLeader(None)),
            _ if self.forwarded.len() >= self.config.reads_max => self.reject(id, Rejection::Busy),
            _ => self.forwarded.wait(id),
        }
    }

    /// Asks the leader for all reads that wait.
    #[inline]
    pub(super) fn ask_for_reads(&mut self) {
        let may_ask = self.forwarded.wants_question() && self.is_hard_state_durable();
        let Some(leader) = self.leader().filter(|_| may_ask) else { return };
        assert_ne!(leader, self.config.id, "a leader asks nobody");
        let batch = self.next_question();
        self.forwarded.ask(batch);
        let request = Request::ReadIndex(ReadIndex { batch });
        let question = self.request(leader, self.current_term(), request);
        self.effects.push(Effect::Send(question));
    }

    /// The leader says what is committed, or that it cannot.
    pub(super) fn on_read_index_reply(&mut self, message: &Message, reply: ReadIndexReply) {
        if self.leader() != Some(message.from) {
            return;
        }
        let Some((index, term)) = reply.committed else {
            let (ids, reason) = (self.forwarded.take_refused(reply.batch), Rejection::Busy);
            return self.effects.extend(ids.into_iter().map(|id| Effect::Rejected { id, reason }));
        };
        self.forwarded.confirm(reply.batch, index);
        self.known_committed = self.known_committed.max(Some((index, term)));
        self.commit_what_is_known();
    }

    /// Serves the reads whose entries were handed out.
    #[inline]
    pub(super) fn release_forwarded(&mut self) {
        let ready = self.forwarded.take_ready(self.handed_out());
        if !ready.is_empty() {
            self.effects.push(Effect::ReadReady(ready));
        }
    }

    /// If the log has the entry that a leader has reported as committed, everything up to it is
    /// committed (log matching).
    #[inline]
    pub(super) fn commit_what_is_known(&mut self) {
        if let Some((index, term)) = self.known_committed
            && self.log.term_at(index) == Some(term)
        {
            self.commit_up_to(index);
        }
    }

    /// A follower learns that the entries up to `index` are committed.
    fn commit_up_to(&mut self, index: Index) {
        assert!(self.leader().is_some() && !self.is_leading(), "a follower learns from its leader");
        self.commit_to(self.commit_index().max(index));
    }
}

/// Whether indexes count up from `prev_log_index`, and terms neither fall nor pass the message's
/// own.
fn is_well_formed(request: &AppendEntries, term: Term) -> bool {
    let mut prev = (request.prev_log_index, request.prev_log_term);
    let follows = |entry: &Entry| {
        let is_next = entry.index.0.checked_sub(prev.0.0) == Some(1) && entry.term >= prev.1;
        prev = (entry.index, entry.term);
        is_next
    };
    request.entries.iter().all(follows) && prev.1 <= term
}
