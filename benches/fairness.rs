//! What a greedy caller costs a light one if calls are served in the order of arrival, and if they
//! are served by their callers' shares ([`Fairness`]).
//!
//! ```text
//! cargo bench --bench fairness
//! cargo bench --bench fairness -- --calls 1000
//! ```
//!
//! The greedy caller has 64 threads. Each calls again as soon as it is answered, or when a busy
//! server told it to. The light caller calls every 20 ms. The server has two handlers and a queue
//! of 64 calls, and its method keeps a handler for a millisecond. Prints a Markdown table of the
//! light caller's latencies, and of the greedy caller's throughput, which fairness costs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use syncraft::rpc::{
    Call, CallError, Channel, Fairness, Method, Server, ServerBuilder, Service, StatusCode,
};

const GREEDY_THREADS: usize = 64;
const LIGHT_PAUSE: Duration = Duration::from_millis(20);
const WORK: Duration = Duration::from_millis(1);

/// The beginning, which does not count: the server does not know yet who is greedy.
const WARM_UP: Duration = Duration::from_millis(500);

const SERVICE: &str = "workRpc";
const METHOD: Method = Method::new(SERVICE, "Work");

struct WorkRpc;

impl Service for WorkRpc {
    fn name(&self) -> &'static str {
        SERVICE
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Work"]
    }

    fn call(&self, _: usize, _: Bytes, call: Call) {
        thread::sleep(WORK);
        call.typed().run(());
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let calls = match &words[..] {
        [] => 300,
        [option, calls] if option == "--calls" => calls.parse().expect("a number of calls"),
        _ => panic!("{words:?}: --calls N"),
    };
    println!("| queue | light p50 ms | light p99 ms | light busy | greedy calls/s |");
    println!("|---|---:|---:|---:|---:|");
    for (name, builder) in
        [("plain", Server::builder()), ("fair", Server::builder().fair(Fairness::default()))]
    {
        let Outcome { light_us, light_busy, greedy_per_second } = measure(builder, calls);
        let ms = |quantile| light_us.value_at_quantile(quantile) as f64 / 1000.0;
        println!(
            "| {name} | {:.1} | {:.1} | {light_busy} of {calls} | {greedy_per_second:.0} |",
            ms(0.5),
            ms(0.99),
        );
    }
}

struct Outcome {
    light_us: Histogram<u64>,
    light_busy: u64,
    greedy_per_second: f64,
}

fn measure(builder: ServerBuilder, calls: u64) -> Outcome {
    let builder = builder.service(WorkRpc).bind("127.0.0.1:0").handlers(2).queue(64);
    let server = builder.build().expect("a free port").start();
    let connect = |caller: &'static str| {
        let channel = Channel::builder(server.local_addr().to_string()).caller(caller);
        channel.connect(soon()).expect("a server")
    };
    let (greedy, light) = (connect("greedy"), connect("light"));
    let (is_over, greedy_calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut light_us = Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds in order");
    let (mut light_busy, mut elapsed) = (0, Duration::ZERO);
    thread::scope(|scope| {
        for _ in 0..GREEDY_THREADS {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    match call(&greedy) {
                        Ok(()) => drop(greedy_calls.fetch_add(1, Ordering::Relaxed)),
                        Err(wait) => thread::sleep(wait),
                    }
                }
            });
        }
        thread::sleep(WARM_UP);
        greedy_calls.store(0, Ordering::Relaxed);
        let start = Instant::now();
        for _ in 0..calls {
            thread::sleep(LIGHT_PAUSE);
            let began = Instant::now();
            match call(&light) {
                Ok(()) => light_us.saturating_record(began.elapsed().as_micros() as u64),
                Err(_) => light_busy += 1,
            }
        }
        elapsed = start.elapsed();
        is_over.store(true, Ordering::Relaxed);
    });
    let greedy_per_second = greedy_calls.into_inner() as f64 / elapsed.as_secs_f64();
    Outcome { light_us, light_busy, greedy_per_second }
}

/// `Err`: how long to wait, because the server is busy.
fn call(channel: &Channel) -> Result<(), Duration> {
    match channel.call::<(), ()>(&METHOD, &(), soon()) {
        Ok(()) => Ok(()),
        Err(CallError::Refused { status, .. }) if status.code == StatusCode::Busy => {
            Err(status.retry_after.expect("it says when to try again"))
        }
        Err(error) => panic!("{error}"),
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}
