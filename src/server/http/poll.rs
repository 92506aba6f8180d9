//! The thread. It waits for all connections at once, so that no client waits for another.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::exchange::{Exchange, Request};

/// The most connections. For one more, a connection that has been answered is closed, or else the
/// one that has been silent for longest.
const CONNECTIONS_MAX: usize = 64;

/// The pause after accept has failed, for example because no descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest wait. The thread is woken when it should stop; if that fails, it looks this often.
const POLL_MAX: Duration = Duration::from_secs(1);

/// Serves until it is stopped. `listener` is non-blocking.
pub(super) fn run(
    listener: &TcpListener,
    is_stopped: &AtomicBool,
    answer: impl Fn(Option<Request>) -> Vec<u8>,
) {
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut accept_from = Instant::now();
    loop {
        let now = Instant::now();
        let accepts = accept_from <= now;
        let wait = exchanges.iter().map(|it| it.deadline().saturating_duration_since(now)).min();
        let longest = if accepts { POLL_MAX } else { ACCEPT_PAUSE };
        let wait = wait.unwrap_or(longest).min(longest);
        let ready = match wait_for(listener, accepts, &exchanges, wait) {
            Ok(ready) => ready,
            Err(error) => {
                log::warn!("http: cannot wait for connections: {error}");
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        if is_stopped.load(Ordering::Acquire) {
            return;
        }
        let mut ready = ready.into_iter();
        let is_called = ready.next().unwrap_or(false);
        let now = Instant::now();
        exchanges.retain_mut(|it| {
            let is_ready = ready.next().unwrap_or(false);
            it.deadline() > now && (!is_ready || go_on(it, &answer))
        });
        if accepts && is_called && !accept(listener, &mut exchanges, &answer) {
            accept_from = Instant::now() + ACCEPT_PAUSE;
        }
    }
}

/// Waits. Returns whether the listener, and then each connection, has something to do.
fn wait_for(
    listener: &TcpListener,
    accepts: bool,
    exchanges: &[Exchange],
    wait: Duration,
) -> io::Result<Vec<bool>> {
    let of_listener = if accepts { PollFlags::IN } else { PollFlags::empty() };
    let mut fds = vec![PollFd::new(listener, of_listener)];
    fds.extend(exchanges.iter().map(|it| PollFd::new(it.stream(), it.flags())));
    let wait = Timespec::try_from(wait).expect("it is at most a second");
    match poll(&mut fds, Some(&wait)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
}

/// Goes on with a connection. Returns whether there is more to do later.
fn go_on(exchange: &mut Exchange, answer: &impl Fn(Option<Request>) -> Vec<u8>) -> bool {
    exchange.go_on(answer).unwrap_or_else(|error| {
        log::debug!("an http request failed: {error}");
        false
    })
}

/// Accepts the connections that wait. Returns false if the system has no resources for more.
fn accept(
    listener: &TcpListener,
    exchanges: &mut Vec<Exchange>,
    answer: &impl Fn(Option<Request>) -> Vec<u8>,
) -> bool {
    for _ in 0..CONNECTIONS_MAX {
        match listener.accept().and_then(|(stream, _)| Exchange::new(stream)) {
            Ok(mut exchange) => {
                if go_on(&mut exchange, answer) {
                    if exchanges.len() == CONNECTIONS_MAX {
                        end_one(exchanges);
                    }
                    exchanges.push(exchange);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(error) if is_of_the_listener(&error) => {
                log::debug!("http: cannot accept: {error}");
                end_one(exchanges);
                return false;
            }
            Err(error) => log::debug!("an http connection failed: {error}"),
        }
    }
    true
}

/// Closes the connection that is worth least, and among equals the one with the least time left.
fn end_one(exchanges: &mut Vec<Exchange>) {
    let of_least_worth =
        (0..exchanges.len()).min_by_key(|&at| (exchanges[at].worth(), exchanges[at].deadline()));
    of_least_worth.map(|at| exchanges.swap_remove(at));
}

/// Whether accept itself failed, so that it would fail again at once.
fn is_of_the_listener(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
