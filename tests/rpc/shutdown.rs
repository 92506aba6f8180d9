//! A server that stops, gracefully or at once: what becomes of calls that run, that wait, and that
//! come too late.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use syncraft::rpc::{Call, CallError, Channel, Limits, Server, Service, StatusCode};

use crate::raw::*;
use crate::support::*;

/// Begins to drain, and returns once the server takes no more connections.
fn drain(server: &Arc<Server>, limit: Duration) -> JoinHandle<bool> {
    let draining = {
        let server = Arc::clone(server);
        thread::spawn(move || server.drain(limit))
    };
    let addr = server.local_addr();
    wait_until("connections are refused", || TcpStream::connect(addr).is_err());
    draining
}

fn serve_pooled(handlers: usize) -> (Arc<Server>, Arc<TestService>) {
    let (server, service) = serve_with(|builder| builder.handlers(handlers));
    (Arc::new(server), service)
}

/// A server like the first one, on its port.
fn serve_again(server: &Server) -> Server {
    Server::builder()
        .service(Published(Arc::default()))
        .bind(server.local_addr().to_string())
        .build()
        .unwrap()
        .start()
}

// ---- drain ----

#[test]
fn a_drain_sees_open_calls_through_and_refuses_further_ones() {
    let (server, service) = serve_pooled(2);
    let mut raw = Raw::connect(server.local_addr());
    // One call that waits for its answer without a handler, two that run, one that is queued.
    raw.send(&request("Hold", 1, "held"));
    service.wait_held(1);
    (2..=3).for_each(|id| raw.send(&request("Block", id, "x")));
    service.wait_blocked(2);
    raw.send(&request("Echo", 4, "queued"));
    wait_queued(&server, 1);
    let draining = drain(&server, LONG);
    for id in 5..10 {
        raw.send(&request("Echo", id, "too late"));
        raw.expect_status(id, StatusCode::ShuttingDown);
    }
    service.release();
    let mut ids: Vec<_> = (0..3).map(|_| raw.reply()).map(|(head, _)| head.call_id).collect();
    ids.sort();
    assert_eq!(ids, [2, 3, 4]);
    let (args, call) = service.take_held().pop().unwrap();
    call.typed().run(args);
    raw.expect_echo(1, "held");
    // Then it is told that there was nothing else.
    raw.expect_status(0, StatusCode::ShuttingDown);
    raw.expect_closed();
    assert!(draining.join().unwrap());
    assert_eq!(service.calls(), 4);
}

#[test]
fn a_drain_answers_the_documented_call_that_runs_and_no_other() {
    let (server, service) = serve_pooled(1);
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Hold", 0, "first"));
    service.wait_held(1);
    let draining = drain(&server, LONG);
    raw.send(&request("Echo", 0, "second"));
    let (args, call) = service.take_held().pop().unwrap();
    call.typed().run(args);
    raw.expect_bare("first");
    raw.expect_closed();
    assert!(draining.join().unwrap());
    assert_eq!(service.calls(), 1);
}

#[test]
fn a_drain_is_told_to_whoever_understands_it() {
    let (server, _) = serve_pooled(1);
    let [silent, mut documented, mut extended, mut both] =
        [(); 4].map(|()| Raw::connect(server.local_addr()));
    documented.send(&request("Echo", 0, "x"));
    documented.expect_bare("x");
    extended.send(&request("Echo", 1, "x"));
    extended.expect_echo(1, "x");
    both.send(&[request("Echo", 0, "x"), request("Echo", 1, "x")].concat());
    both.expect_bare("x");
    both.expect_echo(1, "x");
    wait_until("all are there", || server.connections() == 4);
    assert!(server.drain(LONG));
    for raw in [&mut extended, &mut both] {
        raw.expect_status(0, StatusCode::ShuttingDown);
        raw.expect_end();
    }
    [silent, documented].iter_mut().for_each(Raw::expect_reset);
}

#[test]
fn a_drain_lasts_until_a_slow_client_has_its_answer() {
    let (server, _) = serve_pooled(1);
    let mut raw = Raw::connect(server.local_addr());
    // More than the sockets' buffers hold.
    raw.send(&request("Big", 1, "15000000"));
    wait_until("it is answered", || report(&server, "Big").reply_bytes > 0);
    let draining = drain(&server, LONG);
    let (head, body) = raw.reply();
    assert_eq!((head.call_id, head.status, body.len() > 15_000_000), (1, 0, true));
    raw.expect_status(0, StatusCode::ShuttingDown);
    raw.expect_closed();
    assert!(draining.join().unwrap());
}

