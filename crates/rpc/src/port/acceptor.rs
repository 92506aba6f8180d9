//! The thread that accepts. It refuses nobody: the first request of a connection decides whether
//! it may stay.
//!
//! Only the system can refuse a connection, by giving no thread or no descriptor. Then idle
//! connections make room for it, which takes a while. A client that has said nothing yet gets that
//! time only if nobody waits behind it to be accepted; otherwise its connection is lost, but for
//! one in sixteen, because its first bytes may be late. So a crowd that says nothing takes little
//! time from those who do. The next connection is tried again, because it may be a peer's.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::registry::Registry;
use super::state::State;
use super::{Connection, Protocol};
use crate::transport::{Peeked, Transport};

/// After an error of `accept`, such as a lack of descriptors, it tries again after this time, which
/// doubles up to the maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// How long a connection that has to make room may take to end. It has no calls.
const EVICTION_TIME: Duration = Duration::from_millis(100);

/// How long a new connection waits for the threads of those that make room for it.
const ROOM_TIME: Duration = Duration::from_secs(1);

/// How long [`wake`] tries to connect.
const WAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// Of so many silent connections that find no thread while others wait, one is made room for.
const SILENT_WITHOUT_ROOM: u32 = 16;

pub(super) struct Acceptor<P: Protocol> {
    listener: TcpListener,
    /// A connection that was accepted to see whether one waits.
    next: Cell<Option<(TcpStream, SocketAddr)>>,
    /// How many silent connections have found no thread since the last one that was made room for.
    silent: Cell<u32>,
    state: Arc<State>,
    registry: Arc<Registry<P::Connection>>,
    protocol: Arc<P>,
}

impl<P: Protocol> Acceptor<P> {
    pub(super) fn new(
        listener: TcpListener,
        state: Arc<State>,
        registry: Arc<Registry<P::Connection>>,
        protocol: P,
    ) -> Self {
        let (next, silent) = (Cell::default(), Cell::new(0));
        Acceptor { listener, next, silent, state, registry, protocol: Arc::new(protocol) }
    }

    /// Accepts until the server stops.
    pub(super) fn run(self) {
        let mut backoff = BACKOFF_MIN;
        self.state.wait_for_start();
        while !self.state.is_stopping() {
            match self.next.take().map_or_else(|| self.accept(), Ok) {
                Ok((stream, peer)) => {
                    if self.state.is_stopping() {
                        return;
                    }
                    backoff = BACKOFF_MIN;
                    self.admit(stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    let addr = self.state.local_addr;
                    self.state.warn(&format!("cannot accept on {addr}: {error}"));
                    // The error may come before anybody does. So the newest connection is spared at
                    // first: it gets a moment for its first call.
                    self.make_room(usize::from(backoff < BACKOFF_MAX));
                    self.state.wait_for_stop(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// Starts a connection. If too many wait for their first call, the one that has waited longest
    /// makes room.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let Acceptor { state, registry, .. } = self;
        let open_max = state.capacity.open_max();
        if registry.len() >= open_max {
            // If no connection without a place can be ended, each is about to get a place or to
            // end within moments.
            registry.evict_one();
            // A connection takes up what the next one needs until its thread has ended.
            registry.wait_until_below(open_max, Instant::now() + EVICTION_TIME);
        }
        let started =
            self.connection(stream, peer).and_then(|connection| self.start_with_retry(&connection));
        if let Err(error) = started {
            self.state.warn(&format!("connection from {peer} dropped: {error}"));
        }
    }

    /// Starts a connection, if necessary in place of one that makes room.
    fn start_with_retry(&self, connection: &Arc<P::Connection>) -> io::Result<()> {
        let result = self.start(connection);
        if result.is_ok() || !self.deserves_room(connection) || !self.make_room(0) {
            return result;
        }
        // The system counts a thread for a moment after its end. Until then it would refuse any
        // other thread, too.
        let deadline = Instant::now() + ROOM_TIME;
        loop {
            self.state.wait_for_stop(BACKOFF_MIN);
            let result = self.start(connection);
            if result.is_ok() || self.state.is_stopping() || Instant::now() >= deadline {
                return result;
            }
        }
    }

    fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.listener.accept()?;
        // Wherever the connection is dropped from here on, an existing client must not see the end
        // of the stream, which it would take for a reply. If the system refuses this setting, there
        // is no other way to end it.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        Ok((stream, peer))
    }

    /// Whether others are to make room for a new connection.
    fn deserves_room(&self, connection: &P::Connection) -> bool {
        if connection.outbox().transport().peek() != Peeked::Nothing || !self.does_another_wait() {
            return true;
        }
        self.silent.set((self.silent.get() + 1) % SILENT_WITHOUT_ROOM);
        self.silent.get() == 0
    }

    /// Whether another connection waits to be accepted.
    fn does_another_wait(&self) -> bool {
        let next = self.listener.set_nonblocking(true).and_then(|()| self.accept());
        // If this fails, so does each `accept`, until it works again.
        let _ = self.listener.set_nonblocking(false);
        // Some systems hand the setting on to the connection.
        let next = next.ok().filter(|(stream, _)| stream.set_nonblocking(false).is_ok());
        let does_wait = next.is_some();
        self.next.set(next);
        does_wait
    }

    fn connection(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<Arc<P::Connection>> {
        let socket = Transport::accepted(stream, self.protocol.write_timeout())?;
        Ok(self.protocol.connection(socket, peer))
    }

    fn start(&self, connection: &Arc<P::Connection>) -> io::Result<()> {
        let connections_accepted = &self.state.connections_accepted;
        let name = format!("{}-conn-{}", self.state.protocol, connection.peer().port());
        let (protocol, own) = (Arc::clone(&self.protocol), Arc::clone(connection));
        // Before the thread starts, because the thread may take it back at once.
        connections_accepted.fetch_add(1, Ordering::Relaxed);
        let serve = move || protocol.serve(own);
        self.registry.start(name, Arc::clone(connection), serve).inspect_err(|_| {
            connections_accepted.fetch_sub(1, Ordering::Relaxed);
        })
    }

    /// Ends connections without an open call, because the system refuses a thread or a descriptor.
    /// Spares the newest ones, as many as `spared`. Returns whether it ended any.
    fn make_room(&self, spared: usize) -> bool {
        if self.state.is_stopping() {
            return false;
        }
        let open = self.registry.len();
        let ended = self.registry.make_room(self.state.capacity.shrink(open), spared);
        self.state.warn(&format!(
            "the system has no room for more than {open} connections: \
            {ended} over which nothing is asked make room"
        ));
        ended > 0
    }
}

/// Whether an error of `accept` is about the one connection, and not about accepting.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Wakes an acceptor that waits for a connection: connects to it or, if that fails, shuts the
/// listener down.
pub(super) fn wake(local_addr: SocketAddr, listener: &TcpListener) {
    let mut addr = local_addr;
    match addr {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    if TcpStream::connect_timeout(&addr, WAKE_TIMEOUT).is_err() {
        // If the system does not support this either, the next connection ends the acceptor.
        let _ = SockRef::from(listener).shutdown(Shutdown::Both);
    }
}
