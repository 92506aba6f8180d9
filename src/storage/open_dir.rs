//! A directory that stays open while a member writes in it, so that a sync of it never fails for
//! lack of a file descriptor.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StorageError;
use super::disk::{Disk, DiskDir};

/// An open directory and its path.
#[derive(Clone, Debug)]
pub(super) struct OpenDir {
    path: PathBuf,
    dir: Arc<dyn DiskDir>,
}

impl OpenDir {
    pub(super) fn open(disk: &dyn Disk, path: PathBuf) -> Result<OpenDir, StorageError> {
        let dir = disk.open_dir(&path).map_err(StorageError::io("open", &path))?;
        Ok(OpenDir { path, dir })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn disk_dir(&self) -> &dyn DiskDir {
        &*self.dir
    }

    /// Makes its names durable.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.dir.sync().map_err(StorageError::sync(&self.path))
    }
}
