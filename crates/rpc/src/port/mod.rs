//! A port that accepts connections, whatever protocol they carry: how many there may be, their
//! threads, who makes room for whom, and how all of them end. The [RPC server](crate::Server) and
//! the HTTP server ([`http`](crate::http)) are built on it.
//!
//! ```text
//!   listener ──> acceptor ── Protocol::connection ──> Registry: a thread for each connection,
//!                   │                                           which runs Protocol::serve
//!                   └── no room? a connection without a request, or an idle one, makes room
//! ```
//!
//! # A connection's life
//!
//! ```text
//!   accepted ── first request ──> admitted: it has a place ────────────────────────> ended
//!      │                                │    ^                                          ^
//!      │                          park  v    │ resume: a thread again                   │
//!      │                              parked: no thread, for as long as it likes ───────┤
//!      └── no place, or it had to make room ────────────────────────────────────────────┘
//! ```
//!
//! # Invariants
//!
//! - A connection that has a place keeps it until it ends. Only an idle one is ended for others: by
//!   the RPC if the system itself has no room, by HTTP also if no place is free.
//! - The thread that accepts never waits for a client.
//! - After [`Port::close`] no thread of a connection is left, except those that it reports.
//!
//! | file | what |
//! |---|---|
//! | `acceptor`, `listen` | accepts connections, and makes room for them; the listening socket |
//! | `registry` | the connections' threads |
//! | `admission`, `capacity` | whether a connection may stay; how many may |
//! | `linger` | how one ends whose client is to read a last answer |
//! | `state` | counts, the log, and the phase: bound, serving, stopping |
//! | `gauge`, `quiet` | how much is in flight; a log that no client can flood |

mod acceptor;
mod admission;
mod capacity;
mod gauge;
mod linger;
mod listen;
mod quiet;
mod registry;
mod state;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::{join, spawn};
use crate::outbox::Outbox;
use crate::transport::Transport;
use acceptor::{Acceptor, wake};
pub(crate) use admission::{Admission, NotAdmitted};
#[cfg(feature = "http")]
pub(crate) use capacity::Place;
pub(crate) use capacity::{Capacity, RESERVED_CONNECTIONS};
pub(crate) use gauge::{Gauge, Room, Slot};
pub(crate) use linger::linger;
#[cfg(feature = "http")]
pub(crate) use linger::linger_up_to;
pub(crate) use listen::bind;
pub(crate) use registry::{ConnectionId, Leaves, Registry};
use state::Phase;
pub(crate) use state::State;

/// How often a port that drains looks whether everything is answered.
pub(crate) const DRAIN_CHECK_EVERY: Duration = Duration::from_millis(2);

/// How long a client that was told of the end has to close the connection itself.
const CLOSE_GRACE: Duration = Duration::from_millis(100);

/// What a port asks of a connection, whatever it carries. No method waits for the client.
pub(crate) trait Connection: Send + Sync + 'static {
    /// The client's address.
    fn peer(&self) -> SocketAddr;

    fn outbox(&self) -> &Outbox;

    /// Ends the connection now, from any thread.
    fn cut(&self, reason: &str);

    fn is_cut(&self) -> bool {
        self.outbox().is_cut()
    }

    /// Whether its client has said anything yet.
    fn has_spoken(&self) -> bool;

    /// Whether everything that was asked is answered, and all answers are sent.
    fn is_idle(&self) -> bool;

    /// Ends the connection if it has no place. Returns whether it did.
    fn evict(&self) -> bool;

    /// Tells a client that it is evicted before its first request was there.
    fn tell_evicted(&self) {}

    /// Ends the connection in favour of others if it is idle. Returns whether it did.
    fn make_room(&self) -> bool;

    /// Ends its streams, because the server stops.
    fn end_streams(&self);

    /// If everything is answered, tells the client that nothing further will be, if the protocol
    /// has words for that. Returns whether everything is answered.
    fn announce_stop(&self) -> bool;

    /// Its thread has ended, but the connection goes on. Whoever looks after it now ends or resumes
    /// it by this id.
    fn parked(self: Arc<Self>, id: ConnectionId) {
        unreachable!("connection {id} cannot be parked");
    }
}

