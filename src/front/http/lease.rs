//! Requests about leases.

use std::time::Instant;

use serde::Serialize;

use super::condition::Condition;
use super::key::with_age;
use super::params::{Params, lease_id};
use super::told::{Told, invalid, not_allowed, not_read, object, took_effect};
use super::{HttpFront, LEASES, Task};
use crate::kv::api::{ApiError, Read};
use crate::kv::json::LeaseJson;
use crate::kv::model::{LeaseId, NewLease, Reason, Refusal, Revision};
use crate::kv::{Change, Done, LaneError, LeasesAnswer, Outcome};
use crate::rpc::http::{Method, Request, Response};

/// A lease that was granted or kept alive.
#[derive(Serialize)]
struct Granted {
    lease: u64,
    /// How long it lives from now on.
    ttl_ms: u64,
    revision: u64,
}

#[derive(Serialize)]
struct Revoked {
    revision: u64,
}

#[derive(Serialize)]
struct Info {
    revision: u64,
    #[serde(flatten)]
    lease: LeaseJson,
}

#[derive(Serialize)]
struct Page {
    revision: u64,
    leases: Vec<LeaseJson>,
    /// Where the list goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl HttpFront {
    /// `rest`: the path behind `/v1/leases`.
    pub(super) fn leases(&self, request: &Request<'_>, rest: &str) -> Result<Task, Response> {
        use Method::{Delete, Get, Head, Post};
        Condition::refuse(request, "a lease has no conditions")?;
        let Some(of_one) = rest.strip_prefix('/') else {
            return match request.method() {
                Get | Head => self.list_leases(request),
                Post => self.grant(request),
                _ => Err(not_allowed("GET, HEAD, POST")),
            };
        };
        let (id, kept_alive) = match of_one.strip_suffix("/keep-alive") {
            Some(id) => (id, true),
            None => (of_one, false),
        };
        let id = lease_id(id.as_bytes()).map_err(invalid)?;
        match (kept_alive, request.method()) {
            (true, Post) => self.keep_alive(request, id),
            (true, _) => Err(not_allowed("POST")),
            (false, Get | Head) => self.lease(request, id),
            (false, Delete) => self.revoke(request, id),
            (false, _) => Err(not_allowed("GET, HEAD, DELETE")),
        }
    }

    fn grant(&self, request: &Request<'_>) -> Result<Task, Response> {
        let params = Params::read(request, &["ttl", "id", "timeout"])?;
        let Some(NewLease::OfItsOwn { ttl_ms }) = params.ttl else {
            return Err(invalid("a lease has a time to live: ?ttl=30s"));
        };
        // It would not be kept: better to say so than to grant a second lease.
        if params.request_key.is_some() {
            let words = "a lease has no Idempotency-Key: with ?id=N it can be asked for again";
            return Err(invalid(words));
        }
        let change = Change::LeaseGrant { ttl_ms, id: params.id };
        Ok(self.change(change, &params, |end| match took_effect(end) {
            Ok(Outcome::Granted { revision, lease, ttl_ms, .. }) => {
                object(200, &Granted { lease: lease.0, ttl_ms, revision: revision.0 })
            }
            Ok(outcome) => panic!("a grant was answered with {outcome:?}"),
            Err(response) => response,
        }))
    }

    fn keep_alive(&self, request: &Request<'_>, id: LeaseId) -> Result<Task, Response> {
        let params = Params::read(request, &["timeout"])?;
        let change = Change::LeaseKeepAlive { ids: vec![id] };
        Ok(self.change(change, &params, move |end| match took_effect(end) {
            Ok(Outcome::KeptAlive { revision, ttls_ms, .. }) => match ttls_ms[..] {
                [0] => no_such_lease(id),
                [ttl_ms] => object(200, &Granted { lease: id.0, ttl_ms, revision: revision.0 }),
                _ => panic!("one lease was kept alive, and the answer is about {ttls_ms:?}"),
            },
            Ok(outcome) => panic!("a lease was kept alive with {outcome:?}"),
            Err(response) => response,
        }))
    }

    fn revoke(&self, request: &Request<'_>, id: LeaseId) -> Result<Task, Response> {
        let params = Params::read(request, &["timeout"])?;
        Ok(self.change(Change::LeaseRevoke { id }, &params, move |end| revoked(id, end)))
    }

    fn lease(&self, request: &Request<'_>, id: LeaseId) -> Result<Task, Response> {
        let params = Params::read(request, &["stale", "timeout"])?;
        let (api, deadline) = (self.api.clone(), Instant::now() + params.timeout);
        Ok(Box::new(move |answer| {
            api.lease_info(id, true, params.consistency, deadline, move |result| {
                answer.send(match result {
                    Ok(Read { answer: (Revision(revision), lease), age_max }) => {
                        let lease = LeaseJson::whole(lease);
                        with_age(object(200, &Info { revision, lease }), age_max)
                    }
                    Err(ApiError::Refused { refusal, .. }) if is_missing(&refusal) => {
                        no_such_lease(id)
                    }
                    Err(error) => not_read(&error),
                });
            });
        }))
    }

    fn list_leases(&self, request: &Request<'_>) -> Result<Task, Response> {
        let params = Params::read(request, &["after", "stale", "timeout"])?;
        let after = match &params.after {
            Some(id) => lease_id(id).map_err(|why| invalid(format!("?after: {why}")))?,
            None => LeaseId::NONE,
        };
        let (api, deadline) = (self.api.clone(), Instant::now() + params.timeout);
        Ok(Box::new(move |answer| {
            api.leases(after, params.consistency, deadline, move |result| {
                answer.send(match result {
                    Ok(Read { answer, age_max }) => with_age(page(&answer), age_max),
                    Err(error) => not_read(&error),
                });
            });
        }))
    }
}

fn revoked(id: LeaseId, end: Result<Outcome, LaneError>) -> Response {
    match end {
        Ok(Outcome::Ran { result: Err(refusal), .. }) if is_missing(&refusal) => no_such_lease(id),
        end => match took_effect(end) {
            Ok(Outcome::Ran { result: Ok(Done { revision, .. }), .. }) => {
                object(200, &Revoked { revision: revision.0 })
            }
            Ok(outcome) => panic!("a lease was revoked with {outcome:?}"),
            Err(response) => response,
        },
    }
}

fn page(LeasesAnswer { revision, leases, more }: &LeasesAnswer) -> Response {
    let last = leases.last().filter(|_| *more);
    let next = last.map(|lease| format!("{LEASES}?after={}", lease.id));
    let link = next.as_ref().map(|next| format!("<{next}>; rel=\"next\""));
    let leases = leases.iter().map(LeaseJson::without_keys).collect();
    let response = object(200, &Page { revision: revision.0, leases, next });
    match link {
        Some(link) => response.header("Link", link),
        None => response,
    }
}

/// The path names a lease that there is not.
fn no_such_lease(id: LeaseId) -> Response {
    Told::new(404, "no_such_lease", format!("there is no lease {id}")).response()
}

fn is_missing(refusal: &Refusal) -> bool {
    refusal.reason == Reason::NoSuchLease
}