#[test]
fn a_drain_whose_time_passes_says_so() {
    let (server, service) = serve_pooled(1);
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Block", 1, "x"));
    service.wait_blocked(1);
    raw.send(&request("Echo", 2, "queued"));
    wait_queued(&server, 1);
    let draining = drain(&server, Duration::from_millis(50));
    // It ends like `stop`: queued calls have not run, and running ones are lost.
    raw.expect_status(2, StatusCode::ShuttingDown);
    raw.expect_closed();
    service.release();
    assert!(!draining.join().unwrap());
    assert_eq!(service.calls(), 1);
}

#[test]
fn a_drain_with_nothing_to_wait_for_ends_at_once_whatever_its_limit() {
    for limit in [Duration::ZERO, LONG, Duration::MAX] {
        let (server, _) = serve_pooled(1);
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&request("Echo", 1, "x"));
        raw.expect_echo(1, "x");
        // A second drain has even less to do.
        assert!(in_time(move || server.drain(limit) && server.drain(limit)), "{limit:?}");
        raw.expect_status(0, StatusCode::ShuttingDown);
        raw.expect_closed();
    }
}

/// Calls until an error says that the call has not run. Returns how many calls were answered.
fn call_until_refused(channel: &Channel) -> u64 {
    let mut answered = 0;
    loop {
        match call(channel, "Echo", "x") {
            Ok(_) => answered += 1,
            Err(error) => {
                assert!(!error.may_have_run(), "{error:?}");
                return answered;
            }
        }
    }
}

#[test]
fn whoever_calls_during_a_drain_knows_whether_it_was_run() {
    for handlers in [0, 2] {
        let (server, service) = serve_pooled(handlers);
        let callers: Vec<_> = (0..8)
            .map(|number| {
                let addr = server.local_addr();
                thread::spawn(move || {
                    // Every other channel has a thread of its own that reads.
                    let builder = channel(addr);
                    let channel = match number % 2 {
                        0 => builder.lazy(),
                        _ => builder.on_disconnect(|| {}).lazy(),
                    };
                    call_until_refused(&channel)
                })
            })
            .collect();
        wait_until("all call", || {
            let stats = server.stats();
            stats.connections == 8 && stats.methods[&("testRpc", "Echo")].calls > 200
        });
        assert!(server.drain(LONG));
        let answered: u64 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
        assert_eq!(service.calls(), answered);
    }
}

#[test]
fn threads_that_share_a_channel_know_it_as_well() {
    for has_thread in [false, true] {
        let (server, service) = serve_pooled(2);
        let builder = channel(server.local_addr());
        let builder = if has_thread { builder.on_disconnect(|| {}) } else { builder };
        let channel = builder.connect(soon()).unwrap();
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let channel = channel.clone();
                thread::spawn(move || call_until_refused(&channel))
            })
            .collect();
        wait_until("they call", || report(&server, "Echo").calls > 200);
        assert!(server.drain(LONG));
        let answered: u64 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
        assert_eq!(service.calls(), answered);
    }
}

#[test]
fn a_drain_does_not_wait_beyond_its_limit_for_a_client_that_does_not_read() {
    let (server, _) = serve_pooled(1);
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Big", 1, "15000000"));
    wait_until("it is answered", || report(&server, "Big").reply_bytes > 0);
    assert!(!drain(&server, Duration::from_millis(50)).join().unwrap());
    assert!(raw.rest().len() < 15_000_000);
}

// ---- stop ----

#[test]
fn calls_that_wait_for_a_handler_at_a_stop_are_told_that_they_did_not_run() {
    let (server, service) = serve_pooled(1);
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Block", 1, "x"));
    service.wait_blocked(1);
    (2..=10).for_each(|id| raw.send(&request("Echo", id, "x")));
    let mut documented = Raw::connect(server.local_addr());
    documented.send(&request("Echo", 0, "x"));
    wait_queued(&server, 10);
    let stopping = {
        let server = Arc::clone(&server);
        thread::spawn(move || server.stop())
    };
    (2..=10).for_each(|id| drop(raw.expect_status(id, StatusCode::ShuttingDown)));
    raw.expect_closed();
    documented.expect_closed();
    service.release();
    stopping.join().unwrap();
    assert_eq!(service.calls(), 1);
    let stats = server.stats();
    assert_eq!((stats.connections, stats.queue_len), (0, 0));
}

