//! How a server is made: [`ServerBuilder`].

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::Mutex;

use super::pool::{Pool, Queued};
use super::queue::CallQueue;
use super::reader::Rpc;
use super::shared::Shared;
use super::table::{Published, Table};
use super::{Server, builtin};
use crate::net::spawn_roomy;
use crate::port::{self, Capacity, Port, RESERVED_CONNECTIONS, bind};
use crate::{Fairness, Limits, ServerError, Service};

/// The default number of places in the queue of calls, for each handler.
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
/// let server = Server::builder().service(Friends).bind("127.0.0.1:0").handlers(8);
/// let server = server.build()?.start();
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

impl Server {
    /// A server without services yet.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }
}

impl ServerBuilder {
    fn new() -> ServerBuilder {
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

    /// Publishes a service. Its methods run on the [`handlers`](ServerBuilder::handlers). Without
    /// handlers they run inline, and must not take long: see
    /// [`inline_service`](ServerBuilder::inline_service).
    pub fn service(self, service: impl Service) -> Self {
        self.publish(service, false, false)
    }

    /// Publishes a service whose methods run on the thread of the connection that asks, without a
    /// hand-over to another thread. For methods that answer at once, or leave the work to others
    /// and answer later. While one runs, no other call of its connection begins, and pings are not
    /// answered. So to its callers, a method that takes longer than their
    /// [`ping_interval`](crate::ChannelBuilder::ping_interval) looks like a frozen server. The
    /// stack is 256 KiB.
    pub fn inline_service(self, service: impl Service) -> Self {
        self.publish(service, false, true)
    }

    /// Publishes an inline service with room that clients of other services cannot take. Reserved
    /// services have [`Limits::calls_max`] and [`Limits::bytes_max`] once more for themselves. Up
    /// to 72 connections beyond [`Limits::connections_max`] are for clients whose first call is to
    /// one of them. For calls that must get through whatever other clients do.
    pub fn reserved_service(self, service: impl Service) -> Self {
        self.publish(service, true, true)
    }

    fn publish(mut self, service: impl Service, is_reserved: bool, is_inline: bool) -> Self {
        self.services.push(Published { service: Arc::new(service), is_reserved, is_inline });
        self
    }

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

    /// Listens on the first of these ports that is free, in place of the port in
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

    /// The number of threads that run the methods of each [`service`](ServerBuilder::service);
    /// default 0: they run inline. Too few: calls wait although the processor is idle. Too many:
    /// memory, and overload of what the methods use.
    pub fn handlers(mut self, threads: usize) -> Self {
        self.handlers = threads;
        self
    }

    /// The number of calls that may wait for a handler; default 100 for each handler. One more is
    /// answered "busy", with a hint of when a place may be free. Too small: calls are refused in
    /// short bursts. Too large: calls wait until their callers have given up.
    pub fn queue(mut self, calls: usize) -> Self {
        self.queue = Some(calls);
        self
    }

    /// Serves waiting calls by their callers' shares of the recent work, instead of in order of
    /// arrival. Callers without a [name](crate::ChannelBuilder::caller) are told apart by their IP
    /// address. The queue's places are divided among four levels. A caller that is alone has the
    /// largest share, and so a quarter of the places.
    pub fn fair(mut self, fairness: Fairness) -> Self {
        self.fairness = Some(fairness);
        self
    }

    /// Binds the port and starts the threads. Connections wait until the server is
    /// [started](BoundServer::start).
    ///
    /// # Errors
    ///
    /// [`ServerError::NoAddress`], [`ServerError::Bind`], [`ServerError::DuplicateService`],
    /// [`ServerError::BadLimits`], and [`ServerError::Listener`] if the system refuses something
    /// that the server needs.
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

/// A server that has its port, but accepts nobody yet.
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
        self.server.port.start();
        self.server
    }
}

fn bad<T>(reason: &str) -> Result<T, ServerError> {
    Err(ServerError::BadLimits { reason: reason.to_owned() })
}

fn make(
    local_addr: SocketAddr,
    table: Table,
    limits: Limits,
    queue: Option<CallQueue<Box<Queued>>>,
    handlers: usize,
    listener: TcpListener,
) -> io::Result<Server> {
    let pool = queue.map(|queue| Arc::new(Pool::new(handlers, queue)));
    let capacity = Capacity::new(limits.connections_max, RESERVED_CONNECTIONS);
    let state = port::State::new("rpc", local_addr, capacity);
    let shared = Shared::new(Arc::clone(&state), limits, table, pool.clone());
    let protocol = Rpc { shared: Arc::clone(&shared) };
    let port = Port::new(listener, state, Arc::default(), protocol)?;
    let server = Server { shared, port, handlers: Mutex::default() };
    // If one does not start, the server is dropped, which ends the others.
    for number in (1..=handlers).filter(|_| pool.is_some()) {
        let pool = pool.clone().expect("there is one");
        let thread = spawn_roomy(format!("rpc-hand-{number}"), move || pool.handle())?;
        server.handlers.lock().push(thread);
    }
    Ok(server)
}
