//! The consensus core: the Raft algorithm as a pure function of its past events.
//!
//! Raft keeps a log of commands the same on all members of a cluster, as long as a majority of them
//! is up and can talk to each other. It does so by electing a leader, which alone adds entries to
//! the log and copies them to the others. An entry that a majority has on its disks is *committed*:
//! it will never be lost or changed, and every member applies it to its state machine.
//!
//! This module follows two texts, which are cited throughout:
//!
//! - "the paper": D. Ongaro and J. Ousterhout, *In Search of an Understandable Consensus Algorithm
//!   (Extended Version)*, 2014. A plain § is a section of it.
//! - "the thesis": D. Ongaro, *Consensus: Bridging Theory and Practice*, Stanford 2014.
//!
//! # Interface
//! ```text
//!                     ┌──────────────────────────────┐
//!   Tick, Message ──> │                              │ ──> Send, Persist { then: Send }
//!   Propose, Read ──> │  Raft::step(events)          │ ──> Proposed, Rejected, ReadReady
//!   Persisted,    ──> │                              │ ──> Apply, Install, ReleaseLog
//!   Applied, ...      └──────────────────────────────┘ ──> TakeSnapshot, RoleChanged, ...
//! ```
//! [`Raft::step`] takes a batch of [`Event`]s and returns the [`Effect`]s to carry out. Events and
//! effects are the whole interface. The same events give the same effects, always: the core does no
//! I/O, reads no clock, starts no thread, uses no global randomness and iterates over no hash map.
//! [`Event::Tick`] is the only time there is, and election jitter comes from [`Config::seed`]. This
//! is what makes it possible to run a whole cluster in one thread from one seed (`tests/sim`), and
//! to record what a cluster does as text (`tests/raft/scripts`).
//!
//! Around the core is a *shell*, which owns the sockets, the disk, the clock and the state machine.
//! In this project that is `node`. The shell promises the core:
//!
//! - Effects are carried out in the order in which they are returned.
//! - [`Event::Persisted`] is sent for a write only when that write and every write before it are on
//!   the disk.
//! - Entries are applied in order. The core is told of a snapshot only when all of it is on the
//!   disk.
//! - It writes, applies and releases only what an effect orders.
//! - A member starts with what its disk holds: the hard state, the newest snapshot and the log
//!   behind it.
//!
//! Messages may be lost, repeated, delayed and reordered. The core never waits for an answer.
//!
//! # Batches
//! The shell drains its inbox and steps everything at once. Proposals of one batch leave in one
//! `AppendEntries` for each peer and in one `Persist`; reads of one batch share one round of
//! heartbeats. A batch may be a single event.
//!
//! # Durability
//! The order of effects is the durability contract. A message that promises something (a vote, a
//! term, an entry) waits in [`Persist::then`] until it is durable (thesis §3.8); if it already is,
//! it leaves at once as [`Effect::Send`]. Replies also wait until the current hard state is
//! durable, except the grant of a pre-vote. Messages that promise nothing leave at once:
//! heartbeats, requests for pre-votes, questions, and the leader's entries, which may leave before
//! the leader's own disk has them (thesis §10.2.1). The leader counts itself only when it is told
//! [`Event::Persisted`]. A member may apply an entry that a quorum holds before its own disk does.
//!
//! # State
//! | state | where | of Raft figure 2 |
//! |---|---|---|
//! | term, vote: [`HardState`] | `common` | `currentTerm`, `votedFor`: persistent |
//! | entries, and how far they are on their way to the disk | `log` | `log[]`: persistent |
//! | `commit_index` | `common` | `commitIndex` |
//! | `handed_out`: the last entry given out to be applied | `common` | `lastApplied` here |
//! | who leads this term, the election timer | `common` | |
//! | reads for which the leader is asked | `forwarded` | |
//! | what a member without its data knows about the others | `joining` | |
//! | votes received | `candidate` | candidates only |
//! | `next_index`, `match_index` of each peer | `progress` | `nextIndex[]`, `matchIndex[]` |
//! | rounds of heartbeats | `leader` | leaders only |
//! | reads that wait, the transfer, the lease | `reads`, `transfer`, `lease` | leaders only |
//! | who the members are: the configurations in the log | `configurations` | |
//!
//! What all members have is `Common`; what only a candidate or a leader has is in its `Role`. A
//! method of `Leader` exists only where there is a leader, so no handler has to ask whether this
//! member leads. What only a member without its data has is `Joining`, beside the role.
//!
//! `log`, `reads`, `forwarded`, `lease`, `transfer` and `progress` keep a state and its rules. They
//! send nothing: `Common` and the roles ask them, and send.
//!
//! # Roles
//! ```text
//!                   timeout              quorum would vote           quorum votes
//!   Follower ───────────────> PreCandidate ───────────> Candidate ───────────────> Leader
//!      ^                            │                       │                         │
//!      └────────────────────────────┴───────────────────────┴─────────────────────────┘
//!        a later term, the leader of this term, a lost election, no quorum heard
//! ```
//! A follower answers. A pre-candidate asks whether an election could be won, and changes nothing
//! by asking (thesis §9.6). A candidate has begun a term and voted for itself. A leader proposes,
//! replicates, commits and confirms reads.
//!
//! # Messages
//! Each [`Request`] has one [`Reply`], which repeats the request's token. A reply may come late,
//! twice or never.
//!
//! | request | from, to | reply |
//! |---|---|---|
//! | `RequestVote` | candidate to all (§5.2); pre-votes, too | `RequestVote`: given or refused |
//! | `AppendEntries` | leader to a follower (§5.3) | `AppendEntries`: matched, conflict or stale |
//! | `Heartbeat` | leader to all (thesis §6.4) | `Heartbeat`: the round that it answers |
//! | `InstallSnapshot` | leader to a follower that is far behind (§7) | `AppendEntries` |
//! | `TimeoutNow` | leader to its successor (thesis §3.10) | `TimeoutNow` |
//! | `ReadIndex` | follower to the leader (thesis §6.4) | `ReadIndex`: what is committed |
//! | `Join` | member without its data to the others (`joining`) | `Join`: where they stand |
//!
//! # Rules
//! For every message, before any role sees it (§5.1, in this file):
//!
//! 1. A message that is not from somebody else to this member is dropped. Whether the sender is a
//!    member does not matter: its configuration may be newer (thesis §4.1). What strangers
//!    acknowledge counts for nothing. The shell takes messages of the same cluster only.
//! 2. If its term is earlier, a request is refused with the current term, and a reply is dropped.
//! 3. If its term is later, the member enters that term as a follower. A pre-vote does not count as
//!    a later term. Nor does a request for a vote while a leader is heard: it is refused (thesis
//!    §4.2.3).
//!
//! Elections (`candidate`, `follower`):
//!
//! 4. A follower that hears no leader for an election timeout asks for pre-votes. The timeout is
//!    drawn anew each time.
//! 5. A vote goes to the first candidate of the term whose log is at least as up to date (§5.4.1).
//!    One vote per term.
//! 6. A candidate that a quorum votes for leads, once its own vote is on its disk. Its first entry
//!    is a no-op.
//! 7. A leader that hears no quorum for an election timeout steps down (check-quorum, thesis §6.2).
//!
//! Replication (`leader`, `progress`, `follower`):
//!
//! 8. A follower takes entries only behind an entry that matches. It removes entries only where
//!    they conflict (§5.3).
//! 9. A leader commits an entry of its own term when a quorum has it on disk; that commits
//!    everything before it (§5.4.2).
//! 10. A follower commits what the leader says is committed, up to what it knows to match.
//! 11. A follower that lacks entries which the leader has forgotten is sent a snapshot (§7) that
//!     holds all of these. If there is none, one is taken.
//!
//! Reads (`reads`, `forwarded`, `lease`):
//!
//! 12. A read is served from a state that holds everything that was committed when it arrived. The
//!     leader makes sure that it still leads: a quorum answers a heartbeat that left after the read
//!     came, or has promised a lease.
//! 13. A leader serves no read before an entry of its own term is committed (thesis §6.4).
//!
//! Members (`reconfiguration`, `configurations`, `joining`; thesis §4):
//!
//! 14. A member uses the newest configuration in its log, committed or not (§4.1).
//! 15. While a configuration is joint, everything needs a majority of the voters before and of
//!     those after the change (§4.3). When it is committed, the leader appends the one after it.
//! 16. One change at a time, and none before an entry of the leader's own term is committed.
//! 17. A leader that has removed itself does not count itself. When that is committed, it hands
//!     over and steps down (§4.2.2).
//! 18. A member that knows that it was removed, by a committed configuration, is silent.
//!
//! # Invariants
//! Each of these is asserted where the state changes, in release builds too: a member that breaks a
//! promise must stop rather than spread what it has. `common` keeps the term, the vote,
//! `commit_index` and `handed_out` private, and `progress` keeps `match_index` and `next_index`
//! private, so that nobody can change them past the assertion. What holds between any two steps is
//! asserted at the end of each step.
//!
//! - **Terms never fall, and a member votes once a term** (§5.1, §5.2). Otherwise two candidates
//!   could both have a majority of one term. Asserted in `Common::change_hard_state`. Tests:
//!   `terms::a_later_term_makes_a_follower_of_every_role`,
//!   `elections::one_vote_a_term_first_come_first_served`, `elections::a_vote_outlives_a_crash`.
//! - **A term has at most one leader** (election safety, figure 3). It follows from the one above,
//!   as any two quorums share a voter. Asserted in `Common::set_leader` and
//!   `Common::begin_following`; `tests/sim` checks it across members. Tests:
//!   `terms::a_second_leader_of_a_term_is_nonsense`,
//!   `membership::tests::any_two_quorums_share_a_voter`.
//! - **A leader has its vote on its disk.** Otherwise it could vote again in the same term after a
//!   crash. Asserted in `become_leader`. Test:
//!   `durability::votes_do_not_make_a_leader_before_its_own_is_durable`.
//! - **A leader never changes or removes its entries** (leader append-only, figure 3). Asserted in
//!   `Common::truncate` and `Common::install`. Test: `trace` with `figure_8.script`.
//! - **Indexes count up by one and terms never fall along the log** (§5.3, log matching). The
//!   search for where two logs agree relies on it. Asserted in `Log::append` and `Log::recovered`.
//!   Test: `log::tests::where_two_logs_could_still_agree`.
//! - **No entry has a later term than the current one.** Otherwise an entry could be taken for one
//!   of a leader that was not elected yet. Asserted in `Common::append`. Test:
//!   `nonsense::entries_that_do_not_follow_each_other_are_dropped_and_counted`.
//! - **`commit_index` never falls and never passes the end of the log.** Clients have been told.
//!   Asserted in `Common::commit_to`. Test:
//!   `replication::a_follower_commits_no_more_than_it_knows_to_match`.
//! - **Nothing that is committed is removed** (leader completeness, figure 3). Asserted in
//!   `Common::truncate`. Tests: `safety::who_lacks_a_committed_entry_is_not_elected`,
//!   `safety::a_message_that_would_change_what_is_committed_is_nonsense`.
//! - **An entry of an earlier term is committed only by one of the current term behind it**
//!   (§5.4.2, figure 8). Asserted in `Leader::advance_commit_index`: what is reached is at or
//!   behind the no-op. Test: `safety::only_an_entry_of_the_current_term_commits_what_is_before_it`.
//! - **Each committed entry is handed out once, in order** (state machine safety, figure 3).
//!   Asserted in `Common::hand_out_to`. Test: `replication::a_follower_applies_in_order_and_once`.
//! - **`match_index < next_index <= last_index + 1`** (figure 2). Otherwise a leader would send
//!   what it does not have. Asserted in `Progress` and `leader::next_append`. Test:
//!   `replication::reordered_answers_take_nothing_back`.
//! - **`durable <= submitted <= last_index`.** A leader that counted on an entry that its disk
//!   does not have could commit an entry that a crash removes. Asserted in `Log::assert_sound`.
//!   Tests: `durability::a_leader_counts_itself_when_its_write_is_durable`,
//!   `durability::a_truncation_takes_back_what_was_on_its_way`.
//! - **Rounds of heartbeats count up, and each has at least the `commit_index` of the last.**
//!   Otherwise a read could see less than an earlier one. Asserted in `Reads::start_round`. Test:
//!   `reads::an_answer_to_an_earlier_heartbeat_confirms_nothing`.
//! - **A snapshot never takes the state back** (§7). Asserted in `Common::install`. Test:
//!   `snapshots::a_snapshot_of_what_is_committed_changes_nothing_and_is_answered`.
//! - **The log on disk loses only entries that a snapshot on disk holds** (§7). Otherwise a restart
//!   would find a gap between the snapshot and the log. The core orders it
//!   ([`Effect::ReleaseLog`], [`Persist::reset`]); the shell drops nothing by itself. Asserted in
//!   `Common::release_log`. Test: `snapshots::the_log_is_released_up_to_a_snapshot_that_was_taken`.
//! - **Memory loses only entries that were applied**, whatever the snapshots are. Otherwise an
//!   entry could be needed that is nowhere but on the disk, which the core does not read. Asserted
//!   in `Log::retain` and `Log::assert_sound`. Test:
//!   `snapshots::what_was_applied_is_forgotten_without_a_snapshot`.
//! - **Behind a snapshot that is sent, the leader's log goes on without a gap.** Otherwise a peer
//!   would need a snapshot again and again. `Common::snapshot_to_send` sees to it, and
//!   `Progress::kept_behind` keeps it so while the peer takes the snapshot. Test:
//!   `snapshots::a_snapshot_that_the_log_does_not_follow_is_not_sent_but_replaced`.
//! - **A member that may have forgotten a promise neither stands for election nor leads.** Asserted
//!   in `Raft::assert_may_stand` and `become_leader`. Test:
//!   `joining::it_votes_when_it_holds_all_that_the_leader_had`.
//! - **A configuration follows a committed one.** Otherwise two leaders could each count majorities
//!   that do not meet. Asserted in `Leader::append_configuration` and `Configurations::appended`;
//!   `tests/sim` checks it across members. Tests: `membership::one_change_at_a_time`,
//!   `membership::nothing_changes_before_the_leaders_own_entry_is_committed`.
//! - **Each request gets one reply**, or is nonsense. The shell keeps a call open for it. Test:
//!   `terms::a_request_of_an_earlier_term_is_refused_with_the_current_one`.
//! - **Everything that grows has a bound in [`Config`]**, except the log on the disk, which
//!   snapshots cut, and what a start finds there, which is forgotten as it is applied. Tests:
//!   `bounds`.
//!
//! # Nonsense
//! What a peer sends is never asserted on: a bad peer must not take a good one down. A message from
//! a stranger, for another member, or one that breaks a promise of the protocol is dropped and
//! counted in [`Status::nonsense_count`]. Tests: `nonsense`, with random messages among them.
//!
//! # Beyond the paper
//! - Pre-vote: a member that was cut off does not disturb the others when it comes back (thesis
//!   §9.6).
//! - Leader stickiness and check-quorum: a leader that is heard cannot be voted out, and one that
//!   is not heard steps down (thesis §4.2.3, §6.2).
//! - A no-op at the beginning of each term, so that a new leader learns what is committed (§8,
//!   thesis §6.4).
//! - Conflicts are skipped by term, not entry by entry (§5.3, at its end).
//! - Appends are pipelined, within a window of messages and bytes (thesis §10.2.1).
//! - ReadIndex in batches, at followers too (thesis §6.4, `forwarded`), and leases as an option
//!   (thesis §6.4.1, `lease`).
//! - Leadership transfer (thesis §3.10, `transfer`). A leader whose disk takes no writes hands over
//!   by itself.
//! - [`Event::Disconnected`]: a follower whose connection to the leader breaks asks for pre-votes
//!   after a short pause. The others refuse while they hear the leader, so a broken cable costs no
//!   term.
//! - A member that comes without its data does not vote until it cannot break an old promise any
//!   more (`joining`).
//!
//! # Left out
//! - The chunks of a snapshot (§7, thesis §5): the shell sends and verifies them, and the core
//!   hears of a whole one.
//! - Sessions of clients, which make a repeated command take effect once (§8, thesis §6.3): the
//!   state machine keeps them.
//! - Sending a follower's log from another follower, and writing to the leader's disk last (thesis
//!   §10.2).
//! - Byzantine faults. Checksums, and whether peers may speak at all, are the shell's business.

