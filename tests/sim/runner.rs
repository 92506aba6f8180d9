//! Runs seeds on all cores until they are done, the time is up, or one fails. The failing seed is
//! shrunk, and its story printed.

use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use crate::overrides::{Overrides, env_number};
use crate::report::Report;
use crate::shrink::shrink;
use crate::trace::Detail;
use crate::world::World;

/// Between two lines of progress, if there is a time limit.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// The name of threads in which a panic is a violation, which is printed in its own way.
const THREAD_NAME: &str = "seed";

/// Which seeds, and how long.
pub(crate) struct Seeds {
    pub(crate) from: u64,
    /// At most this many.
    pub(crate) count: u64,
    pub(crate) time: Option<Duration>,
}

/// The results.
struct Outcome {
    total: Report,
    seeds: u64,
    /// The first seed that failed, and why.
    violation: Option<(u64, String)>,
}

pub(crate) fn run_seed(seed: u64, overrides: &Overrides) -> Report {
    World::run(overrides.plan(seed), Detail::HashOnly)
}

/// Runs one seed again and prints its whole trace.
pub(crate) fn replay(seed: u64, overrides: &Overrides) -> Report {
    World::run(overrides.plan(seed), Detail::Print)
}

/// Runs `seeds` and returns the results.
///
/// # Panics
///
/// If one fails.
pub(crate) fn run_seeds(seeds: &Seeds, overrides: &Overrides) -> Report {
    let started = Instant::now();
    let outcome = run_in_parallel(seeds, overrides, started);
    say(&outcome.progress(started));
    if let Some((seed, words)) = outcome.violation {
        tell(seed, overrides, &words);
        panic!("seed {seed}: {words}");
    }
    outcome.total
}

/// The first of `count` seeds that fails, and why.
pub(crate) fn first_violation(count: u64, overrides: &Overrides) -> Option<(u64, String)> {
    let seeds = Seeds { from: 0, count, time: None };
    run_in_parallel(&seeds, overrides, Instant::now()).violation
}

fn run_in_parallel(seeds: &Seeds, overrides: &Overrides, started: Instant) -> Outcome {
    let outcome = Mutex::new(Outcome { total: Report::default(), seeds: 0, violation: None });
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let is_time_up = || seeds.time.is_some_and(|time| started.elapsed() >= time);
    let work = || {
        while !is_over.load(Ordering::Relaxed) && !is_time_up() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= seeds.count {
                break;
            }
            let seed = seeds.from.wrapping_add(number);
            let result = attempt(|| run_seed(seed, overrides));
            let mut outcome = outcome.lock().expect("no panic escapes");
            outcome.seeds += 1;
            match result {
                Ok(report) => outcome.total.add(&report),
                Err(words) => {
                    outcome.violation.get_or_insert((seed, words));
                    is_over.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores)
            .map(|_| thread::Builder::new().name(THREAD_NAME.to_owned()).spawn_scoped(scope, work))
            .collect::<Result<_, _>>()
            .expect("a thread for each core");
        let mut said = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::park_timeout(Duration::from_millis(50));
            if seeds.time.is_some() && said.elapsed() >= PROGRESS_EVERY {
                said = Instant::now();
                say(&outcome.lock().expect("no panic escapes").progress(started));
            }
        }
    });
    outcome.into_inner().expect("no panic escapes")
}

impl Outcome {
    fn progress(&self, started: Instant) -> String {
        let (steps, faults) = (self.total.count_of("step"), self.total.faults());
        let seconds = started.elapsed().as_secs_f64();
        format!(
            "{} seeds, {steps} steps, {faults} faults in {seconds:.0} s: \
             {:.0} seeds/s, {:.0} steps/s",
            self.seeds,
            self.seeds as f64 / seconds,
            steps as f64 / seconds
        )
    }
}

/// Prints the story of the smallest run that still fails, and how to replay it.
fn tell(seed: u64, overrides: &Overrides, words: &str) {
    say(&format!("seed {seed} failed: {words}"));
    if env_number("SYNCRAFT_SIM_SHRINK") == Some(0) {
        return;
    }
    say("looking for a smaller run that fails...");
    let fails = |overrides: &Overrides| in_seed_thread(|| run_seed(seed, overrides)).is_err();
    let smallest = shrink(seed, overrides, fails);
    let run = || World::run(smallest.plan(seed), Detail::LastLines);
    let words = in_seed_thread(run).err().unwrap_or_default();
    say(&format!(
        "the above is the end of the smallest run that was found, and it ends with: {words}\n\
         replay it with SYNCRAFT_SIM_SEED={seed}{smallest} \
         cargo test --test sim -- --nocapture no_seed\n\
         {:#?}",
        smallest.plan(seed)
    ));
}

fn in_seed_thread(run: impl FnOnce() -> Report + Send) -> Result<Report, String> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name(THREAD_NAME.to_owned());
        let thread = builder.spawn_scoped(scope, || attempt(run)).expect("a thread");
        thread.join().expect("no panic escapes")
    })
}

/// The result of a run, or the violation.
fn attempt(run: impl FnOnce() -> Report) -> Result<Report, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if thread::current().name() != Some(THREAD_NAME) {
                usual(panic);
            }
        }));
    });
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let words = payload.downcast_ref::<String>().cloned();
        words
            .or_else(|| payload.downcast_ref::<&str>().map(|words| (*words).to_owned()))
            .unwrap_or_else(|| "a panic without words".to_owned())
    })
}

/// At once, even if the output goes to a file.
fn say(words: &str) {
    println!("{words}");
    let _ = std::io::stdout().flush();
}
