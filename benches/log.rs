//! How fast the write-ahead log is on the disk that has `target/`: durable batches, and the next
//! start.
//!
//! ```text
//! cargo bench --bench log
//! cargo bench --bench log -- append_sync/16
//! ```
//!
//! | benchmark | measures | rate |
//! |---|---|---|
//! | `append_sync/N` | `Wal::append` of N entries, `Wal::sync`, new segments included | entries |
//! | `open/64MiB` | `Wal::open` of 64 MiB, until the files are synced | bytes of commands |
//!
//! A command has 256 bytes. The log that is opened is in the system's page cache; a cold disk adds
//! the time to read it.

mod support;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use support::{VALUE_LEN_BYTES, data_dir, entry, take_few_samples, temp_dir};
use syncraft::raft::{Entry, HardState, Term};
use syncraft::storage::{Wal, WalOptions};
use tempfile::TempDir;

const COMMAND: Bytes = Bytes::from_static(&[b'c'; VALUE_LEN_BYTES]);

const LOG_LEN_BYTES: u64 = 64 << 20;

fn main() {
    support::run(&[append_sync, open]);
}

fn append_sync(c: &mut Criterion) {
    let mut group = c.benchmark_group("append_sync");
    for batch in [1, 16, 256] {
        let mut log = None;
        group.throughput(Throughput::Elements(batch));
        group.bench_function(batch.to_string(), |b| {
            let Log { wal, last, .. } = log.get_or_insert_with(Log::new);
            let write = |entries: Vec<Entry>| write(wal, &entries);
            b.iter_batched(|| next_entries(last, batch), write, BatchSize::PerIteration);
        });
    }
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    take_few_samples(&mut group);
    group.throughput(Throughput::Bytes(LOG_LEN_BYTES));
    let mut closed = None;
    group.bench_function("64MiB", |b| {
        let temp = closed.get_or_insert_with(closed_log);
        let open = |dir| {
            // Without the thread that prepares the next segment: it would still be at work in the
            // next round.
            let options = WalOptions { prepare_ahead: false, ..WalOptions::default() };
            let (wal, recovered) = Wal::open(&dir, options, None).expect("a log that is whole");
            assert_eq!(recovered.entries.len() as u64, LOG_LEN_BYTES / VALUE_LEN_BYTES as u64);
            (dir, wal, recovered)
        };
        b.iter_batched(|| data_dir(temp), open, BatchSize::PerIteration);
    });
}

/// A new log, in term 1.
struct Log {
    wal: Wal,
    last: u64,
    temp: TempDir,
}

impl Log {
    fn new() -> Log {
        let temp = temp_dir();
        let (mut wal, _) =
            Wal::open(&data_dir(&temp), WalOptions::default(), None).expect("a new log");
        let hard_state = HardState { current_term: Term(1), voted_for: None };
        wal.append(Some(hard_state), &[]).expect("a term");
        Log { wal, last: 0, temp }
    }
}

/// A log of 64 MiB of commands, written in batches of 1,024 and closed.
fn closed_log() -> TempDir {
    let Log { mut wal, mut last, temp } = Log::new();
    while last * (VALUE_LEN_BYTES as u64) < LOG_LEN_BYTES {
        write(&mut wal, &next_entries(&mut last, 1024));
    }
    wal.close();
    temp
}

fn next_entries(last: &mut u64, count: u64) -> Vec<Entry> {
    let first = *last + 1;
    *last += count;
    (first..=*last).map(|index| entry(index, COMMAND)).collect()
}

fn write(wal: &mut Wal, entries: &[Entry]) {
    wal.append(None, entries).expect("entries that follow");
    wal.sync().expect("a disk that works");
}
