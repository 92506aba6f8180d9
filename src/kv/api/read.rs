//! How the [`Api`] reads: at once where a read is small, on another thread where it is large, and
//! from a fresher state where this member's is not fresh enough.

use std::time::{Duration, Instant};

use super::{Api, ApiError, Consistency, Read, TxnDone};
use crate::clock;
use crate::kv::model::{Reason, Revision, Txn};
use crate::kv::{Answer, CommandError, Query, ReadAnswer, Stats, Store, StoreView};
use crate::node::{RequestError, Stale, StateMachine};

impl Api {
    /// Queues a query. A stale one that may be too old for its bound becomes a linearizable one.
    pub(super) fn queue_query(
        &self,
        query: Query,
        consistency: Consistency,
        deadline: Instant,
        callback: impl FnOnce(Result<Read<Answer>, RequestError>) + Send + 'static,
    ) {
        let Consistency::Stale { age_max } = consistency else {
            return self.shared.node.queue_read(query, deadline, move |result| {
                callback(result.map(|answer| Read { answer, age_max: None }));
            });
        };
        let (api, again) = (self.clone(), query.clone());
        self.shared.node.read_stale(query, age_max, deadline, move |result| match result {
            Ok(Stale { answer, age_max }) => callback(Ok(Read { answer, age_max: Some(age_max) })),
            Err(RequestError::TooStale) => api.read_fresh(again, deadline, callback),
            Err(error) => callback(Err(error)),
        });
    }

    /// Makes a linearizable read for a client that would be content with a stale one. Its answer
    /// reflects every write that was acknowledged before this moment.
    fn read_fresh(
        &self,
        query: Query,
        deadline: Instant,
        callback: impl FnOnce(Result<Read<Answer>, RequestError>) + Send + 'static,
    ) {
        let asked = clock::boot_time();
        self.shared.node.read(query, deadline, move |result| {
            callback(result.map(|answer| Read { answer, age_max: Some(clock::since(asked)) }));
        });
    }

    /// Makes a transaction that changes nothing on this member's state as it is. Unlike a read that
    /// may be [stale](Consistency::Stale), it needs no leader, also if nothing is known of the
    /// state's age, and does not say it. A revision that this member does not know is in the
    /// future.
    pub fn read_local(
        &self,
        txn: Txn,
        deadline: Instant,
        callback: impl FnOnce(Result<TxnDone, ApiError>) + Send + 'static,
    ) {
        if let Err(error) = txn.check() {
            return callback(Err(ApiError::Invalid(CommandError::Txn(error))));
        }
        let query = Query::Read(Box::new(txn.clone()));
        let answer = self.shared.node.inspect(|store| store.query(query));
        let answer = answer.ok_or_else(|| self.gone());
        let callback =
            move |result: Result<_, ApiError>| callback(result.and_then(TxnDone::of_read));
        let waits_for_revision = false;
        let read = TxnRead { api: self.clone(), txn, deadline, waits_for_revision, callback };
        read.answered(answer.map(|answer| Read { answer, age_max: None }));
    }

    /// How much this member's state holds, whatever its age.
    ///
    /// # Errors
    /// [`ApiError::NotServed`] if the member has stopped or diverged.
    pub fn stats_local(&self) -> Result<Stats, ApiError> {
        self.shared.node.inspect(Store::stats).ok_or_else(|| self.gone().into())
    }

    /// This member's revision, and a digest of all that it has applied: members that have applied
    /// the same entries have the same one.
    ///
    /// # Errors
    /// [`ApiError::NotServed`] if the member has stopped or diverged.
    pub fn digest_local(&self) -> Result<(Revision, u64), ApiError> {
        let digest = |store: &Store| {
            let digest = store.digest().expect("a store has a digest");
            (store.revision(), digest)
        };
        self.shared.node.inspect(digest).ok_or_else(|| self.gone().into())
    }

