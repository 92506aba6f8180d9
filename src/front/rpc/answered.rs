//! What the methods of `storeRpc` have in common: who asks, and the answers to writes.

use std::sync::Arc;
use std::time::Duration;

use super::age_ms;
use super::refused::{Refused, refused};
use crate::kv::Identity;
use crate::kv::api::{Api, ApiError, Changed, Consistency, TxnDone, TxnResult};
use crate::kv::model::TxnAnswer;
use crate::kv::model::proto::{self, Forgotten, TxnReply, txn_reply};
use crate::raft::Index;
use crate::rpc::{Done, Payload};

pub(super) fn identity(identity: Option<proto::Identity>) -> Identity {
    let Some(proto::Identity { client_id, request_id, seen_index }) = identity else {
        return Identity::default();
    };
    Identity { client_id, request_id, seen_index: Index(seen_index) }
}

pub(super) fn consistency(staleness: Option<proto::Staleness>) -> Consistency {
    match staleness {
        Some(it) => Consistency::Stale { age_max: it.age_max_ms.map(Duration::from_millis) },
        None => Consistency::Linearizable,
    }
}

pub(super) fn reply_of_txn(done: TxnDone) -> TxnReply {
    let TxnDone { revision, index, answer, age_max } = done;
    let result = match answer {
        TxnResult::Whole(answer) => txn_reply::Result::Answer((&*answer).into()),
        TxnResult::Forgotten(branches) => {
            txn_reply::Result::Forgotten(Forgotten { held: branches.held, count: branches.count })
        }
    };
    TxnReply {
        result: Some(result),
        revision: revision.0,
        index: index.map_or(0, |index| index.0),
        age_ms: age_max.map(age_ms),
        leader: None,
    }
}

/// Answers a compaction, a change of limits or a revocation, as a transaction without operations.
pub(super) fn changed(api: &Api, result: Result<Changed, ApiError>, done: Done<TxnReply>) {
    match result {
        Ok(Changed { index, revision }) => {
            let answer = Arc::new(TxnAnswer { held: true, answers: Vec::new() });
            let (index, answer) = (Some(index), TxnResult::Whole(answer));
            done.run(reply_of_txn(TxnDone { revision, index, answer, age_max: None }));
        }
        Err(error) => refuse_txn(api, &error, done),
    }
}

pub(super) fn refuse_txn(api: &Api, error: &ApiError, done: Done<TxnReply>) {
    refuse(api, error, done, |refused| {
        let (result, index) = match refused {
            Refused::Refusal(refusal, index) => (txn_reply::Result::Refusal(refusal), index),
            Refused::NotServed(it) => (txn_reply::Result::NotServed(it), 0),
        };
        TxnReply { result: Some(result), index, ..TxnReply::default() }
    });
}

pub(super) fn refuse<R: Payload>(
    api: &Api,
    error: &ApiError,
    done: Done<R>,
    reply: impl FnOnce(Refused) -> R,
) {
    match refused(api, error) {
        Ok(refused) => done.run(reply(refused)),
        Err(status) => done.fail(status),
    }
}
