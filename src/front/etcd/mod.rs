//! etcd's v3 API as JSON over HTTP/1.1, as etcd's own gateway offers it, so that etcd's clients use
//! a cluster as they use one of etcd. `docs/etcd.md` is the page for users.
//!
//! ```text
//! request ─> Fields ─> request, checked ─┬─ reads ───> Api: this member's state, after ReadIndex
//!                                        ├─ watches ─> Api: this member's history
//!                                        ├─ locks ───> both: a queue of keys
//!                                        └─ writes ──> Lanes: the leader's log, at most once
//! ```
//!
//! | path | does |
//! | --- | --- |
//! | `/v3/kv/{range,put,deleterange,txn,compaction}` | keys |
//! | `/v3/watch` | a stream of changes |
//! | `/v3/lease/{grant,revoke,keepalive,timetolive,leases}` | leases |
//! | `/v3/kv/lease/{revoke,timetolive,leases}` | the same |
//! | `/v3/cluster/member/list` | the members, with the URLs that they advertise |
//! | `/v3/cluster/member/add`, `remove`, `update`, `promote` | changes of the members |
//! | `/v3/maintenance/{status,alarm,defragment,hash,transfer-leadership}` | the member |
//! | `/v3/auth/{authenticate,status}` | that there are no users |
//! | `/v3/lock/{lock,unlock}` | locks |
//! | `/v3/election/{campaign,proclaim,leader,observe,resign}` | elections |
//! | `GET /version`, `GET /health` | as etcd's |
//!
//! All paths under `/v3/` have POST, and are also under `/v3beta/` and `/v3alpha/`. The other paths
//! of etcd's API answer with code 12.
//!
//! # What became of a request
//! Each error has etcd's text and code (`error`). A request is answered within three seconds,
//! unless it is one that waits (`watch`, `lock`, `campaign`, `observe`). A write is repeated within
//! them, across changes of leader, and takes effect at most once. After code 14 it may have taken
//! effect, or may still do so; after every other code it has not, and never will. To wait for a
//! lock takes several writes: see `queue`.
//!
//! # Invariants
//! - `header.revision` of a read is the current revision, also when an earlier one was read.
//! - `header.raft_term` is never below the highest term that this member has seen.
//! - No thread waits here, except for the body of a request. A client that waits for a lock, or for
//!   an election to have a leader, has the thread of its connection. A watch has none.
//! - A client that goes leaves nothing behind: neither its connection, nor a watch, nor the place
//!   in a queue in which it waited. So what waits is bounded by the connections that are open.
//! - Checks that need no state are made here, before anything is proposed.
//!
//! # Where it differs from etcd on purpose
//! - A transaction that cannot be carried out as a whole is refused on every member alike. (With a
//!   write and a range at a bad revision, etcd's members may come to differ.)
//! - An unknown number in an enum, such as `"sort_target":7`, is refused with code 3. (etcd ignores
//!   some, and panics at others.)
//! - Comparisons of a nested transaction see what the operations before it did. (etcd makes all
//!   comparisons before the first operation.)
//! - The events of a revision come in the order of their keys. (etcd: of the operations.)
//! - `Grpc-Timeout` is not looked at.
//! - A malformed request of a stream has code 3, status 400. (etcd: code 2, status 500.)
//! - Base64 may have the URL alphabet, and no padding.
//! - Lease ids are positive. Those that the server picks are small.
//! - Leases do not start anew when the leader changes.
//! - Request bodies of up to [`BODY_LEN_MAX`] are taken; etcd's limit is 1.5 MiB. Keys have at most
//!   64 KiB, values 15 MiB, answers 8 MiB: a longer answer is refused with code 8.
//! - A stream of requests (watch, keep-alive) is read to its end before it is answered, so it
//!   cannot go on asking.
//! - A watch of a start below zero begins with the first revision that there was.
//! - `created` of a watch is told once this member has applied what was committed before.
//! - A read with `serializable` may miss a write that the same member has answered: a follower need
//!   not have applied it. (At etcd it has.)
//! - A member without a leader ends its watches with code 14 after three election timeouts.
//! - `progress_notify` is done every ten seconds of silence; `fragment` is never needed.
//! - A request of a browser, for a page of another site, is refused with code 7; there are no
//!   headers that allow it. (etcd lets every page that a browser shows write.)
//! - A client that ends its side of the connection while it waits, for a lock or for a leader,
//!   counts as gone, although it may still read: code 1. (etcd: only once it has gone.)
//! - Who asks again for a lock that it has, or waits for, changes the key's `mod_revision` and
//!   `version`: then an earlier request of the same lease that is given up cannot delete the key.
//!   (At etcd it can, and the lock has two holders.)
//! - Members are not added, removed or promoted, there are no snapshots of the store, and
//!   no users yet: code 12.
//!
//! # Files
//! `kv`, `watch`, `lease`, `cluster`, `members`, `maintenance`, `lock`, `election`: the services.
//! `queue`: what the last two stand on. `asked`: reads, writes and headers. `urls`: what members
//! advertise. `later`: time. `parse`, `out`, `error`: JSON in and out.