/// Stops the server that runs it.
struct Stopper(Arc<OnceLock<Weak<Server>>>);

impl Service for Stopper {
    fn name(&self) -> &'static str {
        "stopRpc"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Stop"]
    }

    fn call(&self, _: usize, _: Bytes, call: Call) {
        call.typed().run(echo("stopping"));
        self.0.get().unwrap().upgrade().unwrap().stop();
    }
}

#[test]
fn a_method_may_stop_its_own_server() {
    for handlers in [0, 2] {
        let its_server = Arc::new(OnceLock::new());
        let stopper = Stopper(Arc::clone(&its_server));
        let (server, service) = serve_with(|builder| builder.service(stopper).handlers(handlers));
        let server = Arc::new(server);
        its_server.set(Arc::downgrade(&server)).unwrap();
        let mut raw = Raw::connect(server.local_addr());
        let head = Head { service: "stopRpc".into(), ..head("Stop", 1, 0) };
        raw.send(&frame(&head, b""));
        raw.expect_echo(1, "stopping");
        raw.expect_closed();
        // A call's thread cannot wait for itself; this thread can.
        in_time(move || server.stop());
        assert_eq!(service.calls(), 0);
    }
}

// ---- clients over a stop ----

/// A client with an idle connection makes its next call after `stop`. The call has not run, and the
/// one after the restart is answered.
fn check_idle_client(reads_itself: bool, stop: fn(&Server)) {
    let (server, _) = serve_pooled(1);
    let mut server = Arc::into_inner(server).unwrap();
    let lost = Arc::new(AtomicBool::new(false));
    let builder = channel(server.local_addr());
    let client = match reads_itself {
        false => builder.lazy(),
        true => {
            let lost = Arc::clone(&lost);
            builder.on_disconnect(move || lost.store(true, Ordering::SeqCst)).lazy()
        }
    };
    for _ in 0..3 {
        assert_eq!(call(&client, "Echo", "x").unwrap(), "x");
        stop(&server);
        match reads_itself {
            true => wait_until("the loss is noticed", || lost.swap(false, Ordering::SeqCst)),
            false => wait_until("the end is found", || !client.is_connected()),
        }
        let error = call(&client, "Echo", "x").unwrap_err();
        assert!(!error.may_have_run(), "{error:?}");
        assert!(matches!(error, CallError::NotSent { .. }), "{error:?}");
        server = serve_again(&server);
    }
    assert_eq!(call(&client, "Echo", "x").unwrap(), "x");
}

#[test]
fn an_idle_client_knows_that_its_call_over_a_stop_did_not_run_and_finds_the_next_server() {
    let stops: [fn(&Server); 2] = [|server| server.stop(), |server| assert!(server.drain(LONG))];
    for stop in stops {
        for reads_itself in [false, true] {
            check_idle_client(reads_itself, stop);
        }
    }
}

#[test]
fn a_call_that_meets_a_drain_is_refused_and_not_run() {
    let (server, service) = serve_pooled(1);
    let idle = channel(server.local_addr()).connect(soon()).unwrap();
    let busy = channel(server.local_addr()).connect(soon()).unwrap();
    let holding = thread::spawn(move || call(&busy, "Hold", "held"));
    service.wait_held(1);
    let draining = drain(&server, LONG);
    let error = call(&idle, "Echo", "x").unwrap_err();
    let code = match &error {
        CallError::Refused { status, .. } => Some(status.code),
        _ => None,
    };
    assert_eq!(code, Some(StatusCode::ShuttingDown), "{error:?}");
    let (args, call) = service.take_held().pop().unwrap();
    call.typed().run(args);
    assert_eq!(holding.join().unwrap().unwrap(), "held");
    assert!(draining.join().unwrap());
    assert_eq!(service.calls(), 1);
}

#[test]
fn a_connection_that_waits_for_room_is_no_hindrance() {
    let limits = Limits { calls_max: 1, ..Limits::default() };
    let (server, service) = serve_with(|builder| builder.limits(limits).handlers(1));
    let server = Arc::new(server);
    let mut holding = Raw::connect(server.local_addr());
    holding.send(&request("Hold", 1, "x"));
    service.wait_held(1);
    // Neither has begun, because there is no room for it.
    let mut documented = Raw::connect(server.local_addr());
    documented.send(&request("Echo", 0, "x"));
    let draining = drain(&server, Duration::from_millis(100));
    holding.expect_closed();
    documented.expect_closed();
    assert!(!draining.join().unwrap());
    assert_eq!(service.calls(), 1);
}
