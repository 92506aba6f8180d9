//! [`Data`]: the directory in which a cluster's members have their data directories.
//!
//! It is temporary, or one that its user has named and that outlives the cluster. A named directory
//! has a file of its own beside those of the members:
//!
//! ```text
//!   DIR/cluster.json   {"members":3,"cluster_id":"53a1f0c2d4b96e87"}; locked while the cluster runs
//!   DIR/members.json   {"ids":[2,3,4],"next_id":5}; only if members have come or gone
//!   DIR/1, DIR/2, ..   the data directory of each member
//! ```
//!
//! # Invariants
//! - A directory that holds anything else is not touched.
//! - All members get the cluster id of the first start, whatever their addresses are now. So one
//!   whose data was removed belongs to the same cluster as the others.
//! - Whatever a start that failed has made is removed again.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::cluster::ClusterError;
use crate::raft::MemberId;

const FILE: &str = "cluster.json";
const ROSTER: &str = "members.json";

/// The directory of one cluster that runs.
#[derive(Debug)]
pub(super) struct Data {
    path: PathBuf,
    /// What every member without data gets, whatever its address.
    cluster_id: u64,
    /// What is removed in the end.
    removed: Mutex<Removed>,
    /// The file of a named directory, locked until the cluster has ended.
    lock: Option<File>,
    roster: Mutex<Roster>,
}

/// Who the members are, and which id the next one gets. Ids are used once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roster {
    ids: BTreeSet<u64>,
    next_id: u64,
}

impl Roster {
    /// That of a new cluster of this size.
    pub(super) fn new(size: usize) -> Roster {
        let size = size as u64;
        Roster { ids: (1..=size).collect(), next_id: size + 1 }
    }

    /// That of the cluster which has its data there, or is new.
    pub(super) fn read(path: &Path, size: usize) -> Roster {
        let text = fs::read_to_string(path.join(ROSTER)).ok();
        let read = text.and_then(|text| serde_json::from_str(&text).ok());
        read.filter(|it: &Roster| !it.ids.is_empty()).unwrap_or_else(|| Roster::new(size))
    }

    pub(super) fn ids(&self) -> Vec<MemberId> {
        self.ids.iter().copied().map(MemberId).collect()
    }
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
        Ok(Data::at(path, cluster_id, Removed::All))
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
                let mut data = Data::at(path.to_owned(), cluster_id, removed);
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
            Some((found, id)) if found == members => {
                let mut data = Data::at(dir(), id, Removed::Nothing);
                data.lock = Some(file);
                Ok(data)
            }
            Some((found, _)) => Err(ClusterError::OtherSize { dir: dir(), found, wanted: members }),
            None => Err(ClusterError::NotItsData { dir: dir() }),
        }
    }

    fn at(path: PathBuf, cluster_id: u64, removed: Removed) -> Data {
        let (removed, roster) = (Mutex::new(removed), Mutex::new(Roster::new(0)));
        Data { path, cluster_id, removed, lock: None, roster }
    }

    /// Who the members are at the start.
    pub(super) fn set_roster(&mut self, roster: Roster) {
        self.roster = Mutex::new(roster);
    }

    /// An id for a newcomer.
    pub(super) fn take_id(&self) -> io::Result<MemberId> {
        self.change_roster(|roster| {
            roster.next_id += 1;
            MemberId(roster.next_id - 1)
        })
    }

    /// Somebody has become a member.
    pub(super) fn add(&self, id: MemberId) -> io::Result<()> {
        self.change_roster(|roster| roster.ids.insert(id.0)).map(drop)
    }

    /// A member has left.
    pub(super) fn remove(&self, id: MemberId) -> io::Result<()> {
        self.change_roster(|roster| roster.ids.remove(&id.0)).map(drop)
    }

    /// Changes who the members are, on the disk, too, if the directory stays.
    fn change_roster<T>(&self, change: impl FnOnce(&mut Roster) -> T) -> io::Result<T> {
        let mut roster = self.roster.lock();
        let result = change(&mut roster);
        if self.lock.is_some() {
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            serde_json::to_writer(&mut file, &*roster)?;
            file.as_file().sync_all()?;
            file.persist(self.path.join(ROSTER))?;
        }
        Ok(result)
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
    pub(super) fn keep(&self) {
        if self.lock.is_some() {
            *self.removed.lock() = Removed::Nothing;
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
        let removed = match *self.removed.lock() {
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
        let data = Data::named(&path, 3, 7).unwrap();
        assert!(matches!(Data::named(&path, 3, 8), Err(ClusterError::InUse { .. })));
        data.keep();
        drop(data);
        assert_eq!(Data::named(&path, 3, 8).unwrap().cluster_id(), 7);
        let other = Data::named(&path, 5, 8).unwrap_err();
        assert!(matches!(other, ClusterError::OtherSize { found: 3, wanted: 5, .. }), "{other}");
        assert_eq!(names(&path), [FILE]);
    }

    #[test]
    fn a_named_directory_knows_who_its_members_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let mut data = Data::named(&path, 3, 7).unwrap();
        data.set_roster(Roster::read(&path, 3));
        data.keep();
        assert_eq!(data.take_id().unwrap(), MemberId(4));
        data.add(MemberId(4)).unwrap();
        data.remove(MemberId(1)).unwrap();
        let again = Roster::read(&path, 3);
        assert_eq!(again.ids(), [2, 3, 4].map(MemberId));
        assert_eq!(again.next_id, 5, "an id is used once");
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
