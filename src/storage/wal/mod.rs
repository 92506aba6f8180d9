//! The write-ahead log: what a member must not forget, in the order of its promises.
//!
//! ```text
//! append ─┐
//! append ─┼─> one batch ── sync: one write, one fdatasync ──> active segment      spare (zeroed)
//! append ─┘                                                   wal/0000000007.wal  wal/spare.tmp
//! ```
//!
//! Everything that is appended between two [`sync`](Wal::sync) calls is one batch. After a crash a
//! batch is there as a whole or not at all, and it is there if `sync` had returned. An entry
//! replaces everything from its index on. The log is read once, when it is opened.
//!
//! # Files
//!
//! - `0000000001.wal`, `0000000002.wal`, ...: segments, numbered without a gap, from the oldest
//!   one kept; a batch never crosses from one to the next
//! - `<segment>.<offset>.torn`: an unfinished write that a start cut off (at most 16 MiB of it);
//!   the last eight are kept
//! - `*.tmp`: unfinished files; removed by the next start
//!
//! All numbers are little-endian. All checksums are CRC32C. Format 2:
//!
//! **A segment** begins with its header, written once, before the file gets its name:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 8 | `SYNCWAL\n` | to know the file |
//! | 8 | 4 | checksum of bytes 12 to 511 | |
//! | 12 | 4 | format version: 2 or 3 | others are refused. Up to here all versions are the same |
//! | 16 | 8 | segment number | the name says it too: a renamed file is noticed |
//! | 24 | 8 | length of the file | a cut file is noticed |
//! | 32 | 8 | number of the data directory | a file of another directory is noticed |
//! | 40 | 8 | member id | to say whose such a file is |
//! | 48 | 4 | flags: 1 = it was a segment before | then bytes after the log's end mean nothing |
//! | 52 | 4 | zero | |
//! | 56 | 8 | number of the first batch, from 1 | segments before can go; a lost one is noticed |
//! | 64 | 8 | index of the last entry before that batch; 0: none | |
//! | 72 | 8 | its term; 0: not known | |
//! | 80 | 432 | zero | the header is one sector |
//! | 512 | 512 | the mark, below | a sector of its own: rewriting it can't harm the header |
//! | 1024 | | batches, each at a multiple of 8 | then zeros |
//!
//! **The mark** says how far the segment is known to have been synced. It is zero until it is first
//! written. It is written when a start has recovered the log, when the log is closed, when the log
//! goes on in the next segment, and before bytes of an unfinished write are zeroed:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 4 | checksum of the rest, seeded | |
//! | 4 | 4 | flags: 1 = sealed | the log goes on in the next segment, which exists |
//! | 8 | 8 | where the last batch ends | if batches end before it, they were damaged, not torn |
//! | 16 | 8 | number of that batch | |
//! | 24 | 8 | how far an unfinished write may have left bytes; 0: nowhere | from the log's end on, they are to be zeroed |
//! | 32 | 480 | zero | |
//!
//! **A batch** is a header, records, and zeros up to a multiple of 8:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 4 | checksum of bytes 4 to 39, seeded | a damaged length is never followed |
//! | 4 | 4 | length of the records | |
//! | 8 | 8 | batch number, from 1, in all segments | no batch is missing |
//! | 16 | 8 | current term | the hard state as of this batch: so each segment begins with it, |
//! | 24 | 8 | voted for; 0: nobody | and those before can go once their entries are in a snapshot |
//! | 32 | 4 | checksum of the last record | ties the records to this header |
//! | 36 | 4 | number of records | |
//! | 40 | | records | |
//!
//! **A record** is an entry, or begins the log anew after one:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 4 | length of what follows the checksum | |
//! | 4 | 4 | checksum of the rest, continued from the record before | order and number count |
//! | 8 | 1 | kind: 1 no-op, 2 command, 4 configuration; 3 the log begins anew after this entry | |
//! | 9 | 8 | index | |
//! | 17 | 8 | term | |
//! | 25 | | the command, or the configuration ([`Configuration`](crate::raft::Configuration)) | |
//!
//! *Version 3* may have records of kind 4. Otherwise it is version 2, from before there were any.
//! The log of a directory that older programs can still use (`storage/meta.rs`) is of version 2.
//! Its first configuration begins a segment of version 3, and so are all later ones: an older
//! program says that it does not know this version, instead of taking the record for damage. A new
//! kind of record, or a new layout of configurations, needs a new version again.
//!
//! *Seeded* checksums start from the checksum of directory number, member id, segment number and
//! offset (8 bytes each). So only bytes that were written for this place count as a mark or a
//! batch: not those of another file, not a block that a disk put elsewhere, not what a recycled
//! file held before, not a value that contains a log. The number of the directory is random, and
//! `meta` has it too (`storage/data_dir.rs`). It stands for the cluster here, which a member may
//! learn only from this log.
//!
//! # Recovery
//!
//! Batches are read from the first segment on, until there is no whole one. What is found there
//! decides. B is the number of the last whole batch, and "after" means after its end:
//!
//! - *the segment's seal*: the next segment goes on, whatever follows the end that the seal names;
//!   if that segment is missing, **damage**
//! - *the mark says that the segment was synced beyond this point*: **damage**
//! - *anywhere after, also in a later segment, a header of a batch newer than B + 1, or of B + 1
//!   elsewhere than here*: **damage**: it was written after this had been synced
//! - *only zeros, and the next segment begins with batch B + 1, or its mark says that it will*: the
//!   next segment goes on; the seal could not be read
//! - *a whole header of batch B + 1, its records not whole, nothing after it*: **torn**: never
//!   acknowledged
//! - *no whole header, and some bytes that are not zero*: **torn**
//! - *a whole header, its records not whole, bytes after it*: **damage**
//! - *zeros*: the end
//!
//! One batch is written at a time, and only after all before it were synced. So a batch newer than
//! B + 1 proves that B + 1 was synced. Any part of a torn write may be missing, and its sectors may
//! have arrived in any order.
//!
//! The following is always damage, because header, length and name are durable before the first
//! batch: a wrong header of a segment, a file that was cut anywhere but in the zeros after the
//! log's end, and a missing segment. So are indexes with a gap, and terms or votes that go back.
//! [`Corrupt`](StorageError::Corrupt) names file and offset, and the log is left as it is. Bytes
//! that somebody has added to a file, beyond the length in its header, are not part of the log:
//! they are kept aside as `.torn`, and cut.
//!
//! # The log and its snapshot
//!
//! The caller of [`open`](Wal::open) has loaded a snapshot and names its last entry, the *base*.
//! `open` returns the entries after it. The log itself says after which entry it begins, its
//! *start*: in the first segment's header, or in a later record of kind 3. An entry at or before
//! the start in the header moves the start back, because the entries after it were replaced.
//!
//! - *the start is after the base*: **damage**: the entries in between are missing, or the snapshot
//!   is
//! - *the log has the base, of the same term*: the entries after it are returned
//! - *the log has the base, of another term*: the log begins anew: the entries of the snapshot are
//!   committed, so these are not
//! - *the log ends before the base*: the log begins anew
//! - *the first segment is not number 1 and has no whole batch*: **damage**: a hard state was in it
//!
//! A base of another term is the case of Raft §7. A crash between the rename of an installed
//! snapshot and [`reset`](Wal::reset) leads there. Which of the terms is higher says nothing: in
//! figure 8 (c), entry 2 of term 2 may be committed while S5 holds an entry 2 of term 3. The log
//! may end before the base for the same reason. Or its member led, and the others had committed
//! entries that its own disk did not have yet (thesis §10.2.1). If the term of the base is newer
//! than the hard state, it becomes the hard state's term, without a vote: the crash came before it
//! was written.
//!
//! *Beginning anew* is one batch with a record of kind 3, so it happens as a whole or not at all.
//! Then the segments that it makes superfluous are released.
//!
//! *Releasing* removes segments, the oldest first. Each removal is durable before the next, so a
//! crash leaves no gap. A segment is removed when every entry in it is released or replaced, and
//! when a later segment that stays has a batch, and with it the hard state. Two files are kept as
//! `recycled-<number>.tmp`, to become the next segments: they have all their blocks, so they need
//! not be zeroed. (With one, a log that is released every 70 MiB zeroed every other segment.) The
//! name of each is durably gone before it is written to, and no number is used twice, so none of
//! its old bytes matches a checksum. The log releases nothing by itself: its caller says up to
//! which entry.
//!
//! A seal is written when everything before its end has been synced, so nothing after that end was
//! ever acknowledged. An older program can have left bytes there, as its marks did not name what it
//! had to zero.
//!
//! A torn tail is copied aside, and the mark says, durably, how far it reaches. Then it is
//! overwritten with zeros, and synced, and the mark says that it is gone. If the sync of the zeros
//! fails, the next process sees zeros in the system's memory, while the disk may keep the old
//! bytes. After a later torn batch they would look like damage, so each start zeroes what the mark
//! names, from the log's end on. If the disk is full, the log does so before it writes.
//!
//! Before `open` returns, it writes the last batch once more, and the last seal if no batch follows
//! it, and syncs all files and the directory. Otherwise it would promise what a killed process, or
//! a failed sync, has left only in the system's memory.
//!
//! What this cannot see: damage to the very last batch before a crash, if it happens between that
//! batch's sync and the next sync. It looks like a torn batch. After the next batch, the next start
//! or a clean stop it is seen. (Raft survives the loss of that member's batch if such damage is
//! rare. No log without a second place to write can do better.) Damage to the mark is ignored, with
//! a warning: it does harm only together with damage to the last batch.
//!
//! # Rolling over, and preparing ahead
//!
//! A batch that does not fit, or whose configuration needs version 3, begins a new segment, which
//! is longer than usual if the batch needs it. In this order: the new file gets header and length
//! and is synced; it gets its name; the directory is synced; the old segment is sealed and synced;
//! the batch is written. That is four small syncs once a segment. The first segment has 1 MiB, and
//! each next one twice as much, up to [`WalOptions::segment_len_bytes`]. So a new member starts at
//! once, and a small log stays small.
//!
//! Writing 16 KiB and fdatasyncing it, again and again (ext4, virtual disk, 2 cores; medians in
//! microseconds):
//!
//! | growing file | hole (`set_len`) | `fallocate` | zeros written before |
//! |---|---|---|---|
//! | 56 to 84 | 55 to 64 | 52 to 54 | **37 to 38** |
//!
//! (256 bytes at a time: 26 to 33, growing 40 to 52. 64 MiB of zeros and a sync: 90 ms.) So a
//! thread zeroes the next segment ahead, and keeps pace with the log (`spare.rs`). It works in
//! steps of 128 KiB: a sync that meets such a step takes 0.15 ms, and 0.3 ms with steps of 512 KiB.
//! A log that is faster takes the file as it is: the rest of the segment is a hole, whose extra
//! cost is small beside the data written.
//!
//! # Failures
//!
//! After a failed write or sync the log is not used any more: every later call returns the same
//! error. There are two exceptions. If a write reports a full disk, the batch stays in memory, what
//! was half written is zeroed before the next try, as a torn tail is, and nothing that was
//! acknowledged is touched. (A *sync* that reports a full disk is a failed sync.) And a file may
//! not open for lack of a descriptor: files are opened before anything is changed, and the
//! directory stays open, so its sync needs no descriptor.
//!
//! # Left out
//!
//! - Reading entries after the start: the core has them in memory.
//! - Returning entries from before the base: a member that starts sends its snapshot to followers
//!   that need them.

