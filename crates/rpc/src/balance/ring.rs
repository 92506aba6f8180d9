//! [`HashRing`]: consistent hashing.

use parking_lot::Mutex;

use super::hash::{hash_key, spread};
use super::{Balancer, Candidate};

/// Points on the ring for each unit of weight. The share of an endpoint varies by about
/// `1 / sqrt(POINTS)`: 9 percent.
const POINTS: u64 = 128;

/// Sends equal keys to the same endpoint. When an endpoint comes, goes or is ejected, only the
/// keys of that endpoint move.
///
/// Each endpoint has 128 points for each unit of its weight on a ring of all 64-bit numbers. A key
/// belongs to the first point at or after its own position. `spread` is the finalizer of
/// splitmix64. The position of a key is `spread(key)`; point `i` of an endpoint, counted from 0, is
/// at `spread(hash_key(addr) ^ spread(i + 1))`. So all processes that know the same endpoints
/// agree, in whatever order they know them. Addresses are compared as they are written:
/// `localhost:1` and `127.0.0.1:1` differ.
///
/// The ring is computed again only when the candidates change.
#[derive(Debug, Default)]
pub struct HashRing {
    ring: Mutex<Ring>,
}

impl HashRing {
    /// Computes the ring when it first chooses an endpoint.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Balancer for HashRing {
    fn pick(&self, candidates: &[Candidate<'_>], key: u64) -> usize {
        let mut ring = self.ring.lock();
        if !ring.is_of(candidates) {
            *ring = Ring::of(candidates);
        }
        ring.owner(key)
    }
}

#[derive(Debug, Default)]
struct Ring {
    /// Address and weight of each candidate.
    members: Vec<(String, u32)>,
    /// Position, and index of the candidate, in the order of positions.
    points: Vec<(u64, usize)>,
}

impl Ring {
    fn of(candidates: &[Candidate<'_>]) -> Self {
        let members: Vec<_> = candidates
            .iter()
            .map(|c| (c.endpoint.addr().to_owned(), c.endpoint.weight()))
            .collect();
        let mut points: Vec<(u64, usize)> = members
            .iter()
            .enumerate()
            .flat_map(|(at, (addr, weight))| {
                let seed = hash_key(addr.as_bytes());
                (1..=POINTS * u64::from(*weight)).map(move |i| (spread(seed ^ spread(i)), at))
            })
            .collect();
        // If two points have the same position, the address decides, not the order of the list.
        points.sort_unstable_by_key(|(position, at)| (*position, &members[*at].0));
        Ring { members, points }
    }

    fn is_of(&self, candidates: &[Candidate<'_>]) -> bool {
        let known = self.members.iter().map(|(addr, weight)| (addr.as_str(), *weight));
        known.eq(candidates.iter().map(|c| (c.endpoint.addr(), c.endpoint.weight())))
    }

    fn owner(&self, key: u64) -> usize {
        let position = spread(key);
        let at = self.points.partition_point(|(point, _)| *point < position);
        // After the last point comes the first.
        self.points.get(at).or(self.points.first()).map_or(0, |(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{counts, idle, places, weighted};
    use super::*;

    #[test]
    fn only_the_keys_of_an_endpoint_that_goes_move() {
        let all = weighted(&[1; 10]);
        let before = places(&HashRing::new(), &all, 0..10_000);
        for gone in 0..all.len() {
            let mut rest = all.clone();
            rest.remove(gone);
            let after = places(&HashRing::new(), &rest, 0..10_000);
            let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            let were_there = before.iter().filter(|addr| **addr == all[gone].addr()).count();
            assert_eq!(moved, were_there);
            // A tenth, as even as 128 points make it.
            assert!((700..1300).contains(&moved), "{moved} of 10,000");
        }
    }

    #[test]
    fn one_ring_serves_changing_candidates() {
        let (balancer, all) = (HashRing::new(), weighted(&[1; 4]));
        for endpoints in [&all[..], &all[1..], &all[..3], &all[..]] {
            let fresh = places(&HashRing::new(), endpoints, 0..500);
            assert_eq!(places(&balancer, endpoints, 0..500), fresh);
        }
    }

    #[test]
    fn weights_are_proportions() {
        let counts = counts(&HashRing::new(), &weighted(&[1, 3, 6]), 10_000);
        for (count, expected) in counts.into_iter().zip([1000, 3000, 6000]) {
            assert!(count.abs_diff(expected) < expected / 4, "{count} of {expected}");
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let endpoints = weighted(&[1, 2, 3, 4]);
        let backwards: Vec<_> = endpoints.iter().rev().cloned().collect();
        let ring = HashRing::new();
        assert_eq!(places(&ring, &endpoints, 0..1000), places(&ring, &backwards, 0..1000));
    }

    #[test]
    fn the_ring_is_kept_while_the_candidates_are_the_same() {
        let (balancer, endpoints) = (HashRing::new(), weighted(&[1, 2]));
        let points = |balancer: &HashRing| balancer.ring.lock().points.as_ptr();
        balancer.pick(&idle(&endpoints), 1);
        let first = points(&balancer);
        balancer.pick(&idle(&endpoints), 2);
        assert_eq!(points(&balancer), first);
        assert_eq!(balancer.ring.lock().points.len(), 3 * 128);
        // Another weight means another ring.
        balancer.pick(&idle(&weighted(&[1, 1])), 1);
        assert_eq!(balancer.ring.lock().points.len(), 2 * 128);
    }

    /// Processes of other versions send the same keys to the same endpoints.
    #[test]
    fn places_never_change() {
        let order: String = places(&HashRing::new(), &weighted(&[1; 5]), 0..20)
            .into_iter()
            .map(|addr| &addr[..1])
            .collect();
        assert_eq!(order, "ccddbbaacbacdedcdecd");
    }
}
