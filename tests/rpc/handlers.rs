//! Calls that wait for handlers: how many run at once, which ones wait, which ones are refused, and
//! which ones never run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use syncraft::rpc::{Call, Channel, Limits, Method, Server, Service, StatusCode};

use crate::raw::*;
use crate::support::*;

/// A server with this many handlers and this many places in its queue.
fn serve_pooled(handlers: usize, queue: usize) -> (Server, Arc<TestService>) {
    serve_with(|builder| builder.handlers(handlers).queue(queue))
}

/// A server with one handler, which is blocked, and a full queue of one; and the connection whose
/// calls 1 and 2 keep it so.
fn full_server() -> (Server, Arc<TestService>, Raw) {
    let (server, service) = serve_pooled(1, 1);
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Block", 1, "x"));
    service.wait_blocked(1);
    raw.send(&request("Echo", 2, "queued"));
    wait_queued(&server, 1);
    (server, service, raw)
}

/// The answers to the two calls that kept a server full.
fn expect_both(raw: &mut Raw) {
    raw.expect_echo(1, "unblocked");
    raw.expect_echo(2, "queued");
}

// ---- who runs, who waits ----

#[test]
fn as_many_calls_run_at_once_as_there_are_handlers() {
    let (server, service) = serve_pooled(4, 10);
    let mut raw = Raw::connect(server.local_addr());
    (1..=5).for_each(|id| raw.send(&request("Block", id, "x")));
    service.wait_blocked(4);
    wait_queued(&server, 1);
    assert_eq!(service.blocked(), 4);
    service.release();
    let mut ids: Vec<_> = (1..=5).map(|_| raw.reply().0.call_id).collect();
    ids.sort();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    assert_eq!(service.blocked(), 5);
}

#[test]
fn calls_of_many_connections_run_at_once() {
    let (server, service) = serve_pooled(8, 8);
    let raws: Vec<_> = (0..8)
        .map(|call_id| {
            let mut raw = Raw::connect(server.local_addr());
            // Documented calls as well, each alone on its connection.
            raw.send(&request("Block", call_id % 2, "x"));
            raw
        })
        .collect();
    service.wait_blocked(8);
    service.release();
    for (raw, call_id) in raws.into_iter().zip(0..) {
        let mut raw = raw;
        match call_id % 2 {
            0 => raw.expect_bare("unblocked"),
            _ => raw.expect_echo(1, "unblocked"),
        }
    }
}

#[test]
fn a_handler_that_has_nothing_to_do_takes_a_call_however_short_the_queue_is() {
    for _ in 0..20 {
        let (server, service) = serve_pooled(8, 1);
        let mut raw = Raw::connect(server.local_addr());
        // At once, before any handler can have woken up.
        raw.send(&(1..=8).flat_map(|id| request("Block", id, "x")).collect::<Vec<_>>());
        service.wait_blocked(8);
        raw.send(&[request("Echo", 9, "queued"), request("Echo", 10, "too many")].concat());
        raw.expect_status(10, StatusCode::Busy);
        service.release();
        (1..=9).for_each(|_| assert_eq!(raw.reply().0.status, 0));
    }
}

#[test]
fn a_fast_call_overtakes_a_slow_one_on_the_same_connection() {
    let (server, service) = serve_pooled(2, 10);
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&[request("Block", 1, "x"), request("Echo", 2, "fast")].concat());
    raw.expect_echo(2, "fast");
    service.release();
    raw.expect_echo(1, "unblocked");
}

#[test]
fn calls_wait_in_the_order_in_which_they_came() {
    let (server, service) = serve_pooled(1, 100);
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Block", 1, "x"));
    service.wait_blocked(1);
    (2..=50).for_each(|id| raw.send(&request("Echo", id, "x")));
    wait_queued(&server, 49);
    service.release();
    let ids: Vec<_> = (1..=50).map(|_| raw.reply().0.call_id).collect();
    assert!(ids.iter().copied().eq(1..=50), "{ids:?}");
}

