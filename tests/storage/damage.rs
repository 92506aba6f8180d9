//! Every kind of damage to a log. Either everything is there, or the start is refused with the file
//! and the offset. Only the very last batch of a log that was not closed may count as an incomplete
//! write.

use std::path::Path;
use std::sync::Arc;

use syncraft::raft::{MemberId, Standing};
use syncraft::storage::sim::SimDisk;
use syncraft::storage::{DataDir, Identity, StorageError, Wal};

use crate::model::{Content, DIR, Log, ME, open, options};

/// What a start made of the log.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Content(Content),
    Damage { file: std::path::PathBuf, offset: u64 },
}

/// Starts twice: the second start finds the same, and a start that refuses leaves the log as it
/// was.
fn recover(disk: &SimDisk, log: &Log) -> Found {
    let before = wal_bytes(disk);
    let first = recover_once(disk, log);
    let damaged = matches!(first, Found::Damage { .. });
    assert!(!damaged || wal_bytes(disk) == before, "a refused log was changed");
    assert_eq!(first, recover_once(disk, log), "a second start finds the same");
    first
}

fn wal_bytes(disk: &SimDisk) -> Vec<Option<Vec<u8>>> {
    disk.files(Path::new("/")).iter().map(|file| disk.bytes(file)).collect()
}

fn recover_once(disk: &SimDisk, log: &Log) -> Found {
    match open(disk, log.segment_len_bytes) {
        Ok((_, recovered)) => Found::Content(Content::of(&recovered)),
        Err(StorageError::Corrupt { file, offset, reason }) => {
            let line = StorageError::Corrupt { file: file.clone(), offset, reason }.to_string();
            assert!(line.contains(&format!("{} at offset {offset}: ", file.display())), "{line}");
            assert!(!line.contains('\n'), "{line}");
            Found::Damage { file, offset }
        }
        Err(err) => panic!("neither a log nor damage: {err}"),
    }
}

/// Everything is there, or this file is named.
fn assert_full_or_named(log: &Log, found: Found, file: &Path, what: &str) -> bool {
    match found {
        Found::Content(content) => {
            assert!(content == *log.full(), "{what}: less than was written, or something else");
            false
        }
        Found::Damage { file: named, .. } => {
            assert_eq!(named, file, "{what}");
            true
        }
    }
}

