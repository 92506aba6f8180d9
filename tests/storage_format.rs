//! Bytes that version 1 once wrote, kept in `tests/golden/storage-v1`: today's code writes the same and reads them.
//!
//! `UPDATE_GOLDENFILES=1` writes them anew. A version that has been released must not need that: it gets a new number and
//! a new directory, and the old one stays readable.

mod storage_support;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use storage_support::{Batch, Content, DIR, open, write};
use syncraft::raft::{Entry, HardState, Index, MemberId, Payload, Term};
use syncraft::storage::sim::SimDisk;

const SEGMENT_LEN_BYTES: u64 = 4096;

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/storage-v1")
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

/// Everything that the format can say: terms with and without a vote, each kind of record, an empty command, a batch
/// without records, entries replaced, a segment sealed, a segment longer than the others, a closed log.
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

/// The files of that history, by their path in the data directory.
fn written() -> Vec<(PathBuf, Vec<u8>)> {
    let disk = SimDisk::new(1);
    let (mut wal, _) = open(&disk, SEGMENT_LEN_BYTES).unwrap();
    history().iter().for_each(|batch| write(&mut wal, batch).unwrap());
    wal.close();
    let files = disk.files(Path::new(DIR)).into_iter();
    files
        .map(|file| (file.strip_prefix(DIR).unwrap().to_path_buf(), disk.bytes(&file).unwrap()))
        .collect()
}

#[test]
fn version_1_is_written_as_ever() {
    let written = written();
    assert_eq!(written.len(), 4, "meta and three segments");
    for (file, bytes) in written {
        let golden = golden_dir().join(&file);
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
            std::fs::write(&golden, &bytes).unwrap();
        }
        let stored = std::fs::read(&golden).unwrap();
        let differs = bytes.iter().zip(&stored).position(|(new, old)| new != old);
        assert!(bytes == stored, "{} differs at {differs:?}", file.display());
    }
}

#[test]
fn version_1_is_read_as_ever() {
    let disk = SimDisk::new(1);
    drop(open(&disk, SEGMENT_LEN_BYTES).unwrap());
    for file in ["meta", "wal/0000000001.wal", "wal/0000000002.wal", "wal/0000000003.wal"] {
        disk.set_bytes(&Path::new(DIR).join(file), std::fs::read(golden_dir().join(file)).unwrap());
    }
    let (_, recovered) = open(&disk, SEGMENT_LEN_BYTES).unwrap();
    assert_eq!(Content::of(&recovered), content());
}
