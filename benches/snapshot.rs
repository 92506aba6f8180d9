//! What a snapshot of the key-value store costs, with 100,000 keys and values of 256 bytes.
//!
//! ```text
//! cargo bench --bench snapshot
//! cargo bench --bench snapshot -- load
//! ```
//!
//! | benchmark | measures | rate |
//! |---|---|---|
//! | `view` | `StateMachine::view`, during which applies and reads wait, and its drop | |
//! | `put_under_view` | 1,000 puts to random keys while a view is held, which copy | puts |
//! | `write/memory` | `StateView::write` to memory | bytes of the state |
//! | `write/disk` | the same to a file: synced, read back, renamed | bytes of the state |
//! | `load/memory` | `StateMachine::load` from memory into an empty store | bytes of the state |
//! | `load/disk` | the same from a file in the page cache, verified | bytes of the state |
//!
//! The disk is the one that has `target/`.

mod support;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use support::{VALUE, data_dir, key, take_few_samples, temp_dir};
use syncraft::kv::{Store, StoreView};
use syncraft::node::{StateMachine, StateView};
use syncraft::raft::{Index, SnapshotMeta, Term};
use syncraft::storage::{Snapshot, Snapshots};

const KEYS: u64 = 100_000;

fn main() {
    support::run(&[view, put_under_view, write_view, load]);
}

fn view(c: &mut Criterion) {
    let mut store = None;
    c.bench_function("view", |b| {
        let store = store.get_or_insert_with(filled);
        b.iter(|| store.view());
    });
}

fn put_under_view(c: &mut Criterion) {
    let mut group = c.benchmark_group("put_under_view");
    group.throughput(Throughput::Elements(1000));
    let (mut store, mut last) = (None, KEYS);
    let mut rng = fastrand::Rng::with_seed(1);
    group.bench_function("1000", |b| {
        let store = store.get_or_insert_with(filled);
        b.iter_custom(|iters| {
            let round = |_| {
                let puts: Vec<(Index, Bytes)> = (last + 1..=last + 1000)
                    .map(|index| (Index(index), put(rng.u64(1..=KEYS), index)))
                    .collect();
                last += 1000;
                let view = store.view();
                let start = std::time::Instant::now();
                for (index, command) in &puts {
                    store.apply(*index, command);
                }
                let took = start.elapsed();
                drop(view);
                took
            };
            (0..iters).map(round).sum()
        });
    });
}

fn write_view(c: &mut Criterion) {
    let view = filled().view();
    let mut bytes = bytes_of(&view);
    let mut group = c.benchmark_group("write");
    take_few_samples(&mut group);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("memory", |b| {
        b.iter(|| {
            bytes.clear();
            view.write(&mut bytes).expect("memory takes it");
        });
    });
    let (temp, mut index) = (temp_dir(), KEYS);
    let (snapshots, _) = Snapshots::open(&data_dir(&temp)).expect("a data directory");
    group.bench_function("disk", |b| {
        b.iter(|| {
            index += 1;
            take(&snapshots, &view, index)
        });
    });
}

fn load(c: &mut Criterion) {
    let view = filled().view();
    let bytes = bytes_of(&view);
    let mut group = c.benchmark_group("load");
    take_few_samples(&mut group);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let mut check = |name, load: &dyn Fn(&mut Store)| {
        group.bench_function(name, |b| {
            let load = |mut store: Store| {
                load(&mut store);
                assert_eq!(store.stats().keys as u64, KEYS);
                store
            };
            b.iter_batched(Store::new, load, BatchSize::PerIteration);
        });
    };
    check("memory", &|store| store.load(&mut &bytes[..]).expect("what was written"));
    let temp = temp_dir();
    let (snapshots, _) = Snapshots::open(&data_dir(&temp)).expect("a data directory");
    let snapshot = take(&snapshots, &view, KEYS);
    check("disk", &|store| {
        let mut reader = snapshot.reader().expect("a file that is whole");
        store.load(&mut reader).expect("what was written");
    });
}

fn filled() -> Store {
    let mut store = Store::new();
    for index in 1..=KEYS {
        store.apply(Index(index), &put(index, index));
    }
    assert_eq!(store.stats().keys as u64, KEYS);
    store
}

fn put(n: u64, index: u64) -> Bytes {
    support::put(key(n), VALUE, index).encode()
}

fn bytes_of(view: &StoreView) -> Vec<u8> {
    let mut bytes = Vec::new();
    view.write(&mut bytes).expect("memory takes it");
    bytes
}

fn take(snapshots: &Snapshots, view: &StoreView, index: u64) -> Snapshot {
    let meta = SnapshotMeta { last_included_index: Index(index), last_included_term: Term(1) };
    let mut writer = snapshots.create(meta, None).expect("a disk that works");
    view.write(&mut writer).expect("a disk that works");
    writer.finish().expect("a disk that works")
}
