//! What a request may cost a member in memory.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use syncraft::kv::model::OPERATIONS_MAX;
use syncraft::kv::model::proto::TxnReply;
use syncraft::rpc::{CallError, Channel, Method, Payload, PayloadError, StatusCode};
use syncraft::testing::Port;

use crate::processes::{Processes, TEST_TIMEOUT};

/// Arguments whose bytes the test chooses.
struct RawArgs(Vec<u8>);

impl Payload for RawArgs {
    const CODEC: u32 = 0;

    fn measure(&self) -> Result<usize, PayloadError> {
        Ok(self.0.len())
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(&self.0);
    }

    fn read(bytes: Bytes) -> Result<RawArgs, PayloadError> {
        Ok(RawArgs(bytes.into()))
    }
}

/// What the system says of a member's process.
fn status(processes: &Processes, id: usize, name: &str) -> u64 {
    let pid = processes.children[id - 1].as_ref().unwrap().id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The most memory that a member has taken so far, in KiB.
fn peak_kib(processes: &Processes, id: usize) -> u64 {
    status(processes, id, "VmHWM")
}

/// Seven million operations of two bytes each: decoded, they would take more than a gigabyte.
#[test]
fn a_request_of_too_many_operations_is_refused_before_it_is_decoded() {
    let processes = Processes::start(1);
    let operations = [0x12, 0].repeat(15 << 19);
    let mut args = vec![0x12];
    prost::encode_length_delimiter(operations.len(), &mut args).unwrap();
    args.extend(&operations);
    let before = peak_kib(&processes, 1);
    let channel = Channel::builder(processes.ports[0].addr().to_string()).lazy();
    let (txn, deadline) = (Method::new("storeRpc", "Txn"), Instant::now() + TEST_TIMEOUT);
    let Err(CallError::Refused { status, .. }) =
        channel.call::<_, TxnReply>(&txn, &RawArgs(args), deadline)
    else {
        panic!("it is refused");
    };
    assert_eq!(status.code, StatusCode::BadArguments, "{status}");
    assert!(status.message.contains(&OPERATIONS_MAX.to_string()), "{status}");
    let more = peak_kib(&processes, 1) - before;
    assert!(more < 200 << 10, "{more} KiB for a request of {} bytes", operations.len());
}

/// Opens a watch over HTTP, and waits until it is made.
fn watch(addr: SocketAddr, key: usize) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    write!(stream, "GET /v1/kv/key-{key}?watch HTTP/1.1\r\nHost: {addr}\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream
}

/// Measured: 2 to 4 KiB each. Beside that, the allocator keeps some MiB once, for the most threads
/// that were there at the same time. So watches are made in batches, and the cheapest one counts:
/// what a watch costs, it costs in each.
#[test]
fn an_idle_watch_over_http_costs_no_thread_and_little_memory() {
    const BATCHES: usize = 4;
    const BATCH: usize = 250;
    const EACH_MAX_KIB: u64 = 8;
    let http = Port::free().unwrap();
    let processes = Processes::start_with(1, &["--http", &http.addr().to_string()]);
    let threads = || status(&processes, 1, "Threads");
    let before = threads();
    let settle = || {
        let deadline = Instant::now() + TEST_TIMEOUT;
        // The thread of all watches, and one that reads.
        while threads() > before + 4 {
            assert!(Instant::now() < deadline, "{} threads, {before} before", threads());
            thread::yield_now();
        }
        status(&processes, 1, "VmRSS")
    };
    let mut watches: Vec<TcpStream> = Vec::new();
    let mut more = || {
        watches.extend((0..BATCH).map(|key| watch(http.addr(), key)));
        settle()
    };
    let mut rss = more();
    let batches: Vec<u64> = (1..BATCHES)
        .map(|_| {
            let earlier = std::mem::replace(&mut rss, more());
            rss.saturating_sub(earlier) / BATCH as u64
        })
        .collect();
    assert!(batches.iter().any(|&each| each < EACH_MAX_KIB), "{batches:?} KiB for each watch");
}
