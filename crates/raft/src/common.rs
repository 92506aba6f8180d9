//! The state that members of every role have: that of Raft figure 2, and the effects of the current
//! step.
//!
//! The term, the vote, `commit_index` and `handed_out` are private to this file. Each
//! changes only in methods that assert what Raft says about the change.
//!
//! Methods that each step calls once are `#[inline]`. Otherwise calls from one file to another
//! would cost more than all assertions.

use std::collections::VecDeque;

use super::config::Config;
use super::configurations::Configurations;
use super::event::{Effect, Persist, PersistId, Rejection, RequestId, RoleChange, RoleName};
use super::forwarded::Forwarded;
use super::log::{Log, cost_bytes};
use super::membership::Membership;
use super::message::{Body, Caller, Message, ReadIndex, ReadIndexReply, Reply, Request};
use super::reads::{Question, Readers};
use super::time::Time;
use super::types::{Entry, HardState, Index, MemberId, Snapshot, SnapshotMeta, Term};

/// The most writes that may wait for the disk with messages to send after them. Beyond it, the
/// messages are dropped, as a network may do.
const WRITES_WAITING_MAX: u64 = 16_384;

/// The state of a member of any role.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) config: Config,
    hard_state: HardState,
    pub(super) log: Log,
    /// Who the members are, by this log.
    pub(super) configurations: Configurations,
    /// Whether a leader may append the first configuration.
    pub(super) may_configure: bool,
    /// Whether this member knows that it was removed: it does nothing any more.
    pub(super) is_removed: bool,
    commit_index: Index,
    /// The last entry given out in an `Apply`.
    handed_out: Index,
    /// The newest snapshot on this member's disk.
    pub(super) snapshot: Option<SnapshotMeta>,
    /// The last entry that the state machine has said to have applied.
    pub(super) applied_index: Index,
    /// The batches given out and not yet applied: the last index and the bytes of each.
    applying: VecDeque<(Index, usize)>,
    /// The leader of the current term, if known. It is this member if and only if its role is
    /// leader.
    leader: Option<MemberId>,
    /// The reads that were ready and have no answer yet, as the shell last said.
    pub(super) unanswered_reads: usize,
    /// Reads for which the leader is asked.
    pub(super) forwarded: Forwarded,
    /// An entry that a leader has reported as committed, whether or not this log has it.
    pub(super) known_committed: Option<(Index, Term)>,
    /// How much longer this member helps nobody else to become leader.
    pub(super) promise_ticks: u32,
    /// The last reading of the boot-time clock.
    pub(super) now_us: Option<u64>,
    pub(super) time: Time,
    pub(super) is_disk_full: bool,
    /// The name of the last question. A member without its data begins with this one.
    pub(super) last_question: u64,
    pub(super) timer: Timer,
    pub(super) rng: fastrand::Rng,
    pub(super) persists: Persists,
    reported_role: RoleChange,
    pub(super) nonsense_count: u64,
    pub(super) effects: Vec<Effect>,
}

/// The election timer: how long no leader was heard.
#[derive(Debug, Default)]
pub(super) struct Timer {
    pub(super) elapsed_ticks: u32,
    pub(super) timeout_ticks: u32,
}

/// The writes under way, and what the next one contains.
#[derive(Debug, Default)]
pub(super) struct Persists {
    last: PersistId,
    done: PersistId,
    /// For how long writes have been waiting and none has become durable, ...
    stalled_ticks: u32,
    /// ... and the last entry that had been given out to be written when that began.
    pub(super) stalled_index: Index,
    /// Whether the hard state differs from that of the last `Persist`.
    is_hard_state_dirty: bool,
    /// The last write that carried a hard state.
    hard_state_write: PersistId,
    reset: Option<SnapshotMeta>,
    pub(super) then: Vec<Message>,
}

impl Persists {
    pub(super) fn tick(&mut self, submitted: Index) {
        if self.stalled_ticks == 0 {
            self.stalled_index = submitted;
        }
        self.stalled_ticks = match self.done < self.last {
            true => self.stalled_ticks.saturating_add(1),
            false => 0,
        };
    }

    /// The number of the next write.
    fn begin(&mut self) -> PersistId {
        assert!(self.done <= self.last, "no write is done before it is given out");
        self.last = PersistId(self.last.0 + 1);
        self.last
    }

    fn written(&mut self, id: PersistId) {
        assert!(id <= self.last, "only what was asked to be written can have been");
        self.done = self.done.max(id);
        self.stalled_ticks = 0;
    }

