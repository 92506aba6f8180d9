//! [`NodeHandle`]: how the rest of the program talks to a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::changes::ChangeError;
use super::config::{COMMAND_LEN_MAX, Timing};
use super::configured::{Members, PeerProgress};
use super::divergence::Divergence;
#[cfg(feature = "testing")]
use super::gate::Gate;
use super::inbox::Input;
use super::mailbox::MayDo;
use super::pipeline::Pipeline;
use super::request::{Proposal, Request, RequestError, Responder, Stale};
use super::shared::{NodeFailure, Shared};
use super::state_machine::{Observer, StateMachine};
use crate::members::Members as Addresses;
use crate::raft::{Change, Index, MemberId, RoleName, STAMP_LEN_BYTES, Status, Term};

/// How the rest of the program talks to a node. Clones belong to the same node.
pub struct NodeHandle<S: StateMachine> {
    pipeline: Arc<Pipeline<S>>,
    shared: Arc<Shared>,
    timing: Timing,
}

impl<S: StateMachine> Clone for NodeHandle<S> {
    fn clone(&self) -> NodeHandle<S> {
        let (pipeline, shared) = (self.pipeline.clone(), self.shared.clone());
        NodeHandle { pipeline, shared, timing: self.timing }
    }
}

impl<S: StateMachine> NodeHandle<S> {
    pub(super) fn new(
        pipeline: Arc<Pipeline<S>>,
        shared: Arc<Shared>,
        timing: Timing,
    ) -> NodeHandle<S> {
        NodeHandle { pipeline, shared, timing }
    }

    /// Replicates `command`. `callback` gets the outcome once the command is committed and applied
    /// here, or the reason why there is none. It runs once, possibly on this thread, and must not
    /// block. A command is at most [`COMMAND_LEN_MAX`] bytes long, with the leader's time if it
    /// gets one.
    pub fn propose(
        &self,
        command: Bytes,
        deadline: Instant,
        callback: impl FnOnce(Result<S::Outcome, RequestError>) + Send + 'static,
    ) {
        self.queue_proposal(command, deadline, callback);
        self.run_pending();
    }

    /// Like [`propose`](NodeHandle::propose), but only queues the proposal until
    /// [`run_pending`](NodeHandle::run_pending) is called: proposals that arrive together become
    /// one batch.
    pub(crate) fn queue_proposal(
        &self,
        command: Bytes,
        deadline: Instant,
        callback: impl FnOnce(Result<S::Outcome, RequestError>) + Send + 'static,
    ) {
        let responder = Responder::new(deadline, callback);
        let stamp_len = if S::is_stamped(&command) { STAMP_LEN_BYTES } else { 0 };
        match self.refusal(command.len() + stamp_len) {
            Some(refusal) => responder.respond(Err(refusal)),
            None => self.pipeline.push_request(Request::Propose { command, responder }),
        }
    }

    /// In each turn before which a tick has passed, and so at least with each heartbeat, what
    /// `waiting` returns is proposed: a command that has been held back. It is told whether
    /// something is due soon by the cluster's time, and then is also asked before anything gets a
    /// stamp. The command comes before that, and before the entry that tells the time. It is also
    /// told the time of the turn. The first call counts.
    pub(crate) fn at_each_tick(
        &self,
        waiting: impl Fn(bool, Instant) -> Option<Proposal<S::Outcome>> + Send + Sync + 'static,
    ) {
        self.pipeline.at_each_tick(waiting);
    }

    /// Does what is queued, on this thread if no other one is doing it.
    pub(crate) fn run_pending(&self) {
        self.pipeline.run_pending(MayDo::Apply);
    }

    /// Why a command of this length cannot be proposed here, whatever the core says. Only a leader
    /// refuses because of its disk: a follower knows who leads.
    fn refusal(&self, len_bytes: usize) -> Option<RequestError> {
        if len_bytes > COMMAND_LEN_MAX {
            return Some(RequestError::TooLarge { len_bytes });
        }
        let is_leader = || self.status().role.role == RoleName::Leader;
        match self.read_refusal() {
            None if self.is_disk_full() && is_leader() => Some(RequestError::DiskFull),
            refusal => refusal,
        }
    }

    fn read_refusal(&self) -> Option<RequestError> {
        let is_diverged = self.shared.watch.is_diverged();
        is_diverged.then_some(RequestError::Diverged { may_apply: false })
    }