mod batch;
mod compaction;
mod format;
mod kept;
mod recovery;
mod replay;
pub(super) mod segment;
mod spare;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::ErrorChain;
use crate::raft::{Entry, HardState, Index, SnapshotMeta};

use super::disk::{Disk, DiskLock};
use super::identity::LogOwner;
use super::open_dir::OpenDir;
use super::{DataDir, StorageError};
use batch::{BODY_LEN_MAX_BYTES, PendingBatch};
use format::{EntryId, FIRST_BATCH_OFFSET, Mark, SegmentHeader, VERSION, VERSION_WITHOUT};
use kept::{KeptSegments, Lengths};
use recovery::RecoveryEnd;
use replay::{Continuation, Replay};
use segment::{Blank, Segment, write_zeros};
use spare::SpareMaker;

/// Segments are a multiple of this, and at least this long.
const BLOCK_LEN_BYTES: u64 = 4096;

/// How the log uses the disk.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The length of a full-grown segment, rounded up to 4 KiB. The first segments are smaller:
    /// they double from 1 MiB. Default 64 MiB. Too small: more pauses for new files. Too large:
    /// space is freed in larger pieces.
    pub segment_len_bytes: u64,
    /// Whether a thread zeroes the next segment ahead, which makes appending to it cheaper. Default
    /// true. A simulator turns it off, to repeat a run exactly.
    pub prepare_ahead: bool,
}

