//! One endpoint after another, evenly or by weight.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{Balancer, Candidate};

/// Chooses the candidates one after another, whatever their weights.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: AtomicUsize,
}

impl RoundRobin {
    /// Begins with the first candidate.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Balancer for RoundRobin {
    fn pick(&self, candidates: &[Candidate<'_>], _: u64) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) % candidates.len()
    }
}

/// Chooses the candidates one after another, each as often as its weight says, spread evenly over
/// time: with weights 5, 1, 1 the order is `a a b a c a a`, not `a a a a a b c`. This is the smooth
/// weighted round robin of nginx.
///
/// Each endpoint has a credit. At each call every credit grows by the endpoint's weight; the
/// endpoint with the largest credit is chosen and pays the sum of all weights.
#[derive(Debug, Default)]
pub struct WeightedRoundRobin {
    credits: Mutex<Vec<(String, i64)>>,
}

impl WeightedRoundRobin {
    /// Begins with the candidate of the largest weight.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Balancer for WeightedRoundRobin {
    fn pick(&self, candidates: &[Candidate<'_>], _: u64) -> usize {
        let mut credits = self.credits.lock();
        follow(&mut credits, candidates);
        let (mut best, mut sum) = (0, 0);
        for (i, candidate) in candidates.iter().enumerate() {
            let weight = i64::from(candidate.endpoint.weight());
            sum += weight;
            credits[i].1 += weight;
            if credits[i].1 > credits[best].1 {
                best = i;
            }
        }
        credits[best].1 -= sum;
        best
    }
}

/// Puts the credits into the order of the candidates. New candidates begin with no credit. The
/// credit of an endpoint that is away is forgotten; otherwise it would get a burst of calls when it
/// returns.
fn follow(credits: &mut Vec<(String, i64)>, candidates: &[Candidate<'_>]) {
    let addrs = || candidates.iter().map(|candidate| candidate.endpoint.addr());
    if credits.iter().map(|(addr, _)| addr.as_str()).eq(addrs()) {
        return;
    }
    let old = std::mem::take(credits);
    let credit = |addr: &str| old.iter().find(|(known, _)| known == addr).map_or(0, |(_, n)| *n);
    credits.extend(addrs().map(|addr| (addr.to_owned(), credit(addr))));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{counts, idle, places, weighted};
    use super::*;

    #[test]
    fn round_robin_takes_turns() {
        let endpoints = weighted(&[1, 9, 1]);
        let order = places(&RoundRobin::new(), &endpoints, 0..6);
        assert_eq!(order, ["a:1", "b:1", "c:1", "a:1", "b:1", "c:1"]);
    }

    #[test]
    fn weighted_round_robin_is_smooth() {
        let endpoints = weighted(&[5, 1, 1]);
        let order: String = places(&WeightedRoundRobin::new(), &endpoints, 0..14)
            .into_iter()
            .map(|addr| &addr[..1])
            .collect();
        assert_eq!(order, "aabacaaaabacaa");
    }

    #[test]
    fn weights_are_proportions() {
        let balancer = WeightedRoundRobin::new();
        assert_eq!(counts(&balancer, &weighted(&[7, 2, 1]), 1000), [700, 200, 100]);
        assert_eq!(counts(&balancer, &weighted(&[1, 1]), 1000), [500, 500]);
    }

    #[test]
    fn an_endpoint_that_comes_back_has_no_credit() {
        let (balancer, endpoints) = (WeightedRoundRobin::new(), weighted(&[1, 1, 1]));
        counts(&balancer, &endpoints[..2], 1001);
        assert_eq!(counts(&balancer, &endpoints, 300), [100, 100, 100]);
        let one = idle(&endpoints[2..]);
        assert_eq!(balancer.pick(&one, 0), 0);
    }
}
