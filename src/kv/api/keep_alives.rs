//! [`KeepAlives`]: requests to keep leases alive that become one entry of the log together.
//!
//! Requests wait from when they are queued until [`Api::run_pending`](super::Api), which the
//! services call when they have read all that has arrived. Then they go at once if no others have
//! gone for [`PAUSE_TICKS`], and all of those have an outcome. Otherwise they go with the tick that
//! ends this pause. So ten thousand clients that keep a lease each make about twenty entries a
//! second, and one that is alone waits for nobody. When leases are about to end, what waits goes
//! first: with the next tick, or before the next command that has a stamp. A batch is full before
//! it is over the limit of one command, and then goes at once, so what waits has a bound.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::{ApiError, KeptAlive};
use crate::kv::model::LeaseId;
use crate::kv::{Change, Command, KEEP_ALIVE_IDS_MAX, Outcome, Store};
use crate::node::{NodeHandle, Proposal, RequestError};

/// How long those that come after an entry wait for others: 50 ms at the default of 10 ms a tick.
/// It costs nobody a lease, because nobody waits while leases are about to end. The clock does not
/// sleep before the pause is over (`QUIET_TICKS` in `node/ticker.rs`).
const PAUSE_TICKS: u32 = 5;

type Callback = Box<dyn FnOnce(Result<KeptAlive, ApiError>) + Send>;

/// A request that waits.
pub(super) struct Waiting {
    pub(super) ids: Vec<LeaseId>,
    pub(super) deadline: Instant,
    pub(super) callback: Callback,
}

/// See the [module](self). Clones share everything.
#[derive(Clone, Default)]
pub(super) struct KeepAlives(Arc<Mutex<Gathering>>);

#[derive(Default)]
struct Gathering {
    batch: Batch,
    /// An entry has no outcome yet.
    is_under_way: bool,
    /// For how many ticks what comes has to wait, because an entry was proposed a moment ago.
    pause_ticks: u32,
}

/// Requests that go together.
#[derive(Default)]
pub(super) struct Batch {
    waiting: Vec<Waiting>,
    weight: usize,
}

impl KeepAlives {
    /// Adds a request. Returns those that wait, if it does not fit beside them.
    pub(super) fn push(&self, request: Waiting) -> Option<Batch> {
        let batch = &mut self.0.lock().batch;
        // A request without ids takes memory, too.
        let weight = request.ids.len().max(1);
        let is_full = batch.weight + weight > KEEP_ALIVE_IDS_MAX;
        let full = is_full.then(|| std::mem::take(batch));
        batch.weight += weight;
        batch.waiting.push(request);
        full
    }

    /// Queues a command for what waits, if it may go at once.
    pub(super) fn propose(&self, node: &NodeHandle<Store>) {
        let batch = {
            let mut gathering = self.0.lock();
            let may_go = !gathering.is_under_way && gathering.pause_ticks == 0;
            may_go.then(|| gathering.take()).flatten()
        };
        if let Some(batch) = batch {
            batch.propose(node, self.end());
        }
    }

    /// A tick has passed, or something is about to get a stamp: a command for what waits.
    /// `must_go`: although another one is under way, because leases are about to end.
    pub(super) fn tick(&self, must_go: bool) -> Option<Proposal<Outcome>> {
        let batch = {
            let mut gathering = self.0.lock();
            gathering.pause_ticks = gathering.pause_ticks.saturating_sub(1);
            let may_go = must_go || !gathering.is_under_way && gathering.pause_ticks == 0;
            may_go.then(|| gathering.take()).flatten()
        };
        batch?.proposal(self.end())
    }

    /// What is to be done when a command has an outcome.
    fn end(&self) -> impl FnOnce() + Send + 'static {
        let gathering = self.clone();
        move || gathering.0.lock().is_under_way = false
    }
}

impl Gathering {
    /// Takes what waits, if anything does. Then it is under way.
    fn take(&mut self) -> Option<Batch> {
        if self.batch.waiting.is_empty() {
            return None;
        }
        (self.is_under_way, self.pause_ticks) = (true, PAUSE_TICKS);
        Some(std::mem::take(&mut self.batch))
    }
}

impl Batch {
    /// Queues one command for all requests. `end` runs when all of them have been answered.
    pub(super) fn propose(self, node: &NodeHandle<Store>, end: impl FnOnce() + Send + 'static) {
        if let Some(Proposal { command, deadline, callback }) = self.proposal(end) {
            node.queue_proposal(command, deadline, callback);
        }
    }

    /// One command for all requests, if there are any. It is waited for until the last of their
    /// deadlines.
    fn proposal(self, end: impl FnOnce() + Send + 'static) -> Option<Proposal<Outcome>> {
        let deadline = self.waiting.iter().map(|request| request.deadline).max()?;
        let mut ids = Vec::with_capacity(self.weight);
        let mut ends = Vec::with_capacity(self.waiting.len());
        for request in self.waiting {
            ends.push((request.ids.len(), request.callback));
            ids.extend(request.ids);
        }
        let command = Command::unrepeated(Change::LeaseKeepAlive { ids });
        let callback = move |result: Result<Outcome, RequestError>| {
            match result {
                Ok(outcome) => {
                    let results = KeptAlive::split(outcome, ends.iter().map(|(len, _)| *len));
                    ends.into_iter().zip(results).for_each(|((_, callback), it)| callback(it));
                }
                Err(error) => {
                    ends.into_iter().for_each(|(_, callback)| callback(Err(error.into())));
                }
            }
            end();
        };
        Some(Proposal { command: command.encode(), deadline, callback: Box::new(callback) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(ids: usize) -> Waiting {
        let ids = vec![LeaseId(1); ids];
        Waiting { ids, deadline: Instant::now(), callback: Box::new(|_| ()) }
    }

    #[test]
    fn what_arrives_together_goes_together_up_to_the_limit() {
        let waiting = KeepAlives::default();
        let take = || waiting.0.lock().take();
        assert!(take().is_none());
        assert!(waiting.push(request(KEEP_ALIVE_IDS_MAX - 1)).is_none());
        assert!(waiting.push(request(1)).is_none());
        let full = waiting.push(request(1)).expect("it does not fit");
        assert_eq!((full.waiting.len(), full.weight), (2, KEEP_ALIVE_IDS_MAX));
        let rest = take().expect("one waits");
        assert_eq!((rest.waiting.len(), rest.weight), (1, 1));
        assert!(take().is_none());
    }

    #[test]
    fn what_waits_goes_with_a_tick_and_before_leases_end() {
        let waiting = KeepAlives::default();
        assert!(waiting.tick(false).is_none(), "nothing waits");
        waiting.push(request(1));
        let first = waiting.tick(false).expect("one waits");
        waiting.push(request(2));
        assert!(waiting.tick(false).is_none(), "the first one has no outcome yet");
        let second = waiting.tick(true).expect("its lease is about to end");
        assert!(waiting.tick(true).is_none());
        waiting.push(request(3));
        for Proposal { callback, .. } in [first, second] {
            callback(Err(RequestError::Busy));
        }
        for _ in 2..PAUSE_TICKS {
            assert!(waiting.tick(false).is_none(), "others may come");
        }
        assert!(waiting.tick(false).is_some(), "the pause is over");
    }
}
