//! [`BackupFile`]: writes a backup.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::BackupError;
use super::format::{BackupHead, HEADER_LEN_BYTES};
use super::reader::BackupReader;
use crate::storage::chunks::{
    CHUNK_LEN_MAX_BYTES, CHUNK_PREFIX_LEN_BYTES, TRAILER_LEN_BYTES, encode_trailer, seal_chunk,
};

/// How much is written between two syncs, so that not all of it waits for the last one.
const UNSYNCED_MAX_BYTES: u64 = 4 << 20;

/// A backup that is being written: write the state into it, then [`finish`](BackupFile::finish). If
/// it is dropped before, it leaves nothing behind. Only its owner can read the file, because it
/// holds values.
#[derive(Debug)]
pub struct BackupFile {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    /// Room for a prefix, then the chunk that is being filled.
    chunk: Vec<u8>,
    crc: u32,
    len_bytes: u64,
    body_len_bytes: u64,
    unsynced_bytes: u64,
}

impl BackupFile {
    /// Begins the backup `path`, under another name.
    ///
    /// # Errors
    /// [`Exists`](BackupError::Exists), [`Io`](BackupError::Io)
    pub fn create(path: &Path, head: &BackupHead) -> Result<BackupFile, BackupError> {
        check_absent(path)?;
        let temporary = path.with_added_extension(format!("{}.tmp", std::process::id()));
        let options =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).clone();
        let file = options.open(&temporary).map_err(BackupError::io("create", &temporary))?;
        let mut backup = BackupFile {
            path: path.to_path_buf(),
            temporary,
            file,
            chunk: vec![0; CHUNK_PREFIX_LEN_BYTES],
            crc: head.crc(),
            len_bytes: 0,
            body_len_bytes: 0,
            unsynced_bytes: 0,
        };
        backup.put(&head.encode()).map_err(BackupError::io("write", &backup.temporary))?;
        assert_eq!(backup.len_bytes, HEADER_LEN_BYTES as u64);
        Ok(backup)
    }

    /// Ends the backup: syncs it, reads it back, and gives it its name, durably. Returns its
    /// length.
    ///
    /// # Errors
    /// Nothing of it is left then. [`Damaged`](BackupError::Damaged): what was read back is not
    /// what was written. [`Exists`](BackupError::Exists): the file has come meanwhile.
    /// [`Io`](BackupError::Io).
    pub fn finish(mut self) -> Result<u64, BackupError> {
        self.put_end().map_err(BackupError::io("write", &self.temporary))?;
        let written = BackupReader::open(&self.temporary)?.check_to_end()?;
        if written != self.len_bytes {
            let reason = format!("{written} bytes were read back, {} written", self.len_bytes);
            return Err(BackupError::damaged(&self.temporary, 0, reason));
        }
        check_absent(&self.path)?;
        fs::rename(&self.temporary, &self.path)
            .map_err(BackupError::io("rename", &self.temporary))?;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(BackupError::io("sync", dir))?;
        Ok(self.len_bytes)
    }

    fn put_end(&mut self) -> io::Result<()> {
        self.put_chunk()?;
        let len_bytes = self.len_bytes + TRAILER_LEN_BYTES as u64;
        let trailer = encode_trailer(self.body_len_bytes, len_bytes, self.crc);
        self.put(&trailer)?;
        self.file.sync_all()
    }

    /// Writes the chunk, if there is something in it.
    fn put_chunk(&mut self) -> io::Result<()> {
        let mut chunk = std::mem::take(&mut self.chunk);
        let len = chunk.len() - CHUNK_PREFIX_LEN_BYTES;
        if len > 0 {
            self.crc = seal_chunk(&mut chunk, self.crc);
            self.body_len_bytes += len as u64;
            self.put(&chunk)?;
            chunk.truncate(CHUNK_PREFIX_LEN_BYTES);
        }
        self.chunk = chunk;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.len_bytes += bytes.len() as u64;
        self.unsynced_bytes += bytes.len() as u64;
        if self.unsynced_bytes >= UNSYNCED_MAX_BYTES {
            self.file.sync_data()?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }
}

impl Write for BackupFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let room = CHUNK_PREFIX_LEN_BYTES + CHUNK_LEN_MAX_BYTES - self.chunk.len();
        let len = room.min(buf.len());
        self.chunk.extend_from_slice(&buf[..len]);
        if len == room {
            self.put_chunk()?;
        }
        Ok(len)
    }

    /// Does nothing: nobody can use an unfinished backup.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BackupFile {
    fn drop(&mut self) {
        // If it was renamed, there is nothing of this name.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Whether a backup can have this name.
pub(super) fn check_absent(path: &Path) -> Result<(), BackupError> {
    match path.symlink_metadata() {
        Ok(_) => Err(BackupError::Exists { path: path.to_path_buf() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(BackupError::io("look for", path)(error)),
    }
}
