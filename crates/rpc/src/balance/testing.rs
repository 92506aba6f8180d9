//! What the unit tests of the balancers have in common.

use std::time::Duration;

use super::{Balancer, Candidate, Endpoint};

/// Endpoints a:1, b:1, and so on, with these weights.
pub(super) fn weighted(weights: &[u32]) -> Vec<Endpoint> {
    let name = |i: usize| format!("{}:1", (b'a' + i as u8) as char);
    weights.iter().enumerate().map(|(i, weight)| Endpoint::new(name(i)).weighted(*weight)).collect()
}

/// Candidates that differ only in their endpoints.
pub(super) fn idle(endpoints: &[Endpoint]) -> Vec<Candidate<'_>> {
    endpoints
        .iter()
        .map(|endpoint| Candidate { endpoint, outstanding: 0, response_time: Duration::ZERO })
        .collect()
}

/// The address that each of these keys goes to.
pub(super) fn places<'a>(
    balancer: &impl Balancer,
    endpoints: &'a [Endpoint],
    keys: std::ops::Range<u64>,
) -> Vec<&'a str> {
    let candidates = idle(endpoints);
    keys.map(|key| endpoints[balancer.pick(&candidates, key)].addr()).collect()
}

/// How many of these calls go to each endpoint.
pub(super) fn counts(balancer: &impl Balancer, endpoints: &[Endpoint], calls: u64) -> Vec<usize> {
    let places = places(balancer, endpoints, 0..calls);
    let count = |endpoint: &Endpoint| places.iter().filter(|at| **at == endpoint.addr()).count();
    endpoints.iter().map(count).collect()
}
