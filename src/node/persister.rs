//! The stage of the log: what waits is written by one write and one fdatasync (group commit), and
//! only then is said what may be said.
//!
//! A full disk is waited out: nothing is acknowledged meanwhile, and proposals are refused. So is a
//! want of file descriptors, which looks to the core like a disk that hangs. Any other failure is
//! final: a failed fsync may have dropped the data that a later one would claim to have written, so
//! it is never tried again, and the member stops.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::StateMachine;
use super::inbox::Input;
use super::pipeline::Pipeline;
use super::post::Post;
use super::shared::{NodeFailure, Shared};
use super::stage::Worker;
use crate::ErrorChain;
use crate::raft::{Index, Persist, PersistId};
use crate::rpc::Cork;
use crate::storage::{DataDir, StorageError, Wal};

/// Most bytes of entries in one write: bounds how long the first of them waits for the last.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// A large state is written out less often: at most so much of it for each byte of the log.
const STATE_BYTES_PER_LOG_BYTE: u64 = 4;
/// After a turn that took longer, the log is left to its own thread for a while: a connection's
/// thread that waits for the disk answers no pings, and its connection looks dead.
const TURN_MAX: Duration = Duration::from_millis(100);
const SLOW_FOR: Duration = Duration::from_secs(10);
/// Between attempts to write to a disk that is full, or without a file descriptor.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Persister<S: StateMachine> {
    pub(super) wal: Wal,
    pub(super) data_dir: Arc<DataDir>,
    pub(super) pipeline: Arc<Pipeline<S>>,
    pub(super) post: Arc<Post>,
    pub(super) shared: Arc<Shared>,
    /// Closes when the node stops.
    pub(super) stop: Receiver<()>,
    /// What the newest snapshot holds.
    pub(super) snapshot_index: Index,
    /// A snapshot is wanted when the log holds so much behind it.
    pub(super) snapshot_log_bytes: u64,
    /// A turn took long: until then the next one is expected to.
    pub(super) slow_until: Option<Instant>,
    /// Nothing is written any more: the disk has failed, or the node stopped while it was full, or
    /// the log is to be begun anew.
    pub(super) has_failed: bool,
}

/// What is to be done to the log. What waits is bounded by what the core lets be uncommitted, or on
/// its way from a leader.
pub(super) enum Write {
    Persist(Persist),
    /// A snapshot holds everything up to here.
    Release(Index),
    /// The member has all its data, and votes from now on.
    Joined,
    /// The member, which has no data, belongs to this cluster.
    TakeCluster(u64),
}

impl<S: StateMachine> Worker for Persister<S> {
    type Queue = Vec<Write>;

    fn turn(&mut self, writes: Vec<Write>) {
        self.shared.gate.pass();
        if self.shared.is_killed() || self.has_failed {
            return;
        }
        let started = Instant::now();
        let result = self.write(writes);
        let ended = Instant::now();
        if ended - started > TURN_MAX {
            self.slow_until = Some(ended + SLOW_FOR);
        }
        let is_slow = self.slow_until.is_some_and(|until| ended < until);
        self.shared.is_disk_slow.store(is_slow, Ordering::Relaxed);
        if let Err(error) = result {
            log::error!("the log failed, this member stops: {}", ErrorChain(&error));
            self.has_failed = true;
            self.fail(NodeFailure::Storage(error));
        }
    }

    fn panicked(&self) {
        let id = self.shared.status.lock().id;
        self.fail(NodeFailure::Panicked(format!("wal-{id}")));
    }
}

impl<S: StateMachine> Persister<S> {
    fn fail(&self, failure: NodeFailure) {
        self.shared.fail(failure);
        self.pipeline.stop();
    }

    /// Writes what is left, and closes the log.
    pub(super) fn end(mut self, left: Vec<Write>) {
        self.turn(left);
        if !self.shared.is_killed() && !self.has_failed {
            self.wal.close();
        }
    }

    /// All in order; what is to be persisted together with what follows it at once.
    fn write(&mut self, writes: Vec<Write>) -> Result<(), StorageError> {
        let mut writes = writes.into_iter().peekable();
        while let Some(write) = writes.next().filter(|_| !self.has_failed) {
            match write {
                Write::Release(index) => self.release(index)?,
                Write::Joined => self.joined()?,
                Write::TakeCluster(cluster_id) => self.take_cluster(cluster_id)?,
                Write::Persist(first) => self.write_batch(first, || {
                    writes.next_if_map(|write| match write {
                        Write::Persist(persist) => Ok(persist),
                        other => Err(other),
                    })
                })?,
            }
        }
        self.want_snapshot();
        Ok(())
    }

