//! The system gives a server no thread, or no descriptor, while its clients have calls open. Only
//! the new connection is lost, and the server accepts again as soon as the system has room.
//!
//! The limits apply to a whole process, so each test runs in a process of its own. It is not root,
//! because no limit on threads applies to root.

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};
use syncraft::rpc::{Limits, Server, StatusCode};

use crate::alone::{alone_in, is_alone};
use crate::program::copy_program;
use crate::raw::*;
use crate::support::*;

/// Clients that have a call open all the time.
const BUSY: usize = 40;

/// A user id that nothing else uses, not even another test: the limit on threads counts all
/// processes of a user.
fn user() -> u32 {
    static USERS: AtomicU32 = AtomicU32::new(0);
    let number = USERS.fetch_add(1, Ordering::SeqCst);
    20_000 + (10 * std::process::id() + number) % 40_000
}

/// Runs the body of a test in a process of its own, as a user of its own.
fn alone<F: FnOnce()>(body: F) {
    // Where that user can run it.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let program = || {
        let program = dir.path().join("test");
        copy_program(std::env::current_exe().unwrap(), &program);
        let mut command = Command::new(program);
        command.current_dir("/");
        if rustix::process::getuid().is_root() {
            let user = user();
            command.uid(user).gid(user);
        }
        command
    };
    alone_in(program, body);
}

/// Lowers a soft limit until it is dropped.
struct Lowered(Resource, Rlimit);

impl Lowered {
    fn to(resource: Resource, limit: u64) -> Lowered {
        let before = getrlimit(resource);
        setrlimit(resource, Rlimit { current: Some(limit), ..before }).unwrap();
        Lowered(resource, before)
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        setrlimit(self.0, self.1).unwrap();
    }
}

/// How many log lines said that a connection could not be accepted.
static NOT_ACCEPTED: AtomicUsize = AtomicUsize::new(0);

struct Counter;

impl log::Log for Counter {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        eprintln!("{line}");
        if line.contains("cannot accept") {
            NOT_ACCEPTED.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn flush(&self) {}
}

/// A server with a reserved service, and clients that have calls open.
struct Scene {
    server: Server,
    service: Arc<TestService>,
    busy: Vec<Raw>,
}

impl Scene {
    fn set() -> Scene {
        log::set_logger(&Counter).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
        let (server, service) =
            serve_with(|builder| builder.reserved_service(PeerRpc).limits(Limits::default()));
        let ask = |_| {
            let mut raw = Raw::connect(server.local_addr());
            raw.send(&request("Hold", 1, "x"));
            raw
        };
        let busy = (0..BUSY).map(ask).collect();
        service.wait_held(BUSY);
        Scene { server, service, busy }
    }

