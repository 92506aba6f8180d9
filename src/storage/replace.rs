//! Replaces what a data directory holds by another state, and keeps the old files beside it.
//!
//! ```text
//! DIR/meta, wal/, snap/     ──────────> DIR/before-recovery-<old cluster>/meta, wal/, snap/
//! DIR/before-recovery-<old cluster>/new/meta, wal/, snap/ ──────────> DIR/meta, wal/, snap/
//! ```
//!
//! The new files are made first, as a data directory of their own, which is whole once it has its
//! `meta`. Then `wal` and `snap` change places, and at last the new `meta` replaces the old one.
//!
//! Invariant: between the first step and the last, no member starts with the directory, because its
//! `meta` still names the old log. [`finish_replacing`](DataDir::finish_replacing) goes on wherever
//! a crash has ended it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::raft::{Configuration, MemberId, SnapshotMeta};

use super::meta::META_LEN_MAX_BYTES;
use super::{DataDir, StorageError};

/// The directories that change places. `meta` follows them.
const DIRS: [&str; 2] = ["wal", "snap"];

impl DataDir {
    /// Replaces what is in the directory, as [`create_with`](DataDir::create_with) makes it.
    /// Returns where the old files are then. Nobody may use the log or the snapshots meanwhile, and
    /// this value is of no more use.
    ///
    /// # Errors
    /// As there. What is not finished is finished by
    /// [`finish_replacing`](DataDir::finish_replacing), or begun again.
    pub fn replace_with(
        self,
        member_id: MemberId,
        configuration: &Configuration,
        last: SnapshotMeta,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<PathBuf, StorageError> {
        let (disk, new) = (self.disk(), self.new_dir());
        disk.create_dir_all(&new).map_err(StorageError::io("create", &new))?;
        self.empty(&new)?;
        DataDir::create_with_on(Arc::clone(disk), &new, member_id, configuration, last, write)?;
        self.swap()
    }

    /// Whether a replacement was cut off after all new files had been made.
    ///
    /// # Errors
    /// [`Io`](StorageError::Io): the system refused.
    pub fn is_half_replaced(&self) -> Result<bool, StorageError> {
        let meta = self.new_dir().join("meta");
        let exists = || self.disk().exists(&meta).map_err(StorageError::io("look for", &meta));
        Ok(self.disk().is_dir(&self.new_dir()) && exists()?)
    }

    /// Goes on with a replacement that was [cut off](DataDir::is_half_replaced). Returns where the
    /// old files are then. This value is of no more use.
    ///
    /// # Errors
    /// [`Io`](StorageError::Io), [`Full`](StorageError::Full): the system refused.
    pub fn finish_replacing(self) -> Result<PathBuf, StorageError> {
        self.swap()
    }

    /// Where the old files go.
    fn aside_dir(&self) -> PathBuf {
        let cluster_id = self.identity().cluster_id;
        self.path().join(format!("before-recovery-{cluster_id:016x}"))
    }

    fn new_dir(&self) -> PathBuf {
        self.aside_dir().join("new")
    }

    fn swap(&self) -> Result<PathBuf, StorageError> {
        let (disk, path) = (self.disk(), self.path());
        let (aside, new) = (self.aside_dir(), self.new_dir());
        for name in DIRS {
            // Otherwise it has changed places already.
            if disk.is_dir(&new.join(name)) {
                if disk.is_dir(&path.join(name)) && !disk.is_dir(&aside.join(name)) {
                    self.rename(path, &aside, name)?;
                }
                // In its place there may be an empty one: of a member whose start failed meanwhile.
                self.rename(&new, path, name)?;
            }
        }
        let (meta, kept) = (path.join("meta"), aside.join("meta"));
        let read = disk.read_to_vec(&meta, META_LEN_MAX_BYTES);
        let old = read.map_err(StorageError::io("read", &meta))?;
        let dir = disk.open_dir(&aside).map_err(StorageError::io("open", &aside))?;
        disk.write_atomically(&*dir, &kept, &old).map_err(StorageError::io("write", &kept))?;
        self.rename(&new, path, "meta")?;
        self.empty(&new)?;
        // If it stays, it is empty.
        let _ = disk.remove_dir(&new);
        Ok(aside)
    }

    /// Renames durably.
    fn rename(&self, from: &Path, to: &Path, name: &str) -> Result<(), StorageError> {
        let (disk, old) = (self.disk(), from.join(name));
        disk.rename(&old, &to.join(name)).map_err(StorageError::io("rename", &old))?;
        for dir in [to, from] {
            disk.sync_dir(dir).map_err(StorageError::sync(dir))?;
        }
        Ok(())
    }

    /// Removes the files of a data directory that is not needed.
    fn empty(&self, dir: &Path) -> Result<(), StorageError> {
        let disk = self.disk();
        let dirs = [dir.to_path_buf(), dir.join("wal"), dir.join("snap")];
        for dir in dirs.iter().filter(|dir| disk.is_dir(dir)) {
            for name in disk.list(dir).map_err(StorageError::io("list", dir))? {
                let path = dir.join(name);
                if !disk.is_dir(&path) {
                    disk.remove(&path).map_err(StorageError::io("remove", &path))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
