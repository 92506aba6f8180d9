//! The stage of the core: takes everything that has arrived, steps the core once, and carries out
//! the effects in their order.
//!
//! A turn never waits for a disk, a socket, a peer or the state machine. So heartbeats leave on
//! time, whatever these do.
//!
//! What the core orders for the log and the state machine goes out as [`CoreOutput`]. Messages go
//! out at once, through [`Post`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::applier::{ApplierTask, PendingProposal};
use super::changes::Changes;
use super::configured::PeerProgress;
use super::inbox::{Arrivals, Inbox, Input, put_keep_alives_first};
use super::joining::{self, Asker, Reminder};
use super::leased::Leased;
use super::peers::Peers;
use super::persister::LogTask;
use super::post::Post;
use super::request::{Proposal, Request, RequestError, Responder};
use super::requests::Requests;
use super::shared::{NodeFailure, Shared};
use super::stage::{Sink, Worker};
use super::state_machine::StateMachine;
use super::ticker::{Passed, Ticker};
use crate::clock;
use crate::raft::{
    AppliedTime, Configured, Effect, Event, Index, MemberId, Raft, RequestId, RoleChange, RoleName,
    Standing, Status,
};
use crate::rpc::Cork;
use crate::storage::Snapshot;

/// How often expired requests are looked for.
const SWEEP_TICKS: u32 = 10;

/// How long a leader waits for the command that raises the feature level, before it tries again.
const RAISE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the outcome of an entry that tells the time is waited for. Nobody needs it.
const TIME_ENTRY_TIMEOUT: Duration = Duration::from_secs(10);

/// How many requests may wait until the leader knows the time.
const HELD_MAX: usize = 16_384;

/// What the core orders from the other stages.
pub(super) enum CoreOutput<S: StateMachine> {
    /// Another turn is due: what the core waits for has happened during this one.
    Again,
    Log(LogTask),
    Applier(ApplierTask<S>),
    /// A peer needs a newer snapshot than there is.
    SnapshotWanted,
    Failed(NodeFailure),
}

type Out<'a, S> = Sink<'a, CoreOutput<S>>;

pub(super) struct Driver<S: StateMachine> {
    raft: Raft,
    post: Arc<Post>,
    peers: Arc<Peers<S>>,
    shared: Arc<Shared>,
    leased: Arc<Leased<S>>,
    ticker: Arc<Ticker>,
    requests: Requests<S>,
    changes: Changes,
    standing: Standing,
    founding: Founding,
    /// Whether the core knows that configurations may be proposed.
    may_configure: bool,
    /// The cluster whose id the data directory has been asked to record.
    recorded_cluster: u64,
    /// What the leader stamps when it knows the time.
    held: Vec<Request<S>>,
    /// A leader's snapshots that arrived in this turn.
    received: Vec<Snapshot>,
    was_leader: bool,
    applied_index: Index,
    /// The reads that went to the applier, and how many of them it had answered at the last look.
    ready_reads: u64,
    answered_reads: u64,
    ticks_since_sweep: u32,
    reminder: Reminder,
}

/// How the core was started.
pub(super) struct Beginning {
    pub(super) standing: Standing,
    pub(super) founding: Founding,
    /// Whether the core knows that configurations may be proposed.
    pub(super) may_configure: bool,
}

/// Whether this member begins a cluster of which it is the only member. It may be one of a larger
/// cluster that has lost its data, and its list may be older than the cluster's growth. So it waits
/// until a leader would have called it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Founding {
    /// It will, unless it finds out that it has data.
    Alone {
        /// How long a leader may take to call.
        pause_ticks: u32,
    },
    /// It has asked nobody, as there is nobody in its list.
    Pausing { left_ticks: u32 },
    /// It does not, or has.
    Over,
}

impl<S: StateMachine> Worker for Driver<S> {
    type Queue = Inbox<S>;
    type Output = CoreOutput<S>;

