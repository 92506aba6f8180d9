//! Our stubs against a server written from the documented format alone. It encodes and decodes
//! bytes by hand.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use syncraft::rpc::Framing;

use crate::peers::listen;
use crate::raw::{LONG, soon};
use crate::support::channel;

#[allow(unreachable_pub, reason = "generated")]
mod kv {
    syncraft::rpc::include_proto!("syncraft.kv");
}

use kv::{GetArgs, GetReply, KvServerRpcStub, PutAppendArgs};

/// How the length of a header is written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum HeadSize {
    FourBytes,
    Varint,
}

/// How a reply is written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Writes {
    AtOnce,
    /// In two parts, cut within a field, at another place each time.
    InTwo,
}

/// A field's value: a number, or bytes.
#[derive(Debug, PartialEq)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Value {
    fn bytes(self) -> Vec<u8> {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Number(number) => panic!("the number {number} where bytes belong"),
        }
    }

    fn number(self) -> u64 {
        match self {
            Value::Number(number) => number,
            Value::Bytes(bytes) => panic!("{bytes:?} where a number belongs"),
        }
    }
}

/// Seven bits a byte, lowest first; the eighth bit says that more bytes follow.
fn take_varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
        shift += 7;
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A message's fields by number.
fn fields(mut bytes: &[u8]) -> HashMap<u64, Value> {
    let mut fields = HashMap::new();
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes);
        let value = match tag & 7 {
            0 => Value::Number(take_varint(&mut bytes)),
            2 => {
                let len = take_varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(len);
                bytes = rest;
                Value::Bytes(value.to_vec())
            }
            wire_type => panic!("wire type {wire_type}"),
        };
        assert_eq!(fields.insert(tag >> 3, value), None, "field {} twice", tag >> 3);
    }
    fields
}

fn put_field(number: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    put_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// One connection of a small store of the documented system.
struct Connection {
    stream: TcpStream,
    head_size: HeadSize,
    writes: Writes,
    values: HashMap<Vec<u8>, Vec<u8>>,
    served: usize,
}

/// Serves a connection to its end. Returns the number of calls.
fn serve(listener: TcpListener, head_size: HeadSize, writes: Writes) -> JoinHandle<usize> {
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let values = HashMap::new();
        let mut connection = Connection { stream, head_size, writes, values, served: 0 };
        while connection.serve_one() {}
        connection.served
    })
}

impl Connection {
    /// Returns false when the client is gone.
    fn serve_one(&mut self) -> bool {
        let Some(head_len) = self.read_head_size() else { return false };
        assert!(head_len > 0 && head_len <= 1024, "a head of {head_len} bytes");
        let head_bytes = self.read(head_len);
        assert_eq!(head_bytes[0], 0x0a, "a header begins with the tag of its first field");
        let mut head = fields(&head_bytes);
        let service = head.remove(&1).unwrap().bytes();
        let method = head.remove(&2).unwrap().bytes();
        let args_size = head.remove(&3).map_or(0, Value::number);
        assert!(head.is_empty(), "beyond the documented format: {head:?}");
        assert_eq!(service, b"kvServerRpc");
        let args = fields(&self.read(args_size as usize));
        self.expect_nothing_more();
        let reply = match &method[..] {
            b"PutAppend" => self.put_append(args),
            b"Get" => self.get(args),
            _ => panic!("{method:?}"),
        };
        self.write(&reply);
        self.served += 1;
        true
    }

    fn read_head_size(&mut self) -> Option<usize> {
        let mut first = [0];
        if self.stream.read(&mut first).unwrap() == 0 {
            return None;
        }
        Some(match self.head_size {
            HeadSize::FourBytes => {
                let rest = self.read(3);
                u32::from_le_bytes([first[0], rest[0], rest[1], rest[2]]) as usize
            }
            HeadSize::Varint => {
                let mut bytes = first.to_vec();
                while bytes.last().is_some_and(|byte| byte & 0x80 != 0) {
                    bytes.extend(self.read(1));
                }
                take_varint(&mut &bytes[..]) as usize
            }
        })
    }

    fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// A client of the documented system sends no call before it has the last answer.
    fn expect_nothing_more(&self) {
        self.stream.set_nonblocking(true).unwrap();
        let error = self.stream.peek(&mut [0]).expect_err("a call before the last was answered");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).unwrap();
    }

    fn put_append(&mut self, mut args: HashMap<u64, Value>) -> Vec<u8> {
        let key = args.remove(&1).unwrap().bytes();
        let value = args.remove(&2).map_or_else(Vec::new, Value::bytes);
        let op = args.remove(&3).unwrap().bytes();
        assert_eq!(args.remove(&4), Some(Value::Bytes(b"me".to_vec())), "ClientId");
        assert!(args.remove(&5).unwrap().number() > 0, "RequestId");
        assert!(args.is_empty(), "beyond the documented format: {args:?}");
        match &op[..] {
            b"Put" => drop(self.values.insert(key, value)),
            b"Append" => self.values.entry(key).or_default().extend(value),
            _ => panic!("{op:?}"),
        }
        let mut reply = Vec::new();
        put_field(1, b"OK", &mut reply);
        reply
    }

    fn get(&mut self, mut args: HashMap<u64, Value>) -> Vec<u8> {
        let mut reply = Vec::new();
        match self.values.get(&args.remove(&1).unwrap().bytes()) {
            Some(value) => {
                put_field(1, b"OK", &mut reply);
                if !value.is_empty() {
                    put_field(2, value, &mut reply);
                }
            }
            None => put_field(1, b"ErrNoKey", &mut reply),
        }
        reply
    }

    fn write(&mut self, reply: &[u8]) {
        match self.writes {
            Writes::AtOnce => self.stream.write_all(reply).unwrap(),
            Writes::InTwo => {
                // Not at the end of a field: a client would take that for the end of the reply.
                let first_field = 2 + usize::from(reply[1]);
                let cuts: Vec<_> = (1..reply.len()).filter(|at| *at != first_field).collect();
                let (one, two) = reply.split_at(cuts[self.served % cuts.len()]);
                self.stream.write_all(one).unwrap();
                thread::yield_now();
                self.stream.write_all(two).unwrap();
            }
        }
    }
}

