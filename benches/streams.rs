//! Measures streams of the RPC beside a bare socket.
//!
//! ```text
//! cargo bench --bench streams                     about a minute and a half
//! cargo bench --bench streams -- --seconds 3 --turns 9
//! cargo bench --bench streams -- --only 64        the rows whose name contains it
//! ```
//!
//! Prints a Markdown table, and the memory of idle streams. The rows take turns within a run,
//! because the machine changes between runs:
//!
//! | row | sender | receiver |
//! |---|---|---|
//! | `bare, ...` | writes items, each with one `write_all` | reads them, with `read_exact` |
//! | `one stream, ...` | a handler, with `Outgoing::send` | a thread that takes them |
//! | `one stream, wide, ...` | the same | the same, with a window of 4 MiB instead of 1 MiB |
//! | `one stream, corked, ...` | the same, which holds a `Cork` for 64 items | the same |
//! | `1,000 streams, ...` | one thread sends where there is room | two threads, one connection |
//! | `beside a slow one, ...` | two handlers | one takes all, another one item every 10 ms |
//!
//! A sender is a process of its own: this program with an argument. Each number is the median of
//! several turns; a ratio is the median of the turns' ratios to the bare socket with the same
//! items.
//!
//! Target: one stream of 64 KiB items brings at least 0.9 of a bare socket's MiB/s.

#[path = "support/turns.rs"]
mod turns;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use prost::Message;
use syncraft::rpc::{
    Call, CallOptions, Channel, Cork, Incoming, Limits, Method, Next, Outgoing, SendError, Server,
    Service,
};
use turns::{Args, Process, median, serve_until_unwanted};

const SMALL: usize = 300;
const LARGE: usize = 64 << 10;
const MANY: usize = 1000;
const IDLE: usize = 10_000;
/// The default window of a channel's streams, and one for bulk data.
const WINDOW: usize = 1 << 20;
const WIDE_WINDOW: usize = 4 << 20;
/// Items under one cork.
const CORKED: usize = 64;

const WARM_UP: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(10);

const SERVICE: &str = "streamRpc";
const SEND: Method = Method::new(SERVICE, "Send");
const SHARE: Method = Method::new(SERVICE, "Share");
const IDLE_METHOD: Method = Method::new(SERVICE, "Idle");

fn main() {
    turns::run(7, bench, serve_bare, serve_rpc);
}

// ---- rows ----

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Bare(usize),
    One(usize),
    Wide(usize),
    Corked(usize),
    Many(usize),
    BesideSlow(usize),
}

impl Load {
    const ALL: [Load; 10] = [
        Load::Bare(SMALL),
        Load::One(SMALL),
        Load::Corked(SMALL),
        Load::Many(SMALL),
        Load::BesideSlow(SMALL),
        Load::Bare(LARGE),
        Load::One(LARGE),
        Load::Wide(LARGE),
        Load::Many(LARGE),
        Load::BesideSlow(LARGE),
    ];

    fn item_len(self) -> usize {
        match self {
            Load::Bare(len)
            | Load::One(len)
            | Load::Wide(len)
            | Load::Corked(len)
            | Load::Many(len)
            | Load::BesideSlow(len) => len,
        }
    }

    fn name(self) -> String {
        let what = match self {
            Load::Bare(_) => "bare",
            Load::One(_) => "one stream",
            Load::Wide(_) => "one stream, wide",
            Load::Corked(_) => "one stream, corked",
            Load::Many(_) => "1,000 streams",
            Load::BesideSlow(_) => "beside a slow one",
        };
        format!("{what}, {} bytes", self.item_len())
    }
}

fn bench(args: &Args) {
    assert!(!args.alone, "all rows are compared to bare ones");
    let (bare, rpc) = (Process::start("bare"), Process::start("rpc"));
    let is_wanted = |load: &Load| load.name().contains(&args.only) || matches!(load, Load::Bare(_));
    let rows: Vec<Load> = Load::ALL.into_iter().filter(is_wanted).collect();
    let mut samples: Vec<Vec<f64>> = rows.iter().map(|_| Vec::new()).collect();
    for turn in 1..=args.turns {
        for (row, samples) in rows.iter().zip(&mut samples) {
            eprint!("\rturn {turn} of {}: {:<50}", args.turns, row.name());
            let time = Duration::from_secs_f64(args.seconds);
            samples.push(match *row {
                Load::Bare(len) => receive_bare(bare.addr, len, time),
                Load::One(len) => receive_one(rpc.addr, len, false, WINDOW, time),
                Load::Wide(len) => receive_one(rpc.addr, len, false, WIDE_WINDOW, time),
                Load::Corked(len) => receive_one(rpc.addr, len, true, WINDOW, time),
                Load::Many(len) => receive_many(rpc.addr, len, time),
                Load::BesideSlow(len) => receive_beside_slow(rpc.addr, len, time),
            });
        }
    }
    eprintln!();
    println!("| load | items/s | MiB/s | of bare |");
    println!("|---|---:|---:|---:|");
    for (row, own) in rows.iter().zip(&samples) {
        let at = rows.iter().position(|it| *it == Load::Bare(row.item_len())).expect("it is there");
        let ratios = own.iter().zip(&samples[at]).map(|(own, base)| own / base);
        let per_second = median(own.iter().copied());
        let mib = per_second * row.item_len() as f64 / f64::from(1 << 20);
        println!("| {} | {per_second:.0} | {mib:.0} | {:.2} |", row.name(), median(ratios));
    }
    if "idle".contains(&args.only) {
        print_idle(&rpc);
    }
}

