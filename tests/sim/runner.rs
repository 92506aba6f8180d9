//! Runs seeds, and says which one failed.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::report::Report;
use crate::trace::Detail;
use crate::world::World;

pub(crate) fn run_seed(seed: u64) -> Report {
    World::run(seed, Detail::HashOnly)
}

/// Runs one seed again and prints its whole trace.
pub(crate) fn replay(seed: u64) -> Report {
    World::run(seed, Detail::Print)
}

/// Runs all `seeds`. The first that fails runs again for the end of its story, and is named.
pub(crate) fn run_seeds(seeds: Range<u64>) -> Report {
    let mut total = Report::default();
    for seed in seeds {
        match catch_unwind(|| run_seed(seed)) {
            Ok(report) => total.add(&report),
            Err(violation) => {
                println!("seed {seed} failed; the end of its trace:");
                let _ = catch_unwind(AssertUnwindSafe(|| World::run(seed, Detail::LastLines)));
                println!(
                    "replay it with SYNCRAFT_SIM_SEED={seed} cargo test --test sim -- --nocapture no_seed"
                );
                resume_unwind(violation);
            }
        }
    }
    total
}

pub(crate) fn env_number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}
