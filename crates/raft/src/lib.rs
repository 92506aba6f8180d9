//! The consensus core: Raft (Ongaro and Ousterhout 2014, "the paper"; Ongaro's thesis 2014, "thesis") as a pure function
//! of its past events.
//!
//! ```text
//!                     ┌──────────────────────────────┐
//!   Tick, Message ──> │                              │ ──> Send, Persist { then: Send }
//!   Propose, Read ──> │  Raft::step(events)          │ ──> Proposed, Rejected, ReadReady
//!   Persisted,    ──> │                              │ ──> Apply
//!   Applied, ...      └──────────────────────────────┘ ──> RoleChanged
//! ```
//!
//! [`Raft::step`] takes a batch of events and gives the effects to carry out, in order. The same events give the same
//! effects, always: there is no I/O, clock, thread or global randomness in here, and nothing iterates over a hash map. A
//! tick is the only time there is; jitter comes from a seed.
//!
//! # Batches
//! The shell drains its inbox and steps everything at once. Proposals of one batch leave in one `AppendEntries` a peer and
//! one `Persist`; reads of one batch share one round of heartbeats. A batch of one event is as good as any.
//!
//! # Durability
//! A message that promises something stands in [`Persist::then`] and leaves when that write, and every write before it,
//! is on the disk (thesis §3.8). What promises nothing leaves at once, as [`Effect::Send`]: heartbeats and their
//! answers, refusals, pre-votes, and a leader's entries, which may leave before its own disk has them (thesis §10.2.1):
//! it counts itself only when told [`Event::Persisted`]. A member may apply what a quorum holds before its own disk does.
//!
//! # Invariants
//! - At most one leader a term; a leader never changes or removes its own entries (figure 3).
//! - `commit_index` and what is handed out to be applied never fall; nothing at or below `commit_index` is truncated.
//! - An entry of an earlier term is committed only by one of the current term after it (§5.4.2).
//! - A request gets one reply, or is nonsense: from a stranger, for another member, or breaking a promise of the protocol.
//!   Nonsense is dropped and counted, never asserted on: a bad peer must not take a good one down. `assert!` is for our own.
//! - Everything that can grow has a bound in [`Config`], but the log itself.
//!
//! # Beyond the paper
//! Pre-vote (thesis §9.6), leader stickiness and check-quorum (§6.2, §4.2.3), a no-op on election (§6.4), conflicts skipped
//! by term (§5.3 of the paper, its end), pipelined appends with a window (§10.2.1), ReadIndex in batches (§6.4),
//! leadership transfer (§3.10), snapshots (§7 of the paper), and [`Event::Disconnected`]: a follower whose connection to the
//! leader breaks asks for pre-votes after a short pause; the others refuse if they still hear the leader, so a broken cable
//! costs no term.
//!
//! Followers serve reads too (`forwarded`); leases are an option (`lease`); members that come without their data join as
//! ones that do not vote (`joining`).
//!
//! # Left out
//! Membership change has no code here yet.

mod candidate;
mod config;
mod event;
mod follower;
mod forwarded;
mod joining;
mod leader;
mod lease;
mod log;
mod message;
mod progress;
mod reads;
mod transfer;
mod types;

pub use config::Config;
pub use event::{Effect, Event, Persist, PersistId, Rejection, RequestId, RoleChange, RoleName};
pub use joining::{JoinAnswer, OtherCluster, Standing};
pub use message::{
    AppendEntries, AppendEntriesReply, Body, Heartbeat, HeartbeatReply, Join, JoinReply, Message,
    ReadIndex, ReadIndexReply, RequestVote, RequestVoteReply,
};
pub use types::{Entry, HardState, Index, MemberId, Payload, SnapshotMeta, Term};

use candidate::Candidate;
use forwarded::Forwarded;
use joining::Joining;
use leader::Leader;
use log::{Log, cost_bytes};
use reads::Readers;

