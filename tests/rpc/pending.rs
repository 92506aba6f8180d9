//! Calls whose answers are fetched later: `Pending`.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use syncraft::rpc::{
    Call, CallError, Channel, Deadline, Framing, Limits, Pending, Server, Service, Status,
    StatusCode,
};

use crate::peers::*;
use crate::raw::*;
use crate::support::*;

fn answer_held(service: &TestService) {
    service.take_held().into_iter().for_each(|(args, call)| call.typed().run(args));
}

#[test]
fn an_answer_is_there_when_it_is_waited_for() {
    let (server, _) = serve_inline();
    let channel = channel(server.local_addr()).lazy();
    let early = pending(&channel, "Echo", "early", soon());
    wait_until("the answer comes, though nobody waits", || early.is_ready());
    assert_eq!(early.wait().unwrap(), echo("early"));
    assert_eq!(pending(&channel, "Echo", "late", soon()).wait().unwrap(), echo("late"));
}

#[test]
fn a_wait_that_is_too_short_gives_the_claim_back() {
    let (server, service) = serve_inline();
    let channel = channel(server.local_addr()).lazy();
    let mut claim = pending(&channel, "Hold", "x", soon());
    for ms in [0, 1, 20] {
        claim = claim.wait_timeout(Duration::from_millis(ms)).expect_err("nobody has answered");
        assert!(!claim.is_ready());
    }
    service.wait_held(1);
    answer_held(&service);
    assert_eq!(claim.wait_timeout(Duration::MAX).expect("it was answered").unwrap(), echo("x"));
    assert_eq!(channel.late_replies(), 0);
}

/// `give_up` gives up a call. Its place is free at once, and its late answer reaches nobody.
fn check_given_up(give_up: fn(Pending<Echo>)) {
    let (server, service) = serve_inline();
    let channel = channel(server.local_addr()).calls_max(1).lazy();
    let claim = pending(&channel, "Hold", "x", soon());
    service.wait_held(1);
    assert!(matches!(call(&channel, "Echo", "y").unwrap_err(), CallError::Busy { calls: 1, .. }));
    give_up(claim);
    assert_eq!(call(&channel, "Echo", "y").unwrap(), "y");
    assert_eq!(channel.late_replies(), 0);
    answer_held(&service);
    wait_until("the late answer is dropped and counted", || channel.late_replies() == 1);
    assert_eq!(call(&channel, "Echo", "z").unwrap(), "z");
    assert_eq!((channel.late_replies(), server.connections()), (1, 1));
}

#[test]
fn a_cancelled_call_frees_its_place_and_its_late_answer_is_counted() {
    check_given_up(Pending::cancel);
}

#[test]
fn a_claim_that_is_dropped_is_a_call_cancelled() {
    check_given_up(drop);
}

#[test]
fn a_call_cancelled_before_its_turn_is_never_sent() {
    let (listener, addr) = listen();
    // One at a time: the second call waits for the first.
    let channel = channel(addr).framing(Framing::Documented).lazy();
    let first = pending(&channel, "Echo", "first", soon());
    let mut server = Raw::accept(&listener);
    assert_eq!(server.next_call().1, &[&[0x0a, 5], &b"first"[..]].concat());
    let second = pending(&channel, "Echo", "second", soon());
    let third = pending(&channel, "Echo", "third", soon());
    second.cancel();
    server.send(&[0x0a, 1, b'1']);
    assert_eq!(server.next_call().1, &[&[0x0a, 5], &b"third"[..]].concat());
    server.send(&[0x0a, 1, b'3']);
    assert_eq!((first.wait().unwrap(), third.wait().unwrap()), (echo("1"), echo("3")));
}

/// A late bare reply would be taken for the reply of the next call. So the connection is given up
/// with the call, and waiting calls go over another one.
#[test]
fn a_call_cancelled_in_its_turn_costs_a_documented_connection() {
    let (listener, addr) = listen();
    let channel = channel(addr).framing(Framing::Documented).lazy();
    let first = pending(&channel, "Echo", "first", soon());
    let mut server = Raw::accept(&listener);
    server.next_call();
    let second = pending(&channel, "Echo", "second", soon());
    first.cancel();
    server.expect_closed();
    let mut server = Raw::accept(&listener);
    assert_eq!(server.next_call().1, &[&[0x0a, 6], &b"second"[..]].concat());
    server.send(&[0x0a, 1, b'2']);
    assert_eq!(second.wait().unwrap(), echo("2"));
}

#[test]
fn the_deadline_ends_a_call_that_nobody_waits_for_and_frees_its_place() {
    let (server, service) = serve_inline();
    let channel = channel(server.local_addr()).calls_max(1).connect(soon()).unwrap();
    let claim = pending(&channel, "Hold", "x", within(2000));
    wait_until("its deadline ends it", || claim.is_ready());
    assert_eq!(call(&channel, "Echo", "y").unwrap(), "y");
    let error = claim.wait().unwrap_err();
    assert!(
        matches!(error, CallError::TimedOut { sent: true, which: Deadline::Call, .. }),
        "{error}"
    );
    service.wait_held(1);
    answer_held(&service);
    wait_until("the late answer is dropped and counted", || channel.late_replies() == 1);
}

#[test]
fn a_deadline_that_has_passed_sends_nothing() {
    let (server, service) = serve_inline();
    let channel = channel(server.local_addr()).lazy();
    let error = pending(&channel, "Echo", "x", within(0)).wait().unwrap_err();
    assert!(matches!(error, CallError::TimedOut { sent: false, .. }), "{error}");
    assert_eq!(service.calls(), 0);
}

