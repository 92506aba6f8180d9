//! Receiving a snapshot from a leader: the bytes of its file, as they are.

use std::sync::Arc;

use crate::raft::SnapshotMeta;
use crate::storage::StorageError;

use super::reader::corrupt;
use super::temporary::Temporary;
use super::{Shared, Snapshot};

/// A snapshot on its way to us. Dropped before [`finish`](Receiver::finish) it is put aside: the next
/// [`receive`](super::Snapshots::receive) of the same snapshot goes on where this one was.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    /// `None` once it failed, or was finished.
    partial: Option<Partial>,
    meta: SnapshotMeta,
    len_bytes: u64,
}

/// What has arrived of a snapshot.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) meta: SnapshotMeta,
    pub(super) len_bytes: u64,
    offset: u64,
    temporary: Temporary,
}

impl Receiver {
    pub(super) fn new(
        shared: Arc<Shared>,
        meta: SnapshotMeta,
        len_bytes: u64,
    ) -> Result<Receiver, StorageError> {
        let put_aside = shared.partial.lock().take();
        // A partial one of another snapshot is dropped here, and its file with it.
        let partial = match put_aside.filter(|it| (it.meta, it.len_bytes) == (meta, len_bytes)) {
            Some(partial) => partial,
            None => Partial { meta, len_bytes, offset: 0, temporary: shared.temporary(meta)? },
        };
        Ok(Receiver { shared, partial: Some(partial), meta, len_bytes })
    }

    /// Of which state it is.
    pub fn meta(&self) -> SnapshotMeta {
        self.meta
    }

    /// How long the file is that is being received.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// How much has arrived: the offset of the next byte that is wanted.
    pub fn offset(&self) -> u64 {
        self.partial.as_ref().map_or(0, |partial| partial.offset)
    }

    /// Whether all bytes have arrived: time to [`finish`](Receiver::finish).
    pub fn is_complete(&self) -> bool {
        self.offset() == self.len_bytes
    }

    /// Takes bytes of the file, and returns [`offset`](Receiver::offset) as it then is. What is there already is skipped;
    /// bytes that would leave a gap are not taken at all. So a chunk may come twice, and too early.
    ///
    /// # Errors
    /// What had arrived is then gone: a new attempt begins anew.
    /// - [`SnapshotCorrupt`](StorageError::SnapshotCorrupt): more bytes than were announced
    /// - [`Full`](StorageError::Full), [`Io`](StorageError::Io): the system refused; after a failed sync the member must
    ///   stop
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<u64, StorageError> {
        let Some(mut partial) = self.partial.take() else { return Ok(0) };
        partial.write(offset, bytes)?;
        Ok(self.partial.insert(partial).offset)
    }

    /// Makes a snapshot of what has arrived, if it is one: see [`SnapshotWriter::finish`](super::SnapshotWriter::finish).
    /// All of it is verified before anything is replaced.
    ///
    /// # Errors
    /// As there; what had arrived is then gone.
    pub fn finish(mut self) -> Result<Snapshot, StorageError> {
        let arrived = self.offset();
        match self.partial.take() {
            Some(partial) if arrived == self.len_bytes => {
                self.shared.publish(partial.temporary, self.meta)
            }
            _ => {
                let reason = format!("no more has arrived, of a file of {}", self.len_bytes);
                Err(corrupt(&self.shared.path(self.meta), arrived, reason))
            }
        }
    }
}

impl Partial {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > self.len_bytes {
            let reason = format!("bytes up to {end}, of a file of {}", self.len_bytes);
            return Err(corrupt(&self.temporary.path, self.len_bytes, reason));
        }
        if offset <= self.offset && self.offset < end {
            let new = &bytes[(self.offset - offset) as usize..];
            self.temporary.write_at(new, self.offset)?;
            self.offset = end;
        }
        Ok(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(partial) = self.partial.take() {
            let replaced = self.shared.partial.lock().replace(partial);
            // Its file is removed without holding the lock.
            drop(replaced);
        }
    }
}