#[test]
fn a_call_that_finds_no_place_is_told_so_at_once_and_when_to_come_again() {
    let (_server, service, mut raw) = full_server();
    let mut fastest = Duration::MAX;
    for id in 3..33 {
        let began = Instant::now();
        raw.send(&request("Echo", id, "one too many"));
        let (head, body) = raw.reply();
        fastest = fastest.min(began.elapsed());
        let answer = (head.call_id, head.status, body.len());
        assert_eq!(answer, (id, StatusCode::Busy.number(), 0), "{}", head.message);
        assert!((1..=1000).contains(&head.retry_after_ms), "{} ms", head.retry_after_ms);
    }
    assert!(fastest < Duration::from_millis(50), "refused after {fastest:?} at best");
    // None of them was run, and the connection goes on.
    service.release();
    expect_both(&mut raw);
    raw.send(&request("Echo", 99, "room again"));
    raw.expect_echo(99, "room again");
    assert_eq!(service.calls(), 3);
}

#[test]
fn a_documented_call_that_finds_no_place_waits_for_one() {
    let (server, service, mut full) = full_server();
    let mut raws: Vec<_> = (0..3).map(|_| Raw::connect(server.local_addr())).collect();
    for raw in &mut raws {
        // The next call behind it waits as well.
        raw.send(&[request("Echo", 0, "patient"), request("Echo", 0, "and so am I")].concat());
    }
    // They have arrived, and so has the one in the queue.
    wait_until("three more are open", || report(&server, "Echo").open == 4);
    assert_eq!(server.stats().queue_len, 1);
    service.release();
    expect_both(&mut full);
    for raw in &mut raws {
        raw.expect_bare("patient");
        raw.expect_bare("and so am I");
    }
    assert_eq!(report(&server, "Echo").rejected, 0);
}

/// The test service under another name.
struct Named(&'static str, Published);

impl Service for Named {
    fn name(&self) -> &'static str {
        self.0
    }

    fn methods(&self) -> &'static [&'static str] {
        self.1.methods()
    }

    fn call(&self, method: usize, args: Bytes, call: Call) {
        self.1.call(method, args, call);
    }
}

#[test]
fn what_runs_inline_is_answered_while_every_handler_is_blocked_and_the_queue_is_full() {
    let [inline, reserved] = [(); 2].map(|()| Arc::new(TestService::default()));
    let (server, service) = serve_with(|builder| {
        builder
            .inline_service(Named("inlineRpc", Published(inline.clone())))
            .reserved_service(Named("reservedRpc", Published(reserved.clone())))
            .handlers(2)
            .queue(1)
    });
    let mut full = Raw::connect(server.local_addr());
    (1..=2).for_each(|id| full.send(&request("Block", id, "x")));
    service.wait_blocked(2);
    full.send(&request("Echo", 3, "queued"));
    wait_queued(&server, 1);
    let channel = channel(server.local_addr()).lazy();
    for name in ["inlineRpc", "reservedRpc"] {
        for data in ["one", "two"] {
            let method = Method::new(name, "Echo");
            let reply: Echo = channel.call(&method, &echo(data), soon()).unwrap();
            assert_eq!(reply, echo(data));
        }
        // On the connection that filled the queue, and as a documented call.
        let named = |call_id| {
            let args = echo("inline").encode_to_vec();
            let head = Head { service: name.into(), ..head("Echo", call_id, args.len()) };
            frame(&head, &args)
        };
        full.send(&named(9));
        full.expect_echo(9, "inline");
        let mut documented = Raw::connect(server.local_addr());
        documented.send(&named(0));
        documented.expect_bare("inline");
    }
    channel.ping(soon()).unwrap();
    assert_eq!((inline.calls(), reserved.calls()), (4, 4));
    assert_eq!((service.blocked(), server.stats().queue_len), (2, 1));
    service.release();
    (1..=3).for_each(|_| assert_eq!(full.reply().0.status, 0));
}

