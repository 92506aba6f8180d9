//! Bytes of format 2, kept in `tests/golden/storage-v2*`: today's code writes the same bytes and
//! reads them. Bytes of format 1, which was never released, are in
//! `tests/golden/storage-unreleased-1`: they are refused in words.
//!
//! `UPDATE_GOLDENFILES=1` writes those of format 2 anew. A released version must never need this: a
//! changed format gets a new number and a new directory, and the old format stays readable.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use syncraft::raft::{Entry, HardState, Index, MemberId, Payload, Term};
use syncraft::storage::sim::SimDisk;
use syncraft::storage::{DataDir, Snapshots, Wal};

use crate::model::{Batch, Content, DIR, ME, meta, open, options, state, write};

const SEGMENT_LEN_BYTES: u64 = 4096;

fn golden_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn batch(term: u64, vote: Option<u64>, first: u64, payloads: &[Payload]) -> Batch {
    let hard_state = HardState { current_term: Term(term), voted_for: vote.map(MemberId) };
    let entries = payloads.iter().zip(first..);
    let entry = |(payload, index): (&Payload, u64)| Entry {
        index: Index(index),
        term: Term(term),
        payload: payload.clone(),
    };
    Batch { hard_state: Some(hard_state), entries: entries.map(entry).collect() }
}

/// Everything that the format can express: terms with and without a vote, each kind of record, an
/// empty command, a batch without records, replaced entries, a sealed segment, a segment longer
/// than the others, a closed log.
fn history() -> Vec<Batch> {
    let command = |bytes: &'static [u8]| Payload::Command(Bytes::from_static(bytes));
    let long = |len: usize| Payload::Command((0..len).map(|n| (n % 251) as u8).collect());
    vec![
        batch(1, Some(1), 1, &[]),
        batch(1, Some(1), 1, &[Payload::Noop, command(b"put x 1"), command(b"")]),
        batch(2, None, 4, &[command(b"lost"), command(b"lost too")]),
        batch(3, Some(3), 4, &[Payload::Noop]),
        batch(3, Some(3), 5, &[long(5000)]),
        batch(3, Some(3), 6, &[command(b"\0\xff\n"), Payload::Noop]),
        batch(3, Some(3), 8, &[long(2500)]),
        batch(u64::MAX, Some(u64::MAX), 9, &[command(b"the last")]),
    ]
}

fn content() -> Content {
    let mut content = Content::default();
    history().iter().for_each(|batch| content.apply(batch));
    content
}

/// A disk after that history.
fn with_history() -> SimDisk {
    let disk = SimDisk::new(1);
    let (mut wal, _) = open(&disk, SEGMENT_LEN_BYTES).unwrap();
    history().iter().for_each(|batch| write(&mut wal, batch).unwrap());
    wal.close();
    data_dir(&disk).mark_joined().unwrap();
    disk
}

/// The rest of the format: a snapshot of more than one chunk, and a log begun anew after it.
fn with_snapshot() -> SimDisk {
    let disk = with_history();
    let dir = data_dir(&disk);
    let (snapshots, _) = Snapshots::open(&dir).unwrap();
    let mut writer = snapshots.create(meta(1000, 3)).unwrap();
    writer.write_all(&state(STATE_LEN_BYTES)).unwrap();
    writer.finish().unwrap();
    let (mut wal, _) = Wal::open(&dir, options(SEGMENT_LEN_BYTES), None).unwrap();
    wal.reset(meta(1000, 3)).unwrap();
    write(&mut wal, &after_snapshot()).unwrap();
    wal.close();
    disk
}

const STATE_LEN_BYTES: usize = 70_000;

fn after_snapshot() -> Batch {
    batch(u64::MAX, Some(u64::MAX), 1001, &[Payload::Noop])
}

fn data_dir(disk: &SimDisk) -> DataDir {
    DataDir::open_on(Arc::new(disk.clone()), DIR, ME).unwrap()
}

fn check_written(name: &str, disk: &SimDisk, count: usize) {
    let mut files = disk.files(Path::new(DIR));
    files.retain(|file| file.extension().is_none_or(|extension| extension != "tmp"));
    assert_eq!(files.len(), count, "{files:?}");
    for file in files {
        let bytes = disk.bytes(&file).unwrap();
        let golden = golden_dir(name).join(file.strip_prefix(DIR).unwrap());
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
            std::fs::write(&golden, &bytes).unwrap();
        }
        let stored = std::fs::read(&golden).unwrap();
        let differs = bytes.iter().zip(&stored).position(|(new, old)| new != old);
        assert!(bytes == stored, "{} differs at {differs:?}", file.display());
    }
}

