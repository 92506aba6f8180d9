//! Compares an echo over the RPC with a bare loop of read and write.
//!
//! ```text
//! cargo bench --bench echo                     about a minute and a half
//! cargo bench --bench echo -- --seconds 3 --turns 9
//! cargo bench --bench echo -- --only flight    rows with that name, and what they are compared to
//! cargo bench --bench echo -- --only flight --alone    without the latter, for a profiler
//! ```
//!
//! Prints a Markdown table. The rows take turns within a run, because the machine changes between
//! runs:
//!
//! | row | server | load |
//! |---|---|---|
//! | `bare, N connections` | a thread per connection | N threads, each with a connection |
//! | `rpc, N connections` | [`Server`], the service inline | N threads, each with a [`Channel`] |
//! | `rpc, 64 in flight on ..` | the same | completions, each of which makes the next call |
//! | `rpc, 64 pending on ..` | the same | a thread per connection, with 64 `Pending`s |
//!
//! A bare server reads 300 bytes and writes them. A thread makes one call at a time; with
//! `Pending`s it waits for the oldest, then makes the next call.
//!
//! Messages have 300 bytes each way, plus the headers of the RPC's frames. A server is a process of
//! its own: this program with an argument. Each number is the median of several turns; a ratio is
//! the median of the turns' ratios. With many calls in flight, the ratio is to the bare loop at 64
//! connections.
//!
//! Targets: 0.9 of the bare loop at 64 connections; three times that with 64 in flight on each of
//! four connections.

mod support;
#[path = "support/turns.rs"]
mod turns;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use support::echo::{DATA, Data, Echo, LEN_BYTES, METHOD};
use syncraft::rpc::{CallOptions, Channel, Limits, Pending, Server};
use turns::{Args, Process, median, serve_until_unwanted};

const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];
/// The row to which those with many calls in flight are compared.
const COMPARED: usize = 64;
const IN_FLIGHT: usize = 64;

/// The beginning of each measurement, which does not count.
const WARM_UP: Duration = Duration::from_millis(200);

/// A call that takes longer than this has failed.
const LONG: Duration = Duration::from_secs(10);

fn main() {
    turns::run(5, bench, serve_bare, serve_rpc);
}

// ---- rows ----

/// A way to make calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Bare(usize),
    Rpc(usize),
    InFlight(usize),
    Pending(usize),
}

impl Load {
    fn all() -> Vec<Load> {
        let pairs = CONNECTIONS.iter().flat_map(|&n| [Load::Bare(n), Load::Rpc(n)]);
        let many = [1, 4].into_iter().flat_map(|n| [Load::InFlight(n), Load::Pending(n)]);
        pairs.chain(many).collect()
    }

    fn name(self) -> String {
        let connections =
            |n: usize| if n == 1 { "one connection" } else { "each of 4 connections" };
        match self {
            Load::Bare(n) => format!("bare, {n} connections"),
            Load::Rpc(n) => format!("rpc, {n} connections"),
            Load::InFlight(n) => format!("rpc, {IN_FLIGHT} in flight on {}", connections(n)),
            Load::Pending(n) => format!("rpc, {IN_FLIGHT} pending on {}", connections(n)),
        }
    }

    /// The row to which it is compared.
    fn base(self) -> Load {
        match self {
            Load::Bare(n) | Load::Rpc(n) => Load::Bare(n),
            Load::InFlight(_) | Load::Pending(_) => Load::Bare(COMPARED),
        }
    }
}

/// The result of one turn of one row.
struct Sample {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

fn bench(args: &Args) {
    let (bare, rpc) = (Process::start("bare"), Process::start("rpc"));
    let rows: Vec<Load> = Load::all()
        .into_iter()
        .filter(|load| {
            let is_wanted = |load: Load| load.name().contains(&args.only);
            let is_base = Load::all().iter().any(|it| is_wanted(*it) && it.base() == *load);
            is_wanted(*load) || (is_base && !args.alone)
        })
        .collect();
    let mut samples: Vec<Vec<Sample>> = rows.iter().map(|_| Vec::new()).collect();
    for turn in 1..=args.turns {
        for (row, samples) in rows.iter().zip(&mut samples) {
            eprint!("\rturn {turn} of {}: {:<50}", args.turns, row.name());
            let time = Time::new(Duration::from_secs_f64(args.seconds));
            let times_ns = match *row {
                Load::Bare(n) => bare_callers(bare.addr, n, time),
                Load::Rpc(n) => blocking_callers(rpc.addr, n, time),
                Load::InFlight(n) => completions(rpc.addr, n, time),
                Load::Pending(n) => pendings(rpc.addr, n, time),
            };
            let at = |quantile| times_ns.value_at_quantile(quantile) as f64 / 1000.0;
            let per_second = times_ns.len() as f64 / args.seconds;
            samples.push(Sample { per_second, p50_us: at(0.5), p99_us: at(0.99) });
        }
    }
    eprintln!();
    print_table(&rows, &samples);
}

fn print_table(rows: &[Load], samples: &[Vec<Sample>]) {
    println!("| load | calls/s | p50 µs | p99 µs | ratio | of |");
    println!("|---|---:|---:|---:|---:|---|");
    for (row, own) in rows.iter().zip(samples) {
        let base = rows.iter().position(|it| *it == row.base()).map_or(own, |at| &samples[at]);
        let ratios = own.iter().zip(base).map(|(a, b)| a.per_second / b.per_second);
        let of = |value: fn(&Sample) -> f64| median(own.iter().map(value));
        println!(
            "| {} | {:.0} | {:.1} | {:.1} | {:.2} | {} |",
            row.name(),
            of(|it| it.per_second),
            of(|it| it.p50_us),
            of(|it| it.p99_us),
            median(ratios),
            row.base().name(),
        );
    }
}

// ---- time ----

/// When a measurement begins and ends. Each thread decides by the clock alone.
#[derive(Clone, Copy)]
struct Time {
    length: Duration,
}

/// What one thread has measured so far.
struct Watch {
    from: Instant,
    until: Instant,
    times_ns: Histogram<u64>,
}

impl Time {
    fn new(length: Duration) -> Time {
        Time { length }
    }

