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
use std::sync::Arc;

use super::BackupError;
use super::restore::{Restored, begin_anew, first, snapshot_meta};
use crate::kv::{LEVEL_MAX, Store};
use crate::members::Members;
use crate::node::{StateMachine, StateView};
use crate::raft::{Configuration, Index, MemberId, Payload, SnapshotMeta, Standing, Term};
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
    /// The address of its only member.
    pub addr: String,
    /// The last entry of the old log.
    pub last_index: Index,
    /// How many entries behind the newest snapshot were applied.
    pub entries: usize,
    /// Where the old files are.
    pub kept_in: PathBuf,
    /// Whether its log says that it was removed from its old cluster, which may have gone on.
    pub was_removed: bool,
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

    /// Makes the survivor the only member of a new cluster, at its address in `list`, or else the
    /// one that its log has for it. Other members in the list do not count.
    ///
    /// # Errors
    /// Nothing has changed if its data is damaged or only [a part](BackupError::Partial), or if the
    /// member is [not in the list](BackupError::NotAMember), or there is no list and
    /// [no address](BackupError::NoAddress) in the log.
    pub fn recover(self, list: Option<&Members>) -> Result<Recovered, BackupError> {
        let (id, Survivor { dir }) = (self.id(), self);
        let path = dir.path().to_path_buf();
        if let Some(members) = list.filter(|members| !members.contains(id)) {
            return Err(BackupError::NotAMember { id, members: members.clone() });
        }
        if dir.standing() != Standing::Voter {
            return Err(BackupError::Partial { dir: path });
        }
        let Read { mut store, last, entries, configuration } = read(&dir)?;
        let listed = list.and_then(|members| members.addr(id));
        let Some(addr) = listed.or(configuration.as_ref().and_then(|it| it.addr(id))) else {
            return Err(BackupError::NoAddress { id, dir: path });
        };
        let alone = Members::new([(id, addr.to_owned())]).expect("an address of a member is right");
        let index = begin_anew(&mut store, last.last_included_index, &path)?;
        let cluster_id = fastrand::u64(1..);
        let meta = snapshot_meta(index, last.last_included_term);
        let kept_in =
            dir.replace_with(id, &first(cluster_id, &alone), meta, |out| store.view().write(out))?;
        let began = Restored { cluster_id, index, revision: store.revision() };
        let (addr, last_index) = (addr.to_owned(), last.last_included_index);
        let was_removed = configuration.is_some_and(|it| !it.membership.contains(id));
        Ok(Recovered { began, addr, last_index, entries, kept_in, was_removed })
    }
}

/// What a data directory holds.
struct Read {
    /// The state after the last entry of the log.
    store: Store,
    /// That entry's index, and the member's term.
    last: SnapshotMeta,
    /// How many entries there were behind the snapshot.
    entries: usize,
    /// The newest one, committed or not.
    configuration: Option<Arc<Configuration>>,
}

fn read(dir: &DataDir) -> Result<Read, BackupError> {
    let (_snapshots, snapshot) = Snapshots::open(dir)?;
    let mut store = Store::new();
    if let Some(snapshot) = &snapshot {
        let loaded = store.load(&mut snapshot.reader()?);
        check_level(&store, dir)?;
        loaded.map_err(StorageError::io("load", snapshot.path()))?;
    }
    let meta = snapshot.as_ref().map(|snapshot| snapshot.meta());
    let mut configuration = snapshot.and_then(|snapshot| snapshot.configuration().cloned());
    let options = WalOptions { prepare_ahead: false, ..WalOptions::default() };
    let (wal, recovered) = Wal::open(dir, options, meta)?;
    wal.close();
    for entry in &recovered.entries {
        match &entry.payload {
            Payload::Noop => {}
            Payload::Configuration(found) => configuration = Some(Arc::clone(found)),
            Payload::Command(command) => drop(store.apply(entry.index, command)),
        }
        check_level(&store, dir)?;
    }
    let of_snapshot = meta.map_or(Index::ZERO, |meta| meta.last_included_index);
    let index = recovered.entries.last().map_or(of_snapshot, |last| last.index);
    let term: Term = recovered.hard_state.current_term;
    let (last, entries) = (snapshot_meta(index, term), recovered.entries.len());
    Ok(Read { store, last, entries, configuration })
}

fn check_level(store: &Store, dir: &DataDir) -> Result<(), BackupError> {
    match store.level() {
        Some(found) if found > LEVEL_MAX => {
            Err(BackupError::NewerLevel { path: dir.path().to_path_buf(), found, known: LEVEL_MAX })
        }
        _ => Ok(()),
    }
}
