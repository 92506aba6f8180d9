//! The write-ahead log: what a member must not forget, in the order in which it promised it.
//!
//! ```text
//! append ─┐
//! append ─┼─> one batch ── sync: one write, one fdatasync ──> active segment     spare (zeroed ahead by a thread)
//! append ─┘                                                   wal/0000000007.wal  wal/spare.tmp
//! ```
//!
//! All that is appended between two [`sync`](Wal::sync) calls is one batch: after a crash it is there as a whole or not at
//! all, and it is there if `sync` had returned. An entry at an index replaces everything from that index on. The log is
//! read once, when it is opened.
//!
//! # Files
//!
//! | Name in `wal/` | What |
//! |---|---|
//! | `0000000001.wal`, `0000000002.wal`, ... | segments, numbered without a gap from the first that is kept on; a batch never crosses from one to the next |
//! | `<segment>.<offset>.torn` | an unfinished write that a start cut off (at most 16 MiB of it); the last eight are kept |
//! | `*.tmp` | files in the making; removed by the next start |
//!
//! All numbers are little-endian. All checksums are CRC32C. Version 1:
//!
//! **A segment** begins with its header, written once, before the file gets its name:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 8 | `SYNCWAL\n` | to know the file |
//! | 8 | 4 | checksum of bytes 12 to 511 | |
//! | 12 | 4 | format version: 1 | a later one is refused. In all versions up to here the same |
//! | 16 | 8 | segment number | the name says it too: a renamed file is noticed |
//! | 24 | 8 | length of the file | a cut file is noticed |
//! | 32 | 8 | cluster id | a file of another cluster or member is noticed |
//! | 40 | 8 | member id | |
//! | 48 | 4 | flags: 1 = the file was a segment before | then bytes after the log's end mean nothing |
//! | 52 | 4 | zero | |
//! | 56 | 8 | number of the first batch in it; 0 in the oldest files | segments before it can go, and a lost one is noticed |
//! | 64 | 8 | index of the last entry before that batch; 0: none | |
//! | 72 | 8 | its term; 0: not known | |
//! | 80 | 432 | zero | the header is one sector |
//! | 512 | 512 | the mark, below | a sector of its own: rewriting it can't harm the header |
//! | 1024 | | batches, each at a multiple of 8 | then zeros |
//!
//! **The mark** says how far the segment is known to have been synced. It is zero until it is first written; it is
//! written when a start has recovered the log, when the log is closed, and when the next segment takes over:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 4 | checksum of the rest, seeded | |
//! | 4 | 4 | flags: 1 = sealed | the log goes on in the next segment, which exists |
//! | 8 | 8 | offset where the last batch ends | if batches end before it, they were damaged, not torn |
//! | 16 | 8 | number of that batch | |
//! | 24 | 488 | zero | |
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
//! | 4 | 4 | checksum of the length and of what follows, continued from the record before | order and number count |
//! | 8 | 1 | kind: 1 no-op, 2 command, 3 the log begins anew after this entry | |
//! | 9 | 8 | index | |
//! | 17 | 8 | term | |
//! | 25 | | the command | |
//!
//! *Seeded* checksums start from the checksum of cluster id, member id, segment number and offset (8 bytes each). So no
//! bytes count as a mark or a batch except those that were written for this place: not those of another file, not a block
//! that a disk put elsewhere, not what a recycled file held in its former life, not a value that contains a log.
//!
//! # Recovery
//!
//! Batches are read from the first segment on, until there is none. What is found there decides; B is the number of the
//! last whole batch, and "after" means after its end:
//!
//! | Found | Verdict |
//! |---|---|
//! | the segment's seal | the next segment goes on, whatever stands after the end that the seal names; if it is missing, **damage** |
//! | the mark says that the segment was synced beyond this point | **damage** |
//! | anywhere after, also in a later segment, a header of a batch newer than B + 1, or of B + 1 elsewhere than here | **damage**: it was written after this had been synced |
//! | the next segment begins with batch B + 1, and here are only zeros | it goes on; the seal could not be read |
//! | a whole header of batch B + 1, its records not whole, nothing after it | **torn**: never acknowledged |
//! | no whole header, and some bytes that are not zero | **torn** |
//! | a whole header, its records not whole, bytes after it | **damage** |
//! | zeros | the end |
//!
//! One batch is written at a time, and only after all before it were synced. Hence any batch newer than B + 1 proves that
//! B + 1 was synced; and of a torn write any part may be missing and its sectors may have arrived in any order. Damage in a
//! segment's header, a file that was cut anywhere but in the zeros after the log's end, and a missing segment are always
//! damage: header, length and name are durable before the first batch. So are indexes that leave a gap, and terms or votes
//! that go back. [`Corrupt`](StorageError::Corrupt) names file and offset; the log is then left as it is. What someone has
//! added to a file beyond the length that its header says is no part of the log: it is kept aside as `.torn`, and cut.
//!
//! # The log and its snapshot
//!
//! [`open`](Wal::open) is told where the snapshot ends that its caller has loaded, the *base*, and returns the entries after
//! it. The log itself says after which entry it begins, its *start*: the first segment's header does, or a later record of
//! kind 3. An entry at or before what the header says moves the start back: those after it were replaced.
//!
//! | Found | Verdict |
//! |---|---|
//! | the start is after the base | **damage**: entries are missing in between, or the snapshot is |
//! | the log has the base, of the same term | the entries after it follow |
//! | the log has the base, of another term | the log begins anew: what is in a snapshot is committed, so all from there on is not |
//! | the log ends before the base | the log begins anew |
//! | the first segment is not number 1 and has no whole batch | **damage**: a hard state was in it |
//!
//! The last but two is Raft §7, and a crash between the rename of an installed snapshot and [`reset`](Wal::reset) leads
//! there. Which term is the higher one says nothing: in figure 8 (c), entry 2 of term 2 may be committed while S5 holds one of
//! term 3 in its place. The log may end before the base for the same reason, or because its leader, alone among the
//! cluster, had not written yet what the others had made committed (thesis §10.2.1). If the term of the base is newer than
//! the hard state, it becomes that, without a vote: the crash came before it was written.
//!
//! *Beginning anew* is one batch with a record of kind 3, so it happens as a whole or not at all; what it makes superfluous
//! is then released. *Releasing* removes segments, the oldest first, each removal durable before the next: a crash leaves no
//! gap. A segment goes when every entry in it is released or was replaced, and when a later one that stays has a batch,
//! and so the hard state. One file at a time is kept as `recycled.tmp`, to be the next segment: it has all its blocks, so it
//! need not be zeroed. Its name is durably gone before it is written to, and no number is used twice, so nothing of its
//! former life matches a checksum.
//!
//! A seal is written when all before its end has been synced, so nothing after that end was ever acknowledged. Bytes may stand
//! there all the same: a write met a full disk, its zeroing met a sync that failed, the process that came next saw the
//! zeros in the system's memory, went on in another segment, and then the power went.
//!
//! A torn tail is copied aside, overwritten with zeros, synced; then the mark is written. A crash anywhere in that leaves a
//! torn tail again. Before anything is returned, the last batch is written once more and all files and the directory are
//! synced: what a killed process left in the system's memory, or a failed sync in its memory only, would otherwise be
//! promised now and could still be lost.
//!
//! What this can't see: damage to the very last batch before a crash, within the time from its sync to the next one, looks
//! like that batch being torn. From the next batch, the next start or a clean stop on it is seen. (Raft bears that member's
//! loss only if it is rare; no log without a second place to write can do better.) Damage to the mark is ignored, with a
//! warning: it takes a second damage, to the last batch, for harm to come of it.
//!
//! # Rolling over, and preparing ahead
//!
//! A batch that does not fit begins a segment, as long as it needs if that is longer than usual. In this order: the new
//! file has header and length and is synced; it gets its name; the directory is synced; the old segment is sealed and
//! synced; the batch is written. Four small syncs once a segment. The first segment is 1 MiB, each next one twice as long
//! up to [`WalOptions::segment_len_bytes`], so that a fresh member starts at once and a small one stays small.
//!
//! Writing 16 KiB and fdatasyncing it, again and again (ext4, virtual disk, 2 cores; medians in microseconds):
//!
//! | growing file | hole (`set_len`) | `fallocate` | zeros written before |
//! |---|---|---|---|
//! | 56 to 84 | 55 to 64 | 52 to 54 | **37 to 38** |
//!
//! (256 bytes at a time: 26 to 33, growing 40 to 52. 64 MiB of zeros and a sync: 90 ms.) So segments are zeroed ahead, by a
//! thread that keeps pace with the log (`spare.rs`), in steps of 128 KiB: a sync that meets such a step takes 0.15 ms, with
//! steps of 512 KiB 0.3 ms. If the log is faster than that, it takes what there is: the rest of the segment is a hole, and
//! what it costs more is then small against the data written.
//!
//! # Failures
//!
//! A write or sync that fails ends the use of the log: every later call returns the same error. A full disk is the
//! exception, if a write reports it: the batch stays in memory, what was half written is zeroed before the next try, and
//! nothing that was acknowledged is touched. (A *sync* that reports a full disk is a failed sync.) The other exception is a
//! file that cannot be opened for want of a descriptor: files are opened before anything is changed, and the directory
//! stays open, so that its sync needs none.
//!
//! # Left out
//!
//! Reading entries after the start: the core has them in memory. Returning entries from before the base: a member that
//! starts sends its snapshot to followers that need them.

