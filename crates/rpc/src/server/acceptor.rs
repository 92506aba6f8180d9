//! The thread that accepts. It refuses nobody: a connection's first call decides whether it may
//! stay.
//!
//! Only the system can refuse a connection, by giving no thread or no descriptor. That costs the
//! one connection, and those over which nothing is asked make room. Whatever clients do, the next
//! connection is tried again: it may be a peer's.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::Shared;
use super::connection::Connection;
use super::reader::Reader;
use crate::outbox::Outbox;
use crate::transport::Transport;

/// After an error of `accept` (no descriptors left, say) the next try comes after this, doubling up
/// to the second.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// How long a connection that has to make room may take to end; none of them has calls.
const EVICTION_TIME: Duration = Duration::from_millis(100);

/// How long a connection waits for the threads of those that make room for it.
const ROOM_TIME: Duration = Duration::from_secs(1);

/// How long [`wake`] tries to connect.
const WAKE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Acceptor {
    listener: TcpListener,
    shared: Arc<Shared>,
}

impl Acceptor {
    pub(super) fn new(listener: TcpListener, shared: Arc<Shared>) -> Self {
        Acceptor { listener, shared }
    }

    /// Accepts until the server stops.
    pub(super) fn run(self) {
        let mut backoff = BACKOFF_MIN;
        self.shared.wait_for_start();
        while !self.shared.is_stopping() {
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    // Wherever it is dropped from here on, an existing client must not see the end
                    // of the stream: it would take that for a reply. Where the system refuses this,
                    // there is no other way to end it.
                    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                    if self.shared.is_stopping() {
                        return;
                    }
                    backoff = BACKOFF_MIN;
                    self.admit(stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.shared.log.warn(&format!(
                        "rpc: cannot accept on {}: {error}",
                        self.shared.local_addr
                    ));
                    // It may find none before anybody comes. The last one gets a moment for its
                    // first call.
                    self.make_room(usize::from(backoff < BACKOFF_MAX));
                    self.shared.wait_for_stop(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// Starts a connection. Where too many wait for their first call, the one that has waited
    /// longest makes room for it.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let Shared { registry, capacity, .. } = &*self.shared;
        let open_max = capacity.open_max();
        if registry.len() >= open_max {
            // If none of those without a place can be ended, each is about to get one or to end: it
            // is a matter of moments.
            registry.evict_one();
            // Until its thread has ended it takes up what the next one needs.
            registry.wait_until_below(open_max, Instant::now() + EVICTION_TIME);
        }
        let started =
            self.connection(stream, peer).and_then(|connection| self.start_patiently(&connection));
        if let Err(error) = started {
            self.shared.log.warn(&format!("rpc: connection from {peer} dropped: {error}"));
        }
    }

    /// Starts a connection, if need be in the place of one that makes room for it.
    fn start_patiently(&self, connection: &Arc<Connection>) -> io::Result<()> {
        let result = self.start(connection);
        if result.is_ok() || !self.make_room(0) {
            return result;
        }
        // The system counts a thread for a moment longer than the thread can say. Meanwhile it
        // would refuse others as well.
        let deadline = Instant::now() + ROOM_TIME;
        loop {
            self.shared.wait_for_stop(BACKOFF_MIN);
            let result = self.start(connection);
            if result.is_ok() || self.shared.is_stopping() || Instant::now() >= deadline {
                return result;
            }
        }
    }

    fn connection(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<Arc<Connection>> {
        let limits = &self.shared.limits;
        let transport = Transport::accepted(stream, limits.write_timeout)?;
        let writer_name = format!("rpc-send-{}", peer.port());
        let outbox = Outbox::new(transport, writer_name, limits.unsent_bytes_max);
        Ok(Connection::new(peer, outbox, Arc::clone(&self.shared)))
    }

    fn start(&self, connection: &Arc<Connection>) -> io::Result<()> {
        let Shared { registry, connections_accepted, .. } = &*self.shared;
        let reader = Reader::new(Arc::clone(connection));
        let name = format!("rpc-conn-{}", connection.peer.port());
        // Before its thread starts, which may take it back at once.
        connections_accepted.fetch_add(1, Ordering::Relaxed);
        registry.start(name, Arc::clone(connection), || reader.run()).inspect_err(|_| {
            connections_accepted.fetch_sub(1, Ordering::Relaxed);
        })
    }

    /// The system refuses a thread or a descriptor: ends connections that have no call open, but
    /// for the newest ones, which are `spared`. Whether there were any.
    fn make_room(&self, spared: usize) -> bool {
        if self.shared.is_stopping() {
            return false;
        }
        let Shared { registry, capacity, .. } = &*self.shared;
        let open = registry.len();
        let ended = registry.make_room(capacity.shrink(open), spared);
        self.shared.log.warn(&format!(
            "rpc: the system has no room for more than {open} connections: \
            {ended} over which nothing is asked make room"
        ));
        ended > 0
    }
}

/// Errors of `accept` that are about the connection that was to be accepted, not about accepting.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Wakes an acceptor that waits for a connection, by giving it one; where that fails, by shutting
/// the listener's socket.
pub(super) fn wake(local_addr: SocketAddr, listener: &TcpListener) {
    let mut addr = local_addr;
    match addr {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    if TcpStream::connect_timeout(&addr, WAKE_TIMEOUT).is_err() {
        // Where this is not supported either, the next connection ends the acceptor.
        let _ = SockRef::from(listener).shutdown(Shutdown::Both);
    }
}