impl Default for WalOptions {
    fn default() -> Self {
        WalOptions { segment_len_bytes: 64 << 20, prepare_ahead: true }
    }
}

/// What the log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The newest hard state.
    pub hard_state: HardState,
    /// The entries after the base, or from index 1, without a gap.
    pub entries: Vec<Entry>,
    /// What was cut off the end: a part of a write that was never acknowledged.
    pub torn: Option<TornTail>,
}

/// The part that a crash left of a write. It was cut off and kept aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where the segment was cut.
    pub offset: u64,
    /// How much was cut.
    pub len_bytes: u64,
    /// Where the cut bytes are now, unless they could not be kept.
    pub kept_in: Option<PathBuf>,
}

impl fmt::Display for TornTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, TornTail { offset, len_bytes, .. }) = (self.file.display(), self);
        write!(f, "cut an unfinished write of {len_bytes} bytes from {file} at offset {offset}")?;
        match &self.kept_in {
            Some(path) => write!(f, ", kept in {}", path.display()),
            None => Ok(()),
        }
    }
}

/// The write-ahead log of one member. The [module](self) says what it promises.
///
/// One thread at a time writes. [`sync`](Wal::sync) blocks it until the disk is done. Dropping the
/// log without [`close`](Wal::close) leaves the files as a crash would.
#[derive(Debug)]
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: OpenDir,
    owner: LogOwner,
    segment_len_bytes: u64,
    /// The active segment, and where its next batch goes.
    segment: Segment,
    end: u64,
    /// How far a write that met a full disk may have reached. The bytes up to here are zeroed
    /// before the next write.
    dirty_end: u64,
    /// The number of the last batch written.
    sequence: u64,
    /// The hard state as appended; `synced_hard_state` is the one on the disk.
    hard_state: HardState,
    synced_hard_state: HardState,
    /// The last entry as appended; `synced_last` is the one on the disk.
    last: EntryId,
    synced_last: EntryId,
    /// The end of the snapshot that the log follows: no entry up to here is replaced any more.
    base: EntryId,
    /// The first entry that the pending batch replaces or adds.
    changed_from: Option<Index>,
    batch: PendingBatch,
    kept: KeptSegments,
    lengths: Lengths,
    spare: Option<SpareMaker>,
    /// The file of a segment that was released, to become the next one.
    recycled: VecDeque<Blank>,
    failed: Option<StorageError>,
    /// The directory stays ours while we write in it.
    _lock: Arc<DiskLock>,
}

