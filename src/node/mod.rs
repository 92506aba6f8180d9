//! The shell that drives one Raft core: threads, queues, disk and network around a pure function.
//!
//! ```text
//!   clients ──propose, read──┐                      ┌─> peers ──calls──> other members ──answers──> inbox
//!   peers' calls ────────────┤                      │
//!   ticks ───────────────────┼─> inbox ─> core ─────┼─> log: one write, one fdatasync ──> persisted ──> inbox
//!   connections that close ──┘                      │                                └──> replies, vote requests
//!                                                   └─> applier: the state machine ──> clients' callbacks
//! ```
//! Core, log and applier are stages (`stage`): a queue and a worker. What a thread brings, it sees
//! through itself as far as it may (`pipeline`), so that work need not be handed from thread to
//! thread; each stage's own thread does what is left.
//!
//! # Threads
//! | name | does | waits for |
//! | --- | --- | --- |
//! | `raft-N` | steps the core, where nobody else has | being called |
//! | `wal-N` | writes the log, if this member leads | the disk |
//! | `apply-N` | applies entries, where nobody else has | being called |
//! | `tick-N` | steps the core at each tick | the clock |
//! | `snap-N` | snapshots being written, or arriving | the disk |
//! | `data-N` | looks whether the data directory is still there | the clock |
//! | `peer-N-M` | keeps the connection to member M | the network |
//! | `snap-N-M` | a snapshot on its way to member M; only meanwhile | the network |
//! | those of connections and channels (`rpc`) | what they bring: step, apply, answer; a leader's entries they also write | their sockets |
//!
//! # Invariants
//! - Each stage has one worker, which does one batch at a time of all that has arrived; effects are carried out in order.
//! - What a `Persist` says `then` leaves after its fdatasync, from the thread that did it.
//! - Nobody waits for a worker that is busy: its next batch is what is left there.
//! - A thread that carries heartbeats, votes or the clock never waits for the disk and never applies entries.
//! - Clients' callbacks run on whichever of these threads: they must not block.
//! - A member whose state is not that of a majority answers from it no more ([`NodeHandle::divergence`]).
//! - Every request ends: with its outcome, a refusal, its deadline, or the node's stop.
//! - A panic in any stage, a failed write, or a data directory that is taken away stops the node and is told by [`NodeHandle::failure`].

mod applier;
mod complaints;
mod config;
mod divergence;
mod driver;
mod gate;
mod inbox;
mod joining;
mod peer;
mod persister;
mod pipeline;
mod post;
mod proto;
mod request;
mod service;
mod shared;
mod snapshot_sender;
mod snapshotter;
mod stage;
mod state_machine;
mod watch;
mod wire;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

pub use config::{NodeConfig, ReadMode, Timing};
pub use divergence::Divergence;
pub(crate) use gate::Gate;
pub use request::{RequestError, Stale};
pub use shared::NodeFailure;
pub use state_machine::{StateMachine, StateView};

use applier::Applier;
use driver::{Driver, Requests};
use inbox::Input;
use joining::{Affiliation, Reminder};
use peer::{Link, Links, Peer};
use persister::Persister;
use pipeline::{Errand, Pipeline};
use post::Post;
use proto::RaftRpcService;
use request::Waiting;
use service::RaftService;
use shared::{PanicGuard, Shared};
use snapshotter::{Chunk, Snapshotter};
use watch::Watch;

use crate::ErrorChain;
use crate::raft::{
    self, Index, MemberId, Message, OtherCluster, Raft, RoleName, SnapshotMeta, Standing, Status,
};
use crate::rpc::{self, Service};
use crate::storage::{DataDir, Recovered, Snapshots, StorageError, Wal, WalOptions};

/// The longest command: with what is around it, it fits in a frame of [`FRAME_LEN_MIN`].
pub const COMMAND_LEN_MAX: usize = (15 << 20) + (128 << 10);
/// A server that publishes a node takes frames at least this long, or members cannot send each
/// other every entry.
pub const FRAME_LEN_MIN: usize = 16 << 20;