mod candidate;
mod common;
mod config;
mod configuration;
mod configurations;
mod event;
mod follower;
mod forwarded;
mod joining;
mod leader;
mod lease;
mod log;
mod membership;
mod message;
mod progress;
mod reads;
mod reconfiguration;
mod time;
mod transfer;
mod types;

pub use config::{Config, Standing};
pub use configuration::{BadConfiguration, Configuration, Place};
pub use configurations::Configured;
pub use event::{Effect, Event, Persist, PersistId, Rejection, RequestId, RoleChange, RoleName};
pub use joining::JoinAnswer;
pub use membership::Membership;
pub use message::{
    AppendEntries, AppendEntriesReply, Body, Heartbeat, HeartbeatReply, Join, JoinReply, Message,
    ReadIndex, ReadIndexReply, Reply, Request, RequestVote, RequestVoteReply,
};
pub use reconfiguration::{Change, MEMBERS_MAX, Refusal};
pub use time::{AppliedTime, STAMP_LEN_BYTES};
pub use types::{Entry, HardState, Index, MemberId, Payload, Snapshot, SnapshotMeta, Term};

use bytes::Bytes;

use candidate::Candidate;
use common::{Common, Timer};
use joining::Joining;
use leader::Leader;

/// How far ahead another member's term can be. With an election in every millisecond it would take
/// fifty days. A peer with a bug must not use up all terms with one message.
const TERM_AHEAD_MAX: u64 = 1 << 32;

