//! A service to call, and sockets that speak for themselves.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program includes it, and uses a part of it"
)]

pub mod peers;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use prost::Message;
use syncraft::rpc::{
    Call, Channel, ChannelBuilder, Limits, Method, MethodReport, Server, ServerBuilder, Service,
    Status, StatusCode,
};

/// Longer than any test may take: a wait that lasts this long has failed.
pub const LONG: Duration = Duration::from_secs(20);

pub fn soon() -> Instant {
    Instant::now() + LONG
}

/// The one message of the test service, both ways.
#[derive(Clone, PartialEq, Message)]
pub struct Echo {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

pub fn echo(data: impl Into<Bytes>) -> Echo {
    Echo { data: data.into() }
}

/// A service of which each method does one thing that a service can do.
#[derive(Default)]
pub struct TestService {
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

pub const ECHO: usize = 0;
const METHODS: [&str; 8] = ["Echo", "Hold", "Drop", "Panic", "Fail", "Big", "Block", "Caller"];

impl TestService {
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Waits until `count` calls of `Hold` are there.
    pub fn wait_held(&self, count: usize) {
        let mut state = self.state.lock();
        while state.held.len() < count {
            assert!(
                !self.changed.wait_for(&mut state, LONG).timed_out(),
                "{} held",
                state.held.len()
            );
        }
    }

    /// The calls of `Hold`, in the order in which they came.
    pub fn take_held(&self) -> Vec<(Echo, Call)> {
        std::mem::take(&mut self.state.lock().held)
    }

    /// Waits until a call of `Block` runs.
    pub fn wait_running(&self) {
        self.wait_blocked(1);
    }

