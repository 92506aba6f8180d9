//! What a member serves over HTTP: the store ([`HttpFront`]), and pages for operators' tools, which
//! say whether a member is alive, whether it is ready, and where it stands.
//!
//! | path | answer |
//! | --- | --- |
//! | `/livez` | 200 unless the member has failed |
//! | `/readyz` | 200 if it knows a leader, its disk works and its state is right; otherwise 503 |
//! | `/status` | one JSON object, as in `syncraft status --json` |
//! | `/metrics` | the same numbers, and those of the HTTP port, in the Prometheus text format |
//! | `/v1/...` | the store: see [`crate::front::http`] |
//!
//! The port for etcd's clients has `/livez`, `/readyz` and `/metrics`, too, and etcd's paths: see
//! [`crate::front::etcd`].
//!
//! A status of 503 comes with the reason. Pages have GET and HEAD, and ignore their queries.

use super::admin::{applied, disk};
use crate::ErrorChain;
use crate::front::etcd::EtcdFront;
use crate::front::http::HttpFront;
use crate::kv::Store;
use crate::kv::api::Api;
use crate::node::{NodeHandle, RequestError};
use crate::raft::RoleName;
use crate::rpc::http::{Answer, Handler, Method, Request, Response, Stats};

/// Answers the requests of a member's HTTP port.
pub(super) struct Pages {
    pub(super) node: NodeHandle<Store>,
    pub(super) front: HttpFront,
    pub(super) api: Api,
}

impl Handler for Pages {
    fn handle(&self, request: &mut Request<'_>, answer: Answer) {
        if HttpFront::serves(request.raw_path()) {
            return self.front.handle(request, answer);
        }
        answer.send(match request.method() {
            Method::Get | Method::Head => {
                let counts =
                    Counts { watches: self.api.open_watches(), http: request.server_stats() };
                let (status, content_type, body) = page(request.raw_path(), &self.node, counts);
                Response::new(status).header("Content-Type", content_type).body(body)
            }
            _ => Response::text(405, "pages have GET and HEAD\n").header("Allow", "GET, HEAD"),
        });
    }
}

/// Answers the requests of a member's port for etcd's clients.
pub(super) struct EtcdPages {
    pub(super) node: NodeHandle<Store>,
    pub(super) front: EtcdFront,
    pub(super) api: Api,
}

