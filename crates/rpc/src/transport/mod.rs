//! One connection as a stream of bytes in both directions. Nothing else in this crate reads, writes
//! or ends a connected socket (except the one by which a stopping server wakes its acceptor).
//!
//! ```text
//!   server's reader, channel ── read, peek ────────────> ┌───────────┐
//!   outbox: any thread ──────── try_write, shutdown ───> │ Transport │ ══ TCP ══ peer
//!   outbox: writer thread ───── write_all ─────────────> └───────────┘
//! ```
//!
//! Today the bytes of the stream are the bytes of the TCP connection. TLS will be a second form of
//! this type. The contract below is made for both, so TLS changes this file and the two places that
//! make a `Transport`, and none that uses one.
//!
//! # States
//!
//! ```text
//!   open ── shutdown(Write) ──> nothing more is sent ──┐
//!     │                                                 ├── drop ──> closed
//!     └──── shutdown(Read or Both) ──> over ────────────┘
//! ```
//!
//! A client gets its `Transport` from [`connect`](Transport::connect) once it can send: a handshake
//! is part of connecting. A server gets one from [`accepted`](Transport::accepted) at once, and its
//! reader performs the handshake within its calls of [`read`](Transport::read). Nobody writes
//! meanwhile, because a server sends nothing before the first call. The handshake has a time limit
//! of its own, because to the reader it looks like silence.
//!
//! # Who may call what
//!
//! | method | threads | waits for the peer |
//! |---|---|---|
//! | [`read`](Transport::read) | one at a time | up to its timeout |
//! | [`peek`](Transport::peek) | any | never |
//! | [`try_write`](Transport::try_write) | one writer at a time | never |
//! | [`write_all`](Transport::write_all) | one writer at a time | up to its timeout, each part |
//! | [`shutdown`](Transport::shutdown) | any | never |
//! | [`set_reset_on_close`](Transport::set_reset_on_close) | any | never |
//! | [`discard_received`](Transport::discard_received) | any, once the connection is over | never |
//! | [`wait_until_acknowledged`](Transport::wait_until_acknowledged) | any | up to its deadline |
//!
//! A reader and a writer work at the same time and never wait for each other. The outbox sees to it
//! that there is one writer: either a thread that holds the outbox's lock, or the outbox's own
//! thread, while all others queue behind it.
//!
//! # What each side promises
//!
//! - Reading. A `read` makes one blocking system call at most, so its caller can check its
//!   deadlines between reads. It may receive bytes and still have none for its caller: a part of a
//!   record, a session ticket, an answer in a handshake. It then returns [`Received::ReadAgain`],
//!   and the caller reads again. Bytes that a `read` has decrypted and not given out come first in
//!   the next one, and `peek` reports them.
//! - Writing. *Bytes that were not accepted must be offered again before any others*, unless the
//!   connection is cut. A part of them may have left: a record of which the socket accepted half is
//!   kept by the transport, and its bytes count as not accepted until the other half has left. So
//!   accepted bytes never need a flush: what the encryption still holds counts as not accepted, and
//!   the outbox offers it again.
//! - The protocol's own messages (handshake, key updates, alerts). `read` and `shutdown` send them.
//!   Only a handshake may wait for the peer to accept them, up to the write timeout. Any other
//!   message leaves at once or ahead of the next write.
//! - Ending. `shutdown(Write)` and `shutdown(Both)` announce the end of the stream behind
//!   everything that was accepted (for TLS, a `close_notify` comes before TCP's end).
//!   `shutdown(Read)` tells the peer nothing.
//!
//! # Invariants
//!
//! - A plain transport costs one system call for each call of a method, and no lock and no
//!   allocation. (`read` makes a second one when the timeout differs from the last one.)
//! - A lock inside the transport is the innermost of all: it is held to encrypt and decrypt, and
//!   never by a reader while it waits for the socket.
//!
//! # Left out
//!
//! Vectored writes. The outbox gathers short frames in one buffer, and a long frame is one buffer
//! already.

mod acknowledged;

