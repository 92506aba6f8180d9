//! The side that serves: accepts connections, reads calls, hands them to services, sends the
//! answers.
//!
//! ```text
//!                                  ┌── inline ──────────────────┐
//!  acceptor ──> a reader thread ───┴── queue ──> handlers ──────┴──> Service::call(args, call)
//!               for each connection                                       │
//!                  │                                        Done::run, from any thread
//!                  v                                                      v
//!               next call              outbox: one send, otherwise the queue and the writer thread
//! ```
//!
//! # Inline or by handlers
//!
//! A service runs *inline*, on the thread of the connection that asks, or on one of the server's
//! [`handlers`](ServerBuilder::handlers). Inline saves two wake-ups for each call. It is for
//! methods that answer at once, or leave the work to others: while one runs, nothing else of its
//! connection does, not even an answer to a ping. Handlers are for methods that take long. Calls
//! wait for them in one [bounded queue](ServerBuilder::queue), in order or [by their callers'
//! shares](ServerBuilder::fair). The server's own service ([`builtin`](crate::builtin)) and
//! reserved services always run inline.
//!
//! A method that streams runs in the same way, and may keep its stream when it returns. A handler
//! may wait for room to send, or for items. An inline method must not: the thread that it would
//! keep is the one that brings them. Closures of a stream ([`Incoming::on_item`](crate::Incoming),
//! [`Outgoing::when_ready`](crate::Outgoing::when_ready)) run on the connection's threads, whatever
//! the service, and must not wait either.
//!
//! # Calls of one connection
//!
//! A *documented* call (without `call_id`) runs alone: nothing else of its connection begins before
//! its answer is on its way. So bare replies cannot be mixed up, even if several calls arrive in
//! one segment. The reader does not wait for the answer; only a next call that comes too early
//! does. *Extended* calls run concurrently, and are answered in any order.
//!
//! # What a client gets for what it does
//!
//! A client that
//!
//! - sends an unknown service, method or codec; arguments that do not decode
//!   - extended: status; the connection lives
//!   - documented: closed, one log line
//! - sends arguments over the limit
//!   - extended: status; skipped up to four times the limit, then closed
//!   - documented: closed, one log line
//! - sends more calls or bytes than may be in flight; a call that finds the handlers' queue full
//!   - extended: status "busy" with a wait hint
//!   - documented: waits: it is not read from
//! - sends a call for another version of the service
//!   - extended: status that names both; not run
//!   - documented: it names none
//! - sends a call whose deadline has passed, also in the queue
//!   - extended: status; not run
//!   - documented: it has none
//! - sends calls that wait for a handler when its connection breaks or is cut
//!   - both: not run; if it only ended its stream they run, for
//!     [`Limits::half_close_timeout`](crate::Limits::half_close_timeout)
//! - sends a call whose method panics or drops its `Done`
//!   - extended: status
//!   - documented: closed, one log line
//! - sends a header that does not decode, or is too long
//!   - extended: status for call id 0, then closed, one log line
//!   - documented: closed, one log line
//! - sends HTTP, TLS
//!   - both: a "400 Bad Request" or an alert, then closed, one log line
//! - sends half a frame, slower than [`Limits::frame_timeout`](crate::Limits::frame_timeout)
//!   allows
//!   - both: closed, one log line
//! - sends the end of its stream after a call
//!   - both: its answers, then closed
//! - makes no call for [`Limits::idle_timeout`](crate::Limits::idle_timeout), with none open
//!   - extended: status "connection closed" for call id 0, then closed: no call is lost
//!   - documented: nothing: existing clients hold connections for long
//! - has never sent anything for [`Limits::idle_timeout`](crate::Limits::idle_timeout)
//!   - both: reset, without a message
//! - sends a call while the server [drains](Server::drain)
//!   - extended: status "shutting down"; not run
//!   - documented: closed
//! - does not read its replies for [`Limits::write_timeout`](crate::Limits::write_timeout)
//!   - both: closed
//! - sends a first call over a connection too many
//!   - extended: status "busy" for call id 0, then closed; counted
//!   - documented: closed; counted
//! - opens a stream too many
//!   - extended: status "busy"
//!   - documented: there are none
//! - sends frames of a stream that break its rules, or more bytes of items than there is room for
//!   - extended: the end of the stream, with a status
//!   - documented: closed, one log line
//! - closes its connection, or ends its stream of bytes
//!   - extended: its streams are over
//! - sends calls whose replies find no room, because it reads slower than it asks
//!   - extended: status "unanswered" with a wait hint
//!   - documented: its reply: they come one at a time
//!
//! A server logs at most ten lines a second, and counts those that it leaves out.
//!
//! # How a connection ends
//!
//! "Closed" means the end of the stream for a client that has made an extended call, and a reset
//! for every other client. An existing client takes the end of the stream for an empty reply, sends
//! its call again, and dies of SIGPIPE. A reset is an error of its read, and it goes on to the next
//! server. A connection over which nothing has come may be that of an existing client. So it gets
//! no bytes of the extended format either.
//!
//! A reset destroys what the client's TCP has not acknowledged. Therefore:
//!
//! - When the server itself ends a connection (a stop, a drain, a call that cannot be answered), it
//!   first waits up to half a second until every byte is acknowledged. If one is not, it ends the
//!   connection in order. So no answer is lost. Linux says what is acknowledged; on other systems,
//!   clients that have had a reply see the end of the stream.
//! - If the process is killed, the system resets at once. An answer of up to 1,024 bytes, the most
//!   that existing clients read, is lost only if the network loses it in that moment. Then the
//!   client sees a broken connection, as if the kill had come just before. After a longer answer
//!   the connection ends in order until the client calls again, so a kill destroys nothing.
//! - A client that closes its sending side waits for its answers and the end of the stream. It gets
//!   both.
//!
//! A client on Linux still reads after a reset what its own TCP has acknowledged.
//!
//! # Reserved services
//!
//! Members that keep a cluster alive share the port with clients, and must get through whatever the
//! clients do. A service that is published by [`ServerBuilder::reserved_service`] has limits of its
//! own for calls and bytes in flight, as large as those of all other services together. Its clients
//! have 72 connections beyond [`Limits::connections_max`](crate::Limits::connections_max).
//!
//! The first call of a connection decides which limit it counts for, and whether it may stay. Until
//! then it takes nobody's place. When all places and eight more are taken, the oldest connection
//! whose client has said nothing, or was refused and has not gone, makes room for the next.
//!
//! If the system itself has no room, because a thread does not start or no descriptor is left, the
//! server ends up to a quarter of its connections, but only idle ones. The new connection takes the
//! place of one of them, and is dropped if there are none. It is dropped at once if its client has
//! said nothing yet and others wait to be accepted, because to make room takes a while. So clients
//! that always have a call open keep their connections. For a minute, connections without a call
//! take up no more than what was left. Nobody else is refused for that: as soon as the system has
//! room, every client is served, whatever limit was met and whatever the other clients do.
//!
//! Anybody who can name a reserved service may use its room. This keeps crowds out, not attackers.
//!
//! # Files
//!
//! Each file imports only files below it.
//!
//! | file | what |
//! |---|---|
//! | `builder`, this one | what users see |
//! | [`port`](crate::port) | accepts connections, and makes room for them; their threads |
//! | `reader` | such a thread: reads frames, begins calls |
//! | `admitted` | what a call's header decides |
//! | `answer`, `end` | how a call is answered; how a connection ends |
//! | `opened` | how a stream is opened and ends; what its frames do |
//! | `connection`, `streams` | what the threads of one connection share; its streams |
//! | `shared` | what all threads of a server share |
//! | `pool`, `queue` | the handlers, and the queue of calls for them |
//! | `builtin`, `table`, `stats` | the service `rpc`; which method a call is for; what each did |
//!
//! # Threads
//!
//! | name | how many | does |
//! |---|---|---|
//! | `rpc-accept` | 1 | accepts connections |
//! | `rpc-conn-PORT` (the peer's) | one a connection | reads frames, begins calls, runs inline |
//! | `rpc-send-PORT` | one a connection whose client reads slowly | writes the outbox's queue |
//! | `rpc-hand-N` | as configured | runs the other methods |
//!
//! An answer is serialized and sent by the thread that gives it. [`Server::stop`] joins all
//! threads.
//!
//! # Stopping
//!
//! [`Server::stop`] cuts connections. The callers of calls without an answer learn that these may
//! have run. [`Server::drain`] first refuses new calls and waits for the open ones. Both end open
//! streams at once with the status "shutting down", because some never end by themselves. A client
//! of the extended format whose calls are all answered is told so before its connection is closed,
//! so it knows that what it had sent meanwhile has not run.
//!
//! A client that closes its connection, instead of resetting it, looks like one that waits for its
//! answers. So its calls run.

