//! Many connections at once, and many one after another: all are served, and none leaves anything
//! behind. The test counts threads and descriptors, so it runs in a process of its own.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use syncraft::rpc::{Limits, Server};

use crate::alone::alone;
use crate::raw::*;
use crate::support::*;

/// Idle connections. Each takes two descriptors in this process: one for each end.
const IDLE: usize = 5000;

/// Connections that come and go.
const COMINGS: usize = 10_000;

/// How many of them at a time.
const CLIENTS: usize = 4;

/// Raises the limit on descriptors as far as the system allows.
fn raise_descriptors(needed: u64) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    assert!(allowed >= needed, "{allowed} descriptors, and the test needs {needed}");
}

fn count(dir: &str) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

fn names(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    // A thread that has ended since then has no name.
    entries.filter_map(|it| std::fs::read_to_string(it.ok()?.path().join("comm")).ok()).collect()
}

fn threads_and_descriptors() -> (usize, usize) {
    (count("/proc/self/task"), count("/proc/self/fd"))
}

/// One test, so that nothing else runs in the process while it counts.
#[test]
fn connections_are_held_and_forgotten() {
    alone(|| {
        raise_descriptors(2 * IDLE as u64 + 200);
        let limits = Limits { connections_max: IDLE + 1000, ..Limits::default() };
        let (server, _service) = serve(limits);
        // The first call starts threads that stay. Do not count them.
        let channel = channel(server.local_addr()).connect(soon()).unwrap();
        assert_eq!(call(&channel, "Echo", "first").unwrap(), "first");
        wait_until("the thread that connected is gone", || {
            !names("/proc/self/task").iter().any(|name| name.starts_with("rpc-chan"))
        });
        let before = threads_and_descriptors();

        let idle: Vec<TcpStream> =
            (0..IDLE).map(|_| TcpStream::connect(server.local_addr()).unwrap()).collect();
        wait_until("all are accepted", || server.connections() == IDLE + 1);
        assert!(count("/proc/self/task") >= before.0 + IDLE);
        for number in 0..1000 {
            let data = number.to_string();
            assert_eq!(call(&channel, "Echo", data.clone()).unwrap(), data);
        }
        // An idle connection may still call, and one more connection may come.
        let mut late = Raw(idle[IDLE / 2].try_clone().unwrap());
        late.send(&request("Echo", 1, "after all"));
        late.expect_echo(1, "after all");
        let mut new = Raw::connect(server.local_addr());
        new.send(&request("Echo", 0, "new"));
        new.expect_bare("new");
        assert_eq!(server.connections_refused(), 0);
        drop((idle, late, new));
        is_as_before("idle ones", &server, before);

        come_and_go(server.local_addr());
        assert_eq!(call(&channel, "Echo", "still here").unwrap(), "still here");
        is_as_before("those that came and went", &server, before);
        // The idle ones, the channel's, and the new one.
        assert_eq!(server.stats().connections_accepted, (IDLE + COMINGS + 2) as u64);
    });
}

/// The channel is there all the time.
fn is_as_before(who: &str, server: &Server, before: (usize, usize)) {
    wait_until(&format!("{who} are gone"), || {
        // Some threads are still ending when their connection is no longer counted.
        thread::sleep(Duration::from_millis(1));
        server.connections() == 1 && threads_and_descriptors() == before
    });
}

fn come_and_go(addr: SocketAddr) {
    let next = AtomicUsize::new(0);
    let visit_all = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= COMINGS {
                return;
            }
            visit(addr, number);
        }
    };
    thread::scope(|scope| (0..CLIENTS).for_each(|_| drop(scope.spawn(visit_all))));
}

/// Each connection ends as clients' connections do: after a call, in the middle of one, silently,
/// or with a reset.
fn visit(addr: SocketAddr, number: usize) {
    let mut raw = Raw::connect(addr);
    match number % 5 {
        0 => {
            raw.send(&request("Echo", 1, "x"));
            raw.expect_echo(1, "x");
        }
        1 => {
            raw.send(&request("Echo", 0, "x"));
            raw.0.shutdown(Shutdown::Write).unwrap();
            raw.expect_bare("x");
            raw.expect_closed();
        }
        2 => {
            let whole = request("Echo", number as u64, "half of it");
            raw.send(&whole[..1 + number / 5 % (whole.len() - 1)]);
        }
        3 => {}
        _ => {
            raw.send(&request("Echo", 1, "x"));
            if number.is_multiple_of(2) {
                raw.read(1);
            }
            // It ends with a reset at once instead of a FIN.
            SockRef::from(&raw.0).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}
