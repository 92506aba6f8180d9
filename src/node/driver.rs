//! The stage of the core: takes all that has arrived, steps the core once, and carries out the
//! effects in their order.
//!
//! A turn never waits for a disk, a socket, a peer or the state machine, so heartbeats leave on
//! time whatever these do.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::StateMachine;
use super::applier::{Expected, Task};
use super::inbox::{Arrivals, Input, Waiters};
use super::joining::{self, Reminder};
use super::persister::Write;
use super::pipeline::Pipeline;
use super::post::Post;
use super::request::{RequestError, Waiting};
use super::shared::{NodeFailure, Shared};
use super::stage::Worker;
use crate::clock;
use crate::raft::{
    Effect, Event, Index, Raft, Rejection, RequestId, RoleChange, RoleName, Status, Term,
};
use crate::rpc::Cork;
use crate::storage::Snapshot;

/// Ticks between looks for requests whose deadline has passed.
const SWEEP_TICKS: u32 = 10;

/// Between reads of a member's own: so old may a state be that nobody else reads from, and that
/// keeps up.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Driver<S: StateMachine> {
    pub(super) raft: Raft,
    pub(super) pipeline: Arc<Pipeline<S>>,
    pub(super) post: Arc<Post>,
    pub(super) shared: Arc<Shared>,
    pub(super) requests: Requests<S>,
    /// Snapshots of a leader's that arrived in this turn.
    pub(super) received: Vec<Snapshot>,
    pub(super) is_lease_on: bool,
    pub(super) reminder: Reminder,
}

/// The requests that the core knows by number.
pub(super) struct Requests<S: StateMachine> {
    last_id: u64,
    proposals: HashMap<RequestId, Waiting<S::Outcome>>,
    reads: HashMap<RequestId, (S::Query, Waiting<S::Answer>)>,
    applied_index: Index,
    ticks_since_sweep: u32,
    was_leader: bool,
    /// A read of this member's own, and when it began.
    probe: Option<(RequestId, Duration)>,
    probe_due: Option<Instant>,
}

impl<S: StateMachine> Default for Requests<S> {
    fn default() -> Requests<S> {
        Requests {
            last_id: 0,
            proposals: HashMap::new(),
            reads: HashMap::new(),
            applied_index: Index::ZERO,
            ticks_since_sweep: 0,
            was_leader: false,
            probe: None,
            probe_due: None,
        }
    }
}

impl<S: StateMachine> Worker for Driver<S> {
    type Queue = Waiters<S>;

    fn turn(&mut self, arrivals: Arrivals<S>) {
        self.shared.gate.pass();
        // Nothing leaves a member that is being killed, not even answers: they would come too late
        // for their sockets.
        if !self.shared.is_killed() {
            let _cork = Cork::new();
            self.step(arrivals);
        }
    }

    fn panicked(&self) {
        let id = self.raft.status().id;
        self.shared.fail(NodeFailure::Panicked(format!("raft-{id}")));
        self.pipeline.stop();
    }
}

impl<S: StateMachine> Driver<S> {
    /// Ends the requests that the core still has.
    pub(super) fn end(self) {
        let requests = self.requests;
        let stopped = RequestError::Stopped { may_apply: false };
        requests.proposals.into_values().for_each(|waiting| waiting.end(Err(stopped)));
        requests.reads.into_values().for_each(|(_, waiting)| waiting.end(Err(stopped)));
    }

    fn step(&mut self, Arrivals { inputs, has_ticked }: Arrivals<S>) {
        let now = Instant::now();
        let mut events: Vec<Event> = Vec::with_capacity(inputs.len() + 4);
        // After the reads of this turn have arrived: what a lease says of this moment holds for
        // them.
        events
            .extend(self.is_lease_on.then(|| Event::Clock(clock::boot_time().as_micros() as u64)));
        events.extend(self.applied());
        events.extend(inputs.into_iter().filter_map(|input| self.event(input, now)));
        // Last, so that a leader's message that has arrived counts before the time that passed.
        events.extend(has_ticked.then_some(Event::Tick));
        events.extend(self.requests.probe(now));
        let effects = self.raft.step(events);
        self.carry_out(effects);
        self.received.clear();
        let status = self.raft.status();
        let before = std::mem::replace(&mut *self.shared.status.lock(), status);
        self.tell(before, status, now);
        if has_ticked {
            self.sweep(now);
        }
    }