mod admitted;
mod answer;
mod builder;
mod builtin;
mod connection;
mod end;
mod opened;
mod pool;
mod queue;
mod reader;
mod shared;
mod stats;
mod streams;
mod table;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::net::{after, join};
use super::port::{DRAIN_CHECK_EVERY, Port};
pub use builder::{BoundServer, ServerBuilder};
use connection::Connection;
use shared::Shared;
pub use stats::{MethodReport, Stats, Times};

/// How long [`Server::stop`] waits for services that are in the middle of a call.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves calls on one port until it is stopped or dropped.
pub struct Server {
    shared: Arc<Shared>,
    port: Port<Connection>,
    handlers: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.port.state().local_addr
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.port.connections()
    }

    /// Connections refused so far because
    /// [`Limits::connections_max`](crate::Limits::connections_max) were open, at their first call,
    /// or before it to make room.
    pub fn connections_refused(&self) -> u64 {
        self.port.state().connections_refused.load(Ordering::Relaxed)
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (shared, port) = (&self.shared, self.port.state());
        Stats {
            connections: self.connections(),
            connections_accepted: of(&port.connections_accepted),
            connections_refused: self.connections_refused(),
            connections_idle: of(&port.connections_idle),
            queue_len: shared.pool.as_ref().map_or(0, |pool| pool.len()),
            unknown_calls: of(&shared.unknown_calls),
            methods: shared
                .table
                .stats()
                .map(|it| ((it.service, it.method), it.report()))
                .collect(),
        }
    }

    /// Stops gracefully. It accepts no more connections, refuses every further call
    /// ([`StatusCode::ShuttingDown`](crate::StatusCode::ShuttingDown): not run), ends all streams
    /// with the same code, because some would never end by themselves, and waits until the open
    /// calls are answered and their answers sent, at most for `limit`. Then it
    /// [stops](Server::stop). Returns whether all calls were answered.
    pub fn drain(&self, limit: Duration) -> bool {
        let is_drained = self.port.drain(after(Instant::now(), limit));
        self.stop();
        is_drained
    }

    /// Stops: accepts no more, ends all streams, cuts every connection, and joins every thread
    /// except the calling one. Calls that are not answered are lost; their `Done`s may still be
    /// used, without effect. It waits up to ten seconds for services that are in the middle of a
    /// call. Threads that have not returned by then are left behind, with an error in the log.
    pub fn stop(&self) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        self.port.stop_accepting();
        self.port.end_streams();
        if let Some(pool) = &self.shared.pool {
            pool.close();
        }
        let left = self.port.close(deadline) + self.join_handlers(deadline);
        if left > 0 {
            log::error!("rpc: {left} threads still run a call {STOP_TIMEOUT:?} after the stop");
        }
    }

    /// Joins the handlers. Returns how many had not ended at `deadline`.
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
