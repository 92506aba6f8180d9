//! What every member keeps, whatever its role: the state of Raft figure 2, and what leaves at the
//! end of a step.
//!
//! The term, the vote, `commit_index` and `handed_out` are private to this file. Each of them
//! changes in one method, and that method asserts what Raft says of the change.
//!
//! What each step calls once is `#[inline]`: else the calls from one file to another would cost
//! more than all assertions.

use std::collections::VecDeque;

use super::config::Config;
use super::event::{Effect, Persist, PersistId, Rejection, RequestId, RoleChange, RoleName};
use super::forwarded::Forwarded;
use super::joining::Joining;
use super::log::{Log, cost_bytes};
use super::message::{Body, Caller, Message, ReadIndexReply, Reply, Request};
use super::reads::{Question, Readers};
use super::types::{Entry, HardState, Index, MemberId, SnapshotMeta, Term};

/// Writes that may wait for the disk with something to be said after them; past it that is not
/// said: the network may lose it as well.
const WRITES_WAITING_MAX: u64 = 16_384;

/// The state of a member of any role.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) config: Config,
    hard_state: HardState,
    pub(super) log: Log,
    commit_index: Index,
    /// The last entry given out in an `Apply`.
    handed_out: Index,
    /// The newest snapshot on this member's disk.
    pub(super) snapshot: Option<SnapshotMeta>,
    /// The last entry that the state machine has said to have applied.
    pub(super) applied_index: Index,
    /// Bytes given out and not yet applied, with the last index of each batch.
    applying: VecDeque<(Index, usize)>,
    /// Who leads in the current term, if known. This member itself exactly while its role is
    /// leader.
    leader: Option<MemberId>,
    /// While this member lacks its data.
    pub(super) joining: Option<Joining>,
    /// Reads that the leader is asked about.
    pub(super) forwarded: Forwarded,
    /// An entry that a leader has said to be committed, here or not.
    pub(super) known_committed: Option<(Index, Term)>,
    /// For so long this member helps nobody else to become leader.
    pub(super) promise_ticks: u32,
    /// What the boot-time clock last read.
    pub(super) now_us: Option<u64>,
    pub(super) is_disk_full: bool,
    last_question: u64,
    pub(super) timer: Timer,
    pub(super) rng: fastrand::Rng,
    pub(super) persists: Persists,
    told: RoleChange,
    pub(super) nonsense_count: u64,
    pub(super) effects: Vec<Effect>,
}

/// The election timer: how long nothing was heard of a leader.
#[derive(Debug, Default)]
pub(super) struct Timer {
    pub(super) elapsed_ticks: u32,
    pub(super) timeout_ticks: u32,
}

/// What is to be written, being written, and to be said after it.
#[derive(Debug, Default)]
pub(super) struct Persists {
    last: PersistId,
    done: PersistId,
    /// How long nothing of what waits has become durable, ...
    stalled_ticks: u32,
    /// ... and what had been given out to be written when that began.
    pub(super) stalled_index: Index,
    /// The hard state differs from what the last `Persist` said.
    is_hard_state_dirty: bool,
    /// The last write that carried a hard state.
    hard_state_write: PersistId,
    reset: Option<SnapshotMeta>,
    pub(super) then: Vec<Message>,
}