mod asked;
mod cluster;
mod election;
mod error;
mod kv;
mod later;
mod lease;
mod lock;
mod maintenance;
mod members;
mod out;
mod parse;
mod queue;
mod urls;
mod watch;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use asked::{Ended, TIMEOUT};
use error::EtcdError;
use later::Later;
pub use members::{MemberAdmin, MemberChanged, MemberRefusal, MemberWish};
use out::Object;
use parse::Fields;
pub use urls::MemberUrls;

use super::http::told::check_origin;
use crate::kv::api::{Api, Consistency};
use crate::kv::model::Txn;
use crate::kv::{Change, Done, Lanes, Outcome};

use crate::rpc::http::{Answer, Method, Request, Response};

/// The longest body of a request, in bytes: that of a put of the longest value.
pub const BODY_LEN_MAX: usize = 24 << 20;

/// The version of etcd whose API this is. Clients take it apart, and want digits and dots.
const VERSION: &str = "3.5.21";

/// The version of `etcdcluster`, from which clients know which paths there are.
const CLUSTER_VERSION: &str = "3.5.0";

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The front of one member.
#[derive(Clone)]
pub struct EtcdFront {
    shared: Arc<Shared>,
}

struct Shared {
    api: Api,
    lanes: Arc<Lanes>,
    urls: Arc<MemberUrls>,
    admin: Arc<dyn MemberAdmin>,
    later: Later,
    encoded: watch::Encoded,
}

/// What is left to do for a request once everything in it was found to be right.
type Task = Box<dyn FnOnce(Answer) + Send>;