/// How often a node looks whether its data directory is still there.
const DATA_DIR_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Threads that the stages have.
const STAGES: usize = 3;

/// What the network brings to the core.
trait Mailbox: Send + Sync {
    /// False if there is no place for it.
    fn message(&self, message: Message) -> bool;
    /// The connection to `peer` has closed, or a call to it failed.
    fn disconnected(&self, peer: MemberId);
    /// `peer` was asked where it stands, and is of another cluster.
    fn other_cluster(&self, peer: MemberId, other: OtherCluster);
    /// Sees through what was brought.
    fn attend(&self, errand: Errand);
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The log cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The system gives no more threads.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// One member of a cluster, running. Dropping it stops it.
pub struct Node<S: StateMachine> {
    handle: NodeHandle<S>,
    threads: Vec<JoinHandle<()>>,
    /// Threads that wait for it end when it is dropped.
    stop: Option<Sender<()>>,
    service: Arc<RaftService>,
    /// Held until the log is closed.
    _data_dir: Arc<DataDir>,
}

/// How the rest of the program talks to a node. Clones are the same node.
pub struct NodeHandle<S: StateMachine> {
    pipeline: Arc<Pipeline<S>>,
    shared: Arc<Shared>,
}

impl<S: StateMachine> Clone for NodeHandle<S> {
    fn clone(&self) -> NodeHandle<S> {
        NodeHandle { pipeline: self.pipeline.clone(), shared: self.shared.clone() }
    }
}

impl<S: StateMachine> NodeHandle<S> {
    /// Replicates `command`; `callback` gets the outcome once it is committed and applied here, or
    /// why there is none. It runs once, maybe on this thread, and must not block. A command is at
    /// most [`COMMAND_LEN_MAX`] bytes long.
    pub fn propose(
        &self,
        command: Bytes,
        deadline: Instant,
        callback: impl FnOnce(Result<S::Outcome, RequestError>) + Send + 'static,
    ) {
        self.propose_soon(command, deadline, callback);
        self.attend();
    }

    /// The same, once [`attend`](NodeHandle::attend) is called: many that have arrived together are
    /// proposed together.
    pub(crate) fn propose_soon(
        &self,
        command: Bytes,
        deadline: Instant,
        callback: impl FnOnce(Result<S::Outcome, RequestError>) + Send + 'static,
    ) {
        let waiting = Waiting::new(deadline, callback);
        match self.refusal(command.len()) {
            Some(refusal) => waiting.end(Err(refusal)),
            None => self.pipeline.inbox.propose(command, waiting),
        }
    }

    /// Sees through what is to be done soon.
    pub(crate) fn attend(&self) {
        self.pipeline.attend(Errand::Request);
    }

    /// Why a command of this length cannot be proposed here, whatever the core says. Only a leader
    /// refuses for its disk: the others know who leads.
    fn refusal(&self, len_bytes: usize) -> Option<RequestError> {
        if len_bytes > COMMAND_LEN_MAX {
            return Some(RequestError::TooLarge { len_bytes });
        }
        if self.shared.watch.is_diverged() {
            return Some(RequestError::Diverged { may_apply: false });
        }
        let is_leader = || self.status().role.role == RoleName::Leader;
        (self.is_disk_full() && is_leader()).then_some(RequestError::DiskFull)
    }

    /// Answers `query` from a state that holds every write that was acknowledged before this call
    /// (thesis §6.4). `callback` as for [`propose`](NodeHandle::propose).
    pub fn read(
        &self,
        query: S::Query,
        deadline: Instant,
        callback: impl FnOnce(Result<S::Answer, RequestError>) + Send + 'static,
    ) {
        self.read_soon(query, deadline, callback);
        self.attend();
    }

    /// The same, once [`attend`](NodeHandle::attend) is called.
    pub(crate) fn read_soon(
        &self,
        query: S::Query,
        deadline: Instant,
        callback: impl FnOnce(Result<S::Answer, RequestError>) + Send + 'static,
    ) {
        let waiting = Waiting::new(deadline, callback);
        match self.shared.watch.is_diverged() {
            true => waiting.end(Err(RequestError::Diverged { may_apply: false })),
            false => self.pipeline.inbox.read(query, waiting),
        }
    }

