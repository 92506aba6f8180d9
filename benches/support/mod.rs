//! What the benchmarks share: how long they run, what a log entry is, and a place on the real disk.

#![allow(dead_code, reason = "each benchmark uses a part")]

pub(crate) mod echo;

use std::time::Duration;

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};
use syncraft::kv::{self, Change, Command};
use syncraft::raft::{Entry, Index, MemberId, Payload, Standing, Term};
use syncraft::storage::{DataDir, Identity};
use tempfile::TempDir;

/// The length of a value, and of a command where nobody looks inside.
pub(crate) const VALUE_LEN_BYTES: usize = 256;

pub(crate) const VALUE: Bytes = Bytes::from_static(&[b'v'; VALUE_LEN_BYTES]);

/// Whose sessions the writes are part of, in turn.
const CLIENTS: u64 = 64;

/// Runs one file's benchmarks: about three seconds each, unless the command line says otherwise.
pub(crate) fn run(benches: &[fn(&mut Criterion)]) {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    benches.iter().for_each(|bench| bench(&mut criterion));
    criterion.final_summary();
}

/// For what takes milliseconds: few rounds, as many in each sample.
pub(crate) fn take_few_samples(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
}

/// An entry of term 1 with a command.
pub(crate) fn entry(index: u64, command: Bytes) -> Entry {
    Entry { index: Index(index), term: Term(1), payload: Payload::Command(command) }
}

/// A directory under `target/`: the system's own temporary directory may be memory, which syncs for
/// nothing.
pub(crate) fn temp_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory")
}

/// The data directory of member 1.
pub(crate) fn data_dir(temp: &TempDir) -> DataDir {
    let identity = Identity { cluster_id: 1, list_id: 1, member_id: MemberId(1) };
    DataDir::open(temp.path(), identity, Standing::New).expect("a data directory")
}

/// The `n`th key, of 16 bytes. Neighbours are far apart, and no two are equal: the factor is odd.
pub(crate) fn key(n: u64) -> Bytes {
    Bytes::from(format!("{:016x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

/// The write of the log's entry `index`: as a Clerk's, with a session.
pub(crate) fn write(change: Change, index: u64) -> Command {
    let client_id = Bytes::from((index % CLIENTS).to_string());
    let (request_id, seen_index) = (index as i64, Index(1));
    Command { identity: kv::Identity { client_id, request_id, seen_index }, change }
}

/// As [`write`], of a put.
pub(crate) fn put(key: Bytes, value: Bytes, index: u64) -> Command {
    write(Change::Put { key, value }, index)
}