mod batch;
mod compaction;
mod format;
mod kept;
mod recovery;
mod replay;
mod segment;
mod spare;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::ErrorChain;
use crate::raft::{Entry, HardState, Index, SnapshotMeta};

use super::disk::{Disk, DiskLock};
use super::open_dir::OpenDir;
use super::{DataDir, Identity, StorageError};
use batch::{BODY_LEN_MAX_BYTES, PendingBatch};
use format::{EntryId, FIRST_BATCH_OFFSET, Mark, SegmentHeader};
use kept::{KeptSegments, Lengths};
use recovery::Outcome;
use replay::{Continuation, Replay};
use segment::{Blank, Segment, write_zeros};
use spare::SpareMaker;

/// Whether a file of this name is a segment of the log.
pub(super) fn is_segment_name(name: &str) -> bool {
    segment::parse_file_name(name).is_some()
}

/// Segments are a multiple of this, and at least this long.
const BLOCK_LEN_BYTES: u64 = 4096;

/// How the log uses the disk.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The length of a full-grown segment, rounded up to 4 KiB; the first ones are smaller, doubling from 1 MiB.
    /// Default 64 MiB. Too small: a pause for a new file more often. Too large: space is given back in larger pieces.
    pub segment_len_bytes: u64,
    /// Whether the next segment is zeroed ahead by a thread, which makes appending to it cheaper. Default true. A
    /// simulator that wants the same run twice turns it off.
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
    /// What was cut off the end: the rest of a write that was never acknowledged.
    pub torn: Option<TornTail>,
}

