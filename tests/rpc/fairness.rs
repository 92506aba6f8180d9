//! One caller with 64 threads and one that calls now and then share a server. It has two handlers,
//! and its method takes a millisecond. How long does the second caller wait if calls are served in
//! order of arrival, and how long if each caller gets a fair share?

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

/// Between the light caller's calls: one call in 20 ms uses a fortieth of two handlers.
const LIGHT_PAUSE: Duration = Duration::from_millis(20);

const SERVICE: &str = "workRpc";
const METHOD: Method = Method::new(SERVICE, "Work");

/// Answers with the number of calls that had begun before this one.
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
        // Keeps its handler, and leaves the processor to the callers.
        thread::sleep(Duration::from_millis(1));
        call.typed().run(begun);
    }
}

/// What became of the light caller's calls.
#[derive(Debug, Default)]
struct Light {
    busy: usize,
    /// For each call that was served: how many calls began between its arrival and its own start.
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
                    // As our own client does when it is told to wait.
                    call_work(&greedy).unwrap_or_else(|wait| {
                        thread::sleep(wait);
                        0
                    });
                }
            });
        }
        // Not before the server knows who is greedy: earlier calls counted as light.
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

/// How many calls had begun before; or how long to wait, if the server is busy.
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
    // In order of arrival, it waits for all calls of the 64 threads, except a few that are on their
    // way.
    assert!(plain.median() >= 32, "{plain:?}");
    // With fair shares, it waits for little more than the two calls that run.
    assert!(fair.median() <= plain.median() / 6, "{fair:?} {plain:?}");
    assert!(fair.busy <= LIGHT_CALLS / 10, "{fair:?}");
}