/// For how many ticks a follower is calm at most, unless its leader calls less often.
const CALM_TICKS_MAX: u32 = 20;

/// How many entries that are no longer needed are forgotten in each step, besides two for each new
/// entry. This takes about 50 microseconds.
const FORGOTTEN_EACH_STEP: usize = 256;

/// One member's consensus state: figure 2 of the paper.
#[derive(Debug)]
pub struct Raft {
    common: Common,
    /// Set while this member lacks its data.
    joining: Option<Joining>,
    role: Role,
}

/// The role of a member (Raft §5.1), with the state that only this role has. A leader's methods are
/// those of [`Leader`].
#[derive(Debug)]
enum Role {
    Follower,
    PreCandidate(Candidate),
    Candidate(Candidate),
    Leader(Box<Leader>),
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
    /// Whether it lacks data that it may have promised to keep, and does not vote.
    pub is_joining: bool,
    /// Whether its writes have not reached its disk for longer than an election takes.
    pub is_disk_stalled: bool,
    /// How many messages were dropped because they broke the protocol.
    pub nonsense_count: u64,
}

/// How far a peer is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The last entry known to be on its disk.
    pub match_index: Index,
    /// Whether it was heard within an election timeout.
    pub is_heard: bool,
}

impl Raft {
    /// A member that starts, or restarts, with what its disk has. The state machine has loaded
    /// `snapshot`. A configuration in `snapshot` or `entries` is in force, and otherwise
    /// [`Config::members`].
    ///
    /// # Panics
    /// - If `entries` does not count up from `snapshot`, or from index 1 without one.
    /// - If an entry is of a later term than both `hard_state` and `snapshot`. Storage makes sure
    ///   that this cannot be: it writes a hard state before the entries that came with it.
    /// - If `config` has values that cannot work.
    pub fn new(
        config: Config,
        hard_state: HardState,
        snapshot: Option<Snapshot>,
        entries: Vec<Entry>,
    ) -> Raft {
        config.assert_sound();
        let common = Common::new(config, hard_state, snapshot, entries);
        let mut raft = Raft { common, joining: None, role: Role::Follower };
        raft.begin_joining();
        raft
    }

