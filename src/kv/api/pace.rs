//! [`Pace`]: when a large read rests, so that those who write beside it do not wait for it.
//!
//! On two cores, beside a thread that computes all the time, the p99 of puts is four times as long.
//! Its priority changes little. (To the kernel, a core on which any thread runs is not idle, so
//! threads that wake up wait for one another on the other core.) Beside a thread that rests for
//! four fifths of the time, a fraction of a millisecond each time, puts take as long as without it.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// How many times as long as it has worked a read rests. Less: those who write beside it wait
/// longer. More: it takes longer, and they gain nothing.
const RESTS_PER_WORK: u32 = 4;

/// The shortest work that is worth a rest: a thread that sleeps wakes up some 60 µs late.
const WORK_MIN: Duration = Duration::from_micros(50);

/// The longest rest: the read may have waited for its client instead of working.
const REST_MAX: Duration = Duration::from_millis(2);

/// The pace of one read. It rests only while its member serves others.
pub(super) struct Pace<F> {
    /// Returns another number whenever the member has done something for others.
    served: F,
    /// What `served` has returned last.
    seen: Cell<u64>,
    works_since: Cell<Instant>,
}

impl<F: Fn() -> u64> Pace<F> {
    /// The work begins.
    pub(super) fn new(served: F) -> Pace<F> {
        let seen = Cell::new(served());
        Pace { served, seen, works_since: Cell::new(Instant::now()) }
    }

    /// A piece of the work is done: rests, if a rest is due. Returns when it is.
    pub(super) fn rest(&self) -> Instant {
        let now = Instant::now();
        let Some(rest) = self.due(now) else { return now };
        if !rest.is_zero() {
            thread::sleep(rest);
        }
        let now = Instant::now();
        self.works_since.set(now);
        now
    }

    /// How long to rest. `None`: the piece of work goes on.
    fn due(&self, now: Instant) -> Option<Duration> {
        let worked = now.saturating_duration_since(self.works_since.get());
        if worked < WORK_MIN {
            return None;
        }
        let served = (self.served)();
        let has_served = self.seen.replace(served) != served;
        Some(if has_served { (worked * RESTS_PER_WORK).min(REST_MAX) } else { Duration::ZERO })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_rests_four_times_as_long_as_it_works_while_others_are_served() {
        let served = Cell::new(7);
        let pace = Pace::new(|| served.get());
        let after = |micros| pace.works_since.get() + Duration::from_micros(micros);
        assert_eq!(pace.due(after(10)), None, "too short to look");
        assert_eq!(pace.due(after(100)), Some(Duration::ZERO), "nobody else is served");
        served.set(8);
        assert_eq!(pace.due(after(100)), Some(Duration::from_micros(400)));
        assert_eq!(pace.due(after(100)), Some(Duration::ZERO), "nobody since");
        served.set(9);
        assert_eq!(pace.due(after(1_000_000)), Some(REST_MAX), "it has waited for its client");
    }

    #[test]
    fn the_next_piece_begins_after_the_rest() {
        let served = Cell::new(0);
        let pace = Pace::new(|| served.replace(served.get() + 1));
        let began = pace.works_since.get();
        while began.elapsed() < WORK_MIN {}
        let rested = pace.rest();
        assert!(rested - began >= WORK_MIN * (1 + RESTS_PER_WORK));
        assert_eq!(pace.works_since.get(), rested);
    }
}
