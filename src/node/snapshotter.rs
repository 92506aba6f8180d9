//! The snapshot thread: writes views of the state machine to the disk, and receives the snapshots
//! that a leader sends.
//!
//! Nothing waits for either. The state machine goes on while its view is written, and the core
//! hears of a snapshot only when all of it is on the disk and has been read back.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, TryRecvError, select};

use super::mailbox::Chunk;
use super::post::{PeerCall, Post};
use super::proto::{InstallSnapshotArgs, InstallSnapshotReply};
use super::shared::Shared;
use super::state_machine::StateView;
use super::wire::Head;
use crate::ErrorChain;
use crate::raft::{self, Configuration, Message, Request, SnapshotMeta};
use crate::rpc::{Done, Status, StatusCode};
use crate::storage::{self, Snapshot, Snapshots, StorageError};

/// Tasks that may wait: a chunk from a leader or two, and a view.
pub(super) const QUEUE_LEN_MAX: usize = 4;

pub(super) enum SnapshotTask<V> {
    /// Write the state as it was after this entry.
    Write { meta: SnapshotMeta, configuration: Option<Arc<Configuration>>, view: V },
    /// A piece of a leader's snapshot.
    Chunk(Chunk),
}

/// What the core must know.
pub(super) enum SnapshotOutput {
    /// A snapshot of this member's own is on the disk.
    Taken(SnapshotMeta),
    /// A leader's snapshot is on the disk. The message tells the core.
    Received { message: Message, snapshot: Box<Snapshot> },
}

/// Takes what the core must know. False if the member is stopping.
type Report<'a> = dyn Fn(SnapshotOutput) -> bool + 'a;

pub(super) struct Snapshotter {
    pub(super) snapshots: Snapshots,
    pub(super) post: Arc<Post>,
    pub(super) shared: Arc<Shared>,
    /// Closes when the node stops.
    pub(super) stop: Receiver<()>,
    pub(super) arriving: Option<storage::Receiver>,
}

impl Snapshotter {
    /// Works until the node stops.
    pub(super) fn run<V: StateView>(
        mut self,
        tasks: &Receiver<SnapshotTask<V>>,
        report: &Report<'_>,
    ) {
        lower_priority();
        let stop = self.stop.clone();
        loop {
            select! {
                recv(stop) -> _ => return,
                recv(tasks) -> task => {
                    self.shared.gate.pass();
                    match task {
                        Ok(SnapshotTask::Write { meta, configuration, view }) => {
                            self.write(meta, configuration.as_deref(), view, report);
                        }
                        Ok(SnapshotTask::Chunk(chunk)) => self.receive(chunk, report),
                        Err(_) => return,
                    }
                }
            }
        }
    }

    /// A snapshot that fails does no harm: the log is kept, and another one is tried later.
    fn write(
        &mut self,
        meta: SnapshotMeta,
        configuration: Option<&Configuration>,
        view: impl StateView,
        report: &Report<'_>,
    ) {
        let index = meta.last_included_index;
        if self.shared.watch.is_diverged() {
            return self.shared.end_snapshot(false);
        }
        match self.try_write(meta, configuration, &view) {
            Ok(len_bytes) => {
                self.shared.snapshot_len_bytes.store(len_bytes, Ordering::Relaxed);
                log::info!("took a snapshot up to entry {index}: {len_bytes} bytes");
                self.shared.snapshot_index.fetch_max(index.0, Ordering::Relaxed);
                report(SnapshotOutput::Taken(meta));
            }
            Err(error) => {
                log::error!("cannot take a snapshot up to entry {index}: {}", ErrorChain(&error));
                self.shared.end_snapshot(false);
            }
        }
    }

    fn try_write(
        &self,
        meta: SnapshotMeta,
        configuration: Option<&Configuration>,
        view: &impl StateView,
    ) -> Result<u64, StorageError> {
        let mut writer = self.snapshots.create(meta, configuration)?;
        let mut out = Stoppable { out: &mut writer, stop: &self.stop };
        view.write(&mut out).map_err(StorageError::io("write a snapshot to", "snap"))?;
        Ok(writer.finish()?.len_bytes())
    }

    fn receive(&mut self, Chunk { head, args, done }: Chunk, report: &Report<'_>) {
        let meta = SnapshotMeta {
            last_included_index: args.last_included_index.into(),
            last_included_term: args.last_included_term.into(),
        };
        let term = self.shared.status.lock().role.term.0;
        match Self::write_chunk(&self.snapshots, &mut self.arriving, meta, &args) {
            Ok(next_offset) if next_offset < args.file_len => {
                done.run(InstallSnapshotReply { term, next_offset, ..Default::default() });
            }
            Ok(_) => self.finish(head, done, report),
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

    /// Writes the chunk if it is the next one, and returns the offset of the next one. A leader
    /// that begins anew after a broken connection learns from this where to go on.
    fn write_chunk(
        snapshots: &Snapshots,
        arriving: &mut Option<storage::Receiver>,
        meta: SnapshotMeta,
        args: &InstallSnapshotArgs,
    ) -> Result<u64, StorageError> {
        let is_this = |it: &storage::Receiver| it.meta() == meta && it.len_bytes() == args.file_len;
        if !arriving.as_ref().is_some_and(is_this) {
            // Storage keeps the part of another snapshot that has arrived.
            *arriving = None;
            *arriving = Some(snapshots.receive(meta, args.file_len)?);
        }
        let receiver = arriving.as_mut().expect("it was just made sure of");
        if receiver.offset() == args.offset && !receiver.is_complete() {
            receiver.write(args.offset, &args.data)?;
        }
        Ok(receiver.offset())
    }

    /// All of it has arrived. If it verifies, the core decides what to do with it, and answers the
    /// leader.
    fn finish(&mut self, head: Head, done: Done<InstallSnapshotReply>, report: &Report<'_>) {
        let receiver = self.arriving.take().expect("the one that is complete");
        match receiver.finish() {
            Ok(snapshot) => {
                // Not always the one that arrived: storage may hold a newer one that the core does
                // not know of.
                let meta = snapshot.meta();
                let index = meta.last_included_index;
                log::info!(
                    "a snapshot up to entry {index} has arrived: {} bytes",
                    snapshot.len_bytes()
                );
                let token = self.post.register(PeerCall::InstallSnapshot(done));
                let configuration = snapshot.configuration().cloned();
                let arrived = raft::Snapshot { meta, configuration };
                let message = head.message(token, Request::InstallSnapshot(arrived));
                let snapshot = Box::new(snapshot);
                if !report(SnapshotOutput::Received { message, snapshot }) {
                    self.post.refuse(token);
                }
            }
            Err(error) => {
                let words = ErrorChain(&error).to_string();
                log::error!("a snapshot has arrived but cannot be used: {words}");
                done.fail(Status::new(StatusCode::Internal, words));
            }
        }
    }
}

/// Gives this thread a tenth of a share when other threads want the processor: a client waits for a
/// put, and nobody waits for a snapshot. With all cores busy this lowers the p99 of puts during a
/// snapshot by an eighth.
#[cfg(target_os = "linux")]
fn lower_priority() {
    // On Linux this concerns the calling thread alone. If it fails, puts wait a little longer.
    if let Err(error) = rustix::process::setpriority_process(None, 10) {
        log::debug!("cannot lower the priority of the snapshot thread: {error}");
    }
}

/// On other systems it would concern the whole process.
#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

/// Fails when the node stops: writing a large state takes a while.
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
