//! Writes a snapshot of the member's own state.

use std::io::{self, Write};
use std::sync::Arc;

use crate::raft::{Configuration, SnapshotMeta};
use crate::storage::StorageError;
use crate::storage::chunks::{
    CHUNK_LEN_MAX_BYTES, CHUNK_PREFIX_LEN_BYTES, TRAILER_LEN_BYTES, encode_trailer, seal_chunk,
};

use super::format::{Block, HEADER_LEN_BYTES, Header};
use super::temporary::Temporary;
use super::{Shared, Snapshot};

/// A snapshot that is being written: write the state into it, then
/// [`finish`](SnapshotWriter::finish). If it is dropped before, it leaves nothing behind.
///
/// It uses 64 KiB of memory, and writes and syncs as it goes. After the first failure, every later
/// call returns the same error. Errors of [`Write`] contain a [`StorageError`] and have the
/// system's kind.
#[derive(Debug)]
pub struct SnapshotWriter {
    shared: Arc<Shared>,
    meta: SnapshotMeta,
    temporary: Temporary,
    /// Room for a prefix, then the chunk that is being filled.
    chunk: Vec<u8>,
    crc: u32,
    /// Where that chunk will be in the file.
    offset: u64,
    body_len_bytes: u64,
    failed: Option<StorageError>,
}

impl SnapshotWriter {
    pub(super) fn create(
        shared: Arc<Shared>,
        meta: SnapshotMeta,
        configuration: Option<&Configuration>,
    ) -> Result<SnapshotWriter, StorageError> {
        let header = header(shared.cluster.id(), meta, configuration);
        let configuration = configuration.map(Configuration::encode).unwrap_or_default();
        let mut temporary = shared.temporary(meta)?;
        temporary.write_at(&header.encode(), 0)?;
        temporary.write_at(&configuration, HEADER_LEN_BYTES as u64)?;
        let mut chunk = Vec::with_capacity(CHUNK_PREFIX_LEN_BYTES + CHUNK_LEN_MAX_BYTES);
        chunk.resize(CHUNK_PREFIX_LEN_BYTES, 0);
        Ok(SnapshotWriter {
            shared,
            meta,
            temporary,
            chunk,
            crc: header.crc(),
            offset: header.first_chunk_offset(),
            body_len_bytes: 0,
            failed: None,
        })
    }

    /// The last entry that is in the state.
    pub fn meta(&self) -> SnapshotMeta {
        self.meta
    }

    /// Makes what was written the newest snapshot: syncs it, reads it back and checks it, renames
    /// it, syncs the directory, and then removes older snapshots. Returns this snapshot. If a newer
    /// one was installed meanwhile, returns that instead and removes this one.
    ///
    /// # Errors
    /// Earlier snapshots are then unchanged, and nothing of this one is left.
    /// - [`Full`](StorageError::Full): the disk is full; a new attempt may succeed later
    /// - [`Io`](StorageError::Io): the system refused; after a failed sync the member must stop
    /// - [`SnapshotCorrupt`](StorageError::SnapshotCorrupt): what was read back is not what was
    ///   written
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

/// `known` is the id of the directory's cluster, 0 if it is not known yet.
fn header(known: u64, meta: SnapshotMeta, configuration: Option<&Configuration>) -> Header {
    let cluster_id = configuration.map_or(known, |it| it.cluster_id);
    assert!(cluster_id != 0, "a snapshot names its cluster");
    assert!([0, cluster_id].contains(&known), "a configuration of cluster {cluster_id:016x}");
    let configuration = configuration.map(|it| Block::of(&it.encode()));
    Header { cluster_id, meta, configuration }
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

    /// Does nothing: nobody can use an unfinished snapshot.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
