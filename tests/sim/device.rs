//! The device under a member: the real storage code over a disk that loses power, fills up, and
//! fails.

use std::path::Path;
use std::sync::Arc;

use syncraft::raft::Standing;
use syncraft::storage::sim::{Faults, SimDisk};
use syncraft::storage::{
    DataDir, Identity, Recovered, Snapshot, Snapshots, StorageError, Wal, WalOptions,
};

const DIR: &str = "/data";

pub(crate) struct Device {
    disk: SimDisk,
    /// For a new directory.
    identity: Identity,
    standing: Standing,
    segment_len_bytes: u64,
    /// The faults that are arranged.
    faults: Faults,
    /// The next start discards everything on the disk.
    is_to_be_emptied: bool,
}

/// How a member that has lost its data begins again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// As one that has lost its data, because an operator says so.
    Known,
    /// With an empty directory, as if it had never had any data.
    Unknown { list_id: u64, standing: Standing },
}

/// The directory in use.
pub(crate) struct Open {
    pub(crate) wal: Wal,
    pub(crate) snapshots: Snapshots,
    pub(crate) dir: DataDir,
}

/// What a start finds.
pub(crate) struct Found {
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) recovered: Recovered,
}

impl Device {
    pub(crate) fn new(
        identity: Identity,
        standing: Standing,
        segment_len_bytes: u64,
        seed: u64,
    ) -> Device {
        Device {
            disk: SimDisk::new(seed),
            identity,
            standing,
            segment_len_bytes,
            is_to_be_emptied: false,
            faults: Faults { short_writes: seed.is_multiple_of(4), ..Faults::default() },
        }
    }

    /// In the order of a node's start.
    pub(crate) fn open(&mut self) -> Result<(Open, Found), StorageError> {
        let disk = Arc::new(self.disk.clone());
        let dir = match self.is_to_be_emptied {
            true => DataDir::open_emptied_on(disk, DIR, self.identity)?,
            false => DataDir::open_on(disk, DIR, self.identity, self.standing)?,
        };
        self.is_to_be_emptied = false;
        let (snapshots, snapshot) = Snapshots::open(&dir)?;
        let options =
            WalOptions { segment_len_bytes: self.segment_len_bytes, prepare_ahead: false };
        let base = snapshot.as_ref().map(Snapshot::meta);
        let (wal, recovered) = Wal::open(&dir, options, base)?;
        Ok((Open { wal, snapshots, dir }, Found { snapshot, recovered }))
    }

    /// Another disk, or an operator who knows that the data on this one is no good.
    pub(crate) fn lose_data(&mut self, loss: Loss, seed: u64) {
        if let Loss::Unknown { list_id, standing } = loss {
            (self.identity.cluster_id, self.identity.list_id) = (0, list_id);
            self.standing = standing;
            self.disk = SimDisk::new(seed);
            self.faults.full_from_write = None;
            self.arm();
        }
        self.is_to_be_emptied = loss == Loss::Known;
    }

    /// No space after a few more writes.
    pub(crate) fn fill(&mut self, writes: u64) {
        self.faults.full_from_write = Some(self.disk.counts().writes + writes);
        self.arm();
    }

    /// There is space again, and no sync fails.
    pub(crate) fn free(&mut self) {
        (self.faults.full_from_write, self.faults.fail_sync) = (None, None);
        self.arm();
    }

    /// The next sync fails.
    pub(crate) fn fail_sync(&mut self) {
        self.faults.fail_sync = Some(self.disk.counts().syncs + 1);
        self.arm();
    }

    /// The process dies at this operation, counted from now. After that, nothing works until
    /// [`restart`](Device::restart).
    pub(crate) fn stop_after(&mut self, ops: u64) {
        let stop_at_op = self.disk.counts().ops + ops;
        let earlier = self.faults.stop_at_op.unwrap_or(u64::MAX);
        self.faults.stop_at_op = Some(stop_at_op.min(earlier));
        self.arm();
    }

    /// The process is gone with everything that it had open. The power may have gone as well.
    pub(crate) fn restart(&mut self, is_power_lost: bool) {
        if is_power_lost {
            self.disk.crash();
        }
        (self.faults.stop_at_op, self.faults.fail_sync) = (None, None);
        self.arm();
    }

    fn arm(&self) {
        self.disk.set_faults(self.faults.clone());
    }

    /// Whether a released segment waits to be the next one.
    pub(crate) fn has_recycled(&self) -> bool {
        let files = self.disk.files(&Path::new(DIR).join("wal"));
        files.iter().any(|file| file.to_string_lossy().contains("recycled-"))
    }
}
