//! The clients of a run, and what they measure.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use syncraft::clerk::{Clerk, ClerkError, ClerkErrorKind};

use super::super::Failure;
use super::work::Work;

/// Stack of a client's thread: a call is shallow, and there may be thousands.
const STACK_BYTES: usize = 128 << 10;
/// The longest latency that is told apart, in microseconds: an hour.
const LATENCY_MAX_US: u64 = 3_600_000_000;
/// Digits of a latency that are kept.
const LATENCY_DIGITS: u8 = 3;
/// Histograms; clients share them, as each takes some hundred KiB.
const SHARDS: usize = 16;
/// Between lines of progress.
const PROGRESS_PAUSE: Duration = Duration::from_millis(500);

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// After so many operations.
    Count(u64),
    /// So long after the warm-up.
    After(Duration),
}

/// A run.
pub(super) struct Load {
    pub(super) work: Work,
    pub(super) end: End,
    /// Operations a second; none: as fast as the clients go.
    pub(super) rate: Option<f64>,
    /// Until then nothing is counted.
    pub(super) warm_up: Duration,
    pub(super) shows_progress: bool,
}

/// What a run has measured.
pub(super) struct Measured {
    /// Of the operations that succeeded, in microseconds.
    pub(super) latencies: Histogram<u64>,
    pub(super) elapsed: Duration,
    pub(super) errors: Errors,
    pub(super) first_error: Option<ClerkError>,
}

/// Operations that failed, by what is known of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Errors {
    pub(super) not_applied: u64,
    pub(super) unknown: u64,
    pub(super) rejected: u64,
}

/// What the clients share.
struct Run<'a> {
    load: &'a Load,
    /// When counting begins.
    start: Instant,
    /// Operations that were begun since then, or since the beginning where a rate is kept.
    begun: AtomicU64,
    done: AtomicU64,
    is_over: AtomicBool,
    shards: Vec<Mutex<Shard>>,
}

struct Shard {
    latencies: Histogram<u64>,
    errors: Errors,
    first_error: Option<ClerkError>,
}

impl Load {
    /// Runs it with one thread a Clerk.
    pub(super) fn run(&self, clerks: Vec<Clerk>) -> Result<Measured, Failure> {
        let shards: Vec<_> =
            (0..SHARDS.min(clerks.len())).map(|_| Mutex::new(Shard::new())).collect();
        let run = Run {
            load: self,
            start: Instant::now() + self.warm_up,
            begun: AtomicU64::new(0),
            done: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            shards,
        };
        let elapsed = thread::scope(|scope| {
            let progress = self.shows_progress.then(|| scope.spawn(|| run.show_progress()));
            let start_client = |(i, clerk)| {
                let (run, builder) = (&run, thread::Builder::new().stack_size(STACK_BYTES));
                let name = format!("client-{i}");
                builder.name(name).spawn_scoped(scope, move || run.client(i, &clerk))
            };
            let threads: io::Result<Vec<_>> =
                clerks.into_iter().enumerate().map(start_client).collect();
            // Those that were started end when the run does, which then is at once.
            run.is_over.store(threads.is_err(), Ordering::Relaxed);
            let no_thread = |error| {
                Failure::not_applied(format!("not enough threads for all clients: {error}"))
            };
            for thread in threads.map_err(no_thread)? {
                thread.join().expect("a client does not panic");
            }
            let elapsed = run.start.elapsed();
            run.is_over.store(true, Ordering::Relaxed);
            if let Some(progress) = progress {
                progress.thread().unpark();
            }
            Ok::<_, Failure>(elapsed)
        })?;
        Ok(run.measured(elapsed))
    }
}

impl Run<'_> {
    fn client(&self, client: usize, clerk: &Clerk) {
        let mut rng = fastrand::Rng::new();
        let shard = &self.shards[client % self.shards.len()];
        while let Some((number, begin)) = self.begin() {
            let result = self.load.work.run(clerk, number, &mut rng);
            if begin < self.start {
                continue;
            }
            let latency = u64::try_from(begin.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US);
            self.done.fetch_add(1, Ordering::Relaxed);
            shard.lock().count(latency, result);
        }
    }

    /// The next operation: its number, and when it begins. Waits for that moment, where a rate is kept.
    fn begin(&self) -> Option<(u64, Instant)> {
        let Load { end, rate, .. } = *self.load;
        if self.is_over.load(Ordering::Relaxed) {
            return None;
        }
        let mut begin = Instant::now();
        let number = match rate {
            None if begin < self.start => 0,
            _ => self.begun.fetch_add(1, Ordering::Relaxed),
        };
        if let Some(rate) = rate {
            let first = self.start - self.load.warm_up;
            begin = first + Duration::from_secs_f64(number as f64 / rate);
            thread::sleep(begin.saturating_duration_since(Instant::now()));
        }
        let is_over = match end {
            End::After(time) => begin >= self.start + time,
            End::Count(count) => number >= count + self.warm_up_count(),
        };
        (!is_over).then_some((number, begin))
    }

    /// How many operations a rate asks for before counting begins.
    fn warm_up_count(&self) -> u64 {
        self.load.rate.map_or(0, |rate| (self.load.warm_up.as_secs_f64() * rate).ceil() as u64)
    }

    fn show_progress(&self) {
        let (mut last_done, mut last) = (0, Instant::now());
        while !self.is_over.load(Ordering::Relaxed) {
            thread::park_timeout(PROGRESS_PAUSE);
            let (done, now) = (self.done.load(Ordering::Relaxed), Instant::now());
            let rate = (done - last_done) as f64 / (now - last).as_secs_f64();
            let seconds = now.saturating_duration_since(self.start).as_secs_f64();
            // It is for a person who looks; a terminal that has gone needs none.
            let _ = write!(io::stderr(), "\r{seconds:6.1} s  {done:10} done  {rate:9.0}/s ");
            (last_done, last) = (done, now);
        }
        let _ = writeln!(io::stderr());
    }

    fn measured(self, elapsed: Duration) -> Measured {
        let mut all = Shard::new();
        self.shards.into_iter().for_each(|shard| all.add(shard.into_inner()));
        let Shard { latencies, errors, first_error } = all;
        Measured { latencies, elapsed, errors, first_error }
    }
}

impl Shard {
    fn new() -> Shard {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_US, LATENCY_DIGITS)
            .expect("these bounds are in order");
        Shard { latencies, errors: Errors::default(), first_error: None }
    }

    fn count(&mut self, latency_us: u64, result: Result<(), ClerkError>) {
        let Err(error) = result else { return self.latencies.saturating_record(latency_us) };
        *match error.kind() {
            ClerkErrorKind::NotApplied => &mut self.errors.not_applied,
            ClerkErrorKind::Unknown => &mut self.errors.unknown,
            ClerkErrorKind::Rejected => &mut self.errors.rejected,
        } += 1;
        self.first_error.get_or_insert(error);
    }

    fn add(&mut self, other: Shard) {
        self.latencies.add(&other.latencies).expect("all have the same bounds");
        self.errors.not_applied += other.errors.not_applied;
        self.errors.unknown += other.errors.unknown;
        self.errors.rejected += other.errors.rejected;
        if let Some(error) = other.first_error {
            self.first_error.get_or_insert(error);
        }
    }
}
