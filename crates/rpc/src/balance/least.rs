//! The endpoint with the fewest outstanding calls, or the one that will answer first.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Balancer, Candidate};

/// Chooses the candidate with the fewest outstanding calls. Equal candidates take turns.
#[derive(Debug, Default)]
pub struct LeastConnections {
    turn: AtomicUsize,
}

impl LeastConnections {
    /// Begins with the first of equal candidates.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Balancer for LeastConnections {
    fn pick(&self, candidates: &[Candidate<'_>], _: u64) -> usize {
        pick_least(&self.turn, candidates, |candidate| candidate.outstanding)
    }
}

/// Chooses the candidate that will probably answer first: the one with the least product of its
/// response time and the calls that it would then have outstanding. Equal candidates take turns.
///
/// Without the second factor all callers would choose the same candidate until its answers show
/// that it is overloaded. A candidate whose time is not known comes before all others, for one
/// call; while that call is outstanding, it counts as slow as the slowest.
#[derive(Debug, Default)]
pub struct LeastResponseTime {
    turn: AtomicUsize,
}

impl LeastResponseTime {
    /// Begins with the first of equal candidates.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Balancer for LeastResponseTime {
    fn pick(&self, candidates: &[Candidate<'_>], _: u64) -> usize {
        let slowest = candidates.iter().map(|candidate| candidate.response_time).max();
        pick_least(&self.turn, candidates, |candidate| {
            let is_being_tried = candidate.response_time.is_zero() && candidate.outstanding > 0;
            let time = match slowest {
                Some(slowest) if is_being_tried => slowest,
                _ => candidate.response_time,
            };
            let outstanding = candidate.outstanding as u128;
            (time.as_nanos().saturating_mul(outstanding + 1), outstanding)
        })
    }
}

/// The candidate with the least rank. Candidates of equal rank take turns.
fn pick_least<T: Ord>(
    turn: &AtomicUsize,
    candidates: &[Candidate<'_>],
    rank: impl Fn(&Candidate<'_>) -> T,
) -> usize {
    let ranks: Vec<T> = candidates.iter().map(rank).collect();
    let equals: Vec<usize> = match ranks.iter().min() {
        Some(least) => (0..ranks.len()).filter(|i| ranks[*i] == *least).collect(),
        None => return 0,
    };
    equals[turn.fetch_add(1, Ordering::Relaxed) % equals.len()]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Endpoint;
    use super::super::testing::{idle, places, weighted};
    use super::*;

    /// Candidates with these outstanding calls and response times in milliseconds.
    fn busy<'a>(endpoints: &'a [Endpoint], loads: &[(usize, u64)]) -> Vec<Candidate<'a>> {
        let mut candidates = idle(endpoints);
        for (candidate, (outstanding, ms)) in candidates.iter_mut().zip(loads) {
            candidate.outstanding = *outstanding;
            candidate.response_time = Duration::from_millis(*ms);
        }
        candidates
    }

    #[test]
    fn the_fewest_outstanding_is_chosen_and_equals_take_turns() {
        let (balancer, endpoints) = (LeastConnections::new(), weighted(&[1, 1, 1]));
        let candidates = busy(&endpoints, &[(2, 1), (1, 900), (3, 1)]);
        assert_eq!([0; 3].map(|_| balancer.pick(&candidates, 0)), [1, 1, 1]);
        let candidates = busy(&endpoints, &[(1, 0), (2, 0), (1, 0)]);
        let mut picks = [0; 4].map(|_| balancer.pick(&candidates, 0));
        picks.sort_unstable();
        assert_eq!(picks, [0, 0, 2, 2]);
    }

    #[test]
    fn calls_that_stay_outstanding_spread_evenly() {
        let (balancer, endpoints) = (LeastConnections::new(), weighted(&[1, 1, 1, 1]));
        let mut loads = [(0, 0); 4];
        for _ in 0..40 {
            loads[balancer.pick(&busy(&endpoints, &loads), 0)].0 += 1;
        }
        assert_eq!(loads.map(|(outstanding, _)| outstanding), [10; 4]);
    }

    #[test]
    fn the_fastest_is_chosen_and_unknown_ones_before_it() {
        let (balancer, endpoints) = (LeastResponseTime::new(), weighted(&[1, 1, 1]));
        let pick = |loads: &[(usize, u64)]| balancer.pick(&busy(&endpoints, loads), 0);
        assert_eq!(pick(&[(0, 30), (0, 10), (0, 20)]), 1);
        assert_eq!(pick(&[(0, 30), (0, 10), (0, 0)]), 2);
        // An unknown candidate with an outstanding call counts as the slowest.
        assert_eq!(pick(&[(1, 0), (0, 30), (0, 10)]), 2);
        assert_eq!(pick(&[(1, 0), (3, 30), (4, 30)]), 0);
        assert_eq!(pick(&[(4, 0), (3, 0), (5, 0)]), 1);
        // Five calls of 10 ms each, one after another, are slower than one of 30 ms.
        assert_eq!(pick(&[(0, 30), (4, 10), (1, 20)]), 0);
    }

    #[test]
    fn equally_fast_candidates_take_turns() {
        let endpoints = weighted(&[1, 1]);
        assert_eq!(
            places(&LeastResponseTime::new(), &endpoints, 0..4),
            ["a:1", "b:1", "a:1", "b:1"]
        );
    }
}