impl Wal {
    /// Opens the log of a data directory, or begins one, and returns the entries after `base`, the
    /// end of the snapshot that the caller has loaded.
    ///
    /// Everything that it returns is durable. What a crash left unfinished has been cut: see
    /// [`Recovered::torn`]. A log without entries that follow the snapshot begins anew after it.
    ///
    /// # Errors
    /// - [`Corrupt`](StorageError::Corrupt): something that was synced has changed, or the log does
    ///   not reach back to the base. Nothing was touched.
    /// - [`NewerFormat`](StorageError::NewerFormat),
    ///   [`UnreleasedFormat`](StorageError::UnreleasedFormat): another version wrote it.
    /// - [`Io`](StorageError::Io), [`Full`](StorageError::Full): the system refused.
    pub fn open(
        dir: &DataDir,
        options: WalOptions,
        base: Option<SnapshotMeta>,
    ) -> Result<(Wal, Recovered), StorageError> {
        let (disk, wal_dir) = (dir.disk(), dir.wal_dir());
        let found = match disk.is_dir(&wal_dir) {
            true => recovery::recover(disk, &wal_dir, dir.log_owner(), base)?,
            false => None,
        };
        let outcome = match found {
            Some(outcome) => outcome,
            None if dir.is_log_started() => {
                let reason = "the log is gone: there is no segment".to_string();
                return Err(StorageError::Corrupt { file: wal_dir, offset: 0, reason });
            }
            None => begin(dir, &options, base)?,
        };
        if !dir.is_log_started() {
            dir.mark_log_started()?;
        }
        Wal::new(dir, &options, outcome, base)
    }