    /// Takes what has happened, and returns what to do, in order.
    pub fn step(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Effect> {
        for event in events {
            match event {
                event if self.is_over() => self.refuse(event),
                Event::Tick => self.tick(),
                Event::Clock(now_us) => self.common.read_clock(now_us),
                Event::Message(message) => self.receive(message),
                Event::Propose { id, command } => self.propose(id, command),
                Event::ProposeStamped { id, command } => self.propose_stamped(id, command, false),
                Event::ProposeTime { id, command } => self.propose_stamped(id, command, true),
                Event::Read { id } => self.read(id),
                Event::Transfer { to } => self.transfer(to),
                Event::Campaign => self.campaign_if_idle(),
                Event::Persisted(id) => self.persisted(id),
                Event::Applied(index) => self.applied(index),
                Event::AppliedTime { time, is_anew } => {
                    self.common.time.applied(time, is_anew);
                }
                Event::Unanswered(reads) => self.common.unanswered_reads = reads,
                Event::SnapshotTaken(snapshot) => self.snapshot_taken(snapshot),
                Event::DiskFull(is_full) => self.common.is_disk_full = is_full,
                Event::Joined => self.joined(),
                Event::ChangeMembers { id, change } => self.change_members(id, &change),
                Event::MayConfigure => self.common.may_configure = true,
                Event::Disconnected(peer) => self.disconnected(peer),
            }
        }
        self.finish()
    }

    /// Whether this core does nothing any more: its member was removed, or begins anew in another
    /// cluster.
    fn is_over(&self) -> bool {
        self.is_leaving() || self.common.is_removed
    }

    /// Whoever asks is told at once.
    fn refuse(&mut self, event: Event) {
        if let Event::Propose { id, .. }
        | Event::ProposeStamped { id, .. }
        | Event::ProposeTime { id, .. }
        | Event::Read { id }
        | Event::ChangeMembers { id, .. } = event
        {
            self.common.reject(id, Rejection::NotLeader(None));
        }
    }

    /// Until when, by the boot-time clock in microseconds, this member may answer reads without
    /// asking ([`Config::lease`]); 0 if it may not. The shell reads that clock after the read has
    /// come, and answers from a state with every entry that is committed by now.
    pub fn lease_end_us(&self) -> u64 {
        match &self.role {
            Role::Leader(leader) => leader.lease_end_us(&self.common),
            _ => 0,
        }
    }

    /// Whether this member leads and does not know the time yet, because its no-op is not applied.
    /// Commands that it has to stamp should wait.
    pub fn awaits_time(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.time.now_ms(&self.common.time).is_none())
    }

