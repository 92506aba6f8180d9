//! A stop under load leaves no thread. One test in its own process, because it counts threads.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use syncraft::rpc::{Limits, Server, StatusCode};

use crate::alone::alone;
use crate::raw::*;
use crate::support::*;

/// The names of this process's threads that are ours.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread that has ended meanwhile has no name any more.
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.map(|name| name.trim_end().to_owned()).filter(|name| name.starts_with("rpc-")).collect()
}

/// A server whose handlers are blocked, whose queue is full, and whose connections' threads wait for all that they can wait for.
fn blocked_server() -> (Arc<Server>, Arc<TestService>, Vec<Raw>) {
    let limits = Limits { calls_max: 9, ..Limits::default() };
    let (server, service) = serve_with(|it| it.limits(limits).handlers(2).queue(3));
    let connect = |bytes: &[u8]| {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(bytes);
        raw
    };
    let blocking = connect(&[request("Block", 1, "x"), request("Block", 2, "x")].concat());
    service.wait_blocked(2);
    let queued: Vec<u8> = (1..=3).flat_map(|id| request("Echo", id, "x")).collect();
    let queued = connect(&queued);
    wait_queued(&server, 3);
    // Four that wait for a place in the queue, each with one behind it that waits for its turn.
    let two = [request("Echo", 0, "x"), request("Echo", 0, "x")].concat();
    let for_place: Vec<_> = (0..4).map(|_| connect(&two)).collect();
    wait_until("seven are open", || report(&server, "Echo").open == 7);
    // And one that waits for room among the calls in flight.
    let for_room = connect(&request("Echo", 0, "x"));
    let mut refused = connect(&request("Echo", 1, "x"));
    refused.expect_status(1, StatusCode::Busy);
    let mut all = vec![blocking, queued, for_room, refused];
    all.extend(for_place);
    (Arc::new(server), service, all)
}

#[test]
fn a_stop_under_load_leaves_no_thread_and_runs_nothing_more() {
    alone(|| {
        for drains in [false, true] {
            let (server, service, mut raws) = blocked_server();
            assert_eq!(threads().iter().filter(|name| name.starts_with("rpc-hand")).count(), 2);
            let stopping = {
                let server = Arc::clone(&server);
                thread::spawn(move || match drains {
                    false => server.stop(),
                    true => assert!(!server.drain(Duration::from_millis(50))),
                })
            };
            // All connections end while the handlers are still blocked.
            (1..=3).for_each(|id| drop(raws[1].expect_status(id, StatusCode::ShuttingDown)));
            // The one without calls is told that there was nothing else, where there is time for it.
            if drains {
                raws[3].expect_status(0, StatusCode::ShuttingDown);
            }
            raws.iter_mut().for_each(Raw::expect_closed);
            service.release();
            in_time(move || stopping.join().unwrap());
            assert_eq!(threads(), Vec::<String>::new());
            assert_eq!(service.calls(), 2);
        }
    });
}