    /// Waits until `count` calls of `Block` have begun.
    pub fn wait_blocked(&self, count: usize) {
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
    pub fn blocked(&self) -> usize {
        self.state.lock().running
    }

    /// Lets the calls of `Block` end.
    pub fn release(&self) {
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
pub struct Published(pub Arc<TestService>);

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

/// What members say to each other, here: an echo.
pub struct PeerRpc;

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

pub fn serve(limits: Limits) -> (Server, Arc<TestService>) {
    serve_with(|builder| builder.limits(limits))
}

/// A server of one test service, with such settings.
pub fn serve_with(
    settings: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> (Server, Arc<TestService>) {
    let service = Arc::new(TestService::default());
    let builder = Server::builder().service(Published(service.clone())).bind("127.0.0.1:0");
    (settings(builder).build().unwrap().start(), service)
}

/// What a method of the test service has done.
pub fn report(server: &Server, method: &'static str) -> MethodReport {
    server.stats().methods.remove(&("testRpc", method)).unwrap()
}

/// Waits until so many calls wait for a handler.
pub fn wait_queued(server: &Server, calls: usize) {
    wait_until("calls wait for a handler", || server.stats().queue_len == calls);
}

pub fn channel(addr: SocketAddr) -> ChannelBuilder {
    Channel::builder(addr.to_string())
}

pub fn call(
    channel: &Channel,
    method: &'static str,
    data: impl Into<Bytes>,
) -> Result<Bytes, syncraft::rpc::CallError> {
    channel
        .call::<_, Echo>(&Method::new("testRpc", method), &echo(data), soon())
        .map(|echo| echo.data)
}

/// The head of a call, as a client of any generation could send it.
#[derive(Clone, PartialEq, Message)]
pub struct Head {
    #[prost(bytes = "bytes", tag = "1")]
    pub service: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub method: Bytes,
    #[prost(uint32, tag = "3")]
    pub args_size: u32,
    #[prost(uint64, tag = "4")]
    pub call_id: u64,
    #[prost(uint32, tag = "5")]
    pub deadline_ms: u32,
    #[prost(uint32, tag = "6")]
    pub codec: u32,
}

/// The head of an extended reply.
#[derive(Clone, PartialEq, Message)]
pub struct ReplyHead {
    #[prost(uint64, tag = "1")]
    pub call_id: u64,
    #[prost(uint32, tag = "2")]
    pub status: u32,
    #[prost(string, tag = "3")]
    pub message: String,
    #[prost(uint32, tag = "4")]
    pub reply_size: u32,
    #[prost(uint32, tag = "5")]
    pub retry_after_ms: u32,
}

pub fn head(method: &'static str, call_id: u64, args_size: usize) -> Head {
    Head {
        service: "testRpc".into(),
        method: method.into(),
        args_size: args_size as u32,
        call_id,
        deadline_ms: 0,
        codec: 0,
    }
}

/// `head_size | head | body`.
pub fn frame(head: &impl Message, body: &[u8]) -> Vec<u8> {
    let head = head.encode_to_vec();
    [&(head.len() as u32).to_le_bytes(), &head[..], body].concat()
}

/// The whole frame of an `Echo`-taking call; `call_id` 0: a documented one.
pub fn request(method: &'static str, call_id: u64, data: &str) -> Vec<u8> {
    let args = echo(data.to_owned()).encode_to_vec();
    frame(&head(method, call_id, args.len()), &args)
}

/// A socket that is given bytes.
pub struct Raw(pub TcpStream);

impl Raw {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Raw(stream)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The bare reply to a documented call that echoes `data`.
    pub fn expect_bare(&mut self, data: &str) {
        let expected = echo(data.to_owned()).encode_to_vec();
        assert_eq!(self.read(expected.len()), expected);
    }

    /// The next extended reply.
    pub fn reply(&mut self) -> (ReplyHead, Bytes) {
        let head_len = u32::from_le_bytes(self.read(4).try_into().unwrap());
        assert!(head_len <= 1024, "a reply head of {head_len} bytes");
        let head = ReplyHead::decode(&self.read(head_len as usize)[..]).unwrap();
        let body = self.read(head.reply_size as usize);
        (head, body.into())
    }

    /// The next extended reply is an error.
    pub fn expect_status(&mut self, call_id: u64, code: StatusCode) -> String {
        let (head, body) = self.reply();
        assert_eq!(
            (head.call_id, head.status, body.len()),
            (call_id, code.number(), 0),
            "{}",
            head.message
        );
        head.message
    }

    /// The next extended reply echoes `data`.
    pub fn expect_echo(&mut self, call_id: u64, data: &str) {
        let (head, body) = self.reply();
        assert_eq!((head.call_id, head.status), (call_id, 0), "{}", head.message);
        assert_eq!(Echo::decode(body).unwrap(), echo(data.to_owned()));
    }

    /// What the server still sends until it closes the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the server did not close the connection: {error}"),
        }
        rest
    }

    pub fn expect_closed(&mut self) {
        assert_eq!(self.rest(), b"", "bytes before the end");
    }

    /// The server resets the connection, and has sent nothing before. Existing clients take
    /// anything else for a reply.
    pub fn expect_reset(&mut self) {
        match self.0.read(&mut [0; 64]) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("no reset: {other:?}"),
        }
    }

    /// The end of the stream, and nothing before.
    pub fn expect_end(&mut self) {
        assert_eq!(self.0.read(&mut [0; 64]).unwrap(), 0, "bytes before the end");
    }

    /// Nothing comes for so long, and the connection stays.
    pub fn expect_silence(&mut self, time: Duration) {
        self.0.set_read_timeout(Some(time)).unwrap();
        let error = self.0.read(&mut [0]).map(drop).expect_err("bytes, or the end");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        self.0.set_read_timeout(Some(LONG)).unwrap();
    }

    /// Closes it so that the server sees a reset, as from a process that is gone.
    pub fn reset(self) {
        socket2::SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

pub fn peer_request(data: &str) -> Vec<u8> {
    let args = echo(data.to_owned()).encode_to_vec();
    frame(&Head { service: "peerRpc".into(), ..head("Echo", 1, args.len()) }, &args)
}

pub fn peer_is_served(peer: &mut Raw) {
    peer.send(&peer_request("beat"));
    peer.expect_echo(1, "beat");
}

/// Waits for what other threads bring about.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = soon();
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        // So that what is waited for has the processor.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `run` on another thread and fails when it takes longer than `LONG`.
pub fn in_time<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (tx, rx) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = tx.send(run());
    });
    let value = rx.recv_timeout(LONG).expect("took too long, or panicked");
    thread.join().unwrap();
    value
}
