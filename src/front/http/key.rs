//! Requests about one key.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use super::condition::{Condition, etag};
use super::params::Params;
use super::told::{Told, bad_body, invalid, not_read, object};
use super::{HttpFront, Task, only, watch};
use crate::kv::VALUE_LEN_MAX;
use crate::kv::api::Read;
use crate::kv::json::EntryJson;
use crate::kv::model::{
    Action, Entry, KeyRange, LeaseId, NewLease, OperationAnswer, Range, RangeAnswer, Revision, Txn,
    Want,
};
use crate::rpc::http::{Request, Response};

const NOT_OF_A_PREFIX: &str = "a condition is about one key, not about a prefix";

/// What a write answers.
#[derive(Serialize)]
struct Written {
    /// That of the store afterwards.
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_len: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

impl HttpFront {
    /// GET and HEAD.
    pub(super) fn read(&self, request: &Request<'_>, key: Bytes) -> Result<Task, Response> {
        if watch::is_asked_for(request) {
            return self.watch(request, key);
        }
        let known = ["json", "stale", "at", "prefix", "limit", "keys", "after", "timeout"];
        let params = Params::read(request, &known)?;
        let condition = Condition::read(request, &params)?;
        if params.prefix {
            condition.check_empty(NOT_OF_A_PREFIX)?;
            return Ok(self.list(key, params));
        }
        let (api, deadline) = (self.api.clone(), Instant::now() + params.timeout);
        let range = Range { at: params.at, ..Range::of(KeyRange::key(key)) };
        Ok(Box::new(move |answer| {
            api.range(range, params.consistency, deadline, move |result| {
                answer.send(match result {
                    Ok(read) => found(read, &condition, params.json),
                    Err(error) => not_read(&error),
                });
            });
        }))
    }

    pub(super) fn put(&self, request: &mut Request<'_>, key: Bytes) -> Result<Task, Response> {
        let (params, condition) = conditional(request, &["cas", "lease", "ttl", "timeout"])?;
        let lease = match (params.lease, params.ttl) {
            (Some(_), Some(_)) => return Err(invalid("a put has ?lease or ?ttl, not both")),
            (lease, None) => NewLease::Set(lease.unwrap_or(LeaseId::NONE)),
            (None, Some(own)) => own,
        };
        let value = body(request)?;
        let txn = when(&condition, &key, Action::put_with(key.clone(), value, lease));
        Ok(self.write(txn, &params, move |revision, answer| match answer.held {
            true => {
                let written = Written { revision: revision.0, value_len: None, count: None };
                object(200, &written).header("ETag", etag(revision))
            }
            false => condition.failed(answer),
        }))
    }

    pub(super) fn append(&self, request: &mut Request<'_>, key: Bytes) -> Result<Task, Response> {
        let (params, condition) = conditional(request, &["cas", "timeout"])?;
        let value = body(request)?;
        let txn = when(&condition, &key, Action::append(key.clone(), value));
        Ok(self.write(txn, &params, move |revision, answer| match only(answer) {
            Some(OperationAnswer::Append { value_len }) if answer.held => {
                let value_len = Some(*value_len);
                let written = Written { revision: revision.0, value_len, count: None };
                object(200, &written).header("ETag", etag(revision))
            }
            _ => condition.failed(answer),
        }))
    }

    pub(super) fn delete(&self, request: &mut Request<'_>, key: Bytes) -> Result<Task, Response> {
        let params = Params::read(request, &["cas", "prefix", "timeout"])?;
        let condition = Condition::read(request, &params)?;
        let keys = match params.prefix {
            true => {
                condition.check_empty(NOT_OF_A_PREFIX)?;
                KeyRange::prefix(key.clone())
            }
            false => KeyRange::key(key.clone()),
        };
        let txn = when(&condition, &key, Action::delete(keys));
        let one = !params.prefix;
        Ok(self.write(txn, &params, move |revision, answer| match only(answer) {
            Some(OperationAnswer::Delete { count: 0, .. }) if answer.held && one => {
                absent(revision)
            }
            Some(OperationAnswer::Delete { count, .. }) if answer.held => {
                let count = Some(*count);
                object(200, &Written { revision: revision.0, value_len: None, count })
            }
            _ => condition.failed(answer),
        }))
    }
}

fn conditional(request: &Request<'_>, known: &[&str]) -> Result<(Params, Condition), Response> {
    let params = Params::read(request, known)?;
    let condition = Condition::read(request, &params)?;
    Ok((params, condition))
}

fn body(request: &mut Request<'_>) -> Result<Bytes, Response> {
    request.body().read_all(VALUE_LEN_MAX).map_err(|error| bad_body(&error))
}

/// Does it if the condition holds, and otherwise reads what is there instead.
fn when(condition: &Condition, key: &Bytes, action: Action) -> Txn {
    let current = Range { want: Want::Keys, ..Range::of(KeyRange::key(key.clone())) };
    Txn {
        compare: condition.compares(key),
        then: vec![action.into()],
        otherwise: vec![Action::Range(current).into()],
    }
}

fn absent(revision: Revision) -> Response {
    let response = Told::new(404, "absent", "the key is absent").response();
    response.header("Syncraft-Revision", revision.to_string())
}

/// The answer to a read of one key.
fn found(read: Read<(Revision, RangeAnswer)>, condition: &Condition, json: bool) -> Response {
    let Read { answer: (revision, RangeAnswer { entries, .. }), age_max } = read;
    let entry = entries.into_iter().next();
    let changed = entry.as_ref().map_or(Revision::NONE, |entry| entry.mod_revision);
    let response = match entry {
        _ if !condition.allows_read(changed) => condition.unmet(changed),
        None => return with_age(absent(revision), age_max),
        Some(entry) if condition.knows(&entry) => described(Response::new(304), &entry),
        Some(entry) if json => described(object(200, &EntryJson::whole(&entry)), &entry),
        Some(entry) => {
            let response = Response::new(200).header("Content-Type", "application/octet-stream");
            described(response, &entry).body(entry.value)
        }
    };
    with_age(response.header("Syncraft-Revision", revision.to_string()), age_max)
}

/// Adds what is known of an entry.
fn described(response: Response, entry: &Entry) -> Response {
    response.header("ETag", etag(entry.mod_revision)).header("Cache-Control", "no-cache")
}

/// Adds how old a stale answer may be.
pub(super) fn with_age(response: Response, age_max: Option<Duration>) -> Response {
    match age_max {
        // Rounded up: it is a bound.
        Some(age) => {
            let ms = age.as_nanos().div_ceil(1_000_000);
            response.header("Syncraft-Age-Ms", ms.to_string())
        }
        None => response,
    }
}
