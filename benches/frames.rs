//! How fast calls are over loopback: frames, connection and service. The service returns what it
//! gets.
//!
//! ```text
//! cargo bench --bench frames
//! cargo bench --bench frames -- burst
//! ```
//!
//! | benchmark | measures |
//! |---|---|
//! | `burst/64` | 64 calls in one piece from a bare socket, until all replies have come |
//! | `blocking/1` | one thread, one call at a time: two wake-ups and four system calls |
//! | `blocking/16` | 16 threads on one connection, each with one call at a time |
//! | `async/64` | one thread, 64 calls in flight: `Channel::call_async` |
//!
//! The frame codec is private, so it cannot be measured alone; `burst` has the least around it.
//! Arguments and replies have 300 bytes. Rates are of calls.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use prost::Message;
use support::echo::{DATA, Data, Echo, METHOD};
use syncraft::rpc::{CallOptions, Channel, Server};

/// Some fields of the message in `crates/rpc/proto/rpc_header.proto`.
#[derive(Clone, PartialEq, Message)]
struct RpcHeader {
    #[prost(bytes = "bytes", tag = "1")]
    service_name: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    method_name: Bytes,
    #[prost(uint32, tag = "3")]
    args_size: u32,
    #[prost(uint64, tag = "4")]
    call_id: u64,
}

/// The fields of a successful reply.
#[derive(Clone, PartialEq, Message)]
struct RpcReplyHeader {
    #[prost(uint64, tag = "1")]
    call_id: u64,
    #[prost(uint32, tag = "4")]
    reply_size: u32,
}

/// A call that takes longer than this has failed.
const LONG: Duration = Duration::from_secs(10);

fn main() {
    support::run(&[burst, blocking, in_flight]);
}

fn burst(c: &mut Criterion) {
    const CALLS: u64 = 64;
    let server = serve();
    let mut socket = TcpStream::connect(server.local_addr()).expect("a server that listens");
    socket.set_nodelay(true).expect("a socket");
    socket.set_read_timeout(Some(LONG)).expect("a socket");
    let calls: Vec<u8> = (1..=CALLS).flat_map(call_frame).collect();
    let mut replies = vec![0; (1..=CALLS).map(reply_frame_len).sum()];
    let mut group = c.benchmark_group("burst");
    group.throughput(Throughput::Elements(CALLS));
    group.bench_function(CALLS.to_string(), |b| {
        b.iter(|| {
            socket.write_all(&calls).expect("a server that reads");
            socket.read_exact(&mut replies).expect("a server that answers");
        });
    });
}

fn blocking(c: &mut Criterion) {
    let server = serve();
    let channel = connect(&server);
    let mut group = c.benchmark_group("blocking");
    for callers in [1, 16] {
        group.throughput(Throughput::Elements(callers));
        group.bench_function(callers.to_string(), |b| {
            b.iter_custom(|calls| call_from_threads(&channel, callers as usize, calls));
        });
    }
}

/// The time in which each of `callers` threads makes its calls, from the moment when all have
/// started.
fn call_from_threads(channel: &Channel, callers: usize, calls: u64) -> Duration {
    let barrier = Barrier::new(callers + 1);
    let call_all = || {
        barrier.wait();
        for _ in 0..calls {
            let args = Data { data: DATA };
            let reply: Data = channel.call(&METHOD, &args, soon()).expect("an answer");
            assert_eq!(reply.data.len(), DATA.len());
        }
    };
    let mut start = Instant::now();
    thread::scope(|scope| {
        (0..callers).for_each(|_| drop(scope.spawn(call_all)));
        barrier.wait();
        start = Instant::now();
    });
    start.elapsed()
}

fn in_flight(c: &mut Criterion) {
    const IN_FLIGHT: u64 = 64;
    let server = serve();
    let channel = connect(&server);
    let (answered, answers) = mpsc::channel();
    let mut group = c.benchmark_group("async");
    group.throughput(Throughput::Elements(1));
    group.bench_function(IN_FLIGHT.to_string(), |b| {
        b.iter_custom(|calls| {
            let start = Instant::now();
            for call in 0..calls + IN_FLIGHT {
                if call >= IN_FLIGHT {
                    answers.recv_timeout(LONG).expect("an answer");
                }
                if call < calls {
                    start_call(&channel, answered.clone());
                }
            }
            start.elapsed()
        });
    });
}

fn start_call(channel: &Channel, answered: mpsc::Sender<()>) {
    let done = move |reply: Result<Data, _>| {
        assert_eq!(reply.expect("an answer").data.len(), DATA.len());
        answered.send(()).expect("somebody counts");
    };
    channel.call_then(&METHOD, &CallOptions::default(), &Data { data: DATA }, soon(), done);
}

fn serve() -> Server {
    Server::builder().service(Echo).bind("127.0.0.1:0").build().expect("a free port").start()
}

fn connect(server: &Server) -> Channel {
    Channel::builder(server.local_addr().to_string()).connect(soon()).expect("a server")
}

fn soon() -> Instant {
    Instant::now() + LONG
}

/// The bytes of a call on the wire: length of the header, header, arguments.
fn call_frame(call_id: u64) -> Vec<u8> {
    let args = Data { data: DATA };
    let header = RpcHeader {
        service_name: Bytes::from_static(METHOD.service.as_bytes()),
        method_name: Bytes::from_static(METHOD.name.as_bytes()),
        args_size: args.encoded_len() as u32,
        call_id,
    };
    let mut frame = (header.encoded_len() as u32).to_le_bytes().to_vec();
    frame.extend(header.encode_to_vec());
    frame.extend(args.encode_to_vec());
    frame
}

fn reply_frame_len(call_id: u64) -> usize {
    let reply_len = Data { data: DATA }.encoded_len();
    let header = RpcReplyHeader { call_id, reply_size: reply_len as u32 };
    4 + header.encoded_len() + reply_len
}
