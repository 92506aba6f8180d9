//! The stage of the log: writes everything that waits with one write and one fdatasync (group
//! commit), and only then sends what may be sent.
//!
//! The stage waits while the disk is full. Nothing is acknowledged meanwhile, and proposals are
//! refused. It also waits for file descriptors, which looks to the core like a disk that hangs. Any
//! other failure is final: a failed fsync may have dropped data, and a later fsync would still
//! succeed. So nothing is tried again, and the member stops.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::config::SnapshotRule;
use super::post::Post;
use super::shared::{NodeFailure, Shared};
use super::stage::{Sink, Worker};
use crate::ErrorChain;
use crate::raft::{Index, Persist, PersistId, Standing};
use crate::rpc::Cork;
use crate::storage::{DataDir, StorageError, Wal};

/// Most bytes of entries in one write: a bound on how long the first of them waits for the last.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// After a longer turn, only the log's own thread writes for a while. A connection's thread that
/// waits for the disk answers no pings, and its connection looks dead.
const TURN_MAX: Duration = Duration::from_millis(100);
const SLOW_FOR: Duration = Duration::from_secs(10);
/// How long to wait before the next attempt to write to a full disk, or without a file descriptor.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(200);

/// What the core orders from the log. What waits is bounded by how much the core leaves
/// uncommitted, and by how much a leader has on its way.
pub(super) enum LogTask {
    Persist(Persist),
    /// A snapshot holds everything up to here.
    Release(Index),
    /// The member has all its data, and votes from now on.
    Joined,
    /// The member has no data, and belongs to this cluster.
    TakeCluster {
        cluster_id: u64,
        list_id: u64,
        standing: Standing,
    },
    /// The first configuration is committed, and names the cluster.
    RecordCluster(u64),
}

/// What the log reports.
pub(super) enum LogOutput {
    /// This write and all before it are on the disk.
    Persisted(PersistId),
    DiskFull(bool),
    /// [`LogTask::Joined`] is on the disk.
    Joined,
    /// The log has grown past its limit since the last snapshot.
    SnapshotWanted,
    Failed(NodeFailure),
}

type Out<'a> = Sink<'a, LogOutput>;

pub(super) struct Persister {
    pub(super) wal: Wal,
    pub(super) data_dir: Arc<DataDir>,
    pub(super) post: Arc<Post>,
    pub(super) shared: Arc<Shared>,
    /// Closes when the node stops.
    pub(super) stop: Receiver<()>,
    /// The last entry that the newest snapshot holds.
    pub(super) snapshot_index: Index,
    /// When the next one is wanted.
    pub(super) snapshot_rule: SnapshotRule,
    /// A turn took long. Until this moment the next one is expected to take long, too.
    pub(super) slow_until: Option<Instant>,
    /// Nothing is written any more: the disk has failed, or the node stopped while it was full, or
    /// the log is to be begun anew.
    pub(super) is_finished: bool,
}

impl Worker for Persister {
    type Queue = Vec<LogTask>;
    type Output = LogOutput;

    fn turn(&mut self, tasks: Vec<LogTask>, out: &mut Out<'_>) {
        self.shared.gate.pass();
        if self.shared.is_killed() || self.is_finished {
            return;
        }
        let started = Instant::now();
        let result = self.write(tasks, out);
        let ended = Instant::now();
        if ended - started > TURN_MAX {
            self.slow_until = Some(ended + SLOW_FOR);
        }
        let is_slow = self.slow_until.is_some_and(|until| ended < until);
        self.shared.is_disk_slow.store(is_slow, Ordering::Relaxed);
        if let Err(error) = result {
            log::error!("the log failed, this member stops: {}", ErrorChain(&error));
            self.is_finished = true;
            out(LogOutput::Failed(NodeFailure::Storage(error)));
        }
    }

    fn panicked(&self) -> LogOutput {
        let id = self.shared.status.lock().id;
        LogOutput::Failed(NodeFailure::Panicked(format!("wal-{id}")))
    }
}

impl Persister {
    /// Writes what is left, and closes the log.
    pub(super) fn end(mut self, left: Vec<LogTask>, out: &mut Out<'_>) {
        self.turn(left, out);
        if !self.shared.is_killed() && !self.is_finished {
            self.wal.close();
        }
    }

    /// Does everything in order. Writes that follow each other become one.
    fn write(&mut self, tasks: Vec<LogTask>, out: &mut Out<'_>) -> Result<(), StorageError> {
        let mut tasks = tasks.into_iter().peekable();
        while let Some(task) = tasks.next().filter(|_| !self.is_finished) {
            match task {
                LogTask::Release(index) => self.release(index)?,
                LogTask::Joined => self.joined(out)?,
                LogTask::TakeCluster { cluster_id, list_id, standing } => {
                    self.take_cluster(cluster_id, list_id, standing, out)?;
                }
                LogTask::RecordCluster(cluster_id) => self.record_cluster(cluster_id, out)?,
                LogTask::Persist(first) => {
                    let more = || {
                        tasks.next_if_map(|task| match task {
                            LogTask::Persist(persist) => Ok(persist),
                            other => Err(other),
                        })
                    };
                    self.write_batch(first, more, out)?;
                }
            }
        }
        if self.is_snapshot_wanted() {
            out(LogOutput::SnapshotWanted);
        }
        Ok(())
    }