/// A disk with stored files on it.
fn stored(name: &str) -> SimDisk {
    let disk = SimDisk::new(1);
    drop(Snapshots::open(&data_dir(&disk)).unwrap());
    add_stored(&disk, name);
    disk
}

fn add_stored(disk: &SimDisk, name: &str) {
    for dir in ["", "wal", "snap"] {
        let Ok(files) = std::fs::read_dir(golden_dir(name).join(dir)) else { continue };
        let files = files.map(|file| file.unwrap().path()).filter(|file| file.is_file());
        for file in files {
            let path = Path::new(DIR).join(dir).join(file.file_name().unwrap());
            disk.set_bytes(&path, std::fs::read(file).unwrap());
        }
    }
}

const UNRELEASED: &str = "storage-unreleased-1";
const REFUSAL: &str = "has format version 1, which was never released and is no longer read: start \
                       with an empty data directory";

/// Everything on the disk.
fn contents(disk: &SimDisk) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let files = disk.files(Path::new(DIR)).into_iter();
    files.map(|file| (file.clone(), disk.bytes(&file))).collect()
}

#[test]
fn a_directory_of_an_unreleased_format_is_refused_in_a_sentence() {
    let disk = stored(UNRELEASED);
    let before = contents(&disk);
    let err = DataDir::open_on(Arc::new(disk.clone()), DIR, ME).unwrap_err();
    assert_eq!(err.to_string(), format!("{DIR}/meta {REFUSAL}"));
    assert!(!err.is_corrupt(), "it is not damaged");
    let emptied = DataDir::open_emptied_on(Arc::new(disk.clone()), DIR, ME).unwrap_err();
    assert_eq!(emptied.to_string(), err.to_string(), "nor is it discarded");
    assert!(contents(&disk) == before, "a refused directory was changed");
}

/// The other files of such a directory, beside a `meta` of today.
#[test]
fn a_log_or_a_snapshot_of_an_unreleased_format_is_refused_in_a_sentence() {
    let disk = with_history();
    let meta = disk.bytes(&Path::new(DIR).join("meta")).unwrap();
    disk.files(&Path::new(DIR).join("wal")).iter().for_each(|file| disk.lose(file));
    drop(Snapshots::open(&data_dir(&disk)).unwrap());
    add_stored(&disk, UNRELEASED);
    disk.set_bytes(&Path::new(DIR).join("meta"), meta);
    let before = contents(&disk);
    let dir = data_dir(&disk);
    let err = Wal::open(&dir, options(SEGMENT_LEN_BYTES), None).unwrap_err();
    assert_eq!(err.to_string(), format!("{DIR}/wal/0000000003.wal {REFUSAL}"));
    let err = Snapshots::open(&dir).unwrap_err();
    assert_eq!(err.to_string(), format!("{DIR}/snap/0000001000-0000000003.snap {REFUSAL}"));
    assert!(contents(&disk) == before, "a refused directory was changed");
}

#[test]
fn format_2_is_written_as_ever() {
    // meta and three segments
    check_written("storage-v2", &with_history(), 4);
    // meta, a snapshot, and the segment in which the log was begun anew
    check_written("storage-v2-compacted", &with_snapshot(), 3);
}

#[test]
fn format_2_is_read_as_ever() {
    let (_, recovered) = open(&stored("storage-v2"), SEGMENT_LEN_BYTES).unwrap();
    assert_eq!(Content::of(&recovered), content());
}

#[test]
fn a_snapshot_of_format_2_is_read_as_ever() {
    let disk = stored("storage-v2-compacted");
    let dir = data_dir(&disk);
    let (_, snapshot) = Snapshots::open(&dir).unwrap();
    let snapshot = snapshot.unwrap();
    let mut bytes = Vec::new();
    snapshot.reader().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(snapshot.meta() == meta(1000, 3) && bytes == state(STATE_LEN_BYTES));
    let (_, recovered) =
        Wal::open(&dir, options(SEGMENT_LEN_BYTES), Some(snapshot.meta())).unwrap();
    assert_eq!(recovered.entries, after_snapshot().entries);
}