    fn turn(&mut self, arrivals: Arrivals<S>, out: &mut Out<'_, S>) {
        self.shared.gate.pass();
        // A member that is being killed sends nothing more. Even answers would come too late for
        // their sockets.
        if !self.shared.is_killed() {
            let _cork = Cork::new();
            self.step(arrivals, out);
        }
    }

    fn panicked(&self) -> CoreOutput<S> {
        let id = self.raft.status().id;
        CoreOutput::Failed(NodeFailure::Panicked(format!("raft-{id}")))
    }
}

impl<S: StateMachine> Driver<S> {
    pub(super) fn new(
        raft: Raft,
        Beginning { standing, founding, may_configure }: Beginning,
        post: Arc<Post>,
        peers: Arc<Peers<S>>,
        shared: Arc<Shared>,
        leased: Arc<Leased<S>>,
        ticker: Arc<Ticker>,
    ) -> Driver<S> {
        Driver {
            raft,
            post,
            peers,
            shared,
            leased,
            ticker,
            requests: Requests::new(),
            changes: Changes::default(),
            standing,
            founding,
            may_configure,
            recorded_cluster: 0,
            held: Vec::new(),
            received: Vec::new(),
            was_leader: false,
            applied_index: Index::ZERO,
            ready_reads: 0,
            answered_reads: 0,
            ticks_since_sweep: 0,
            reminder: Reminder::default(),
        }
    }

    /// Ends the requests that the core still has.
    pub(super) fn end(self) {
        self.requests.end();
        let stopped = RequestError::Stopped { may_apply: false };
        self.held.into_iter().for_each(|request| request.refuse(stopped));
    }

    fn step(&mut self, arrivals: Arrivals<S>, out: &mut Out<'_, S>) {
        let now = Instant::now();
        let passed = self.ticker.begin_turn(arrivals.has_ticked, now);
        let events = self.events(arrivals.inputs, passed, now, out);
        let effects = self.raft.step(events);
        self.leased.publish(self.raft.lease_end_us(), self.raft.status().commit_index);
        self.carry_out(effects, out);
        assert!(!self.requests.has_proposals(), "the core answers a proposal in its own step");
        self.received.clear();
        self.wait_for_answers(out);
        self.publish_status(now);
        self.ticker.end_turn(self.raft.calm_ticks());
        if passed.ticks() > 0 {
            self.publish_progress();
            self.sweep(now, out);
        }
    }

    /// What has happened since the last turn.
    fn events(
        &mut self,
        mut inputs: Vec<Input<S>>,
        passed: Passed,
        now: Instant,
        out: &mut Out<'_, S>,
    ) -> Vec<Event> {
        self.found(&inputs, passed.ticks(), out);
        self.ticks_since_sweep += passed.ticks();
        let mut events = Vec::with_capacity(inputs.len() + 4);
        // The clock is read after the reads of this turn have arrived: a lease that is valid now is
        // valid for them.
        let clock_us = clock::boot_time().as_micros() as u64;
        events.push(Event::Clock(clock_us));
        let (time, applied) = self.applied();
        events.extend(time.map(|(time, is_anew)| Event::AppliedTime { time, is_anew }));
        events.extend(applied.map(Event::Applied));
        events.push(self.unanswered());
        // What has arrived came after these.
        events.extend((0..passed.before).map(|_| Event::Tick));
        if !self.held.is_empty() {
            inputs.splice(..0, std::mem::take(&mut self.held).into_iter().map(Input::Request));
        }
        // A stamp may end leases. So what keeps them alive goes first, also what is held back.
        let news = time.map(|(time, _)| time);
        let is_any_due_soon = self.raft.is_any_due_soon(clock_us, news);
        if is_any_due_soon && inputs.iter().any(Input::ends_what_is_due) {
            put_keep_alives_first(&mut inputs);
            events.extend(self.held_back(true, now, out));
        }
        events.extend(inputs.into_iter().filter_map(|input| self.event(input, now, out)));
        if passed.ticks() > 0 {
            events.extend(self.transfer_if_diverged(now));
            events.extend(self.raise_level(now));
            events.extend(self.allow_configurations());
            // Behind what keeps leases alive.
            let is_time_due = self.raft.is_time_due(clock_us, news);
            events.extend(self.held_back(is_any_due_soon, now, out));
            events.extend(self.tell_time(is_time_due, now));
        }
        // The last one, so that a leader's message that has arrived counts before it.
        events.extend(passed.is_one_behind.then_some(Event::Tick));
        events.extend(self.requests.refresh(now));
        events
    }

