//! The side that serves: accepts connections, reads calls, hands them to services, sends the
//! answers.
//!
//! ```text
//!                                                     ┌── inline ────────────────────┐
//!  acceptor ──> a reader thread for each connection ──┴── queue ──> handlers ────────┴─> Service::call(args, call)
//!                        │ (goes on reading)                                                    │
//!                        │                                                               Done::run, from any thread
//!                        v                                                                      v
//!                   next call                                           outbox: one send, else queue + writer thread
//! ```
//!
//! # Inline or by handlers
//!
//! A service runs *inline*, on the thread of the connection that asks, or on one of the server's
//! [`handlers`](ServerBuilder::handlers). Inline saves two wake-ups a call, and is for what answers
//! at once or leaves the work to others; while a method runs, nothing else of its connection does,
//! not even an answer to a ping. Handlers are for what takes long. Calls wait for them in one
//! [bounded queue](ServerBuilder::queue), in order, or
//! [by their callers' shares](ServerBuilder::fair). The server's own service
//! ([`builtin`](crate::builtin)) and the reserved ones always run inline.
//!
//! # Calls of one connection
//!
//! A *documented* call (without `call_id`) runs alone: nothing else of its connection begins before
//! its answer is on its way, so bare replies cannot be mixed up, also when several calls arrive in
//! one segment. The reader does not wait for the answer, though; only a next call that comes too
//! early does. *Extended* calls run concurrently, and are answered in any order.
//!
//! # What a client gets for what it does
//!
//! | it sends | extended call | documented call |
//! |---|---|---|
//! | an unknown service, method or codec; arguments that do not decode | status; the connection lives | closed, one log line |
//! | arguments over the limit | status; passed over up to four times the limit, then closed | closed, one log line |
//! | more calls or bytes than may be in flight; a call that finds the handlers' queue full | status "busy" with a wait hint | waits: it is not read from |
//! | a call for another version of the service | status that names both; not run | (names none) |
//! | a call whose deadline has passed, also in the queue | status; not run | (has no deadline) |
//! | calls that wait for a handler when its connection breaks, or is over | not run; after a mere end of its stream they are, for [`Limits::half_close_timeout`] | the same |
//! | a call whose method panics or drops its `Done` | status | closed, one log line |
//! | a header that is none, or too long | status for call id 0, then closed, one log line | closed, one log line |
//! | HTTP, TLS | a "400 Bad Request" or an alert, then closed, one log line | the same |
//! | half a frame, slower than [`Limits::frame_timeout`] allows | closed, one log line | the same |
//! | the end of its stream after a call | its answers, then closed | the same |
//! | nothing, for [`Limits::idle_timeout`] with no call open | status "connection closed" for call id 0, then closed: no call is lost | nothing: existing clients hold connections for long |
//! | nothing at all, for as long | reset, without a word | the same |
//! | a call while the server [drains](Server::drain) | status "shutting down"; not run | closed |
//! | nothing, while its replies wait longer than [`Limits::write_timeout`] | closed | the same |
//! | a first call over a connection too many | status "busy" for call id 0, then closed; counted | closed; counted |
//! | calls whose replies find no room in front of a client that reads slower than it asks | status "unanswered" with a wait hint | its reply: they come one at a time |
//!
//! Log lines are at most ten a second for a server; what is left out is counted.
//!
//! # How a connection ends
//!
//! "Closed" means the end of the stream for a client that has made an extended call, and a reset
//! for every other one. An existing client takes the end of the stream for an empty reply, sends
//! its call again, and dies of SIGPIPE; a reset is an error of its read, and it goes on to the next
//! server. A connection over which nothing has come may be that of an existing client, so it gets
//! no bytes of the extended format either.
//!
//! A reset destroys what the client's TCP has not acknowledged. What follows from that:
//!
//! - Whenever the server itself ends a connection (a stop, a drain, a call that cannot be answered), it first waits up to half
//!   a second until every byte is acknowledged, and ends the connection in order if one is not. No answer is lost. Linux says
//!   what is acknowledged; on other systems clients that have had a reply see the end of the stream.
//! - If the process is killed, the system resets at once. An answer of up to 1,024 bytes, the most that existing clients read,
//!   is lost only if the network loses it in that moment; the client sees a broken connection, as if the kill had come just
//!   before. After a longer answer the connection ends in order until the client calls again, so a kill destroys nothing.
//! - A client that closes its sending side waits for its answers and the end of the stream: it gets both.
//!
//! What a client's own TCP has acknowledged is still read after a reset if the client runs on
//! Linux.
//!
//! # Reserved services
//!
//! Members that keep a cluster alive share the port with clients, and must get through whatever
//! those do. A service that is published by [`ServerBuilder::reserved_service`] has calls and bytes
//! in flight of its own, as many again as the others have together. And its clients have 32
//! connections beyond [`Limits::connections_max`].
//!
//! The first call of a connection decides which limit it counts for, and whether it may stay. Until
//! then it takes nobody's place: when all the places and eight more are taken, the oldest one that
//! has said nothing, or was refused and is still there, makes room for the next.
//!
//! Where the system itself has no room, because a thread does not start or no descriptor is left,
//! the server ends up to a quarter of its connections, but only such over which nothing is asked.
//! The new connection takes the place of one of them. It is dropped if there are none: clients that
//! always have a call open keep what they have. For a minute those that say nothing take up no more
//! than what was left. Nobody else is refused for that: as soon as the system has room, whoever
//! comes is served, whatever limit was met and whatever the other clients do.
//!
//! Whoever may name a reserved service may use its room: this keeps crowds out, not attackers.
//!
//! # Threads
//!
//! `rpc-accept`; `rpc-hand-N`, one for each handler; for each connection `rpc-conn-PORT` (the
//! peer's port) and, only while its client reads slower than it is answered, `rpc-send-PORT`.
//! Completions of answers run on whichever thread gives them. [`Server::stop`] joins all of them.
//!
//! # Stopping
//!
//! [`Server::stop`] cuts connections; calls without an answer are lost to their callers, who are
//! told that they may have run. [`Server::drain`] first refuses new calls and sees through the open
//! ones. A client of the extended format whose calls are all answered is told so before its
//! connection is closed: what it had sent meanwhile has certainly not run.
//!
//! A client that closes its end, rather than resets it, looks like one that waits for its answers:
//! its calls are run.

