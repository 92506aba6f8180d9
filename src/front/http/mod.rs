//! The store over HTTP: `/v1/kv/KEY`, `/v1/txn` and `/v1/leases`. `docs/http.md` is the page for
//! users, with an example of each.
//!
//! ```text
//! request ─> Params, Condition ─┬─ reads ───> Api: this member's state, after ReadIndex ─> answer
//!                               ├─ watches ─> Api: this member's history ───────────────> stream
//!                               └─ writes ──> Lanes: the leader's log, at most once ────> answer
//! ```
//!
//! | request | does |
//! | --- | --- |
//! | `GET /v1/kv/KEY` | the value; with `?json` the whole entry |
//! | `GET /v1/kv/PREFIX?prefix` | entries at one revision, in pages, which may end early |
//! | `GET /v1/kv/KEY?watch` | a stream of changes; with `&prefix` of all keys that begin so |
//! | `PUT /v1/kv/KEY` | writes the body; with `?lease` or `?ttl` for as long as a lease lives |
//! | `POST /v1/kv/KEY` | appends the body |
//! | `DELETE /v1/kv/KEY` | deletes the key; with `?prefix` all keys that begin so |
//! | `POST /v1/txn` | a transaction, as the command `syncraft txn` takes it |
//! | `POST /v1/leases?ttl` | grants a lease |
//! | `GET /v1/leases` | a list of leases |
//! | `GET /v1/leases/ID` | a lease and its keys |
//! | `POST /v1/leases/ID/keep-alive` | keeps a lease alive |
//! | `DELETE /v1/leases/ID` | ends a lease and deletes its keys |
//!
//! A key is the rest of the path, with its escapes decoded. It may be any bytes, also slashes and
//! none at all. An entity tag is the revision of the entry's last change, in quotes.
//!
//! # What became of a write
//!
//! | status | the write |
//! | --- | --- |
//! | 200 | took effect |
//! | 404 | found no key to delete, or no lease |
//! | 409 | did not take effect: `?cas` names another revision; an operation failed; a lease |
//! | 412 | did not take effect: `If-Match` or `If-None-Match` does not hold (RFC 9110 §13.1) |
//! | 422 | did not take effect: another request had its `Idempotency-Key` |
//! | 400, 403, 405, 413, 507 | did not take effect, and never will |
//! | 503 with `Retry-After` | did not take effect: try again |
//! | 500, 504 | may have taken effect, or may still do so |
//!
//! Each request is made at most once, however often leaders change. A client that sends its request
//! again after 504 makes another one, unless both have the same `Idempotency-Key`: see
//! [`Change::TxnOnce`].
//!
//! # Invariants
//! - Every answer but a value or a watch is one JSON object on one line. Errors have `error`, a
//!   word that never changes, and `message`, for people.
//! - No thread waits here, except for the body of a request. A watch has no thread.
//! - A request says each thing once: a parameter or a condition that comes twice is refused.
//! - A request with `Origin` or `Sec-Fetch-Site` counts as a browser's. Its `Host` is an IP address
//!   or `localhost`, so no name that an attacker has pointed at this member (DNS rebinding). If it
//!   writes, each of the two fields that it has says that its page is of the same origin, or that
//!   it has no page.
//! - Not recognised: reads without TLS by a page of such a name. Browsers send neither field then.
//!
//! # Files
//! `list`, `txn`, `lease`, `key`, `watch`: the requests. `condition`: `?cas` and the headers.
//! `params`: the query. `told`: what errors are in words of HTTP. Each imports only those after it.

mod condition;
mod key;
mod lease;
mod list;
mod params;
mod request_key;
pub(crate) mod told;
mod txn;
mod watch;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::kv::api::Api;
use crate::kv::model::{OperationAnswer, Revision, Txn, TxnAnswer};
use crate::kv::{Change, LaneError, Lanes, Outcome};
use crate::rpc::http::{Answer, Method, Request, Response};
use params::Params;
use request_key::RequestKey;
use told::Told;

const KEYS: &str = "/v1/kv/";
const TXN: &str = "/v1/txn";
const LEASES: &str = "/v1/leases";

/// The front of one member.
#[derive(Clone)]
pub struct HttpFront {
    api: Api,
    lanes: Arc<Lanes>,
    encoded: Arc<watch::Encoded>,
}

impl HttpFront {
    /// Serves what this member serves.
    pub fn new(api: Api, lanes: Arc<Lanes>) -> HttpFront {
        HttpFront { api, lanes, encoded: Arc::default() }
    }

    /// Whether a request for this path is one of the front's.
    pub fn serves(path: &str) -> bool {
        path.starts_with("/v1/")
    }

    /// Answers a request.
    pub fn handle(&self, request: &mut Request<'_>, answer: Answer) {
        match told::check_origin(request).and_then(|()| self.task(request)) {
            Ok(task) => task(answer),
            Err(response) => answer.send(response),
        }
    }

    /// What is to be done for a request.
    fn task(&self, request: &mut Request<'_>) -> Result<Task, Response> {
        let path = request.raw_path();
        if path == TXN {
            return match request.method() {
                Method::Post => self.txn(request),
                _ => Err(told::not_allowed("POST")),
            };
        }
        if let Some(rest) = path.strip_prefix(LEASES)
            && (rest.is_empty() || rest.starts_with('/'))
        {
            return self.leases(request, rest);
        }
        if !path.starts_with(KEYS) {
            let message = "there are /v1/kv/KEY, /v1/txn and /v1/leases";
            return Err(Told::new(404, "no_such_path", message).response());
        }
        let key = Bytes::copy_from_slice(&request.path()[KEYS.len()..]);
        match request.method() {
            Method::Get | Method::Head => self.read(request, key),
            Method::Put => self.put(request, key),
            Method::Post => self.append(request, key),
            Method::Delete => self.delete(request, key),
            _ => Err(told::not_allowed("GET, HEAD, PUT, POST, DELETE")),
        }
    }

    /// Runs a transaction, and answers with what `answered` makes of it if it took effect.
    fn write(
        &self,
        txn: Txn,
        params: &Params,
        answered: impl FnOnce(Revision, &TxnAnswer) -> Response + Send + 'static,
    ) -> Task {
        let change = match params.request_key.clone() {
            Some(RequestKey { key, head }) => Change::once(key, head, txn),
            None => Change::Txn(txn),
        };
        self.change(change, params, |end| match told::written(end) {
            Ok((revision, answers)) => answered(revision, &answers),
            Err(response) => response,
        })
    }

    /// Writes, and answers with what `answered` makes of the end.
    fn change(
        &self,
        change: Change,
        params: &Params,
        answered: impl FnOnce(Result<Outcome, LaneError>) -> Response + Send + 'static,
    ) -> Task {
        let (lanes, deadline) = (Arc::clone(&self.lanes), Instant::now() + params.timeout);
        Box::new(move |answer| {
            lanes.write(change, deadline, move |end| answer.send(answered(end)));
        })
    }
}

impl std::fmt::Debug for HttpFront {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpFront").finish_non_exhaustive()
    }
}

/// What is left to do for a request once everything in it was found to be right.
type Task = Box<dyn FnOnce(Answer) + Send>;

/// The answer of the only operation of the branch that ran. `None`: it is the answer to something
/// else, which had the same key and the same fingerprint.
fn only(answer: &TxnAnswer) -> Option<&OperationAnswer> {
    match &answer.answers[..] {
        [only] => Some(only),
        _ => None,
    }
}
