//! The thread that accepts: a cap on connections, a few on trial beyond it, a refusal in words, patience when the system has no more to give.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use socket2::SockRef;

use super::connection::{CallId, Connection, Standing, status_frame};
use super::reader::Reader;
use super::{RESERVED_CONNECTIONS, Shared};
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
    /// Connections beyond `connections_max` that have not shown that they may stay, the oldest first.
    on_trial: VecDeque<Weak<Connection>>,
}

impl Acceptor {
    pub(super) fn new(listener: TcpListener, shared: Arc<Shared>) -> Self {
        Acceptor { listener, shared, refused: VecDeque::new(), on_trial: VecDeque::new() }
    }

    /// Accepts until the server stops.
    pub(super) fn run(mut self) {
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
        let (open, limit) = (self.shared.registry.len(), self.shared.limits.connections_max);
        let started = if open < limit {
            self.start(stream, peer, Standing::Settled).map(drop)
        } else if self.has_spare(open - limit) {
            self.start(stream, peer, Standing::OnTrial)
                .map(|connection| self.on_trial.push_back(Arc::downgrade(&connection)))
        } else {
            return self.refuse(stream, peer);
        };
        if let Err(error) = started {
            self.shared.log.warn(&format!("rpc: connection from {peer} dropped: {error}"));
        }
    }

    /// Whether one more may be taken on trial when `beyond` are open beyond the limit; if need be, another one goes.
    fn has_spare(&mut self, beyond: usize) -> bool {
        if !self.shared.table.has_reserved() {
            return false;
        }
        self.on_trial.retain(|it| it.upgrade().is_some_and(|it| !it.is_settled()));
        beyond < RESERVED_CONNECTIONS || self.evict()
    }

    /// Ends the oldest connection on trial; its thread ends at once, for it has no calls. False when there is none.
    fn evict(&mut self) -> bool {
        while let Some(oldest) = self.on_trial.pop_front() {
            if oldest.upgrade().is_some_and(|oldest| oldest.evict()) {
                return true;
            }
        }
        false
    }

    fn start(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        standing: Standing,
    ) -> io::Result<Arc<Connection>> {
        tune(&stream)?;
        let limits = &self.shared.limits;
        let writer_name = format!("rpc-send-{}", peer.port());
        let outbox =
            Outbox::new(stream, writer_name, limits.unsent_bytes_max, limits.write_timeout)?;
        let connection = Connection::new(peer, outbox, Arc::clone(&self.shared), standing);
        let reader = Reader::new(Arc::clone(&connection));
        let name = format!("rpc-conn-{}", peer.port());
        self.shared.registry.start(name, Arc::clone(&connection), || reader.run())?;
        self.shared.connections_accepted.fetch_add(1, Ordering::Relaxed);
        Ok(connection)
    }

    /// Says why, without a thread and without waiting.
    fn refuse(&mut self, stream: TcpStream, peer: SocketAddr) {
        let status = self.shared.refuse_connection(peer);
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
