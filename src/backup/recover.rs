//! [`Survivor`]: makes the survivor of a lost majority a cluster of one.
//!
//! A majority that is gone for ever takes with it what only it had. Nobody can tell from the
//! survivor's files what that is, and Raft would wait for the others for ever. So an operator says
//! that they will not come back, and accepts what may be lost:
//!
//! - Writes that were acknowledged, and that the survivor had not received, are lost.
//! - Writes at the end of its log whose outcome nobody was told, or that another leader had
//!   replaced, may take effect.
//!
//! The state is the newest snapshot and *all* entries of the log: whether the last ones were
//! committed, nobody knows any more, and to apply them loses the least. From there on it is as with
//! a [backup that is restored](super::restore()): another cluster, with raised numbers, so that
//! clients and the old members notice. The old files are kept beside the new ones
//! (`storage/replace.rs`).

use std::path::{Path, PathBuf};

use super::BackupError;
use super::restore::{Restored, begin_anew, first, snapshot_meta};
use crate::kv::{LEVEL_MAX, Store};
use crate::members::Members;
use crate::node::{StateMachine, StateView};
use crate::raft::{Entry, Index, MemberId, Payload, SnapshotMeta, Standing, Term};
use crate::storage::{DataDir, Snapshots, StorageError, Wal, WalOptions};

/// A data directory that is to be recovered. It is locked.
#[derive(Debug)]
pub struct Survivor {
    dir: DataDir,
}

/// What a recovery has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The new cluster.
    pub began: Restored,
    /// The last entry of the old log.
    pub last_index: Index,
    /// How many entries behind the newest snapshot were applied.
    pub entries: usize,
    /// Where the old files are.
    pub kept_in: PathBuf,
}

impl Survivor {
    /// Locks a data directory, and changes nothing in it.
    ///
    /// # Errors
    /// [`Storage`](BackupError::Storage): it is no data directory, is damaged or in use.
    pub fn open(path: &Path) -> Result<Survivor, BackupError> {
        Ok(Survivor { dir: DataDir::open_any(path)? })
    }

    /// The member whose data it is.
    pub fn id(&self) -> MemberId {
        self.dir.identity().member_id
    }

    /// The cluster that it belongs to.
    pub fn cluster_id(&self) -> u64 {
        self.dir.identity().cluster_id
    }

    /// Whether an earlier recovery was cut off after it had written everything.
    ///
    /// # Errors
    /// [`Storage`](BackupError::Storage)
    pub fn is_half_recovered(&self) -> Result<bool, BackupError> {
        Ok(self.dir.is_half_replaced()?)
    }

    /// Goes on with a recovery that was [cut off](Survivor::is_half_recovered). Returns where the
    /// old files are then.
    ///
    /// # Errors
    /// [`Storage`](BackupError::Storage)
    pub fn finish(self) -> Result<PathBuf, BackupError> {
        Ok(self.dir.finish_replacing()?)
    }

    /// Makes the survivor the only member of a new cluster, at its address in `members`. Other
    /// members in the list do not count.
    ///
    /// # Errors
    /// Nothing has changed if its data is damaged or only [a part](BackupError::Partial), or the
    /// member is [not in the list](BackupError::NotAMember).
    pub fn recover(self, members: &Members) -> Result<Recovered, BackupError> {
        let (id, Survivor { dir }) = (self.id(), self);
        let Some(alone) = alone(id, members) else {
            return Err(BackupError::NotAMember { id, members: members.clone() });
        };
        let path = dir.path().to_path_buf();
        if dir.standing() != Standing::Voter {
            return Err(BackupError::Partial { dir: path });
        }
        let (mut store, last, entries) = read(&dir)?;
        let index = begin_anew(&mut store, last.last_included_index, &path)?;
        let cluster_id = fastrand::u64(1..);
        let meta = snapshot_meta(index, last.last_included_term);
        let kept_in =
            dir.replace_with(id, &first(cluster_id, &alone), meta, |out| store.view().write(out))?;
        let began = Restored { cluster_id, index, revision: store.revision() };
        Ok(Recovered { began, last_index: last.last_included_index, entries, kept_in })
    }
}

fn alone(id: MemberId, members: &Members) -> Option<Members> {
    let addr = members.addr(id)?;
    let alone = Members::new([(id, addr.to_owned())]);
    Some(alone.expect("a member of a list that is right is right alone"))
}

/// The state after the last entry of the log; that entry's index, and the member's term; and how
/// many entries there were behind the snapshot.
fn read(dir: &DataDir) -> Result<(Store, SnapshotMeta, usize), BackupError> {
    let (_snapshots, snapshot) = Snapshots::open(dir)?;
    let mut store = Store::new();
    if let Some(snapshot) = &snapshot {
        let loaded = store.load(&mut snapshot.reader()?);
        check_level(&store, dir)?;
        loaded.map_err(StorageError::io("load", snapshot.path()))?;
    }
    let meta = snapshot.map(|snapshot| snapshot.meta());
    let options = WalOptions { prepare_ahead: false, ..WalOptions::default() };
    let (wal, recovered) = Wal::open(dir, options, meta)?;
    wal.close();
    for entry in &recovered.entries {
        apply(&mut store, entry);
        check_level(&store, dir)?;
    }
    let of_snapshot = meta.map_or(Index::ZERO, |meta| meta.last_included_index);
    let index = recovered.entries.last().map_or(of_snapshot, |last| last.index);
    let term: Term = recovered.hard_state.current_term;
    Ok((store, snapshot_meta(index, term), recovered.entries.len()))
}

fn apply(store: &mut Store, entry: &Entry) {
    match &entry.payload {
        Payload::Noop | Payload::Configuration(_) => {}
        Payload::Command(command) => drop(store.apply(entry.index, command)),
    }
}

fn check_level(store: &Store, dir: &DataDir) -> Result<(), BackupError> {
    match store.level() {
        Some(found) if found > LEVEL_MAX => {
            Err(BackupError::NewerLevel { path: dir.path().to_path_buf(), found, known: LEVEL_MAX })
        }
        _ => Ok(()),
    }
}