type Stub = KvServerRpcStub;

fn put(stub: &Stub, key: &str, value: &[u8], op: &'static str, request_id: i64) {
    let args = PutAppendArgs {
        key: Bytes::from(key.to_owned()),
        value: Bytes::copy_from_slice(value),
        op: Bytes::from(op),
        client_id: Bytes::from("me"),
        request_id,
        seen_index: 0,
    };
    let reply = stub.put_append(&args, soon()).unwrap();
    assert_eq!((&reply.err[..], reply.index, reply.leader), (&b"OK"[..], 0, None));
}

fn get_args(key: &str) -> GetArgs {
    let client_id = Bytes::from("me");
    GetArgs { key: Bytes::from(key.to_owned()), client_id, request_id: 9, ..GetArgs::default() }
}

fn value(reply: GetReply) -> Option<Bytes> {
    match &reply.err[..] {
        b"OK" => Some(reply.value),
        err => {
            assert_eq!(err, b"ErrNoKey");
            None
        }
    }
}

fn get(stub: &Stub, key: &str) -> Option<Bytes> {
    value(stub.get(&get_args(key), soon()).unwrap())
}

/// Calls of both methods over one connection. Returns how many there were.
fn call_all(stub: &Stub) -> usize {
    assert_eq!(get(stub, "absent"), None);
    put(stub, "key", b"hello", "Put", 1);
    put(stub, "key", b", world", "Append", 2);
    assert_eq!(get(stub, "key").unwrap(), "hello, world");
    put(stub, "empty", b"", "Put", 3);
    assert_eq!(get(stub, "empty").unwrap(), "");
    // Numbers and lengths of more than one byte; a head whose length takes more than one byte.
    put(stub, "new", &[b'v'; 300], "Append", 1 << 40);
    assert_eq!(get(stub, "new").unwrap().len(), 300);
    let long = "k".repeat(20_000);
    put(stub, &long, &[0xff; 1000], "Put", 4);
    assert_eq!(get(stub, &long).unwrap(), vec![0xff; 1000]);
    10
}

fn check(framing: Framing, head_size: HeadSize, writes: Writes) {
    let (listener, addr) = listen();
    let server = serve(listener, head_size, writes);
    let stub = KvServerRpcStub::new(channel(addr).framing(framing).lazy());
    let mut calls = call_all(&stub);
    // Every place at which a reply may be cut.
    for _ in 0..40 {
        assert_eq!(get(&stub, "key").unwrap(), "hello, world");
    }
    calls += 40;
    // Many threads take turns, with claims and completions between them.
    thread::scope(|scope| {
        for t in 0..4 {
            let stub = &stub;
            scope.spawn(move || {
                let key = format!("thread {t}");
                for i in 1..=10 {
                    put(stub, &key, b"x", "Append", i);
                    let claim = stub.get_async(&get_args(&key), soon());
                    assert_eq!(value(claim.wait().unwrap()).unwrap().len(), i as usize);
                }
            });
        }
    });
    calls += 4 * 20;
    let (tx, rx) = std::sync::mpsc::channel();
    for _ in 0..5 {
        let tx = tx.clone();
        stub.get_then(&get_args("key"), soon(), move |outcome| tx.send(outcome.unwrap()).unwrap());
    }
    for _ in 0..5 {
        assert_eq!(value(rx.recv_timeout(LONG).unwrap()).unwrap(), "hello, world");
    }
    calls += 5;
    drop(stub);
    assert_eq!(server.join().unwrap(), calls, "{framing:?}, {writes:?}");
}

#[test]
fn a_documented_server_is_called_with_lengths_of_four_bytes() {
    check(Framing::Documented, HeadSize::FourBytes, Writes::AtOnce);
}

#[test]
fn a_documented_server_is_called_with_lengths_as_varints() {
    check(Framing::DocumentedVarint, HeadSize::Varint, Writes::AtOnce);
}

#[test]
fn replies_of_a_documented_server_may_come_in_two() {
    check(Framing::Documented, HeadSize::FourBytes, Writes::InTwo);
    check(Framing::DocumentedVarint, HeadSize::Varint, Writes::InTwo);
}
