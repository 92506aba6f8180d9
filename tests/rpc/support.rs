//! The test service, and how to serve and call it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use prost::Message;
use syncraft::rpc::{
    Call, Channel, ChannelBuilder, Limits, Method, MethodReport, Server, ServerBuilder, Service,
    Status, StatusCode,
};

use crate::raw::{Echo, Head, LONG, Raw, echo, frame, head, soon};

/// A service whose methods each do one thing that a service can do.
#[derive(Default)]
pub(crate) struct TestService {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    calls: u64,
    held: Vec<(Echo, Call)>,
    running: usize,
    released: bool,
}

const METHODS: [&str; 8] = ["Echo", "Hold", "Drop", "Panic", "Fail", "Big", "Block", "Caller"];

impl TestService {
    pub(crate) fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Waits until `count` calls of `Hold` have arrived.
    pub(crate) fn wait_held(&self, count: usize) {
        let mut state = self.state.lock();
        while state.held.len() < count {
            assert!(
                !self.changed.wait_for(&mut state, LONG).timed_out(),
                "{} held",
                state.held.len()
            );
        }
    }

    /// The calls of `Hold`, in the order of their arrival.
    pub(crate) fn take_held(&self) -> Vec<(Echo, Call)> {
        std::mem::take(&mut self.state.lock().held)
    }

    /// Waits until a call of `Block` runs.
    pub(crate) fn wait_running(&self) {
        self.wait_blocked(1);
    }

    /// Waits until `count` calls of `Block` have begun.
    pub(crate) fn wait_blocked(&self, count: usize) {
        let mut state = self.state.lock();
        while state.running < count {
            assert!(
                !self.changed.wait_for(&mut state, LONG).timed_out(),
                "{} have begun",
                state.running
            );
        }
    }

    /// Calls of `Block` that have begun so far.
    pub(crate) fn blocked(&self) -> usize {
        self.state.lock().running
    }

    /// Lets the calls of `Block` end.
    pub(crate) fn release(&self) {
        self.state.lock().released = true;
        self.changed.notify_all();
    }

    fn block(&self) {
        let mut state = self.state.lock();
        state.running += 1;
        self.changed.notify_all();
        while !state.released {
            assert!(!self.changed.wait_for(&mut state, LONG).timed_out(), "never released");
        }
    }
}

/// Publishes a `TestService`.
pub(crate) struct Published(pub(crate) Arc<TestService>);

impl Service for Published {
    fn name(&self) -> &'static str {
        "testRpc"
    }

    fn methods(&self) -> &'static [&'static str] {
        &METHODS
    }

    fn call(&self, method: usize, args: Bytes, call: Call) {
        self.0.state.lock().calls += 1;
        match METHODS[method] {
            "Drop" => drop(call),
            "Panic" => panic!("on purpose"),
            "Fail" => call.fail(Status::new(StatusCode::Other(77), "failed on purpose")),
            "Caller" => {
                let caller = Bytes::copy_from_slice(call.caller());
                call.typed().run(echo(caller));
            }
            "Big" => {
                let Some((args, done)) = call.open::<Echo, Echo>(args) else { return };
                let len: usize = std::str::from_utf8(&args.data).unwrap().parse().unwrap();
                done.run(echo(vec![b'b'; len]));
            }
            "Block" => {
                self.0.block();
                call.typed().run(echo("unblocked"));
            }
            "Hold" => {
                let args = Echo::decode(args).unwrap();
                self.0.state.lock().held.push((args, call));
                self.0.changed.notify_all();
            }
            _ => {
                let Some((args, done)) = call.open::<Echo, Echo>(args) else { return };
                done.run(args);
            }
        }
    }
}

/// A service as members use it among themselves; here an echo.
pub(crate) struct PeerRpc;

impl Service for PeerRpc {
    fn name(&self) -> &'static str {
        "peerRpc"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Echo"]
    }

    fn call(&self, _: usize, args: Bytes, call: Call) {
        if let Some((args, done)) = call.open::<Echo, Echo>(args) {
            done.run(args);
        }
    }
}

pub(crate) fn serve(limits: Limits) -> (Server, Arc<TestService>) {
    serve_with(|builder| builder.limits(limits))
}

/// A server of one test service with these settings.
pub(crate) fn serve_with(
    settings: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> (Server, Arc<TestService>) {
    let service = Arc::new(TestService::default());
    let builder = Server::builder().service(Published(service.clone())).bind("127.0.0.1:0");
    (settings(builder).build().unwrap().start(), service)
}

/// The report of a method of the test service.
pub(crate) fn report(server: &Server, method: &'static str) -> MethodReport {
    server.stats().methods.remove(&("testRpc", method)).unwrap()
}

/// Waits until this many calls wait for a handler.
pub(crate) fn wait_queued(server: &Server, calls: usize) {
    wait_until("calls wait for a handler", || server.stats().queue_len == calls);
}

pub(crate) fn channel(addr: SocketAddr) -> ChannelBuilder {
    Channel::builder(addr.to_string())
}

pub(crate) fn call(
    channel: &Channel,
    method: &'static str,
    data: impl Into<Bytes>,
) -> Result<Bytes, syncraft::rpc::CallError> {
    channel
        .call::<_, Echo>(&Method::new("testRpc", method), &echo(data), soon())
        .map(|echo| echo.data)
}

pub(crate) fn peer_request(data: &str) -> Vec<u8> {
    let args = echo(data.to_owned()).encode_to_vec();
    frame(&Head { service: "peerRpc".into(), ..head("Echo", 1, args.len()) }, &args)
}

pub(crate) fn peer_is_served(peer: &mut Raw) {
    peer.send(&peer_request("beat"));
    peer.expect_echo(1, "beat");
}

/// The names of the RPC's threads in this process, on Linux. A test that asks for them runs alone.
pub(crate) fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // The first thread has the name of this program, which begins with "rpc-" as well.
    let others = tasks
        .map(|task| task.unwrap())
        .filter(|task| task.file_name().to_str() != Some(&std::process::id().to_string()));
    // A thread that has ended since then has no status.
    let stats = others.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let names = stats.filter_map(|stat| name_unless_exiting(&stat).map(str::to_owned));
    names.filter(|name| name.starts_with("rpc-")).collect()
}

/// The name of a thread, from its status: "ID (NAME) STATE", five numbers, its flags, and more. The
/// system still lists a thread for a moment when it has been joined: then it is exiting.
fn name_unless_exiting(stat: &str) -> Option<&str> {
    const PF_EXITING: u64 = 4;
    let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(") ").unwrap();
    let flags: u64 = rest.split(' ').nth(6).unwrap().parse().unwrap();
    (flags & PF_EXITING == 0).then_some(name)
}

/// Runs `run` on another thread and fails if it takes longer than `LONG`.
pub(crate) fn in_time<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (tx, rx) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = tx.send(run());
    });
    let value = rx.recv_timeout(LONG).expect("took too long, or panicked");
    thread.join().unwrap();
    value
}

/// Waits for something that other threads do.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = soon();
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        // Leaves the processor to them.
        std::thread::sleep(Duration::from_millis(1));
    }
}
