//! Idle connections: which ones are closed, which ones are not, and what their clients notice.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use prost::Message;
use syncraft::rpc::{
    CallError, CallOptions, ChannelBuilder, Invoke, Limits, Method, Retry, Retrying, Server,
    StatusCode,
};

use crate::raw::*;
use crate::support::*;

/// When the servers of these tests close an idle connection.
const IDLE: Duration = Duration::from_millis(100);

fn serve_with_short_timeouts() -> (Server, Arc<TestService>) {
    serve(Limits { idle_timeout: IDLE, ..Limits::default() })
}

fn idle_closed(server: &Server) -> u64 {
    server.stats().connections_idle
}

fn wait_idle_closed(server: &Server, connections: u64) {
    wait_until("idle connections are closed", || idle_closed(server) == connections);
}

#[test]
fn an_idle_connection_is_told_so_and_closed_and_counted() {
    let (server, _) = serve_with_short_timeouts();
    let mut raw = Raw::connect(server.local_addr());
    let began = Instant::now();
    // In one write: this thread may be held up between two of them.
    raw.send(&[request("Echo", 1, "x"), request("Echo", 2, "x")].concat());
    (1..=2).for_each(|id| raw.expect_echo(id, "x"));
    raw.expect_status(0, StatusCode::Closing);
    raw.expect_closed();
    let idle = began.elapsed();
    assert!((IDLE..LONG).contains(&idle), "closed after {idle:?}");
    wait_until("it ends", || server.connections() == 0);
    assert_eq!(idle_closed(&server), 1);
}

#[test]
fn a_connection_that_says_nothing_at_all_is_closed() {
    let limits = Limits { idle_timeout: IDLE, frame_timeout: IDLE, ..Limits::default() };
    let (server, _) = serve(limits);
    let mut raw = Raw::connect(server.local_addr());
    // The server does not know which format this client speaks.
    raw.expect_reset();
    wait_until("it ends", || server.connections() == 0);
    assert_eq!(idle_closed(&server), 1);
}

/// It could not be told that its first call has not run.
#[test]
fn a_connection_that_says_nothing_yet_has_the_time_of_a_frame() {
    let (server, _) = serve_with_short_timeouts();
    let mut raw = Raw::connect(server.local_addr());
    raw.expect_silence(3 * IDLE);
    raw.send(&request("Echo", 1, "x"));
    raw.expect_echo(1, "x");
    raw.expect_status(0, StatusCode::Closing);
}

#[test]
fn a_connection_with_a_call_open_is_not_idle() {
    let (server, service) = serve_with_short_timeouts();
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Hold", 1, "x"));
    service.wait_held(1);
    raw.expect_silence(6 * IDLE);
    let (args, call) = service.take_held().pop().unwrap();
    call.typed().run(args);
    raw.expect_echo(1, "x");
    // Then it is closed.
    raw.expect_status(0, StatusCode::Closing);
    raw.expect_closed();
    assert_eq!(idle_closed(&server), 1);
}

#[test]
fn a_connection_whose_call_waits_for_a_handler_is_not_idle() {
    let limits = Limits { idle_timeout: IDLE, ..Limits::default() };
    let (server, service) = serve_with(|builder| builder.limits(limits).handlers(1));
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Block", 1, "x"));
    service.wait_blocked(1);
    let mut queued = Raw::connect(server.local_addr());
    queued.send(&request("Echo", 1, "x"));
    queued.expect_silence(6 * IDLE);
    assert_eq!(idle_closed(&server), 0);
    service.release();
    raw.expect_echo(1, "unblocked");
    queued.expect_echo(1, "x");
}

#[test]
fn documented_clients_may_be_silent_for_as_long_as_they_like() {
    let (server, _) = serve_with_short_timeouts();
    let mut raw = Raw::connect(server.local_addr());
    for _ in 0..2 {
        raw.send(&request("Echo", 0, "x"));
        raw.expect_bare("x");
        raw.expect_silence(6 * IDLE);
    }
    assert_eq!(idle_closed(&server), 0);
}

#[test]
fn clients_of_a_reserved_service_may_be_silent_for_as_long_as_they_like() {
    let limits = Limits { idle_timeout: IDLE, ..Limits::default() };
    let server = Server::builder()
        .reserved_service(Published(Arc::default()))
        .limits(limits)
        .bind("127.0.0.1:0")
        .build()
        .unwrap()
        .start();
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Echo", 1, "x"));
    raw.expect_echo(1, "x");
    raw.expect_silence(6 * IDLE);
    raw.send(&request("Echo", 2, "x"));
    raw.expect_echo(2, "x");
    // A connection that has only asked for a method that does not exist gets no more time.
    let mut other = Raw::connect(server.local_addr());
    other.send(&request("Nothing", 1, "x"));
    other.expect_status(1, StatusCode::UnknownMethod);
    other.expect_status(0, StatusCode::Closing);
    other.expect_closed();
}

/// Sends a ping. Returns the head of what comes next, if the connection is still there.
fn ping(raw: &mut Raw, id: u64) -> io::Result<ReplyHead> {
    raw.0.write_all(&frame(&Head { service: "rpc".into(), ..head("Ping", id, 0) }, b""))?;
    let mut len = [0; 4];
    raw.0.read_exact(&mut len)?;
    let mut head = vec![0; u32::from_le_bytes(len) as usize];
    raw.0.read_exact(&mut head)?;
    Ok(ReplyHead::decode(&head[..]).unwrap())
}