impl Handler for EtcdPages {
    fn handle(&self, request: &mut Request<'_>, answer: Answer) {
        let is_read = matches!(request.method(), Method::Get | Method::Head);
        match request.raw_path() {
            path @ ("/livez" | "/readyz" | "/metrics") if is_read => {
                let counts =
                    Counts { watches: self.api.open_watches(), http: request.server_stats() };
                let (status, content_type, body) = page(path, &self.node, counts);
                answer.send(Response::new(status).header("Content-Type", content_type).body(body));
            }
            _ => self.front.handle(request, answer),
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Page = (u16, &'static str, String);

/// What is counted beside the node.
struct Counts {
    watches: usize,
    http: Stats,
}

fn page(path: &str, node: &NodeHandle<Store>, counts: Counts) -> Page {
    match path {
        "/livez" => match node.failure() {
            None => (200, TEXT, "ok\n".to_owned()),
            Some(failure) => (503, TEXT, format!("{}\n", ErrorChain(&failure))),
        },
        "/readyz" => match (node.failure(), node.status().role.leader) {
            (None, _) if node.divergence().is_some() => {
                (503, TEXT, format!("{}\n", RequestError::Diverged { may_apply: false }))
            }
            (None, _) if node.is_disk_full() => {
                (503, TEXT, "the disk is full: no writes\n".to_owned())
            }
            (None, _) if node.status().is_disk_stalled => (
                503,
                TEXT,
                "the disk is stalled: nothing has reached it for longer than an election takes\n"
                    .to_owned(),
            ),
            (None, Some(_)) => (200, TEXT, "ok\n".to_owned()),
            (None, None) => (503, TEXT, "no leader is known\n".to_owned()),
            (Some(failure), _) => (503, TEXT, format!("{}\n", ErrorChain(&failure))),
        },
        "/status" => (200, JSON, status(node)),
        "/metrics" => (200, PROMETHEUS, metrics(node, &counts)),
        _ => {
            (404, TEXT, "there are /livez, /readyz, /status, /metrics and /v1/kv/KEY\n".to_owned())
        }
    }
}

fn status(node: &NodeHandle<Store>) -> String {
    let status = node.status();
    let (applied_index, digest) = applied(node);
    let different: Vec<u64> = node.different_members().iter().map(|id| id.0).collect();
    let json = serde_json::json!({
        "id": status.id.0,
        "pid": std::process::id(),
        "role": status.role.role.as_str(),
        "term": status.role.term.0,
        "leader": status.role.leader.map(|leader| leader.0),
        "last_index": status.last_index.0,
        "commit_index": status.commit_index.0,
        "applied_index": applied_index.0,
        "snapshot_index": status.snapshot_index.0,
        "digest": format!("{digest:016x}"),
        "diverged": node.divergence().is_some(),
        "different_members": different,
        "joining": status.is_joining,
        "disk": disk(node),
        "level": node.level(),
    });
    format!("{json}\n")
}

fn metrics(node: &NodeHandle<Store>, counts: &Counts) -> String {
    let status = node.status();
    let rows = [
        ("term", "Current term.", status.role.term.0),
        ("is_leader", "1 if this member leads.", u64::from(status.role.role == RoleName::Leader)),
        ("has_leader", "1 if this member knows a leader.", u64::from(status.role.leader.is_some())),
        ("last_index", "Last entry of the log.", status.last_index.0),
        ("durable_index", "Last entry on this member's disk.", status.durable_index.0),
        ("commit_index", "Last entry known to be committed.", status.commit_index.0),
        ("applied_index", "Last entry applied to the store.", node.applied_index().0),
        ("watches", "Open watches, those of all protocols.", counts.watches as u64),
        (
            "diverged",
            "1 if this member's state differs from that of a majority: it does not serve.",
            u64::from(node.divergence().is_some()),
        ),
        (
            "different_members",
            "Members whose state this leader has found to differ from that of a majority.",
            node.different_members().len() as u64,
        ),
        (
            "nonsense_messages",
            "Messages of peers dropped because they made no sense.",
            status.nonsense_count,
        ),
    ];
    let rows = rows.map(|(name, help, value)| row("gauge", name, help, value));
    rows.concat() + &http_metrics(&counts.http)
}

/// Counts since the member started; gauges may fall.
fn http_metrics(stats: &Stats) -> String {
    let gauges = [
        ("http_connections", "Open connections of the HTTP port.", stats.connections as u64),
        (
            "http_connections_accepted",
            "HTTP connections accepted so far, without those that were refused afterwards.",
            stats.connections_accepted,
        ),
    ];
    let counters = [
        (
            "http_connections_refused_total",
            "HTTP connections refused because too many were open.",
            stats.connections_refused,
        ),
        (
            "http_connections_idle_total",
            "HTTP connections closed because nothing had come over them for long.",
            stats.connections_idle,
        ),
        ("http_requests_total", "HTTP requests that began.", stats.requests),
        (
            "http_requests_refused_total",
            "HTTP requests refused because of their form, their length or a limit.",
            stats.refused,
        ),
    ];
    let gauges = gauges.map(|(name, help, value)| row("gauge", name, help, value));
    let counters = counters.map(|(name, help, value)| row("counter", name, help, value));
    gauges.concat() + &counters.concat()
}

fn row(kind: &str, name: &str, help: &str, value: u64) -> String {
    let name = format!("syncraft_{name}");
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
}