    fn write_batch(
        &mut self,
        first: Persist,
        mut more: impl FnMut() -> Option<Persist>,
        out: &mut Out<'_>,
    ) -> Result<(), StorageError> {
        let (mut batch, mut bytes, mut next) = (Vec::new(), 0, Some(first));
        while let Some(persist) = next {
            bytes += self.append(&persist, out)?;
            batch.push(persist);
            next = if !self.is_finished && bytes < BATCH_BYTES_MAX { more() } else { None };
        }
        if self.is_finished || !self.sync(out)? {
            return Ok(());
        }
        let last = batch.last().map_or(PersistId::default(), |persist| persist.id);
        self.shared.gate.pass();
        // First, so that the core knows of this member's own promise before a peer can react to it.
        out(LogOutput::Persisted(last));
        let _cork = Cork::new();
        let messages = batch.into_iter().flat_map(|persist| persist.then);
        messages.for_each(|message| self.post.send(message));
        Ok(())
    }

    /// Gives back the segments that hold nothing but what a snapshot holds. A transient error here
    /// is not a reason to fail.
    fn release(&mut self, index: Index) -> Result<(), StorageError> {
        self.snapshot_index = self.snapshot_index.max(index);
        self.shared.end_snapshot(true);
        match self.wal.release_through(index) {
            Err(error) if error.is_transient() => {
                log::warn!("{}", ErrorChain(&error));
                Ok(())
            }
            result => result,
        }
    }

    fn joined(&mut self, out: &mut Out<'_>) -> Result<(), StorageError> {
        let data_dir = self.data_dir.clone();
        if self.wait_for_space(|_| data_dir.mark_joined(), out)? {
            out(LogOutput::Joined);
        }
        Ok(())
    }

    /// This is the last write: the log is that of the other cluster. It is empty, and the next
    /// start begins it anew.
    fn take_cluster(
        &mut self,
        cluster_id: u64,
        list_id: u64,
        standing: Standing,
        out: &mut Out<'_>,
    ) -> Result<(), StorageError> {
        let data_dir = self.data_dir.clone();
        let take = |_: &mut Wal| data_dir.take_cluster(cluster_id, list_id, standing);
        if self.wait_for_space(take, out)? {
            self.is_finished = true;
            out(LogOutput::Failed(NodeFailure::ClusterTaken(cluster_id)));
        }
        Ok(())
    }

    fn record_cluster(&mut self, cluster_id: u64, out: &mut Out<'_>) -> Result<(), StorageError> {
        let data_dir = self.data_dir.clone();
        self.wait_for_space(|_| data_dir.record_cluster(cluster_id), out).map(drop)
    }

    /// Whether the log has grown past its limit since the last snapshot.
    fn is_snapshot_wanted(&self) -> bool {
        let snapshot_len_bytes = self.shared.snapshot_len_bytes.load(Ordering::Relaxed);
        let limit = self.snapshot_rule.log_len_max_bytes(snapshot_len_bytes);
        // A snapshot names the cluster.
        let is_named = self.shared.identity.affiliation().cluster_id != 0;
        is_named && self.wal.len_bytes_after(self.snapshot_index) >= limit
    }

    fn append(&mut self, persist: &Persist, out: &mut Out<'_>) -> Result<usize, StorageError> {
        if let Some(snapshot) = persist.reset {
            self.snapshot_index = snapshot.last_included_index;
            self.wal.append(persist.hard_state, &[])?;
            if !self.sync(out)? || !self.wait_for_space(|wal| wal.reset(snapshot), out)? {
                return Ok(0);
            }
        }
        if persist.hard_state.is_some() || !persist.entries.is_empty() {
            self.wal.append(persist.hard_state, &persist.entries)?;
        }
        Ok(persist.entries.iter().map(|entry| entry.len_bytes()).sum())
    }

    /// False if the node stopped while the disk was full.
    fn sync(&mut self, out: &mut Out<'_>) -> Result<bool, StorageError> {
        self.wait_for_space(Wal::sync, out)
    }

    /// Tries until there is space, and a file descriptor. False if the node stopped meanwhile.
    fn wait_for_space(
        &mut self,
        mut write: impl FnMut(&mut Wal) -> Result<(), StorageError>,
        out: &mut Out<'_>,
    ) -> Result<bool, StorageError> {
        let mut has_warned = false;
        loop {
            let result = write(&mut self.wal);
            let is_full = matches!(&result, Err(error) if error.is_full());
            let was_full = self.shared.is_disk_full.swap(is_full, Ordering::AcqRel);
            if was_full != is_full {
                out(LogOutput::DiskFull(is_full));
            }
            match result {
                Ok(()) if has_warned => {
                    log::info!("the log is written again");
                    return Ok(true);
                }
                Ok(()) => return Ok(true),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) if !has_warned => log::error!("{}", ErrorChain(&error)),
                Err(_) => {}
            }
            has_warned = true;
            let is_over =
                self.stop.recv_timeout(FULL_DISK_PAUSE) == Err(RecvTimeoutError::Disconnected);
            if is_over || self.shared.is_killed() {
                self.is_finished = true;
                return Ok(false);
            }
        }
    }
}