    /// This member's state as it is now. A large read takes it on the thread that makes the read: a
    /// read that waits for a thread keeps no old state in memory.
    pub(super) fn view(&self) -> Result<StoreView, RequestError> {
        self.shared.node.inspect(Store::view).ok_or_else(|| self.gone())
    }

    /// Why there is no state to look at.
    fn gone(&self) -> RequestError {
        match self.shared.node.divergence() {
            Some(_) => RequestError::Diverged { may_apply: false },
            None => RequestError::Stopped { may_apply: false },
        }
    }

    /// Where a thread of a member waits that a test has paused.
    pub(super) fn pass_gate(&self) {
        #[cfg(feature = "testing")]
        self.shared.node.gate().pass();
    }

    /// Queues a transaction that changes nothing.
    pub(super) fn queue_read(
        &self,
        txn: Txn,
        consistency: Consistency,
        deadline: Instant,
        callback: impl FnOnce(Result<Read<ReadAnswer>, ApiError>) + Send + 'static,
    ) {
        if let Err(error) = txn.check() {
            return callback(Err(ApiError::Invalid(CommandError::Txn(error))));
        }
        let query = Query::Read(Box::new(txn.clone()));
        let waits_for_revision = consistency != Consistency::Linearizable;
        let read = TxnRead { api: self.clone(), txn, deadline, waits_for_revision, callback };
        self.queue_query(query, consistency, deadline, move |result| read.answered(result));
    }
}

/// A read that has not ended.
struct TxnRead<C> {
    api: Api,
    txn: Txn,
    deadline: Instant,
    /// A revision that this member does not know yet may have come elsewhere.
    waits_for_revision: bool,
    callback: C,
}

impl<C: FnOnce(Result<Read<ReadAnswer>, ApiError>) + Send + 'static> TxnRead<C> {
    fn answered(self, result: Result<Read<Answer>, RequestError>) {
        match result {
            Ok(Read { answer: Answer::Read(answer), age_max }) => self.settle(*answer, age_max),
            Ok(Read { answer: Answer::View(_), age_max }) => self.read_elsewhere(age_max),
            Ok(Read { answer, .. }) => panic!("the store answered a read with {answer:?}"),
            Err(error) => (self.callback)(Err(error.into())),
        }
    }

    /// Reads a view, on a thread for which nobody waits. The state is at least as new as the one
    /// that turned out to be too large for here.
    fn read_elsewhere(self, age_max: Option<Duration>) {
        let (readers, asked) = (self.api.shared.readers.clone(), clock::boot_time());
        readers.run(self.deadline, move |ending| {
            self.api.pass_gate();
            let answer = ending.and_then(|ending| {
                let view = self.api.view()?;
                let answer = view.read(&self.txn, &|| ending().is_some());
                // Without an answer it was told to end, and that does not change.
                answer.ok_or_else(|| ending().unwrap_or(RequestError::Busy))
            });
            self.api.pass_gate();
            // It may have turned out meanwhile that the state was wrong.
            let is_diverged = self.api.shared.node.divergence().is_some();
            let diverged = RequestError::Diverged { may_apply: false };
            match if is_diverged { Err(diverged) } else { answer } {
                // The state has grown older meanwhile.
                Ok(answer) => self.settle(answer, age_max.map(|age| age + clock::since(asked))),
                Err(error) => (self.callback)(Err(error.into())),
            }
        });
    }

    fn settle(mut self, answer: ReadAnswer, age_max: Option<Duration>) {
        let is_in_the_future = || match &answer.result {
            Ok(answer) => answer.has_failed(Reason::InTheFuture),
            Err(refusal) => refusal.reason == Reason::InTheFuture,
        };
        if !(self.waits_for_revision && is_in_the_future()) {
            return (self.callback)(Ok(Read { answer, age_max }));
        }
        self.waits_for_revision = false;
        let (api, query) = (self.api.clone(), Query::Read(Box::new(self.txn.clone())));
        api.read_fresh(query, self.deadline, move |result| self.answered(result));
    }
}
