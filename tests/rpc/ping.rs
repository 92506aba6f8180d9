//! Pings: a frozen peer is detected; a slow or idle one is left alone.

use std::io::{ErrorKind, Read};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use syncraft::rpc::{CallError, CallOptions, Channel, Server, StatusCode};

use crate::peers::*;
use crate::raw::*;
use crate::relay::Relay;
use crate::support::*;

const INTERVAL: Duration = Duration::from_millis(250);

/// For tests in which pings must be answered in time, even on a busy machine.
const LONG_INTERVAL: Duration = Duration::from_secs(1);

fn pings(server: &Server) -> u64 {
    server.stats().methods[&("rpc", "Ping")].calls
}

/// A long call over a network that stops while the call is under way.
fn check_frozen(wait: impl FnOnce(&Channel) -> CallError) {
    let (server, service) = serve_inline();
    let relay = Relay::to(server.local_addr());
    let channel = channel(relay.addr()).ping_interval(2 * INTERVAL).lazy();
    assert_eq!(call(&channel, "Echo", "x").unwrap(), "x");
    thread::scope(|scope| {
        scope.spawn(|| {
            service.wait_held(1);
            relay.freeze();
        });
        // It was noticed. If the call had only reached its deadline, the error would be another
        // one.
        let error = wait(&channel);
        assert!(is_lost(&error), "{error}");
        assert!(format!("{error:?}").contains("answer to a ping"), "{error:?}");
    });
    assert!(!channel.is_connected());
}

#[test]
fn a_frozen_peer_is_noticed_by_a_caller_that_waits() {
    check_frozen(|channel| call(channel, "Hold", "x").unwrap_err());
}

#[test]
fn a_frozen_peer_is_noticed_for_a_claim() {
    check_frozen(|channel| pending(channel, "Hold", "x", soon()).wait().unwrap_err());
}

#[test]
fn a_frozen_peer_is_noticed_for_a_completion() {
    check_frozen(|channel| {
        let (tx, rx) = mpsc::channel();
        let done = move |outcome: Result<Echo, _>| tx.send(outcome.unwrap_err()).unwrap();
        channel.call_then(&method("Hold"), &CallOptions::default(), &echo("x"), soon(), done);
        rx.recv_timeout(LONG).unwrap()
    });
}

/// Each call waits for less time than detection takes. Together they detect it, and the next one
/// connects again.
#[test]
fn a_frozen_peer_is_noticed_by_callers_that_wait_only_briefly() {
    let (server, _) = serve_inline();
    let relay = Relay::to(server.local_addr());
    let channel = channel(relay.addr()).ping_interval(2 * INTERVAL).lazy();
    assert_eq!(call(&channel, "Echo", "x").unwrap(), "x");
    relay.freeze();
    let brief = || channel.call::<_, Echo>(&method("Echo"), &echo("x"), within(40));
    wait_until("the connection is made anew", || brief().is_err() && relay.accepted() >= 2);
}

#[test]
fn a_call_of_many_ping_intervals_succeeds() {
    let (server, service) = serve_with(|builder| builder.handlers(1));
    for waits in [false, true] {
        let (pinged, began) = (pings(&server), Instant::now());
        let channel = channel(server.local_addr()).ping_interval(LONG_INTERVAL).lazy();
        let outcome = thread::scope(|scope| {
            let slow = scope.spawn(|| match waits {
                true => call(&channel, "Hold", "slow"),
                false => pending(&channel, "Hold", "slow", soon()).wait().map(|echo| echo.data),
            });
            wait_until("four pings are answered", || pings(&server) >= pinged + 4);
            service.take_held().into_iter().for_each(|(args, call)| call.typed().run(args));
            slow.join().unwrap()
        });
        assert_eq!(outcome.unwrap(), "slow");
        assert!(began.elapsed() >= 4 * LONG_INTERVAL);
        assert_eq!(channel.late_replies(), 0);
    }
}