/// Counts items, but for those of the warm-up, until the time is over.
struct Count {
    from: Instant,
    until: Instant,
    items: u64,
}

impl Count {
    fn new(time: Duration) -> Count {
        let from = Instant::now() + WARM_UP;
        Count { from, until: from + time, items: 0 }
    }

    /// Returns whether to go on.
    fn add(&mut self, now: Instant) -> bool {
        self.items += u64::from(now >= self.from && now < self.until);
        now < self.until
    }
}

// ---- receivers ----

fn receive_bare(addr: SocketAddr, len: usize, time: Duration) -> f64 {
    let mut socket = TcpStream::connect(addr).expect("a server that listens");
    socket.write_all(&(len as u64).to_le_bytes()).expect("a server that reads");
    let (mut item, mut count) = (vec![0; len], Count::new(time));
    loop {
        socket.read_exact(&mut item).expect("a server that sends");
        if !count.add(Instant::now()) {
            return count.items as f64 / time.as_secs_f64();
        }
    }
}

fn open(channel: &Channel, method: &Method, len: usize, is_corked: bool) -> Incoming<Item> {
    let request = Request { len: len as u64, is_corked };
    channel.open_stream(method, &CallOptions::default(), &request, None)
}

fn receive_one(
    addr: SocketAddr,
    len: usize,
    is_corked: bool,
    window: usize,
    time: Duration,
) -> f64 {
    let channel = Channel::builder(addr.to_string()).stream_window_bytes(window).lazy();
    let mut items = open(&channel, &SEND, len, is_corked);
    count_items(&mut items, time)
}

fn count_items(items: &mut Incoming<Item>, time: Duration) -> f64 {
    let mut count = Count::new(time);
    for item in items {
        item.expect("an item");
        if !count.add(Instant::now()) {
            return count.items as f64 / time.as_secs_f64();
        }
    }
    panic!("the stream has ended");
}

fn receive_many(addr: SocketAddr, len: usize, time: Duration) -> f64 {
    let channel = Channel::builder(addr.to_string()).lazy();
    let streams: Vec<_> = (0..MANY).map(|_| open(&channel, &SHARE, len, false)).collect();
    let mut halves: Vec<Vec<Incoming<Item>>> = vec![Vec::new(), Vec::new()];
    streams.into_iter().enumerate().for_each(|(at, items)| halves[at % 2].push(items));
    let total = AtomicU64::new(0);
    thread::scope(|scope| {
        for mut streams in halves {
            let total = &total;
            scope.spawn(move || {
                let mut count = Count::new(time);
                loop {
                    let mut is_over = false;
                    for items in &mut streams {
                        while let Next::Item(_) = items.next_timeout(Duration::ZERO) {
                            is_over |= !count.add(Instant::now());
                        }
                    }
                    if is_over || Instant::now() >= count.until {
                        total.fetch_add(count.items, Ordering::Relaxed);
                        return;
                    }
                    // All that has come is taken.
                    thread::yield_now();
                }
            });
        }
    });
    total.load(Ordering::Relaxed) as f64 / time.as_secs_f64()
}

fn receive_beside_slow(addr: SocketAddr, len: usize, time: Duration) -> f64 {
    let channel = Channel::builder(addr.to_string()).lazy();
    let mut fast = open(&channel, &SEND, len, len == SMALL);
    let mut slow = open(&channel, &SEND, len, false);
    thread::scope(|scope| {
        let fast = scope.spawn(move || count_items(&mut fast, time));
        while !fast.is_finished() {
            slow.next().expect("the stream goes on").expect("an item");
            thread::sleep(Duration::from_millis(10));
        }
        fast.join().expect("it does not panic")
    })
}

