//! Tests that need the inside of the log: the rules of `append`, and files that this version does
//! not write yet.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::raft::{MemberId, Payload, Standing, Term};
use crate::storage::Identity;
use crate::storage::sim::{Faults, SimDisk};

const ME: Identity = Identity { cluster_id: 7, list_id: 7, member_id: MemberId(1) };
const FIRST: &str = "/1/wal/0000000001.wal";
const SECOND: &str = "/1/wal/0000000002.wal";

fn open(disk: &SimDisk) -> Result<(Wal, Recovered), StorageError> {
    let dir = DataDir::open_on(Arc::new(disk.clone()), "/1", ME, Standing::New)?;
    Wal::open(&dir, WalOptions { segment_len_bytes: 4096, prepare_ahead: false }, None)
}

fn term(term: u64) -> Option<HardState> {
    Some(HardState { current_term: Term(term), voted_for: None })
}

fn entry(index: u64, term: u64) -> Entry {
    let payload = Payload::Command(Bytes::from(format!("command {index} of term {term}")));
    Entry { index: Index(index), term: Term(term), payload }
}

fn write(wal: &mut Wal, entries: std::ops::RangeInclusive<u64>) {
    for index in entries {
        wal.append(term(1), &[entry(index, 1)]).unwrap();
        wal.sync().unwrap();
    }
}

/// The log has so many entries, nothing is torn, and it goes on.
#[track_caller]
fn check_goes_on(disk: &SimDisk, count: u64) {
    let (mut wal, recovered) = open(disk).unwrap();
    assert_eq!((recovered.entries.len() as u64, recovered.torn), (count, None));
    write(&mut wal, count + 1..=count + 1);
    drop(wal);
    assert_eq!(open(disk).unwrap().1.entries.len() as u64, count + 1);
}

/// A log that begins anew in a recycled file, which is full of old batches.
fn recycled() -> SimDisk {
    let disk = SimDisk::new(1);
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, 1..=90);
    drop(wal);
    let former = disk.bytes(Path::new(SECOND)).unwrap();
    disk.files(Path::new("/1/wal")).iter().for_each(|file| disk.lose(file));
    let owner =
        DataDir::open_on(Arc::new(disk.clone()), "/1", ME, Standing::New).unwrap().log_owner();
    let header = SegmentHeader {
        version: VERSION,
        sequence: 1,
        len_bytes: 4096,
        owner,
        is_recycled: true,
        first_batch: 1,
        previous: EntryId::default(),
    };
    let bytes = [&header.encode(), &former[header.encode().len()..]].concat();
    assert!(bytes[3900..].iter().any(|byte| *byte != 0), "it was full");
    disk.set_bytes(Path::new(FIRST), bytes);
    disk
}

#[test]
fn a_recycled_segment_shows_nothing_of_its_former_life() {
    let disk = recycled();
    let (mut wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered, Recovered::default());
    for last in [1, 5, 20, 55] {
        let first = wal.last.index.0 + 1;
        write(&mut wal, first..=last);
        let (_, recovered) = open(&disk.fork(0)).unwrap();
        assert_eq!(recovered.entries, (1..=last).map(|index| entry(index, 1)).collect::<Vec<_>>());
    }
}

#[test]
fn a_torn_write_in_a_recycled_segment_is_cut() {
    let disk = recycled();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, 1..=10);
    let end = wal.end as usize;
    drop(wal);
    let mut bytes = disk.bytes(Path::new(FIRST)).unwrap();
    bytes[end - 20] ^= 1;
    disk.set_bytes(Path::new(FIRST), bytes);
    let (mut wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.entries.len(), 9);
    assert!(recovered.torn.is_some());
    write(&mut wal, 10..=12);
    drop(wal);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!((recovered.entries.len(), recovered.torn), (12, None));
}

#[test]
fn damage_in_a_recycled_segment_is_found() {
    let disk = recycled();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, 1..=10);
    drop(wal);
    let mut bytes = disk.bytes(Path::new(FIRST)).unwrap();
    bytes[1100] ^= 1;
    disk.set_bytes(Path::new(FIRST), bytes);
    assert!(open(&disk).unwrap_err().is_corrupt());
}

