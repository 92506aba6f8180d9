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
use crate::kv::{Change, Command, KEEP_ALIVE_IDS_MAX, Store};
use crate::node::NodeHandle;

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
    ids: usize,
}

impl KeepAlives {
    /// Adds a request. Returns those that wait, if it does not fit beside them.
    pub(super) fn push(&self, request: Waiting) -> Option<Batch> {
        let batch = &mut self.0.lock().batch;
        let is_full = batch.ids + request.ids.len() > KEEP_ALIVE_IDS_MAX;
        let full = is_full.then(|| std::mem::take(batch));
        batch.ids += request.ids.len();
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

    /// Takes what waits, unless a command is under way. Then one is.
    fn take(&self) -> Option<Batch> {
        let mut gathering = self.0.lock();
        let is_due = !gathering.is_under_way && !gathering.batch.waiting.is_empty();
        gathering.is_under_way |= is_due;
        is_due.then(|| std::mem::take(&mut gathering.batch))
    }
}

impl Batch {
    /// Queues one command for all requests. It is waited for until the last of their deadlines.
    /// `end` runs when all of them have been answered.
    pub(super) fn propose(self, node: &NodeHandle<Store>, end: impl FnOnce() + Send + 'static) {
        let Some(deadline) = self.waiting.iter().map(|request| request.deadline).max() else {
            return end();
        };
        let mut ids = Vec::with_capacity(self.ids);
        let mut ends = Vec::with_capacity(self.waiting.len());
        for request in self.waiting {
            ends.push((request.ids.len(), request.callback));
            ids.extend(request.ids);
        }
        let command = Command::unrepeated(Change::LeaseKeepAlive { ids });
        node.queue_proposal(command.encode(), deadline, move |result| {
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
        });
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
        assert_eq!((full.waiting.len(), full.ids), (2, KEEP_ALIVE_IDS_MAX));
        let rest = waiting.take().expect("one waits");
        assert_eq!((rest.waiting.len(), rest.ids), (1, 1));
        assert!(waiting.push(request(1)).is_none());
        assert!(waiting.take().is_none(), "the last one has no outcome yet");
        waiting.0.lock().is_under_way = false;
        assert!(waiting.take().is_some());
    }
}
