//! A temporary file, which is removed unless it becomes a snapshot.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::storage::StorageError;
use crate::storage::disk::{Disk, DiskFile};

/// How much is written between two syncs. With a single sync at the end, all of a snapshot would
/// wait in the system's memory until then, and a sync of the log would wait behind it. But each
/// sync that extends a file also writes the file system's journal.
const UNSYNCED_MAX_BYTES: u64 = 4 << 20;

/// Removed when dropped, unless it was renamed. The next start removes it if that fails.
#[derive(Debug)]
pub(super) struct Temporary {
    disk: Arc<dyn Disk>,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    unsynced_bytes: u64,
    is_renamed: bool,
}

impl Temporary {
    pub(super) fn create(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Temporary, StorageError> {
        let file = disk.create(&path).map_err(StorageError::io("create", &path))?;
        Ok(Temporary { disk, path, file, unsynced_bytes: 0, is_renamed: false })
    }

    pub(super) fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        self.file.write_all_at(bytes, offset).map_err(StorageError::io("write", &self.path))?;
        self.unsynced_bytes += bytes.len() as u64;
        if self.unsynced_bytes >= UNSYNCED_MAX_BYTES { self.sync() } else { Ok(()) }
    }

    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(StorageError::sync(&self.path))?;
        self.unsynced_bytes = 0;
        Ok(())
    }

    /// Gives it its final name, not yet durably, and returns the file.
    pub(super) fn rename(mut self, to: &Path) -> Result<Arc<dyn DiskFile>, StorageError> {
        self.disk.rename(&self.path, to).map_err(StorageError::io("rename", &self.path))?;
        self.is_renamed = true;
        Ok(Arc::clone(&self.file))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_renamed {
            // If this fails, the next start removes it.
            let _ = self.disk.remove(&self.path);
        }
    }
}