    fn watch(self, now: Instant) -> Watch {
        let from = now + WARM_UP;
        Watch { from, until: from + self.length, times_ns: empty() }
    }
}

impl Watch {
    /// Counts a call that began at this time and has ended now. Returns the time, or `None` if it
    /// was the last call.
    fn ended(&mut self, began: Instant) -> Option<Instant> {
        let now = Instant::now();
        if now >= self.from && now < self.until {
            self.times_ns.saturating_record((now - began).as_nanos() as u64);
        }
        (now < self.until).then_some(now)
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("these bounds are in order")
}

/// Runs `caller` on this many threads, which start at the same moment, and adds up what they
/// measured.
fn on_threads<C: Send>(
    callers: Vec<C>,
    time: Time,
    run: impl Fn(C, &mut Watch) + Sync,
) -> Histogram<u64> {
    let (barrier, all) = (Barrier::new(callers.len()), Mutex::new(empty()));
    thread::scope(|scope| {
        for caller in callers {
            scope.spawn(|| {
                barrier.wait();
                let mut watch = time.watch(Instant::now());
                run(caller, &mut watch);
                all.lock().add(&watch.times_ns).expect("the bounds are the same");
            });
        }
    });
    all.into_inner()
}

// ---- loads ----

fn bare_callers(addr: SocketAddr, connections: usize, time: Time) -> Histogram<u64> {
    let connect = |_| {
        let stream = TcpStream::connect(addr).expect("a server that listens");
        stream.set_nodelay(true).expect("a socket");
        stream
    };
    on_threads((0..connections).map(connect).collect(), time, |mut stream, watch| {
        let mut bytes = [b'd'; LEN_BYTES];
        let mut began = Some(Instant::now());
        while let Some(since) = began {
            stream.write_all(&bytes).expect("a server that reads");
            stream.read_exact(&mut bytes).expect("a server that answers");
            began = watch.ended(since);
        }
    })
}

fn blocking_callers(addr: SocketAddr, connections: usize, time: Time) -> Histogram<u64> {
    on_threads(channels(addr, connections), time, |channel, watch| {
        let mut began = Some(Instant::now());
        while let Some(since) = began {
            let reply: Data =
                channel.call(&METHOD, &Data { data: DATA }, since + LONG).expect("an answer");
            assert_eq!(reply.data.len(), DATA.len());
            began = watch.ended(since);
        }
    })
}

fn completions(addr: SocketAddr, connections: usize, time: Time) -> Histogram<u64> {
    on_threads(channels(addr, connections), time, |channel, watch| {
        let own = Watch { times_ns: empty(), ..*watch };
        let (ended, all_ended) = mpsc::channel();
        let chain = Arc::new(Chain { channel, watch: Mutex::new(own), ended });
        (0..IN_FLIGHT).for_each(|_| call_on(&chain, Instant::now()));
        (0..IN_FLIGHT).for_each(|_| all_ended.recv().expect("each sends once"));
        watch.times_ns = std::mem::replace(&mut chain.watch.lock().times_ns, empty());
    })
}

/// A chain of calls: each makes the next one when it ends, and the last one reports it.
struct Chain {
    channel: Channel,
    watch: Mutex<Watch>,
    ended: mpsc::Sender<()>,
}

fn call_on(chain: &Arc<Chain>, began: Instant) {
    let next = Arc::clone(chain);
    let done = move |reply: Result<Data, _>| {
        assert_eq!(reply.expect("an answer").data.len(), DATA.len());
        let now = next.watch.lock().ended(began);
        match now {
            Some(now) => call_on(&next, now),
            None => next.ended.send(()).expect("somebody counts"),
        }
    };
    let args = Data { data: DATA };
    chain.channel.call_then(&METHOD, &CallOptions::default(), &args, began + LONG, done);
}

fn pendings(addr: SocketAddr, connections: usize, time: Time) -> Histogram<u64> {
    on_threads(channels(addr, connections), time, |channel, watch| {
        let start = |began: Instant| -> (Instant, Pending<Data>) {
            let args = Data { data: DATA };
            (began, channel.call_async(&METHOD, &CallOptions::default(), &args, began + LONG))
        };
        let mut under_way: VecDeque<_> = (0..IN_FLIGHT).map(|_| start(Instant::now())).collect();
        while let Some((began, pending)) = under_way.pop_front() {
            assert_eq!(pending.wait().expect("an answer").data.len(), DATA.len());
            under_way.extend(watch.ended(began).map(start));
        }
    })
}

fn channels(addr: SocketAddr, count: usize) -> Vec<Channel> {
    let connect =
        |_| Channel::builder(addr.to_string()).connect(Instant::now() + LONG).expect("a server");
    (0..count).map(connect).collect()
}

// ---- servers ----

fn serve_bare() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            thread::spawn(move || {
                let mut bytes = [0; LEN_BYTES];
                while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
            });
        }
    });
    serve_until_unwanted(addr);
}

fn serve_rpc() {
    let server = Server::builder()
        .inline_service(Echo)
        .limits(Limits::default())
        .bind("127.0.0.1:0")
        .build()
        .expect("a free port")
        .start();
    serve_until_unwanted(server.local_addr());
}