/// The handler is blocked too, not only the call.
#[test]
fn a_method_that_blocks_its_handler_holds_up_no_pings() {
    let (server, service) = serve_with(|builder| builder.handlers(1));
    let channel = channel(server.local_addr()).ping_interval(LONG_INTERVAL).lazy();
    thread::scope(|scope| {
        let slow = scope.spawn(|| call(&channel, "Block", ""));
        service.wait_running();
        wait_until("four pings are answered", || pings(&server) >= 4);
        service.release();
        assert_eq!(slow.join().unwrap().unwrap(), "unblocked");
    });
}

#[test]
fn an_idle_connection_carries_no_pings() {
    for reads_itself in [false, true] {
        let (listener, addr) = listen();
        let channel = channel(addr).ping_interval(LONG_INTERVAL / 2).lazy();
        let answered = thread::scope(|scope| {
            let answered = scope.spawn(|| match reads_itself {
                true => pending(&channel, "Echo", "", soon()).wait().map(|echo| echo.data),
                false => call(&channel, "Echo", ""),
            });
            let mut server = Raw::accept(&listener);
            let id = server.next_call().0.call_id;
            server.answer(id, "answer");
            assert_eq!(answered.join().unwrap().unwrap(), "answer");
            server
        });
        let mut server = answered.0;
        // Pings that left just before the answer may still arrive.
        server.set_read_timeout(Some(2 * LONG_INTERVAL)).unwrap();
        let mut silent = false;
        for _ in 0..2 {
            silent = match server.read(&mut [0; 4096]) {
                Ok(count) => {
                    assert!(count > 0, "the connection was closed");
                    false
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    true
                }
            };
            if silent {
                break;
            }
        }
        assert!(silent, "pings of an idle connection");
        assert!(channel.is_connected());
    }
}

#[test]
fn a_server_that_knows_no_pings_counts_as_alive() {
    let (listener, addr) = listen();
    // This thread is the server.
    let channel = channel(addr).ping_interval(2 * LONG_INTERVAL).lazy();
    thread::scope(|scope| {
        let slow = scope.spawn(|| call(&channel, "Echo", "x"));
        let mut server = Raw::accept(&listener);
        let (asked, _) = server.next_call();
        for _ in 0..5 {
            let (ping, args) = server.next_call();
            assert_eq!((&ping.service[..], &ping.method[..]), (&b"rpc"[..], &b"Ping"[..]));
            assert!(ping.call_id > asked.call_id && args.is_empty());
            server.refuse(ping.call_id, StatusCode::UnknownService);
        }
        server.answer(asked.call_id, "slow");
        assert_eq!(slow.join().unwrap().unwrap(), "slow");
    });
    assert_eq!(channel.late_replies(), 0);
}

/// Silence counts only while somebody waits for an answer. Silence that an earlier call met long
/// ago must not end a later call.
#[test]
fn silence_between_two_calls_is_not_held_against_the_second() {
    let interval = Duration::from_millis(800);
    let (server, service) = serve_inline();
    let channel = channel(server.local_addr()).ping_interval(interval).lazy();
    // The call waits long enough for the silence to be noticed.
    let error = channel.call::<_, Echo>(&method("Hold"), &echo("x"), within(300)).unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
    let idle_since = Instant::now();
    wait_until("two intervals have passed", || idle_since.elapsed() > 2 * interval);
    thread::scope(|scope| {
        // It runs inline, so no ping is answered meanwhile.
        let slow = scope.spawn(|| call(&channel, "Block", ""));
        service.wait_running();
        let running_since = Instant::now();
        wait_until("half an interval has passed", || running_since.elapsed() > interval / 2);
        service.release();
        assert_eq!(slow.join().unwrap().unwrap(), "unblocked");
    });
    assert_eq!(server.stats().connections_accepted, 1);
}

#[test]
fn a_network_that_recovers_in_time_costs_nothing() {
    let (server, service) = serve_inline();
    let relay = Relay::to(server.local_addr());
    let channel = channel(relay.addr()).ping_interval(Duration::from_secs(5)).lazy();
    thread::scope(|scope| {
        let held = scope.spawn(|| call(&channel, "Hold", "x"));
        service.wait_held(1);
        relay.freeze();
        service.take_held().into_iter().for_each(|(args, call)| call.typed().run(args));
        relay.thaw();
        assert_eq!(held.join().unwrap().unwrap(), "x");
    });
    assert_eq!(relay.accepted(), 1);
}
