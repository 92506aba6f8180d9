//! How a server is made: what it serves, where, with which threads.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::{Condvar, Mutex};
use socket2::SockRef;

use super::acceptor::Acceptor;
use super::capacity::Capacity;
use super::gauge::Gauge;
use super::pool::{Pool, Queued};
use super::queue::CallQueue;
use super::quiet::QuietLog;
use super::table::{Published, Table};
use super::{Phase, Server, Shared, builtin};
use crate::net::{resolve, spawn, spawn_roomy};
use crate::{Fairness, Limits, ServerError, Service};

/// Connections that may wait to be accepted, at least.
const LISTEN_QUEUE_MIN: usize = 1024;

/// Places in the queue of calls for each handler, where nothing else is said.
const QUEUE_FOR_EACH_HANDLER: usize = 100;

/// Settings of a [`Server`].
///
/// ```
/// # use syncraft_rpc::{Server, Service, Call};
/// # struct Friends;
/// # impl Service for Friends {
/// #     fn name(&self) -> &'static str { "friends" }
/// #     fn methods(&self) -> &'static [&'static str] { &[] }
/// #     fn call(&self, _: usize, _: bytes::Bytes, _: Call) {}
/// # }
/// let server = Server::builder().service(Friends).bind("127.0.0.1:0").handlers(8).build()?.start();
/// println!("serving on {}", server.local_addr());
/// # Ok::<(), syncraft_rpc::ServerError>(())
/// ```
pub struct ServerBuilder {
    services: Vec<Published>,
    limits: Limits,
    listen: Option<Listen>,
    ports: Option<RangeInclusive<u16>>,
    handlers: usize,
    queue: Option<usize>,
    fairness: Option<Fairness>,
}

enum Listen {
    Address(String),
    Listener(TcpListener),
}

impl ServerBuilder {
    pub(super) fn new() -> ServerBuilder {
        ServerBuilder {
            services: Vec::new(),
            limits: Limits::default(),
            listen: None,
            ports: None,
            handlers: 0,
            queue: None,
            fairness: None,
        }
    }

    /// Publishes one more service. Its methods run on the [`handlers`](ServerBuilder::handlers), if
    /// there are any, else as those of an [`inline_service`](ServerBuilder::inline_service): then
    /// they must not take long.
    pub fn service(self, service: impl Service) -> Self {
        self.publish(service, false, false)
    }

    /// Publishes one more service whose methods run on the thread of the connection that asks, with
    /// no hand-over to another: for those that answer at once, or leave the work to others and
    /// answer later. While one runs, no other call of its connection begins, and pings are not
    /// answered: one that takes longer than its callers'
    /// [`ping_interval`](crate::ChannelBuilder::ping_interval) looks frozen to them. Its stack is
    /// 256 KiB.
    pub fn inline_service(self, service: impl Service) -> Self {
        self.publish(service, false, true)
    }

    /// Publishes one more service, inline, with room that clients of the others cannot take: calls
    /// and bytes in flight of its own, as many again as [`Limits::calls_max`] and
    /// [`Limits::bytes_max`], and up to 32 connections beyond [`Limits::connections_max`], for
    /// clients whose first call is to it. For what must get through whatever others do.
    pub fn reserved_service(self, service: impl Service) -> Self {
        self.publish(service, true, true)
    }

    fn publish(mut self, service: impl Service, is_reserved: bool, is_inline: bool) -> Self {
        self.services.push(Published { service: Arc::new(service), is_reserved, is_inline });
        self
    }

    /// Bounds other than the defaults.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Listens on `addr`, "host:port"; port 0: any free one.
    pub fn bind(mut self, addr: impl Into<String>) -> Self {
        self.listen = Some(Listen::Address(addr.into()));
        self
    }

