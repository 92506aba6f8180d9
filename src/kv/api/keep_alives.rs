//! [`KeepAlives`]: requests to keep leases alive that become one entry of the log together.
//!
//! Requests wait from when they are queued until [`Api::run_pending`](super::Api), which the
//! services call when they have read all that has arrived. Then they go at once if few have gone
//! lately ([`FEW`] within a [`PAUSE`]). Otherwise they go together after this pause, with the next
//! request or tick, once all that have gone have an outcome. So ten thousand clients that keep a
//! lease each make about ten entries a second, and those who are few wait for nobody. When leases
//! are about to end, what waits goes first: with the next tick, or before the next command that has
//! a stamp. A batch is full before it is over the limit of one command, and then goes at once, so
//! what waits has a bound. A full batch counts neither for [`FEW`] nor as one without an outcome.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{ApiError, KeptAlive};
use crate::kv::model::LeaseId;
use crate::kv::{Change, Command, KEEP_ALIVE_IDS_MAX, Outcome, Store};
use crate::node::{NodeHandle, Proposal, RequestError};
use crate::raft::RoleName;

/// How long many requests wait for others, and then for the next request or tick. While nothing
/// else happens, that is the tick of the next heartbeat: with the default times, they wait for
/// 200 ms at most. It costs nobody a lease, because nobody waits while leases are about to end.
const PAUSE: Duration = Duration::from_millis(100);

/// So many requests go within a [`PAUSE`] before others wait. A client that keeps one lease after
/// another alive, and so waits for each answer, must not take a pause for each.
const FEW: usize = 4;

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
    /// How many entries have no outcome yet.
    under_way: usize,
    /// How many requests have gone since the pause began, ...
    gone: usize,
    /// ... which ends then. `None`: none has gone yet.
    pause_end: Option<Instant>,
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
        let is_leader = || node.status().role.role == RoleName::Leader;
        let batch = self.0.lock().take_at_once(is_leader, Instant::now);
        if let Some(batch) = batch {
            batch.propose(node, self.end());
        }
    }

    /// A tick has passed, or something is about to get a stamp: a command for what waits.
    /// `must_go`: although another one is under way, because leases are about to end.
    pub(super) fn tick(&self, must_go: bool, now: Instant) -> Option<Proposal<Outcome>> {
        let batch = self.0.lock().take_if_due(must_go, now);
        batch?.proposal(self.end())
    }

    /// What is to be done when a command has an outcome.
    fn end(&self) -> impl FnOnce() + Send + 'static {
        let gathering = self.clone();
        move || gathering.0.lock().under_way -= 1
    }
}

impl Gathering {
    /// Takes what waits, if anything does and it may go at once. Who does not lead refuses it, and
    /// keeps nobody waiting for that.
    fn take_at_once(
        &mut self,
        is_leader: impl FnOnce() -> bool,
        now: impl FnOnce() -> Instant,
    ) -> Option<Batch> {
        let is_empty = self.batch.waiting.is_empty();
        (!is_empty).then(|| self.take_if_due(!is_leader(), now())).flatten()
    }

    /// Takes what waits, if anything does and may go now. Then it is under way.
    fn take_if_due(&mut self, must_go: bool, now: Instant) -> Option<Batch> {
        if self.batch.waiting.is_empty() {
            return None;
        }
        if self.under_way == 0 && self.pause_end.is_none_or(|end| now >= end) {
            (self.gone, self.pause_end) = (0, Some(now + PAUSE));
        }
        if self.gone >= FEW && !must_go {
            return None;
        }
        self.gone += self.batch.waiting.len();
        self.under_way += 1;
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
        let take = || waiting.0.lock().take_if_due(true, Instant::now());
        assert!(take().is_none());
        assert!(waiting.push(request(KEEP_ALIVE_IDS_MAX - 1)).is_none());
        assert!(waiting.push(request(1)).is_none());
        let full = waiting.push(request(1)).expect("it does not fit");
        assert_eq!((full.waiting.len(), full.weight), (2, KEEP_ALIVE_IDS_MAX));
        let rest = take().expect("one waits");
        assert_eq!((rest.waiting.len(), rest.weight), (1, 1));
        assert!(take().is_none());
    }

    /// Pushes so many requests. Whether they go now.
    fn go(waiting: &KeepAlives, requests: usize, now: Instant) -> bool {
        (0..requests).for_each(|_| assert!(waiting.push(request(1)).is_none()));
        let proposal = waiting.tick(false, now);
        proposal.map(|it| (it.callback)(Err(RequestError::Busy))).is_some()
    }

    #[test]
    fn few_go_at_once_and_many_wait_for_the_end_of_the_pause() {
        let (waiting, begun) = (KeepAlives::default(), Instant::now());
        for n in 0..FEW {
            assert!(go(&waiting, 1, begun), "{n}");
        }
        assert!(!go(&waiting, 1, begun), "so many have gone");
        assert!(!go(&waiting, 1, begun + PAUSE - Duration::from_millis(1)));
        assert!(go(&waiting, FEW, begun + PAUSE));
        assert!(!go(&waiting, 1, begun + PAUSE), "they have gone together");
        assert!(go(&waiting, 0, begun + 2 * PAUSE));
        assert!(go(&waiting, 1, begun + 2 * PAUSE), "few have gone in this pause");
    }

    #[test]
    fn who_does_not_lead_keeps_nobody_waiting() {
        let (waiting, begun) = (KeepAlives::default(), Instant::now());
        let take = |is_leader: bool| {
            let mut gathering = waiting.0.lock();
            gathering.take_at_once(|| is_leader, || begun).map(|batch| batch.waiting.len())
        };
        assert_eq!(take(true), None, "nothing waits");
        (0..FEW).for_each(|_| assert!(waiting.push(request(1)).is_none()));
        assert_eq!(take(true), Some(FEW));
        waiting.push(request(1));
        assert_eq!(take(true), None);
        assert_eq!(take(false), Some(1));
    }

    #[test]
    fn many_wait_for_the_outcome_of_those_before_unless_leases_are_about_to_end() {
        let (waiting, begun) = (KeepAlives::default(), Instant::now());
        let later = begun + PAUSE;
        assert!(waiting.tick(true, begun).is_none(), "nothing waits");
        (0..FEW).for_each(|_| assert!(waiting.push(request(1)).is_none()));
        let first = waiting.tick(false, begun).expect("nothing has gone before");
        waiting.push(request(1));
        assert!(waiting.tick(false, later).is_none(), "the first ones have no outcome yet");
        let second = waiting.tick(true, later).expect("its lease is about to end");
        assert!(waiting.tick(true, later).is_none());
        waiting.push(request(1));
        (first.callback)(Err(RequestError::Busy));
        assert!(waiting.tick(false, later).is_none(), "the second one has no outcome yet");
        (second.callback)(Err(RequestError::Busy));
        assert!(waiting.tick(false, later).is_some());
    }
}