    /// Whether the shell should propose a command that tells the time ([`Event::ProposeTime`]),
    /// behind everything else that has arrived. For `now_us` and `news` see
    /// [`is_any_due_soon`](Raft::is_any_due_soon).
    pub fn is_time_due(&self, now_us: u64, news: Option<AppliedTime>) -> bool {
        let since_us = self.common.time.since_reading_us(now_us);
        matches!(
            &self.role,
            Role::Leader(leader) if leader.time.is_entry_due(since_us, &self.common.time, news)
        )
    }

    /// For how many ticks, from now on, it does not matter if so many come at once: before the last
    /// one there is nothing to send. 0 if something waits for the next tick, or for the turn that
    /// comes with it: committed entries, for example, until others are applied.
    ///
    /// A leader is calm until its next heartbeat while it holds no reads, gathers no entries for a
    /// peer, does not hand over, and nothing is due soon by the cluster's time. What it notices by
    /// counting ticks, as the loss of its quorum or of its disk, it may notice as much later. A
    /// follower is calm until half of the shortest election timeout has passed without a word from
    /// its leader, but not for long: with its ticks, the shell does what it does now and then.
    pub fn calm_ticks(&self) -> u32 {
        let common = &self.common;
        if self.joining.is_some() || common.handed_out() < common.commit_index() {
            return 0;
        }
        match &self.role {
            Role::Leader(leader) => leader.calm_ticks(common),
            // Half of the timeout is left for heartbeats that are there and were not taken.
            Role::Follower if common.leader().is_some() && common.forwarded.len() == 0 => {
                let Config { election_ticks_min, heartbeat_ticks, .. } = common.config;
                let left = (election_ticks_min / 2).saturating_sub(common.timer.elapsed_ticks);
                left.min(heartbeat_ticks.max(CALM_TICKS_MAX))
            }
            Role::Follower => 0,
            Role::PreCandidate(_) | Role::Candidate(_) => 0,
        }
    }

