//! Who the members are, for the rest of the program: the configurations of this member, and how far
//! its peers are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::config::Detour;
use crate::members::Members as Addresses;
use crate::raft::{Configuration, Configured, Index, MemberId};

/// Who the members are, as far as this member knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The configuration in force. `None`: the log has none yet.
    pub latest: Option<Arc<Configuration>>,
    /// The index of its entry; 0 if there is none.
    pub index: Index,
    /// The newest one that is committed.
    pub committed: Option<Arc<Configuration>>,
}

impl Members {
    /// The configuration in force, if it is committed and not on the way to another one.
    pub fn settled(&self) -> Option<&Arc<Configuration>> {
        let latest = self.latest.as_ref()?;
        let is_settled = self.committed.as_ref() == Some(latest) && !latest.membership.is_joint();
        is_settled.then_some(latest)
    }
}

/// How far a peer is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The last entry that is known to be on its disk.
    pub match_index: Index,
    /// Whether it was heard within an election timeout.
    pub is_heard: bool,
    /// The snapshot that is on its way to it.
    pub snapshot: Option<SnapshotProgress>,
}

/// How much of a snapshot a peer has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// How much it has.
    pub sent_bytes: u64,
    /// How long the snapshot is.
    pub len_bytes: u64,
}

/// [`Members`], shared between threads.
pub(super) struct SharedMembers {
    /// The list with which this member was started.
    listed: Addresses,
    detour: Detour,
    members: Mutex<Members>,
    changed: Condvar,
    progress: Mutex<BTreeMap<MemberId, PeerProgress>>,
    /// The snapshots that are on their way.
    snapshots: Mutex<BTreeMap<MemberId, SnapshotProgress>>,
}

impl SharedMembers {
    pub(super) fn new(listed: Addresses, detour: Detour) -> SharedMembers {
        SharedMembers {
            listed,
            detour,
            members: Mutex::default(),
            changed: Condvar::new(),
            progress: Mutex::default(),
            snapshots: Mutex::default(),
        }
    }

    /// All members and the addresses that clients use: those of the configuration in force, or of
    /// the list while there is none.
    pub(super) fn addresses(&self) -> Addresses {
        let latest = self.members.lock().latest.clone();
        let addrs = latest.iter().flat_map(|it| it.addrs());
        let configured = Addresses::new(addrs.map(|(id, addr)| (id, addr.to_owned())));
        configured.unwrap_or_else(|_| self.listed.clone())
    }

    /// Where this member reaches another one.
    pub(super) fn reach(&self, id: MemberId) -> Option<String> {
        let configured = || {
            let latest = self.members.lock().latest.clone()?;
            latest.addr(id).map(str::to_owned)
        };
        let listed = || self.listed.addr(id).map(str::to_owned);
        configured().or_else(listed).map(|addr| self.detour.of(id, &addr))
    }

    pub(super) fn members(&self) -> Members {
        self.members.lock().clone()
    }

    pub(super) fn set(&self, Configured { latest, index, committed }: Configured) {
        *self.members.lock() = Members { latest, index, committed };
        self.changed.notify_all();
    }

    /// Waits until the members are as wanted. `None`: the deadline passed first.
    pub(super) fn wait(
        &self,
        deadline: Instant,
        is_wanted: impl Fn(&Members) -> bool,
    ) -> Option<Members> {
        let mut members = self.members.lock();
        while !is_wanted(&members) {
            if self.changed.wait_until(&mut members, deadline).timed_out() {
                return is_wanted(&members).then(|| members.clone());
            }
        }
        Some(members.clone())
    }

    /// How far the peers of a leader are. Empty elsewhere.
    pub(super) fn progress(&self) -> BTreeMap<MemberId, PeerProgress> {
        let mut progress = self.progress.lock().clone();
        let snapshots = self.snapshots.lock();
        progress.iter_mut().for_each(|(id, peer)| peer.snapshot = snapshots.get(id).copied());
        progress
    }

    /// How much of a snapshot is at this peer; `None`: none is on its way.
    pub(super) fn set_snapshot(&self, peer: MemberId, progress: Option<SnapshotProgress>) {
        let mut snapshots = self.snapshots.lock();
        match progress {
            Some(progress) => snapshots.insert(peer, progress),
            None => snapshots.remove(&peer),
        };
    }

    pub(super) fn set_progress(&self, progress: BTreeMap<MemberId, PeerProgress>) {
        *self.progress.lock() = progress;
    }
}
