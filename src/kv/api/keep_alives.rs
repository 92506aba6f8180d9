//! [`KeepAlives`]: requests to keep leases alive that become one entry of the log together.
//!
//! Requests wait from when they are queued until [`Api::run_pending`](super::Api), which the
//! services call when they have read all that has arrived. A batch is full before it is over the
//! limit of one command, and then goes at once, so what waits has a bound.

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

/// See the [module](self).
#[derive(Default)]
pub(super) struct KeepAlives(Mutex<Batch>);

/// Requests that go together.
#[derive(Default)]
pub(super) struct Batch {
    waiting: Vec<Waiting>,
    ids: usize,
}

impl KeepAlives {
    /// Adds a request. Returns those that wait, if it does not fit beside them.
    pub(super) fn push(&self, request: Waiting) -> Option<Batch> {
        let mut batch = self.0.lock();
        let is_full = batch.ids + request.ids.len() > KEEP_ALIVE_IDS_MAX;
        let full = is_full.then(|| std::mem::take(&mut *batch));
        batch.ids += request.ids.len();
        batch.waiting.push(request);
        full
    }

    /// Takes what waits.
    pub(super) fn take(&self) -> Option<Batch> {
        let mut batch = self.0.lock();
        (!batch.waiting.is_empty()).then(|| std::mem::take(&mut *batch))
    }
}

impl Batch {
    /// Queues one command for all requests. It is waited for until the last of their deadlines.
    pub(super) fn propose(self, node: &NodeHandle<Store>) {
        let Some(deadline) = self.waiting.iter().map(|request| request.deadline).max() else {
            return;
        };
        let mut ids = Vec::with_capacity(self.ids);
        let mut ends = Vec::with_capacity(self.waiting.len());
        for request in self.waiting {
            ends.push((request.ids.len(), request.callback));
            ids.extend(request.ids);
        }
        let command = Command::unrepeated(Change::LeaseKeepAlive { ids });
        node.queue_proposal(command.encode(), deadline, move |result| match result {
            Ok(outcome) => {
                let results = KeptAlive::split(outcome, ends.iter().map(|(len, _)| *len));
                ends.into_iter().zip(results).for_each(|((_, callback), it)| callback(it));
            }
            Err(error) => {
                ends.into_iter().for_each(|(_, callback)| callback(Err(error.into())));
            }
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
        assert!(waiting.take().is_none());
    }
}
