//! What a scan of 200,000 keys costs while four threads write, on a cluster of one member in this
//! process.
//!
//! ```text
//! cargo bench --bench scan
//! ```
//!
//! | line | measures |
//! |---|---|
//! | `quiet` | `Clerk::scan` of all keys while nobody writes |
//! | `busy` | the same beside four threads whose transactions put to 50 random keys among these |
//! | `late` | a scan at the revision before the writes of `busy`, half a million puts ago |
//! | `pages` | the same in ranges of 1,000 entries, as a client of another kind would read |
//!
//! Each line names the time of one of three rounds, and the puts meanwhile or since.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use syncraft::clerk::Clerk;
use syncraft::kv::LimitsChange;
use syncraft::kv::model::{Action, KeyRange, Range, Revision, Txn};
use syncraft::testing::Cluster;

const KEYS: u64 = 200_000;
const WRITERS: u64 = 4;
const ROUNDS: usize = 3;
/// How many entries a page of `pages` has.
const PAGE_LEN: u64 = 1_000;
/// How many keys a transaction of a writer puts.
const PUTS_PER_TXN: u64 = 50;
/// How many puts `late` goes back over, at least.
const PUTS_MIN: u64 = 500_000;

fn main() {
    // `cargo test --benches` only wants to know whether it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let cluster = Cluster::start(1).expect("a cluster");
    let clerk = cluster.clerk().with_timeout(Duration::from_secs(60));
    fill(&clerk);
    let history = LimitsChange { history_bytes_max: Some(512 << 20), ..Default::default() };
    clerk.set_limits(history).expect("a longer history");
    report("quiet", || scan(&clerk, Revision::NONE), "");
    let before = clerk.stats().expect("statistics").revision;
    let puts = AtomicU64::new(0);
    beside_writers(&clerk, &puts, || {
        for _ in 0..ROUNDS {
            let begun = puts.load(Ordering::Relaxed);
            let took = timed(|| scan(&clerk, Revision::NONE));
            let puts = puts.load(Ordering::Relaxed) - begun;
            println!("busy   {took:>8.1?}, {puts} puts meanwhile");
        }
        while puts.load(Ordering::Relaxed) < PUTS_MIN {
            thread::yield_now();
        }
    });
    let puts = format!(", {} puts later", puts.into_inner());
    report("late", || scan(&clerk, before), &puts);
    report("pages", || pages(&clerk, before), &puts);
}

fn report(name: &str, mut run: impl FnMut(), more: &str) {
    for _ in 0..ROUNDS {
        println!("{name:6} {:>8.1?}{more}", timed(&mut run));
    }
}

fn timed(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

fn key(number: u64) -> String {
    format!("row/{number:08}")
}

fn fill(clerk: &Clerk) {
    for batch in 0..KEYS / 1_000 {
        let puts = (0..1_000).map(|at| Action::put(key(batch * 1_000 + at), vec![b'v'; 16]).into());
        clerk.run(&Txn { then: puts.collect(), ..Txn::default() }).expect("a batch of puts");
    }
}

fn scan(clerk: &Clerk, at: Revision) {
    let entries = clerk.scan(KeyRange::prefix("row/")).at(at);
    let count = entries.inspect(|entry| assert!(entry.is_ok(), "{entry:?}")).count();
    assert_eq!(count as u64, KEYS);
}

fn pages(clerk: &Clerk, at: Revision) {
    let (mut rest, mut count) = (Some(KeyRange::prefix("row/")), 0);
    while let Some(keys) = rest {
        let range = Range { at, limit: PAGE_LEN, ..Range::of(keys.clone()) };
        let (_, page) = clerk.range(&range).expect("a page");
        count += page.entries.len() as u64;
        rest = page.entries.last().filter(|_| page.more).and_then(|last| keys.after(&last.key));
    }
    assert_eq!(count, KEYS);
}

/// Runs `run` while other threads write.
fn beside_writers(clerk: &Clerk, puts: &AtomicU64, run: impl FnOnce()) {
    let is_over = &AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let clerk = clerk.clone();
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(writer);
                while !is_over.load(Ordering::Relaxed) {
                    let put = |_| Action::put(key(rng.u64(..KEYS)), vec![b'w'; 16]).into();
                    let then = (0..PUTS_PER_TXN).map(put).collect();
                    clerk.run(&Txn { then, ..Txn::default() }).expect("a batch of puts");
                    puts.fetch_add(PUTS_PER_TXN, Ordering::Relaxed);
                }
            });
        }
        run();
        is_over.store(true, Ordering::Relaxed);
    });
}
