//! Writing a snapshot of our own state.

use std::io::{self, Write};
use std::sync::Arc;

use crate::raft::SnapshotMeta;
use crate::storage::StorageError;

use super::format::{
    CHUNK_LEN_MAX_BYTES, CHUNK_PREFIX_LEN_BYTES, HEADER_LEN_BYTES, Header, TRAILER_LEN_BYTES,
    encode_trailer, seal_chunk,
};
use super::temporary::Temporary;
use super::{Shared, Snapshot};

/// A snapshot in the making: write the state into it, then [`finish`](SnapshotWriter::finish). Dropped before, it leaves
/// nothing behind.
///
/// It holds 64 KiB of memory, and writes and syncs as it goes. The first failure is final: it is returned by every later
/// call. Errors of [`Write`] are those of [`StorageError`], with the system's kind.
#[derive(Debug)]
pub struct SnapshotWriter {
    shared: Arc<Shared>,
    meta: SnapshotMeta,
    temporary: Temporary,
    /// The chunk that is being filled, behind room for its prefix.
    chunk: Vec<u8>,
    crc: u32,
    /// Where that chunk goes.
    offset: u64,
    body_len_bytes: u64,
    failed: Option<StorageError>,
}

impl SnapshotWriter {
    pub(super) fn create(
        shared: Arc<Shared>,
        meta: SnapshotMeta,
    ) -> Result<SnapshotWriter, StorageError> {
        let mut temporary = shared.temporary(meta)?;
        let header = Header { cluster_id: shared.cluster_id, meta };
        temporary.write_at(&header.encode(), 0)?;
        let mut chunk = Vec::with_capacity(CHUNK_PREFIX_LEN_BYTES + CHUNK_LEN_MAX_BYTES);
        chunk.resize(CHUNK_PREFIX_LEN_BYTES, 0);
        Ok(SnapshotWriter {
            shared,
            meta,
            temporary,
            chunk,
            crc: header.crc(),
            offset: HEADER_LEN_BYTES as u64,
            body_len_bytes: 0,
            failed: None,
        })
    }

    /// Of which state this is to be the snapshot.
    pub fn meta(&self) -> SnapshotMeta {
        self.meta
    }

    /// Makes a snapshot of what was written: synced, read back and checked, renamed, the directory synced. Older
    /// snapshots are removed after that. Returns the newest snapshot there is: this one, or a newer one that was installed
    /// meanwhile; then this one is gone.
    ///
    /// # Errors
    /// The snapshots from before are then as they were, and of this one nothing is left.
    /// - [`Full`](StorageError::Full): the disk is; a new attempt may succeed later
    /// - [`Io`](StorageError::Io): the system refused; after a failed sync the member must stop
    /// - [`SnapshotCorrupt`](StorageError::SnapshotCorrupt): what was read back is not what was written
    pub fn finish(mut self) -> Result<Snapshot, StorageError> {
        self.check_failed()?;
        self.write_chunk()?;
        let file_len_bytes = self.offset + TRAILER_LEN_BYTES as u64;
        let trailer = encode_trailer(self.body_len_bytes, file_len_bytes, self.crc);
        self.temporary.write_at(&trailer, self.offset)?;
        self.shared.publish(self.temporary, self.meta)
    }

    fn check_failed(&self) -> Result<(), StorageError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Writes the chunk, if there is something in it.
    fn write_chunk(&mut self) -> Result<(), StorageError> {
        let len = self.chunk.len() - CHUNK_PREFIX_LEN_BYTES;
        if len == 0 {
            return Ok(());
        }
        self.crc = seal_chunk(&mut self.chunk, self.crc);
        self.temporary.write_at(&self.chunk, self.offset)?;
        self.offset += self.chunk.len() as u64;
        self.body_len_bytes += len as u64;
        self.chunk.truncate(CHUNK_PREFIX_LEN_BYTES);
        Ok(())
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.check_failed().map_err(StorageError::into_io)?;
        let room = CHUNK_PREFIX_LEN_BYTES + CHUNK_LEN_MAX_BYTES - self.chunk.len();
        let len = room.min(buf.len());
        self.chunk.extend_from_slice(&buf[..len]);
        if len == room {
            self.write_chunk().map_err(|err| {
                self.failed = Some(err.clone());
                err.into_io()
            })?;
        }
        Ok(len)
    }

    /// Does nothing: only a finished snapshot is of use to anyone.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