    fn new(
        dir: &DataDir,
        options: &WalOptions,
        outcome: RecoveryEnd,
        base: Option<SnapshotMeta>,
    ) -> Result<(Wal, Recovered), StorageError> {
        let RecoveryEnd { replay, continuation, torn, segment, end, dirty_end } = outcome;
        let (disk, owner, wal_dir) = (dir.disk(), dir.log_owner(), dir.wal_dir());
        let spare_path = wal_dir.join("spare.tmp");
        let start_spare = || SpareMaker::start(Arc::clone(disk), spare_path, owner.member_id);
        let last = replay.last();
        let mut wal = Wal {
            disk: Arc::clone(disk),
            dir: OpenDir::open(&**disk, wal_dir)?,
            owner,
            segment_len_bytes: segment_len_max_bytes(options),
            segment,
            end,
            dirty_end,
            sequence: replay.sequence,
            hard_state: replay.hard_state,
            synced_hard_state: replay.hard_state,
            last,
            synced_last: last,
            base: base.map_or(EntryId::default(), EntryId::from),
            changed_from: None,
            batch: PendingBatch::new(),
            kept: replay.kept,
            lengths: replay.lengths,
            spare: options.prepare_ahead.then(start_spare),
            recycled: VecDeque::new(),
            failed: None,
            _lock: Arc::clone(dir.lock()),
        };
        let entries = match (continuation, base) {
            (Continuation::Nothing, Some(base)) => wal.begin_after(base).map(|()| Vec::new())?,
            (Continuation::Nothing, None) => Vec::new(),
            (Continuation::Entries(entries), _) => entries,
        };
        let recovered = Recovered { hard_state: wal.hard_state, entries, torn };
        Ok((wal, recovered))
    }

    /// Adds to the batch that the next [`sync`](Wal::sync) writes. Nothing is durable before that.
    ///
    /// An entry replaces the log's entry at its index and all entries after it. `hard_state`
    /// replaces the one before, and belongs to the same batch in any order.
    ///
    /// # Errors
    /// - After an earlier failure: that error again.
    /// - [`TooLarge`](StorageError::TooLarge): more than a GiB since the last sync.
    ///
    /// # Panics
    /// If the log would become invalid: an index that leaves a gap or is not after the base, a term
    /// or a hard state that goes back, an entry of a term that the hard state has not reached, a
    /// vote for member 0.
    pub fn append(
        &mut self,
        hard_state: Option<HardState>,
        entries: &[Entry],
    ) -> Result<(), StorageError> {
        self.check_failed()?;
        let (len_bytes, max_bytes) = (self.batch.body_len_with(entries), BODY_LEN_MAX_BYTES);
        if len_bytes > max_bytes {
            return Err(StorageError::TooLarge { len_bytes, max_bytes });
        }
        if let Some(new) = hard_state {
            assert_hard_state_follows(self.hard_state, new);
            self.hard_state = new;
        }
        assert_entries_follow(self.base.index, self.last.index, self.hard_state, entries);
        if let Some(first) = entries.first() {
            let from = self.changed_from.unwrap_or(first.index);
            self.changed_from = Some(from.min(first.index));
        }
        for entry in entries {
            self.batch.push(entry);
            self.last = EntryId::of(entry);
        }
        Ok(())
    }