    /// Answers `query` from a state that holds every write that was acknowledged before this call
    /// (thesis §6.4). `callback` as for [`propose`](NodeHandle::propose).
    pub fn read(
        &self,
        query: S::Query,
        deadline: Instant,
        callback: impl FnOnce(Result<S::Answer, RequestError>) + Send + 'static,
    ) {
        self.queue_read(query, deadline, callback);
        self.run_pending();
    }

    /// Like [`read`](NodeHandle::read), but only queues the read until
    /// [`run_pending`](NodeHandle::run_pending) is called.
    pub(crate) fn queue_read(
        &self,
        query: S::Query,
        deadline: Instant,
        callback: impl FnOnce(Result<S::Answer, RequestError>) + Send + 'static,
    ) {
        let responder = Responder::new(deadline, callback);
        match self.read_refusal() {
            Some(refusal) => responder.respond(Err(refusal)),
            None => self.pipeline.push_read(query, responder),
        }
    }

    /// Answers `query` from this member's state, leader or not, connected or not, if the state is
    /// known to be no older than `age_max`; `None` allows any age. `callback` as for
    /// [`propose`](NodeHandle::propose). After [`TooStale`](RequestError::TooStale), a
    /// [`read`](NodeHandle::read) is needed.
    pub fn read_stale(
        &self,
        query: S::Query,
        age_max: Option<Duration>,
        deadline: Instant,
        callback: impl FnOnce(Result<Stale<S::Answer>, RequestError>) + Send + 'static,
    ) {
        let responder = Responder::new(deadline, callback);
        match self.read_refusal() {
            Some(refusal) => responder.respond(Err(refusal)),
            None => self.pipeline.push_request(Request::ReadStale { query, age_max, responder }),
        }
        self.run_pending();
    }

    /// From now on `observer` is told what happens to the state machine, until the node ends.
    pub fn observe(&self, observer: Arc<dyn Observer<S>>) {
        self.pipeline.observe(observer);
    }

    /// Runs `look` on the state as it is, whatever its age, on this thread: it waits for the entry
    /// that is being applied, and the next entry waits for it. So `look` should take microseconds.
    /// `None`: the node has ended or failed, or this member has
    /// [diverged](NodeHandle::divergence).
    pub fn inspect<T>(&self, look: impl FnOnce(&S) -> T) -> Option<T> {
        self.pipeline.inspect(look)
    }

    /// The times of Raft that the node was started with.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// If this member leads, hands the leadership over to `to`, or to the peer with the longest log
    /// (thesis §3.10). The result shows in [`status`](NodeHandle::status). After an election
    /// timeout without effect the leader goes on.
    pub fn transfer(&self, to: Option<MemberId>) {
        self.pipeline.report(Input::Transfer(to));
    }

    /// If this member leads, begins a change of the members (thesis §4). `callback` is told where
    /// the change stands in the log, or why it was not begun; it runs once, possibly on this
    /// thread, and must not block. The change is done when [`members`](NodeHandle::members) show it
    /// as committed.
    pub fn change_members(
        &self,
        change: Change,
        callback: impl FnOnce(Result<(Index, Term), ChangeError>) + Send + 'static,
    ) {
        self.pipeline.change_members(change, Box::new(callback));
    }

    /// Who the members are, as far as this member knows.
    pub fn members(&self) -> Members {
        self.shared.members.members()
    }

    /// All members and the addresses that clients use: those of the configuration in force, or of
    /// the list with which this member was started while there is none.
    pub fn addresses(&self) -> Addresses {
        self.shared.members.addresses()
    }

    /// Where this member reaches another one, if it knows such a member.
    pub fn reach(&self, id: MemberId) -> Option<String> {
        self.shared.members.reach(id)
    }

    /// Waits until the members are as wanted. `None`: the deadline passed first.
    pub fn wait_for_members(
        &self,
        deadline: Instant,
        is_wanted: impl Fn(&Members) -> bool,
    ) -> Option<Members> {
        self.shared.members.wait(deadline, is_wanted)
    }

    /// If this member leads: how far each other member is, as of the last heartbeat or later.
    /// Otherwise empty.
    pub fn progress(&self) -> BTreeMap<MemberId, PeerProgress> {
        self.shared.members.progress()
    }

    /// Others have said that this member was removed from its cluster: it fails as one that has
    /// learned this by itself ([`NodeFailure::Removed`]).
    pub(crate) fn mark_removed(&self) {
        self.pipeline.fail(NodeFailure::Removed);
    }

