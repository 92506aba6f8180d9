//! [`Node`]: starts the threads of a member, and ends them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::applier::{self, Applier};
use super::config::{NodeConfig, Timing};
use super::configured::SharedMembers;
use super::driver::{Beginning, Driver, Founding};
use super::gate::Gate;
use super::handle::NodeHandle;
use super::identity::{Affiliation, Identity};
use super::leased::Leased;
use super::levels::{Levels, UnknownLevel, unknown_level_words};
use super::peers::{Links, Peers};
use super::persister::Persister;
use super::pipeline::Pipeline;
use super::post::Post;
use super::proto::RaftRpcService;
use super::service::RaftService;
use super::shared::{NodeFailure, PanicGuard, Shared};
use super::snapshotter::{self, Snapshotter};
use super::state_machine::StateMachine;
use super::ticker::Ticker;
use super::watch::Watch;
use crate::ErrorChain;
use crate::raft::{self, Index, Raft, SnapshotMeta, Standing};
use crate::rpc::Service;
use crate::storage::{self, DataDir, Recovered, Snapshots, StorageError, Wal, WalOptions};

/// How often a node checks that its data directory is still there.
const DATA_DIR_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Threads of the stages' own.
const STAGES: usize = 3;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The log cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The snapshot in the data directory is of a
    /// [feature level](super::StateMachine#feature-levels) that this program does not know. A newer
    /// program goes on with this data.
    #[error("{}", unknown_level_words(*level, *known))]
    UnknownLevel {
        /// The level of the snapshot.
        level: u32,
        /// The highest level that this program knows.
        known: u32,
    },
    /// The system gives no more threads.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl From<UnknownLevel> for NodeError {
    fn from(UnknownLevel { level, known }: UnknownLevel) -> NodeError {
        NodeError::UnknownLevel { level, known }
    }
}

/// One member of a cluster, running. Dropping it stops it.
pub struct Node<S: StateMachine> {
    pipeline: Arc<Pipeline<S>>,
    post: Arc<Post>,
    peers: Arc<Peers<S>>,
    shared: Arc<Shared>,
    service: Arc<RaftService>,
    timing: Timing,
    threads: Vec<JoinHandle<()>>,
    /// Dropping it ends the threads that wait for it.
    stop: Option<Sender<()>>,
    /// Held until the log is closed.
    _data_dir: Arc<DataDir>,
}

impl<S: StateMachine> Node<S> {
    /// Starts the member with what its data directory holds.
    ///
    /// # Errors
    /// [`NodeError`] if the data cannot be read or is of an unknown feature level, or the system
    /// gives no threads.
    pub fn start(
        config: NodeConfig,
        data_dir: DataDir,
        mut state_machine: S,
    ) -> Result<Node<S>, NodeError> {
        let (snapshots, snapshot) = Snapshots::open(&data_dir)?;
        let known = config.level_max.unwrap_or(state_machine.level_max());
        let levels = Levels::new(config.id, config.members.membership(), known);
        let loaded = snapshot.as_ref().map(|it| applier::load(&mut state_machine, it)).transpose();
        levels.check(state_machine.level())?;
        loaded?;
        let snapshot_len_bytes = snapshot.as_ref().map_or(0, |snapshot| snapshot.len_bytes());
        let snapshot = snapshot.map(|it| {
            let configuration = it.configuration().cloned();
            raft::Snapshot { meta: it.meta(), configuration }
        });
        let meta = snapshot.as_ref().map(|snapshot| snapshot.meta);
        let (wal, recovered) = Wal::open(&data_dir, WalOptions::default(), meta)?;
        log_recovery(&config, meta, &recovered);
        let raft_config = config.raft(&data_dir);
        let beginning = Beginning {
            standing: raft_config.standing,
            founding: founding(&config, raft_config.standing),
            may_configure: raft_config.may_configure,
        };
        let raft =
            Raft::new(raft_config, recovered.hard_state, snapshot.clone(), recovered.entries);
        let storage::Identity { cluster_id, list_id, .. } = data_dir.identity();
        let identity = Identity::new(config.id, Affiliation { cluster_id, list_id });
        let data_dir = Arc::new(data_dir);

        let members = SharedMembers::new(config.members.clone(), config.detour.clone());
        let watch = Watch::new(config.id, config.members.membership());
        let shared = Arc::new(Shared::new(identity, members, raft.status(), watch, levels));
        shared.snapshot_len_bytes.store(snapshot_len_bytes, Ordering::Relaxed);
        let (to_snapshotter, snapshot_tasks) = bounded(snapshotter::QUEUE_LEN_MAX);
        let leased = Leased::new(state_machine, shared.clone());
        let pipeline = Arc::new(Pipeline::new(to_snapshotter, leased.clone(), shared.clone()));
        let links = Arc::new(Links::default());
        let peers =
            Peers::new(&config, pipeline.clone(), shared.clone(), snapshots.clone(), links.clone());
        let peers = Arc::new(peers);
        let post = Arc::new(Post::new(links, shared.clone()));
        let service = RaftService::new(pipeline.clone(), post.clone(), shared.clone());
        let (stop, stopped) = bounded(0);
        let ticker = Arc::new(Ticker::new(config.timing.tick));
        pipeline.set_workers(
            Driver::new(
                raft,
                beginning,
                post.clone(),
                peers.clone(),
                shared.clone(),
                leased.clone(),
                ticker.clone(),
            ),
            Persister {
                wal,
                data_dir: data_dir.clone(),
                post: post.clone(),
                shared: shared.clone(),
                stop: stopped.clone(),
                snapshot_index: meta.map_or(Index::ZERO, |meta| meta.last_included_index),
                snapshot_rule: config.snapshot_rule(),
                slow_until: None,
                is_finished: false,
            },
            Applier::new(leased, snapshot, shared.clone()),
        );
        let snapshotter = Snapshotter {
            snapshots,
            post: post.clone(),
            shared: shared.clone(),
            stop: stopped.clone(),
            arriving: None,
        };
        let mut node = Node {
            pipeline,
            post,
            peers,
            shared,
            service: Arc::new(service),
            timing: config.timing,
            threads: Vec::new(),
            stop: Some(stop),
            _data_dir: data_dir.clone(),
        };
        let id = config.id;
        // `shut_down` joins them in this order, in which they end.
        node.spawn(format!("raft-{id}"), |pipeline| pipeline.run_core())?;
        node.spawn(format!("wal-{id}"), |pipeline| pipeline.run_log())?;
        node.spawn(format!("apply-{id}"), |pipeline| pipeline.run_applier())?;
        node.spawn(format!("snap-{id}"), move |pipeline| {
            pipeline.run_snapshotter(snapshotter, &snapshot_tasks)
        })?;
        node.peers.meet_listed();
        let (gate, until) = (node.shared.gate.clone(), stopped.clone());
        node.spawn(format!("data-{id}"), move |pipeline| {
            if let Some(failure) = watch_data_dir(&data_dir, &gate, &until) {
                pipeline.fail(failure);
            }
        })?;
        node.spawn(format!("tick-{id}"), move |pipeline| {
            ticker.run(&stopped, || pipeline.tick());
        })?;
        Ok(node)
    }

