//! What a server reports about its work: exact counters, and a line in the log for each slow call.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use prost::Message;
use syncraft::rpc::{
    CallOptions, Fairness, FrameLimits, Invoke, Limits, Method, MethodReport, Server, Stats,
    StatusCode,
};

use crate::alone::alone;
use crate::collector::{collect, lines};
use crate::raw::*;
use crate::support::*;

/// The errors of a method: how many of each code.
fn errors(report: &MethodReport) -> Vec<(StatusCode, u64)> {
    report.errors.iter().map(|(code, count)| (StatusCode::from_number(*code), *count)).collect()
}

/// Calls, open calls, rejected ones and dropped ones.
fn counts(report: &MethodReport) -> [u64; 4] {
    [report.calls, report.open, report.rejected, report.dropped]
}

/// The calls that arrived, by method.
fn all_calls(stats: &Stats) -> BTreeMap<&'static str, u64> {
    let called = stats.methods.iter().filter(|(_, report)| report.calls > 0);
    called.map(|((_, method), report)| (*method, report.calls)).collect()
}

// ---- counters ----

#[test]
fn counters_are_exact() {
    for handlers in [0, 2] {
        let limits =
            Limits { frame: FrameLimits { body_len_max_bytes: 1000 }, ..Limits::default() };
        let (server, _) = serve_with(|builder| builder.limits(limits).handlers(handlers));
        let mut raw = Raw::connect(server.local_addr());
        let mut id = 0;
        let mut check = |bytes: &dyn Fn(u64) -> Vec<u8>, code: Option<StatusCode>| {
            id += 1;
            raw.send(&bytes(id));
            let (head, _) = raw.reply();
            let expected = (id, code.map_or(0, StatusCode::number));
            assert_eq!((head.call_id, head.status), expected, "{}", head.message);
        };
        // 5, 12 and 102 bytes each way.
        for data in ["abc".to_owned(), "d".repeat(10), "e".repeat(100)] {
            check(&|id| request("Echo", id, &data), None);
        }
        check(&|id| frame(&head("Echo", id, 2), &[0x0a, 9]), Some(StatusCode::BadArguments));
        let codec = |id| frame(&Head { codec: 7, ..head("Echo", id, 0) }, b"");
        check(&codec, Some(StatusCode::UnsupportedCodec));
        check(&|id| request("Nothing", id, "x"), Some(StatusCode::UnknownMethod));
        let no_service = |id| frame(&Head { service: "x".into(), ..head("Echo", id, 0) }, b"");
        check(&no_service, Some(StatusCode::UnknownService));
        for _ in 0..2 {
            check(&|id| request("Fail", id, "x"), Some(StatusCode::Other(77)));
            check(&|id| request("Drop", id, "x"), Some(StatusCode::Unanswered));
            check(&|id| request("Panic", id, "x"), Some(StatusCode::Internal));
        }
        check(&|id| request("Big", id, "900"), None);
        check(&|id| request("Big", id, "1001"), Some(StatusCode::Internal));
        let mut documented = Raw::connect(server.local_addr());
        documented.send(&request("Echo", 0, "xyz"));
        documented.expect_bare("xyz");
        documented.send(&request("Drop", 0, "x"));
        documented.expect_closed();
        wait_until("it ends", || server.connections() == 1);

        let stats = server.stats();
        let echo = &stats.methods[&("testRpc", "Echo")];
        assert_eq!(counts(echo), [6, 0, 1, 0], "{echo:?}");
        let expected = [(StatusCode::BadArguments, 1), (StatusCode::UnsupportedCodec, 1)];
        assert_eq!(errors(echo), expected);
        assert_eq!((echo.args_bytes, echo.reply_bytes), (5 + 12 + 102 + 2 + 5, 5 + 12 + 102 + 5));
        assert_eq!(echo.running.count, 5);
        assert_eq!(echo.waiting.count, if handlers == 0 { 0 } else { 5 });
        for (method, code, calls) in [
            ("Fail", StatusCode::Other(77), 2),
            ("Drop", StatusCode::Unanswered, 3),
            ("Panic", StatusCode::Internal, 2),
        ] {
            let report = &stats.methods[&("testRpc", method)];
            assert_eq!(counts(report), [calls, 0, 0, 0], "{method}: {report:?}");
            assert_eq!(errors(report), [(code, calls)], "{method}");
            assert_eq!((report.args_bytes, report.reply_bytes), (3 * calls, 0), "{method}");
        }
        let big = &stats.methods[&("testRpc", "Big")];
        assert_eq!((counts(big), big.reply_bytes), ([2, 0, 0, 0], 903));
        assert_eq!(errors(big), [(StatusCode::Internal, 1)]);
        let all = [("Big", 2), ("Drop", 3), ("Echo", 6), ("Fail", 2), ("Panic", 2)];
        assert_eq!(all_calls(&stats), all.into());
        assert_eq!((stats.unknown_calls, stats.queue_len), (2, 0));
        let connections =
            (stats.connections_accepted, stats.connections_refused, stats.connections_idle);
        assert_eq!((stats.connections, connections), (1, (2, 0, 0)));
    }
}