    /// How far the state machine has come since the last turn: what it says of the time, and
    /// whether it does so anew, and the last entry that it has applied. No thread wakes the core
    /// for these: the next turn is soon enough.
    fn applied(&mut self) -> (Option<(AppliedTime, bool)>, Option<Index>) {
        // The index is read first, because the time is published first.
        let applied = Index(self.shared.applied_index.load(Ordering::Acquire));
        let is_news = applied > std::mem::replace(&mut self.applied_index, applied);
        (self.shared.take_time_news(), is_news.then_some(applied))
    }

    /// How many reads the applier has still to answer.
    fn unanswered(&mut self) -> Event {
        self.answered_reads = self.shared.reads.answered();
        Event::Unanswered((self.ready_reads - self.answered_reads) as usize)
    }

    /// If the core holds reads back until others are answered, has it step again when they are.
    fn wait_for_answers(&self, out: &mut Out<'_, S>) {
        let is_waiting = self.raft.holds_reads();
        self.shared.reads.set_waited_for(is_waiting);
        if is_waiting && self.shared.reads.answered() != self.answered_reads {
            out(CoreOutput::Again);
        }
    }

    /// A leader whose state is wrong hands the leadership over.
    fn transfer_if_diverged(&self, now: Instant) -> Option<Event> {
        if !self.was_leader {
            return None;
        }
        self.shared.watch.transfer_if_diverged(now).map(|to| Event::Transfer { to })
    }

    /// A leader raises the feature level when all members know a higher one. If the state machine
    /// is busy, a later turn is soon enough.
    fn raise_level(&mut self, now: Instant) -> Option<Event> {
        if !self.was_leader {
            return None;
        }
        let levels = &self.shared.levels;
        let level = levels.begin_raise(self.raft.status().role.term)?;
        let shared = self.shared.clone();
        let responder = Responder::new(now + RAISE_TIMEOUT, move |_| shared.levels.raise_ended());
        // Dropped without a command, the responder ends the attempt.
        let command = self.leased.try_level_command(level)?;
        log::debug!("all members know feature level {level}: it is proposed");
        Some(self.requests.propose(command, responder))
    }

    /// Configurations may be proposed once the applied state is at the level of those who know
    /// them.
    fn allow_configurations(&mut self) -> Option<Event> {
        let is_allowed = self.shared.levels.applied().unwrap_or(0) >= S::configurations_level();
        let is_news = is_allowed && !std::mem::replace(&mut self.may_configure, is_allowed);
        is_news.then_some(Event::MayConfigure)
    }

    /// The command that was held back until now. `must_go`: something is due soon.
    fn held_back(&mut self, must_go: bool, now: Instant, out: &mut Out<'_, S>) -> Option<Event> {
        let Proposal { command, deadline, callback } = self.leased.held_back(must_go, now)?;
        let responder = Responder::new(deadline, callback);
        self.request(Request::Propose { command, responder }, now, out)
    }

    /// A leader tells the time when something is due, and now and then. Nothing ends while it
    /// refuses what would keep it alive.
    fn tell_time(&mut self, is_due: bool, now: Instant) -> Option<Event> {
        let is_refusing =
            self.shared.is_disk_full.load(Ordering::Acquire) || self.shared.watch.is_diverged();
        if is_refusing || !is_due {
            return None;
        }
        // If it fails, it is due again.
        let responder = Responder::new(now + TIME_ENTRY_TIMEOUT, |_| {});
        Some(self.requests.propose_time(S::time_command(), responder))
    }