    /// Listens on the first of these ports that is free, in place of that in
    /// [`bind`](ServerBuilder::bind)'s address.
    pub fn ports(mut self, ports: RangeInclusive<u16>) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Serves on this listener.
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listen = Some(Listen::Listener(listener));
        self
    }

    /// So many threads run the methods of each [`service`](ServerBuilder::service); default 0:
    /// none, they run inline. Too few: calls wait though the processor is idle. Too many: memory,
    /// and more at once than what they use can bear.
    pub fn handlers(mut self, threads: usize) -> Self {
        self.handlers = threads;
        self
    }

    /// So many calls may wait for a handler; default 100 for each. One more is answered "busy",
    /// with a hint of when a place may be free. Too small: short crowds are refused. Too large:
    /// calls wait until their callers have given up.
    pub fn queue(mut self, calls: usize) -> Self {
        self.queue = Some(calls);
        self
    }

    /// Serves waiting calls by their callers' shares of what was done lately, not in the order in
    /// which they came. Callers without a [name](crate::ChannelBuilder::caller) are told apart by
    /// their IP address. The queue's places are divided among four levels, so that a caller who is
    /// alone, and thereby has the largest share, gets a quarter of them.
    pub fn fair(mut self, fairness: Fairness) -> Self {
        self.fairness = Some(fairness);
        self
    }

    /// Binds the port and makes the threads. Connections that come from now on wait until it is
    /// [started](BoundServer::start).
    ///
    /// # Errors
    ///
    /// [`ServerError::NoAddress`], [`ServerError::Bind`], [`ServerError::DuplicateService`],
    /// [`ServerError::BadLimits`], and [`ServerError::Listener`] when the system refuses what it
    /// takes to serve.
    pub fn build(mut self) -> Result<BoundServer, ServerError> {
        self.limits.check()?;
        if self.ports.is_some() && matches!(self.listen, Some(Listen::Listener(_))) {
            return bad("a listener has its port, and others are to be tried");
        }
        let queue = self.call_queue()?;
        let table = Table::new(builtin::add_to(std::mem::take(&mut self.services)))?;
        let listener = match self.listen.take() {
            None => return Err(ServerError::NoAddress),
            Some(Listen::Listener(listener)) => listener,
            Some(Listen::Address(addr)) => bind(addr, self.ports)?,
        };
        let addr = listener.local_addr();
        let known = addr.as_ref().ok().copied();
        addr.and_then(|addr| make(addr, table, self.limits, queue, self.handlers, listener))
            .map(|server| BoundServer { server })
            .map_err(|source| ServerError::Listener { addr: known, source })
    }

    fn call_queue<T>(&mut self) -> Result<Option<CallQueue<T>>, ServerError> {
        if self.handlers == 0 {
            return match (self.queue, &self.fairness) {
                (None, None) => Ok(None),
                _ => bad("calls wait for handlers only, and there are none"),
            };
        }
        let len_max = self.queue.unwrap_or(self.handlers.saturating_mul(QUEUE_FOR_EACH_HANDLER));
        match self.fairness.take() {
            _ if len_max == 0 => bad("a queue of 0 calls takes none"),
            None => Ok(Some(CallQueue::fifo(len_max))),
            Some(_) if len_max < 4 => {
                bad("a fair queue has 4 levels, and at least a place in each")
            }
            Some(fairness) => {
                fairness.check()?;
                Ok(Some(CallQueue::fair(len_max, fairness)))
            }
        }
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services: Vec<_> = self.services.iter().map(|it| it.service.name()).collect();
        f.debug_struct("ServerBuilder")
            .field("services", &services)
            .field("limits", &self.limits)
            .field("handlers", &self.handlers)
            .finish_non_exhaustive()
    }
}

/// A server that has its port, and accepts nobody yet.
#[derive(Debug)]
pub struct BoundServer {
    server: Server,
}

impl BoundServer {
    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Serves from now on.
    pub fn start(self) -> Server {
        self.server.shared.enter(Phase::Serving);
        self.server
    }
}

fn bad<T>(reason: &str) -> Result<T, ServerError> {
    Err(ServerError::BadLimits { reason: reason.to_owned() })
}

fn bind(addr: String, ports: Option<RangeInclusive<u16>>) -> Result<TcpListener, ServerError> {
    let Some(ports) = ports else {
        return listen(&addr).map_err(|source| ServerError::Bind { addr, source });
    };
    let host = addr.rsplit_once(':').map_or(&addr[..], |(host, _)| host);
    let mut result = Err(io::Error::new(ErrorKind::InvalidInput, "no ports to try"));
    for port in ports.clone() {
        result = listen(&format!("{host}:{port}"));
        if !matches!(&result, Err(error) if error.kind() == ErrorKind::AddrInUse) {
            break;
        }
    }
    result.map_err(|source| ServerError::Bind { addr: format!("{host}:{ports:?}"), source })
}

fn listen(addr: &str) -> io::Result<TcpListener> {
    TcpListener::bind(&resolve(addr)?[..])
}

fn make(
    local_addr: SocketAddr,
    table: Table,
    limits: Limits,
    queue: Option<CallQueue<Box<Queued>>>,
    handlers: usize,
    listener: TcpListener,
) -> io::Result<Server> {
    // A listener made for polling would turn the acceptor into a busy loop.
    listener.set_nonblocking(false)?;
    // The standard library's queue of 128 overflows when a few hundred clients come at once, and
    // each that finds no place tries again only after a second. Few connections allowed is no
    // reason to queue few: those too many are to be told.
    let backlog = i32::try_from(limits.connections_max.max(LISTEN_QUEUE_MIN)).unwrap_or(i32::MAX);
    SockRef::from(&listener).listen(backlog)?;
    let pool = queue.map(|queue| Arc::new(Pool::new(handlers, queue)));
    let shared = Arc::new(Shared {
        local_addr,
        limits,
        table,
        in_flight: Arc::new(Gauge::new(limits.calls_max, limits.bytes_max)),
        reserved_in_flight: Arc::new(Gauge::new(limits.calls_max, limits.bytes_max)),
        pool: pool.clone(),
        registry: Arc::default(),
        capacity: Capacity::new(limits.connections_max),
        connections_accepted: AtomicU64::new(0),
        connections_refused: AtomicU64::new(0),
        connections_idle: AtomicU64::new(0),
        unknown_calls: AtomicU64::new(0),
        log: QuietLog::new(),
        is_draining: AtomicBool::new(false),
        phase: Mutex::new(Phase::Bound),
        changed: Condvar::new(),
    });
    let acceptor = Acceptor::new(listener.try_clone()?, Arc::clone(&shared));
    let thread = spawn("rpc-accept".to_owned(), || acceptor.run())?;
    let server = Server {
        shared,
        acceptor: Mutex::new(Some((thread, listener))),
        handlers: Mutex::default(),
    };
    // What has started by then ends with the server, if one of them does not.
    for number in (1..=handlers).filter(|_| pool.is_some()) {
        let pool = pool.clone().expect("there is one");
        let thread = spawn_roomy(format!("rpc-hand-{number}"), move || pool.handle())?;
        server.handlers.lock().push(thread);
    }
    Ok(server)
}
