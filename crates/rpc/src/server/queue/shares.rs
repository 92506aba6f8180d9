//! The recent cost of each caller, and the level that follows from it.
//!
//! A caller's *cost* is the sum of what it was charged, without what was forgotten: after each
//! `sweep_every`, the cost is multiplied by `decay` and rounded down. A caller whose cost is zero
//! is forgotten. Its *share* is its cost divided by that of all callers. Its level is the number of
//! thresholds that its share reaches.
//!
//! - The share is always up to date, because the total is kept along. So asking costs one lookup,
//!   and a flood is told apart after its first answers instead of seconds later.
//! - Sweeps happen when somebody asks or is charged. Several that are due are made up in one pass,
//!   by `decay` to the power of their number. This rounds once instead of each time, which is the
//!   same at 0.5 and hardly differs elsewhere.
//! - A sweep leaves the shares as they are, except for rounding. What is charged after it weighs
//!   more, so a caller that is no longer greedy rises as others are charged.
//! - A lone caller has all of the cost, and so is in the worst level. It loses no turn, because the
//!   other levels are empty, but it only has the places of that level.
//! - The empty name is one caller's. (The reader uses the IP address in its place.) If
//!   `callers_max` callers are remembered, all others are one caller, until some are forgotten.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::Fairness;
use crate::fairness::LEVELS;

/// The recent cost of each caller.
#[derive(Debug)]
pub(super) struct Shares {
    sweep_every: Duration,
    decay: f64,
    thresholds: [f64; LEVELS - 1],
    callers_max: usize,
    exempt: HashSet<Bytes>,
    /// At most `callers_max`.
    costs: HashMap<Box<[u8]>, u64>,
    /// The cost of the callers that found no room in `costs`.
    rest: u64,
    /// The cost of all callers: the sum of `costs`, and `rest`.
    total: u64,
    /// When the last sweep was due; `None` before the first call.
    swept: Option<Instant>,
}

impl Shares {
    pub(super) fn new(fairness: Fairness) -> Self {
        let Fairness { sweep_every, decay, thresholds, callers_max, exempt, weights: _ } = fairness;
        Shares {
            sweep_every,
            decay,
            thresholds,
            callers_max,
            exempt: exempt.into_iter().collect(),
            costs: HashMap::new(),
            rest: 0,
            total: 0,
            swept: None,
        }
    }

    /// The level of `caller` now.
    pub(super) fn level(&mut self, caller: &[u8], now: Instant) -> usize {
        if self.exempt.contains(caller) {
            return 0;
        }
        self.sweep(now);
        let cost = match self.costs.get(caller) {
            Some(cost) => *cost,
            None if self.is_full() => self.rest,
            None => 0,
        };
        // 0 by 0 is NaN, which reaches no threshold.
        let share = cost as f64 / self.total as f64;
        self.thresholds.iter().filter(|threshold| share >= **threshold).count()
    }

    /// Adds to the cost of `caller`.
    pub(super) fn charge(&mut self, caller: &[u8], cost: u64, now: Instant) {
        if self.exempt.contains(caller) {
            return;
        }
        self.sweep(now);
        let is_full = self.is_full();
        let sum = match self.costs.get_mut(caller) {
            Some(sum) => sum,
            None if is_full => &mut self.rest,
            None => self.costs.entry(caller.into()).or_default(),
        };
        *sum = sum.saturating_add(cost);
        self.total = self.total.saturating_add(cost);
    }

    fn is_full(&self) -> bool {
        self.costs.len() >= self.callers_max
    }