    /// Makes everything that was appended durable, with one write and one fdatasync. Does nothing
    /// if nothing was appended.
    ///
    /// # Errors
    /// - [`Full`](StorageError::Full), [`NoDescriptor`](StorageError::NoDescriptor): the log is
    ///   unharmed, and what was appended still waits: call again.
    /// - Any other error is final. Whether the batch is durable is unknown, the log is not used any
    ///   more, and every later call returns the same error.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.check_failed()?;
        let result = self.write_batch();
        self.remember_failure(result)
    }

    /// Syncs what was appended, and marks how far the log goes. So the next start can tell damage
    /// from an unfinished write. A failure is logged: it costs only the mark.
    pub fn close(mut self) {
        if let Err(err) = self.sync().and_then(|()| self.write_final_mark()) {
            log::warn!("the log was not closed cleanly: {}", ErrorChain(&err));
        }
    }

    fn check_failed(&self) -> Result<(), StorageError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn remember_failure(&mut self, result: Result<(), StorageError>) -> Result<(), StorageError> {
        if let Err(err) = &result
            && !err.is_transient()
        {
            self.failed = Some(err.clone());
        }
        result
    }

    fn write_batch(&mut self) -> Result<(), StorageError> {
        if !self.batch.has_records() && self.hard_state == self.synced_hard_state {
            return Ok(());
        }
        self.clear_dirty()?;
        let len = self.batch.len_bytes();
        let header = &self.segment.header;
        if self.end + len > header.len_bytes || self.batch.version() > header.version {
            self.roll_over(len)?;
        }
        self.dirty_end = self.end + len;
        let Segment { header, file, path, .. } = &self.segment;
        let write = |bytes: &[u8]| {
            file.write_all_at(bytes, self.end).map_err(StorageError::io("write", path))
        };
        self.batch.with_bytes(self.sequence + 1, self.hard_state, header.seed(self.end), write)?;
        self.segment.sync()?;
        self.end += len;
        self.sequence += 1;
        self.synced_hard_state = self.hard_state;
        self.synced_last = self.last;
        let from = self.changed_from.take();
        self.kept.wrote(from, self.last.index);
        self.lengths.wrote(from, self.last.index, len);
        self.batch.clear();
        self.follow_with_spare();
        Ok(())
    }

    /// Zeroes what a write left behind that met a full disk. The bytes after the log's end must be
    /// zero, and the batch may have become longer meanwhile, or go to another segment.
    fn clear_dirty(&mut self) -> Result<(), StorageError> {
        if self.dirty_end > self.end {
            self.segment.erase(self.end, self.sequence, self.dirty_end)?;
            self.dirty_end = self.end;
        }
        Ok(())
    }

    /// Goes on in a new segment, in which a batch of this length has room. Recovery relies on the
    /// order: the new segment exists durably, then the old one is sealed durably, then a batch is
    /// written to the new one.
    fn roll_over(&mut self, batch_len_bytes: u64) -> Result<(), StorageError> {
        let sequence = self.segment.header.sequence + 1;
        let len = (FIRST_BATCH_OFFSET + batch_len_bytes)
            .max(segment_len_bytes(sequence, self.segment_len_bytes));
        let len_bytes = len.next_multiple_of(BLOCK_LEN_BYTES);
        let header = SegmentHeader {
            version: self.segment.header.version.max(self.batch.version()),
            sequence,
            len_bytes,
            owner: self.owner,
            is_recycled: false,
            first_batch: self.sequence + 1,
            previous: self.synced_last,
        };
        let blank = match self.take_blank() {
            Some(blank) => blank,
            None => Blank::create(&*self.disk, self.dir.path().join("next.tmp"))?,
        };
        let next = blank.into_segment(&*self.disk, &self.dir, header)?;
        self.segment.write_mark(Mark { is_sealed: true, ..Mark::at(self.end, self.sequence) })?;
        self.segment = next;
        (self.end, self.dirty_end) = (FIRST_BATCH_OFFSET, FIRST_BATCH_OFFSET);
        self.kept.begin(sequence, len_bytes);
        Ok(())
    }

    fn take_blank(&mut self) -> Option<Blank> {
        self.recycled.pop_front().or_else(|| self.spare.as_mut().and_then(SpareMaker::take))
    }

    fn follow_with_spare(&mut self) {
        if !self.recycled.is_empty() {
            return;
        }
        let SegmentHeader { sequence, len_bytes, .. } = self.segment.header;
        if let Some(spare) = &mut self.spare {
            spare.follow(
                self.end,
                len_bytes,
                segment_len_bytes(sequence + 1, self.segment_len_bytes),
            );
        }
    }

    fn write_final_mark(&mut self) -> Result<(), StorageError> {
        self.clear_dirty()?;
        self.segment.write_mark(Mark::at(self.end, self.sequence))
    }
}