    fn is_hard_state_durable(&self) -> bool {
        !self.is_hard_state_dirty && self.hard_state_write <= self.done
    }
}

impl Common {
    pub(super) fn new(
        config: Config,
        hard_state: HardState,
        snapshot: Option<Snapshot>,
        entries: Vec<Entry>,
    ) -> Common {
        let mut configurations = Configurations::new(config.members.clone());
        let snapshot = snapshot.map(|Snapshot { meta, configuration }| {
            configurations.installed(meta.last_included_index, configuration);
            meta
        });
        entries.iter().for_each(|entry| configurations.appended(entry));
        let rng =
            fastrand::Rng::with_seed(config.seed ^ config.id.0.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // From a clone, so as not to shift the sequence of the jitter.
        let last_question = fastrand::Rng::with_seed(rng.clone().u64(..)).u64(..1 << 62);
        let may_have_promised = config.lease || config.may_have_promised;
        let promise_ticks = match may_have_promised && hard_state.current_term > Term::ZERO {
            true => config.election_ticks_min,
            false => 0,
        };
        let role =
            RoleChange { role: RoleName::Follower, term: hard_state.current_term, leader: None };
        let snapshot_index = snapshot.map_or(Index::ZERO, |it| it.last_included_index);
        let mut common = Common {
            may_configure: config.may_configure,
            is_removed: false,
            configurations,
            config,
            hard_state,
            log: Log::recovered(snapshot, entries),
            commit_index: snapshot_index,
            handed_out: snapshot_index,
            snapshot,
            applied_index: snapshot_index,
            applying: VecDeque::new(),
            leader: None,
            unanswered_reads: 0,
            forwarded: Forwarded::default(),
            known_committed: None,
            promise_ticks,
            now_us: None,
            time: Time::default(),
            is_disk_full: false,
            last_question,
            timer: Timer::default(),
            rng,
            persists: Persists::default(),
            reported_role: role,
            nonsense_count: 0,
            effects: Vec::new(),
        };
        common.adopt_term_of_snapshot();
        assert!(
            common.log.last_term() <= common.current_term(),
            "no entry has a later term than the current one"
        );
        common.reset_timer();
        common
    }

    /// A snapshot may be on the disk before the term that it was made in: a received one is stored
    /// before the core hears of it, and entries may be applied before this member's own log has
    /// them. This member has sent nothing in that term.
    fn adopt_term_of_snapshot(&mut self) {
        let term = self.snapshot.map_or(Term::ZERO, |it| it.last_included_term);
        if term > self.current_term() {
            self.change_hard_state(HardState { current_term: term, voted_for: None });
            self.reported_role.term = term;
        }
    }

    pub(super) fn current_term(&self) -> Term {
        self.hard_state.current_term
    }

    pub(super) fn hard_state(&self) -> HardState {
        self.hard_state
    }

    pub(super) fn commit_index(&self) -> Index {
        self.commit_index
    }

    pub(super) fn handed_out(&self) -> Index {
        self.handed_out
    }

    pub(super) fn leader(&self) -> Option<MemberId> {
        self.leader
    }

    /// The membership in force: that of the newest configuration in the log (thesis §4.1).
    pub(super) fn membership(&self) -> &Membership {
        self.configurations.membership()
    }

    /// All members but this one, in order.
    pub(super) fn peers(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.membership().iter().filter(|&member| member != self.config.id)
    }

    /// Whether this member may be elected, by its own log. A member of a cluster that has a
    /// configuration, but whose log has none, lacks the log.
    pub(super) fn may_lead(&self) -> bool {
        let lacks_log = self.configurations.latest().is_none() && !self.config.is_list_in_force;
        !lacks_log && self.configurations.may_lead(self.config.id, self.commit_index)
    }

    /// Whether a committed configuration says that this member was removed.
    pub(super) fn was_removed(&self, id: MemberId) -> bool {
        self.configurations.was_removed(id, self.commit_index)
    }

    /// The id of the cluster; 0 if this member does not know it yet.
    pub(super) fn cluster_id(&self) -> u64 {
        let committed = self.configurations.committed(self.commit_index);
        committed.map_or(self.config.cluster_id, |it| it.cluster_id)
    }

    /// The hash of the list with which the cluster began, or this member was started.
    pub(super) fn list_id(&self) -> u64 {
        let committed = self.configurations.committed(self.commit_index);
        committed.map_or(self.config.list_id, |it| it.list_id)
    }

    /// Whether this member is in every quorum of each configuration that may be in force.
    pub(super) fn is_needed(&self) -> bool {
        self.configurations.is_needed(self.config.id, self.commit_index)
    }

    /// Whether this member leads the current term.
    pub(super) fn is_leading(&self) -> bool {
        self.leader == Some(self.config.id)
    }

    /// Changes the state that must survive a crash. The next `Persist` writes it.
    pub(super) fn change_hard_state(&mut self, new: HardState) {
        let HardState { current_term, voted_for } = self.hard_state;
        assert!(new.current_term >= current_term, "terms never fall (§5.1)");
        assert!(
            new.current_term > current_term || voted_for.is_none() || new.voted_for == voted_for,
            "a member votes once a term (§5.2)"
        );
        self.hard_state = new;
        self.persists.is_hard_state_dirty = true;
    }

    /// The entries up to `index` are committed.
    pub(super) fn commit_to(&mut self, index: Index) {
        assert!(index >= self.commit_index, "what is committed stays committed (§5.3)");
        assert!(index <= self.log.last_index(), "only entries that this log has are committed");
        self.commit_index = index;
    }

    /// The entries up to `index` have been given out to be applied.
    fn hand_out_to(&mut self, index: Index) {
        assert!(index > self.handed_out, "each entry is given out once, in order");
        assert!(index <= self.commit_index, "only what is committed is applied (§5.3)");
        self.handed_out = index;
    }

    /// Sets who leads the current term, if that is known. Another leader will not confirm the reads
    /// for which the last one was asked.
    #[inline]
    pub(super) fn set_leader(&mut self, leader: Option<MemberId>) {
        if leader != self.leader {
            assert!(self.leader.is_none() || leader.is_none(), "a term has one leader (§5.2)");
            self.leader = leader;
            self.reject_forwarded();
        }
    }

    /// Enters `term`, or gives up a role in the current one, and waits for a leader.
    pub(super) fn begin_following(&mut self, term: Term, leader: Option<MemberId>) {
        assert!(term >= self.current_term(), "terms never fall (§5.1)");
        assert!(leader != Some(self.config.id), "nobody follows itself");
        if term > self.current_term() {
            self.change_hard_state(HardState { current_term: term, voted_for: None });
            self.leader = None;
        }
        assert!(self.leader.is_none() || leader.is_none(), "a term has one leader (§5.2)");
        self.leader = leader;
        self.reset_timer();
        self.reject_forwarded();
    }

    /// Adds entries at the end of the log: a leader's own, or those that the leader sent.
    pub(super) fn append(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            self.configurations.appended(&entry);
            self.log.append(entry);
        }
        // Terms never fall along the log, so this holds for all entries.
        assert!(
            self.log.last_term() <= self.current_term(),
            "no entry has a later term than the current one"
        );
    }