    /// Answers `query` from the state as this member has it, leader or not, connected or not, if it
    /// is known to be no older than `age_max`; `None` allows any age. `callback` as for
    /// [`propose`](NodeHandle::propose); [`TooStale`](RequestError::TooStale) says that a
    /// [`read`](NodeHandle::read) is needed.
    pub fn read_stale(
        &self,
        query: S::Query,
        age_max: Option<Duration>,
        deadline: Instant,
        callback: impl FnOnce(Result<Stale<S::Answer>, RequestError>) + Send + 'static,
    ) {
        let waiting = Waiting::new(deadline, callback);
        match self.shared.watch.is_diverged() {
            true => waiting.end(Err(RequestError::Diverged { may_apply: false })),
            false => self.pipeline.inbox.read_stale(query, age_max, waiting),
        }
        self.attend();
    }

    /// If this member leads, hands the leadership over: to `to`, or to the peer that is furthest
    /// (thesis §3.10). Whether it comes to pass shows in [`status`](NodeHandle::status); after an
    /// election timeout without effect the leader goes on.
    pub fn transfer(&self, to: Option<MemberId>) {
        self.pipeline.report(Input::Transfer(to));
    }

    /// Asks for a snapshot now, whatever the log's length; it shows in
    /// [`status`](NodeHandle::status) when it is there. Nothing if one is under way, nothing was
    /// applied since the last one, or this member has [gone astray](NodeHandle::divergence).
    pub fn take_snapshot(&self) {
        self.pipeline.report(Input::TakeSnapshot);
    }

    /// Where this member stands.
    pub fn status(&self) -> Status {
        *self.shared.status.lock()
    }

    /// The last entry that the state machine has applied.
    pub fn applied_index(&self) -> Index {
        Index(self.shared.applied_index.load(Ordering::Acquire))
    }

    /// The [digest](StateMachine::digest) of the applied state, and the entry up to which that
    /// goes; `None` if the state machine has none. Members that say the same index say the same
    /// digest, or have gone apart.
    pub fn digest(&self) -> Option<(Index, u64)> {
        self.shared.watch.newest().map(|newest| (newest.index, newest.digest))
    }

    /// How this member's state differs from that of a majority, if it is known to. Then it refuses
    /// reads and writes, takes and sends no snapshots, and hands the leadership over; its log is in
    /// order, so it goes on as a voter. It should be stopped and rebuilt; a restart alone applies
    /// its log anew, and may end the same way.
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

    /// Why this member does not vote yet, in words, while [`Status::is_joining`].
    pub fn joining_words(&self) -> Option<String> {
        self.shared.obstacle.lock().clone()
    }

    /// Holds the node's threads while it is closed; for tests.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.shared.gate
    }

    /// Why the node stopped by itself, if it did.
    pub fn failure(&self) -> Option<NodeFailure> {
        self.shared.failure()
    }
}