    fn event(&mut self, input: Input<S>, now: Instant, out: &mut Out<'_, S>) -> Option<Event> {
        Some(match input {
            Input::Request(request) => return self.request(request, now, out),
            Input::Message(message) => Event::Message(message),
            Input::Persisted(id) => Event::Persisted(id),
            Input::Disconnected(peer) => Event::Disconnected(peer),
            Input::Transfer(to) => Event::Transfer { to },
            #[cfg(feature = "testing")]
            Input::Campaign => Event::Campaign,
            Input::DiskFull(is_full) => Event::DiskFull(is_full),
            Input::Joined => Event::Joined,
            Input::Change { change, callback } => {
                let id = self.requests.next_id();
                self.changes.request(id, change, callback)
            }
            Input::SnapshotTaken(meta) => Event::SnapshotTaken(meta),
            Input::SnapshotReceived { message, snapshot } => {
                self.received.push(*snapshot);
                Event::Message(message)
            }
        })
    }

    fn request(
        &mut self,
        request: Request<S>,
        now: Instant,
        out: &mut Out<'_, S>,
    ) -> Option<Event> {
        match request {
            Request::Propose { responder, .. } if responder.is_expired(now) => {
                responder.respond(Err(RequestError::TimedOut { may_apply: false }));
                None
            }
            request @ Request::Propose { .. } if self.must_wait(&request) => {
                match self.held.len() < HELD_MAX {
                    true => self.held.push(request),
                    false => request.refuse(RequestError::Busy),
                }
                None
            }
            Request::Propose { command, responder } if S::is_stamped(&command) => {
                Some(self.requests.propose_stamped(command, responder))
            }
            Request::Propose { command, responder } => {
                Some(self.requests.propose(command, responder))
            }
            Request::Read { query, responder } => Some(self.requests.read(query, responder)),
            Request::ReadStale { query, age_max, responder } => {
                out(CoreOutput::Applier(ApplierTask::ReadStale { query, age_max, responder }));
                None
            }
        }
    }

    /// A leader knows the time once its no-op is applied. What it has to stamp waits until then.
    fn must_wait(&self, request: &Request<S>) -> bool {
        let is_stamped =
            matches!(request, Request::Propose { command, .. } if S::is_stamped(command));
        is_stamped && self.raft.awaits_time()
    }

    fn carry_out(&mut self, effects: Vec<Effect>, out: &mut Out<'_, S>) {
        let mut proposed = Vec::new();
        for effect in effects {
            match effect {
                Effect::Proposed { id, index, .. }
                    if self.changes.begun(id, index, self.raft.status().role.term) => {}
                Effect::Proposed { id, index, term } => {
                    let responder = self.requests.take_proposal(id);
                    let responder = responder.expect("the core answers proposals in their order");
                    proposed.push(PendingProposal { index, term, responder });
                }
                // First the proposals of this turn, as the loss of the leadership ends them.
                Effect::RoleChanged(role) => {
                    expect(&mut proposed, out);
                    self.role_changed(role, out);
                }
                Effect::Send(message) => self.post.send(message),
                Effect::Persist(persist) => out(CoreOutput::Log(LogTask::Persist(persist))),
                Effect::ReleaseLog(index) => out(CoreOutput::Log(LogTask::Release(index))),
                Effect::SendSnapshot { to, term } => self.post.send_snapshot(to, term),
                Effect::TakeSnapshot => out(CoreOutput::SnapshotWanted),
                Effect::Install(meta) => {
                    let received = self.received.iter().find(|snapshot| snapshot.meta() == meta);
                    let snapshot =
                        received.expect("the core installs what has just arrived").clone();
                    out(CoreOutput::Applier(ApplierTask::Install(snapshot)));
                }
                Effect::Apply(entries) => {
                    expect(&mut proposed, out);
                    out(CoreOutput::Applier(ApplierTask::Apply(entries)));
                }
                Effect::ReadReady(ids) => self.read_ready(ids, out),
                Effect::Joined => self.joined(out),
                Effect::TakeCluster { cluster_id, list_id, standing } => {
                    self.take_cluster(cluster_id);
                    out(CoreOutput::Log(LogTask::TakeCluster { cluster_id, list_id, standing }));
                }
                Effect::ClusterKnown(cluster_id) => {
                    // The core is told anew, at the level of the cluster.
                    self.may_configure = false;
                    self.cluster_known(cluster_id, out);
                }
                Effect::Introduced(configuration) => self.peers.meet_more(&configuration),
                Effect::Reconfigured(configured) => self.reconfigured(configured, out),
                Effect::Removed => out(CoreOutput::Failed(NodeFailure::Removed)),
                Effect::Rejected { id, reason } if self.changes.rejected(id, reason) => {}
                Effect::Rejected { id, reason } => self.requests.reject(id, reason),
                Effect::PeerLostData { peer, match_index } => log::error!(
                    "member {peer} has lost data: it had acknowledged the log up to entry \
                     {match_index} and now lacks it; it is sent everything again. If nobody is \
                     rebuilding it, check its disk"
                ),
            }
        }
        expect(&mut proposed, out);
    }

