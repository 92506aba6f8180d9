//! The choice of one endpoint among several: the trait.

use std::time::Duration;

use super::Endpoint;

/// What a [`Balancer`] may know of an endpoint that a call could go to.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its address and weight.
    pub endpoint: &'a Endpoint,
    /// Calls that have been sent there, or are about to be, and have not ended.
    pub outstanding: usize,
    /// How long it takes to answer, a moving average; zero: not known.
    pub response_time: Duration,
}

/// Chooses the endpoint of a call.
///
/// It is asked under a lock, so that two calls never see the same counts: it must be quick, must not block, and must not call
/// whoever asks it.
pub trait Balancer: Send + Sync {
    /// The index of the chosen one. `candidates` has at least one, and names no address twice; which there are changes from
    /// call to call, as endpoints are left alone and come back. `key` is for those that send equal keys to equal places; others
    /// ignore it. An index beyond the end counts from the start again.
    fn pick(&self, candidates: &[Candidate<'_>], key: u64) -> usize;
}

/// For a choice that a setting makes.
impl<B: Balancer + ?Sized> Balancer for Box<B> {
    fn pick(&self, candidates: &[Candidate<'_>], key: u64) -> usize {
        (**self).pick(candidates, key)
    }
}
