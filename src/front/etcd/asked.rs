//! How requests reach the store: reads that are repeated while leaders change, writes through the
//! lanes, and the header of every answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::error::{self, EtcdError};
use super::out::Object;
use crate::kv::api::{Api, ApiError, Consistency, TxnDone, TxnResult};
use crate::kv::model::{Revision, Txn, TxnAnswer};
use crate::kv::{Change, Done, Identity, Outcome};
use crate::node::RequestError;

/// How long a request may take. Clients give each of three members a third of ten seconds, and then
/// ask the next one.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);

/// How long one attempt of a read waits. The leader may be cut off, and another one there.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause between two attempts.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// What a read ends with.
pub(super) type Ended<T> = Box<dyn FnOnce(Result<T, ApiError>) + Send>;

/// The header of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
    pub(super) term: u64,
}

impl Header {
    /// Writes it. `revision` 0: it has none.
    pub(super) fn write(&self, object: &mut Object<'_>, revision: Revision) {
        object.object("header", |header| {
            header.number("cluster_id", self.cluster_id);
            header.number("member_id", self.member_id);
            header.number("revision", revision.0);
            header.number("raft_term", self.term);
        });
    }
}

impl Shared {
    /// The header as of now. Its term is none that was before one that this member has heard of.
    pub(super) fn header(&self) -> Header {
        let status = self.api.status();
        let term = status.role.term.0;
        // Its clients take 0 for none.
        let cluster_id = self.api.cluster_id().max(1);
        Header { cluster_id, member_id: status.id.0, term }
    }

    /// Asks until there is an answer or the time is up. `ask` is called for each attempt, with the
    /// time by which it must have ended.
    pub(super) fn retried<T: Send + 'static>(
        self: &Arc<Self>,
        deadline: Instant,
        ask: impl Fn(&Api, Instant, Ended<T>) + Send + Sync + 'static,
        end: impl FnOnce(Result<T, EtcdError>) + Send + 'static,
    ) {
        let attempts = Attempts { shared: Arc::clone(self), ask: Arc::new(ask), deadline };
        attempts.next(Box::new(end));
    }

    /// Makes a transaction that changes nothing. `is_local`: on this member's state as it is.
    pub(super) fn read(
        self: &Arc<Self>,
        txn: Txn,
        is_local: bool,
        end: impl FnOnce(Result<(Revision, Arc<TxnAnswer>), EtcdError>) + Send + 'static,
    ) {
        let ask = move |api: &Api, deadline, end: Ended<TxnDone>| match is_local {
            true => api.read_local(txn.clone(), deadline, end),
            false => {
                let (who, linearizable) = (Identity::default(), Consistency::Linearizable);
                api.txn(who, txn.clone(), linearizable, deadline, end);
            }
        };
        self.retried(Instant::now() + TIMEOUT, ask, |result| {
            end(result.map(|done| match done.answer {
                TxnResult::Whole(answer) => (done.revision, answer),
                TxnResult::Forgotten(_) => panic!("a read is never a repeat"),
            }));
        });
    }

    /// Writes, and ends with what took effect.
    pub(super) fn write(
        &self,
        change: Change,
        end: impl FnOnce(Result<Outcome, EtcdError>) + Send + 'static,
    ) {
        self.lanes.write(change, Instant::now() + TIMEOUT, |result| {
            end(match result {
                Ok(Outcome::Ran { result: Err(refusal), .. }) => Err((&refusal).into()),
                Ok(Outcome::TooLarge | Outcome::Malformed) => Err(error::TOO_LARGE),
                Ok(Outcome::NoSpace) => Err(error::NO_SPACE),
                Ok(Outcome::SessionExpired { .. }) => Err(error::TIMED_OUT),
                Ok(outcome) => Ok(outcome),
                Err(error) => Err((&error).into()),
            });
        });
    }

    /// Runs a transaction that may change something. What it answered may be no longer known.
    pub(super) fn write_txn(
        &self,
        txn: Txn,
        end: impl FnOnce(Result<Done, EtcdError>) + Send + 'static,
    ) {
        self.write(Change::Txn(txn), |result| {
            end(result.map(|outcome| match outcome {
                Outcome::Ran { result: Ok(done), .. } => done,
                outcome => panic!("a transaction was answered with {outcome:?}"),
            }));
        });
    }

    /// Runs a transaction, as a read if it is one.
    pub(super) fn run_txn(
        self: &Arc<Self>,
        txn: Txn,
        end: impl FnOnce(Result<(Revision, Arc<TxnAnswer>), EtcdError>) + Send + 'static,
    ) {
        if txn.is_read() {
            return self.read(txn, false, end);
        }
        // What it has answered is forgotten only after it was long, and sent twice by a lane. Then
        // nothing better can be said than after any other write with an unknown outcome.
        self.write_txn(txn, |result| {
            end(result.and_then(|Done { revision, answer, .. }| {
                answer.map(|answer| (revision, answer)).ok_or(error::TIMED_OUT)
            }));
        });
    }
}

/// Whether the comparisons of a transaction held: also known if its answer is not.
pub(super) fn has_held(done: &Done) -> bool {
    done.branches.held & 1 == 1
}

/// Makes an attempt, which ends by this time.
type Ask<T> = dyn Fn(&Api, Instant, Ended<T>) + Send + Sync;

/// The attempts of one read.
struct Attempts<T> {
    shared: Arc<Shared>,
    ask: Arc<Ask<T>>,
    deadline: Instant,
}

impl<T: Send + 'static> Attempts<T> {
    fn next(self, end: Box<dyn FnOnce(Result<T, EtcdError>) + Send>) {
        let until = self.deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
        let (api, ask) = (self.shared.api.clone(), Arc::clone(&self.ask));
        let settle = move |result: Result<T, ApiError>| match result {
            Ok(answer) => end(Ok(answer)),
            Err(error) => self.failed(error, end),
        };
        ask(&api, until, Box::new(settle));
    }

    fn failed(self, error: ApiError, end: Box<dyn FnOnce(Result<T, EtcdError>) + Send>) {
        let due = Instant::now() + PAUSE;
        if !is_worth_another(&error) || due >= self.deadline {
            return end(Err((&error).into()));
        }
        let shared = Arc::clone(&self.shared);
        shared.later.at(due, move |is_due| match is_due {
            true => self.next(end),
            false => end(Err(error::STOPPED)),
        });
    }
}

/// Whether a read may soon be served that was not.
fn is_worth_another(error: &ApiError) -> bool {
    matches!(
        error,
        ApiError::NotServed(
            RequestError::NotLeader { .. }
                | RequestError::LeadershipLost { .. }
                | RequestError::HandingOver
                | RequestError::Busy
                | RequestError::TimedOut { .. }
        )
    )
}