/// The rest of a write that a crash interrupted: cut off, and kept aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where it was cut.
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

/// The write-ahead log of one member. See the [module](self) for what it promises.
///
/// One thread writes; [`sync`](Wal::sync) blocks it until the disk is done. Dropped without [`close`](Wal::close) it
/// leaves the files as a crash would.
#[derive(Debug)]
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: OpenDir,
    identity: Identity,
    segment_len_bytes: u64,
    /// The active segment, and where its next batch goes.
    segment: Segment,
    end: u64,
    /// How far a write that met a full disk may have reached: zeroed before the next one.
    dirty_end: u64,
    /// Of the last batch written.
    sequence: u64,
    /// As appended; `synced_hard_state` is what the disk has.
    hard_state: HardState,
    synced_hard_state: HardState,
    /// The last entry, as appended; `synced_last` is what the disk has.
    last: EntryId,
    synced_last: EntryId,
    /// The snapshot that the log follows: nothing up to there is replaced any more.
    base: EntryId,
    /// From where on the pending batch replaces what was written.
    changed_from: Option<Index>,
    batch: PendingBatch,
    kept: KeptSegments,
    lengths: Lengths,
    spare: Option<SpareMaker>,
    /// The file of a segment that was given back, to be the next one.
    recycled: Option<Blank>,
    failed: Option<StorageError>,
    /// The directory stays ours for as long as we write in it.
    _lock: Arc<DiskLock>,
}