impl<S: StateMachine> Node<S> {
    /// Starts the member with what its data directory holds.
    ///
    /// # Errors
    /// [`NodeError`] if the log cannot be read, or no thread be had.
    pub fn start(
        config: NodeConfig,
        data_dir: DataDir,
        state_machine: S,
    ) -> Result<Node<S>, NodeError> {
        let affiliation = Affiliation {
            cluster_id: data_dir.identity().cluster_id,
            list_id: config.list_id,
            came_new: data_dir.standing() == Standing::New,
        };
        let mut state_machine = state_machine;
        let (snapshots, snapshot) = Snapshots::open(&data_dir)?;
        if let Some(snapshot) = &snapshot {
            applier::load(&mut state_machine, snapshot)?;
        }
        let snapshot_len_bytes = snapshot.as_ref().map_or(0, |snapshot| snapshot.len_bytes());
        let meta = snapshot.map(|snapshot| snapshot.meta());
        let (wal, recovered) = Wal::open(&data_dir, WalOptions::default(), meta)?;
        log_recovery(&config, meta, &recovered);
        let raft_config = raft::Config { standing: data_dir.standing(), ..config.raft() };
        let raft = Raft::new(raft_config, recovered.hard_state, meta, recovered.entries);
        let data_dir = Arc::new(data_dir);

        let watch = Watch::new(config.id, config.members.membership());
        let shared = Arc::new(Shared::new(raft.status(), watch));
        shared.snapshot_len_bytes.store(snapshot_len_bytes, Ordering::Relaxed);
        let pipeline = Arc::new(Pipeline::new(shared.clone()));
        let handle = NodeHandle { pipeline: pipeline.clone(), shared: shared.clone() };
        let (links, peers) = peers(&config, affiliation, &pipeline, &snapshots, &shared);
        let post = Arc::new(Post::new(links, shared.clone()));
        let (to_snapshot, snapshot_tasks) = bounded(snapshotter::QUEUE_LEN_MAX);
        let take_chunk = Box::new(chunk_taker(to_snapshot.clone()));
        let service = RaftService::new(
            affiliation,
            pipeline.clone(),
            post.clone(),
            shared.clone(),
            take_chunk,
        );
        let service = Arc::new(service);
        let (stop, stopped) = bounded(0);
        let mut node = Node {
            handle,
            threads: Vec::new(),
            stop: Some(stop),
            service,
            _data_dir: data_dir.clone(),
        };

        let id = config.id;
        let checked = data_dir.clone();
        let fail = node.on_failure();
        let applier = Applier::new(state_machine, meta, to_snapshot, shared.clone(), fail);
        pipeline.applier.employ(applier);
        pipeline.log.employ(Persister {
            wal,
            data_dir,
            pipeline: pipeline.clone(),
            post: post.clone(),
            shared: shared.clone(),
            stop: stopped.clone(),
            snapshot_index: meta.map_or(Index::ZERO, |meta| meta.last_included_index),
            snapshot_log_bytes: config.own_snapshot_log_bytes(),
            slow_until: None,
            has_failed: false,
        });
        pipeline.inbox.stage().employ(Driver {
            raft,
            pipeline: pipeline.clone(),
            post: post.clone(),
            shared: shared.clone(),
            requests: Requests::default(),
            received: Vec::new(),
            is_lease_on: config.read_mode == ReadMode::Lease,
            reminder: Reminder::default(),
        });
        // In this order: each ends after the one before it has.
        let of_stage = pipeline.clone();
        node.spawn(format!("raft-{id}"), move || of_stage.run_core())?;
        let of_stage = pipeline.clone();
        node.spawn(format!("wal-{id}"), move || of_stage.run_log())?;
        let of_stage = pipeline.clone();
        node.spawn(format!("apply-{id}"), move || of_stage.run_applier())?;
        let snapshotter = Snapshotter {
            snapshots,
            pipeline: pipeline.clone(),
            post,
            shared,
            stop: stopped.clone(),
            arriving: None,
        };
        node.spawn(format!("snap-{id}"), move || snapshotter.run(snapshot_tasks))?;
        for peer in peers {
            let stopped = stopped.clone();
            node.spawn(format!("peer-{id}-{}", peer.id()), move || peer.run(stopped))?;
        }
        let (gate, fail, until) = (node.handle.gate().clone(), node.on_failure(), stopped.clone());
        node.spawn(format!("data-{id}"), move || watch_data_dir(&checked, &gate, fail, &until))?;
        let tick = config.timing.tick;
        node.spawn(format!("tick-{id}"), move || run_ticker(&pipeline, tick, &stopped))?;
        Ok(node)
    }

    /// For the rest of the program to talk to it.
    pub fn handle(&self) -> NodeHandle<S> {
        self.handle.clone()
    }

    /// The service that peers call, to be published by a server that takes frames of
    /// [`FRAME_LEN_MIN`].
    pub fn service(&self) -> impl Service + use<S> {
        RaftRpcService::new(self.service.clone())
    }

    /// Ends all threads: requests that wait are ended, what is being written is written.
    pub fn stop(mut self) {
        self.shut_down();
    }