use std::io::{self, ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

/// A peer whose machine vanished is noticed after about `KEEPALIVE_IDLE + 3 * KEEPALIVE_INTERVAL`
/// of silence.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How many times [`Transport::discard_received`] reads. A peer that still sends then is reset.
const DISCARDING_READS_MAX: usize = 256;
const DISCARDED_LEN_BYTES: usize = 4096;

#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
// Apple has no such flag for `send`; `std` sets SO_NOSIGPIPE on every socket there.
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT;

/// The answer to a TLS hello on a port without TLS: a fatal "handshake_failure" alert (RFC 8446
/// §6), in the record version that every TLS client reads.
pub(crate) const TLS_REFUSAL: &[u8] = &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28];

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// This many bytes, at least one.
    Bytes(usize),
    /// Nothing, within the timeout.
    TimedOut,
    /// Nothing for the caller yet: a signal came, or bytes of the transport's own. Read again.
    ReadAgain,
    /// The peer has ended its stream, or this side has shut it down.
    End,
}

/// What a read would find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peeked {
    /// Nothing yet.
    Nothing,
    /// Something: bytes for the caller, or bytes of the transport's own. Only a read tells.
    Bytes,
    /// The end of the stream, or a broken connection.
    End,
}

/// A connection: see the module's page.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: TcpStream,
    /// The socket's read timeout in nanoseconds; 0: none. Only the thread that reads uses it.
    read_timeout_ns: AtomicU64,
}

impl Transport {
    /// Connects to `addr` within `timeout`.
    pub(crate) fn connect(
        addr: &SocketAddr,
        timeout: Duration,
        write_timeout: Duration,
    ) -> io::Result<Transport> {
        let socket = TcpStream::connect_timeout(addr, timeout)?;
        // If nobody listens on a port, the system may pick it for our own end, and TCP connects the
        // socket to itself. (A socket that was reset meanwhile has no peer; reading it says so.)
        if socket.peer_addr().is_ok_and(|peer| socket.local_addr().is_ok_and(|own| own == peer)) {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        Transport::with_options(socket, write_timeout)
    }

    /// A connection that a server has accepted.
    pub(crate) fn accepted(socket: TcpStream, write_timeout: Duration) -> io::Result<Transport> {
        Transport::with_options(socket, write_timeout)
    }

    /// Small frames leave at once, and a peer whose machine vanished is noticed.
    fn with_options(socket: TcpStream, write_timeout: Duration) -> io::Result<Transport> {
        socket.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(3);
        SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
        socket.set_write_timeout(Some(write_timeout))?;
        Ok(Transport { socket, read_timeout_ns: AtomicU64::new(0) })
    }

    /// Reads once to `space`. Without a timeout it waits as long as it takes.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    #[inline]
    pub(crate) fn read(&self, space: &mut [u8], timeout: Option<Duration>) -> io::Result<Received> {
        self.set_read_timeout(timeout)?;
        match (&self.socket).read(space) {
            Ok(0) => Ok(Received::End),
            Ok(count) => Ok(Received::Bytes(count)),
            // Without a timeout, it is TCP that has given up.
            Err(error) if is_timeout(&error) && timeout.is_some() => Ok(Received::TimedOut),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Received::ReadAgain),
            Err(error) => Err(error),
        }
    }

