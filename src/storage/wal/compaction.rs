//! The log and snapshots: it begins anew after a snapshot, and releases segments. The rules are in
//! the [module above](super).

use crate::raft::{HardState, Index, SnapshotMeta};
use crate::storage::StorageError;

use super::format::EntryId;
use super::segment::{Blank, file_name};
use super::{Wal, segment_len_bytes};

/// How many files are kept for the next segments. A log that is released up to a snapshot once in a
/// segment and a half needs as many.
const RECYCLED_MAX: usize = 2;

impl Wal {
    /// Begins the log anew after an installed snapshot. All entries are removed, also appended ones
    /// that are not synced yet. The hard state as appended stays, and is synced. The next entry is
    /// the one after `base`.
    ///
    /// The snapshot must be durable before the call, and its installation may be announced only
    /// when the call has returned. A crash in between does no harm: [`open`](Wal::open) with that
    /// snapshot does the same.
    ///
    /// # Errors
    /// As [`sync`](Wal::sync). After a [transient](StorageError::is_transient) failure, call either
    /// again.
    ///
    /// # Panics
    /// If the snapshot is older than the one before, or of a term that the hard state has not
    /// reached.
    pub fn reset(&mut self, base: SnapshotMeta) -> Result<(), StorageError> {
        self.check_failed()?;
        let (base, current) = (EntryId::from(base), self.hard_state.current_term);
        assert!(base.index >= self.base.index && base.index > Index::ZERO, "{base:?} goes back");
        assert!(base.term <= current, "{base:?} in term {current}");
        self.batch.begin_anew(base);
        (self.last, self.base, self.changed_from) = (base, base, Some(Index(1)));
        self.sync()?;
        self.release_through(base.index)
    }

    /// Releases the segments in which every entry has at most this index or was replaced. Two of
    /// them become the next segments; the space of the others is free. A snapshot that holds this
    /// entry must be durable before the call.
    ///
    /// # Errors
    /// As [`sync`](Wal::sync).
    pub fn release_through(&mut self, index: Index) -> Result<(), StorageError> {
        self.check_failed()?;
        self.lengths.forget_before(index);
        let result = (0..self.kept.removable(index)).try_for_each(|_| self.release_first());
        self.remember_failure(result)
    }

    /// How many bytes the log has after this entry, or up to 64 KiB more. It tells when to take a
    /// snapshot. Replaced entries count, and entries that were released do not.
    pub fn len_bytes_after(&self, index: Index) -> u64 {
        self.lengths.after(index)
    }

    /// The log has no entries that follow the snapshot: a crash came before [`reset`](Wal::reset),
    /// or this member led and its disk was behind what its followers had made committed (thesis
    /// §10.2.1). If the snapshot's term was not on the disk yet, it is now.
    pub(super) fn begin_after(&mut self, base: SnapshotMeta) -> Result<(), StorageError> {
        let (index, term) = (base.last_included_index, base.last_included_term);
        log::info!(
            "nothing in the log follows the snapshot up to entry {index}: the log begins anew there"
        );
        if term > self.hard_state.current_term {
            self.hard_state = HardState { current_term: term, voted_for: None };
        }
        self.reset(base)
    }

    /// The removal is durable before the next one, so a crash leaves no gap.
    fn release_first(&mut self) -> Result<(), StorageError> {
        let Some(first) = self.kept.first() else { return Ok(()) };
        let path = self.dir.path().join(file_name(first.sequence));
        let next_len = segment_len_bytes(self.segment.header.sequence + 1, self.segment_len_bytes);
        if self.recycled.len() < RECYCLED_MAX && first.len_bytes == next_len {
            let blank = self.dir.path().join(format!("recycled-{}.tmp", first.sequence));
            self.recycled.push_back(Blank::recycle(&*self.disk, &self.dir, &path, blank)?);
        } else {
            self.disk.remove(&path).map_err(StorageError::io("remove", &path))?;
            self.dir.sync()?;
        }
        self.kept.remove_first();
        Ok(())
    }
}
