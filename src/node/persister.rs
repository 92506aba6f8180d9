//! The thread that owns the log: what waits is written by one write and one fdatasync (group commit), and only then is said
//! what may be said.
//!
//! A full disk is waited out: nothing is acknowledged meanwhile, and proposals are refused. Any other failure is final: a failed fsync may have
//! dropped the data that a later one would claim to have written, so it is never tried again, and the member stops.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::StateMachine;
use super::inbox::Inbox;
use super::post::Post;
use super::shared::{NodeFailure, Shared};
use crate::raft::{Persist, PersistId};
use crate::storage::{StorageError, Wal};

/// Most bytes of entries in one write: bounds how long the first of them waits for the last.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Between attempts to write to a full disk.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Persister<S: StateMachine> {
    pub(super) wal: Wal,
    pub(super) inbox: Arc<Inbox<S>>,
    pub(super) post: Arc<Post>,
    pub(super) shared: Arc<Shared>,
    /// Closes when the node stops.
    pub(super) stop: Receiver<()>,
}

/// The queue to the persister: bounded by what the core lets be uncommitted, or on its way from a leader.
pub(super) type PersistSender = Sender<Persist>;

impl<S: StateMachine> Persister<S> {
    /// Until the raft thread has gone, or the disk fails.
    pub(super) fn run(mut self, persists: Receiver<Persist>) {
        while let Ok(first) = persists.recv() {
            if self.shared.is_killed() {
                return;
            }
            if let Err(error) = self.write_batch(first, &persists) {
                log::error!("the log failed, this member stops: {error}");
                self.shared.fail(NodeFailure::Storage(error));
                return self.inbox.stop();
            }
        }
        if !self.shared.is_killed() {
            self.wal.close();
        }
    }

    fn write_batch(
        &mut self,
        first: Persist,
        persists: &Receiver<Persist>,
    ) -> Result<(), StorageError> {
        let mut batch = vec![first];
        let mut bytes = self.append(&batch[0])?;
        while bytes < BATCH_BYTES_MAX
            && let Ok(next) = persists.try_recv()
        {
            bytes += self.append(&next)?;
            batch.push(next);
        }
        if !self.sync()? {
            return Ok(());
        }
        let last = batch.last().map_or(PersistId::default(), |persist| persist.id);
        // Told first, so that the member knows of its own promise before anyone can answer to it.
        self.inbox.persisted(last);
        batch
            .into_iter()
            .flat_map(|persist| persist.then)
            .for_each(|message| self.post.send(message));
        Ok(())
    }

    fn append(&mut self, persist: &Persist) -> Result<usize, StorageError> {
        if persist.hard_state.is_some() || !persist.entries.is_empty() {
            self.wal.append(persist.hard_state, &persist.entries)?;
        }
        Ok(persist.entries.iter().map(|entry| entry.len_bytes()).sum())
    }

    /// False if the node stopped while the disk was full.
    fn sync(&mut self) -> Result<bool, StorageError> {
        loop {
            let result = self.wal.sync();
            let is_full = matches!(&result, Err(error) if error.is_full());
            let was_full = self.shared.is_disk_full.swap(is_full, Ordering::AcqRel);
            match result {
                Ok(()) if was_full => log::info!("the disk has space again"),
                Ok(()) => {}
                Err(error) if !is_full => return Err(error),
                Err(error) if !was_full => log::error!("{error}"),
                Err(_) => {}
            }
            if !is_full {
                return Ok(true);
            }
            if self.stop.recv_timeout(FULL_DISK_PAUSE) == Err(RecvTimeoutError::Disconnected) {
                return Ok(false);
            }
        }
    }
}