    /// New connections are served, of peers and of others, and nobody has lost a call.
    fn check(mut self) {
        let mut newcomers = Vec::new();
        for _ in 0..BUSY / 2 {
            newcomers.extend([(); 2].map(|()| Raw::connect(self.server.local_addr())));
            let [.., peer, client] = &mut newcomers[..] else { unreachable!("there are two") };
            peer_is_served(peer);
            client_is_served(client);
        }
        for (args, call) in self.service.take_held() {
            call.typed().run(args);
        }
        for raw in &mut self.busy {
            raw.expect_echo(1, "x");
        }
    }
}

fn client_is_served(raw: &mut Raw) {
    raw.send(&request("Echo", 1, "x"));
    raw.expect_echo(1, "x");
}

#[test]
fn a_thread_that_the_system_refuses_costs_one_connection() {
    alone(|| {
        let scene = Scene::set();
        // The user already has more threads than that.
        let lowered = Lowered::to(Resource::Nproc, 1);
        for _ in 0..5 {
            // An existing client would take the end of the stream for a reply.
            Raw::connect(scene.server.local_addr()).expect_reset();
        }
        drop(lowered);
        scene.check();
    });
}

#[test]
fn a_descriptor_that_the_system_refuses_makes_clients_wait_that_have_just_come() {
    alone(|| {
        let scene = Scene::set();
        let addr = scene.server.local_addr();
        let sockets = [(); 3].map(|()| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
        let connect = |raw: &Raw| {
            SockRef::from(&raw.0).connect(&addr.into()).unwrap();
            raw.0.set_read_timeout(Some(LONG)).unwrap();
        };
        let mut idle = Raw::connect(addr);
        client_is_served(&mut idle);
        // All lower descriptors are in use. The server that waits for a connection may hold one of
        // them.
        let next = File::open("/").unwrap().as_raw_fd();
        let lowered = Lowered::to(Resource::Nofile, next as u64);
        let [mut peer, mut busy, mut last] = sockets.map(|socket| Raw(socket.into()));
        connect(&peer);
        peer_is_served(&mut peer);
        // Idle clients make room, and are told so.
        idle.expect_status(0, StatusCode::Closing);
        // No other client is idle, so there is room for at most one of these.
        for raw in [&mut busy, &mut last] {
            connect(raw);
            raw.send(&request("Hold", 1, "x"));
        }
        let so_far = NOT_ACCEPTED.load(Ordering::SeqCst);
        wait_until("the system refuses many times", || {
            NOT_ACCEPTED.load(Ordering::SeqCst) >= so_far + 5
        });
        drop(lowered);
        scene.service.wait_held(BUSY + 2);
        peer_is_served(&mut peer);
        scene.check();
        busy.expect_echo(1, "x");
        last.expect_echo(1, "x");
    });
}

/// When an idle connection ends, its thread becomes free, so the next connection is not dropped.
#[test]
fn a_connection_that_finds_no_thread_takes_the_place_of_an_idle_one() {
    if !rustix::process::getuid().is_root() && !is_alone() {
        eprintln!("not root: not tested, as the threads of this user's other programs count");
        return;
    }
    alone(|| {
        let scene = Scene::set();
        let mut idle = Raw::connect(scene.server.local_addr());
        wait_until("it is there", || scene.server.connections() == BUSY + 1);
        let threads = fs::read_dir("/proc/self/task").unwrap().count();
        let lowered = Lowered::to(Resource::Nproc, threads as u64);
        let mut peer = Raw::connect(scene.server.local_addr());
        peer_is_served(&mut peer);
        idle.expect_reset();
        drop(lowered);
        scene.check();
    });
}

/// A log that holds back its first line about a refused connection until it is released.
struct Blocking {
    state: Mutex<Line>,
    changed: Condvar,
}

#[derive(PartialEq)]
enum Line {
    ToCome,
    Held,
    Released,
}

impl Blocking {
    fn set() -> &'static Blocking {
        static LOG: Blocking =
            Blocking { state: Mutex::new(Line::ToCome), changed: Condvar::new() };
        log::set_logger(&LOG).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
        &LOG
    }

    fn holds_a_line(&self) -> bool {
        *self.state.lock() == Line::Held
    }

    fn release(&self) {
        *self.state.lock() = Line::Released;
        self.changed.notify_all();
    }
}

impl log::Log for Blocking {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut state = self.state.lock();
        if *state == Line::ToCome && record.args().to_string().contains("refused") {
            *state = Line::Held;
            // Longer than any wait of a test, so that a failing test ends too.
            while *state == Line::Held && !self.changed.wait_for(&mut state, 2 * LONG).timed_out() {
            }
        }
    }

    fn flush(&self) {}
}

/// A server with one place for clients, the client that has it, and the server's log.
fn serve_one() -> (Arc<Server>, Raw, &'static Blocking) {
    let log = Blocking::set();
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let (server, _) = serve_with(|builder| builder.reserved_service(PeerRpc).limits(limits));
    let mut client = Raw::connect(server.local_addr());
    client_is_served(&mut client);
    (Arc::new(server), client, log)
}

#[test]
fn a_log_that_blocks_the_thread_that_accepts_keeps_no_connection_from_ending() {
    alone(|| {
        let (server, client, log) = serve_one();
        // The last one displaces the first one.
        let _silent: Vec<Raw> = (0..81).map(|_| Raw::connect(server.local_addr())).collect();
        wait_until("a line is held", || log.holds_a_line());
        let counted = Arc::clone(&server);
        in_time(move || {
            let before = counted.connections();
            drop(client);
            wait_until("it has ended", || counted.connections() < before);
        });
        log.release();
    });
}

#[test]
fn a_log_that_blocks_one_connection_keeps_nobody_out() {
    alone(|| {
        let (server, _client, log) = serve_one();
        let mut refused = Raw::connect(server.local_addr());
        refused.send(&request("Echo", 1, "x"));
        wait_until("a line is held", || log.holds_a_line());
        // Connections that make room for each other. The refused one comes first.
        let _silent: Vec<Raw> = (0..90).map(|_| Raw::connect(server.local_addr())).collect();
        peer_is_served(&mut Raw::connect(server.local_addr()));
        log.release();
        refused.expect_status(0, StatusCode::Busy);
    });
}
