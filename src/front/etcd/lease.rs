//! etcd's service `Lease`.

use std::sync::Arc;
use std::time::Instant;

use super::asked::{Ended, TIMEOUT};
use super::error::{self, EtcdError};
use super::out::Object;
use super::parse::Fields;
use super::{EtcdFront, JSON, Shared, Task, ok};
use crate::kv::api::{Api, ApiError, Consistency, Read};
use crate::kv::model::{LeaseId, LeaseInfo, Reason, Revision, TTL_MAX_MS};
use crate::kv::{Change, LeasesAnswer, Outcome};
use crate::rpc::http::{Answer, Response};

/// The shortest time to live, in seconds: etcd's with the election timeout that it has by default.
/// A shorter one is raised to it.
const TTL_MIN: i64 = 2;

/// The longest time to live, in seconds.
const TTL_MAX: i64 = (TTL_MAX_MS / 1000).cast_signed();

/// How many leases one request keeps alive: as many messages fit into what a stream takes at once.
const KEEP_ALIVES_MAX: usize = 1000;

/// Whole seconds, rounded up.
fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1000)
}

/// As etcd takes an id. One below zero is that of no lease.
fn lease_id(id: i64) -> LeaseId {
    LeaseId(id.cast_unsigned())
}

impl EtcdFront {
    pub(super) fn lease_grant(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let (ttl, id) = (fields.int64("TTL")?, fields.int64("ID")?);
        if ttl > TTL_MAX {
            return Err(error::TTL_TOO_LARGE);
        }
        if id < 0 {
            return Err(EtcdError::invalid("etcdserver: lease ids are positive"));
        }
        let ttl_ms = ttl.max(TTL_MIN).unsigned_abs() * 1000;
        let change = Change::LeaseGrant { ttl_ms, id: lease_id(id) };
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| {
            let told = Arc::clone(&shared);
            shared.write(change, move |result| {
                answer.send(match result {
                    Ok(Outcome::Granted { revision, lease, ttl_ms, .. }) => ok(|body| {
                        told.header().write(body, revision);
                        body.number("ID", lease.0);
                        body.number("TTL", seconds(ttl_ms));
                    }),
                    Ok(outcome) => panic!("a grant was answered with {outcome:?}"),
                    Err(error) => error.response(),
                });
            });
        }))
    }

    pub(super) fn lease_revoke(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let id = lease_id(fields.int64("ID")?);
        Ok(self.write_and_tell_header(Change::LeaseRevoke { id }))
    }

    /// A stream of requests, which has ended before it is answered, and one message for each.
    pub(super) fn lease_keep_alive(&self, requests: &[Fields<'_>]) -> Result<Task, EtcdError> {
        if requests.len() > KEEP_ALIVES_MAX {
            return Err(error::TOO_MANY_REQUESTS);
        }
        let ids = requests.iter().map(|it| it.int64("ID").map(lease_id));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| {
            if ids.is_empty() {
                return answer.stream(stream_head()).end();
            }
            let told = Arc::clone(&shared);
            let change = Change::LeaseKeepAlive { ids: ids.clone() };
            shared.write(change, move |result| match result {
                Ok(Outcome::KeptAlive { revision, ttls_ms, .. }) => {
                    told.kept_alive(answer, revision, &ids, &ttls_ms);
                }
                Ok(outcome) => panic!("leases were kept alive with {outcome:?}"),
                Err(error) => answer.send(error.response()),
            });
        }))
    }

    pub(super) fn lease_time_to_live(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let (id, keys) = (fields.int64("ID")?, fields.flag("keys")?);
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| {
            let told = Arc::clone(&shared);
            let ask = move |api: &Api, deadline, end: Ended<(Revision, Option<LeaseInfo>)>| {
                let again = api.clone();
                let linearizable = Consistency::Linearizable;
                api.lease_info(lease_id(id), keys, linearizable, deadline, move |result| {
                    match result {
                        Ok(Read { answer: (revision, lease), .. }) => {
                            end(Ok((revision, Some(lease))));
                        }
                        Err(error) if is_missing(&error) => revision(&again, deadline, end),
                        Err(error) => end(Err(error)),
                    }
                });
            };
            shared.retried(Instant::now() + TIMEOUT, ask, move |result| {
                answer.send(match result {
                    Ok((revision, lease)) => ok(|body| {
                        told.header().write(body, revision);
                        body.number("ID", id);
                        time_to_live(body, lease.as_ref());
                    }),
                    Err(error) => error.response(),
                });
            });
        }))
    }

    pub(super) fn lease_leases(&self) -> Task {
        let shared = Arc::clone(&self.shared);
        Box::new(move |answer| shared.list_leases(Vec::new(), answer))
    }
}

impl Shared {
    fn kept_alive(&self, answer: Answer, revision: Revision, ids: &[LeaseId], ttls_ms: &[u64]) {
        let header = self.header();
        let mut messages = ids.iter().zip(ttls_ms).map(|(id, ttl_ms)| {
            Object::message(|message| {
                header.write(message, revision);
                message.number("ID", id.0.cast_signed());
                message.number("TTL", seconds(*ttl_ms));
            })
        });
        let first = messages.next().unwrap_or_default();
        let stream = answer.stream(stream_head().body(first));
        for message in messages {
            // A client that is gone or takes nothing sees that the stream is not whole.
            if stream.try_send(&message).is_err() {
                return;
            }
        }
        stream.end();
    }

    /// Lists all leases, page by page.
    fn list_leases(self: &Arc<Self>, mut ids: Vec<LeaseId>, answer: Answer) {
        let (shared, after) = (Arc::clone(self), ids.last().copied().unwrap_or(LeaseId::NONE));
        let ask = move |api: &Api, deadline, end: Ended<Read<LeasesAnswer>>| {
            api.leases(after, Consistency::Linearizable, deadline, end);
        };
        self.retried(Instant::now() + TIMEOUT, ask, move |result| match result {
            Ok(Read { answer: LeasesAnswer { revision, leases, more }, .. }) => {
                ids.extend(leases.iter().map(|lease| lease.id));
                if more {
                    return shared.list_leases(ids, answer);
                }
                answer.send(ok(|body| {
                    shared.header().write(body, revision);
                    body.objects("leases", &ids, |lease, id| lease.number("ID", id.0));
                }));
            }
            Err(error) => answer.send(error.response()),
        });
    }
}

/// The head of a stream of messages.
pub(super) fn stream_head() -> Response {
    Response::new(200).header("Content-Type", JSON)
}

/// The revision of the store, for an answer that is about nothing in it.
fn revision(api: &Api, deadline: Instant, end: Ended<(Revision, Option<LeaseInfo>)>) {
    api.stats(Consistency::Linearizable, deadline, move |result| {
        end(result.map(|Read { answer: stats, .. }| (stats.revision, None)));
    });
}

/// Writes what is told of a lease, which is gone if it is `None`.
fn time_to_live(body: &mut Object<'_>, lease: Option<&LeaseInfo>) {
    let Some(LeaseInfo { ttl_ms, left_ms, keys, .. }) = lease else {
        return body.number("TTL", -1);
    };
    // As etcd does it, so that a lease is never said to live longer than it does.
    body.number("TTL", left_ms / 1000);
    body.number("grantedTTL", seconds(*ttl_ms));
    body.byte_strings("keys", keys);
}

fn is_missing(error: &ApiError) -> bool {
    matches!(error, ApiError::Refused { refusal, .. } if refusal.reason == Reason::NoSuchLease)
}
