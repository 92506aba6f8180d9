//! What a channel can meet: servers that speak for themselves, networks that stop, servers with
//! handlers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use prost::Message;
use syncraft::rpc::{CallError, CallOptions, Channel, Limits, Method, Pending, Server, StatusCode};

use super::{Echo, Head, LONG, Raw, ReplyHead, TestService, echo, frame, serve, wait_until};

/// A deadline so many milliseconds from now.
pub fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

/// A method of the test service.
pub const fn method(name: &'static str) -> Method {
    Method::new("testRpc", name)
}

/// A call of the test service, made without waiting.
pub fn pending(
    channel: &Channel,
    name: &'static str,
    data: impl Into<Bytes>,
    deadline: Instant,
) -> Pending<Echo> {
    channel.call_async(&method(name), &CallOptions::default(), &echo(data), deadline)
}

/// A server as the tests have it otherwise: methods run inline.
pub fn serve_inline() -> (Server, Arc<TestService>) {
    serve(Limits::default())
}

/// A listener for a server that speaks for itself.
pub fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

impl Raw {
    /// The next connection to a server that speaks for itself.
    pub fn accept(listener: &TcpListener) -> Raw {
        listener.set_nonblocking(true).unwrap();
        let mut accepted = None;
        wait_until("a connection comes", || match listener.accept() {
            Ok((stream, _)) => {
                accepted = Some(stream);
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        });
        let stream = accepted.expect("it was waited for");
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Raw(stream)
    }

    /// The next call that a client makes.
    pub fn next_call(&mut self) -> (Head, Bytes) {
        let head_len = u32::from_le_bytes(self.read(4).try_into().unwrap());
        assert!(head_len <= 1024, "a head of {head_len} bytes");
        let head = Head::decode(&self.read(head_len as usize)[..]).unwrap();
        let args = self.read(head.args_size as usize);
        (head, args.into())
    }

    /// Answers a call with an echo.
    pub fn answer(&mut self, call_id: u64, data: &str) {
        self.send(&reply(call_id, data));
    }

    /// Answers a call, or with call id 0 ends the connection, with a status.
    pub fn refuse(&mut self, call_id: u64, code: StatusCode) {
        self.send(&refusal(call_id, code));
    }
}

/// The frame of a reply that echoes `data`.
pub fn reply(call_id: u64, data: &str) -> Vec<u8> {
    let body = echo(data.to_owned()).encode_to_vec();
    frame(&ReplyHead { call_id, reply_size: body.len() as u32, ..ReplyHead::default() }, &body)
}

/// The frame of a status.
pub fn refusal(call_id: u64, code: StatusCode) -> Vec<u8> {
    let message = "in so many words".to_owned();
    frame(&ReplyHead { call_id, status: code.number(), message, ..ReplyHead::default() }, b"")
}

pub fn is_lost(error: &CallError) -> bool {
    matches!(error, CallError::Lost { .. }) && error.may_have_run()
}

/// Takes connections and relays what comes over them, until it is told to stop, or to cut them.
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_frozen: bool,
    is_closed: bool,
    accepted: usize,
    streams: Vec<TcpStream>,
    /// What comes over the connections up to this one is swallowed.
    swallowed: usize,
    bytes_per_second: Option<u64>,
}

impl Relay {
    pub fn to(target: SocketAddr) -> Relay {
        let (listener, addr) = listen();
        let shared = Arc::new(Shared { target, state: Mutex::default(), changed: Condvar::new() });
        let acceptor = thread::spawn({
            let shared = shared.clone();
            move || shared.accept_all(&listener)
        });
        Relay { addr, shared, acceptor: Some(acceptor) }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Relays nothing from now on, and closes nothing.
    pub fn freeze(&self) {
        self.shared.state.lock().is_frozen = true;
    }

    /// Relays again, what was held up first.
    pub fn thaw(&self) {
        self.shared.state.lock().is_frozen = false;
        self.shared.changed.notify_all();
    }

    /// From now on nothing comes through the connections that there are, which stay open. New ones
    /// work.
    pub fn blackhole(&self) {
        let mut state = self.shared.state.lock();
        state.swallowed = state.accepted;
    }

    /// From now on each connection carries so many bytes a second, each way.
    pub fn slow_down(&self, bytes_per_second: u64) {
        self.shared.state.lock().bytes_per_second = Some(bytes_per_second);
    }

    /// Ends every connection.
    pub fn cut(&self) {
        let streams = std::mem::take(&mut self.shared.state.lock().streams);
        streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.shared.state.lock().accepted
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.state.lock().is_closed = true;
        self.shared.changed.notify_all();
        self.cut();
        let _ = TcpStream::connect(self.addr);
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        let mut pumps = Vec::new();
        for client in listener.incoming() {
            let client = client.unwrap();
            if self.state.lock().is_closed {
                break;
            }
            // Nobody there: the client sees its connection end.
            let Ok(server) = TcpStream::connect(self.target) else { continue };
            let mut state = self.state.lock();
            if state.is_closed {
                break;
            }
            state.accepted += 1;
            let number = state.accepted;
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                state.streams.push(from.try_clone().unwrap());
                let shared = Arc::clone(self);
                pumps.push(thread::spawn(move || shared.pump(number, from, to)));
            }
        }
        pumps.into_iter().for_each(|pump| pump.join().unwrap());
    }

    fn pump(&self, number: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut buf = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buf) {
            let mut state = self.state.lock();
            while state.is_frozen && !state.is_closed {
                self.changed.wait(&mut state);
            }
            let (is_swallowed, rate) = (number <= state.swallowed, state.bytes_per_second);
            drop(state);
            // A slow network is one that takes time.
            let took = rate.map(|rate| Duration::from_secs(1) * count as u32 / rate as u32);
            took.into_iter().for_each(thread::sleep);
            if !is_swallowed && to.write_all(&buf[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}
