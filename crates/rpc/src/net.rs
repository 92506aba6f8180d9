//! Addresses, threads and deadlines, where `std` alone does not do.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The stack of every thread of this crate but the handlers. Inline services and completions run on
/// some of these threads, but no deep recursion.
const THREAD_STACK_BYTES: usize = 256 * 1024;

/// A hundred years.
const TIME_WITHOUT_END: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Resolves `HOST:PORT` to its addresses, as [`Channel`](crate::Channel) and
/// [`Server`](crate::Server) do.
///
/// Unlike `std`, this accepts the name of an interface as the zone of an IPv6 address:
/// `[fe80::1%eth0]:7001`.
///
/// # Errors
///
/// Those of [`ToSocketAddrs`]: the text is not a `HOST:PORT`, or the name has no address.
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

/// Starts a thread. The kernel shows 15 bytes of its name, so the important part comes first.
pub(super) fn spawn(
    name: String,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let builder = thread::Builder::new().name(name).stack_size(THREAD_STACK_BYTES);
    builder.spawn(run).map_err(no_thread)
}

/// Starts a thread for methods, which may need more stack: as much as the standard library gives.
pub(super) fn spawn_roomy(
    name: String,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(run).map_err(no_thread)
}

/// The system only says "resource temporarily unavailable", and not which resource.
fn no_thread(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the system gives no thread: {error}"))
}

/// Joins a thread, unless it is the calling one, which cannot wait for its own end.
pub(super) fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != thread::current().id() {
        // If it panicked, it has reported that itself, and nothing of it is left to clean up.
        let _ = thread.join();
    }
}

/// The time that is `time` after `start`. If the clock has no such time, one far beyond any uptime.
pub(super) fn after(start: Instant, time: Duration) -> Instant {
    start.checked_add(time).unwrap_or_else(|| start + TIME_WITHOUT_END)
}

/// A time that no deadline reaches.
pub(super) fn without_end() -> Instant {
    Instant::now() + TIME_WITHOUT_END
}

/// The time left until `deadline`; `None` if it has passed. Never zero, which sockets refuse as a
/// timeout.
pub(super) fn time_left(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}