    /// From now on it says and writes nothing, as if its process were gone; for tests.
    #[cfg(feature = "testing")]
    pub(crate) fn silence(&self) {
        self.handle.shared.is_killed.store(true, Ordering::Release);
        self.handle.gate().open();
    }

    /// Ends all threads as a crash would, without tidying up; for tests.
    #[cfg(feature = "testing")]
    pub(crate) fn kill(mut self) {
        self.silence();
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.handle.gate().open();
        self.handle.pipeline.stop();
        self.stop = None;
        // Where threads are missing that would end the others, as the system had none to give.
        if self.threads.len() < STAGES {
            self.handle.pipeline.dismiss();
        }
        for thread in self.threads.drain(..) {
            // A panic was already told by the thread's guard.
            let _ = thread.join();
        }
        self.service.post.close();
    }

    /// What a thread does that cannot go on: the node ends with it.
    fn on_failure(&self) -> impl Fn(NodeFailure) + Send + 'static {
        let NodeHandle { pipeline, shared } = self.handle.clone();
        move |failure| {
            shared.fail(failure);
            pipeline.stop();
        }
    }

    fn spawn(
        &mut self,
        name: String,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), NodeError> {
        let fail = self.on_failure();
        let guarded = move || {
            let _guard = PanicGuard(fail);
            run();
        };
        self.threads
            .push(thread::Builder::new().name(name).spawn(guarded).map_err(NodeError::Thread)?);
        Ok(())
    }
}

impl<S: StateMachine> Drop for Node<S> {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// The ways to the others, and who keeps them open.
fn peers<S: StateMachine>(
    config: &NodeConfig,
    affiliation: Affiliation,
    pipeline: &Arc<Pipeline<S>>,
    snapshots: &Snapshots,
    shared: &Arc<Shared>,
) -> (Links, Vec<Peer>) {
    let others = config.members.iter().filter(|&(id, _)| id != config.id);
    let with = |(id, addr): (MemberId, &str)| {
        let mailbox: Arc<dyn Mailbox> = pipeline.clone();
        let timing = config.timing;
        let (link, orders) =
            Link::new(config.id, id, addr, affiliation, timing, mailbox, shared.clone());
        let link = Arc::new(link);
        ((id, link.clone()), Peer::new(link, orders, snapshots.clone()))
    };
    others.map(with).unzip()
}

/// Hands chunks to the thread that writes them; one that finds no place is sent again.
fn chunk_taker<V: Send + 'static>(
    tasks: Sender<snapshotter::Task<V>>,
) -> impl Fn(Chunk) + Send + Sync {
    move |chunk| {
        if let Err(error) = tasks.try_send(snapshotter::Task::Chunk(chunk))
            && let snapshotter::Task::Chunk(chunk) = error.into_inner()
        {
            let busy = "this member is busy with another snapshot";
            chunk.done.fail(rpc::Status::busy(busy, Duration::from_millis(100)));
        }
    }
}

fn run_ticker<S: StateMachine>(pipeline: &Pipeline<S>, tick: Duration, stopped: &Receiver<()>) {
    while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
        pipeline.inbox.tick();
        pipeline.attend(Errand::Clock);
    }
}

/// On a thread of its own: to ask a disk may take long.
fn watch_data_dir(
    data_dir: &DataDir,
    gate: &Gate,
    fail: impl Fn(NodeFailure),
    stopped: &Receiver<()>,
) {
    while stopped.recv_timeout(DATA_DIR_CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        gate.pass();
        if let Err(error) = data_dir.check_in_place() {
            log::error!("this member stops: {}", ErrorChain(&error));
            return fail(NodeFailure::DataDir(error));
        }
    }
}

fn log_recovery(config: &NodeConfig, snapshot: Option<SnapshotMeta>, recovered: &Recovered) {
    let from = snapshot.map_or(Index::ZERO, |snapshot| snapshot.last_included_index);
    log::info!(
        "member {} recovered term {}, a snapshot up to entry {from} and {} entries behind it",
        config.id,
        recovered.hard_state.current_term,
        recovered.entries.len()
    );
}