impl EtcdFront {
    /// Serves what this member serves. `urls` are those at which the members serve etcd's clients.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(
        api: Api,
        lanes: Arc<Lanes>,
        urls: Arc<MemberUrls>,
        admin: Arc<dyn MemberAdmin>,
    ) -> io::Result<EtcdFront> {
        let later = Later::start(format!("etcd-{}", api.status().id))?;
        let encoded = watch::Encoded::default();
        Ok(EtcdFront { shared: Arc::new(Shared { api, lanes, urls, admin, later, encoded }) })
    }

    /// Ends what waits for its time, with an error, and the thread. The node has stopped before.
    pub fn stop(&self) {
        self.shared.later.stop();
    }

    /// Answers a request.
    pub fn handle(&self, request: &mut Request<'_>, answer: Answer) {
        match self.task(request) {
            Ok(task) => task(answer),
            Err(response) => answer.send(response),
        }
    }

    fn task(&self, request: &mut Request<'_>) -> Result<Task, Response> {
        let path = request.raw_path();
        let Some(call) =
            ["/v3/", "/v3beta/", "/v3alpha/"].iter().find_map(|it| path.strip_prefix(it))
        else {
            return self.page(request);
        };
        let Some(call) = Call::of(call) else { return Err(text(404, "Not Found\n")) };
        match request.method() {
            Method::Post => {}
            Method::Options => return Err(Response::new(200).header("Allow", "POST, OPTIONS")),
            _ => return Err(not_allowed("POST, OPTIONS")),
        }
        if check_origin(request).is_err() {
            let words = "a page of another site may not use this server";
            return Err(EtcdError::new(error::Code::PermissionDenied, words).response());
        }
        let body = request.body().read_all(BODY_LEN_MAX);
        let body = body.map_err(|error| EtcdError::from(&error).response())?;
        self.call(call, &body).map_err(|error| error.response())
    }

    /// What is not of the API.
    fn page(&self, request: &Request<'_>) -> Result<Task, Response> {
        let is_read = matches!(request.method(), Method::Get | Method::Head);
        match request.raw_path() {
            "/version" | "/health" if !is_read => Err(not_allowed("GET, HEAD")),
            "/version" => Ok(Box::new(|answer| {
                answer.send(ok(|body| {
                    body.text("etcdserver", VERSION);
                    body.text("etcdcluster", CLUSTER_VERSION);
                }));
            })),
            "/health" => Ok(self.health(request)),
            _ => Err(text(404, "404 page not found\n")),
        }
    }

    /// Whether this member serves: with `?serializable=true` reads of its own state, otherwise all.
    fn health(&self, request: &Request<'_>) -> Task {
        let is_local = request
            .query()
            .any(|(name, value)| &name[..] == b"serializable" && &value[..] == b"true");
        let shared = Arc::clone(&self.shared);
        Box::new(move |answer| {
            if !is_local && shared.api.status().role.leader.is_none() {
                return answer.send(healthy(false, "RAFT NO LEADER"));
            }
            let ask = move |api: &Api, deadline, end: Ended<()>| match is_local {
                true => end(api.stats_local().map(drop)),
                false => {
                    let linearizable = Consistency::Linearizable;
                    api.stats(linearizable, deadline, move |result| end(result.map(drop)));
                }
            };
            shared.retried(Instant::now() + TIMEOUT, ask, |result| {
                answer.send(match result {
                    Ok(()) => healthy(true, ""),
                    Err(error) => healthy(false, &format!("RANGE ERROR:{error}")),
                });
            });
        })
    }

    /// What a call is, once its body was read.
    fn call(&self, call: Call, body: &[u8]) -> Result<Task, EtcdError> {
        if matches!(call, Call::Watch | Call::LeaseKeepAlive) {
            let values = parse::messages(body)?;
            let requests = values.iter().map(Fields::of).collect::<Result<Vec<_>, _>>()?;
            return match call {
                Call::Watch => self.watch(&requests),
                _ => self.lease_keep_alive(&requests),
            };
        }
        let value = parse::message(body)?;
        let fields = &Fields::of(&value)?;
        match call {
            Call::Range => self.range(fields),
            Call::Put => self.put(fields),
            Call::DeleteRange => self.delete_range(fields),
            Call::Txn => self.txn(fields),
            Call::Compact => self.compact(fields),
            Call::LeaseGrant => self.lease_grant(fields),
            Call::LeaseRevoke => self.lease_revoke(fields),
            Call::LeaseTimeToLive => self.lease_time_to_live(fields),
            Call::LeaseLeases => Ok(self.lease_leases()),
            Call::MemberList => self.member_list(fields),
            Call::MemberAdd => self.member_add(fields),
            Call::MemberRemove => self.member_remove(fields),
            Call::MemberUpdate => self.member_update(fields),
            Call::MemberPromote => self.member_promote(fields),
            Call::Status => Ok(self.status()),
            Call::Alarm => self.alarm(fields),
            Call::Defragment => Ok(self.defragment()),
            Call::Hash => Ok(self.hash()),
            Call::TransferLeadership => self.transfer_leadership(fields),
            Call::Authenticate => Err(error::AUTH_NOT_ENABLED),
            Call::AuthStatus => Ok(self.auth_status()),
            Call::Lock => self.lock(fields),
            Call::Unlock => self.unlock(fields),
            Call::Campaign => self.campaign(fields),
            Call::Proclaim => self.proclaim(fields),
            Call::Leader => self.leader(fields),
            Call::Observe => self.observe(fields),
            Call::Resign => self.resign(fields),
            Call::Unimplemented(what) => Err(EtcdError::unimplemented(what)),
            Call::Watch | Call::LeaseKeepAlive => panic!("streams were told apart before"),
        }
    }

    /// There are no users, and there never were.
    fn auth_status(&self) -> Task {
        let shared = Arc::clone(&self.shared);
        Box::new(move |answer| {
            answer.send(ok(|body| {
                shared.header().write(body, shared.api.revision());
                body.number("authRevision", 1);
            }));
        })
    }

    /// Answers with nothing but a header, which has the current revision.
    fn header_only(&self) -> Task {
        let shared = Arc::clone(&self.shared);
        Box::new(move |answer| {
            let told = Arc::clone(&shared);
            shared.read(Txn::default(), false, move |result| {
                answer.send(match result {
                    Ok((revision, _)) => ok(|body| told.header().write(body, revision)),
                    Err(error) => error.response(),
                });
            });
        })
    }

    /// Makes a change whose answer is nothing but a header: a transaction, a compaction, or the end
    /// of a lease.
    fn write_and_tell_header(&self, change: Change) -> Task {
        let shared = Arc::clone(&self.shared);
        Box::new(move |answer| {
            let told = Arc::clone(&shared);
            shared.write(change, move |result| {
                answer.send(match result {
                    Ok(Outcome::Ran { result: Ok(Done { revision, .. }), .. }) => {
                        ok(|body| told.header().write(body, revision))
                    }
                    Ok(outcome) => panic!("a change was answered with {outcome:?}"),
                    Err(error) => error.response(),
                });
            });
        })
    }
}

