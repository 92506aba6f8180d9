//! [`Server`]: a port, its connections, and the handler.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::{Connection, Shared};
use super::parked::{Attendant, Parking};
use super::reader::Http;
use super::{Handler, Limits};
use crate::ServerError;
use crate::net::{after, join, spawn};
use crate::port::{self, Capacity, Gauge, Port, Registry, Room, bind};

/// How long [`Server::stop`] waits for handlers that are in the middle of a request.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves HTTP on one port until it is stopped or dropped.
pub struct Server {
    port: Port<Connection>,
    shared: Arc<Shared>,
    /// The thread for connections without one.
    attendant: Mutex<Option<JoinHandle<()>>>,
}

/// What a [`Server`] has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that are open.
    pub connections: usize,
    /// Connections accepted so far, without those that were refused afterwards: it may fall.
    pub connections_accepted: u64,
    /// Connections refused because too many were open, and none of them was idle.
    pub connections_refused: u64,
    /// Connections closed because nothing had come over them for long.
    pub connections_idle: u64,
    /// Requests that the handler got.
    pub requests: u64,
    /// Requests that the server has refused by itself.
    pub refused: u64,
}

/// Settings of a [`Server`].
pub struct ServerBuilder {
    handler: Arc<dyn Handler>,
    limits: Limits,
    listen: Option<Listen>,
}

enum Listen {
    Address(String),
    Listener(TcpListener),
}

impl ServerBuilder {
    /// The bounds, in place of the defaults.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Listens on `addr`, "host:port"; port 0: any free one.
    pub fn bind(mut self, addr: impl Into<String>) -> Self {
        self.listen = Some(Listen::Address(addr.into()));
        self
    }

    /// Serves on this listener.
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listen = Some(Listen::Listener(listener));
        self
    }

    /// Serves from now on.
    ///
    /// # Errors
    ///
    /// [`ServerError::NoAddress`], [`ServerError::Bind`], [`ServerError::BadLimits`], and
    /// [`ServerError::Listener`] if the system refuses something that the server needs.
    pub fn start(self) -> Result<Server, ServerError> {
        self.limits.check()?;
        let listener = match self.listen {
            None => return Err(ServerError::NoAddress),
            Some(Listen::Listener(listener)) => listener,
            Some(Listen::Address(addr)) => bind(addr, None)?,
        };
        let addr = listener.local_addr();
        let known = addr.as_ref().ok().copied();
        addr.and_then(|addr| make(addr, listener, self.limits, self.handler))
            .map_err(|source| ServerError::Listener { addr: known, source })
    }
}

fn make(
    addr: SocketAddr,
    listener: TcpListener,
    limits: Limits,
    handler: Arc<dyn Handler>,
) -> io::Result<Server> {
    let state = port::State::new("http", addr, Capacity::new(limits.connections_max, 0));
    let gauge = |bytes| Gauge::new(usize::MAX, bytes);
    let bodies = Arc::new(Room {
        own: gauge(usize::MAX),
        all: Arc::new(gauge(limits.bodies_max_bytes)),
        reserved: Arc::new(gauge(0)),
    });
    let registry = Arc::<Registry<Connection>>::default();
    let shared = Arc::new(Shared {
        port: Arc::clone(&state),
        limits,
        bodies,
        parking: Parking::new()?,
        registry: Arc::clone(&registry),
        requests: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    });
    let http = Http { shared: Arc::clone(&shared), handler };
    let attendant = Attendant { http: http.clone(), registry: Arc::clone(&registry) };
    let attendant = spawn("http-parked".to_owned(), || attendant.run())?;
    let port = Port::new(listener, state, registry, http).inspect_err(|_| shared.parking.stop())?;
    port.start();
    Ok(Server { port, shared, attendant: Mutex::new(Some(attendant)) })
}

impl Server {
    /// A server whose requests `handler` answers.
    pub fn builder(handler: impl Handler) -> ServerBuilder {
        ServerBuilder { handler: Arc::new(handler), limits: Limits::default(), listen: None }
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.port.state().local_addr
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Stops gracefully. It accepts no more connections, cuts all streams, because some would never
    /// end by themselves, and answers what has arrived, with `Connection: close`, at most for
    /// `limit`. Then it [stops](Server::stop). Returns whether everything was answered.
    pub fn drain(&self, limit: Duration) -> bool {
        let is_drained = self.port.drain(after(Instant::now(), limit));
        self.stop();
        is_drained
    }

    /// Stops: accepts no more, cuts every connection, and joins every thread except the calling
    /// one. Requests that are not answered are lost. It waits up to ten seconds for handlers that
    /// are in the middle of a request. Threads that have not returned by then are left behind, with
    /// an error in the log.
    pub fn stop(&self) {
        self.port.stop_accepting();
        self.port.end_streams();
        let left = self.port.close(Instant::now() + STOP_TIMEOUT);
        if left > 0 {
            log::error!(
                "http: {left} threads still serve a request {STOP_TIMEOUT:?} after the stop"
            );
        }
        self.shared.parking.stop();
        self.attendant.lock().take().into_iter().for_each(join);
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

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder").field("limits", &self.limits).finish_non_exhaustive()
    }
}
