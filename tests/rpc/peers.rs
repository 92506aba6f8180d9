//! The servers that a channel meets: real ones, and ones that send hand-made frames.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use syncraft::rpc::{CallError, CallOptions, Channel, Limits, Method, Pending, Server, StatusCode};

use crate::raw::{Echo, Head, LONG, Raw, ReplyHead, echo, frame};
use crate::support::{TestService, serve, wait_until};

/// A deadline this many milliseconds from now.
pub(crate) fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

/// A method of the test service.
pub(crate) const fn method(name: &'static str) -> Method {
    Method::new("testRpc", name)
}

/// Makes a call of the test service without waiting for it.
pub(crate) fn pending(
    channel: &Channel,
    name: &'static str,
    data: impl Into<Bytes>,
    deadline: Instant,
) -> Pending<Echo> {
    channel.call_async(&method(name), &CallOptions::default(), &echo(data), deadline)
}

/// A server that runs methods inline, the default of these tests.
pub(crate) fn serve_inline() -> (Server, Arc<TestService>) {
    serve(Limits::default())
}

/// A listener for a server that answers by hand.
pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

impl Raw {
    /// The next connection to a server that answers by hand.
    pub(crate) fn accept(listener: &TcpListener) -> Raw {
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
    pub(crate) fn next_call(&mut self) -> (Head, Bytes) {
        let head_len = u32::from_le_bytes(self.read(4).try_into().unwrap());
        assert!(head_len <= 1024, "a head of {head_len} bytes");
        let head = Head::decode(&self.read(head_len as usize)[..]).unwrap();
        let args = self.read(head.args_size as usize);
        (head, args.into())
    }

    /// Answers a call with an echo.
    pub(crate) fn answer(&mut self, call_id: u64, data: &str) {
        self.send(&reply(call_id, data));
    }

    /// Answers a call with a status; with call id 0, ends the connection with it.
    pub(crate) fn refuse(&mut self, call_id: u64, code: StatusCode) {
        self.send(&refusal(call_id, code));
    }
}

/// The frame of a reply that echoes `data`.
pub(crate) fn reply(call_id: u64, data: &str) -> Vec<u8> {
    let body = echo(data.to_owned()).encode_to_vec();
    frame(&ReplyHead { call_id, reply_size: body.len() as u32, ..ReplyHead::default() }, &body)
}

/// The frame of a status.
pub(crate) fn refusal(call_id: u64, code: StatusCode) -> Vec<u8> {
    let message = "in so many words".to_owned();
    frame(&ReplyHead { call_id, status: code.number(), message, ..ReplyHead::default() }, b"")
}

pub(crate) fn is_lost(error: &CallError) -> bool {
    matches!(error, CallError::Lost { .. }) && error.may_have_run()
}
