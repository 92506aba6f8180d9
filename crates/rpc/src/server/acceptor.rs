//! The thread that accepts: a cap on connections, a few beyond it, patience when the system has no more to give.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::Shared;
use super::connection::Connection;
use super::reader::Reader;
use crate::net::tune;
use crate::outbox::Outbox;

/// After an error of `accept` (no descriptors left, say) the next try comes after this, doubling up to the second.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// How long a connection that has to make room may take to end; none of them has calls.
const EVICTION_TIME: Duration = Duration::from_millis(100);

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
                Ok(_) if self.shared.is_stopping() => return,
                Ok((stream, peer)) => {
                    backoff = BACKOFF_MIN;
                    self.admit(stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.shared.log.warn(&format!(
                        "rpc: cannot accept on {}: {error}",
                        self.shared.local_addr
                    ));
                    self.make_room();
                    self.shared.wait_for_stop(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// Its first call decides whether it may stay. Where too many wait for theirs, the one that has waited longest goes.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let Shared { registry, capacity, .. } = &*self.shared;
        if registry.len() >= capacity.all_max() {
            if !registry.evict_one() {
                return drop(self.shared.refuse_connection(peer));
            }
            // Until its thread has ended it takes up what the next one needs.
            registry.wait_until_below(capacity.all_max(), Instant::now() + EVICTION_TIME);
        }
        if let Err(error) = self.start(stream, peer) {
            self.shared.log.warn(&format!("rpc: connection from {peer} dropped: {error}"));
            self.make_room();
        }
    }

    /// The system refuses a thread or a descriptor: with fewer connections there are some for those that must get through.
    fn make_room(&self) {
        if self.shared.is_stopping() {
            return;
        }
        let open = self.shared.registry.len();
        let allowed = self.shared.capacity.shrink(open);
        self.shared.log.warn(&format!(
            "rpc: the system has no room for more than {open} connections: for a minute {allowed} are allowed"
        ));
        self.shared.registry.make_room(allowed);
    }

    fn start(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        tune(&stream)?;
        let limits = &self.shared.limits;
        let writer_name = format!("rpc-send-{}", peer.port());
        let outbox =
            Outbox::new(stream, writer_name, limits.unsent_bytes_max, limits.write_timeout)?;
        let connection = Connection::new(peer, outbox, Arc::clone(&self.shared));
        let reader = Reader::new(Arc::clone(&connection));
        let name = format!("rpc-conn-{}", peer.port());
        self.shared.registry.start(name, connection, || reader.run())?;
        self.shared.connections_accepted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Errors of `accept` that are about the connection that was to be accepted, not about accepting.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Wakes an acceptor that waits for a connection, by giving it one; where that fails, by shutting the listener's socket.
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