    fn read_ready(&mut self, ids: Vec<RequestId>, out: &mut Out<'_, S>) {
        if let Some(begun) = self.requests.take_refresh(&ids) {
            out(CoreOutput::Applier(ApplierTask::FreshAsOf(begun)));
        }
        let reads = self.requests.take_reads(ids);
        self.ready_reads += reads.len() as u64;
        out(CoreOutput::Applier(ApplierTask::Read(reads)));
    }

    /// While this member is about to begin a cluster alone: does so once nobody has called it for
    /// long enough, and not at all if somebody has.
    fn found(&mut self, inputs: &[Input<S>], passed_ticks: u32, out: &mut Out<'_, S>) {
        let Founding::Pausing { left_ticks } = &mut self.founding else { return };
        *left_ticks = left_ticks.saturating_sub(passed_ticks);
        let is_over = *left_ticks == 0;
        let callers = inputs.iter().filter_map(|input| match input {
            Input::Message(message) => Some(message.from),
            _ => None,
        });
        if let Some(caller) = callers.chain(self.shared.identity.called_by()).next() {
            self.founding = Founding::Over;
            out(CoreOutput::Failed(NodeFailure::NotAlone(caller)));
        } else if is_over {
            self.founding = Founding::Over;
            self.joined(out);
        }
    }

    fn joined(&mut self, out: &mut Out<'_, S>) {
        if let Founding::Alone { pause_ticks } = self.founding {
            self.founding = Founding::Pausing { left_ticks: pause_ticks };
            let id = self.raft.status().id;
            log::info!("member {id} begins a cluster of its own unless another member calls it");
            return;
        }
        log::info!("member {} has all its data: it votes from now on", self.raft.status().id);
        out(CoreOutput::Log(LogTask::Joined));
    }

    fn take_cluster(&self, cluster_id: u64) {
        log::info!(
            "member {} has no data, and belongs to cluster {cluster_id:016x}: it joins that cluster",
            self.raft.status().id
        );
    }

    /// The members are others than before, or are committed now.
    fn reconfigured(&mut self, configured: Configured, out: &mut Out<'_, S>) {
        self.peers.meet_configured(&configured);
        if let Some(latest) = &configured.latest {
            self.shared.watch.set_members(latest.membership.clone());
            self.shared.levels.set_members(latest.membership.clone());
        }
        if let Some(committed) = &configured.committed {
            self.cluster_known(committed.cluster_id, out);
        }
        log_members(self.raft.status().id, &configured);
        self.shared.members.set(configured);
    }

    /// The first configuration is committed, or all others have named the cluster.
    fn cluster_known(&mut self, cluster_id: u64, out: &mut Out<'_, S>) {
        if std::mem::replace(&mut self.recorded_cluster, cluster_id) == cluster_id {
            return;
        }
        out(match self.shared.identity.learn(cluster_id) {
            true => CoreOutput::Log(LogTask::RecordCluster(cluster_id)),
            false => CoreOutput::Failed(NodeFailure::OtherCluster(cluster_id)),
        });
    }

