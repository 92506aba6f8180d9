//! What operators' tools read over plain HTTP: is it alive, is it ready, where does it stand.
//!
//! | path | answer |
//! | --- | --- |
//! | `/livez` | 200 as long as the member has not failed |
//! | `/readyz` | 200 if it knows a leader, its disk has space and its state is that of the others, 503 and why if not |
//! | `/status` | one JSON object, as in `syncraft status --json` |
//! | `/metrics` | the same numbers in the Prometheus text format |
//!
//! One thread, one request a connection, one connection at a time, a second for each: a slow client delays other operators'
//! tools and nothing else. No keep-alive, no bodies, no TLS.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::kv::Store;
use crate::node::{NodeHandle, RequestError};
use crate::raft::{MemberId, RoleName};

/// The longest request head.
const HEAD_LEN_MAX_BYTES: usize = 8 << 10;
/// For reading one request, and again for writing its answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// After accept failed: out of descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
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
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = is_stopped.clone();
        let run = move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                match stream.and_then(|stream| answer(stream, &node)) {
                    Ok(()) => {}
                    Err(error) if is_of_the_listener(&error) => thread::sleep(ACCEPT_PAUSE),
                    Err(error) => log::debug!("an http request failed: {error}"),
                }
            }
        };
        let thread = thread::Builder::new().name(format!("http-{id}")).spawn(run)?;
        Ok(Http { addr, is_stopped, thread: Some(thread) })
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Release);
        // The thread waits in accept: a connection wakes it. Where none can be made, it cannot be waited for.
        if TcpStream::connect_timeout(&self.addr, PATIENCE).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// Whether accept itself failed, and would again at once.
fn is_of_the_listener(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

fn answer(mut stream: TcpStream, node: &NodeHandle<Store>) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    match read_path(&mut stream)? {
        Some(path) => send(&mut stream, page(&path, node)),
        None => {
            let words = "this port answers GET requests\n".to_owned();
            send(&mut stream, ("400 Bad Request", TEXT, words))?;
            drain(stream)
        }
    }
}

fn send(stream: &mut TcpStream, (status, content_type, body): Page) -> io::Result<()> {
    let len = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes())
}

/// Takes what the client still sends: closing a socket with unread bytes resets it, and the answer would be lost.
fn drain(stream: TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let deadline = Instant::now() + PATIENCE;
    let mut sink = [0; 4096];
    while Instant::now() < deadline && (&stream).read(&mut sink)? > 0 {}
    Ok(())
}

/// The path of a GET request; `None` if it is anything else.
fn read_path(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let deadline = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut buf = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let len = stream.read(&mut buf)?;
        head.extend_from_slice(&buf[..len]);
        if len == 0 || head.len() > HEAD_LEN_MAX_BYTES || !is_text(&buf[..len]) {
            return Ok(None);
        }
    }
    let line = head.split(|&b| b == b'\r').next().unwrap_or_default();
    let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
    let is_get = words.next() == Some("GET");
    let path = words
        .next()
        .filter(|_| is_get)
        .map(|target| target.split('?').next().unwrap_or_default().to_owned());
    Ok(path)
}

/// Whether this may be a part of a request's head. A frame of our RPC is not, nor is a TLS hello: whoever sends one is told at
/// once what this port speaks.
fn is_text(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| byte.is_ascii_control() && !b"\t\r\n".contains(byte))
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Page = (&'static str, &'static str, String);

fn page(path: &str, node: &NodeHandle<Store>) -> Page {
    match path {
        "/livez" => match node.failure() {
            None => ("200 OK", TEXT, "ok\n".to_owned()),
            Some(failure) => ("503 Service Unavailable", TEXT, format!("{failure}\n")),
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
            (Some(failure), _) => ("503 Service Unavailable", TEXT, format!("{failure}\n")),
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
    let (applied_index, digest) = super::applied(node);
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
        "disk": super::disk(node),
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