#[test]
fn pings_keep_a_connection() {
    // If this thread is held up for so long that the connection is idle, the run shows nothing.
    wait_until("all pings of a run come in time", || {
        let (server, _) = serve_with_short_timeouts();
        let mut raw = Raw::connect(server.local_addr());
        let began = Instant::now();
        let (mut last, mut id) = (began, 0);
        while began.elapsed() < 6 * IDLE {
            id += 1;
            let sent = Instant::now();
            let answer = ping(&mut raw, id);
            if last.elapsed() >= IDLE {
                return false;
            }
            last = sent;
            let head = answer.unwrap();
            assert_eq!((head.call_id, head.status), (id, 0), "{}", head.message);
        }
        let closed = idle_closed(&server);
        assert!(closed == 0 || last.elapsed() >= IDLE, "it was closed");
        closed == 0
    });
}

// ---- channels ----

/// The next call after each idle close is answered as if nothing had happened.
fn check_transparent(builder: ChannelBuilder, server: &Server) {
    let channel = builder.lazy();
    let (mut rounds, until) = (0, soon());
    while rounds < 5 {
        assert!(Instant::now() < until, "no two calls follow one another in time");
        let (before, began) = (idle_closed(server), Instant::now());
        assert_eq!(call(&channel, "Echo", "x").unwrap(), "x");
        let second = call(&channel, "Echo", "y");
        let is_in_time = began.elapsed() < IDLE;
        wait_until("every connection is closed", || {
            let stats = server.stats();
            stats.connections_idle == stats.connections_accepted
        });
        wait_until("it is noticed", || !channel.is_connected());
        // If this thread was held up between the two calls, the second one may have met the close.
        if is_in_time {
            assert_eq!(second.unwrap(), "y");
            assert_eq!(idle_closed(server), before + 1);
            rounds += 1;
        }
    }
}

#[test]
fn an_idle_close_costs_a_channel_that_its_callers_read_no_call() {
    let (server, _) = serve_with_short_timeouts();
    check_transparent(channel(server.local_addr()), &server);
}

#[test]
fn an_idle_close_costs_a_channel_with_a_thread_of_its_own_no_call() {
    let (server, _) = serve_with_short_timeouts();
    let losses = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&losses);
    let on_disconnect = move || {
        count.fetch_add(1, Ordering::SeqCst);
    };
    check_transparent(channel(server.local_addr()).on_disconnect(on_disconnect), &server);
    assert_eq!(losses.load(Ordering::SeqCst), idle_closed(&server));
    // And a channel that began to read when the first call was made without waiting.
    let channel = channel(server.local_addr()).lazy();
    let before = idle_closed(&server);
    for closed in 1..=4 {
        let method = Method::new("testRpc", "Echo");
        let pending =
            channel.call_async::<_, Echo>(&method, &CallOptions::default(), &echo("x"), soon());
        assert_eq!(pending.wait().unwrap(), echo("x"));
        wait_idle_closed(&server, before + closed);
        wait_until("it is noticed", || !channel.is_connected());
    }
}

#[test]
fn a_channel_that_is_told_at_once_makes_its_next_call_over_another_connection() {
    let (server, _) = serve_with_short_timeouts();
    let channel = channel(server.local_addr()).lazy();
    for closed in 1..=10 {
        assert_eq!(call(&channel, "Echo", "x").unwrap(), "x");
        // The server has announced the close and still keeps its end open.
        wait_idle_closed(&server, closed);
    }
}

#[test]
fn threads_that_share_a_channel_find_an_idle_close_at_the_same_time() {
    let short = Duration::from_millis(10);
    let (server, service) = serve(Limits { idle_timeout: short, ..Limits::default() });
    let channel = channel(server.local_addr()).lazy();
    let mut answered = 0;
    for _ in 0..100 {
        wait_until("all are closed", || {
            let stats = server.stats();
            stats.connections_idle == stats.connections_accepted
        });
        let start = Arc::new(Barrier::new(4));
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let (channel, start) = (channel.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    call(&channel, "Echo", "x")
                })
            })
            .collect();
        for caller in callers {
            match caller.join().expect("a caller panicked") {
                Ok(_) => answered += 1,
                Err(error) => assert!(!error.may_have_run(), "{error:?}"),
            }
        }
    }
    assert_eq!(service.calls(), answered);
}

#[test]
fn a_call_that_crosses_an_idle_close_has_not_run_and_may_be_made_again() {
    const CALLS: u64 = 100;
    let short = Duration::from_millis(2);
    let (server, service) = serve(Limits { idle_timeout: short, ..Limits::default() });
    let seed = std::env::var("RPC_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("RPC_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for has_thread in [false, true] {
        let builder = channel(server.local_addr());
        let builder = if has_thread { builder.on_disconnect(|| {}) } else { builder };
        let (channel, before) = (builder.lazy(), service.calls());
        let mut answered = 0;
        while answered < CALLS {
            // Just before and just after the server closes the connection.
            let pause = short + Duration::from_micros(random.u64(0..600));
            let began = Instant::now();
            while began.elapsed() < pause {
                thread::yield_now();
            }
            match call(&channel, "Echo", "x") {
                Ok(_) => answered += 1,
                Err(CallError::Refused { status, .. }) if status.code == StatusCode::Closing => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(service.calls() - before, CALLS);
        // A client that retries calls which have not run notices nothing.
        let retrying = Retrying::new(channel.clone(), Retry::default());
        for _ in 0..CALLS {
            let began = Instant::now();
            let pause = short + Duration::from_micros(random.u64(0..600));
            while began.elapsed() < pause {
                thread::yield_now();
            }
            let (method, options) = (Method::new("testRpc", "Echo"), CallOptions::default());
            let reply: Echo = retrying.invoke(&method, &options, &echo("x"), soon()).unwrap();
            assert_eq!(reply.encoded_len(), echo("x").encoded_len());
        }
        assert_eq!(service.calls() - before, 2 * CALLS);
    }
}
