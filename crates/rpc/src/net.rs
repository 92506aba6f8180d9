//! What both sides do with a socket beyond what `std` offers.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

/// Stack of every thread of this module but the handlers: inline services and completions run on
/// some of them, deep recursion does not.
const THREAD_STACK_BYTES: usize = 256 * 1024;

/// A peer whose machine vanished is noticed after about `KEEPALIVE_IDLE + 3 * KEEPALIVE_INTERVAL`
/// of silence.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A hundred years.
const TIME_WITHOUT_END: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
// Apple has no such flag for `send`; `std` sets SO_NOSIGPIPE on every socket there.
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT;

/// Resolves `HOST:PORT` to its addresses, as [`Channel`](crate::Channel) and
/// [`Server`](crate::Server) do.
///
/// Unlike `std`, it accepts the name of an interface as the zone of an IPv6 address:
/// `[fe80::1%eth0]:7001`.
///
/// # Errors
///
/// Those of [`ToSocketAddrs`]: the text is no `HOST:PORT`, or the name has no address.
pub fn resolve(addr: &str) -> io::Result<Vec<SocketAddr>> {
    let zoned = addr.rsplit_once(':').and_then(|(host, port)| {
        let host = host.strip_prefix('[')?.strip_suffix(']')?;
        host.contains('%').then_some((host, port.parse::<u16>().ok()?))
    });
    Ok(match zoned {
        Some(host_and_port) => host_and_port.to_socket_addrs()?.collect(),
        None => addr.to_socket_addrs()?.collect(),
    })
}

/// Small frames leave at once; a vanished peer is noticed.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Sends what the socket takes now, without waiting, though the socket is a blocking one: how many
/// bytes, perhaps none.
pub(super) fn send_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match SockRef::from(stream).send_with_flags(bytes, SEND_FLAGS) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            result => return result,
        }
    }
}

/// What a read would find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Nothing yet.
    Nothing,
    Bytes,
    /// The end of the stream, or that it broke.
    End,
}

/// What a read would find. Takes nothing off the stream.
pub(super) fn look(stream: &TcpStream) -> Waiting {
    let mut byte = [MaybeUninit::uninit()];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    match SockRef::from(stream).recv_with_flags(&mut byte, flags) {
        Ok(0) => Waiting::End,
        Ok(_) => Waiting::Bytes,
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Waiting::Nothing,
            _ => Waiting::End,
        },
    }
}

/// Whether a read or write ended because its timeout passed.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Starts a thread. Its name is cut to what the kernel shows (15 bytes), so it should say most at
/// its start.
pub(super) fn spawn(
    name: String,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let builder = thread::Builder::new().name(name).stack_size(THREAD_STACK_BYTES);
    builder.spawn(run).map_err(no_thread)
}

/// Starts a thread for methods that may need more stack: as much as the standard library gives.
pub(super) fn spawn_roomy(
    name: String,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(run).map_err(no_thread)
}

/// The system's own words, "resource temporarily unavailable", do not say which resource.
fn no_thread(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the system gives no thread: {error}"))
}

/// Joins, unless the thread is this one: whoever is asked by a thread to end it cannot wait for it.
pub(super) fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != thread::current().id() {
        // A panic has been reported by the thread itself; there is nothing left of it to clean up.
        let _ = thread.join();
    }
}

/// So long after `start`; far beyond any uptime where the clock has no such time.
pub(super) fn after(start: Instant, time: Duration) -> Instant {
    start.checked_add(time).unwrap_or_else(|| start + TIME_WITHOUT_END)
}

/// Time left until `deadline`, `None` when it has passed. Sockets refuse a timeout of zero.
pub(super) fn time_left(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}