impl Wal {
    /// Opens the log of a data directory, or begins one, and returns what it holds after `base`: where the snapshot ends
    /// that the caller has loaded.
    ///
    /// All that it returns is durable. What a crash left unfinished has been cut: see [`Recovered::torn`]. A log that has
    /// nothing that follows the snapshot begins anew after it.
    ///
    /// # Errors
    /// - [`Corrupt`](StorageError::Corrupt): something that was synced has changed, or the log does not reach back to the
    ///   base; nothing was touched
    /// - [`NewerFormat`](StorageError::NewerFormat): written by a later version
    /// - [`Io`](StorageError::Io), [`Full`](StorageError::Full): the system refused
    pub fn open(
        dir: &DataDir,
        options: WalOptions,
        base: Option<SnapshotMeta>,
    ) -> Result<(Wal, Recovered), StorageError> {
        let (disk, identity, wal_dir) = (dir.disk(), dir.identity(), dir.wal_dir());
        let found = match disk.is_dir(&wal_dir) {
            true => recovery::recover(disk, &wal_dir, identity, base)?,
            false => None,
        };
        let outcome = match found {
            Some(outcome) => outcome,
            None if dir.is_log_started() => {
                let reason = "the log is gone: there is not one segment".to_string();
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
        outcome: Outcome,
        base: Option<SnapshotMeta>,
    ) -> Result<(Wal, Recovered), StorageError> {
        let Outcome { replay, continuation, torn, segment, end } = outcome;
        let (disk, identity, wal_dir) = (dir.disk(), dir.identity(), dir.wal_dir());
        let spare_path = wal_dir.join("spare.tmp");
        let start_spare = || SpareMaker::start(Arc::clone(disk), spare_path, identity.member_id);
        let last = replay.last();
        let mut wal = Wal {
            disk: Arc::clone(disk),
            dir: OpenDir::open(&**disk, wal_dir)?,
            identity,
            segment_len_bytes: segment_len_max_bytes(options),
            segment,
            end,
            dirty_end: end,
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
            recycled: None,
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

    /// Adds to the batch that the next [`sync`](Wal::sync) writes. Nothing is durable before.
    ///
    /// An entry replaces the one that the log has at its index, and all after it. `hard_state`, if given, replaces the one
    /// before; it belongs to the same batch, whatever the order.
    ///
    /// # Errors
    /// - After an earlier failure: that one again.
    /// - [`TooLarge`](StorageError::TooLarge): more than a GiB since the last sync.
    ///
    /// # Panics
    /// If the log would no longer be one: an index that leaves a gap or is not after the base, a term or a hard state that goes back, an entry
    /// with a term that the hard state has not reached, a vote for member 0.
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

    /// Makes all that was appended durable, with one write and one fdatasync. Without anything new it does nothing.
    ///
    /// # Errors
    /// - [`Full`](StorageError::Full), [`NoDescriptor`](StorageError::NoDescriptor): the log is unharmed and what was
    ///   appended still waits: call again.
    /// - Anything else is final: whether the batch is durable is unknown, the log is not used any more, and every later
    ///   call returns the same error.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.check_failed()?;
        let result = self.write_batch();
        self.remember_failure(result)
    }

    /// Syncs what was appended, and marks how far the log goes, so that the next start can tell any damage from a write
    /// that did not finish. A failure is logged: it costs the mark only.
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
        if self.end + len > self.segment.header.len_bytes {
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

    /// Zeroes what a write left behind that met a full disk. The batch that it belonged to may have become longer since,
    /// or go to another segment; and what follows the end of the log has to be zero.
    fn clear_dirty(&mut self) -> Result<(), StorageError> {
        if self.dirty_end > self.end {
            let Segment { file, path, .. } = &self.segment;
            write_zeros(&**file, self.end, self.dirty_end)
                .map_err(StorageError::io("write", path))?;
            self.segment.sync()?;
            self.dirty_end = self.end;
        }
        Ok(())
    }

    /// Goes on in a new segment, in which a batch of this length has room. The order is what recovery relies on: the new
    /// segment exists durably, then the old one is sealed durably, then a batch is written to the new one.
    fn roll_over(&mut self, batch_len_bytes: u64) -> Result<(), StorageError> {
        let sequence = self.segment.header.sequence + 1;
        let len = (FIRST_BATCH_OFFSET + batch_len_bytes)
            .max(segment_len_bytes(sequence, self.segment_len_bytes));
        let len_bytes = len.next_multiple_of(BLOCK_LEN_BYTES);
        let header = SegmentHeader {
            sequence,
            len_bytes,
            identity: self.identity,
            is_recycled: false,
            first_batch: self.sequence + 1,
            previous: self.synced_last,
        };
        let blank = match self.take_blank() {
            Some(blank) => blank,
            None => Blank::create(&*self.disk, self.dir.path().join("next.tmp"))?,
        };
        let next = blank.into_segment(&*self.disk, &self.dir, header)?;
        self.segment.write_mark(Mark {
            end: self.end,
            batch_sequence: self.sequence,
            is_sealed: true,
        })?;
        self.segment = next;
        (self.end, self.dirty_end) = (FIRST_BATCH_OFFSET, FIRST_BATCH_OFFSET);
        self.kept.begin(sequence, len_bytes);
        Ok(())
    }

    fn take_blank(&mut self) -> Option<Blank> {
        self.recycled.take().or_else(|| self.spare.as_mut().and_then(SpareMaker::take))
    }

    fn follow_with_spare(&mut self) {
        if self.recycled.is_some() {
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
        self.segment.write_mark(Mark {
            end: self.end,
            batch_sequence: self.sequence,
            is_sealed: false,
        })
    }
}

/// The first segment of a new log: short, and zeroed at once.
fn begin(
    dir: &DataDir,
    options: &WalOptions,
    base: Option<SnapshotMeta>,
) -> Result<Outcome, StorageError> {
    let (disk, wal_dir) = (&**dir.disk(), dir.wal_dir());
    let len_bytes = segment_len_bytes(1, segment_len_max_bytes(options));
    let header = SegmentHeader {
        sequence: 1,
        len_bytes,
        identity: dir.identity(),
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
    Ok(Outcome { replay, continuation, torn: None, segment, end: FIRST_BATCH_OFFSET })
}

fn segment_len_max_bytes(options: &WalOptions) -> u64 {
    options.segment_len_bytes.max(1).next_multiple_of(BLOCK_LEN_BYTES)
}

/// How long a segment is: a log that is small stays small.
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