    /// Removes the entries from `from` on, which conflict with the leader's.
    pub(super) fn truncate(&mut self, from: Index) {
        assert!(
            !self.is_leading(),
            "a leader never removes an entry (figure 3, leader append-only)"
        );
        assert!(from > self.commit_index, "nothing committed is removed (figure 3, completeness)");
        self.log.truncate(from);
        self.configurations.truncated(from);
    }

    /// Replaces the log and the state with the snapshot.
    pub(super) fn install(&mut self, snapshot: &Snapshot) {
        let Snapshot { meta: snapshot, configuration } = snapshot.clone();
        assert!(
            !self.is_leading(),
            "a leader never removes an entry (figure 3, leader append-only)"
        );
        assert!(
            snapshot.last_included_index > self.commit_index,
            "a snapshot never takes the state back (§7)"
        );
        self.log.reset(snapshot);
        self.configurations.installed(snapshot.last_included_index, configuration);
        self.persists.reset = Some(snapshot);
        self.snapshot = Some(snapshot);
        self.commit_index = snapshot.last_included_index;
        self.handed_out = snapshot.last_included_index;
        self.applied_index = snapshot.last_included_index;
        self.applying.clear();
        self.effects.push(Effect::Install(snapshot));
    }

    /// The log on the disk no longer needs the entries in the snapshot.
    pub(super) fn snapshot_taken(&mut self, snapshot: SnapshotMeta) {
        let index = snapshot.last_included_index;
        assert!(index <= self.handed_out, "a snapshot holds what was applied, no more");
        if self.snapshot.is_none_or(|old| old.last_included_index < index) {
            self.snapshot = Some(snapshot);
        }
        self.release_log(index);
    }