    fn write_batch(
        &mut self,
        first: Persist,
        mut more: impl FnMut() -> Option<Persist>,
    ) -> Result<(), StorageError> {
        let (mut batch, mut bytes, mut next) = (Vec::new(), 0, Some(first));
        while let Some(persist) = next {
            bytes += self.append(&persist)?;
            batch.push(persist);
            next = if !self.has_failed && bytes < BATCH_BYTES_MAX { more() } else { None };
        }
        if self.has_failed || !self.sync()? {
            return Ok(());
        }
        let last = batch.last().map_or(PersistId::default(), |persist| persist.id);
        self.shared.gate.pass();
        // Told first, so that the member knows of its own promise before anyone can answer to it.
        self.pipeline.inbox.report(Input::Persisted(last));
        let _cork = Cork::new();
        let messages = batch.into_iter().flat_map(|persist| persist.then);
        messages.for_each(|message| self.post.send(message));
        Ok(())
    }

    /// Segments that hold nothing but what a snapshot holds are given back. What is transient is no
    /// reason to fail here.
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

    fn joined(&mut self) -> Result<(), StorageError> {
        let data_dir = self.data_dir.clone();
        if self.wait_for_space(|_| data_dir.mark_joined())? {
            self.pipeline.inbox.report(Input::Joined);
        }
        Ok(())
    }

    /// The log is that of the other cluster. It is empty, and the next start begins it anew: so
    /// this is the last write.
    fn take_cluster(&mut self, cluster_id: u64) -> Result<(), StorageError> {
        let data_dir = self.data_dir.clone();
        if self.wait_for_space(|_| data_dir.take_cluster(cluster_id))? {
            self.has_failed = true;
            self.fail(NodeFailure::ClusterTaken(cluster_id));
        }
        Ok(())
    }

    /// The log has grown past its limit since the last snapshot.
    fn want_snapshot(&self) {
        let is_long = |log_bytes| self.wal.len_bytes_after(self.snapshot_index) >= log_bytes;
        let part_of_state =
            self.shared.snapshot_len_bytes.load(Ordering::Relaxed) / STATE_BYTES_PER_LOG_BYTE;
        if is_long(self.snapshot_log_bytes.max(part_of_state)) {
            self.pipeline.take_snapshot();
        }
    }

    fn append(&mut self, persist: &Persist) -> Result<usize, StorageError> {
        if let Some(snapshot) = persist.reset {
            self.snapshot_index = snapshot.last_included_index;
            self.wal.append(persist.hard_state, &[])?;
            if !self.sync()? || !self.wait_for_space(|wal| wal.reset(snapshot))? {
                return Ok(0);
            }
        }
        if persist.hard_state.is_some() || !persist.entries.is_empty() {
            self.wal.append(persist.hard_state, &persist.entries)?;
        }
        Ok(persist.entries.iter().map(|entry| entry.len_bytes()).sum())
    }

    /// False if the node stopped while the disk was full.
    fn sync(&mut self) -> Result<bool, StorageError> {
        self.wait_for_space(Wal::sync)
    }

    /// Tries until there is space, and a file descriptor. False if the node stopped meanwhile.
    fn wait_for_space(
        &mut self,
        mut write: impl FnMut(&mut Wal) -> Result<(), StorageError>,
    ) -> Result<bool, StorageError> {
        let mut has_told = false;
        loop {
            let result = write(&mut self.wal);
            let is_full = matches!(&result, Err(error) if error.is_full());
            let was_full = self.shared.is_disk_full.swap(is_full, Ordering::AcqRel);
            if was_full != is_full {
                self.pipeline.report(Input::DiskFull(is_full));
            }
            match result {
                Ok(()) if has_told => {
                    log::info!("the log is written again");
                    return Ok(true);
                }
                Ok(()) => return Ok(true),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) if !has_told => log::error!("{}", ErrorChain(&error)),
                Err(_) => {}
            }
            has_told = true;
            let is_over =
                self.stop.recv_timeout(FULL_DISK_PAUSE) == Err(RecvTimeoutError::Disconnected);
            if is_over || self.shared.is_killed() {
                self.has_failed = true;
                return Ok(false);
            }
        }
    }
}