/// How far ahead another member's term can be. An election a millisecond takes fifty days to get there; a peer that counts
/// wrongly must not use up all terms with one message.
const TERM_AHEAD_MAX: u64 = 1 << 32;

/// Writes that may wait for the disk with something to be said after them; past it that is not said: the network may lose it
/// as well.
const WRITES_WAITING_MAX: u64 = 16_384;

/// So many entries that a snapshot holds are forgotten in each step, beside two for each new one: some 50 microseconds.
const FORGOTTEN_EACH_STEP: usize = 256;

/// One member's consensus state: figure 2 of the paper.
#[derive(Debug)]
pub struct Raft {
    config: Config,
    hard_state: HardState,
    log: Log,
    commit_index: Index,
    /// The last entry given out in an `Apply`.
    handed_out: Index,
    /// The newest snapshot on this member's disk.
    snapshot: Option<SnapshotMeta>,
    /// The last entry that the state machine has said to have applied.
    applied_index: Index,
    /// Bytes given out and not yet applied, with the last index of each batch.
    applying: std::collections::VecDeque<(Index, usize)>,
    role: Role,
    /// Who leads in the current term, if known.
    leader: Option<MemberId>,
    /// While this member lacks its data.
    joining: Option<Joining>,
    /// Reads that the leader is asked about.
    forwarded: Forwarded,
    /// An entry that a leader has said to be committed, here or not.
    known_committed: Option<(Index, Term)>,
    /// For so long this member helps nobody else to become leader.
    promise_ticks: u32,
    /// What the boot-time clock last read.
    now_us: Option<u64>,
    is_disk_full: bool,
    last_question: u64,
    timer: Timer,
    rng: fastrand::Rng,
    persists: Persists,
    told: RoleChange,
    nonsense_count: u64,
    effects: Vec<Effect>,
}

/// What a member is (Raft §5.1), with what it knows only as such.
#[derive(Debug)]
enum Role {
    Follower,
    PreCandidate(Candidate),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

/// The election timer: how long nothing was heard of a leader.
#[derive(Debug, Default)]
struct Timer {
    elapsed_ticks: u32,
    timeout_ticks: u32,
}

/// What is to be written, being written, and to be said after it.
#[derive(Debug, Default)]
struct Persists {
    last: PersistId,
    done: PersistId,
    /// How long nothing of what waits has become durable, ...
    stalled_ticks: u32,
    /// ... and what had been given out to be written when that began.
    stalled_index: Index,
    /// The hard state differs from what the last `Persist` said.
    is_hard_state_dirty: bool,
    /// The last write that carried a hard state.
    hard_state_write: PersistId,
    reset: Option<SnapshotMeta>,
    then: Vec<Message>,
}

impl Persists {
    fn tick(&mut self, handed_over: Index) {
        if self.stalled_ticks == 0 {
            self.stalled_index = handed_over;
        }
        self.stalled_ticks = match self.done < self.last {
            true => self.stalled_ticks.saturating_add(1),
            false => 0,
        };
    }
}

/// Where a member stands, for `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub id: MemberId,
    /// Role, term and known leader.
    pub role: RoleChange,
    /// The last entry of its log.
    pub last_index: Index,
    /// The last entry on its own disk.
    pub durable_index: Index,
    /// The last entry known to be committed.
    pub commit_index: Index,
    /// The end of its snapshot, or zero.
    pub snapshot_index: Index,
    /// It lacks data that it may have promised to hold, and does not vote.
    pub is_joining: bool,
    /// What it writes has not reached its disk for longer than an election takes.
    pub is_disk_stalled: bool,
    /// Messages dropped because they made no sense.
    pub nonsense_count: u64,
}