    fn role_changed(&mut self, role: RoleChange, out: &mut Out<'_, S>) {
        let RoleChange { role, term, leader } = role;
        let id = self.raft.status().id;
        match (role, leader) {
            (RoleName::Leader, _) => log::info!("member {id} leads in term {term}"),
            (_, Some(leader)) => log::info!("member {id} follows member {leader} in term {term}"),
            (role, None) => {
                log::info!("member {id} is {} in term {term}, no leader known", role.as_str())
            }
        }
        let is_leader = role == RoleName::Leader;
        if std::mem::replace(&mut self.was_leader, is_leader) && !is_leader {
            out(CoreOutput::Applier(ApplierTask::LeadershipLost(leader)));
        }
    }

    /// Publishes the status, and logs what keeps this member from its work.
    fn publish_status(&mut self, now: Instant) {
        let status = self.raft.status();
        let before: Status = std::mem::replace(&mut *self.shared.status.lock(), status);
        let id = status.id;
        match (before.is_disk_stalled, status.is_disk_stalled) {
            (false, true) => log::error!(
                "member {id}: no write has reached the disk for longer than an election takes; \
                 until one does, this member does not stand for election"
            ),
            (true, false) => log::info!("member {id}: the disk works again"),
            _ => {}
        }
        let asker = Asker {
            id,
            affiliation: self.shared.identity.affiliation(),
            is_newcomer: self.standing == Standing::Newcomer,
        };
        let obstacle =
            status.is_joining.then(|| joining::obstacle(asker, self.raft.join_answers()));
        // A founder waits for nobody.
        if let (Some(obstacle), Founding::Over) = (&obstacle, &self.founding) {
            self.reminder.remind(id, obstacle, now);
        }
        if before.is_joining || status.is_joining {
            *self.shared.obstacle.lock() = obstacle;
        }
    }

    /// How far the others are, while this member leads.
    fn publish_progress(&self) {
        let progress = self.raft.progress().map(|(id, peer)| {
            let (match_index, is_heard) = (peer.match_index, peer.is_heard);
            (id, PeerProgress { match_index, is_heard, snapshot: None })
        });
        self.shared.members.set_progress(progress.collect());
    }

    /// Ends requests and calls whose deadline has passed.
    fn sweep(&mut self, now: Instant, out: &mut Out<'_, S>) {
        if self.ticks_since_sweep < SWEEP_TICKS {
            return;
        }
        self.ticks_since_sweep = 0;
        self.requests.end_expired_reads(now);
        self.post.sweep(now);
        self.peers.sweep(now);
        // Nobody waits for an entry that is applied.
        if self.applied_index < self.raft.status().last_index {
            out(CoreOutput::Applier(ApplierTask::Sweep));
        }
    }
}

/// For operators.
fn log_members(own: MemberId, Configured { latest, committed, .. }: &Configured) {
    let Some(latest) = latest else { return };
    let words = |ids: &mut dyn Iterator<Item = MemberId>| {
        let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
        if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
    };
    let membership = &latest.membership;
    let (voters, learners) = (words(&mut membership.voters()), words(&mut membership.learners()));
    let state = match committed.as_ref() == Some(latest) {
        true => "committed",
        false => "in the log",
    };
    let joint = if membership.is_joint() { ", changing" } else { "" };
    log::info!("member {own}: voters {voters}, learners {learners}{joint} ({state})");
}

/// Tells the applier of the proposals that are now in the log.
fn expect<S: StateMachine>(proposed: &mut Vec<PendingProposal<S::Outcome>>, out: &mut Out<'_, S>) {
    if !proposed.is_empty() {
        out(CoreOutput::Applier(ApplierTask::Expect(std::mem::take(proposed))));
    }
}
