//! What both sides do with a socket beyond what `std` offers.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Stack of every thread of this module but the handlers: inline services and completions run on
/// some of them, deep recursion does not.
const THREAD_STACK_BYTES: usize = 256 * 1024;

/// A hundred years.
const TIME_WITHOUT_END: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

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