    #[inline]
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout_ns = timeout.map_or(0, |timeout| {
            // The system refuses a timeout of 0. It must not pass for none here.
            u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX).max(1)
        });
        if self.read_timeout_ns.load(Ordering::Relaxed) != timeout_ns {
            self.socket.set_read_timeout(timeout)?;
            self.read_timeout_ns.store(timeout_ns, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What a read would find now. Takes nothing off the stream.
    pub(crate) fn peek(&self) -> Peeked {
        let mut byte = [MaybeUninit::uninit()];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        match SockRef::from(&self.socket).recv_with_flags(&mut byte, flags) {
            Ok(0) => Peeked::End,
            Ok(_) => Peeked::Bytes,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Peeked::Nothing,
                _ => Peeked::End,
            },
        }
    }

    /// Sends what can leave now, though the socket is a blocking one. Returns how many bytes were
    /// accepted, perhaps none. The rest must be offered again before any other bytes.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    #[inline]
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match SockRef::from(&self.socket).send_with_flags(bytes, SEND_FLAGS) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                result => return result,
            }
        }
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`]: the peer accepted nothing for the write timeout. Any other: the
    /// connection is broken.
    pub(crate) fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&self.socket).write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Err(ErrorKind::TimedOut.into()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends one direction, or both. Threads that wait in `read` (for `Read` and `Both`) or in
    /// `write_all` (for `Write` and `Both`) wake up. Does nothing if the peer was faster.
    pub(crate) fn shutdown(&self, directions: Shutdown) {
        // An error says that the connection is gone; then everyone wakes up as well.
        let _ = self.socket.shutdown(directions);
    }

    /// Whether closing resets the connection at once. Otherwise the system first sends what it has
    /// accepted, and closes in order; that is how a connection begins. Holds also when the process
    /// is killed. Returns whether the system agrees.
    pub(crate) fn set_reset_on_close(&self, resets: bool) -> bool {
        SockRef::from(&self.socket).set_linger(resets.then_some(Duration::ZERO)).is_ok()
    }

    /// Throws away what has been received, because closing with bytes unread would reset. Call it
    /// when the connection is over and nobody reads.
    pub(crate) fn discard_received(&self) {
        let mut sink = [MaybeUninit::uninit(); DISCARDED_LEN_BYTES];
        for _ in 0..DISCARDING_READS_MAX {
            let socket = SockRef::from(&self.socket);
            if !matches!(socket.recv_with_flags(&mut sink, libc::MSG_DONTWAIT), Ok(1..)) {
                return;
            }
        }
    }

    /// Waits until the peer's TCP has everything that was sent, or `deadline`. Returns true also if
    /// the peer is gone, and false where the system does not say.
    pub(crate) fn wait_until_acknowledged(&self, deadline: Instant) -> bool {
        acknowledged::wait(&self.socket, deadline)
    }
}

/// To wait for several connections at once. Bytes that a read has left are not seen: `peek` first.
impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    fn pair(write_timeout: Duration) -> (Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let transport = Transport::connect(&addr, LONG, write_timeout).unwrap();
        (transport, listener.accept().unwrap().0)
    }

    #[test]
    fn a_read_says_what_it_brought() {
        let (transport, mut peer) = pair(LONG);
        let mut space = [0; 8];
        assert_eq!(transport.peek(), Peeked::Nothing);
        assert_eq!(transport.read(&mut space, Some(SOON)).unwrap(), Received::TimedOut);
        peer.write_all(b"three").unwrap();
        assert_eq!(transport.read(&mut space, None).unwrap(), Received::Bytes(5));
        assert_eq!(&space[..5], b"three");
        drop(peer);
        assert_eq!(transport.read(&mut space, Some(LONG)).unwrap(), Received::End);
        assert_eq!(transport.peek(), Peeked::End);
    }

    #[test]
    fn the_timeout_is_that_of_the_last_read() {
        let (transport, mut peer) = pair(LONG);
        let mut space = [0; 8];
        assert_eq!(transport.read(&mut space, Some(SOON)).unwrap(), Received::TimedOut);
        let writer = thread::spawn(move || {
            thread::sleep(5 * SOON);
            peer.write_all(b"late").unwrap();
            peer
        });
        // With the first read's timeout, it would end too early.
        assert_eq!(transport.read(&mut space, None).unwrap(), Received::Bytes(4));
        writer.join().unwrap();
    }

    #[test]
    fn peeking_takes_nothing() {
        let (transport, mut peer) = pair(LONG);
        peer.write_all(b"x").unwrap();
        while transport.peek() == Peeked::Nothing {}
        assert_eq!(transport.peek(), Peeked::Bytes);
        assert_eq!(transport.read(&mut [0; 8], Some(LONG)).unwrap(), Received::Bytes(1));
    }

    #[test]
    fn a_peer_that_does_not_read_stops_no_thread() {
        let (transport, peer) = pair(SOON);
        let bytes = [0; 1 << 16];
        while transport.try_write(&bytes).unwrap() > 0 {}
        let error = transport.write_all(&[0; 1 << 22]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(peer);
    }

    #[test]
    fn a_shutdown_wakes_the_thread_that_reads() {
        for directions in [Shutdown::Read, Shutdown::Both] {
            let (transport, _peer) = pair(LONG);
            thread::scope(|scope| {
                let reader = scope.spawn(|| transport.read(&mut [0; 8], None).unwrap());
                transport.shutdown(directions);
                assert_eq!(reader.join().unwrap(), Received::End);
            });
        }
    }
}
