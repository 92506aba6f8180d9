//! etcd's service `KV`: range, put, delete, transactions, compaction.

mod plan;
mod request;

use std::sync::Arc;

use plan::{Plan, Revisions};
pub(super) use plan::{key_range, kv};
use request::{DeleteRequest, PutRequest, RangeRequest, TxnRequest};

use super::error::{self, EtcdError};
use super::out::Object;
use super::parse::Fields;
use super::{EtcdFront, Shared, Task, ok};
use crate::kv::model::{Action, OperationAnswer, Revision, Txn, TxnAnswer};
use crate::kv::{Change, Done};
use crate::rpc::http::Response;

fn only(action: Action) -> Txn {
    Txn { then: vec![action.into()], ..Txn::default() }
}

impl EtcdFront {
    pub(super) fn range(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let request = RangeRequest::read(fields)?;
        let (range, plan) = plan::range(&request);
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| {
            let told = Arc::clone(&shared);
            let txn = only(Action::Range(range));
            shared.read(txn, request.serializable, move |result| {
                answer.send(match result {
                    Ok((revision, done)) => one(&told, &plan, revision, &done),
                    Err(error) => error.response(),
                });
            });
        }))
    }

    pub(super) fn put(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let request = PutRequest::read(fields)?;
        let (action, plan) = plan::put(&request);
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| {
            let told = Arc::clone(&shared);
            shared.write_txn(only(action), move |result| {
                answer.send(match result {
                    Ok(Done { revision, answer: Some(done), .. }) => {
                        one(&told, &plan, revision, &done)
                    }
                    Ok(Done { revision, .. }) if !request.prev_kv => {
                        ok(|body| told.header().write(body, revision))
                    }
                    Ok(_) => error::TIMED_OUT.response(),
                    Err(error) => error.response(),
                });
            });
        }))
    }

    pub(super) fn delete_range(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let (action, plan) = plan::delete(&DeleteRequest::read(fields)?);
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| {
            let told = Arc::clone(&shared);
            shared.run_txn(only(action), move |result| {
                answer.send(match result {
                    Ok((revision, done)) => one(&told, &plan, revision, &done),
                    Err(error) => error.response(),
                });
            });
        }))
    }

    pub(super) fn txn(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let request = TxnRequest::read(fields)?;
        let (txn, plan) = plan::txn(&request);
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| {
            let told = Arc::clone(&shared);
            let end = move |result: Result<(Revision, Arc<TxnAnswer>), EtcdError>| {
                answer.send(match result {
                    Ok((revision, done)) => ok(|body| {
                        told.header().write(body, revision);
                        let mut revisions = Revisions::of(revision, &done);
                        plan::txn_told(body, &plan, &done, &mut revisions);
                    }),
                    Err(error) => error.response(),
                });
            };
            match request.is_serializable() {
                true => shared.read(txn, true, end),
                false => shared.run_txn(txn, end),
            }
        }))
    }

    pub(super) fn compact(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let revision = fields.int64("revision")?;
        // Whether the space is free when the answer comes makes no difference here.
        fields.flag("physical")?;
        let revision = u64::try_from(revision).map_err(|_| error::COMPACTED)?;
        let change = Change::Compact { revision: Revision(revision) };
        Ok(self.write_and_tell_header(change))
    }
}

/// The answer to a request that is one operation.
fn one(shared: &Shared, plan: &Plan, revision: Revision, done: &TxnAnswer) -> Response {
    ok(|body: &mut Object<'_>| {
        shared.header().write(body, revision);
        let told: Option<&OperationAnswer> = done.answers.first();
        plan::told(body, plan, told.expect("each operation has an answer"));
    })
}
