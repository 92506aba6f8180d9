//! Reads a backup, and checks every byte before handing it out.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::BackupError;
use super::format::{BackupHead, BadHeader, FORMAT, HEADER_LEN_BYTES};
use crate::kv::{LEVEL_MAX, Store};
use crate::node::StateMachine;
use crate::storage::chunks::{
    CHUNK_LEN_MAX_BYTES, CHUNK_PREFIX_LEN_BYTES, Next, TRAILER_LEN_BYTES, decode_next,
};

/// Reads the state in a backup, from beginning to end.
///
/// It hands out a chunk only if that matches its checksum, and reports the end only after a correct
/// trailer. Damage is an error of kind [`InvalidData`](io::ErrorKind::InvalidData) around a
/// [`BackupError::Damaged`].
#[derive(Debug)]
pub struct BackupReader {
    path: PathBuf,
    file: File,
    head: BackupHead,
    crc: u32,
    /// Of the next chunk.
    offset: u64,
    body_len_bytes: u64,
    /// What was read of the file: the last chunk with its prefix, what follows it up to `filled`,
    /// and how far the chunk has been handed out.
    buffer: Vec<u8>,
    filled: usize,
    handed_out: usize,
    chunk_end: usize,
    is_at_end: bool,
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// What it says of itself.
    pub head: BackupHead,
    /// How many leases are in it, those of single keys among them.
    pub leases: u64,
    /// The length of the file.
    pub file_len_bytes: u64,
    /// The checksum of all of it.
    pub crc: u32,
}

/// Reads all of a backup, checks every checksum, and decodes the state, which takes as much memory
/// as a member needs for it.
///
/// # Errors
/// [`Damaged`](BackupError::Damaged), [`State`](BackupError::State),
/// [`NewerFormat`](BackupError::NewerFormat), [`NewerLevel`](BackupError::NewerLevel),
/// [`Io`](BackupError::Io)
pub fn verify(path: &Path) -> Result<Contents, BackupError> {
    load(path).map(|(contents, _)| contents)
}

/// As [`verify`], and returns the state as well.
pub(super) fn load(path: &Path) -> Result<(Contents, Store), BackupError> {
    let mut reader = BackupReader::open(path)?;
    let (found, known) = (reader.head.level, LEVEL_MAX);
    if found > known {
        return Err(BackupError::NewerLevel { path: path.to_path_buf(), found, known });
    }
    let mut store = Store::new();
    store.load(&mut reader).map_err(|error| match error.downcast::<BackupError>() {
        Ok(ours) => ours,
        Err(source) => BackupError::State { path: path.to_path_buf(), source },
    })?;
    let (head, stats) = (&reader.head, store.stats());
    let described = (head.revision, head.keys, head.bytes, Some(head.level));
    if described != (stats.revision, stats.keys as u64, stats.bytes, store.level()) {
        let reason = "the state is not the one that the header describes";
        return Err(BackupError::damaged(path, 0, reason));
    }
    let leases = (stats.leases + stats.keys_with_ttl) as u64;
    let (file_len_bytes, crc) = (reader.offset, reader.crc);
    Ok((Contents { head: reader.head, leases, file_len_bytes, crc }, store))
}

impl BackupReader {
    /// Opens a backup, and checks its header.
    ///
    /// # Errors
    /// [`Damaged`](BackupError::Damaged), [`NewerFormat`](BackupError::NewerFormat),
    /// [`Io`](BackupError::Io)
    pub fn open(path: &Path) -> Result<BackupReader, BackupError> {
        let mut file = File::open(path).map_err(BackupError::io("open", path))?;
        let mut header = Vec::with_capacity(HEADER_LEN_BYTES);
        let read = (&mut file).take(HEADER_LEN_BYTES as u64).read_to_end(&mut header);
        read.map_err(BackupError::io("read", path))?;
        let head = BackupHead::decode(&header).map_err(|bad| match bad {
            BadHeader::Damaged(reason) => BackupError::damaged(path, 0, reason),
            BadHeader::Format(found) => {
                BackupError::NewerFormat { path: path.to_path_buf(), found, known: FORMAT }
            }
        })?;
        Ok(BackupReader {
            path: path.to_path_buf(),
            file,
            crc: head.crc(),
            head,
            offset: HEADER_LEN_BYTES as u64,
            body_len_bytes: 0,
            // Room for the longest chunk, and one byte more: whether something follows a trailer.
            buffer: vec![0; CHUNK_PREFIX_LEN_BYTES + CHUNK_LEN_MAX_BYTES + 1],
            filled: 0,
            handed_out: 0,
            chunk_end: 0,
            is_at_end: false,
        })
    }

    /// What the backup says of itself.
    pub fn head(&self) -> &BackupHead {
        &self.head
    }

    /// Reads and checks what is left, without decoding it. Returns the length of the file.
    ///
    /// # Errors
    /// [`Damaged`](BackupError::Damaged), [`Io`](BackupError::Io)
    pub fn check_to_end(mut self) -> Result<u64, BackupError> {
        while !self.is_at_end {
            self.read_next()?;
        }
        Ok(self.offset)
    }

    /// Reads and checks the next chunk, or the trailer.
    fn read_next(&mut self) -> Result<(), BackupError> {
        self.fill().map_err(BackupError::io("read", &self.path))?;
        let next = decode_next(&self.buffer[..self.filled], self.crc)
            .map_err(|reason| BackupError::damaged(&self.path, self.offset, reason))?;
        match next {
            Next::Chunk { len, crc } => {
                self.crc = crc;
                (self.handed_out, self.chunk_end) =
                    (CHUNK_PREFIX_LEN_BYTES, CHUNK_PREFIX_LEN_BYTES + len);
                self.offset += self.chunk_end as u64;
                self.body_len_bytes += len as u64;
                Ok(())
            }
            Next::Trailer { body_len_bytes, file_len_bytes } => {
                self.take_trailer(body_len_bytes, file_len_bytes)
            }
        }
    }

    fn take_trailer(&mut self, body_len: u64, file_len: u64) -> Result<(), BackupError> {
        let end = self.offset + TRAILER_LEN_BYTES as u64;
        if (body_len, file_len) != (self.body_len_bytes, end) {
            let reason = "the trailer is not that of this backup";
            return Err(BackupError::damaged(&self.path, self.offset, reason));
        }
        if self.filled > TRAILER_LEN_BYTES {
            return Err(BackupError::damaged(&self.path, end, "bytes after the trailer"));
        }
        // The checksum of the trailer covers the file.
        self.crc = u32::from_le_bytes(self.buffer[4..8].try_into().expect("four bytes"));
        (self.offset, self.is_at_end) = (end, true);
        Ok(())
    }

    /// Moves what follows the last chunk to the front, and reads as much as there is room for.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.chunk_end..self.filled, 0);
        self.filled -= self.chunk_end;
        (self.handed_out, self.chunk_end) = (0, 0);
        while self.filled < self.buffer.len() {
            match self.file.read(&mut self.buffer[self.filled..]) {
                Ok(0) => break,
                Ok(len) => self.filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Read for BackupReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.handed_out == self.chunk_end && !self.is_at_end {
            self.read_next().map_err(BackupError::into_io)?;
        }
        let rest = &self.buffer[self.handed_out..self.chunk_end];
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        self.handed_out += len;
        Ok(len)
    }
}
