//! One caller with 64 threads, and one that calls now and then, at a server of two handlers whose method takes a millisecond: what the
//! second one waits for, where calls are served in the order in which they come, and where they are served by their callers' shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use syncraft::rpc::{
    Call, CallError, Channel, Fairness, Method, Server, ServerBuilder, Service, StatusCode,
};

use crate::raw::*;
use crate::support::*;

const GREEDY_THREADS: usize = 64;
const LIGHT_CALLS: usize = 60;

/// Between the light caller's calls: with one in 20 ms its share of two handlers is a fortieth.
const LIGHT_PAUSE: Duration = Duration::from_millis(20);

const SERVICE: &str = "workRpc";
const METHOD: Method = Method::new(SERVICE, "Work");

/// Answers with how many calls had begun before this one.
#[derive(Default)]
struct Work {
    begun: AtomicU64,
}

struct WorkRpc(Arc<Work>);

impl Service for WorkRpc {
    fn name(&self) -> &'static str {
        SERVICE
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Work"]
    }

    fn call(&self, _: usize, _: Bytes, call: Call) {
        let begun = self.0.begun.fetch_add(1, Ordering::SeqCst);
        // Holds a handler, and leaves the processor to the callers.
        thread::sleep(Duration::from_millis(1));
        call.typed().run(begun);
    }
}

/// What became of the light caller's calls.
#[derive(Debug, Default)]
struct Light {
    busy: usize,
    /// Of each that was served: calls that began between its own coming and its beginning.
    overtaken_by: Vec<u64>,
}

impl Light {
    fn median(&self) -> u64 {
        let mut sorted = self.overtaken_by.clone();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    }
}

fn call_light(builder: ServerBuilder) -> Light {
    let work = Arc::new(Work::default());
    let builder = builder.service(WorkRpc(work.clone())).bind("127.0.0.1:0");
    let server = builder.handlers(2).queue(64).build().unwrap().start();
    let connect =
        |caller: &'static str| channel(server.local_addr()).caller(caller).connect(soon()).unwrap();
    let (greedy, light) = (connect("greedy"), connect("light"));
    let (is_over, mut outcome) = (AtomicBool::new(false), Light::default());
    thread::scope(|scope| {
        for _ in 0..GREEDY_THREADS {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // As a client of ours does that is told to wait.
                    call_work(&greedy).unwrap_or_else(|wait| {
                        thread::sleep(wait);
                        0
                    });
                }
            });
        }
        // Until it is known who is greedy: what came before passed for light.
        wait_until("the greedy one's calls", || {
            thread::sleep(Duration::from_millis(1));
            work.begun.load(Ordering::SeqCst) > 300
        });
        for _ in 0..LIGHT_CALLS {
            thread::sleep(LIGHT_PAUSE);
            let before = work.begun.load(Ordering::SeqCst);
            match call_work(&light) {
                Ok(begun) => outcome.overtaken_by.push(begun - before),
                Err(_) => outcome.busy += 1,
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    outcome
}

/// How many calls had begun before; or how long to wait, as the server is busy.
fn call_work(channel: &Channel) -> Result<u64, Duration> {
    match channel.call::<(), u64>(&METHOD, &(), soon()) {
        Ok(begun) => Ok(begun),
        Err(CallError::Refused { status, .. }) if status.code == StatusCode::Busy => {
            Err(status.retry_after.expect("it says when to try again"))
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_light_caller_hardly_waits_for_a_greedy_one_where_shares_count() {
    let plain = call_light(Server::builder());
    let fair = call_light(Server::builder().fair(Fairness::default()));
    println!("plain: {plain:?}\nfair: {fair:?}");
    // In order, it waits for all that the 64 threads have asked for, but for a few that are on their way.
    assert!(plain.median() >= 32, "{plain:?}");
    // By shares, for little more than the two that are being served.
    assert!(fair.median() <= plain.median() / 6, "{fair:?} {plain:?}");
    assert!(fair.busy <= LIGHT_CALLS / 10, "{fair:?}");
}
