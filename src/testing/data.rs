//! [`Data`]: the directory in which a cluster's members have their data directories.
//!
//! It is temporary, or one that its user has named and that outlives the cluster. A named directory
//! has a file of its own beside those of the members:
//!
//! ```text
//!   DIR/cluster.json   {"members":3,"cluster_id":"53a1f0c2d4b96e87"}; locked while the cluster runs
//!   DIR/1, DIR/2, ..   the data directory of each member
//! ```
//!
//! # Invariants
//! - A directory that holds anything else is not touched.
//! - All members get the cluster id of the first start, whatever their addresses are now. So one
//!   whose data was removed belongs to the same cluster as the others.
//! - Whatever a start that failed has made is removed again.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::cluster::ClusterError;
use crate::raft::MemberId;

const FILE: &str = "cluster.json";

/// The directory of one cluster that runs.
#[derive(Debug)]
pub(super) struct Data {
    path: PathBuf,
    /// What every member without data gets, whatever its address.
    cluster_id: u64,
    /// What is removed in the end.
    removed: Removed,
    /// The file of a named directory, locked until the cluster has ended.
    lock: Option<File>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removed {
    Nothing,
    /// What is in the directory, which was there and empty.
    Contents,
    All,
}

#[derive(Debug, Serialize, Deserialize)]
struct Description {
    members: usize,
    cluster_id: String,
}

impl Data {
    /// A directory that is removed in the end.
    pub(super) fn temporary(cluster_id: u64) -> Result<Data, ClusterError> {
        let path = TempDir::with_prefix("syncraft-")?.keep();
        Ok(Data { path, cluster_id, removed: Removed::All, lock: None })
    }

    /// A directory of this many members that stays once [`keep`](Data::keep) was called. If it is
    /// new, its cluster gets the id `cluster_id`.
    pub(super) fn named(
        path: &Path,
        members: usize,
        cluster_id: u64,
    ) -> Result<Data, ClusterError> {
        let failed = |source| ClusterError::DataDir { dir: path.to_owned(), source };
        match File::open(path.join(FILE)) {
            Ok(file) => Data::existing(path, file, members),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let removed = make(path).map_err(failed)?;
                let Some(removed) = removed else {
                    return Err(ClusterError::NotItsData { dir: path.to_owned() });
                };
                let mut data = Data { path: path.to_owned(), cluster_id, removed, lock: None };
                data.lock = Some(data.describe(members).map_err(failed)?);
                Ok(data)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn existing(path: &Path, mut file: File, members: usize) -> Result<Data, ClusterError> {
        let dir = || path.to_owned();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ClusterError::InUse { dir: dir() }),
            Err(TryLockError::Error(source)) => {
                return Err(ClusterError::DataDir { dir: dir(), source });
            }
        }
        let mut text = String::new();
        file.read_to_string(&mut text)
            .map_err(|source| ClusterError::DataDir { dir: dir(), source })?;
        let described = serde_json::from_str(&text).ok().and_then(|description: Description| {
            let id = u64::from_str_radix(&description.cluster_id, 16).ok()?;
            Some((description.members, id))
        });
        match described {
            Some((found, id)) if found == members => Ok(Data {
                path: dir(),
                cluster_id: id,
                removed: Removed::Nothing,
                lock: Some(file),
            }),
            Some((found, _)) => Err(ClusterError::OtherSize { dir: dir(), found, wanted: members }),
            None => Err(ClusterError::NotItsData { dir: dir() }),
        }
    }

    /// Writes the file that says whose the directory is, and locks it.
    fn describe(&self, members: usize) -> io::Result<File> {
        let cluster_id = format!("{:016x}", self.cluster_id);
        let line = serde_json::to_string(&Description { members, cluster_id })?;
        let path = self.path.join(FILE);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.try_lock()?;
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_all()?;
        File::open(&self.path)?.sync_all()?;
        Ok(file)
    }

    /// The cluster has started: a directory that its user has named stays.
    pub(super) fn keep(&mut self) {
        if self.lock.is_some() {
            self.removed = Removed::Nothing;
        }
    }

    pub(super) fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    pub(super) fn of(&self, id: MemberId) -> PathBuf {
        self.path.join(id.to_string())
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let removed = match self.removed {
            Removed::Nothing => Ok(()),
            Removed::Contents => empty(&self.path),
            Removed::All => fs::remove_dir_all(&self.path),
        };
        if let Err(error) = removed {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Makes the directory, unless it is there and empty, and says what is to be removed if the start
/// fails. `None`: it holds something.
fn make(path: &Path) -> io::Result<Option<Removed>> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(Some(Removed::All)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let is_empty = fs::read_dir(path)?.next().is_none();
            Ok(is_empty.then_some(Removed::Contents))
        }
        Err(error) => Err(error),
    }
}

fn empty(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().map(Result::unwrap);
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_named_directory_stays_and_keeps_its_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let mut data = Data::named(&path, 3, 7).unwrap();
        assert!(matches!(Data::named(&path, 3, 8), Err(ClusterError::InUse { .. })));
        data.keep();
        drop(data);
        assert_eq!(Data::named(&path, 3, 8).unwrap().cluster_id(), 7);
        let other = Data::named(&path, 5, 8).unwrap_err();
        assert!(matches!(other, ClusterError::OtherSize { found: 3, wanted: 5, .. }), "{other}");
        assert_eq!(names(&path), [FILE]);
    }

    #[test]
    fn a_start_that_fails_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        drop(Data::named(&path, 3, 7).unwrap());
        assert!(!path.exists());
        // The empty directory of its user.
        drop(Data::named(dir.path(), 3, 7).unwrap());
        assert!(dir.path().exists() && names(dir.path()).is_empty());
    }

    #[test]
    fn what_others_have_stored_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["notes", FILE] {
            fs::write(dir.path().join(name), "mine").unwrap();
            let refused = Data::named(dir.path(), 3, 7).unwrap_err();
            assert!(matches!(refused, ClusterError::NotItsData { .. }), "{refused}");
            assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"mine");
        }
    }
}
