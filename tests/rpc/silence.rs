//! Connections that stay open and carry nothing are given up after one attempt, and the next
//! attempt works. Servers and networks that are only slow are left alone.

use std::thread;
use std::time::{Duration, Instant};

use syncraft::rpc::{
    CallError, CallOptions, Channel, ChannelBuilder, FixedSource, Invoke, Method, Retry, Retrying,
    Server, Targets,
};

use crate::peers::*;
use crate::raw::*;
use crate::relay::Relay;
use crate::support::*;

/// How long a patient caller waits. An attempt that meets only silence takes all of it.
const ATTEMPT: u64 = 1_000;

/// Much less than pings alone need: two pings of 10 s.
const AT_MOST: Duration = Duration::from_secs(8);

fn relayed() -> (Server, Relay) {
    let (server, _) = serve_inline();
    let relay = Relay::to(server.local_addr());
    (server, relay)
}

/// Calls over a connection that turns silent, made in each possible way: after one failed attempt,
/// the next one goes over a new connection.
fn check_renewed(
    build: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
    attempt: impl Fn(&Channel) -> Result<String, CallError>,
) {
    let (_server, relay) = relayed();
    let channel = build(channel(relay.addr())).lazy();
    assert_eq!(attempt(&channel).unwrap(), "x");
    relay.blackhole();
    let began = Instant::now();
    let error = attempt(&channel).unwrap_err();
    assert!(error.may_have_run(), "{error}");
    wait_until("an attempt succeeds", || attempt(&channel).is_ok());
    assert!(began.elapsed() < AT_MOST, "{:?}", began.elapsed());
    assert!(relay.accepted() >= 2);
}

fn invoke(invoker: &impl Invoke, method: &Method) -> Result<Echo, CallError> {
    invoker.invoke(method, &CallOptions::default(), &echo("x"), soon())
}

fn blocking(channel: &Channel) -> Result<String, CallError> {
    let call = channel.call::<_, Echo>(&method("Echo"), &echo("x"), within(ATTEMPT));
    call.map(|echo| String::from_utf8(echo.data.to_vec()).unwrap())
}

fn claimed(channel: &Channel) -> Result<String, CallError> {
    let pending = pending(channel, "Echo", "x", within(ATTEMPT));
    pending.wait().map(|echo| String::from_utf8(echo.data.to_vec()).unwrap())
}

#[test]
fn a_caller_that_waits_in_vain_leaves_a_new_connection_to_the_next() {
    check_renewed(|builder| builder, blocking);
}

#[test]
fn a_claim_that_waits_in_vain_leaves_a_new_connection_to_the_next() {
    check_renewed(|builder| builder, claimed);
}

#[test]
fn a_caller_beside_claims_does_as_well() {
    check_renewed(|builder| builder.on_disconnect(|| {}), blocking);
}

#[test]
fn a_short_ping_interval_finds_it_within_the_attempt() {
    let build = |builder: ChannelBuilder| builder.ping_interval(Duration::from_millis(100));
    check_renewed(build, blocking);
}

/// The attempts of one call: the caller notices only that it took longer.
#[test]
fn a_repeated_call_goes_over_a_new_connection_by_itself() {
    let (_server, relay) = relayed();
    let retrying = Retrying::new(channel(relay.addr()).lazy(), Retry::default())
        .attempt_timeout(Duration::from_millis(ATTEMPT));
    let call = || invoke(&retrying, &method("Echo").idempotent());
    call().unwrap();
    relay.blackhole();
    let began = Instant::now();
    call().unwrap();
    assert!(began.elapsed() < AT_MOST, "{:?}", began.elapsed());
    assert!(relay.accepted() >= 2);
}

#[test]
fn of_several_servers_all_are_back_after_an_attempt_each() {
    let servers: Vec<(Server, Relay)> = (0..2).map(|_| relayed()).collect();
    let addrs = servers.iter().map(|(_, relay)| relay.addr());
    let targets = Targets::builder(FixedSource::new(addrs)).build();
    let call = || targets.call::<_, Echo>(&method("Echo"), &echo("x"), within(ATTEMPT));
    (0..4).for_each(|_| drop(call().unwrap()));
    servers.iter().for_each(|(_, relay)| relay.blackhole());
    let began = Instant::now();
    // In turn, so that both serve.
    let mut served = 0;
    wait_until("ten calls in a row are answered", || {
        served = if call().is_ok() { served + 1 } else { 0 };
        served == 10
    });
    assert!(began.elapsed() < AT_MOST, "{:?}", began.elapsed());
}

/// Threads with overlapping calls: one of the calls has always just begun.
#[test]
fn callers_side_by_side_are_all_served_again() {
    let (_server, relay) = relayed();
    let channel = channel(relay.addr()).lazy();
    blocking(&channel).unwrap();
    relay.blackhole();
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| wait_until("it is served", || blocking(&channel).is_ok()));
        }
    });
    assert!(began.elapsed() < AT_MOST, "{:?}", began.elapsed());
    assert!(relay.accepted() >= 2);
}

/// Calls end at their deadlines without an answer. The server answers pings, so it is known to be
/// alive.
#[test]
fn a_slow_server_keeps_its_connection() {
    let (server, service) = serve_with(|builder| builder.handlers(1));
    let channel = channel(server.local_addr()).lazy();
    for _ in 0..3 {
        let call = channel.call::<_, Echo>(&method("Hold"), &echo("x"), within(ATTEMPT));
        assert!(matches!(call, Err(CallError::TimedOut { .. })));
    }
    service.wait_held(3);
    assert!(channel.is_connected());
    assert_eq!(server.stats().connections_accepted, 1);
}

/// Nothing comes back while the arguments are on their way, not even the answer to a ping, which is
/// queued behind them. A small call before them is answered soon, which says nothing about them.
#[test]
fn a_slow_network_is_given_time_for_what_is_sent() {
    for has_small_call in [false, true] {
        let (_server, relay) = relayed();
        relay.slow_down(512 << 10);
        let channel = channel(relay.addr()).ping_interval(Duration::from_millis(250)).lazy();
        let small = has_small_call.then(|| pending(&channel, "Echo", "small", soon()));
        let args = "x".repeat(1 << 20);
        let reply = call(&channel, "Echo", args.clone()).unwrap();
        assert_eq!(reply.len(), args.len());
        small.into_iter().for_each(|small| assert_eq!(small.wait().unwrap().data, "small"));
        assert_eq!(relay.accepted(), 1);
    }
}

/// The network is slower than the channel expects: large calls are retried with more time each,
/// until one arrives.
#[test]
fn a_network_slower_than_expected_is_given_more_and_more_time() {
    let (_server, relay) = relayed();
    relay.slow_down(512 << 10);
    let channel = channel(relay.addr())
        .ping_interval(Duration::from_millis(100))
        .bytes_per_second_min(8 << 20)
        .lazy();
    let args = "x".repeat(1 << 20);
    wait_until("it arrives", || call(&channel, "Echo", args.clone()).is_ok());
    assert!(relay.accepted() > 1, "the test is of a network that is too slow");
}
