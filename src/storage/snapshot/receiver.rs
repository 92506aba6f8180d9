//! Receives the bytes of a snapshot's file from a leader.

use std::sync::Arc;

use crate::raft::SnapshotMeta;
use crate::storage::StorageError;

use super::reader::corrupt;
use super::temporary::Temporary;
use super::{Shared, Snapshot};

/// A snapshot that is being received. If it is dropped before [`finish`](Receiver::finish), what
/// has arrived is kept, and the next [`receive`](super::Snapshots::receive) of the same snapshot
/// continues from there.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    /// `None` once it has failed or was finished.
    partial: Option<Partial>,
    meta: SnapshotMeta,
    len_bytes: u64,
}

/// The part of a snapshot that has arrived.
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
        // Part of another snapshot is dropped here, with its file.
        let partial = match put_aside.filter(|it| (it.meta, it.len_bytes) == (meta, len_bytes)) {
            Some(partial) => partial,
            None => Partial { meta, len_bytes, offset: 0, temporary: shared.temporary(meta)? },
        };
        Ok(Receiver { shared, partial: Some(partial), meta, len_bytes })
    }

    /// The last entry that will be in it.
    pub fn meta(&self) -> SnapshotMeta {
        self.meta
    }

    /// The length of the whole file.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// How much has arrived: the offset of the next byte to receive.
    pub fn offset(&self) -> u64 {
        self.partial.as_ref().map_or(0, |partial| partial.offset)
    }

    /// Whether all bytes have arrived: time to [`finish`](Receiver::finish).
    pub fn is_complete(&self) -> bool {
        self.offset() == self.len_bytes
    }

    /// Takes bytes of the file, and returns the new [`offset`](Receiver::offset). A chunk may come
    /// twice, or too early: bytes that are there already are skipped, and bytes that would leave a
    /// gap are not taken at all.
    ///
    /// # Errors
    /// Everything that has arrived is then discarded.
    /// - [`SnapshotCorrupt`](StorageError::SnapshotCorrupt): more bytes than were announced
    /// - [`Full`](StorageError::Full), [`Io`](StorageError::Io): the system refused; after a failed
    ///   sync the member must stop
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<u64, StorageError> {
        let Some(mut partial) = self.partial.take() else { return Ok(0) };
        partial.write(offset, bytes)?;
        Ok(self.partial.insert(partial).offset)
    }

    /// Makes what has arrived the newest snapshot, as
    /// [`SnapshotWriter::finish`](super::SnapshotWriter::finish) does. All of it is verified before
    /// it replaces anything.
    ///
    /// # Errors
    /// As there. Everything that has arrived is then discarded.
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
