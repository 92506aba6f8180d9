//! How much memory the key-value store takes for a small key, with 1,000,000 keys of 16 bytes and
//! values of 16 bytes.
//!
//! ```text
//! cargo bench --bench memory
//! ```
//!
//! | row | measures |
//! |---|---|
//! | `keys` | bytes per key of a store that remembers no changes but the newest |
//! | `keys and history` | bytes per key with a history of the default length, which they fill |
//!
//! A row is the growth of this process (`VmRSS` of `/proc/self/status`, so Linux only) while the
//! keys are put, divided by their number. It contains what the allocator adds. Keys come in random
//! order, in commands that are decoded from the log's bytes and have sessions as a Clerk's do.

mod support;

use bytes::Bytes;
use support::{key, put, write};
use syncraft::kv::{Change, LimitsChange, Store};
use syncraft::node::StateMachine;
use syncraft::raft::Index;

const KEYS: u64 = 1_000_000;
const VALUE: Bytes = Bytes::from_static(&[b'v'; 16]);

fn main() {
    // All stores live until the end: otherwise one would use the memory that another has left.
    let _stores = [measure("keys", Some(0)), measure("keys and history", None)];
}

/// Prints how much memory a store takes, and returns it.
fn measure(row: &str, history_bytes_max: Option<u64>) -> Store {
    let mut store = Store::new();
    let limits = LimitsChange { history_bytes_max, ..LimitsChange::default() };
    store.apply(Index(1), &write(Change::SetLimits(limits), 1).encode());
    let before = resident_bytes();
    for index in 2..KEYS + 2 {
        store.apply(Index(index), &put(key(index), VALUE, index).encode());
    }
    assert_eq!(store.stats().keys as u64, KEYS);
    let grown = resident_bytes() - before;
    println!("{row}: {:.1} bytes per key", grown as f64 / KEYS as f64);
    store
}

/// The memory of this process that is not swapped out, in bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .expect("a number of KiB, as proc(5) says");
    kib * 1024
}
