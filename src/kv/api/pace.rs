//! [`Pace`]: when a large read rests, so that those who write beside it do not wait for it.
//!
//! On two cores, puts wait several times as long beside a thread that computes all the time, at any
//! priority: to the kernel, a core on which any thread runs is not idle, so threads that wake up
//! wait for one another on the other core. Beside a thread that rests for four fifths of the time,
//! a fraction of a millisecond each time, they take hardly longer than alone.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// A read rests this many times as long as it has worked. With less, writers wait longer. With
/// more, the read takes longer and writers gain nothing.
const RESTS_PER_WORK: u32 = 4;

/// Shorter work is not followed by a rest, because a sleeping thread wakes up some 60 µs late.
const WORK_MIN: Duration = Duration::from_micros(50);

/// The longest rest: the read may have waited for its client instead of working.
const REST_MAX: Duration = Duration::from_millis(2);

/// For this long, a read does not rest at all. It reads about ten thousand keys in this time. A
/// read of this size is as urgent as a put, and it is soon over.
const FIRST_WORK: Duration = Duration::from_millis(5);

/// The pace of one read. It rests only while its member serves others.
pub(super) struct Pace<F> {
    /// Returns another number after the member has served somebody.
    served: F,
    /// The number that `served` returned before the last rest.
    seen: Cell<u64>,
    /// When the work began that has not been followed by a rest.
    works_since: Cell<Instant>,
}

impl<F: Fn() -> u64> Pace<F> {
    /// The work begins.
    pub(super) fn new(served: F) -> Pace<F> {
        let seen = Cell::new(served());
        Pace { served, seen, works_since: Cell::new(Instant::now() + FIRST_WORK) }
    }

    /// To be called after each piece of work. Rests if a rest is due, and returns the time after
    /// it.
    pub(super) fn rest(&self) -> Instant {
        let now = Instant::now();
        let Some(rest) = self.due(now) else { return now };
        thread::sleep(rest);
        let now = Instant::now();
        self.works_since.set(now);
        now
    }

    /// How long to rest, if a rest is due.
    fn due(&self, now: Instant) -> Option<Duration> {
        let worked = now.saturating_duration_since(self.works_since.get());
        if worked < WORK_MIN {
            return None;
        }
        let served = (self.served)();
        let has_served = self.seen.replace(served) != served;
        has_served.then(|| (worked * RESTS_PER_WORK).min(REST_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_rests_four_times_as_long_as_it_works_while_others_are_served() {
        let served = Cell::new(7);
        let began = Instant::now();
        let pace = Pace::new(|| served.get());
        served.set(8);
        assert_eq!(pace.due(began + FIRST_WORK), None, "it may be soon over");
        let after = |micros| pace.works_since.get() + Duration::from_micros(micros);
        assert_eq!(pace.due(after(10)), None, "too short");
        assert_eq!(pace.due(after(100)), Some(Duration::from_micros(400)));
        assert_eq!(pace.due(after(200)), None, "nobody was served since");
        served.set(9);
        assert_eq!(
            pace.due(after(300)),
            Some(Duration::from_micros(1200)),
            "all of its work counts"
        );
        served.set(10);
        assert_eq!(pace.due(after(1_000_000)), Some(REST_MAX), "it has waited for its client");
    }
}