    /// Whether this member leads, and something has its deadline within two heartbeats, by the
    /// cluster's time. The boot-time clock shows `now_us`, in microseconds, which may be later than
    /// the last [`Event::Clock`]; `news` is what the state machine has said since the last
    /// [`Event::AppliedTime`].
    pub fn is_any_due_soon(&self, now_us: u64, news: Option<AppliedTime>) -> bool {
        let since_reading_us = self.common.time.since_reading_us(now_us);
        matches!(
            &self.role,
            Role::Leader(leader) if leader.is_any_due_soon(&self.common, since_reading_us, news)
        )
    }

    /// If this member leads: how far each other member is.
    pub fn progress(&self) -> impl Iterator<Item = (MemberId, PeerStatus)> + '_ {
        let leader = match &self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        };
        let peers = leader.into_iter().flat_map(|leader| leader.peers());
        let config = &self.common.config;
        peers.map(|(&id, peer)| {
            let is_heard = peer.is_heard_lately(config);
            (id, PeerStatus { match_index: peer.match_index(), is_heard })
        })
    }

    /// Whether reads wait here, perhaps for others to be answered ([`Event::Unanswered`]).
    pub fn holds_reads(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.holds_reads())
    }

    /// Where this member stands.
    pub fn status(&self) -> Status {
        let common = &self.common;
        Status {
            id: common.config.id,
            role: self.role_change(),
            last_index: common.log.last_index(),
            durable_index: common.log.durable_index(),
            commit_index: common.commit_index(),
            snapshot_index: common.snapshot.map_or(Index::ZERO, |it| it.last_included_index),
            is_joining: self.joining.is_some(),
            is_disk_stalled: common.is_disk_stalled(),
            nonsense_count: common.nonsense_count,
        }
    }

    fn tick(&mut self) {
        let common = &mut self.common;
        common.promise_ticks = common.promise_ticks.saturating_sub(1);
        common.persists.tick(common.log.submitted_index());
        common.forwarded.tick(common.config.heartbeat_ticks);
        self.tick_joining();
        match &mut self.role {
            Role::Leader(leader) => {
                if !leader.tick(&mut self.common) {
                    self.become_follower(self.common.current_term(), None);
                }
            }
            _ => self.tick_follower(),
        }
    }

    fn tick_follower(&mut self) {
        let Common { timer, promise_ticks, .. } = &mut self.common;
        timer.elapsed_ticks += 1;
        let is_due = timer.elapsed_ticks >= timer.timeout_ticks && *promise_ticks == 0;
        if is_due && self.may_stand() && !self.is_vote_under_way() {
            self.campaign();
        }
    }

    /// Every message passes here. Strangers are turned away, and terms are compared once, before
    /// any role sees the message (Raft §5.1).
    fn receive(&mut self, message: Message) {
        let id = self.common.config.id;
        if message.from == id || message.from.0 == 0 || message.to != id {
            return self.common.nonsense(&message, "it is not between this member and a peer");
        }
        let current_term = self.common.current_term();
        if message.term.0.saturating_sub(current_term.0) > TERM_AHEAD_MAX {
            return self.common.nonsense(&message, "its term is out of reach");
        }
        if self.is_asking() {
            return self.receive_while_asking(&message);
        }
        // The terms of another cluster mean nothing here.
        if let Body::Reply(Reply::Join(reply)) = &message.body
            && self.is_of_other_cluster(reply)
        {
            return;
        }
        match message.term.cmp(&current_term) {
            std::cmp::Ordering::Less => self.receive_earlier_term(message),
            std::cmp::Ordering::Equal => self.dispatch(message),
            std::cmp::Ordering::Greater => self.receive_later_term(message),
        }
    }

    fn receive_later_term(&mut self, message: Message) {
        match message.body {
            // A pre-vote only asks about a later term; its grant only answers that (thesis §9.6).
            Body::Request(Request::RequestVote(RequestVote { pre_vote: true, .. }))
            | Body::Reply(Reply::RequestVote(RequestVoteReply {
                pre_vote: true,
                vote_granted: true,
                ..
            })) => {}
            // While followers hear a leader, they vote for nobody else (thesis §4.2.3).
            Body::Request(Request::RequestVote(request))
                if self.common.hears_leader() && !request.is_transfer =>
            {
                return self.common.refuse_vote(&message, request);
            }
            _ => self.become_follower(message.term, None),
        }
        self.dispatch(message);
    }

    /// Answers a request of an earlier term with the current one, so that its sender steps down. A
    /// reply of an earlier term is too late. But a member without its data is in an early term, and
    /// its questions and answers count.
    fn receive_earlier_term(&mut self, message: Message) {
        match &message.body {
            Body::Request(request) => self.refuse_stale(&message, request),
            Body::Reply(Reply::Join(reply)) => self.on_join_reply(&message, reply),
            Body::Reply(_) => {}
        }
    }

    fn dispatch(&mut self, message: Message) {
        match &message.body {
            Body::Request(request) => self.on_request(&message, request),
            Body::Reply(reply) => self.on_reply(&message, reply),
        }
    }

    fn on_request(&mut self, message: &Message, request: &Request) {
        if request.is_from_leader() && !self.follow(message.from) {
            return self.common.nonsense(message, "there is another leader in this term");
        }
        match request {
            Request::RequestVote(request) if !self.may_vote() => {
                self.common.refuse_vote(message, *request)
            }
            Request::RequestVote(request) => self.common.on_request_vote(message, *request),
            Request::AppendEntries(request) => self.common.on_append_entries(message, request),
            Request::Heartbeat(request) => self.common.on_heartbeat(message, *request),
            Request::InstallSnapshot(end) => self.common.on_install_snapshot(message, end),
            Request::TimeoutNow => self.on_timeout_now(message),
            Request::ReadIndex(request) => self.on_read_index(message, *request),
            Request::Join(request) => self.on_join(message, *request),
        }
    }

    /// A reply goes to the role that asked. If this member has another role by now, nothing waits
    /// for it.
    fn on_reply(&mut self, message: &Message, reply: &Reply) {
        match (&mut self.role, reply) {
            (Role::Leader(leader), Reply::AppendEntries(reply)) => {
                leader.on_append_entries_reply(&mut self.common, message, *reply)
            }
            (Role::Leader(leader), Reply::Heartbeat(reply)) => {
                leader.on_heartbeat_reply(&mut self.common, message, *reply)
            }
            // Whoever leads goes on until that is committed here.
            (_, Reply::RequestVote(reply)) if reply.is_removed && !self.common.is_leading() => {
                self.common.removed();
            }
            (Role::PreCandidate(candidate), Reply::RequestVote(reply)) => {
                let tally = candidate.on_pre_vote_reply(&self.common, message, *reply);
                self.pre_vote_counted(tally);
            }
            (Role::Candidate(candidate), Reply::RequestVote(reply)) => {
                let tally = candidate.on_vote_reply(&self.common, message, *reply);
                self.vote_counted(tally);
            }
            (_, Reply::ReadIndex(reply)) => self.common.on_read_index_reply(message, *reply),
            (_, Reply::Join(reply)) => self.on_join_reply(message, reply),
            (_, Reply::AppendEntries(_) | Reply::Heartbeat(_) | Reply::RequestVote(_)) => {}
            (_, Reply::TimeoutNow) => {}
        }
    }

    /// `from` claims to lead the current term. False if another member does.
    fn follow(&mut self, from: MemberId) -> bool {
        match (&self.role, self.common.leader()) {
            (Role::Leader(_), _) => return false,
            (Role::Follower, Some(leader)) if leader != from => return false,
            (Role::Follower, _) => self.common.set_leader(Some(from)),
            // Raft §5.2: a candidate yields to the leader of its term.
            (Role::PreCandidate(_) | Role::Candidate(_), _) => {
                self.become_follower(self.common.current_term(), Some(from))
            }
        }
        self.common.reset_timer();
        self.common.time.heard();
        true
    }

    /// Enters `term` as a follower. A leader that steps down gives back the reads it has not
    /// confirmed.
    fn become_follower(&mut self, term: Term, leader: Option<MemberId>) {
        let was = std::mem::replace(&mut self.role, Role::Follower);
        self.common.begin_following(term, leader);
        if let Role::Leader(leader) = was {
            self.common.time.had_heard_quorum(leader.quorum_heard_us(&self.common));
            leader.reads.into_readers().for_each(|readers| self.common.reject_readers(readers));
        }
    }

    fn propose(&mut self, id: RequestId, command: Bytes) {
        match &mut self.role {
            Role::Leader(leader) => leader.propose(&mut self.common, id, command),
            _ => self.common.reject(id, Rejection::NotLeader(self.common.leader())),
        }
    }

    fn propose_stamped(&mut self, id: RequestId, command: Bytes, is_time: bool) {
        match &mut self.role {
            Role::Leader(leader) => {
                leader.propose_stamped(&mut self.common, id, &command, is_time);
            }
            _ => self.common.reject(id, Rejection::NotLeader(self.common.leader())),
        }
    }

    fn applied(&mut self, index: Index) {
        self.common.applied(index);
        if let Role::Leader(leader) = &mut self.role {
            leader.applied(&self.common);
        }
    }

    fn snapshot_taken(&mut self, snapshot: SnapshotMeta) {
        self.common.snapshot_taken(snapshot);
        if let Role::Leader(leader) = &mut self.role {
            leader.snapshot_taken();
        }
    }

    fn read(&mut self, id: RequestId) {
        match &mut self.role {
            Role::Leader(leader) => leader.read(&mut self.common, id),
            _ => self.common.read_through_leader(id),
        }
    }

    /// A follower asks for the commit index.
    fn on_read_index(&mut self, message: &Message, request: ReadIndex) {
        match &mut self.role {
            Role::Leader(leader) => leader.on_read_index(&mut self.common, message, request),
            _ => self.common.refuse_read_index(message, request),
        }
    }

    /// An operator asks this member to hand over. Nothing happens if it does not lead.
    fn transfer(&mut self, to: Option<MemberId>) {
        if let Role::Leader(leader) = &mut self.role {
            leader.begin_transfer(&self.common, to);
        }
    }

    fn persisted(&mut self, id: PersistId) {
        self.common.written(id);
        match &mut self.role {
            Role::Leader(leader) => leader.advance_commit_index(&mut self.common),
            Role::Candidate(candidate) if self.common.is_hard_state_durable() => {
                let tally = candidate.own_vote_durable(&mut self.common);
                self.vote_counted(tally);
            }
            _ => {}
        }
    }

    fn disconnected(&mut self, peer: MemberId) {
        match &mut self.role {
            Role::Leader(leader) => leader.lost(peer),
            Role::Follower if self.common.leader() == Some(peer) => {
                self.common.set_leader(None);
                let Common { rng, config, timer, .. } = &mut self.common;
                let pause_ticks = rng.u32(2..=config.leader_lost_ticks_max);
                *timer = Timer { elapsed_ticks: 0, timeout_ticks: pause_ticks };
            }
            _ => {}
        }
    }

    /// Turns what the batch has left to do into effects. Entries to peers come first, because they
    /// may leave before the write.
    fn finish(&mut self) -> Vec<Effect> {
        match &mut self.role {
            Role::Leader(leader) => leader.finish(&mut self.common),
            _ => self.common.ask_for_reads(),
        }
        self.common.persist();
        self.check_filled();
        self.hand_out();
        self.forget();
        self.common.report_configurations();
        self.common.report_role(self.role_change());
        self.assert_sound();
        std::mem::take(&mut self.common.effects)
    }

    /// Forgets entries that were applied, except for those that peers may need.
    fn forget(&mut self) {
        let needed = match &self.role {
            Role::Leader(leader) => leader.kept_behind(),
            _ => Index(u64::MAX),
        };
        self.common.forget(needed, FORGOTTEN_EACH_STEP);
    }

    /// Gives out committed entries, as far as the state machine keeps up, and the reads that are
    /// then ready.
    fn hand_out(&mut self) {
        loop {
            if let Role::Leader(leader) = &mut self.role {
                leader.release_reads(&mut self.common);
            }
            self.common.release_forwarded();
            if !self.common.hand_out() {
                return;
            }
        }
    }

    fn role_change(&self) -> RoleChange {
        let role = match self.role {
            Role::Follower => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        };
        RoleChange { role, term: self.common.current_term(), leader: self.common.leader() }
    }

    fn assert_sound(&self) {
        self.common.assert_sound();
        match &self.role {
            Role::Leader(leader) => leader.assert_sound(&self.common),
            Role::Follower => assert!(!self.common.is_leading(), "a follower does not lead"),
            Role::PreCandidate(_) | Role::Candidate(_) => {
                assert!(self.common.leader().is_none(), "who knows a leader does not stand (§5.2)")
            }
        }
    }
}