impl Persists {
    pub(super) fn tick(&mut self, handed_over: Index) {
        if self.stalled_ticks == 0 {
            self.stalled_index = handed_over;
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
        snapshot: Option<SnapshotMeta>,
        entries: Vec<Entry>,
    ) -> Common {
        let rng =
            fastrand::Rng::with_seed(config.seed ^ config.id.0.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // Not from the jitter's own sequence, which it would shift.
        let last_question = fastrand::Rng::with_seed(rng.clone().u64(..)).u64(..1 << 62);
        let is_empty = (hard_state, snapshot, entries.len()) == (HardState::default(), None, 0);
        let joining = Joining::begin(config.standing, is_empty, last_question);
        let may_have_promised = config.lease || config.may_have_promised;
        let promise_ticks = match may_have_promised && hard_state.current_term > Term::ZERO {
            true => config.election_ticks_min,
            false => 0,
        };
        let role =
            RoleChange { role: RoleName::Follower, term: hard_state.current_term, leader: None };
        let snapshot_index = snapshot.map_or(Index::ZERO, |it| it.last_included_index);
        let mut common = Common {
            config,
            hard_state,
            log: Log::recovered(snapshot, entries),
            commit_index: snapshot_index,
            handed_out: snapshot_index,
            snapshot,
            applied_index: snapshot_index,
            applying: VecDeque::new(),
            leader: None,
            joining,
            forwarded: Forwarded::default(),
            known_committed: None,
            promise_ticks,
            now_us: None,
            is_disk_full: false,
            last_question,
            timer: Timer::default(),
            rng,
            persists: Persists::default(),
            told: role,
            nonsense_count: 0,
            effects: Vec::new(),
        };
        common.adopt_term_of_snapshot();
        assert!(common.log.last_term() <= common.current_term(), "no entry is of a term to come");
        common.reset_timer();
        common
    }

    /// A snapshot may reach the disk before the term that it was made in: one that arrives is
    /// stored before the core hears of it, and entries may be applied before this member's own log
    /// has them. This member has said nothing in that term.
    fn adopt_term_of_snapshot(&mut self) {
        let term = self.snapshot.map_or(Term::ZERO, |it| it.last_included_term);
        if term > self.current_term() {
            self.change_hard_state(HardState { current_term: term, voted_for: None });
            self.told.term = term;
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

    /// Whether this member leads the current term.
    pub(super) fn is_leading(&self) -> bool {
        self.leader == Some(self.config.id)
    }

    /// The state that must survive a crash: it goes out with the next `Persist`.
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

    /// Somebody leads the current term, or nobody is known to any more. Another leader will not
    /// confirm the reads that the last one was asked about.
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
        }
        self.leader = leader;
        self.reset_timer();
        self.reject_forwarded();
    }

    /// Adds entries at the end of the log: the leader's own, or those that the leader sent.
    pub(super) fn append(&mut self, entries: impl IntoIterator<Item = Entry>) {
        entries.into_iter().for_each(|entry| self.log.append(entry));
        // Terms never fall along the log, so this is said of all of them.
        assert!(self.log.last_term() <= self.current_term(), "no entry is of a term to come");
    }

    /// Removes the entries from `from` on, which conflict with the leader's.
    pub(super) fn truncate(&mut self, from: Index) {
        assert!(
            !self.is_leading(),
            "a leader never removes an entry (figure 3, leader append-only)"
        );
        assert!(from > self.commit_index, "nothing committed is removed (figure 3, completeness)");
        self.log.truncate(from);
    }

    /// The snapshot takes the place of the log and the state.
    pub(super) fn install(&mut self, snapshot: SnapshotMeta) {
        assert!(
            !self.is_leading(),
            "a leader never removes an entry (figure 3, leader append-only)"
        );
        assert!(
            snapshot.last_included_index > self.commit_index,
            "a snapshot never takes the state back (§7)"
        );
        self.log.reset(snapshot);
        self.persists.reset = Some(snapshot);
        self.snapshot = Some(snapshot);
        self.commit_index = snapshot.last_included_index;
        self.handed_out = snapshot.last_included_index;
        self.applied_index = snapshot.last_included_index;
        self.applying.clear();
        self.effects.push(Effect::Install(snapshot));
    }

    /// Entries that the snapshot holds may go, but for a tail for followers that are a little
    /// behind.
    pub(super) fn snapshot_taken(&mut self, snapshot: SnapshotMeta) {
        let index = snapshot.last_included_index;
        assert!(index <= self.handed_out, "a snapshot holds what was applied, no more");
        if self.snapshot.is_none_or(|old| old.last_included_index < index) {
            self.snapshot = Some(snapshot);
            self.log.compact(self.log.tail_begin(index, self.config.log_tail_bytes_max));
        }
        self.release_log(index);
    }

    /// The log on disk needs the entries up to `index` no longer.
    fn release_log(&mut self, index: Index) {
        let held = self.snapshot.map(|snapshot| snapshot.last_included_index);
        assert!(Some(index) <= held, "only what a snapshot holds is released (§7)");
        self.effects.push(Effect::ReleaseLog(index));
    }

    pub(super) fn applied(&mut self, index: Index) {
        self.applied_index = self.applied_index.max(index);
        while self.applying.front().is_some_and(|&(last, _)| last <= index) {
            self.applying.pop_front();
        }
    }

    /// The write `id` and all before it are on the disk.
    pub(super) fn written(&mut self, id: PersistId) {
        self.persists.written(id);
        self.log.written(id);
    }

    /// Gives out some of what is committed, as far as the state machine keeps up. False if there is
    /// nothing to give out now.
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

    /// Gives out what is to be written, and what may be said after it.
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
        let entries = self.log.hand_over(id);
        let then = std::mem::take(&mut self.persists.then);
        self.effects.push(Effect::Persist(Persist { id, hard_state, reset, entries, then }));
    }

    pub(super) fn is_hard_state_durable(&self) -> bool {
        self.persists.is_hard_state_durable()
    }

    /// Whether nothing that waits has reached the disk for longer than an election takes.
    pub(super) fn is_disk_stalled(&self) -> bool {
        self.persists.stalled_ticks >= self.config.election_ticks_max
    }

    /// Answers with what promises no entry and no vote: at once, if the term it names is on the
    /// disk.
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

    /// Answers a follower that asked what is committed.
    pub(super) fn answer_question(&mut self, question: Question, committed: Option<(Index, Term)>) {
        let reply = ReadIndexReply { batch: question.batch, committed };
        self.reply(question.caller, Reply::ReadIndex(reply));
    }

    pub(super) fn reject(&mut self, id: RequestId, reason: Rejection) {
        self.effects.push(Effect::Rejected { id, reason });
    }

    /// A leader has stepped down: it cannot confirm these reads any more.
    pub(super) fn reject_readers(&mut self, Readers { ids, followers }: Readers) {
        let reason = Rejection::NotLeader(self.leader);
        self.effects.extend(ids.into_iter().map(|id| Effect::Rejected { id, reason }));
        for question in followers {
            self.answer_question(question, None);
        }
    }

    /// Draws a new election timeout (Raft §5.2).
    pub(super) fn reset_timer(&mut self) {
        let timeout_ticks =
            self.rng.u32(self.config.election_ticks_min..=self.config.election_ticks_max);
        self.timer = Timer { elapsed_ticks: 0, timeout_ticks };
    }

    /// Whether a leader is known to live: then votes are refused (thesis §4.2.3, §6.2).
    pub(super) fn hears_leader(&self) -> bool {
        self.is_leading()
            || self.promise_ticks > 0
            || self.leader.is_some() && self.timer.elapsed_ticks < self.config.election_ticks_min
    }

    /// A name that no other question has, of this life or another.
    pub(super) fn next_question(&mut self) -> u64 {
        self.last_question += 1;
        self.last_question
    }

    /// Says so if the role, the term or the leader is another one than was last said.
    #[inline]
    pub(super) fn tell_role(&mut self, role: RoleChange) {
        assert!(role.term >= self.told.term, "terms never fall (§5.1)");
        if role != self.told {
            self.told = role;
            self.effects.push(Effect::RoleChanged(role));
        }
    }

    /// What a peer sends is never asserted on: a bad peer must not take a good one down.
    pub(super) fn nonsense(&mut self, message: &Message, why: &str) {
        self.nonsense_count += 1;
        ::log::debug!("member {} dropped {message:?}: {why}", self.config.id);
    }

    /// What holds between any two steps, whatever has happened.
    #[inline]
    pub(super) fn assert_sound(&self) {
        assert!(self.handed_out <= self.commit_index, "only what is committed is applied (§5.3)");
        assert!(self.commit_index <= self.log.last_index(), "what is committed is in the log");
        assert!(!self.persists.is_hard_state_dirty, "each step gives out what it changed");
        assert!(self.persists.then.is_empty(), "each step gives out what is to be said");
        self.log.assert_sound();
    }
}
