//! The side that serves: accepts connections, reads calls, hands them to services, sends the answers.
//!
//! ```text
//!  acceptor ──> a reader thread for each connection ── table ──> Service::call(args, call)
//!                        │ (goes on reading)                             │
//!                        │                                        Done::run, from any thread
//!                        v                                               v
//!                   next call                                 outbox: one send, else queue + writer thread
//! ```
//!
//! # Calls of one connection
//!
//! A *documented* call (without `call_id`) runs alone: nothing else of its connection begins before its answer is on its
//! way, so bare replies cannot be mixed up, also when several calls arrive in one segment. The reader does not wait for
//! the answer, though; only a next call that comes too early does. *Extended* calls run concurrently, and are answered in
//! any order.
//!
//! # What a client gets for what it does
//!
//! | it sends | extended call | documented call |
//! |---|---|---|
//! | an unknown service, method or codec; arguments that do not decode | status; the connection lives | closed, one log line |
//! | arguments over the limit | status; passed over up to four times the limit, then closed | closed, one log line |
//! | more calls or bytes than may be in flight | status "busy" with a wait hint | waits: it is not read from |
//! | a call whose deadline has passed | status; not run | (has no deadline) |
//! | a call whose method panics or drops its `Done` | status | closed, one log line |
//! | a header that is none, or too long | status for call id 0, then closed, one log line | closed, one log line |
//! | HTTP, TLS | a "400 Bad Request" or an alert, then closed, one log line | the same |
//! | half a frame, slower than [`Limits::frame_timeout`] allows | closed, one log line | the same |
//! | the end of its stream after a call | its answers, then closed | the same |
//! | nothing, between frames | nothing: existing clients hold connections for long | the same |
//! | nothing, while its replies wait longer than [`Limits::write_timeout`] | closed | the same |
//! | a connection too many | status "busy" for call id 0, then closed; counted | the same bytes |
//! | calls whose replies find no room in front of a client that reads slower than it asks | status "unanswered" with a wait hint | its reply: they come one at a time |
//!
//! Log lines are at most ten a second for a server; what is left out is counted.
//!
//! # Reserved services
//!
//! Members that keep a cluster alive share the port with clients, and must get through whatever those do. A service that
//! is published by [`ServerBuilder::reserved_service`] has calls and bytes in flight of its own, as many again as the
//! others have together. And up to 32 connections beyond [`Limits::connections_max`] are accepted *on trial*: the first
//! call decides. To a reserved service, it stays; to another, it is refused in words (unless there is room by then). One
//! that has said nothing yet goes, oldest first, when the next one comes.
//!
//! Whoever may name a reserved service may use its room: this keeps crowds out, not attackers.
//!
//! # Threads
//!
//! `rpc-accept`; for each connection `rpc-conn-PORT` (the peer's port) and, only while its client reads slower than it is
//! answered, `rpc-send-PORT`. Services run on the connection's thread, completions of answers on whichever thread gives
//! them. [`Server::stop`] joins all of them.
//!
//! # Left out
//!
//! Handler pools and fair queueing (a service that works for long must move its work elsewhere), idle limits and pings,
//! draining before a stop.

mod acceptor;
mod connection;
mod gauge;
mod quiet;
mod reader;
mod registry;
mod table;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use socket2::SockRef;

use super::net::{join, spawn};
use super::{Limits, ServerError, Service, Status};
use acceptor::{Acceptor, wake};
use gauge::Gauge;
use quiet::QuietLog;
use registry::Registry;
use table::{Published, Table};

/// How long [`Server::stop`] waits for services that are in the middle of a call.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The hint that comes with "busy".
const BUSY_RETRY_AFTER: Duration = Duration::from_millis(20);

/// Connections that may wait to be accepted, at least.
const LISTEN_QUEUE_MIN: usize = 1024;

/// Connections beyond `connections_max`, for reserved services.
const RESERVED_CONNECTIONS: usize = 32;

/// Serves calls on one port until it is stopped or dropped.
pub struct Server {
    shared: Arc<Shared>,
    /// The accepting thread, and its listener to wake it by. Gone once stopped: the port is free then.
    acceptor: Mutex<Option<(JoinHandle<()>, TcpListener)>>,
}

/// What all threads of a server share.
struct Shared {
    local_addr: SocketAddr,
    limits: Limits,
    table: Table,
    in_flight: Arc<Gauge>,
    reserved_in_flight: Arc<Gauge>,
    registry: Arc<Registry>,
    connections_refused: AtomicU64,
    log: QuietLog,
    stopping: Mutex<bool>,
    stopped: Condvar,
}

impl Server {
    /// A server without services yet.
    pub fn builder() -> ServerBuilder {
        ServerBuilder { services: Vec::new(), limits: Limits::default() }
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.shared.registry.len()
    }

    /// Connections refused so far because [`Limits::connections_max`] were open: at once, or at their first call.
    pub fn connections_refused(&self) -> u64 {
        self.shared.connections_refused.load(Ordering::Relaxed)
    }

