//! [`Link`]: the proxy through which one member connects to another. It has the faults of the
//! network.
//!
//! Each ordered pair of members has a listener of its own, so that the proxy knows which member
//! connects. Each connection has two threads, one for each direction:
//!
//! ```text
//!   from ──> [listener] ── carry: read, hold until it is due and the way is open, write ──> to
//!        <──────────────── carry ──────────────────────────────────────────────────────────<──
//! ```
//!
//! Held chunks stay in order. While [`HELD_BYTES_MAX`] are held, no more is read, so the sender's
//! own socket fills up. While a way is cut, the other side sees nothing of it, not even that a
//! connection ends.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::faults::{Faults, Way};
use crate::raft::MemberId;

/// The most connections of a link: more than two members ever have.
const CONNECTIONS_MAX: usize = 64;
const CHUNK_LEN_MAX: usize = 32 << 10;
/// How many bytes of one direction of a connection may be held.
const HELD_BYTES_MAX: usize = 4 << 20;
/// On loopback, connecting takes microseconds, unless nobody listens.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause after accept has failed, for example because no descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Link {
    addr: SocketAddr,
    faults: Arc<Faults>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// A link from `from` to `to`, which listens on `target`.
    pub(super) fn new(
        from: MemberId,
        to: MemberId,
        target: SocketAddr,
        faults: Arc<Faults>,
    ) -> io::Result<Link> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let proxy = Proxy { from, to, target, faults: faults.clone() };
        let name = format!("link-{from}-{to}");
        let thread = thread::Builder::new().name(name).spawn(move || proxy.accept(&listener))?;
        Ok(Link { addr, faults, thread: Some(thread) })
    }

    /// The address at which `from` believes `to` to be.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.faults.end();
        // This wakes the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.addr, CONNECT_TIMEOUT);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[derive(Clone)]
struct Proxy {
    from: MemberId,
    to: MemberId,
    target: SocketAddr,
    faults: Arc<Faults>,
}

impl Proxy {
    /// Accepts until the cluster is dropped.
    fn accept(&self, listener: &TcpListener) {
        let mut connections: Vec<JoinHandle<()>> = Vec::new();
        while !self.faults.is_over() {
            let Ok((stream, _)) = listener.accept() else {
                self.faults.wait_until(Instant::now() + ACCEPT_PAUSE);
                continue;
            };
            connections.retain(|connection| !connection.is_finished());
            if connections.len() < CONNECTIONS_MAX {
                let (proxy, name) = (self.clone(), format!("link-{}-{}", self.from, self.to));
                let run = move || drop(proxy.connection(stream));
                connections.extend(thread::Builder::new().name(name).spawn(run));
            }
        }
        for connection in connections {
            let _ = connection.join();
        }
    }

    /// Serves a connection until either side closes it. Connecting needs both ways.
    fn connection(&self, near: TcpStream) -> io::Result<()> {
        let (there, back) = ((self.from, self.to), (self.to, self.from));
        if !self.faults.wait_open(&[there, back]) {
            return Ok(());
        }
        let far = TcpStream::connect_timeout(&self.target, CONNECT_TIMEOUT)?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let sockets = [near.try_clone()?, far.try_clone()?];
        let Some((number, is_dead)) = self.faults.register(there, sockets) else { return Ok(()) };
        let name = format!("link-{}-{}", self.to, self.from);
        thread::scope(|scope| {
            let backward = || self.carry(&far, &near, back, &is_dead);
            if thread::Builder::new().name(name).spawn_scoped(scope, backward).is_ok() {
                self.carry(&near, &far, there, &is_dead);
            }
            close(&near, &far);
        });
        self.faults.forget(number);
        Ok(())
    }

    /// Carries one direction. When one direction ends, so does the other.
    fn carry(&self, from: &TcpStream, to: &TcpStream, way: Way, is_dead: &AtomicBool) {
        let (faults, held) = (&self.faults, VecDeque::new());
        let mut stretch = Stretch { from, to, way, faults, is_dead, held };
        stretch.run();
        close(from, to);
    }
}

fn close(one: &TcpStream, other: &TcpStream) {
    let _ = (one.shutdown(Shutdown::Both), other.shutdown(Shutdown::Both));
}

/// One direction of a connection.
struct Stretch<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    way: Way,
    faults: &'a Faults,
    /// Whether to swallow what is read, and what is held.
    is_dead: &'a AtomicBool,
    /// The chunks on their way, and when each arrives.
    held: VecDeque<(Instant, Vec<u8>)>,
}

enum Arrived {
    Bytes(Vec<u8>),
    Nothing,
    End,
}

impl Stretch<'_> {
    /// Runs until the connection ends. The end takes as long to arrive as everything else.
    fn run(&mut self) {
        let mut buf = vec![0; CHUNK_LEN_MAX];
        loop {
            let due = self.held.front().map(|(due, _)| *due);
            if due.is_some_and(|due| due <= Instant::now() || self.is_full()) {
                if !self.pass_on() {
                    return;
                }
                continue;
            }
            match self.read(due, &mut buf) {
                Arrived::Nothing => {}
                Arrived::Bytes(bytes) => {
                    let Some(arrival) = self.faults.arrival() else { return };
                    let arrival = self.held.back().map_or(arrival, |(last, _)| arrival.max(*last));
                    self.held.push_back((arrival, bytes));
                }
                Arrived::End => {
                    while !self.held.is_empty() && self.pass_on() {}
                    self.faults.wait_open(&[self.way]);
                    return;
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.held.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() >= HELD_BYTES_MAX
    }

    /// Waits for bytes, until `due` at the latest.
    fn read(&self, due: Option<Instant>, buf: &mut [u8]) -> Arrived {
        // Not zero: the system would refuse it, or take it for "no limit".
        let left = |due: Instant| {
            due.saturating_duration_since(Instant::now()).max(Duration::from_micros(100))
        };
        let mut from = self.from;
        match from.set_read_timeout(due.map(left)).and_then(|()| from.read(buf)) {
            Ok(0) => Arrived::End,
            Ok(len) => Arrived::Bytes(buf[..len].to_vec()),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Arrived::Nothing,
                io::ErrorKind::Interrupted => Arrived::Nothing,
                _ => Arrived::End,
            },
        }
    }

    /// Writes the oldest chunk as soon as it is due and the way is open. Returns false if that
    /// fails.
    fn pass_on(&mut self) -> bool {
        let Some((due, bytes)) = self.held.pop_front() else { return true };
        let mut to = self.to;
        self.faults.wait_until(due)
            && self.faults.wait_open(&[self.way])
            && (self.is_dead.load(Ordering::Relaxed) || to.write_all(&bytes).is_ok())
    }
}