/// What a port carries.
pub(crate) trait Protocol: Send + Sync + 'static {
    type Connection: Connection;

    /// A connection that was just accepted. If it is dropped before it is served, the client sees a
    /// reset.
    fn connection(&self, socket: Transport, peer: SocketAddr) -> Arc<Self::Connection>;

    /// Serves a connection, on its thread. Whatever panics in it ends the connection.
    fn serve(&self, connection: Arc<Self::Connection>) -> Leaves;

    /// How long the client may take to accept a part of what it is sent.
    fn write_timeout(&self) -> Duration;
}

/// A port that listens, its connections, and the thread that accepts them.
pub(crate) struct Port<C: Connection> {
    state: Arc<State>,
    registry: Arc<Registry<C>>,
    /// The accepting thread, and the listener to wake it by. Gone once stopped, so that the port is
    /// free then.
    acceptor: Mutex<Option<(JoinHandle<()>, TcpListener)>>,
}

impl<C: Connection> Port<C> {
    /// Starts the thread that will accept connections, once the port is [started](Port::start).
    pub(crate) fn new(
        listener: TcpListener,
        state: Arc<State>,
        registry: Arc<Registry<C>>,
        protocol: impl Protocol<Connection = C>,
    ) -> io::Result<Port<C>> {
        listen::prepare(&listener, state.capacity.connections_max())?;
        let (own, clone) = (Arc::clone(&state), Arc::clone(&registry));
        let acceptor = Acceptor::new(listener.try_clone()?, own, clone, protocol);
        let thread = spawn(format!("{}-accept", state.protocol), || acceptor.run())?;
        Ok(Port { state, registry, acceptor: Mutex::new(Some((thread, listener))) })
    }

    /// Serves from now on.
    pub(crate) fn start(&self) {
        self.state.enter(Phase::Serving);
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Connections that are open now.
    pub(crate) fn connections(&self) -> usize {
        self.registry.len()
    }

    /// Accepts no more connections, begins nothing further, ends all streams, and waits until
    /// everything is answered and all answers are sent, or `deadline`. Then it gives the clients a
    /// moment to close. Returns whether everything was answered. [`close`](Port::close) is next.
    pub(crate) fn drain(&self, deadline: Instant) -> bool {
        self.state.begin_draining();
        self.stop_accepting();
        self.end_streams();
        self.wait_until_idle(deadline);
        let is_drained = self.registry.announce_stop();
        // What clients were just told may have to wait for writers that are about to finish.
        self.wait_until_idle(deadline);
        // Cutting a connection while its client still sends would destroy what the client has not
        // read yet. So the client is told, and has a moment to close it.
        if is_drained {
            self.registry.send_ends();
            let gone_by = deadline.min(Instant::now() + CLOSE_GRACE);
            while !self.registry.have_all_gone() && Instant::now() < gone_by {
                std::thread::sleep(DRAIN_CHECK_EVERY);
            }
        }
        is_drained
    }

    fn wait_until_idle(&self, deadline: Instant) {
        while !self.registry.is_idle() && Instant::now() < deadline {
            std::thread::sleep(DRAIN_CHECK_EVERY);
        }
    }

    pub(crate) fn stop_accepting(&self) {
        self.state.enter(Phase::Stopping);
        let acceptor = self.acceptor.lock().take();
        if let Some((thread, listener)) = acceptor {
            wake(self.state.local_addr, &listener);
            join(thread);
        }
    }

    /// Ends all streams, and tells their clients.
    pub(crate) fn end_streams(&self) {
        self.registry.end_streams();
    }

    /// Cuts every connection and joins its thread, except the calling one. Returns how many had not
    /// ended at `deadline`.
    pub(crate) fn close(&self, deadline: Instant) -> usize {
        self.registry.close(deadline)
    }
}