/// Memory of idle streams, on both sides.
fn print_idle(rpc: &Process) {
    let channel = Channel::builder(rpc.addr.to_string()).lazy();
    let rss = || (rss_kib("self"), rss_kib(&rpc.child.id().to_string()));
    // The first stream makes the connection and its buffers.
    let first = open(&channel, &IDLE_METHOD, SMALL, false);
    let first = (first.into_iter().next(), rss());
    let mut streams: Vec<_> =
        (0..IDLE).map(|_| open(&channel, &IDLE_METHOD, SMALL, false)).collect();
    // Each has been opened when its first item is there.
    streams.iter_mut().for_each(|items| drop(items.next()));
    let (before, after) = (first.1, rss());
    let each = |before: u64, after: u64| after.saturating_sub(before) * 1024 / IDLE as u64;
    println!();
    println!(
        "{IDLE} idle streams on one connection: {} bytes each at the caller, {} at the server",
        each(before.0, after.0),
        each(before.1, after.1),
    );
}

/// The resident memory of a process, on Linux.
fn rss_kib(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

// ---- senders ----

#[derive(Clone, PartialEq, Message)]
struct Item {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(uint64, tag = "1")]
    len: u64,
    #[prost(bool, tag = "2")]
    is_corked: bool,
}

impl Request {
    /// An item whose message has the length that is asked for.
    fn item(&self) -> Item {
        let overhead = if self.len < 1000 { 3 } else { 4 };
        let item = Item { data: vec![b'd'; self.len as usize - overhead].into() };
        assert_eq!(item.encoded_len() as u64, self.len);
        item
    }
}

struct Sending {
    shared: Arc<Shares>,
}

impl Service for Sending {
    fn name(&self) -> &'static str {
        SERVICE
    }

    fn methods(&self) -> &'static [&'static str] {
        &[SEND.name, SHARE.name, IDLE_METHOD.name]
    }

    fn is_stream(&self, _: usize) -> bool {
        true
    }

    fn call(&self, method: usize, args: Bytes, call: Call) {
        let Some((request, replies)) = call.open_stream::<Request, Item>(args) else { return };
        match method {
            0 => send_all(&request, &replies),
            1 => self.shared.push(Arc::new((request.item(), replies))),
            _ => {
                let replies = Arc::new(Mutex::new(Some(replies)));
                let held = Arc::clone(&replies);
                let lock = replies.lock();
                let outgoing = lock.as_ref().expect("it was put there");
                outgoing.try_send(&request.item()).expect("there is credit");
                // It is held until the caller gives it up.
                outgoing.when_over(move || drop(held));
            }
        }
    }
}

fn send_all(request: &Request, replies: &Outgoing<Item>) {
    let item = request.item();
    loop {
        let _cork = request.is_corked.then(Cork::new);
        for _ in 0..CORKED {
            if replies.send(&item, Instant::now() + LONG).is_err() {
                return;
            }
        }
    }
}

/// Streams that one thread feeds.
type Share = Arc<(Item, Outgoing<Item>)>;

#[derive(Default)]
struct Shares {
    ready: Mutex<VecDeque<Share>>,
    changed: Condvar,
}

impl Shares {
    fn push(&self, share: Share) {
        self.ready.lock().push_back(share);
        self.changed.notify_one();
    }

    /// Sends what there is room for, stream by stream.
    fn feed(self: &Arc<Self>) {
        loop {
            let mut ready = self.ready.lock();
            while ready.is_empty() {
                self.changed.wait(&mut ready);
            }
            let shares = std::mem::take(&mut *ready);
            drop(ready);
            let _cork = Cork::new();
            shares.into_iter().for_each(|share| self.feed_one(share));
        }
    }

    fn feed_one(self: &Arc<Self>, share: Share) {
        for _ in 0..CORKED {
            match share.1.try_send(&share.0) {
                Ok(()) => {}
                Err(SendError::NoRoom) => {
                    let (shares, again) = (Arc::clone(self), Arc::clone(&share));
                    return share.1.when_ready(move || shares.push(again));
                }
                Err(_) => return,
            }
        }
        self.push(share);
    }
}

fn serve_bare() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    thread::spawn(move || accept_bare(&listener));
    serve_until_unwanted(addr);
}

fn accept_bare(listener: &TcpListener) {
    for socket in listener.incoming() {
        let mut socket = socket.expect("a connection");
        thread::spawn(move || {
            let mut len = [0; 8];
            socket.set_nodelay(true).expect("a socket");
            socket.read_exact(&mut len).expect("a length");
            let item = vec![b'd'; u64::from_le_bytes(len) as usize];
            while socket.write_all(&item).is_ok() {}
        });
    }
}

fn serve_rpc() {
    let shared = Arc::new(Shares::default());
    let feeder = Arc::clone(&shared);
    thread::spawn(move || feeder.feed());
    let limits = Limits { idle_timeout: LONG * 100, ..Limits::default() };
    let server = Server::builder().service(Sending { shared }).limits(limits).handlers(4);
    let server = server.bind("127.0.0.1:0").build().expect("a free port").start();
    serve_until_unwanted(server.local_addr());
}
