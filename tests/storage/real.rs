//! The same log on the file system of this machine: locks, refusals, large entries, and the end of
//! a process.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use syncraft::raft::{Entry, HardState, Index, MemberId, Payload, Standing, Term};
use syncraft::storage::{DataDir, Identity, Recovered, StorageError, Wal, WalOptions};
use tempfile::TempDir;

use crate::model::{Content, ME, meta, write};

fn open(path: &Path, segment_len_bytes: u64) -> Result<(Wal, Recovered), StorageError> {
    let dir = DataDir::open(path, ME, Standing::New)?;
    Wal::open(&dir, WalOptions { segment_len_bytes, ..WalOptions::default() }, None)
}

fn temp_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn a_log_is_there_again_with_every_segment_length() {
    for segment_len_bytes in [1, 4096, 100_000, 4 << 20] {
        let temp = temp_dir();
        let (mut content, mut rng) =
            (Content::default(), fastrand::Rng::with_seed(segment_len_bytes));
        for life in 0..4 {
            let (mut wal, recovered) = open(temp.path(), segment_len_bytes).unwrap();
            assert_eq!(Content::of(&recovered), content);
            assert_eq!(recovered.torn, None);
            for _ in 0..40 {
                let batch = content.next_batch(&mut rng, 30_000);
                write(&mut wal, &batch).unwrap();
                content.apply(&batch);
            }
            if life % 2 == 0 {
                wal.close();
            }
        }
        assert_eq!(Content::of(&open(temp.path(), segment_len_bytes).unwrap().1), content);
    }
}

#[test]
fn an_entry_may_be_longer_than_a_segment() {
    let temp = temp_dir();
    let term = HardState { current_term: Term(1), voted_for: None };
    let entry = |index, len| Entry {
        index: Index(index),
        term: Term(1),
        payload: Payload::Command(Bytes::from(vec![index as u8; len])),
    };
    let entries = [entry(1, 10), entry(2, 15 << 20), entry(3, 10), entry(4, 3 << 20)];
    let (mut wal, _) = open(temp.path(), 4096).unwrap();
    for entry in &entries {
        wal.append(Some(term), std::slice::from_ref(entry)).unwrap();
        wal.sync().unwrap();
    }
    drop(wal);
    assert_eq!(open(temp.path(), 4096).unwrap().1.entries, entries);
}

#[test]
fn a_fresh_log_takes_a_megabyte() {
    let temp = temp_dir();
    drop(open(temp.path(), 64 << 20).unwrap());
    let files = fs::read_dir(temp.path().join("wal")).unwrap();
    let lens: Vec<u64> = files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
    assert_eq!(lens, [1 << 20]);
}

#[test]
fn one_server_at_a_time() {
    let temp = temp_dir();
    let dir = DataDir::open(temp.path(), ME, Standing::New).unwrap();
    let refused = || DataDir::open(temp.path(), ME, Standing::New).unwrap_err();
    let (path, pid) = (temp.path().display().to_string(), std::process::id());
    let line =
        format!("data directory {path} is in use by process {pid}: only one server may run on it");
    assert_eq!(refused().to_string(), line);

    let (wal, _) = Wal::open(&dir, WalOptions::default(), None).unwrap();
    drop(dir);
    assert!(matches!(refused(), StorageError::Locked { .. }), "the log holds the directory too");
    wal.close();
    DataDir::open(temp.path(), ME, Standing::New).unwrap();
}

#[test]
fn another_member_is_refused() {
    let temp = temp_dir();
    drop(open(temp.path(), 4096).unwrap());
    let err = DataDir::open(temp.path(), Identity { member_id: MemberId(3), ..ME }, Standing::New)
        .unwrap_err();
    let line =
        format!("data directory {} belongs to member 1, not to member 3", temp.path().display());
    assert_eq!(err.to_string(), line);
}

#[test]
fn a_place_that_can_not_be_written_to_is_named_in_one_line() {
    let temp = temp_dir();
    let file = temp.path().join("file");
    fs::write(&file, "").unwrap();
    // Tests may run as root, which permissions do not stop.
    for (path, named) in [
        (file.join("data"), "file/data"),
        (file.clone(), "file"),
        ("/proc/nothing/1".into(), "/proc/nothing"),
    ] {
        let err = DataDir::open(&path, ME, Standing::New).unwrap_err();
        let line = err.to_string();
        assert!(matches!(err, StorageError::Io { .. }), "{err:?}");
        assert!(
            line.starts_with("cannot ") && line.contains(named) && !line.contains('\n'),
            "{line}"
        );
        assert!(std::error::Error::source(&err).is_some());
    }
}