    /// The log on disk needs the entries up to `index` no longer.
    fn release_log(&mut self, index: Index) {
        let held = self.snapshot.map(|snapshot| snapshot.last_included_index);
        assert!(Some(index) <= held, "only what a snapshot holds is released (§7)");
        self.effects.push(Effect::ReleaseLog(index));
    }

    /// The boot-time clock has been read.
    #[inline]
    pub(super) fn read_clock(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(Some(now_us));
        self.time.read_clock(now_us, &self.config);
    }

    pub(super) fn applied(&mut self, index: Index) {
        assert!(index <= self.handed_out, "only what was given out is applied");
        self.applied_index = self.applied_index.max(index);
        while self.applying.front().is_some_and(|&(last, _)| last <= index) {
            self.applying.pop_front();
        }
    }

    /// The newest snapshot, if the log goes on behind it: who has loaded it can be sent the rest.
    pub(super) fn snapshot_to_send(&self) -> Option<SnapshotMeta> {
        self.snapshot.filter(|snapshot| snapshot.last_included_index >= self.log.base_index())
    }

    /// Forgets some of the entries that were applied, except for a tail, and for those behind
    /// `needed`, for which peers wait. Keeps all before the cluster has an id: a snapshot in their
    /// place would have to name it.
    #[inline]
    pub(super) fn forget(&mut self, needed: Index, entries_max: usize) {
        if self.config.cluster_id == 0 && self.cluster_id() == 0 {
            return;
        }
        let Config { log_tail_bytes_max, log_catch_up_bytes_max, .. } = self.config;
        self.log.retain(self.applied_index, log_tail_bytes_max, needed, log_catch_up_bytes_max);
        self.log.forget(entries_max);
    }

    /// The write `id` and all before it are on the disk.
    pub(super) fn written(&mut self, id: PersistId) {
        self.persists.written(id);
        self.log.written(id);
    }

    /// Gives out some committed entries, unless the state machine has too many already. Returns
    /// whether it did.
    #[inline]
    pub(super) fn hand_out(&mut self) -> bool {
        if self.handed_out == self.commit_index {
            return false;
        }
        let in_flight: usize = self.applying.iter().map(|&(_, bytes)| bytes).sum();
        if in_flight >= self.config.apply_bytes_max {
            return false;
        }
        let bytes_max = self.config.apply_bytes_max - in_flight;
        let entries = self.log.batch(self.handed_out.next(), self.commit_index, bytes_max);
        let bytes = entries.iter().map(cost_bytes).sum();
        let last = entries.last().expect("there are committed entries to hand out").index;
        self.hand_out_to(last);
        self.applying.push_back((last, bytes));
        self.effects.push(Effect::Apply(entries));
        true
    }

    /// Gives out what to write, with the messages to send after it.
    #[inline]
    pub(super) fn persist(&mut self) {
        let has_writes = self.persists.is_hard_state_dirty
            || self.persists.reset.is_some()
            || self.log.has_unwritten();
        if !has_writes && self.persists.then.is_empty() {
            return;
        }
        let id = self.persists.begin();
        let hard_state =
            std::mem::take(&mut self.persists.is_hard_state_dirty).then_some(self.hard_state);
        if hard_state.is_some() {
            self.persists.hard_state_write = id;
        }
        let reset = self.persists.reset.take();
        let entries = self.log.take_unwritten(id);
        let then = std::mem::take(&mut self.persists.then);
        self.effects.push(Effect::Persist(Persist { id, hard_state, reset, entries, then }));
    }

    pub(super) fn is_hard_state_durable(&self) -> bool {
        self.persists.is_hard_state_durable()
    }

    /// Whether writes are waiting, and none has reached the disk for longer than an election takes.
    pub(super) fn is_disk_stalled(&self) -> bool {
        self.persists.stalled_ticks >= self.config.election_ticks_max
    }

    /// Sends an answer that promises no entry: as soon as the hard state is on the disk.
    pub(super) fn reply(&mut self, caller: Caller, reply: Reply) {
        self.reply_once_durable(caller, reply, Index::ZERO);
    }

    /// Answers when the hard state and the log up to `index` are on the disk.
    pub(super) fn reply_once_durable(&mut self, caller: Caller, reply: Reply, index: Index) {
        let message = Message {
            from: self.config.id,
            to: caller.id,
            term: self.current_term(),
            token: caller.token,
            body: Body::Reply(reply),
        };
        if self.is_hard_state_durable() && index <= self.log.durable_index() {
            self.effects.push(Effect::Send(message));
        } else if self.persists.last.0 - self.persists.done.0 < WRITES_WAITING_MAX {
            self.persists.then.push(message);
        }
    }