#[test]
fn a_segment_of_a_later_version_is_refused_as_such() {
    let disk = SimDisk::new(1);
    drop(open(&disk).unwrap());
    let mut bytes = disk.bytes(Path::new(FIRST)).unwrap();
    bytes[12] = 4;
    let crc = crc32c::crc32c(&bytes[12..512]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    disk.set_bytes(Path::new(FIRST), bytes);
    let err = open(&disk).unwrap_err();
    assert!(matches!(err, StorageError::NewerFormat { found: 4, known: 3, .. }), "{err}");
}

#[test]
fn a_segment_without_a_first_batch_is_damaged() {
    let disk = SimDisk::new(1);
    drop(open(&disk).unwrap());
    let mut bytes = disk.bytes(Path::new(FIRST)).unwrap();
    bytes[56..64].fill(0);
    let crc = crc32c::crc32c(&bytes[12..512]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    disk.set_bytes(Path::new(FIRST), bytes);
    assert!(open(&disk).unwrap_err().is_corrupt());
}

#[test]
fn a_crash_between_the_seal_and_the_next_batch_goes_on_in_the_next_segment() {
    let disk = SimDisk::new(1);
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, 1..=10);
    wal.roll_over(100).unwrap();
    drop(wal);
    let (mut wal, recovered) = open(&disk).unwrap();
    assert_eq!((recovered.entries.len(), wal.segment.header.sequence), (10, 2));
    write(&mut wal, 11..=12);
    drop(wal);

    // Without its seal the first segment is still followed by the second.
    let mut bytes = disk.bytes(Path::new(FIRST)).unwrap();
    bytes[512..1024].fill(0);
    disk.set_bytes(Path::new(FIRST), bytes);
    assert_eq!(open(&disk).unwrap().1.entries.len(), 12);
}

/// The first batch of a segment was torn, and a start has cut it: the segment has a mark and no
/// batch.
#[test]
fn a_seal_that_is_damaged_before_the_next_batch_is_not_missed() {
    let disk = SimDisk::new(1);
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, 1..=10);
    wal.roll_over(100).unwrap();
    drop(wal);
    let file = disk.open(Path::new(SECOND)).unwrap();
    file.write_all_at(&[0xAB; 40], FIRST_BATCH_OFFSET).unwrap();
    file.sync_data().unwrap();
    let (wal, recovered) = open(&disk).unwrap();
    assert!(recovered.torn.is_some());
    drop(wal);
    let mut bytes = disk.bytes(Path::new(FIRST)).unwrap();
    bytes[512..1024].fill(0xAB);
    disk.set_bytes(Path::new(FIRST), bytes);
    check_goes_on(&disk, 10);
}

/// It serves reads, and waits for space.
#[test]
fn a_member_starts_while_its_disk_is_full_and_an_unfinished_write_cannot_be_zeroed() {
    let disk = SimDisk::new(1);
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, 1..=10);
    wal.close();
    let (mut wal, _) = open(&disk).unwrap();
    let full_from_write = Some(disk.counts().writes + 2);
    disk.set_faults(Faults { full_from_write, ..Faults::default() });
    wal.append(term(1), &[entry(11, 1)]).unwrap();
    assert!(wal.sync().unwrap_err().is_full());
    drop(wal);
    for _ in 0..2 {
        let (mut wal, recovered) = open(&disk).unwrap();
        assert_eq!((recovered.entries.len(), recovered.torn), (10, None));
        wal.append(term(1), &[entry(11, 1)]).unwrap();
        assert!(wal.sync().unwrap_err().is_full());
    }
    let (mut wal, _) = open(&disk).unwrap();
    disk.set_faults(Faults::default());
    write(&mut wal, 11..=12);
    drop(wal);
    assert_eq!(open(&disk).unwrap().1.entries.len(), 12);
}

/// The bytes are of a write that met a full disk. Its zeroing did not reach the disk.
#[test]
fn bytes_after_the_end_of_a_sealed_segment_are_none_of_the_log() {
    let disk = SimDisk::new(1);
    let (mut wal, _) = open(&disk).unwrap();
    let mut count = 0;
    let mut end = 0;
    while wal.segment.header.sequence == 1 {
        end = wal.end;
        count += 1;
        write(&mut wal, count..=count);
    }
    drop(wal);
    let file = disk.open(Path::new(FIRST)).unwrap();
    file.write_all_at(&[0xAB; 40], end).unwrap();
    file.sync_data().unwrap();
    check_goes_on(&disk, count);
}