#[test]
fn a_call_is_open_from_its_arguments_to_its_answer() {
    let (server, service) = serve_with(|builder| builder.handlers(1));
    let mut raw = Raw::connect(server.local_addr());
    (1..=3).for_each(|id| raw.send(&request("Hold", id, "x")));
    service.wait_held(3);
    assert_eq!(counts(&report(&server, "Hold")), [3, 3, 0, 0]);
    let mut held = service.take_held();
    for open in (0..3).rev() {
        let (args, call) = held.pop().unwrap();
        call.typed().run(args);
        assert_eq!(raw.reply().0.status, 0);
        assert_eq!(report(&server, "Hold").open, open);
    }
    let report = report(&server, "Hold");
    assert_eq!((report.waiting.count, report.running.count), (3, 3));
}

#[test]
fn a_call_whose_arguments_never_come_is_none() {
    let (server, service) = serve(Limits::default());
    for call_id in [0, 1] {
        let bytes = request("Echo", call_id, "never complete");
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&bytes[..bytes.len() - 1]);
        raw.0.shutdown(Shutdown::Write).unwrap();
        raw.expect_closed();
    }
    let report = report(&server, "Echo");
    assert_eq!((counts(&report), report.args_bytes), ([0, 0, 0, 0], 0));
    assert_eq!(service.calls(), 0);
}

#[test]
fn calls_are_counted_whatever_refuses_them() {
    let limits = Limits { calls_per_connection_max: 3, ..Limits::default() };
    let (server, service) = serve_with(|builder| builder.limits(limits).handlers(1).queue(1));
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Block", 1, "x"));
    service.wait_blocked(1);
    raw.send(&request("Echo", 2, "queued"));
    wait_queued(&server, 1);
    assert_eq!(counts(&report(&server, "Echo")), [1, 1, 0, 0]);
    // No place in the queue.
    (3..6).for_each(|id| raw.send(&request("Echo", id, "no place")));
    (3..6).for_each(|id| drop(raw.expect_status(id, StatusCode::Busy)));
    assert_eq!(counts(&report(&server, "Echo")), [4, 1, 3, 0]);
    // Nor for another connection; a documented call waits for one.
    let mut other = Raw::connect(server.local_addr());
    other.send(&request("Hold", 1, "no place"));
    other.expect_status(1, StatusCode::Busy);
    let mut documented = Raw::connect(server.local_addr());
    documented.send(&request("Hold", 0, "waits"));
    wait_until("it waits", || report(&server, "Hold").open == 1);
    service.release();
    raw.expect_echo(1, "unblocked");
    raw.expect_echo(2, "queued");
    service.wait_held(1);
    let (args, call) = service.take_held().pop().unwrap();
    call.typed().run(args);
    documented.expect_bare("waits");
    // Three in flight on this connection, and one more.
    for id in 10..13 {
        raw.send(&request("Hold", id, "held"));
        service.wait_held(id as usize - 9);
    }
    raw.send(&request("Echo", 13, "no room"));
    raw.expect_status(13, StatusCode::Busy);
    for (args, call) in service.take_held() {
        call.typed().run(args);
        assert_eq!(raw.reply().0.status, 0);
    }
    let (echo, hold) = (report(&server, "Echo"), report(&server, "Hold"));
    assert_eq!((counts(&echo), errors(&echo)), ([5, 0, 4, 0], vec![(StatusCode::Busy, 4)]));
    assert_eq!((counts(&hold), errors(&hold)), ([5, 0, 1, 0], vec![(StatusCode::Busy, 1)]));
    assert_eq!((echo.waiting.count, echo.running.count), (1, 1));
    assert_eq!(echo.reply_bytes, echo_len("queued"));
}