    pub(super) fn request(&self, to: MemberId, term: Term, request: Request) -> Message {
        let body = Body::Request(request);
        Message { from: self.config.id, to, term, token: 0, body }
    }

    /// Answers a follower that asked for the commit index.
    pub(super) fn answer_question(&mut self, question: Question, committed: Option<(Index, Term)>) {
        let reply = ReadIndexReply { batch: question.batch, committed };
        self.reply(question.caller, Reply::ReadIndex(reply));
    }

    /// Refuses to answer a follower, because this member does not lead the term or has too much to
    /// do.
    pub(super) fn refuse_read_index(&mut self, message: &Message, request: ReadIndex) {
        self.answer_question(Question::new(message, request), None);
    }

    pub(super) fn reject(&mut self, id: RequestId, reason: Rejection) {
        self.effects.push(Effect::Rejected { id, reason });
    }

    /// Rejects reads that this member, which has stepped down as leader, cannot confirm.
    pub(super) fn reject_readers(&mut self, Readers { ids, followers }: Readers) {
        let reason = Rejection::NotLeader(self.leader);
        self.effects.extend(ids.into_iter().map(|id| Effect::Rejected { id, reason }));
        for question in followers {
            self.answer_question(question, None);
        }
    }

    /// Rejects the reads that this member has asked a leader about. There is no leader, or another
    /// one, and nobody will confirm them.
    fn reject_forwarded(&mut self) {
        let reason = Rejection::NotLeader(self.leader);
        let ids = self.forwarded.take_unconfirmed();
        self.effects.extend(ids.into_iter().map(|id| Effect::Rejected { id, reason }));
    }

    /// Draws a new election timeout (Raft §5.2).
    pub(super) fn reset_timer(&mut self) {
        let timeout_ticks =
            self.rng.u32(self.config.election_ticks_min..=self.config.election_ticks_max);
        self.timer = Timer { elapsed_ticks: 0, timeout_ticks };
    }

    /// Whether a leader was heard recently, in which case votes are refused (thesis §4.2.3, §6.2).
    pub(super) fn hears_leader(&self) -> bool {
        self.is_leading()
            || self.promise_ticks > 0
            || self.leader.is_some() && self.timer.elapsed_ticks < self.config.election_ticks_min
    }

    /// A name that no other question has, not even of another run of this member.
    pub(super) fn next_question(&mut self) -> u64 {
        self.last_question += 1;
        self.last_question
    }

    /// Reports the configurations if they have changed, and that this member was removed.
    #[inline]
    pub(super) fn report_configurations(&mut self) {
        if let Some(configured) = self.configurations.report(self.commit_index) {
            self.effects.push(Effect::Reconfigured(configured));
        }
        // A leader that was removed goes on until it has handed over.
        if !self.is_leading() && self.was_removed(self.config.id) {
            self.removed();
        }
    }

    /// This member has learned that it was removed for ever.
    pub(super) fn removed(&mut self) {
        if !std::mem::replace(&mut self.is_removed, true) {
            self.set_leader(None);
            self.effects.push(Effect::Removed);
        }
    }

    /// Reports the role, the term and the leader if one of them has changed.
    #[inline]
    pub(super) fn report_role(&mut self, role: RoleChange) {
        assert!(role.term >= self.reported_role.term, "terms never fall (§5.1)");
        if role != self.reported_role {
            self.reported_role = role;
            self.effects.push(Effect::RoleChanged(role));
        }
    }

    /// Drops and counts a message. Messages are never asserted on, because a bad peer must not take
    /// a good one down.
    pub(super) fn nonsense(&mut self, message: &Message, why: &str) {
        self.nonsense_count += 1;
        ::log::debug!("member {} dropped {message:?}: {why}", self.config.id);
    }

    /// Asserts what holds between any two steps.
    #[inline]
    pub(super) fn assert_sound(&self) {
        assert!(self.handed_out <= self.commit_index, "only what is committed is applied (§5.3)");
        assert!(self.commit_index <= self.log.last_index(), "what is committed is in the log");
        assert!(!self.persists.is_hard_state_dirty, "each step gives out what it changed");
        assert!(self.persists.then.is_empty(), "each step gives out what is to be said");
        self.log.assert_sound();
    }
}