    /// The id of the cluster; 0 while this member does not know it.
    pub fn cluster_id(&self) -> u64 {
        self.shared.identity.affiliation().cluster_id
    }

    /// Asks for this member's election now, without waiting for its election timeout: for a cluster
    /// that has just started as a whole. Does nothing if the member hears a leader, stands already,
    /// or may not stand.
    #[cfg(feature = "testing")]
    pub(crate) fn campaign(&self) {
        self.pipeline.report(Input::Campaign);
    }

    /// Takes a snapshot now, whatever the log's length. It shows in [`status`](NodeHandle::status)
    /// when it is on the disk. Does nothing while another one is being taken or shortly after one
    /// has failed, if nothing was applied since the last one, or if this member has
    /// [diverged](NodeHandle::divergence).
    pub fn take_snapshot(&self) {
        self.pipeline.take_snapshot();
    }

    /// Where this member stands.
    pub fn status(&self) -> Status {
        *self.shared.status.lock()
    }

    /// How long ago the newest stamp was applied here, or was loaded with a snapshot. What is due
    /// can be estimated with it; only an entry of the log tells the time.
    pub fn since_stamp(&self) -> Duration {
        self.shared.since_stamp()
    }

    /// See [`Shared::served`].
    pub(crate) fn served(&self) -> u64 {
        self.shared.served()
    }

    /// The last entry that the state machine has applied.
    pub fn applied_index(&self) -> Index {
        Index(self.shared.applied_index.load(Ordering::Acquire))
    }

    /// The [digest](StateMachine::digest) of the applied state, and the last entry in it; `None` if
    /// the state machine has no digest. Members with the same index and different digests have
    /// diverged.
    pub fn digest(&self) -> Option<(Index, u64)> {
        self.shared.watch.newest().map(|newest| (newest.index, newest.digest))
    }

    /// The [feature level](StateMachine#feature-levels) of the applied state; `None` if the state
    /// machine has none.
    pub fn level(&self) -> Option<u32> {
        self.shared.levels.applied()
    }

    /// The highest [feature level](StateMachine#feature-levels) that this member's program knows.
    pub fn level_max(&self) -> u32 {
        self.shared.levels.own_announcement()
    }

    /// If this member leads: the highest feature level that each member has announced to it in this
    /// term, which is 0 for one that has announced none yet. The lowest holds the others back.
    /// Otherwise empty.
    pub fn announced_levels(&self) -> BTreeMap<MemberId, u32> {
        let role = self.status().role;
        match role.role {
            RoleName::Leader => self.shared.levels.all_announced(role.term),
            _ => BTreeMap::new(),
        }
    }

    /// How this member's state differs from that of a majority, if it is known to. Such a member
    /// refuses reads and writes, takes and sends no snapshots, and hands the leadership over. Its
    /// log is in order, so it goes on as a voter. It should be stopped and rebuilt: a restart alone
    /// applies its log again, and may end the same way.
    pub fn divergence(&self) -> Option<Divergence> {
        self.shared.watch.divergence()
    }

    /// If this member leads: the members whose state it has found to differ from that of a
    /// majority.
    pub fn different_members(&self) -> Vec<MemberId> {
        match self.status().role.role {
            RoleName::Leader => self.shared.watch.different(),
            _ => Vec::new(),
        }
    }

    /// Whether writes wait for space on this member's disk.
    pub fn is_disk_full(&self) -> bool {
        self.shared.is_disk_full.load(Ordering::Acquire)
    }

    /// Why this member does not vote yet, as text, while [`Status::is_joining`].
    pub fn joining_words(&self) -> Option<String> {
        self.shared.obstacle.lock().as_ref().map(|obstacle| obstacle.words.clone())
    }

    /// If this member was started to join a cluster that exists, and nobody has added it yet: the
    /// ids of the clusters of those who have answered it.
    pub fn waits_to_be_added(&self) -> Option<BTreeSet<u64>> {
        self.shared.obstacle.lock().as_ref().and_then(|obstacle| obstacle.newcomer_of.clone())
    }

    /// Holds the node's threads while it is closed. For tests.
    #[cfg(feature = "testing")]
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.shared.gate
    }

    /// Why the node stopped by itself, if it did.
    pub fn failure(&self) -> Option<NodeFailure> {
        self.shared.failure()
    }
}