    /// What the rest of the program uses to talk to the node.
    pub fn handle(&self) -> NodeHandle<S> {
        NodeHandle::new(self.pipeline.clone(), self.shared.clone(), self.timing)
    }

    /// The service that peers call. A server publishes it, and takes frames of
    /// [`FRAME_LEN_MIN`](super::FRAME_LEN_MIN).
    pub fn service(&self) -> impl Service + use<S> {
        RaftRpcService::new(self.service.clone())
    }

    /// Ends all threads. Requests that wait are ended, and what waits for the log is written.
    pub fn stop(mut self) {
        self.shut_down();
    }

    /// From now on the node sends and writes nothing, as if its process were gone. For tests.
    #[cfg(feature = "testing")]
    pub(crate) fn mark_killed(&self) {
        self.shared.is_killed.store(true, Ordering::Release);
        self.shared.gate.open();
    }

    /// Ends all threads as a crash would, without closing anything in order. For tests.
    #[cfg(feature = "testing")]
    pub(crate) fn kill(mut self) {
        self.mark_killed();
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.shared.gate.open();
        self.pipeline.stop();
        self.stop = None;
        // Each stage ends the next one, on its own thread. Some have none if the start failed.
        if self.threads.len() < STAGES {
            self.pipeline.drop_workers();
        }
        for thread in self.threads.drain(..) {
            // The thread's guard has reported a panic.
            let _ = thread.join();
        }
        self.peers.stop();
        self.post.close();
    }

    /// A thread that panics stops the node.
    fn spawn(
        &mut self,
        name: String,
        run: impl FnOnce(&Pipeline<S>) + Send + 'static,
    ) -> Result<(), NodeError> {
        let pipeline = self.pipeline.clone();
        let guarded = move || {
            let _guard = PanicGuard(|failure| pipeline.fail(failure));
            run(&pipeline);
        };
        let thread = thread::Builder::new().name(name).spawn(guarded).map_err(NodeError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl<S: StateMachine> Drop for Node<S> {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn founding(config: &NodeConfig, standing: Standing) -> Founding {
    let is_alone = config.members.len() == 1 && config.members.contains(config.id);
    match is_alone && standing == Standing::New {
        // A peer's thread tries again to connect after two heartbeats.
        true => Founding::Alone { pause_ticks: config.timing.ticks(4 * config.timing.heartbeat) },
        false => Founding::Over,
    }
}

/// Checks the data directory until the node stops, or until the directory is gone. It has a thread
/// of its own because asking a disk may take long.
fn watch_data_dir(data_dir: &DataDir, gate: &Gate, stopped: &Receiver<()>) -> Option<NodeFailure> {
    while stopped.recv_timeout(DATA_DIR_CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        gate.pass();
        if let Err(error) = data_dir.check_in_place() {
            log::error!("this member stops: {}", ErrorChain(&error));
            return Some(NodeFailure::DataDir(error));
        }
    }
    None
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