mod acceptor;
mod answer;
mod builder;
mod builtin;
mod capacity;
mod connection;
mod end;
mod gauge;
mod pool;
mod queue;
mod quiet;
mod reader;
mod registry;
mod stats;
mod table;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::net::{after, join};
use super::{Limits, Status, StatusCode};
use acceptor::wake;
pub use builder::{BoundServer, ServerBuilder};
use capacity::Capacity;
use gauge::Gauge;
use pool::Pool;
use quiet::QuietLog;
use registry::Registry;
pub use stats::{MethodReport, Stats, Times};
use table::Table;

/// How long [`Server::stop`] waits for services that are in the middle of a call.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a server that stops looks whether its calls are answered.
const DRAIN_CHECK_EVERY: Duration = Duration::from_millis(2);

/// A client that has its last words has so long to close the connection itself.
const FAREWELL_TIME: Duration = Duration::from_millis(100);

/// The hint that comes with "busy".
const BUSY_RETRY_AFTER: Duration = Duration::from_millis(20);

/// Serves calls on one port until it is stopped or dropped.
pub struct Server {
    shared: Arc<Shared>,
    /// The accepting thread, and its listener to wake it by. Gone once stopped: the port is free
    /// then.
    acceptor: Mutex<Option<(JoinHandle<()>, TcpListener)>>,
    handlers: Mutex<Vec<JoinHandle<()>>>,
}

/// What all threads of a server share.
struct Shared {
    local_addr: SocketAddr,
    limits: Limits,
    table: Table,
    in_flight: Arc<Gauge>,
    reserved_in_flight: Arc<Gauge>,
    pool: Option<Arc<Pool>>,
    registry: Arc<Registry>,
    capacity: Capacity,
    connections_accepted: AtomicU64,
    connections_refused: AtomicU64,
    connections_idle: AtomicU64,
    unknown_calls: AtomicU64,
    log: QuietLog,
    /// Calls are not taken any more; those that are open are seen through.
    is_draining: AtomicBool,
    phase: Mutex<Phase>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It listens; connections wait to be accepted.
    Bound,
    Serving,
    Stopping,
}

