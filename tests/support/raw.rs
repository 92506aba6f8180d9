//! Hand-made frames, and a socket that sends and expects them, as a client or as a server.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use syncraft::rpc::StatusCode;

/// Longer than any test may take: a wait that lasts this long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) fn soon() -> Instant {
    Instant::now() + LONG
}

/// The only message of the test service, in both directions.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Echo {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data: Bytes,
}

pub(crate) fn echo(data: impl Into<Bytes>) -> Echo {
    Echo { data: data.into() }
}

/// The head of a call, as a client of any generation may send it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Head {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) service: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) method: Bytes,
    #[prost(uint32, tag = "3")]
    pub(crate) args_size: u32,
    #[prost(uint64, tag = "4")]
    pub(crate) call_id: u64,
    #[prost(uint32, tag = "5")]
    pub(crate) deadline_ms: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) codec: u32,
    /// The kind of a frame of a stream.
    #[prost(uint32, tag = "13")]
    pub(crate) stream: u32,
    #[prost(uint64, tag = "14")]
    pub(crate) credit: u64,
}

/// The head of an extended reply.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReplyHead {
    #[prost(uint64, tag = "1")]
    pub(crate) call_id: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) status: u32,
    #[prost(string, tag = "3")]
    pub(crate) message: String,
    #[prost(uint32, tag = "4")]
    pub(crate) reply_size: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) retry_after_ms: u32,
    /// The kind of a frame of a stream.
    #[prost(uint32, tag = "6")]
    pub(crate) stream: u32,
    #[prost(uint64, tag = "7")]
    pub(crate) credit: u64,
}

pub(crate) fn head(method: &'static str, call_id: u64, args_size: usize) -> Head {
    Head {
        service: "testRpc".into(),
        method: method.into(),
        args_size: args_size as u32,
        call_id,
        ..Head::default()
    }
}

/// `head_size | head | body`.
pub(crate) fn frame(head: &impl Message, body: &[u8]) -> Vec<u8> {
    let head = head.encode_to_vec();
    [&(head.len() as u32).to_le_bytes(), &head[..], body].concat()
}

/// The whole frame of a call with an `Echo`. With `call_id` 0 it is a documented call.
pub(crate) fn request(method: &'static str, call_id: u64, data: &str) -> Vec<u8> {
    let args = echo(data.to_owned()).encode_to_vec();
    frame(&head(method, call_id, args.len()), &args)
}

/// A socket whose bytes the test chooses.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Raw(stream)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub(crate) fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Expects the bare reply to a documented call, which echoes `data`.
    pub(crate) fn expect_bare(&mut self, data: &str) {
        let expected = echo(data.to_owned()).encode_to_vec();
        assert_eq!(self.read(expected.len()), expected);
    }

    /// The header of what a caller has sent, whose body is skipped.
    pub(crate) fn next_head(&mut self) -> Head {
        let len = u32::from_le_bytes(self.read(4).try_into().unwrap());
        let head = Head::decode(&self.read(len as usize)[..]).unwrap();
        self.read(head.args_size as usize);
        head
    }

    /// The next extended reply.
    pub(crate) fn reply(&mut self) -> (ReplyHead, Bytes) {
        let head_len = u32::from_le_bytes(self.read(4).try_into().unwrap());
        assert!(head_len <= 1024, "a reply head of {head_len} bytes");
        let head = ReplyHead::decode(&self.read(head_len as usize)[..]).unwrap();
        let body = self.read(head.reply_size as usize);
        (head, body.into())
    }

    /// Expects an extended reply with this error.
    pub(crate) fn expect_status(&mut self, call_id: u64, code: StatusCode) -> String {
        let (head, body) = self.reply();
        assert_eq!(
            (head.call_id, head.status, body.len()),
            (call_id, code.number(), 0),
            "{}",
            head.message
        );
        head.message
    }

    /// Expects an extended reply that echoes `data`.
    pub(crate) fn expect_echo(&mut self, call_id: u64, data: &str) {
        let (head, body) = self.reply();
        assert_eq!((head.call_id, head.status), (call_id, 0), "{}", head.message);
        assert_eq!(Echo::decode(body).unwrap(), echo(data.to_owned()));
    }

    /// Everything that the server sends until it closes the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the server did not close the connection: {error}"),
        }
        rest
    }

    pub(crate) fn expect_closed(&mut self) {
        assert_eq!(self.rest(), b"", "bytes before the end");
    }

    /// Expects a reset and no bytes before it. Existing clients take anything else for a reply.
    pub(crate) fn expect_reset(&mut self) {
        match self.0.read(&mut [0; 64]) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("no reset: {other:?}"),
        }
    }

    /// Expects the end of the stream and no bytes before it.
    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.0.read(&mut [0; 64]).unwrap(), 0, "bytes before the end");
    }

    /// Expects no bytes for this long, on a connection that stays open.
    pub(crate) fn expect_silence(&mut self, time: Duration) {
        self.0.set_read_timeout(Some(time)).unwrap();
        let error = self.0.read(&mut [0]).map(drop).expect_err("bytes, or the end");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        self.0.set_read_timeout(Some(LONG)).unwrap();
    }

    /// Closes the connection with a reset, as when a process dies.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).unwrap();
    }
}
