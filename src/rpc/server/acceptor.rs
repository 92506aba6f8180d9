//! The thread that accepts: a cap on connections, a refusal in words, patience when the system has no more to give.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::SockRef;

use super::connection::{CallId, Connection, status_frame};
use super::reader::Reader;
use super::{BUSY_RETRY_AFTER, Shared};
use crate::rpc::Status;
use crate::rpc::frame::HeadSize;
use crate::rpc::net::{send_now, tune};
use crate::rpc::outbox::Outbox;

/// After an error of `accept` (no descriptors left, say) the next try comes after this, doubling up to the second.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Refused connections that are kept open for a while: closing at once, with the client's first call unread, would
/// destroy the refusal on its way. The oldest goes when there are more.
const REFUSED_KEPT: usize = 64;

/// How long [`wake`] tries to connect.
const WAKE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Acceptor {
    listener: TcpListener,
    shared: Arc<Shared>,
    refused: VecDeque<TcpStream>,
}

impl Acceptor {
    pub(super) fn new(listener: TcpListener, shared: Arc<Shared>) -> Self {
        Acceptor { listener, shared, refused: VecDeque::new() }
    }

    /// Accepts until the server stops.
    pub(super) fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        while !self.shared.is_stopping() {
            match self.listener.accept() {
                Ok(_) if self.shared.is_stopping() => return,
                Ok((stream, peer)) => {
                    backoff = BACKOFF_MIN;
                    self.admit(stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Their descriptors are worth more now than their words.
                    self.refused.clear();
                    self.shared.log.warn(&format!(
                        "rpc: cannot accept on {}: {error}",
                        self.shared.local_addr
                    ));
                    self.shared.wait_for_stop(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        if self.shared.registry.len() >= self.shared.limits.connections_max {
            return self.refuse(stream, peer);
        }
        if let Err(error) = self.start(stream, peer) {
            self.shared.log.warn(&format!("rpc: connection from {peer} dropped: {error}"));
        }
    }

    fn start(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        tune(&stream)?;
        let limits = &self.shared.limits;
        let writer_name = format!("rpc-send-{}", peer.port());
        let outbox =
            Outbox::new(stream, writer_name, limits.unsent_bytes_max, limits.write_timeout)?;
        let connection = Connection::new(peer, outbox, Arc::clone(&self.shared));
        let reader = Reader::new(Arc::clone(&connection));
        self.shared.registry.start(format!("rpc-conn-{}", peer.port()), connection, || reader.run())
    }

    /// Says why, without a thread and without waiting.
    fn refuse(&mut self, stream: TcpStream, peer: SocketAddr) {
        let connections = self.shared.limits.connections_max;
        self.shared.connections_refused.fetch_add(1, Ordering::Relaxed);
        self.shared
            .log
            .warn(&format!("rpc: connection from {peer} refused: {connections} are open"));
        let words = format!("{connections} connections are open, and no more are taken");
        let status = Status::busy(words, BUSY_RETRY_AFTER);
        // Nothing is known of the client yet; whoever does not understand it sees the end of the stream.
        let frame = status_frame(CallId { call_id: 0, head_size: HeadSize::U32Le }, &status);
        if send_now(&stream, &frame).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
            self.refused.truncate(REFUSED_KEPT - 1);
            self.refused.push_front(stream);
        }
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