impl Server {
    /// A server without services yet.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.shared.registry.len()
    }

    /// Connections refused so far because [`Limits::connections_max`] were open: at their first
    /// call, or before it to make room.
    pub fn connections_refused(&self) -> u64 {
        self.shared.connections_refused.load(Ordering::Relaxed)
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let shared = &self.shared;
        Stats {
            connections: self.connections(),
            connections_accepted: of(&shared.connections_accepted),
            connections_refused: self.connections_refused(),
            connections_idle: of(&shared.connections_idle),
            queue_len: shared.pool.as_ref().map_or(0, |pool| pool.len()),
            unknown_calls: of(&shared.unknown_calls),
            methods: shared
                .table
                .stats()
                .map(|it| ((it.service, it.method), it.report()))
                .collect(),
        }
    }

    /// Stops with grace: accepts no more connections, refuses every further call
    /// ([`StatusCode::ShuttingDown`]: not run), waits until the open ones are answered and their
    /// answers sent, at most for `limit`; then it [stops](Server::stop). Whether all were answered.
    pub fn drain(&self, limit: Duration) -> bool {
        let deadline = after(Instant::now(), limit);
        self.shared.is_draining.store(true, Ordering::SeqCst);
        self.stop_accepting();
        self.wait_until_idle(deadline);
        let is_drained = self.shared.registry.bid_farewell();
        // The farewells may have to wait for writers that were just about to be done.
        self.wait_until_idle(deadline);
        // To cut what a client still sends to would destroy what it has not read yet: it is told,
        // and has a moment to go.
        if is_drained {
            self.shared.registry.end_streams();
            let gone_by = deadline.min(Instant::now() + FAREWELL_TIME);
            while !self.shared.registry.have_all_gone() && Instant::now() < gone_by {
                std::thread::sleep(DRAIN_CHECK_EVERY);
            }
        }
        self.stop();
        is_drained
    }

    fn wait_until_idle(&self, deadline: Instant) {
        while !self.shared.registry.is_idle() && Instant::now() < deadline {
            std::thread::sleep(DRAIN_CHECK_EVERY);
        }
    }

    /// Stops: accepts no more, cuts every connection, and joins every thread, but for the calling
    /// one. Calls not yet answered are lost; their `Done`s may still be used, to no effect. It
    /// waits up to ten seconds for services that are in the middle of a call; threads that do not
    /// come back by then are left behind, with an error in the log.
    pub fn stop(&self) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        self.stop_accepting();
        if let Some(pool) = &self.shared.pool {
            pool.close();
        }
        let left = self.shared.registry.close(deadline) + self.join_handlers(deadline);
        if left > 0 {
            log::error!("rpc: {left} threads still run a call {STOP_TIMEOUT:?} after the stop");
        }
    }

    fn stop_accepting(&self) {
        self.shared.enter(Phase::Stopping);
        let acceptor = self.acceptor.lock().take();
        if let Some((thread, listener)) = acceptor {
            wake(self.shared.local_addr, &listener);
            join(thread);
        }
    }

    /// How many have not ended by then.
    fn join_handlers(&self, deadline: Instant) -> usize {
        let handlers = std::mem::take(&mut *self.handlers.lock());
        let me = std::thread::current().id();
        let has_left = |it: &JoinHandle<()>| it.is_finished() || it.thread().id() == me;
        while !handlers.iter().all(has_left) && Instant::now() < deadline {
            std::thread::sleep(DRAIN_CHECK_EVERY);
        }
        let (ended, left): (Vec<_>, Vec<_>) = handlers.into_iter().partition(has_left);
        ended.into_iter().for_each(join);
        left.len()
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
        *self.phase.lock() == Phase::Stopping
    }

    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Stopping is for ever.
    fn enter(&self, next: Phase) {
        let mut phase = self.phase.lock();
        if *phase != Phase::Stopping {
            *phase = next;
        }
        drop(phase);
        self.changed.notify_all();
    }

    fn count_if_unknown(&self, code: StatusCode) {
        if matches!(code, StatusCode::UnknownService | StatusCode::UnknownMethod) {
            self.unknown_calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count_idle(&self) {
        self.connections_idle.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that was accepted as refused.
    fn count_refused(&self) {
        self.connections_accepted.fetch_sub(1, Ordering::Relaxed);
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    fn log_refused(&self, peer: SocketAddr) {
        let connections = self.capacity.connections_max();
        self.log.warn(&format!(
            "rpc: connection from {peer} refused: at most {connections} may be open"
        ));
    }

    /// What a client too many is told.
    fn too_many(&self) -> Status {
        let connections = self.capacity.connections_max();
        let words = format!("{connections} connections are open, and no more are taken");
        Status::busy(words, BUSY_RETRY_AFTER)
    }

    fn wait_for_stop(&self, timeout: Duration) {
        let mut phase = self.phase.lock();
        if *phase != Phase::Stopping {
            self.changed.wait_for(&mut phase, timeout);
        }
    }

    /// Waits while it is only bound.
    fn wait_for_start(&self) {
        let mut phase = self.phase.lock();
        while *phase == Phase::Bound {
            self.changed.wait(&mut phase);
        }
    }
}
