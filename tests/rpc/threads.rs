//! A server and a channel leave nothing behind. These tests count threads, so each runs in a
//! process of its own.

use std::net::Shutdown;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use syncraft::rpc::{CallError, CallOptions, Channel, Limits, Method, Server, StatusCode};

use crate::alone::alone;
use crate::raw::*;
use crate::support::*;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn check_stopped(what: &str, stop: impl FnOnce() + Send + 'static) {
    let began = Instant::now();
    in_time(stop);
    // One that leaves a thread behind, or waits for a client, takes longer.
    assert!(began.elapsed() < LONG / 2, "{what}: stopped after {:?}", began.elapsed());
    assert_eq!(threads(), Vec::<String>::new(), "{what}");
}

/// A server with a connection in every state that can occupy a thread, and the sockets that keep
/// these states alive.
fn busy_server(service: &Arc<TestService>) -> (Server, Vec<Raw>) {
    // No client is cut before the stop has taken too long.
    let (frame_timeout, write_timeout) = (2 * LONG, 2 * LONG);
    let limits = Limits { calls_max: 6, frame_timeout, write_timeout, ..Limits::default() };
    let server = Server::builder()
        .service(Published(service.clone()))
        .limits(limits)
        .bind("127.0.0.1:0")
        .build()
        .unwrap()
        .start();
    let connect = |bytes: &[u8]| {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(bytes);
        raw
    };
    let idle = connect(b"");
    let in_head = connect(&request("Echo", 0, "x")[..9]);
    let in_body = connect(&request("Echo", 1, &"x".repeat(50_000))[..40_000]);
    let unanswered = connect(&request("Hold", 0, "x"));
    let next_waits = connect(&[request("Hold", 0, "x"), request("Echo", 0, "x")].concat());
    let half_closed = connect(&request("Hold", 1, "x"));
    half_closed.0.shutdown(Shutdown::Write).unwrap();
    // Two clients do not read what is written to them: one whose reader goes on, one whose reader
    // waits.
    let writing = connect(&request("Big", 1, "15000000"));
    let write_blocked =
        connect(&[request("Big", 1, "15000000"), request("Big", 2, "15000000")].concat());
    service.wait_held(3);
    wait_until("two writers", || {
        threads().iter().filter(|name| name.starts_with("rpc-send")).count() == 2
    });
    // And one that waits for room: now six calls are open.
    let _more: Vec<_> = (0..2).map(|id| connect(&request("Hold", id + 1, "x"))).collect();
    service.wait_held(5);
    let no_room = connect(&request("Echo", 0, "x"));
    let all = vec![
        idle,
        in_head,
        in_body,
        unanswered,
        next_waits,
        half_closed,
        writing,
        write_blocked,
        no_room,
    ];
    (server, all)
}

#[test]
fn every_thread_is_joined() {
    alone(|| {
        assert_eq!(threads(), Vec::<String>::new());
        let descriptors_before = descriptors();

        let (server, service) = serve(Limits::default());
        check_stopped("an idle server", move || server.stop());

        let (server, raws) = busy_server(&service);
        check_stopped("a busy server", move || drop(server));
        drop(raws);
        service.take_held().into_iter().for_each(|(args, call)| call.typed().run(args));

        // The stop waits for a service in the middle of a call.
        let (server, service) = serve(Limits::default());
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&request("Block", 1, "x"));
        service.wait_running();
        let stopping = thread::spawn(move || server.stop());
        service.release();
        check_stopped("a server with a call running", move || stopping.join().unwrap());
        drop(raw);

        // Connections come and go.
        let (server, service) = serve(Limits::default());
        for i in 0..300 {
            let mut raw = Raw::connect(server.local_addr());
            if i % 2 == 0 {
                raw.send(&request("Echo", 0, "x"));
                raw.expect_bare("x");
            }
        }
        wait_until("every connection ends", || server.connections() == 0);
        wait_until("and its thread", || threads().len() <= 2);
        let addr = server.local_addr();
        let channel = channel(addr).lazy();
        let mut outcomes = Vec::new();
        for _ in 0..10 {
            assert_eq!(call(&channel, "Echo", "x").unwrap(), "x");
            let pending = |channel: &Channel| {
                let (tx, outcome) = mpsc::channel();
                let done = move |ended: Result<Echo, CallError>| tx.send(ended.is_err()).unwrap();
                channel.call_then(
                    &Method::new("testRpc", "Hold"),
                    &CallOptions::default(),
                    &echo("x"),
                    soon(),
                    done,
                );
                outcome
            };
            outcomes.push(pending(&channel));
            let other = crate::support::channel(addr).connect(soon()).unwrap();
            let outcome = pending(&other);
            drop(other);
            assert!(outcome.try_recv().unwrap(), "a channel that is gone has run its completions");
        }
        assert!(outcomes.iter().all(|outcome| outcome.try_recv().is_err()));
        drop(channel);
        assert!(outcomes.iter().all(|outcome| outcome.try_recv() == Ok(true)));
        check_stopped("a server whose clients are gone", move || drop(server));

        // Calls that the service never answered still exist, and keep no socket open.
        let held = service.take_held();
        assert!(!held.is_empty());
        wait_until("every descriptor is closed", || descriptors() == descriptors_before);
        held.into_iter().for_each(|(args, call)| call.typed().run(args));
    });
}

/// A server whose handlers are blocked and whose queue is full. Its connections' threads wait for
/// everything that they can wait for.
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
    // Four calls wait for a place in the queue, each with another call behind it.
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
            // If there is time, the connection without calls is told that it closes.
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