fn echo_len(data: &str) -> u64 {
    echo(data.to_owned()).encoded_len() as u64
}

#[test]
fn a_reply_that_finds_no_room_is_counted_as_what_was_said_instead() {
    const LEN: u64 = 1_000_000;
    let frame = FrameLimits { body_len_max_bytes: 1 << 20 };
    let (server, service) = serve(Limits { frame, unsent_bytes_max: 4 << 20, ..Limits::default() });
    let mut raw = Raw::connect(server.local_addr());
    (1..=30).for_each(|id| raw.send(&request("Hold", id, "x")));
    service.wait_held(30);
    for (_, call) in service.take_held() {
        call.typed().run(echo(vec![0; LEN as usize]));
    }
    let statuses: Vec<_> = (1..=30).map(|_| raw.reply().0.status).collect();
    let sent = statuses.iter().filter(|status| **status == 0).count() as u64;
    assert!((1..30).contains(&sent), "{statuses:?}");
    let report = report(&server, "Hold");
    assert_eq!(counts(&report), [30, 0, 0, 0]);
    assert_eq!(errors(&report), [(StatusCode::Unanswered, 30 - sent)]);
    assert_eq!(report.reply_bytes, sent * echo(vec![0; LEN as usize]).encoded_len() as u64);
}

#[test]
fn connections_are_counted_by_what_became_of_them() {
    let limits =
        Limits { connections_max: 3, idle_timeout: Duration::from_millis(50), ..Limits::default() };
    let (server, _) = serve(limits);
    // Documented connections are not closed for being idle.
    let connect = |call_id| {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&request("Echo", call_id, "x"));
        raw
    };
    let mut kept: Vec<_> = (0..3).map(|_| connect(0)).collect();
    kept.iter_mut().for_each(|raw| raw.expect_bare("x"));
    let mut refused = connect(1);
    refused.expect_status(0, StatusCode::Busy);
    drop(kept.pop());
    wait_until("there is room", || server.connections() == 2);
    connect(1).rest();
    wait_until("it ends", || server.connections() == 2);
    let stats = server.stats();
    let counts = [stats.connections_accepted, stats.connections_refused, stats.connections_idle];
    assert_eq!(counts, [4, 1, 1]);
}

#[test]
fn times_are_those_of_the_call() {
    let (server, service) = serve_with(|builder| {
        // A caller that is alone may be greedy.
        builder.handlers(1).queue(100).fair(Fairness::default())
    });
    let mut raw = Raw::connect(server.local_addr());
    let began = Instant::now();
    raw.send(&request("Block", 1, "x"));
    service.wait_blocked(1);
    (2..=5).for_each(|id| raw.send(&request("Echo", id, "x")));
    wait_queued(&server, 4);
    let queued = Instant::now();
    wait_until("they have waited", || queued.elapsed() > Duration::from_millis(40));
    let waited = queued.elapsed();
    service.release();
    (1..=5).for_each(|_| assert_eq!(raw.reply().0.status, 0));
    let all = began.elapsed();
    let (block, echo) = (report(&server, "Block"), report(&server, "Echo"));
    assert_eq!((echo.waiting.count, echo.running.count), (4, 4));
    // Two digits: within a few percent.
    let at_least = waited * 95 / 100;
    assert!(echo.waiting.p50 >= at_least && block.running.max >= at_least, "{echo:?} {block:?}");
    let at_most = all * 105 / 100;
    for times in [echo.waiting, echo.running, block.waiting, block.running] {
        let ordered = [times.p50, times.p90, times.p99, times.p999, times.max, at_most];
        assert!(ordered.is_sorted() && times.mean <= at_most, "{times}");
    }
}