#[test]
fn an_answer_that_is_given_later_by_another_thread_holds_no_handler() {
    let (server, service) = serve_pooled(1, 10);
    let mut raw = Raw::connect(server.local_addr());
    (1..=5).for_each(|id| raw.send(&request("Hold", id, &id.to_string())));
    service.wait_held(5);
    raw.send(&request("Echo", 6, "meanwhile"));
    raw.expect_echo(6, "meanwhile");
    let held = service.take_held();
    let answering = thread::spawn(move || {
        // The last one first.
        held.into_iter().rev().for_each(|(args, call)| call.typed().run(args));
    });
    (1..=5).rev().for_each(|id| raw.expect_echo(id, &id.to_string()));
    answering.join().unwrap();
    // A documented call blocks only its own connection.
    let mut documented = Raw::connect(server.local_addr());
    documented.send(&request("Hold", 0, "later"));
    service.wait_held(1);
    raw.send(&request("Echo", 7, "meanwhile"));
    raw.expect_echo(7, "meanwhile");
    let (args, call) = service.take_held().pop().unwrap();
    thread::spawn(move || call.typed().run(args)).join().unwrap();
    documented.expect_bare("later");
}

// ---- methods that fail ----

#[test]
fn a_panic_is_answered_and_costs_no_handler() {
    let (server, service) = serve_pooled(2, 10);
    let mut raw = Raw::connect(server.local_addr());
    for id in 1..=20 {
        raw.send(&request("Panic", id, "x"));
        raw.expect_status(id, StatusCode::Internal);
    }
    for _ in 0..3 {
        let mut documented = Raw::connect(server.local_addr());
        documented.send(&request("Panic", 0, "x"));
        documented.expect_closed();
    }
    raw.send(&request("Drop", 21, "x"));
    raw.expect_status(21, StatusCode::Unanswered);
    // Both have arrived.
    (22..=23).for_each(|id| raw.send(&request("Block", id, "x")));
    service.wait_blocked(2);
    service.release();
    (22..=23).for_each(|_| assert_eq!(raw.reply().0.status, 0));
    assert_eq!(report(&server, "Panic").open, 0);
}

/// A reply that cannot be serialized, for one reason or another.
#[derive(Clone, Debug, Default, PartialEq)]
enum Faulty {
    #[default]
    Measured,
    Written,
    /// It writes fewer bytes than it announced.
    Short,
}

impl Message for Faulty {
    fn encode_raw(&self, _: &mut impl bytes::BufMut) {
        assert!(*self != Faulty::Written, "panics as it is written");
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        match self {
            Faulty::Measured => panic!("panics as it is measured"),
            Faulty::Written => 10,
            Faulty::Short => 10,
        }
    }

    fn clear(&mut self) {}
}

/// The first method answers with a good reply. Each other one answers with a faulty reply, from the
/// call's thread or from another one.
struct FaultyService;

impl Service for FaultyService {
    fn name(&self) -> &'static str {
        "testRpc"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Echo", "Measured", "Written", "Short", "WrittenLater"]
    }

    fn call(&self, method: usize, args: Bytes, call: Call) {
        match method {
            0 => call.typed().run(Echo::decode(args).unwrap()),
            1 => call.typed().run(Faulty::Measured),
            2 => call.typed().run(Faulty::Written),
            3 => call.typed().run(Faulty::Short),
            _ => {
                let later = move || call.typed().run(Faulty::Written);
                let run = move || drop(catch_unwind(AssertUnwindSafe(later)));
                thread::spawn(run).join().unwrap();
            }
        }
    }
}

#[test]
fn a_reply_that_panics_as_it_is_serialized_ends_its_own_call_only() {
    // Room for one call: a call that stayed open would block the next one.
    let limits = Limits { calls_per_connection_max: 1, calls_max: 1, ..Limits::default() };
    let faulty = ["Measured", "Written", "Short", "WrittenLater"];
    for handlers in [0, 1] {
        let server = Server::builder()
            .service(FaultyService)
            .limits(limits)
            .handlers(handlers)
            .bind("127.0.0.1:0")
            .build()
            .unwrap()
            .start();
        let mut raw = Raw::connect(server.local_addr());
        for method in faulty {
            for round in 0..3 {
                raw.send(&request(method, 2 * round + 1, "x"));
                let words = raw.expect_status(2 * round + 1, StatusCode::Internal);
                assert!(words.contains("panicked"), "{words}");
                raw.send(&request("Echo", 2 * round + 2, "goes on"));
                raw.expect_echo(2 * round + 2, "goes on");
            }
            let report = report(&server, method);
            let internal = report.errors.get(&StatusCode::Internal.number()).copied();
            assert_eq!((report.open, report.reply_bytes, internal), (0, 0, Some(3)), "{method}");
        }
        // A documented connection is told nothing. A bare reply does not say how long it is, so a
        // short one passes.
        for method in faulty.into_iter().filter(|method| *method != "Short") {
            let mut documented = Raw::connect(server.local_addr());
            documented.send(&[request(method, 0, "x"), request("Echo", 0, "x")].concat());
            documented.expect_closed();
            assert_eq!(report(&server, method).open, 0, "{method}");
        }
        let mut documented = Raw::connect(server.local_addr());
        documented.send(&request("Echo", 0, "goes on"));
        documented.expect_bare("goes on");
        drop((raw, documented));
        wait_until("every connection ends", || server.connections() == 0);
    }
}

