//! [`KeepAlives`]: requests to keep leases alive that become one entry of the log together.
//!
//! Requests wait from when they are queued until [`Api::run_pending`](super::Api), which the
//! services call when they have read all that has arrived, and until the entry before has an
//! outcome. Behind another one, an entry also waits for the next turn of the core, at most a tick.
//! So ten thousand clients that keep a lease each make a hundred entries a second at most, and one
//! that is alone waits for nobody. A batch is full before it is over the limit of one command, and
//! then goes at once, so what waits has a bound.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::{ApiError, KeptAlive};
use crate::kv::model::LeaseId;
use crate::kv::{Change, Command, KEEP_ALIVE_IDS_MAX, Outcome, Store};
use crate::node::{NodeHandle, Proposal, RequestError};

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

    /// Queues a command for what waits, unless one is under way.
    pub(super) fn propose(&self, node: &NodeHandle<Store>) {
        if let Some(batch) = self.take() {
            let (gathering, handle) = (self.clone(), node.clone());
            batch.propose(node, move || {
                gathering.0.lock().is_under_way = false;
                gathering.propose(&handle);
            });
        }
    }

    /// A command for what waits, although another one is under way: something is about to end.
    pub(super) fn flush(&self) -> Option<Proposal<Outcome>> {
        let batch = std::mem::take(&mut self.0.lock().batch);
        batch.proposal(|| {})
    }

    /// Takes what waits, unless a command is under way. Then one is.
    fn take(&self) -> Option<Batch> {
        let mut gathering = self.0.lock();
        let is_due = !gathering.is_under_way && !gathering.batch.waiting.is_empty();
        gathering.is_under_way |= is_due;
        is_due.then(|| std::mem::take(&mut gathering.batch))
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
        assert!(waiting.take().is_none());
        assert!(waiting.push(request(KEEP_ALIVE_IDS_MAX - 1)).is_none());
        assert!(waiting.push(request(1)).is_none());
        let full = waiting.push(request(1)).expect("it does not fit");
        assert_eq!((full.waiting.len(), full.weight), (2, KEEP_ALIVE_IDS_MAX));
        let rest = waiting.take().expect("one waits");
        assert_eq!((rest.waiting.len(), rest.weight), (1, 1));
        assert!(waiting.push(request(1)).is_none());
        assert!(waiting.take().is_none(), "the last one has no outcome yet");
        // Its lease is about to end.
        assert!(waiting.flush().is_some());
        assert!(waiting.flush().is_none());
        assert!(waiting.push(request(1)).is_none());
        waiting.0.lock().is_under_way = false;
        assert!(waiting.take().is_some());
    }
}