// ---- slow calls ----

/// The times in a line about a slow call: from its arrival to its answer, and in its method.
fn times(line: &str) -> [Duration; 2] {
    let after = line.rsplit_once(" after ").unwrap().1;
    let (took, ran) = after.split_once(", of which it ran ").unwrap();
    [took, ran].map(|time| {
        let at = time.find(|it: char| it.is_alphabetic() || it == 'µ').unwrap();
        let (number, unit) = time.split_at(at);
        let unit = match unit {
            "ns" => 1e-9,
            "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            _ => panic!("{line}"),
        };
        Duration::from_secs_f64(number.parse::<f64>().unwrap() * unit)
    })
}

#[test]
fn a_slow_call_is_counted_and_leaves_one_line_that_tells_whose_it_was_and_where_its_time_went() {
    alone(|| {
        // Some calls are not slow, however long a thread is held up on a busy machine.
        const SLOW: Duration = Duration::from_secs(2);
        collect();
        let limits = Limits { slow_call: SLOW, ..Limits::default() };
        let (server, service) = serve_with(|builder| builder.limits(limits).handlers(1));
        let call = |method, trace: &'static str| {
            let channel = channel(server.local_addr()).caller("somebody\n").lazy();
            thread::spawn(move || {
                let options = CallOptions::default().trace(trace);
                let method = Method::new("testRpc", method);
                channel.invoke::<_, Echo>(&method, &options, &echo("x"), soon())
            })
        };
        // One call occupies the handler, and another one waits for it.
        let blocking = call("Block", "trace-block");
        service.wait_blocked(1);
        let queued = call("Echo", "trace-queued");
        wait_queued(&server, 1);
        let since = Instant::now();
        wait_until("both are slow", || since.elapsed() > SLOW);
        service.release();
        blocking.join().unwrap().unwrap();
        queued.join().unwrap().unwrap();
        // One call that is answered later, with an error; and some that are not slow.
        let failed = call("Hold", "trace-failed");
        service.wait_held(1);
        let since = Instant::now();
        wait_until("it is slow", || since.elapsed() > SLOW);
        drop(service.take_held());
        failed.join().unwrap().unwrap_err();
        for _ in 0..10 {
            call("Echo", "trace-fast").join().unwrap().unwrap();
        }

        let check = |trace, method, what| {
            let lines = lines(trace);
            let [line] = &lines[..] else { panic!("{lines:?}") };
            let words = format!(
                "slow call: testRpc.{method} of \"somebody\\n\" (trace \"{trace}\") \
                 was answered with {what} after "
            );
            assert!(line.contains(&words), "\"{line}\" instead of \"{words}\"");
            let [took, ran] = times(line);
            assert!(took >= SLOW && ran <= took && took < LONG, "{line}");
            assert_eq!(report(&server, method).slow, 1, "{method}");
            ran
        };
        assert!(check("trace-block", "Block", "a reply") >= SLOW);
        assert!(check("trace-queued", "Echo", "a reply") < SLOW);
        assert!(check("trace-failed", "Hold", "\"unanswered\"") >= SLOW);
        assert_eq!(lines("trace-fast"), Vec::<String>::new());
        assert_eq!(lines("slow call").len(), 3);
    });
}

#[test]
fn a_server_that_has_done_nothing_says_so() {
    let server: Server = serve(Limits::default()).0;
    let stats = server.stats();
    assert_eq!(all_calls(&stats), BTreeMap::new());
    // Every method is there, including those of the service that every server has.
    assert_eq!(stats.methods.len(), 8 + 2);
    assert!(stats.methods.contains_key(&("rpc", "Ping")));
    assert_eq!((stats.connections, stats.connections_accepted), (0, 0));
    // Its statistics are there after its end.
    let server = Arc::new(server);
    server.stop();
    assert_eq!(server.stats().connections, 0);
}