#[test]
fn every_flipped_bit_of_a_closed_log_is_harmless_or_named() {
    let log = Log::write(1, 4, 4096, true);
    assert!(log.full().entries.len() > 100, "{} entries", log.full().entries.len());
    let (mut damaged, mut harmless) = (0, 0);
    for file in log.segments() {
        let len = log.disk.bytes(&file).unwrap().len();
        for bit in 0..len * 8 {
            let disk = log.damaged(&file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let what = format!("bit {bit} of {}", file.display());
            let found =
                if bit % 16 == 0 { recover(&disk, &log) } else { recover_once(&disk, &log) };
            if let Found::Damage { offset, .. } = found {
                assert!(offset <= bit as u64 / 8, "{what}: offset {offset}");
            }
            if assert_full_or_named(&log, found, &file, &what) {
                damaged += 1
            } else {
                harmless += 1
            }
        }
    }
    // Harmless: the marks, and the unwritten space of each segment.
    let unwritten = |file: &std::path::PathBuf| {
        let bytes = log.disk.bytes(file).unwrap();
        bytes.iter().rev().take_while(|byte| **byte == 0).count()
    };
    let rest: usize = log.segments().iter().map(unwritten).sum();
    assert!(harmless <= (4 * 512 + rest) * 8, "{harmless} harmless, {damaged} damaged");
}

#[test]
fn a_flipped_bit_of_a_log_that_was_not_closed_costs_the_last_batch_at_most() {
    let log = Log::write(2, 3, 4096, false);
    let (file, end) = (log.last_segment(), log.end());
    let but_last = &log.contents[log.contents.len() - 2];
    let mut torn = 0;
    for bit in 0..4096 * 8 {
        let disk = log.damaged(&file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let what = format!("bit {bit}");
        match recover(&disk, &log) {
            Found::Content(content) if content == *but_last => {
                // The last bytes of a batch may be zeros.
                assert!(
                    (end - 500..end + 16).contains(&(bit / 8)),
                    "{what} is not in the last batch"
                );
                torn += 1;
            }
            found => {
                assert_full_or_named(&log, found, &file, &what);
            }
        }
    }
    assert!(torn >= 40 * 8, "{torn}");
}

#[test]
fn once_started_again_the_last_batch_is_protected_too() {
    let log = Log::write(2, 3, 4096, false);
    drop(open(&log.disk, 4096).unwrap());
    let file = log.last_segment();
    for bit in 1024 * 8..log.end() * 8 {
        let disk = log.damaged(&file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let named = assert_full_or_named(&log, recover(&disk, &log), &file, &format!("bit {bit}"));
        assert!(named, "bit {bit} was not noticed");
    }
}

#[test]
fn a_segment_cut_anywhere_is_whole_or_named_with_the_place() {
    for close in [true, false] {
        let log = Log::write(3, 3, 4096, close);
        for file in log.segments() {
            let bytes = log.disk.bytes(&file).unwrap();
            let log_end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
            for len in 0..4096 {
                let disk = log.damaged(&file, |bytes| bytes.truncate(len));
                let offset = if len < 512 { 0 } else { len as u64 };
                match recover(&disk, &log) {
                    // Only zeros are gone, and enough of them are left to show that nothing
                    // followed.
                    Found::Content(found) => {
                        assert!(len >= log_end, "cut at {len}");
                        assert_eq!(&found, log.full(), "cut at {len}");
                        assert_eq!(
                            disk.bytes(&file).unwrap().len(),
                            4096,
                            "it has its length back"
                        );
                        assert_eq!(recover(&disk, &log), Found::Content(found), "and again");
                    }
                    found => {
                        assert_eq!(
                            found,
                            Found::Damage { file: file.clone(), offset },
                            "cut at {len}"
                        );
                        assert!(len < log_end + 64, "cut at {len}: nothing was lost");
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_added_to_a_segment_is_kept_aside() {
    let log = Log::write(3, 3, 4096, false);
    for file in log.segments() {
        for garbage in
            [vec![0], vec![1], vec![0; 4096], vec![0xff; 5000], log.disk.bytes(&file).unwrap()]
        {
            let disk = log.damaged(&file, |bytes| bytes.extend(&garbage));
            assert_eq!(recover(&disk, &log), Found::Content(log.full().clone()));
            assert_eq!(disk.bytes(&file).unwrap().len(), 4096);
            let kept = file.with_added_extension("4096.torn");
            assert_eq!(disk.bytes(&kept).unwrap(), garbage);
        }
    }
}

#[test]
fn a_lost_segment_is_named() {
    for close in [true, false] {
        let log = Log::write(4, 4, 4096, close);
        for file in log.segments() {
            let disk = log.disk.fork(0);
            disk.lose(&file);
            assert_eq!(recover(&disk, &log), Found::Damage { file, offset: 0 });
        }
        let disk = log.disk.fork(0);
        log.segments().iter().for_each(|file| disk.lose(file));
        let wal = log.last_segment().parent().unwrap().to_path_buf();
        assert_eq!(recover(&disk, &log), Found::Damage { file: wal, offset: 0 });
    }
}

#[test]
fn zeroed_blocks_are_harmless_or_named() {
    let log = Log::write(5, 3, 16384, true);
    for file in log.segments() {
        for block in [512, 4096] {
            for start in (0..16384).step_by(block) {
                let disk = log.damaged(&file, |bytes| bytes[start..start + block].fill(0));
                let what = format!("{block} bytes at {start} of {}", file.display());
                assert_full_or_named(&log, recover(&disk, &log), &file, &what);
            }
        }
    }
}

#[test]
fn blocks_that_went_to_another_place_are_harmless_or_named() {
    let log = Log::write(5, 3, 16384, true);
    let files = log.segments();
    let blocks = || (0..16384).step_by(512);
    for (from, to) in blocks().flat_map(|from| blocks().map(move |to| (from, to))) {
        let file = &files[(from / 512) % 3];
        let other = log.disk.bytes(&files[(to / 512) % 3]).unwrap();
        let copied = log
            .damaged(file, |bytes| bytes[to..to + 512].copy_from_slice(&other[from..from + 512]));
        let doubled = log.damaged(file, |bytes| bytes.copy_within(from..from + 512, to));
        let swapped = log.damaged(file, |bytes| {
            let (low, high) = (from.min(to), from.max(to));
            let (left, right) = bytes.split_at_mut(high);
            if low < high {
                left[low..low + 512].swap_with_slice(&mut right[..512]);
            }
        });
        for (disk, how) in [(copied, "copied"), (doubled, "doubled"), (swapped, "swapped")] {
            let what = format!("{how} from {from} to {to} in {}", file.display());
            assert_full_or_named(&log, recover(&disk, &log), file, &what);
        }
    }
}

#[test]
fn segments_that_changed_places_are_named() {
    let log = Log::write(6, 3, 4096, true);
    let files = log.segments();
    let first = log.disk.bytes(&files[0]).unwrap();
    let disk = log.damaged(&files[1], |bytes| *bytes = first);
    assert_eq!(recover(&disk, &log), Found::Damage { file: files[1].clone(), offset: 0 });
}

/// The directory's number, and not the cluster, decides whose a segment is.
#[test]
fn a_segment_of_another_directory_is_named() {
    let log = Log::write(6, 2, 4096, true);
    let file = log.segments().remove(0);
    for member in [1, 2] {
        let other = SimDisk::new(7);
        let identity = Identity { member_id: MemberId(member), ..ME };
        let dir = DataDir::open_on(Arc::new(other.clone()), DIR, identity, Standing::New).unwrap();
        drop(Wal::open(&dir, options(4096), None).unwrap());
        let stranger = other.bytes(&file).unwrap();
        let disk = log.damaged(&file, |bytes| *bytes = stranger);
        assert_eq!(recover(&disk, &log), Found::Damage { file: file.clone(), offset: 0 });
        let err = open(&disk, 4096).unwrap_err().to_string();
        let whose = format!("of member {member}, not to this one");
        assert!(err.contains("it belongs to data directory ") && err.contains(&whose), "{err}");
    }
}

/// Whoever discards a log begins one with another number, so nothing of the old one comes back.
#[test]
fn a_segment_of_a_discarded_log_is_named() {
    let log = Log::write(6, 2, 4096, true);
    let file = log.segments().remove(0);
    let old = log.disk.bytes(&file).unwrap();
    let dir = DataDir::open_emptied_on(Arc::new(log.disk.clone()), DIR, ME).unwrap();
    drop(Wal::open(&dir, options(4096), None).unwrap());
    drop(dir);
    log.disk.set_bytes(&file, old);
    assert_eq!(recover(&log.disk, &log), Found::Damage { file, offset: 0 });
}

#[test]
fn a_write_that_ended_at_any_byte_is_torn_and_the_log_goes_on() {
    let log = Log::write(7, 3, 4096, false);
    let (file, end) = (log.last_segment(), log.end());
    let but_last = log.contents[log.contents.len() - 2].clone();
    let start = last_batch_start(&log, &but_last);
    for cut in start..end {
        let disk = log.damaged(&file, |bytes| bytes[cut..].fill(0));
        assert_eq!(recover(&disk, &log), Found::Content(but_last.clone()), "cut at {cut}");
        let kept = disk
            .files(Path::new("/"))
            .iter()
            .filter(|file| file.to_string_lossy().ends_with(".torn"))
            .count();
        assert_eq!(kept, usize::from(cut > start), "cut at {cut}: what was torn is kept");

        let (mut wal, _) = open(&disk, 4096).unwrap();
        let mut content = but_last.clone();
        let batch = content.next_batch(&mut fastrand::Rng::with_seed(cut as u64), 60);
        crate::model::write(&mut wal, &batch).unwrap();
        content.apply(&batch);
        drop(wal);
        assert_eq!(recover(&disk, &log), Found::Content(content), "cut at {cut}, then written on");
    }
}

/// Where the last batch begins: the last place from which zeros lose just that batch and tear
/// nothing.
fn last_batch_start(log: &Log, but_last: &Content) -> usize {
    let candidates = (1024..log.end()).rev().filter(|offset| offset % 8 == 0);
    let start = candidates
        .map(|offset| (offset, log.damaged(&log.last_segment(), |bytes| bytes[offset..].fill(0))));
    let mut clean = start.filter(|(_, disk)| {
        let (_, recovered) = open(disk, log.segment_len_bytes).unwrap();
        recovered.torn.is_none() && Content::of(&recovered) == *but_last
    });
    clean.next().expect("the last batch begins somewhere").0
}

#[test]
fn a_write_of_which_any_sectors_arrived_is_torn() {
    let log = Log::write(8, 2, 8192, false);
    let disk = log.disk.fork(1);
    let (mut wal, _) = open(&disk, 8192).unwrap();
    let from = log.end().next_multiple_of(8);
    let before = disk.bytes(&log.last_segment()).unwrap();
    let mut content = log.full().clone();
    let mut rng = fastrand::Rng::with_seed(1);
    let batch = std::iter::repeat_with(|| content.next_batch(&mut rng, 800)).find(|batch| {
        (1500..2800).contains(&batch.entries.iter().map(|entry| entry.len_bytes()).sum::<usize>())
    });
    let batch = batch.unwrap();
    crate::model::write(&mut wal, &batch).unwrap();
    content.apply(&batch);
    drop(wal);
    let after = disk.bytes(&log.last_segment()).unwrap();

    let to = after.iter().rposition(|byte| *byte != 0).unwrap();
    let sectors: Vec<usize> = (from / 512..=to / 512).collect();
    assert!((4..=8).contains(&sectors.len()), "{} sectors", sectors.len());
    for arrived in 0..1 << sectors.len() {
        let torn = log.disk.fork(0);
        let mut bytes = before.clone();
        for (_, sector) in sectors.iter().enumerate().filter(|(n, _)| arrived & (1 << n) != 0) {
            bytes[sector * 512..][..512].copy_from_slice(&after[sector * 512..][..512]);
        }
        torn.set_bytes(&log.last_segment(), bytes);
        let all = arrived + 1 == 1 << sectors.len();
        let expected = if all { &content } else { log.full() };
        assert_eq!(recover(&torn, &log), Found::Content(expected.clone()), "sectors {arrived:b}");
    }
}

#[test]
fn bytes_beyond_a_torn_write_are_named() {
    let log = Log::write(7, 3, 4096, false);
    let (file, end) = (log.last_segment(), log.end());
    let disk = log.damaged(&file, |bytes| {
        bytes[end - 10] ^= 1;
        bytes[end + 64] = 1;
    });
    assert_eq!(recover(&disk, &log), Found::Damage { file, offset: end as u64 + 64 });
}

#[test]
fn torn_writes_are_kept_in_a_bounded_number() {
    let disk = SimDisk::new(1);
    let mut content = Content::default();
    for seed in 0..20 {
        let (mut wal, recovered) = open(&disk, 1 << 16).unwrap();
        assert_eq!(Content::of(&recovered), content);
        let batch = content.next_batch(&mut fastrand::Rng::with_seed(seed), 60);
        crate::model::write(&mut wal, &batch).unwrap();
        content.apply(&batch);
        drop(wal);
        let log =
            Log { disk: disk.clone(), contents: vec![content.clone()], segment_len_bytes: 1 << 16 };
        let (file, end) = (log.last_segment(), log.end());
        let mut bytes = disk.bytes(&file).unwrap();
        bytes[end + 64] = 1;
        disk.set_bytes(&file, bytes);
    }
    let files = disk.files(Path::new("/"));
    assert_eq!(files.iter().filter(|file| file.to_string_lossy().ends_with(".torn")).count(), 8);
}
