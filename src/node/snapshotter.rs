//! The thread that owns the making of snapshots: it writes out views of the state machine, and takes in what a leader sends.
//!
//! Neither concerns anyone else: the state machine goes on while its view is written, and the core hears of a snapshot when
//! all of it is on the disk and has been read back.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, TryRecvError, select};

use super::inbox::Input;
use super::pipeline::{Errand, Pipeline};
use super::post::{PeerCall, Post};
use super::proto::{InstallSnapshotArgs, InstallSnapshotReply};
use super::shared::Shared;
use super::state_machine::{StateMachine, StateView};
use super::wire::Head;
use crate::ErrorChain;
use crate::raft::{Request, SnapshotMeta};
use crate::rpc::{Done, Status, StatusCode};
use crate::storage::{self, Snapshots, StorageError};

/// Tasks that may wait: a chunk from a leader, or two leaders, and a view.
pub(super) const QUEUE_LEN_MAX: usize = 4;

pub(super) enum Task<V> {
    /// Write out the state as it was after this entry.
    Write { meta: SnapshotMeta, view: V },
    /// A piece of a leader's snapshot.
    Chunk(Chunk),
}

pub(super) struct Chunk {
    pub(super) head: Head,
    pub(super) args: InstallSnapshotArgs,
    pub(super) done: Done<InstallSnapshotReply>,
}

pub(super) struct Snapshotter<S: StateMachine> {
    pub(super) snapshots: Snapshots,
    pub(super) pipeline: Arc<Pipeline<S>>,
    pub(super) post: Arc<Post>,
    pub(super) shared: Arc<Shared>,
    /// Closes when the node stops.
    pub(super) stop: Receiver<()>,
    pub(super) arriving: Option<storage::Receiver>,
}

impl<S: StateMachine> Snapshotter<S> {
    /// Until the node stops.
    pub(super) fn run(mut self, tasks: Receiver<Task<S::View>>) {
        step_back();
        let stop = self.stop.clone();
        loop {
            select! {
                recv(stop) -> _ => return,
                recv(tasks) -> task => {
                    self.shared.gate.pass();
                    match task {
                        Ok(Task::Write { meta, view }) => self.write(meta, view),
                        Ok(Task::Chunk(chunk)) => self.take(chunk),
                        Err(_) => return,
                    }
                }
            }
        }
    }

    /// A snapshot that fails costs nothing but itself: the log is kept, and the next one is tried in due course.
    fn write(&mut self, meta: SnapshotMeta, view: S::View) {
        let index = meta.last_included_index;
        if self.shared.watch.is_diverged() {
            return self.shared.end_snapshot(false);
        }
        match self.try_write(meta, &view) {
            Ok(len_bytes) => {
                self.shared.snapshot_len_bytes.store(len_bytes, Ordering::Relaxed);
                log::info!("took a snapshot up to entry {index}: {len_bytes} bytes");
                self.shared.snapshot_index.fetch_max(index.0, Ordering::Relaxed);
                self.pipeline.inbox.report(Input::SnapshotTaken(meta));
                self.pipeline.attend(Errand::Background);
            }
            Err(error) => {
                log::error!("cannot take a snapshot up to entry {index}: {}", ErrorChain(&error));
                self.shared.end_snapshot(false);
            }
        }
    }

    fn try_write(&self, meta: SnapshotMeta, view: &S::View) -> Result<u64, StorageError> {
        let mut writer = self.snapshots.create(meta)?;
        let mut out = Stoppable { out: &mut writer, stop: &self.stop };
        view.write(&mut out).map_err(StorageError::io("write a snapshot to", "snap"))?;
        Ok(writer.finish()?.len_bytes())
    }

    fn take(&mut self, Chunk { head, args, done }: Chunk) {
        let meta = SnapshotMeta {
            last_included_index: args.last_included_index.into(),
            last_included_term: args.last_included_term.into(),
        };
        let term = self.shared.status.lock().role.term.0;
        match Self::write_chunk(&self.snapshots, &mut self.arriving, meta, &args) {
            Ok(next_offset) if next_offset < args.file_len => {
                done.run(InstallSnapshotReply { term, next_offset, ..Default::default() });
            }
            Ok(_) => self.finish(head, done),
            Err(error) => {
                self.arriving = None;
                let words = ErrorChain(&error).to_string();
                log::error!(
                    "a snapshot up to entry {} did not arrive: {words}",
                    args.last_included_index
                );
                done.fail(Status::new(StatusCode::Internal, words));
            }
        }
    }

    /// Writes what comes next, and says what does: a chunk that is not it changes nothing, so that a leader that begins
    /// anew after a broken connection learns where to go on.
    fn write_chunk(
        snapshots: &Snapshots,
        arriving: &mut Option<storage::Receiver>,
        meta: SnapshotMeta,
        args: &InstallSnapshotArgs,
    ) -> Result<u64, StorageError> {
        let is_this = |it: &storage::Receiver| it.meta() == meta && it.len_bytes() == args.file_len;
        if !arriving.as_ref().is_some_and(is_this) {
            // What had arrived of another one is kept by storage as it is dropped.
            *arriving = None;
            *arriving = Some(snapshots.receive(meta, args.file_len)?);
        }
        let receiver = arriving.as_mut().expect("it was just made sure of");
        if receiver.offset() == args.offset && !receiver.is_complete() {
            receiver.write(args.offset, &args.data)?;
        }
        Ok(receiver.offset())
    }

    /// All has arrived: if it verifies, the core decides what it means, and its answer goes to the leader.
    fn finish(&mut self, head: Head, done: Done<InstallSnapshotReply>) {
        let receiver = self.arriving.take().expect("the one that is complete");
        match receiver.finish() {
            Ok(snapshot) => {
                // A newer one that came before, and that the core was not told of, wins.
                let meta = snapshot.meta();
                let index = meta.last_included_index;
                log::info!(
                    "a snapshot up to entry {index} has arrived: {} bytes",
                    snapshot.len_bytes()
                );
                let token = self.post.wait(PeerCall::InstallSnapshot(done));
                let message = head.message(token, Request::InstallSnapshot(meta));
                if !self.pipeline.inbox.snapshot_received(message, snapshot) {
                    self.post.refuse(token);
                }
                self.pipeline.attend(Errand::Background);
            }
            Err(error) => {
                let words = ErrorChain(&error).to_string();
                log::error!("a snapshot has arrived but cannot be used: {words}");
                done.fail(Status::new(StatusCode::Internal, words));
            }
        }
    }
}

/// A tenth of a share when others want the processor: a put has someone waiting for it, a snapshot has time. With all cores
/// busy this lowers the p99 of puts during a snapshot by an eighth.
#[cfg(target_os = "linux")]
fn step_back() {
    // Of this thread alone, on Linux. Refused, it only means that puts wait longer.
    if let Err(error) = rustix::process::setpriority_process(None, 10) {
        log::debug!("snapshots keep their priority: {error}");
    }
}

/// Elsewhere it would concern the whole process.
#[cfg(not(target_os = "linux"))]
fn step_back() {}

/// Breaks off when the node stops: a large state takes a while.
struct Stoppable<'a, W> {
    out: W,
    stop: &'a Receiver<()>,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stop.try_recv() {
            Err(TryRecvError::Empty) => self.out.write(bytes),
            _ => Err(io::Error::other("the member stops")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