#[test]
fn a_segment_stays_until_a_later_one_has_the_hard_state() {
    let disk = SimDisk::new(1);
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, 1..=60);
    // For example because the batch that needs the new segment meets a full disk.
    wal.roll_over(100).unwrap();
    wal.release_through(Index(60)).unwrap();
    let left = |disk: &SimDisk| {
        let files = disk.files(Path::new("/1/wal"));
        files.iter().filter(|file| file.extension().is_some_and(|end| end == "wal")).count()
    };
    assert_eq!(left(&disk), 2);
    let dir = DataDir::open_on(Arc::new(disk.fork(0)), "/1", ME, Standing::New).unwrap();
    let options = WalOptions { segment_len_bytes: 4096, prepare_ahead: false };
    let base = SnapshotMeta { last_included_index: Index(60), last_included_term: Term(1) };
    let (_, recovered) = Wal::open(&dir, options, Some(base)).unwrap();
    assert_eq!((Some(recovered.hard_state), recovered.entries), (term(1), Vec::new()));

    write(&mut wal, 61..=61);
    wal.release_through(Index(60)).unwrap();
    assert_eq!(left(&disk), 1);
}

#[test]
fn a_recycled_segment_has_no_mark_of_its_former_life() {
    let disk = SimDisk::new(1);
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, 1..=60);
    wal.release_through(Index(55)).unwrap();
    assert!(!wal.recycled.is_empty());
    wal.roll_over(100).unwrap();
    assert!(wal.segment.header.is_recycled);
    let bytes = disk.bytes(&wal.segment.path).unwrap();
    assert_eq!(bytes[512..1024], [0; 512]);
    assert!(bytes[1024..].iter().any(|byte| *byte != 0), "what it held is left for nobody to find");
}

#[test]
fn a_log_may_move_to_the_thread_that_writes_it() {
    fn check<T: Send>() {}
    check::<Wal>();
    check::<DataDir>();
}

#[test]
fn a_sync_of_nothing_writes_nothing() {
    let disk = SimDisk::new(1);
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, 1..=1);
    let before = disk.counts();
    wal.append(term(1), &[]).unwrap();
    wal.sync().unwrap();
    assert_eq!(disk.counts(), before);
}

#[test]
fn a_batch_costs_one_write_and_one_sync() {
    let disk = SimDisk::new(1);
    let (mut wal, _) = open(&disk).unwrap();
    let before = disk.counts();
    for index in 1..=10 {
        wal.append(term(1), &[entry(index, 1)]).unwrap();
    }
    wal.sync().unwrap();
    let after = disk.counts();
    assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (1, 1));
}

#[test]
fn memory_of_a_large_batch_is_given_back() {
    let mut batch = PendingBatch::new();
    let payload = Payload::Command(Bytes::from(vec![0; 8 << 20]));
    batch.push(&Entry { index: Index(1), term: Term(1), payload });
    assert!(batch.len_bytes() > 8 << 20);
    batch.clear();
    assert!(batch.capacity_bytes() <= 1 << 20);
}

/// `append` must refuse what could not be read back.
fn check_refused(what: &str, hard_state: Option<HardState>, entries: &[Entry]) {
    let disk = SimDisk::new(1);
    let (mut wal, _) = open(&disk).unwrap();
    wal.append(
        Some(HardState { current_term: Term(3), voted_for: Some(MemberId(2)) }),
        &[entry(1, 2), entry(2, 3)],
    )
    .unwrap();
    let appended =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wal.append(hard_state, entries)));
    assert!(appended.is_err(), "{what}");
}

#[test]
fn what_is_no_log_is_not_written() {
    let vote = |term, member| {
        Some(HardState { current_term: Term(term), voted_for: Some(MemberId(member)) })
    };
    check_refused("a gap", None, &[entry(4, 3)]);
    check_refused("index 0", None, &[entry(0, 3)]);
    check_refused("a gap inside", None, &[entry(3, 3), entry(5, 3)]);
    check_refused("a term that goes back", None, &[entry(3, 3), entry(4, 2)]);
    check_refused("a term not reached", None, &[entry(3, 4)]);
    check_refused("a current term that goes back", term(2), &[]);
    check_refused("a changed vote", vote(3, 1), &[]);
    check_refused("a forgotten vote", term(3), &[]);
    check_refused("a vote for nobody's number", vote(4, 0), &[]);
}
