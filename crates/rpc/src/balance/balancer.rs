//! The trait [`Balancer`]: the choice of one endpoint among several.

use std::time::Duration;

use super::Endpoint;

/// An endpoint that a call could go to, as a [`Balancer`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its address and weight.
    pub endpoint: &'a Endpoint,
    /// Calls to it that have begun and have not ended.
    pub outstanding: usize,
    /// How long it takes to answer, as a moving average. Zero: not known.
    pub response_time: Duration,
}

/// Chooses the endpoint of a call.
///
/// It runs under a lock, so that two calls never see the same counts. It must be quick, must not
/// block, and must not call the [`Targets`](super::Targets) or the table that it chooses for.
pub trait Balancer: Send + Sync {
    /// The index of the chosen candidate. There is at least one candidate, and each address occurs
    /// once. The candidates change from call to call, as endpoints are ejected and come back.
    /// Balancers that send equal keys to the same endpoint use `key`; others ignore it. An index
    /// beyond the end wraps around.
    fn pick(&self, candidates: &[Candidate<'_>], key: u64) -> usize;
}

/// So that a program can choose the balancer at run time.
impl<B: Balancer + ?Sized> Balancer for Box<B> {
    fn pick(&self, candidates: &[Candidate<'_>], key: u64) -> usize {
        (**self).pick(candidates, key)
    }
}
