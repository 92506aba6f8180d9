//! Reads a snapshot, and checks every byte before handing it out.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use crate::raft::{Configuration, SnapshotMeta};
use crate::storage::StorageError;
use crate::storage::chunks::{
    CHUNK_LEN_MAX_BYTES, CHUNK_PREFIX_LEN_BYTES, Next, TRAILER_LEN_BYTES, decode_next,
};
use crate::storage::disk::DiskFile;
use crate::storage::identity::other_format;
use crate::storage::progress::Progress;

use super::format::{BadHeader, HEADER_LEN_BYTES, Header, VERSION};

/// Reads the state in a snapshot, from beginning to end.
///
/// It hands out a chunk only if that matches its checksum, and reports the end only after a correct
/// trailer. So a state that was read to the end is the one that was written. Damage is an error of
/// kind [`InvalidData`](io::ErrorKind::InvalidData) around a [`StorageError::SnapshotCorrupt`].
#[derive(Debug)]
pub struct SnapshotReader {
    file: Arc<dyn DiskFile>,
    path: Arc<Path>,
    header: Header,
    configuration: Option<Arc<Configuration>>,
    /// Of the next chunk.
    offset: u64,
    crc: u32,
    /// The last chunk with its prefix, and how far it has been handed out.
    buffer: Vec<u8>,
    handed_out: usize,
    chunk_end: usize,
    body_len_bytes: u64,
    is_at_end: bool,
    progress: Progress,
}

impl SnapshotReader {
    /// Reads what comes before the state.
    pub(super) fn open(
        file: Arc<dyn DiskFile>,
        path: Arc<Path>,
    ) -> Result<SnapshotReader, StorageError> {
        let header = read_header(&*file, &path)?;
        let configuration = read_configuration(&*file, &path, header)?.map(Arc::new);
        let len_bytes = file.len_bytes().map_err(StorageError::io("read", &*path))?;
        Ok(SnapshotReader {
            progress: Progress::new("reading the snapshot", len_bytes, "bytes"),
            file,
            path,
            header,
            configuration,
            offset: header.first_chunk_offset(),
            crc: header.crc(),
            buffer: Vec::new(),
            handed_out: 0,
            chunk_end: 0,
            body_len_bytes: 0,
            is_at_end: false,
        })
    }

    pub(super) fn header(&self) -> Header {
        self.header
    }

    pub(super) fn configuration(&self) -> Option<Arc<Configuration>> {
        self.configuration.clone()
    }

    /// Checks that it is of this cluster, if that is known (otherwise 0), and ends at this entry.
    pub(super) fn check(&self, cluster_id: u64, meta: SnapshotMeta) -> Result<(), StorageError> {
        let SnapshotMeta { last_included_index: index, last_included_term: term } =
            self.header.meta;
        let found = self.header.cluster_id;
        if cluster_id != 0 && found != cluster_id {
            return Err(corrupt(&self.path, 0, format!("it belongs to cluster {found:016x}")));
        }
        if self.header.meta != meta {
            let reason = format!("it ends at entry {index} of term {term}, not where it should");
            return Err(corrupt(&self.path, 0, reason));
        }
        Ok(())
    }

    /// Reads and checks everything, and returns the length of the file.
    pub(super) fn verify(mut self) -> Result<u64, StorageError> {
        while !self.is_at_end {
            self.read_next()?;
        }
        Ok(self.offset)
    }

    /// Reads and checks the next chunk, or the trailer.
    fn read_next(&mut self) -> Result<(), StorageError> {
        self.buffer.resize(CHUNK_PREFIX_LEN_BYTES + CHUNK_LEN_MAX_BYTES, 0);
        let read = self.file.read_full_at(&mut self.buffer, self.offset);
        let filled = read.map_err(StorageError::io("read", &*self.path))?;
        let next = decode_next(&self.buffer[..filled], self.crc)
            .map_err(|reason| corrupt(&self.path, self.offset, reason))?;
        match next {
            Next::Chunk { len, crc } => {
                self.crc = crc;
                self.handed_out = CHUNK_PREFIX_LEN_BYTES;
                self.chunk_end = CHUNK_PREFIX_LEN_BYTES + len;
                self.offset += self.chunk_end as u64;
                self.body_len_bytes += len as u64;
                self.progress.at(self.offset);
                Ok(())
            }
            Next::Trailer { body_len_bytes, file_len_bytes } => {
                let end = self.offset + TRAILER_LEN_BYTES as u64;
                if (body_len_bytes, file_len_bytes) != (self.body_len_bytes, end) {
                    let reason = "the trailer is not that of this snapshot";
                    return Err(corrupt(&self.path, self.offset, reason));
                }
                if filled > TRAILER_LEN_BYTES {
                    return Err(corrupt(&self.path, end, "bytes after the trailer"));
                }
                (self.offset, self.is_at_end) = (end, true);
                Ok(())
            }
        }
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.handed_out == self.chunk_end && !self.is_at_end {
            self.read_next().map_err(StorageError::into_io)?;
        }
        let rest = &self.buffer[self.handed_out..self.chunk_end];
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        self.handed_out += len;
        Ok(len)
    }
}

fn read_header(file: &dyn DiskFile, path: &Path) -> Result<Header, StorageError> {
    let mut bytes = [0; HEADER_LEN_BYTES];
    let filled = file.read_full_at(&mut bytes, 0).map_err(StorageError::io("read", path))?;
    Header::decode(&bytes[..filled]).map_err(|bad| match bad {
        BadHeader::Damaged(reason) => corrupt(path, 0, reason),
        BadHeader::Format(found) => other_format(path, found, VERSION),
    })
}

fn read_configuration(
    file: &dyn DiskFile,
    path: &Path,
    header: Header,
) -> Result<Option<Configuration>, StorageError> {
    let at = HEADER_LEN_BYTES as u64;
    let mut bytes = vec![0; (header.first_chunk_offset() - at) as usize];
    let filled = file.read_full_at(&mut bytes, at).map_err(StorageError::io("read", path))?;
    header.decode_configuration(&bytes[..filled]).map_err(|reason| corrupt(path, at, reason))
}

pub(super) fn corrupt(file: &Path, offset: u64, reason: impl Into<String>) -> StorageError {
    StorageError::SnapshotCorrupt { file: file.to_path_buf(), offset, reason: reason.into() }
}