impl std::fmt::Debug for EtcdFront {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdFront").finish_non_exhaustive()
    }
}

/// A method of etcd's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compact,
    Watch,
    LeaseGrant,
    LeaseRevoke,
    LeaseKeepAlive,
    LeaseTimeToLive,
    LeaseLeases,
    MemberList,
    MemberAdd,
    MemberRemove,
    MemberUpdate,
    MemberPromote,
    Status,
    Alarm,
    Defragment,
    Hash,
    TransferLeadership,
    Authenticate,
    AuthStatus,
    Lock,
    Unlock,
    Campaign,
    Proclaim,
    Leader,
    Observe,
    Resign,
    /// etcd has it. In words, what it is.
    Unimplemented(&'static str),
}

impl Call {
    /// `path`: without its prefix.
    fn of(path: &str) -> Option<Call> {
        Some(match path {
            "kv/range" => Call::Range,
            "kv/put" => Call::Put,
            "kv/deleterange" => Call::DeleteRange,
            "kv/txn" => Call::Txn,
            "kv/compaction" => Call::Compact,
            "watch" => Call::Watch,
            "lease/grant" => Call::LeaseGrant,
            "lease/revoke" | "kv/lease/revoke" => Call::LeaseRevoke,
            "lease/keepalive" => Call::LeaseKeepAlive,
            "lease/timetolive" | "kv/lease/timetolive" => Call::LeaseTimeToLive,
            "lease/leases" | "kv/lease/leases" => Call::LeaseLeases,
            "cluster/member/list" => Call::MemberList,
            "cluster/member/add" => Call::MemberAdd,
            "cluster/member/remove" => Call::MemberRemove,
            "cluster/member/update" => Call::MemberUpdate,
            "cluster/member/promote" => Call::MemberPromote,
            "maintenance/status" => Call::Status,
            "maintenance/alarm" => Call::Alarm,
            "maintenance/defragment" => Call::Defragment,
            "maintenance/transfer-leadership" => Call::TransferLeadership,
            "maintenance/hash" => Call::Hash,
            "maintenance/snapshot" => Call::Unimplemented("etcd's snapshots"),
            "maintenance/downgrade" => Call::Unimplemented("downgrades"),
            "auth/authenticate" => Call::Authenticate,
            "auth/status" => Call::AuthStatus,
            "auth/enable" | "auth/disable" => Call::Unimplemented("authentication"),
            "auth/user/add" | "auth/user/get" | "auth/user/list" | "auth/user/delete"
            | "auth/user/changepw" | "auth/user/grant" | "auth/user/revoke" => {
                Call::Unimplemented("users")
            }
            "auth/role/add" | "auth/role/get" | "auth/role/list" | "auth/role/delete"
            | "auth/role/grant" | "auth/role/revoke" => Call::Unimplemented("roles"),
            "lock/lock" => Call::Lock,
            "lock/unlock" => Call::Unlock,
            "election/campaign" => Call::Campaign,
            "election/proclaim" => Call::Proclaim,
            "election/leader" => Call::Leader,
            "election/observe" => Call::Observe,
            "election/resign" => Call::Resign,
            _ => return None,
        })
    }
}

/// An answer of one message.
fn ok(fill: impl FnOnce(&mut Object<'_>)) -> Response {
    json(200, Object::whole(fill))
}

fn json(status: u16, body: Vec<u8>) -> Response {
    Response::new(status).header("Content-Type", JSON).body(body)
}

fn text(status: u16, body: &'static str) -> Response {
    Response::new(status).header("Content-Type", TEXT).body(body)
}

fn not_allowed(methods: &'static str) -> Response {
    text(405, "Method Not Allowed\n").header("Allow", methods)
}

/// Written by hand: etcd says `false` and an empty reason, too.
fn healthy(is_healthy: bool, reason: &str) -> Response {
    let json = serde_json::json!({ "health": is_healthy.to_string(), "reason": reason });
    Response::new(if is_healthy { 200 } else { 503 })
        .header("Content-Type", JSON)
        .body(json.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_path_are_one_call() {
        for name in ["revoke", "timetolive", "leases"] {
            let call = Call::of(&format!("lease/{name}"));
            assert!(call.is_some());
            assert_eq!(Call::of(&format!("kv/lease/{name}")), call);
        }
        for path in ["", "kv", "kv/range/", "kv/Range", "lease", "kv/lease/grant"] {
            assert_eq!(Call::of(path), None, "{path}");
        }
    }
}