#[test]
fn one_call_more_than_allowed_is_busy() {
    let (server, service) = serve_inline();
    let channel = channel(server.local_addr()).calls_max(100).lazy();
    let claims: Vec<_> =
        (0..100).map(|i| pending(&channel, "Hold", format!("{i}"), soon())).collect();
    let error = pending(&channel, "Echo", "x", soon()).wait().unwrap_err();
    assert!(matches!(error, CallError::Busy { calls: 100, .. }), "{error}");
    assert!(!error.may_have_run());
    service.wait_held(100);
    answer_held(&service);
    for (i, claim) in claims.into_iter().enumerate() {
        assert_eq!(claim.wait().unwrap(), echo(format!("{i}")));
    }
    assert_eq!(pending(&channel, "Echo", "x", soon()).wait().unwrap(), echo("x"));
}

#[test]
fn a_claim_on_a_lost_connection_is_an_error() {
    let (server, service) = serve_inline();
    let channel = channel(server.local_addr()).lazy();
    let claims = [pending(&channel, "Hold", "x", soon()), pending(&channel, "Hold", "y", soon())];
    service.wait_held(2);
    server.stop();
    // Whether it is waited for before or after the loss is noticed.
    let [first, second] = claims;
    assert!(is_lost(&first.wait().unwrap_err()));
    wait_until("the loss is told", || second.is_ready());
    assert!(is_lost(&second.wait().unwrap_err()));
    let error = pending(&channel, "Echo", "x", soon()).wait().unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }) && !error.may_have_run(), "{error}");
}

#[test]
fn a_claim_outlives_its_channel_and_says_so() {
    let (server, service) = serve_inline();
    let channel = channel(server.local_addr()).lazy();
    let claim = pending(&channel, "Hold", "x", soon());
    service.wait_held(1);
    drop(channel);
    assert!(is_lost(&claim.wait().unwrap_err()));
}

#[test]
fn sixty_four_in_flight_on_one_connection_each_get_their_own_reply() {
    let (server, service) = serve_inline();
    let channel = channel(server.local_addr()).lazy();
    let claims: Vec<_> =
        (0..64).map(|i| pending(&channel, "Hold", format!("{i}"), soon())).collect();
    service.wait_held(64);
    let (mut held, seed) = (service.take_held(), fastrand::u64(..));
    println!("seed {seed}");
    fastrand::Rng::with_seed(seed).shuffle(&mut held);
    held.into_iter().for_each(|(args, call)| call.typed().run(args));
    for (i, claim) in claims.into_iter().enumerate() {
        assert_eq!(claim.wait().unwrap(), echo(format!("{i}")));
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn callers_that_wait_and_callers_that_do_not_share_a_channel() {
    let (server, _) = serve_with(|builder| builder.handlers(2));
    let channel = channel(server.local_addr()).connect(soon()).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|t| {
            let channel = channel.clone();
            thread::spawn(move || {
                for i in 0..100 {
                    let claims: Vec<_> = (0..t)
                        .map(|n| pending(&channel, "Echo", format!("{t}:{i}:{n}"), soon()))
                        .collect();
                    assert_eq!(call(&channel, "Echo", format!("{t}:{i}")).unwrap(), {
                        Bytes::from(format!("{t}:{i}"))
                    });
                    for (n, claim) in claims.into_iter().enumerate() {
                        // A third of them are given up.
                        match n % 3 {
                            0 => claim.cancel(),
                            _ => assert_eq!(claim.wait().unwrap(), echo(format!("{t}:{i}:{n}"))),
                        }
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(server.connections(), 1);
}

/// Calls another server, and waits for its answer in the middle of its own call.
struct Forward(Channel);

impl Service for Forward {
    fn name(&self) -> &'static str {
        "forwardRpc"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Wait", "WaitTimeout", "Poll"]
    }

    fn call(&self, number: usize, args: Bytes, call: Call) {
        let Some((args, done)) = call.open::<Echo, Echo>(args) else { return };
        let claim = pending(&self.0, "Echo", args.data, soon());
        let outcome = match number {
            0 => claim.wait(),
            2 => {
                wait_until("the answer comes", || claim.is_ready());
                claim.wait()
            }
            _ => claim.wait_timeout(LONG).expect("an answer in time"),
        };
        match outcome {
            Ok(reply) => done.run(reply),
            Err(error) => done.fail(Status::new(StatusCode::Internal, error.to_string())),
        }
    }
}

#[test]
fn a_method_that_waits_for_a_claim_has_sent_its_call() {
    let (behind, _) = serve_inline();
    let forward = Forward(channel(behind.local_addr()).connect(soon()).unwrap());
    let front =
        Server::builder().inline_service(forward).bind("127.0.0.1:0").build().unwrap().start();
    let channel = channel(front.local_addr()).lazy();
    for name in ["Wait", "WaitTimeout", "Poll"] {
        let method = syncraft::rpc::Method::new("forwardRpc", name);
        let reply: Echo = channel.call(&method, &echo("through"), within(5_000)).unwrap();
        assert_eq!(reply, echo("through"), "{name}");
    }
}

#[test]
fn claims_are_made_and_answered_on_any_thread() {
    let (server, _) = serve(Limits::default());
    let channel = Arc::new(channel(server.local_addr()).lazy());
    let claims: Vec<_> = (0..16)
        .map(|i| {
            let channel = channel.clone();
            thread::spawn(move || pending(&channel, "Echo", format!("{i}"), soon()))
        })
        .collect();
    for (i, claim) in claims.into_iter().enumerate() {
        let claim = claim.join().unwrap();
        assert_eq!(thread::spawn(|| claim.wait().unwrap()).join().unwrap(), echo(format!("{i}")));
    }
}