    /// Stops: accepts no more, cuts every connection, and joins every thread, but for the calling one. Calls not yet
    /// answered are lost; their `Done`s may still be used, to no effect. It waits up to ten seconds for services that are
    /// in the middle of a call; threads that do not come back by then are left behind, with an error in the log.
    pub fn stop(&self) {
        self.shared.begin_stop();
        let acceptor = self.acceptor.lock().take();
        if let Some((thread, listener)) = acceptor {
            wake(self.shared.local_addr, &listener);
            join(thread);
        }
        let left = self.shared.registry.close(Instant::now() + STOP_TIMEOUT);
        if left > 0 {
            log::error!("rpc: {left} connections still run a call {STOP_TIMEOUT:?} after the stop");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("local_addr", &self.local_addr()).finish_non_exhaustive()
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        *self.stopping.lock()
    }

    fn begin_stop(&self) {
        *self.stopping.lock() = true;
        self.stopped.notify_all();
    }

    /// Counts a connection as refused, with a line in the log; the words for its client.
    fn refuse_connection(&self, peer: SocketAddr) -> Status {
        let connections = self.limits.connections_max;
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
        self.log.warn(&format!("rpc: connection from {peer} refused: {connections} are open"));
        let words = format!("{connections} connections are open, and no more are taken");
        Status::busy(words, BUSY_RETRY_AFTER)
    }

    fn wait_for_stop(&self, timeout: Duration) {
        let mut stopping = self.stopping.lock();
        if !*stopping {
            self.stopped.wait_for(&mut stopping, timeout);
        }
    }
}

/// Settings of a [`Server`].
pub struct ServerBuilder {
    services: Vec<Published>,
    limits: Limits,
}

impl ServerBuilder {
    /// Publishes one more service.
    pub fn service(self, service: impl Service) -> Self {
        self.publish(service, false)
    }

    /// Publishes one more service, with room that clients of the others cannot take: calls and bytes in flight of its own,
    /// as many again as [`Limits::calls_max`] and [`Limits::bytes_max`], and up to 32 connections beyond
    /// [`Limits::connections_max`], for clients whose first call is to it. For what must get through whatever others do.
    pub fn reserved_service(self, service: impl Service) -> Self {
        self.publish(service, true)
    }

    fn publish(mut self, service: impl Service, is_reserved: bool) -> Self {
        self.services.push(Published { service: Arc::new(service), is_reserved });
        self
    }

    /// Bounds other than the defaults.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Starts to serve on `listener`.
    ///
    /// # Errors
    ///
    /// [`ServerError::DuplicateService`], [`ServerError::BadLimits`], and [`ServerError::Listener`] when the system
    /// refuses what it takes to serve.
    pub fn serve(self, listener: TcpListener) -> Result<Server, ServerError> {
        let table = Table::new(self.services)?;
        self.limits.check()?;
        let addr = listener.local_addr();
        let known = addr.as_ref().ok().copied();
        addr.and_then(|addr| start(addr, table, self.limits, listener))
            .map_err(|source| ServerError::Listener { addr: known, source })
    }

    /// Listens on `addr` ("host:port"; port 0: any free one) and starts to serve.
    ///
    /// # Errors
    ///
    /// [`ServerError::Bind`], and those of [`serve`](ServerBuilder::serve).
    pub fn bind(self, addr: &str) -> Result<Server, ServerError> {
        let listener = TcpListener::bind(addr)
            .map_err(|source| ServerError::Bind { addr: addr.to_owned(), source })?;
        self.serve(listener)
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services: Vec<_> = self.services.iter().map(|it| it.service.name()).collect();
        f.debug_struct("ServerBuilder")
            .field("services", &services)
            .field("limits", &self.limits)
            .finish()
    }
}

fn start(
    local_addr: SocketAddr,
    table: Table,
    limits: Limits,
    listener: TcpListener,
) -> io::Result<Server> {
    // A listener made for polling would turn the acceptor into a busy loop.
    listener.set_nonblocking(false)?;
    // The standard library's queue of 128 overflows when a few hundred clients come at once, and each that finds no place
    // tries again only after a second. Few connections allowed is no reason to queue few: those too many are to be told.
    let backlog = i32::try_from(limits.connections_max.max(LISTEN_QUEUE_MIN)).unwrap_or(i32::MAX);
    SockRef::from(&listener).listen(backlog)?;
    let shared = Arc::new(Shared {
        local_addr,
        limits,
        table,
        in_flight: Arc::new(Gauge::new(limits.calls_max, limits.bytes_max)),
        reserved_in_flight: Arc::new(Gauge::new(limits.calls_max, limits.bytes_max)),
        registry: Arc::default(),
        connections_refused: AtomicU64::new(0),
        log: QuietLog::new(),
        stopping: Mutex::new(false),
        stopped: Condvar::new(),
    });
    let acceptor = Acceptor::new(listener.try_clone()?, Arc::clone(&shared));
    let thread = spawn("rpc-accept".to_owned(), || acceptor.run())?;
    Ok(Server { shared, acceptor: Mutex::new(Some((thread, listener))) })
}