impl Raft {
    /// A member as it starts, or starts again, with what its disk holds. The state machine has loaded `snapshot`.
    ///
    /// # Panics
    /// If `entries` does not count up from `snapshot`, or from index 1 without one, or is of a later term than both of them:
    /// storage vouches for that (it writes a hard state before the entries that came with it). If `config` holds values that
    /// cannot work.
    pub fn new(
        config: Config,
        hard_state: HardState,
        snapshot: Option<SnapshotMeta>,
        entries: Vec<Entry>,
    ) -> Raft {
        config.assert_sound();
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
        let mut raft = Raft {
            config,
            hard_state,
            log: Log::recovered(snapshot, entries),
            commit_index: snapshot_index,
            handed_out: snapshot_index,
            snapshot,
            applied_index: snapshot_index,
            applying: Default::default(),
            role: Role::Follower,
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
        raft.adopt_term_of_snapshot();
        assert!(raft.log.last_term() <= raft.current_term(), "no entry is of a term to come");
        raft.reset_timer();
        // A cluster of one has nobody to ask.
        raft.count_answers();
        raft
    }

    /// A snapshot may reach the disk before the term that it was made in: one that arrives is stored before the core hears
    /// of it, and entries may be applied before this member's own log has them. This member has said nothing in that term.
    fn adopt_term_of_snapshot(&mut self) {
        let term = self.snapshot.map_or(Term::ZERO, |it| it.last_included_term);
        if term > self.current_term() {
            self.change_hard_state(HardState { current_term: term, voted_for: None });
            self.told.term = term;
        }
    }

    /// Takes what has happened and gives what to do, in order.
    pub fn step(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Effect> {
        for event in events {
            match event {
                Event::Tick => self.tick(),
                Event::Clock(now_us) => self.now_us = self.now_us.max(Some(now_us)),
                Event::Message(message) => self.receive(message),
                Event::Propose { id, command } => self.propose(id, command),
                Event::Read { id } => self.read(id),
                Event::Transfer { to } => self.transfer(to),
                Event::Persisted(id) => self.persisted(id),
                Event::Applied(index) => self.applied(index),
                Event::SnapshotTaken(snapshot) => self.snapshot_taken(snapshot),
                Event::DiskFull(is_full) => self.is_disk_full = is_full,
                Event::Joined => self.joined(),
                Event::OtherCluster { peer, other } => self.on_other_cluster(peer, other),
                Event::Disconnected(peer) => self.disconnected(peer),
            }
        }
        self.finish()
    }

    /// Where this member stands.
    pub fn status(&self) -> Status {
        Status {
            id: self.config.id,
            role: self.role_change(),
            last_index: self.log.last_index(),
            durable_index: self.log.durable_index(),
            commit_index: self.commit_index,
            snapshot_index: self.snapshot.map_or(Index::ZERO, |it| it.last_included_index),
            is_joining: self.joining.is_some(),
            is_disk_stalled: self.is_disk_stalled(),
            nonsense_count: self.nonsense_count,
        }
    }

    fn tick(&mut self) {
        self.promise_ticks = self.promise_ticks.saturating_sub(1);
        self.persists.tick(self.log.handed_over_index());
        self.tick_joining();
        self.tick_forwarded();
        match self.role {
            Role::Leader(_) => self.tick_leader(),
            _ => self.tick_follower(),
        }
    }

    fn tick_follower(&mut self) {
        self.timer.elapsed_ticks += 1;
        let is_due =
            self.timer.elapsed_ticks >= self.timer.timeout_ticks && self.promise_ticks == 0;
        if is_due && self.may_stand() && !self.is_vote_under_way() {
            self.campaign();
        }
    }

    /// Every message passes here: strangers are turned away and terms are compared once, before any role sees it
    /// (Raft §5.1).
    fn receive(&mut self, message: Message) {
        if self.is_leaving() {
            return;
        }
        let is_peer = message.from != self.config.id && self.config.members.contains(&message.from);
        if !is_peer || message.to != self.config.id {
            return self.nonsense(&message, "it is not between this member and a peer");
        }
        if message.term.0.saturating_sub(self.current_term().0) > TERM_AHEAD_MAX {
            return self.nonsense(&message, "its term is out of reach");
        }
        // Whoever does not know what it has promised says nothing that counts, and takes no side.
        if self.is_asking() && !matches!(message.body, Body::Join(_) | Body::JoinReply(_)) {
            return;
        }
        match message.term.cmp(&self.current_term()) {
            std::cmp::Ordering::Less => self.refuse_stale(message),
            std::cmp::Ordering::Equal => self.dispatch(message),
            std::cmp::Ordering::Greater => self.receive_later_term(message),
        }
    }

    fn receive_later_term(&mut self, message: Message) {
        match message.body {
            // A pre-vote only asks about a later term; its grant only answers that (thesis §9.6).
            Body::RequestVote(RequestVote { pre_vote: true, .. })
            | Body::RequestVoteReply(RequestVoteReply { pre_vote: true, vote_granted: true }) => {}
            // While a leader is heard, nobody can talk its followers out of it (thesis §4.2.3).
            Body::RequestVote(request) if self.hears_leader() && !request.is_transfer => {
                return self.refuse_vote(&message, request);
            }
            _ => self.become_follower(message.term, None),
        }
        self.dispatch(message);
    }

    /// A request of an earlier term is told the current one, so that its sender steps down; an answer is too late.
    fn refuse_stale(&mut self, message: Message) {
        match message.body {
            Body::RequestVote(request) => self.refuse_vote(&message, request),
            Body::AppendEntries(_) | Body::InstallSnapshot(_) => {
                self.reply(&message, Body::AppendEntriesReply(AppendEntriesReply::Stale))
            }
            // Rounds of an earlier term mean nothing in this one, in which the same member may lead again.
            Body::Heartbeat(_) => {
                let round = HeartbeatReply::NO_ROUND;
                let reply = HeartbeatReply { round, promised_us: 0, cannot_write: false };
                self.reply(&message, Body::HeartbeatReply(reply));
            }
            Body::TimeoutNow => self.reply(&message, Body::TimeoutNowReply),
            Body::ReadIndex(ReadIndex { batch }) => {
                self.answer_read_index(&message, ReadIndexReply { batch, committed: None })
            }
            // A member without its data is in an early term, and asks for the others'.
            Body::Join(request) => self.on_join(&message, request),
            Body::JoinReply(reply) => self.on_join_reply(&message, reply),
            Body::RequestVoteReply(_)
            | Body::AppendEntriesReply(_)
            | Body::HeartbeatReply(_)
            | Body::ReadIndexReply(_)
            | Body::TimeoutNowReply => {}
        }
    }

    fn dispatch(&mut self, message: Message) {
        if message.body.is_from_leader() && !self.follow(message.from) {
            return self.nonsense(&message, "there is another leader in this term");
        }
        match &message.body {
            Body::RequestVote(request) => self.on_request_vote(&message, *request),
            Body::RequestVoteReply(reply) => self.on_request_vote_reply(&message, *reply),
            Body::AppendEntries(request) => self.on_append_entries(&message, request),
            Body::AppendEntriesReply(reply) => self.on_append_entries_reply(&message, *reply),
            Body::Heartbeat(request) => self.on_heartbeat(&message, *request),
            Body::HeartbeatReply(reply) => self.on_heartbeat_reply(&message, *reply),
            Body::InstallSnapshot(snapshot) => self.on_install_snapshot(&message, *snapshot),
            Body::TimeoutNow => self.on_timeout_now(&message),
            Body::TimeoutNowReply => {}
            Body::ReadIndex(request) => self.on_read_index(&message, *request),
            Body::ReadIndexReply(reply) => self.on_read_index_reply(&message, *reply),
            Body::Join(request) => self.on_join(&message, *request),
            Body::JoinReply(reply) => self.on_join_reply(&message, *reply),
        }
    }

    /// `from` has shown to lead the current term. False if that cannot be, as another one does.
    fn follow(&mut self, from: MemberId) -> bool {
        match (&self.role, self.leader) {
            (Role::Leader(_), _) => return false,
            (Role::Follower, Some(leader)) if leader != from => return false,
            (Role::Follower, _) => self.set_leader(Some(from)),
            // Raft §5.2: a candidate yields to the leader of its term.
            (Role::PreCandidate(_) | Role::Candidate(_), _) => {
                self.become_follower(self.current_term(), Some(from))
            }
        }
        self.reset_timer();
        true
    }

    fn set_leader(&mut self, leader: Option<MemberId>) {
        if std::mem::replace(&mut self.leader, leader) != leader {
            self.reject_forwarded();
        }
    }

    /// Enters `term` as a follower. A leader that steps down gives back the reads it has not confirmed.
    fn become_follower(&mut self, term: Term, leader: Option<MemberId>) {
        assert!(term >= self.current_term(), "terms never fall");
        let was = std::mem::replace(&mut self.role, Role::Follower);
        if term > self.current_term() {
            self.change_hard_state(HardState { current_term: term, voted_for: None });
        }
        self.leader = leader;
        self.reset_timer();
        self.reject_forwarded();
        if let Role::Leader(leader) = was {
            leader.reads.into_readers().for_each(|readers| self.reject_readers(readers));
        }
    }

    fn reject_readers(&mut self, Readers { ids, followers }: Readers) {
        let reason = Rejection::NotLeader(self.leader);
        self.effects.extend(ids.into_iter().map(|id| Effect::Rejected { id, reason }));
        for message in followers {
            if let Body::ReadIndex(ReadIndex { batch }) = message.body {
                self.answer_read_index(&message, ReadIndexReply { batch, committed: None });
            }
        }
    }

    fn disconnected(&mut self, peer: MemberId) {
        match &mut self.role {
            Role::Leader(leader) => leader.lost(peer),
            Role::Follower if self.leader == Some(peer) => {
                self.set_leader(None);
                let pause_ticks = self.rng.u32(2..=self.config.leader_lost_ticks_max);
                self.timer = Timer { elapsed_ticks: 0, timeout_ticks: pause_ticks };
            }
            _ => {}
        }
    }

    fn persisted(&mut self, id: PersistId) {
        assert!(id <= self.persists.last, "only what was asked to be written can have been");
        self.persists.done = self.persists.done.max(id);
        self.persists.stalled_ticks = 0;
        self.log.written(id);
        match self.role {
            Role::Leader(_) => self.advance_commit_index(),
            Role::Candidate(_) if self.is_hard_state_durable() => self.own_vote_durable(),
            _ => {}
        }
    }

    /// Entries that the snapshot holds may go, but for a tail for followers that are a little behind.
    fn snapshot_taken(&mut self, snapshot: SnapshotMeta) {
        let index = snapshot.last_included_index;
        assert!(index <= self.handed_out, "a snapshot holds what was applied, no more");
        if self.snapshot.is_none_or(|old| old.last_included_index < index) {
            self.snapshot = Some(snapshot);
            self.log.compact(self.log.tail_begin(index, self.config.log_tail_bytes_max));
        }
    }

    fn applied(&mut self, index: Index) {
        self.applied_index = self.applied_index.max(index);
        while self.applying.front().is_some_and(|&(last, _)| last <= index) {
            self.applying.pop_front();
        }
    }

    /// Turns what the batch has left to do into effects: entries to peers first, as they may leave before the write.
    fn finish(&mut self) -> Vec<Effect> {
        self.start_read_round();
        self.send_appends();
        self.ask_for_reads();
        self.send_timeout_now();
        self.persist();
        self.look_whether_filled();
        self.hand_out();
        self.log.forget(FORGOTTEN_EACH_STEP);
        self.tell_role();
        std::mem::take(&mut self.effects)
    }

    fn persist(&mut self) {
        let has_writes = self.persists.is_hard_state_dirty
            || self.persists.reset.is_some()
            || self.log.has_unwritten();
        if !has_writes && self.persists.then.is_empty() {
            return;
        }
        let id = PersistId(self.persists.last.0 + 1);
        self.persists.last = id;
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

    /// Gives out what is committed, as far as the state machine keeps up, and the reads that are then due.
    fn hand_out(&mut self) {
        loop {
            self.release_reads();
            self.release_forwarded();
            let in_flight: usize = self.applying.iter().map(|&(_, bytes)| bytes).sum();
            if self.handed_out == self.commit_index || in_flight >= self.config.apply_bytes_max {
                return;
            }
            let bytes_max = self.config.apply_bytes_max - in_flight;
            let entries = self.log.batch(self.handed_out.next(), self.commit_index, bytes_max);
            let bytes = entries.iter().map(cost_bytes).sum();
            self.handed_out =
                entries.last().expect("there are committed entries to hand out").index;
            self.applying.push_back((self.handed_out, bytes));
            self.effects.push(Effect::Apply(entries));
        }
    }

    fn tell_role(&mut self) {
        let role = self.role_change();
        if role != self.told {
            self.told = role;
            self.effects.push(Effect::RoleChanged(role));
        }
    }

    fn role_change(&self) -> RoleChange {
        let role = match self.role {
            Role::Follower => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        };
        RoleChange { role, term: self.current_term(), leader: self.leader }
    }

    fn change_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
        self.persists.is_hard_state_dirty = true;
    }

    fn is_hard_state_durable(&self) -> bool {
        !self.persists.is_hard_state_dirty && self.persists.hard_state_write <= self.persists.done
    }

    fn current_term(&self) -> Term {
        self.hard_state.current_term
    }

    /// Answers with what promises no entry and no vote: at once, if the term it names is on the disk.
    fn reply(&mut self, request: &Message, body: Body) {
        self.reply_once_durable(request, body, Index::ZERO);
    }

    /// Answers when the hard state and the log up to `index` are on the disk.
    fn reply_once_durable(&mut self, request: &Message, body: Body, index: Index) {
        let message = Message {
            from: self.config.id,
            to: request.from,
            term: self.current_term(),
            token: request.token,
            body,
        };
        if self.is_hard_state_durable() && index <= self.log.durable_index() {
            self.effects.push(Effect::Send(message));
        } else if self.persists.last.0 - self.persists.done.0 < WRITES_WAITING_MAX {
            self.persists.then.push(message);
        }
    }

    fn request(&self, to: MemberId, term: Term, body: Body) -> Message {
        Message { from: self.config.id, to, term, token: 0, body }
    }

    /// Draws a new election timeout (Raft §5.2).
    fn reset_timer(&mut self) {
        let timeout_ticks =
            self.rng.u32(self.config.election_ticks_min..=self.config.election_ticks_max);
        self.timer = Timer { elapsed_ticks: 0, timeout_ticks };
    }

    /// Whether a leader is known to live: then votes are refused (thesis §4.2.3, §6.2).
    fn hears_leader(&self) -> bool {
        match self.role {
            Role::Leader(_) => true,
            _ if self.promise_ticks > 0 => true,
            _ => self.leader.is_some() && self.timer.elapsed_ticks < self.config.election_ticks_min,
        }
    }

    /// A name that no other question has, of this life or another.
    fn next_question(&mut self) -> u64 {
        self.last_question += 1;
        self.last_question
    }

    /// Whether nothing that waits has reached the disk for longer than an election takes.
    fn is_disk_stalled(&self) -> bool {
        self.persists.stalled_ticks >= self.config.election_ticks_max
    }

    fn nonsense(&mut self, message: &Message, why: &str) {
        self.nonsense_count += 1;
        ::log::debug!("member {} dropped {message:?}: {why}", self.config.id);
    }
}