    /// Makes up for the sweeps that are due at `now`. A `now` in the past changes nothing: threads
    /// read the clock before they have the lock.
    fn sweep(&mut self, now: Instant) {
        let swept = self.swept.get_or_insert(now);
        let elapsed = now.saturating_duration_since(*swept);
        if elapsed < self.sweep_every {
            return;
        }
        let sweeps = elapsed.as_nanos() / self.sweep_every.as_nanos();
        let sweeps = u32::try_from(sweeps).unwrap_or(u32::MAX);
        *swept += self.sweep_every * sweeps;

        let left = self.decay.powf(sweeps.into());
        let decayed = |cost: u64| (cost as f64 * left) as u64;
        self.rest = decayed(self.rest);
        self.total = self.rest;
        self.costs.retain(|_, cost| {
            *cost = decayed(*cost);
            self.total = self.total.saturating_add(*cost);
            *cost > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWEEP: Duration = Duration::from_secs(5);

    fn shares() -> Shares {
        Shares::new(Fairness::default())
    }

    fn cost(shares: &Shares, caller: &str) -> Option<u64> {
        shares.costs.get(caller.as_bytes()).copied()
    }

    #[test]
    fn levels_follow_from_the_share_of_this_moment() {
        let (mut shares, now) = (shares(), Instant::now());
        let mut check = |caller: &str, cost: u64, expected: [usize; 4]| {
            shares.charge(caller.as_bytes(), cost, now);
            let levels = ["a", "b", "c", "new"].map(|each| shares.level(each.as_bytes(), now));
            assert_eq!(levels, expected, "{cost} more by {caller}");
        };
        // At the right: what each has cost, of the total.
        check("a", 1, [3, 0, 0, 0]); // 1 of 1: a lone caller
        check("b", 7, [1, 3, 0, 0]); // 1 of 8 is exactly the first threshold
        check("c", 1, [0, 3, 0, 0]); // 1, 7, 1 of 9
        check("a", 2, [2, 3, 0, 0]); // 3, 7, 1 of 11
        check("c", 3, [1, 3, 2, 0]); // 3, 7, 4 of 14: 7 is exactly the last threshold
        check("c", 1, [1, 2, 2, 0]); // 3, 7, 5 of 15
        check("new", 5, [1, 2, 2, 2]); // 3, 7, 5, 5 of 20: 5 is exactly the second threshold
    }

    #[test]
    fn nobody_was_charged_yet() {
        assert_eq!(shares().level(b"a", Instant::now()), 0);
    }

    #[test]
    fn each_sweep_halves_rounds_down_and_forgets_at_zero() {
        let (mut shares, start) = (shares(), Instant::now());
        shares.charge(b"a", 5, start);
        shares.charge(b"b", 1, start);
        let mut check = |sweeps: u32, a: Option<u64>, b: Option<u64>, total: u64| {
            for early in [Duration::ZERO, SWEEP - Duration::from_nanos(1)] {
                shares.level(b"", start + SWEEP * sweeps + early);
                let found = (cost(&shares, "a"), cost(&shares, "b"), shares.total);
                assert_eq!(found, (a, b, total), "after {sweeps} sweeps and {early:?}");
            }
        };
        check(0, Some(5), Some(1), 6);
        check(1, Some(2), None, 2);
        check(2, Some(1), None, 1);
        check(3, None, None, 0);
        assert!(shares.costs.is_empty());
        assert_eq!(shares.level(b"a", start + SWEEP * 3), 0);
    }

    #[test]
    fn missed_sweeps_are_made_up_at_once() {
        let (mut each, mut at_once, start) = (shares(), shares(), Instant::now());
        for shares in [&mut each, &mut at_once] {
            shares.charge(b"a", 999_999, start);
        }
        (1..=7).for_each(|sweeps| each.sweep(start + SWEEP * sweeps));
        at_once.sweep(start + SWEEP * 7);
        assert_eq!(cost(&at_once, "a"), Some(999_999 >> 7));
        assert_eq!(cost(&each, "a"), cost(&at_once, "a"));
        at_once.sweep(start + Duration::from_secs(365 * 24 * 3600));
        assert_eq!((cost(&at_once, "a"), at_once.total), (None, 0));
    }

    #[test]
    fn a_sweep_made_up_late_does_not_put_off_the_next() {
        let (mut shares, start) = (shares(), Instant::now());
        shares.charge(b"a", 8, start);
        for (halves, expected) in [(3, 4), (4, 2), (5, 2), (6, 1)] {
            shares.sweep(start + SWEEP * halves / 2);
            assert_eq!(cost(&shares, "a"), Some(expected), "after {halves} half intervals");
        }
    }

    #[test]
    fn sweeps_too_many_to_count_do_no_harm() {
        let sweep_every = Duration::from_nanos(1);
        let mut shares = Shares::new(Fairness { sweep_every, ..Fairness::default() });
        let start = Instant::now();
        shares.charge(b"a", u64::MAX, start);
        shares.charge(b"b", u64::MAX, start);
        assert_eq!(shares.level(b"a", start), 3);
        assert_eq!(shares.level(b"a", start + Duration::from_secs(3600)), 0);
    }

    #[test]
    fn a_time_before_the_last_sweep_changes_nothing() {
        let (mut shares, start) = (shares(), Instant::now());
        shares.sweep(start);
        shares.charge(b"a", 8, start + SWEEP);
        shares.charge(b"a", 1, start);
        assert_eq!(cost(&shares, "a"), Some(9));
        shares.sweep(start + SWEEP * 2);
        assert_eq!(cost(&shares, "a"), Some(4));
    }

    #[test]
    fn the_exempt_are_never_demoted_and_count_in_no_share() {
        let exempt = vec![Bytes::from_static(b"operator")];
        let mut shares = Shares::new(Fairness { exempt, ..Fairness::default() });
        let now = Instant::now();
        shares.charge(b"operator", 1_000_000, now);
        assert_eq!((shares.total, shares.costs.len()), (0, 0));
        shares.charge(b"a", 1, now);
        assert_eq!(shares.level(b"operator", now), 0);
        assert_eq!(shares.level(b"a", now), 3, "all of what counts");
    }

    #[test]
    fn callers_beyond_the_bound_share_one_entry() {
        let mut shares = Shares::new(Fairness { callers_max: 2, ..Fairness::default() });
        let start = Instant::now();
        shares.charge(b"a", 100, start);
        shares.charge(b"b", 4, start);
        assert_eq!(shares.level(b"stranger", start), 0);
        (0..100_000u32).for_each(|n| shares.charge(&n.to_be_bytes(), 1, start));
        assert_eq!((shares.costs.len(), shares.rest, shares.total), (2, 100_000, 100_104));
        assert_eq!(shares.level(b"stranger", start), 3, "as all who share the entry");
        assert_eq!(shares.level(b"a", start), 0, "remembered on its own");

        let later = start + SWEEP * 3;
        assert_eq!(shares.level(b"stranger", later), 0, "b is forgotten: there is room");
        shares.charge(b"stranger", 1, later);
        assert_eq!((shares.costs.len(), shares.rest, shares.total), (2, 12_500, 12_513));
        assert_eq!(
            shares.level(b"b", later),
            3,
            "what was put together stays so until it has decayed"
        );
    }

    #[test]
    fn the_slow_one_is_demoted_for_the_same_number_of_calls() {
        let (mut shares, now) = (shares(), Instant::now());
        for _ in 0..10 {
            shares.charge(b"slow", 100_000, now);
            shares.charge(b"fast", 100, now);
        }
        assert_eq!((shares.level(b"slow", now), shares.level(b"fast", now)), (3, 0));
    }

    #[test]
    fn who_stops_being_greedy_rises_as_others_are_charged() {
        let (mut shares, start) = (shares(), Instant::now());
        shares.charge(b"once", 1_000_000, start);
        let levels: Vec<usize> = (1..=6)
            .map(|sweeps| {
                let now = start + SWEEP * sweeps;
                (0..10u8).for_each(|other| shares.charge(&[other], 20_000, now));
                shares.level(b"once", now)
            })
            .collect();
        // 500, 250, 125, 62, 31, 15 of 700, 550, 475, 437, 418, 409 thousand.
        assert_eq!(levels, [3, 2, 2, 1, 0, 0]);
    }
}
