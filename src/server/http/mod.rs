//! Pages for operators' tools over plain HTTP: whether a member is alive, whether it is ready, and
//! where it stands.
//!
//! | path | answer |
//! | --- | --- |
//! | `/livez` | 200 unless the member has failed |
//! | `/readyz` | 200 if it knows a leader, its disk works and its state is right; otherwise 503 |
//! | `/status` | one JSON object, as in `syncraft status --json` |
//! | `/metrics` | the same numbers in the Prometheus text format |
//!
//! A status of 503 comes with the reason. GET and HEAD. Queries are ignored. A connection serves
//! one request: no keep-alive, no bodies, no TLS.
//!
//! One thread waits for all connections at once, so each request is answered as soon as it has
//! arrived, however many other clients are silent or slow. A connection has five seconds for its
//! request. There are at most 64 connections; for one more, the one that has been silent for
//! longest is closed.

mod exchange;
mod poll;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::admin::{applied, disk};
use crate::ErrorChain;
use crate::kv::Store;
use crate::node::{NodeHandle, RequestError};
use crate::raft::{MemberId, RoleName};
use exchange::Request;

/// How long the connection that wakes the thread may take.
const WAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// The thread and its listener. Serves until it is dropped.
#[derive(Debug)]
pub(super) struct Http {
    addr: SocketAddr,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Http {
    pub(super) fn serve(
        listener: TcpListener,
        id: MemberId,
        node: NodeHandle<Store>,
    ) -> io::Result<Http> {
        let addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = is_stopped.clone();
        let run = move || poll::run(&listener, &stopped, |request| answer(request, &node));
        let thread = thread::Builder::new().name(format!("http-{id}")).spawn(run)?;
        Ok(Http { addr, is_stopped, thread: Some(thread) })
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Release);
        // A connection wakes the thread. If none can be made, the thread looks after a second.
        let _ = TcpStream::connect_timeout(&self.addr, WAKE_TIMEOUT);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The whole answer. The answer to HEAD is the one to GET without its body.
fn answer(request: Option<Request>, node: &NodeHandle<Store>) -> Vec<u8> {
    let not_understood = || {
        let words = "this port answers GET and HEAD requests\n".to_owned();
        ("400 Bad Request", TEXT, words)
    };
    let (status, content_type, body) =
        request.as_ref().map_or_else(not_understood, |request| page(&request.path, node));
    let len = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    let has_body = !request.is_some_and(|request| request.is_head);
    if has_body { (head + &body).into_bytes() } else { head.into_bytes() }
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Page = (&'static str, &'static str, String);

fn page(path: &str, node: &NodeHandle<Store>) -> Page {
    match path {
        "/livez" => match node.failure() {
            None => ("200 OK", TEXT, "ok\n".to_owned()),
            Some(failure) => {
                ("503 Service Unavailable", TEXT, format!("{}\n", ErrorChain(&failure)))
            }
        },
        "/readyz" => match (node.failure(), node.status().role.leader) {
            (None, _) if node.divergence().is_some() => (
                "503 Service Unavailable",
                TEXT,
                format!("{}\n", RequestError::Diverged { may_apply: false }),
            ),
            (None, _) if node.is_disk_full() => {
                ("503 Service Unavailable", TEXT, "the disk is full: no writes\n".to_owned())
            }
            (None, _) if node.status().is_disk_stalled => (
                "503 Service Unavailable",
                TEXT,
                "the disk is stalled: nothing has reached it for longer than an election takes\n"
                    .to_owned(),
            ),
            (None, Some(_)) => ("200 OK", TEXT, "ok\n".to_owned()),
            (None, None) => ("503 Service Unavailable", TEXT, "no leader is known\n".to_owned()),
            (Some(failure), _) => {
                ("503 Service Unavailable", TEXT, format!("{}\n", ErrorChain(&failure)))
            }
        },
        "/status" => ("200 OK", JSON, status(node)),
        "/metrics" => ("200 OK", PROMETHEUS, metrics(node)),
        _ => {
            ("404 Not Found", TEXT, "there are /livez, /readyz, /status and /metrics\n".to_owned())
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

fn metrics(node: &NodeHandle<Store>) -> String {
    let status = node.status();
    let rows = [
        ("term", "Current term.", status.role.term.0),
        ("is_leader", "1 if this member leads.", u64::from(status.role.role == RoleName::Leader)),
        ("has_leader", "1 if this member knows a leader.", u64::from(status.role.leader.is_some())),
        ("last_index", "Last entry of the log.", status.last_index.0),
        ("durable_index", "Last entry on this member's disk.", status.durable_index.0),
        ("commit_index", "Last entry known to be committed.", status.commit_index.0),
        ("applied_index", "Last entry applied to the store.", node.applied_index().0),
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
    let row = |(name, help, value)| {
        format!(
            "# HELP syncraft_{name} {help}\n# TYPE syncraft_{name} gauge\nsyncraft_{name} {value}\n"
        )
    };
    rows.map(row).concat()
}