/// Makes the first segment of a new log, which is short and zeroed at once.
fn begin(
    dir: &DataDir,
    options: &WalOptions,
    base: Option<SnapshotMeta>,
) -> Result<RecoveryEnd, StorageError> {
    let (disk, wal_dir) = (&**dir.disk(), dir.wal_dir());
    let len_bytes = segment_len_bytes(1, segment_len_max_bytes(options));
    let header = SegmentHeader {
        version: if dir.has_configurations() { VERSION } else { VERSION_WITHOUT },
        sequence: 1,
        len_bytes,
        owner: dir.log_owner(),
        is_recycled: false,
        first_batch: 1,
        previous: EntryId::default(),
    };
    let blank = Blank::create(disk, wal_dir.join("next.tmp"))?;
    write_zeros(&*blank.file, 0, len_bytes).map_err(StorageError::io("write", &blank.path))?;
    let segment = blank.into_segment(disk, &OpenDir::open(disk, wal_dir)?, header)?;
    let mut replay = Replay::default();
    replay.begin(&segment)?;
    let continuation = replay.connect(base)?;
    let end = FIRST_BATCH_OFFSET;
    Ok(RecoveryEnd { replay, continuation, torn: None, segment, end, dirty_end: end })
}

fn segment_len_max_bytes(options: &WalOptions) -> u64 {
    options.segment_len_bytes.max(1).next_multiple_of(BLOCK_LEN_BYTES)
}

/// How long a segment is. The first ones are short, so a small log stays small.
fn segment_len_bytes(sequence: u64, max_bytes: u64) -> u64 {
    const FIRST_LEN_BYTES: u64 = 1 << 20;
    let doublings = (sequence - 1).min(32);
    (FIRST_LEN_BYTES << doublings).min(max_bytes)
}

fn assert_hard_state_follows(old: HardState, new: HardState) {
    assert!(new.voted_for.is_none_or(|member| member.0 != 0), "members are numbered from 1");
    assert!(new.current_term >= old.current_term, "the term goes back: {old:?}, {new:?}");
    let same_term = new.current_term == old.current_term;
    assert!(
        !same_term || old.voted_for.is_none() || new.voted_for == old.voted_for,
        "the vote changes: {old:?}, {new:?}"
    );
}

fn assert_entries_follow(base: Index, last: Index, hard_state: HardState, entries: &[Entry]) {
    let mut previous: Option<&Entry> = None;
    for entry in entries {
        let (index, term) = (entry.index, entry.term);
        let follows = match previous {
            Some(previous) => index == previous.index.next() && term >= previous.term,
            None => index > base && index <= last.next(),
        };
        assert!(follows, "entry {index} of term {term} after {last}, {previous:?}");
        assert!(
            term <= hard_state.current_term,
            "entry {index} of term {term} in term {}",
            hard_state.current_term
        );
        previous = Some(entry);
    }
}
