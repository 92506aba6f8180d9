//! How fast the key-value store applies commands and answers queries, on one thread.
//!
//! ```text
//! cargo bench --bench store
//! cargo bench --bench store -- /10000$
//! ```
//!
//! | benchmark | measures |
//! |---|---|
//! | `get/KEYS` | `Store::query` of a key that exists |
//! | `put_existing/KEYS` | `Store::apply` of a put of 256 bytes to a key that exists |
//! | `append/KEYS` | `Store::apply` of an append of 16 bytes to a key that exists |
//! | `put_new/KEYS` | `Store::apply` of a put of 256 bytes to a new key; half as many at most |
//!
//! KEYS is the number of keys in the store: 10,000, which largely fit into the processor's caches,
//! and 1,000,000. Keys have 16 bytes and come in random order. Commands are decoded from the log's
//! bytes, have sessions as a Clerk's do (64 clients), and go into the digest.

mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Bencher, Criterion, Throughput};
use support::{VALUE, key, put, write};
use syncraft::kv::{Answer, Change, Command, Outcome, Query, Store};
use syncraft::node::StateMachine;
use syncraft::raft::Index;

const MORE: Bytes = Bytes::from_static(&[b'm'; 16]);

/// How many commands are made before they are timed: few enough to be in the caches, like commands
/// that were just logged.
const CHUNK: u64 = 256;

fn main() {
    support::run(&[store]);
}

fn store(c: &mut Criterion) {
    for keys in [10_000, 1_000_000] {
        // Made by the first that runs, and shared: making it takes longer than any of them.
        let mut filled = None;
        let mut bench = |name: &str, run: fn(&mut Bencher, &mut Filled)| {
            let mut group = c.benchmark_group(name);
            group.throughput(Throughput::Elements(1));
            group.bench_function(keys.to_string(), |b| {
                run(b, filled.get_or_insert_with(|| Filled::new(keys)));
            });
        };
        bench("get", get);
        bench("put_existing", put_existing);
        bench("append", append);
        bench("put_new", put_new);
    }
}

fn get(b: &mut Bencher, filled: &mut Filled) {
    b.iter_custom(|iters| {
        timed(iters, |count| {
            let queries: Vec<Query> =
                (0..count).map(|_| Query::Get { key: filled.existing_key() }).collect();
            let start = Instant::now();
            for query in queries {
                let answer = filled.store.query(query);
                assert!(matches!(black_box(answer), Answer::Value(Some(_))));
            }
            start.elapsed()
        })
    });
}

fn put_existing(b: &mut Bencher, filled: &mut Filled) {
    b.iter_custom(|iters| {
        timed(iters, |count| {
            filled.apply_all(count, |filled| {
                let key = filled.existing_key();
                put(key, VALUE, filled.last_index)
            })
        })
    });
}

fn append(b: &mut Bencher, filled: &mut Filled) {
    b.iter_custom(|iters| {
        timed(iters, |count| {
            filled.apply_all(count, |filled| {
                let key = filled.existing_key();
                write(Change::Append { key, value: MORE }, filled.last_index)
            })
        })
    });
}

fn put_new(b: &mut Bencher, filled: &mut Filled) {
    b.iter_custom(|iters| {
        timed(iters, |count| {
            if filled.store.stats().keys as u64 > filled.keys + filled.keys / 2 {
                *filled = Filled::new(filled.keys);
            }
            filled.apply_all(count, Filled::put_of_new_key)
        })
    });
}

/// Runs `iters` in chunks. Each returns how long it took, without its preparation.
fn timed(iters: u64, mut run: impl FnMut(u64) -> Duration) -> Duration {
    (0..iters).step_by(CHUNK as usize).map(|done| run(CHUNK.min(iters - done))).sum()
}

/// A store with at least the keys 1 to `keys`, and the end of its log.
struct Filled {
    store: Store,
    keys: u64,
    last_index: u64,
    rng: fastrand::Rng,
}

impl Filled {
    fn new(keys: u64) -> Filled {
        let rng = fastrand::Rng::with_seed(keys);
        let mut filled = Filled { store: Store::new(), keys, last_index: 0, rng };
        timed(keys, |count| filled.apply_all(count, Filled::put_of_new_key));
        assert_eq!(filled.store.stats().keys as u64, keys);
        filled
    }

    /// Applies commands, and returns how long that took without making them.
    fn apply_all(&mut self, count: u64, mut make: impl FnMut(&mut Filled) -> Command) -> Duration {
        let first = self.last_index + 1;
        let commands: Vec<Bytes> = (0..count)
            .map(|_| {
                self.last_index += 1;
                make(self).encode()
            })
            .collect();
        let start = Instant::now();
        for (index, command) in (first..).zip(&commands) {
            let outcome = self.store.apply(Index(index), command);
            assert!(matches!(black_box(outcome), Outcome::Applied { .. }));
        }
        start.elapsed()
    }

    fn existing_key(&mut self) -> Bytes {
        key(self.rng.u64(1..=self.keys))
    }

    /// A key with the number of its entry, which is higher than all before.
    fn put_of_new_key(&mut self) -> Command {
        put(key(self.last_index), VALUE, self.last_index)
    }
}