    /// How far the state machine has come since the last turn. Nobody wakes this thread for it: the
    /// next tick is soon enough.
    fn applied(&mut self) -> Option<Event> {
        let applied = Index(self.shared.applied_index.load(Ordering::Acquire));
        (applied > std::mem::replace(&mut self.requests.applied_index, applied))
            .then_some(Event::Applied(applied))
    }

    fn event(&mut self, input: Input<S>, now: Instant) -> Option<Event> {
        match input {
            Input::Propose { waiting, .. } if waiting.is_expired(now) => {
                waiting.end(Err(RequestError::TimedOut { may_apply: false }));
                None
            }
            Input::Propose { command, waiting } => {
                let id = self.requests.next_id();
                self.requests.proposals.insert(id, waiting);
                Some(Event::Propose { id, command })
            }
            Input::Read { query, waiting } => {
                let id = self.requests.next_id();
                self.requests.reads.insert(id, (query, waiting));
                Some(Event::Read { id })
            }
            Input::Message(message) => Some(Event::Message(message)),
            Input::Persisted(id) => Some(Event::Persisted(id)),
            Input::Disconnected(peer) => Some(Event::Disconnected(peer)),
            Input::Transfer(to) => Some(Event::Transfer { to }),
            Input::DiskFull(is_full) => Some(Event::DiskFull(is_full)),
            Input::Joined => Some(Event::Joined),
            Input::OtherCluster { peer, other } => Some(Event::OtherCluster { peer, other }),
            Input::ReadStale { query, age_max, waiting } => {
                self.pipeline.task(Task::ReadStale { query, age_max, waiting });
                None
            }
            Input::TakeSnapshot => {
                self.pipeline.take_snapshot();
                None
            }
            Input::SnapshotTaken(meta) => {
                self.pipeline.write(Write::Release(meta.last_included_index));
                Some(Event::SnapshotTaken(meta))
            }
            Input::SnapshotReceived { message, snapshot } => {
                self.received.push(*snapshot);
                Some(Event::Message(message))
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut proposed = Vec::new();
        for effect in effects {
            match effect {
                Effect::Proposed { id, index, term } => {
                    proposed.extend(self.requests.proposed(id, index, term))
                }
                // The proposals of this turn are told before the leadership could be: their order
                // decides who waits.
                Effect::RoleChanged(role) => {
                    self.expect(&mut proposed);
                    self.role_changed(role);
                }
                Effect::Send(message) => self.post.send(message),
                Effect::Persist(persist) => self.pipeline.write(Write::Persist(persist)),
                Effect::SendSnapshot { to, term } => self.post.send_snapshot(to, term),
                Effect::Install(meta) => {
                    let received = self.received.iter().find(|snapshot| snapshot.meta() == meta);
                    let snapshot =
                        received.expect("the core installs what has just arrived").clone();
                    self.pipeline.task(Task::Install(snapshot));
                }
                Effect::Apply(entries) => {
                    self.expect(&mut proposed);
                    self.pipeline.task(Task::Apply(entries));
                }
                Effect::ReadReady(ids) => self.read_ready(ids),
                Effect::Joined => self.joined(),
                Effect::TakeCluster(cluster_id) => self.take_cluster(cluster_id),
                Effect::Rejected { id, reason } => self.requests.reject(id, reason),
                Effect::PeerLostData { peer, match_index } => log::error!(
                    "member {peer} has lost data: it had acknowledged the log up to {match_index} and refuses it now; \
                     it is filled again. If it is not being rebuilt on purpose, check its disk"
                ),
            }
        }
        self.expect(&mut proposed);
    }

    fn read_ready(&mut self, ids: Vec<RequestId>) {
        if let Some((_, begun)) = self.requests.probe.take_if(|(id, _)| ids.contains(id)) {
            self.pipeline.task(Task::FreshAsOf(begun));
        }
        self.pipeline.task(Task::Read(self.requests.take_reads(ids)));
    }

    fn joined(&mut self) {
        log::info!("member {} has all its data: it votes from now on", self.raft.status().id);
        self.pipeline.write(Write::Joined);
    }

    fn take_cluster(&mut self, cluster_id: u64) {
        log::info!(
            "member {} has no data, and all others are of cluster {cluster_id:016x}: it joins that cluster",
            self.raft.status().id
        );
        self.pipeline.write(Write::TakeCluster(cluster_id));
    }

    fn expect(&mut self, proposed: &mut Vec<Expected<S::Outcome>>) {
        if !proposed.is_empty() {
            self.pipeline.task(Task::Expect(std::mem::take(proposed)));
        }
    }

    fn role_changed(&mut self, RoleChange { role, term, leader }: RoleChange) {
        let id = self.raft.status().id;
        match (role, leader) {
            (RoleName::Leader, _) => log::info!("member {id} leads in term {term}"),
            (_, Some(leader)) => log::info!("member {id} follows member {leader} in term {term}"),
            (role, None) => {
                log::info!("member {id} is {} in term {term}, no leader known", role.as_str())
            }
        }
        let is_leader = role == RoleName::Leader;
        if std::mem::replace(&mut self.requests.was_leader, is_leader) && !is_leader {
            self.pipeline.task(Task::LeadershipLost(leader));
        }
    }

    /// What keeps this member from doing all of its work, in words.
    fn tell(&mut self, before: Status, status: Status, now: Instant) {
        let id = status.id;
        match (before.is_disk_stalled, status.is_disk_stalled) {
            (false, true) => log::error!(
                "member {id}: nothing has reached the disk for longer than an election takes; until it does this member does \
                 not stand for election"
            ),
            (true, false) => log::info!("member {id}: the disk works again"),
            _ => {}
        }
        let obstacle = status.is_joining.then(|| joining::obstacle(self.raft.join_answers()));
        if let Some(obstacle) = &obstacle {
            self.reminder.tell(id, obstacle, now);
        }
        if before.is_joining || status.is_joining {
            *self.shared.obstacle.lock() = obstacle.map(|obstacle| obstacle.words);
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.requests.ticks_since_sweep += 1;
        if self.requests.ticks_since_sweep < SWEEP_TICKS {
            return;
        }
        self.requests.ticks_since_sweep = 0;
        let expired = self.requests.reads.extract_if(|_, (_, waiting)| waiting.is_expired(now));
        expired.for_each(|(_, (_, waiting))| {
            waiting.end(Err(RequestError::TimedOut { may_apply: false }))
        });
        self.post.sweep(now);
        self.pipeline.task(Task::Sweep);
        if self.requests.was_leader
            && let Some(to) = self.shared.watch.hand_over(now)
        {
            self.pipeline.inbox.report(Input::Transfer(to));
        }
    }
}

impl<S: StateMachine> Requests<S> {
    fn next_id(&mut self) -> RequestId {
        self.last_id += 1;
        RequestId(self.last_id)
    }

    /// A read of its own, now and then: it tells how fresh the state is that stale reads are served
    /// from.
    fn probe(&mut self, now: Instant) -> Option<Event> {
        if self.probe_due.is_some_and(|due| now < due) {
            return None;
        }
        self.probe_due = Some(now + PROBE_PAUSE);
        let id = self.next_id();
        self.probe = Some((id, clock::boot_time()));
        Some(Event::Read { id })
    }

    fn proposed(
        &mut self,
        id: RequestId,
        index: Index,
        term: Term,
    ) -> Option<Expected<S::Outcome>> {
        self.proposals.remove(&id).map(|waiting| Expected { index, term, waiting })
    }

    /// The reads among `ids` whose deadline has not passed meanwhile.
    fn take_reads(&mut self, ids: Vec<RequestId>) -> Vec<(S::Query, Waiting<S::Answer>)> {
        ids.into_iter().filter_map(|id| self.reads.remove(&id)).collect()
    }

    fn reject(&mut self, id: RequestId, reason: Rejection) {
        let error = match reason {
            Rejection::NotLeader(leader) => RequestError::NotLeader { leader },
            Rejection::Busy => RequestError::Busy,
        };
        if let Some(waiting) = self.proposals.remove(&id) {
            waiting.end(Err(error));
        }
        if let Some((_, waiting)) = self.reads.remove(&id) {
            waiting.end(Err(error));
        }
    }
}