#[test]
fn damage_on_disk_is_refused_with_file_and_offset() {
    let temp = temp_dir();
    let (mut wal, _) = open(temp.path(), 4096).unwrap();
    let mut content = Content::default();
    for seed in 0..20 {
        let batch = content.next_batch(&mut fastrand::Rng::with_seed(seed), 100);
        write(&mut wal, &batch).unwrap();
        content.apply(&batch);
    }
    drop(wal);
    let file = temp.path().join("wal/0000000001.wal");
    let mut bytes = fs::read(&file).unwrap();
    bytes[1024] ^= 1;
    fs::write(&file, bytes).unwrap();
    let line = open(temp.path(), 4096).unwrap_err().to_string();
    assert!(
        line.starts_with(&format!("log is damaged: {} at offset 1024: ", file.display())),
        "{line}"
    );
    assert!(line.contains("must not start"), "{line}");
}

#[test]
fn a_log_that_was_deleted_is_missed() {
    let temp = temp_dir();
    drop(open(temp.path(), 4096).unwrap());
    fs::remove_dir_all(temp.path().join("wal")).unwrap();
    let refused = || open(temp.path(), 4096).unwrap_err().to_string();
    assert!(refused().contains("the log is gone"), "{}", refused());
    fs::create_dir(temp.path().join("wal")).unwrap();
    assert!(refused().contains("the log is gone"), "{}", refused());
}

#[test]
fn the_next_segment_is_ready_before_it_is_needed() {
    let temp = temp_dir();
    let (mut wal, _) = open(temp.path(), 64 << 20).unwrap();
    let spare = temp.path().join("wal/spare.tmp");
    let term = HardState { current_term: Term(1), voted_for: None };
    let mut index = Index::ZERO;
    let mut fill = |wal: &mut Wal, to: usize| {
        while (index.0 as usize) < to {
            index = index.next();
            let payload = Payload::Command(Bytes::from(vec![1; 10_000]));
            wal.append(Some(term), &[Entry { index, term: Term(1), payload }]).unwrap();
            wal.sync().unwrap();
        }
    };
    fill(&mut wal, 20);
    assert!(!spare.exists(), "the segment is not a quarter full");
    fill(&mut wal, 90);
    let waited = std::time::Instant::now();
    while fs::metadata(&spare).map_or(0, |spare| spare.len()) < 2 << 20 {
        assert!(waited.elapsed().as_secs() < 30, "the spare never came");
        std::thread::yield_now();
    }
    fill(&mut wal, 110);
    assert_eq!(fs::metadata(temp.path().join("wal/0000000002.wal")).unwrap().len(), 2 << 20);
    drop(wal);
    assert_eq!(open(temp.path(), 64 << 20).unwrap().1.entries.len(), 110);
    assert!(!spare.exists(), "what was being made is removed");
}

/// Some segments are prepared ahead, and others are recycled.
#[test]
fn a_log_that_is_compacted_is_there_again() {
    let temp = temp_dir();
    let open = |base| {
        let dir = DataDir::open(temp.path(), ME, Standing::New).unwrap();
        let options = WalOptions { segment_len_bytes: 1 << 20, ..WalOptions::default() };
        Wal::open(&dir, options, base).unwrap()
    };
    let term = HardState { current_term: Term(1), voted_for: None };
    let entry = |index| {
        let payload = Payload::Command(Bytes::from(vec![index as u8; 10_000]));
        Entry { index: Index(index), term: Term(1), payload }
    };
    let (mut wal, _) = open(None);
    for index in 1..=1000 {
        wal.append(Some(term), &[entry(index)]).unwrap();
        wal.sync().unwrap();
        if index % 170 == 0 {
            // As if there were a snapshot.
            wal.release_through(Index(index - 20)).unwrap();
            assert!((200_000..300_000).contains(&wal.len_bytes_after(Index(index - 20))));
        }
    }
    drop(wal);
    let segments = || fs::read_dir(temp.path().join("wal")).unwrap().count();
    assert!(segments() <= 6, "{} files", segments());
    let expected: Vec<Entry> = (901..=1000).map(entry).collect();
    let (mut wal, recovered) = open(Some(meta(900, 1)));
    assert_eq!(recovered, Recovered { hard_state: term, entries: expected, torn: None });

    wal.reset(meta(5000, 1)).unwrap();
    assert!(segments() <= 4, "the active one, two to be the next, and one that was begun before");
    wal.append(None, &[entry(5001)]).unwrap();
    wal.close();
    assert_eq!(open(Some(meta(5000, 1))).1.entries, [entry(5001)]);
}