// ---- what is not run any more ----

#[test]
fn calls_whose_time_passes_in_the_queue_are_not_run() {
    let (server, service) = serve_pooled(1, 10);
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Block", 1, "x"));
    service.wait_blocked(1);
    let args = echo("late").encode_to_vec();
    for id in 2..=6 {
        raw.send(&frame(&Head { deadline_ms: 50, ..head("Echo", id, args.len()) }, &args));
    }
    raw.send(&frame(&Head { deadline_ms: 60_000, ..head("Echo", 7, args.len()) }, &args));
    wait_queued(&server, 6);
    let queued_at = Instant::now();
    wait_until("their time is over", || queued_at.elapsed() > Duration::from_millis(60));
    service.release();
    raw.expect_echo(1, "unblocked");
    (2..=6).for_each(|id| drop(raw.expect_status(id, StatusCode::DeadlineExceeded)));
    raw.expect_echo(7, "late");
    assert_eq!(service.calls(), 2, "one that blocked, and one that had time");
    assert_eq!(report(&server, "Echo").running.count, 1);
}

#[test]
fn calls_whose_client_is_gone_are_not_run() {
    let (server, service) = serve_pooled(1, 10);
    let mut blocking = Raw::connect(server.local_addr());
    blocking.send(&request("Block", 1, "x"));
    service.wait_blocked(1);
    let mut gone = Raw::connect(server.local_addr());
    (1..=4).for_each(|id| gone.send(&request("Echo", id, "x")));
    let mut documented = Raw::connect(server.local_addr());
    documented.send(&request("Echo", 0, "x"));
    blocking.send(&request("Echo", 2, "still here"));
    wait_queued(&server, 6);
    gone.reset();
    documented.reset();
    wait_until("their connections end", || server.connections() == 1);
    service.release();
    blocking.expect_echo(1, "unblocked");
    blocking.expect_echo(2, "still here");
    wait_until("all are done with", || report(&server, "Echo").open == 0);
    let report = report(&server, "Echo");
    assert_eq!((report.calls, report.dropped), (6, 5), "{report:?}");
    assert_eq!(service.calls(), 2);
}

#[test]
fn every_call_of_a_crowd_is_answered_or_has_not_run() {
    let (server, service, mut raw) = full_server();
    service.release();
    expect_both(&mut raw);
    // More threads than handlers and places in the queue: each call is answered, or refused and not
    // run.
    let before = service.calls();
    let channels: Vec<Channel> = (0..8).map(|_| channel(server.local_addr()).lazy()).collect();
    let threads: Vec<_> = channels
        .into_iter()
        .map(|channel| {
            thread::spawn(move || {
                (0..200).filter(|i| call_or_busy(&channel, format!("{i}"))).count() as u64
            })
        })
        .collect();
    let answered: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(service.calls() - before, answered);
    let report = report(&server, "Echo");
    assert_eq!((report.calls, report.open), (1601, 0), "{report:?}");
    assert_eq!(report.rejected, 1600 - answered);
}

/// Whether a call was answered. Otherwise it was refused and has not run.
fn call_or_busy(channel: &Channel, data: String) -> bool {
    match call(channel, "Echo", data.clone()) {
        Ok(reply) => {
            assert_eq!(reply, data);
            true
        }
        Err(error) => {
            assert!(!error.may_have_run(), "{error}");
            false
        }
    }
}
