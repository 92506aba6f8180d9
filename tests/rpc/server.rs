//! A server against clients that are slow, broken, hostile or of another protocol. At most, they
//! lose their own connection.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use syncraft::rpc::{CallError, FrameLimits, Limits, Server, ServerError, StatusCode};

use crate::raw::*;
use crate::support::*;

/// The server works normally.
fn check_alive(server: &Server) {
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Echo", 0, "alive"));
    raw.expect_bare("alive");
}

// ---- documented calls ----

#[test]
fn documented_calls_in_one_segment_are_answered_in_order() {
    let (server, _) = serve(Limits::default());
    let mut raw = Raw::connect(server.local_addr());
    let all: Vec<u8> = (0..100).flat_map(|i| request("Echo", 0, &i.to_string())).collect();
    raw.send(&all);
    (0..100).for_each(|i| raw.expect_bare(&i.to_string()));
}

#[test]
fn a_documented_call_begins_only_when_the_one_before_is_answered() {
    let (server, service) = serve(Limits::default());
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&[request("Hold", 0, "first"), request("Echo", 0, "second")].concat());
    service.wait_held(1);
    // Another connection is served, which shows that time has passed.
    check_alive(&server);
    assert_eq!(service.calls(), 2);
    let (args, call) = service.take_held().pop().unwrap();
    assert!(call.is_documented());
    call.typed().run(args);
    raw.expect_bare("first");
    raw.expect_bare("second");
}

#[test]
fn what_a_documented_call_cannot_be_told_closes_its_connection() {
    let (server, service) = serve(Limits::default());
    let no_method = request("Nothing", 0, "x");
    let no_service = frame(&Head { service: "noneRpc".into(), ..head("Echo", 0, 0) }, b"");
    let bad_args = frame(&head("Echo", 0, 2), &[0x0a, 9]);
    let codec = frame(&Head { codec: 1, ..head("Echo", 0, 0) }, b"");
    let too_long = frame(&head("Echo", 0, (16 << 20) + 1), b"");
    for bytes in [no_method, no_service, bad_args, codec, too_long] {
        let mut raw = Raw::connect(server.local_addr());
        // The call before it keeps its reply.
        raw.send(&[request("Echo", 0, "before"), bytes].concat());
        raw.expect_bare("before");
        raw.expect_closed();
    }
    for method in ["Drop", "Panic", "Fail"] {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&request(method, 0, "x"));
        raw.expect_closed();
    }
    assert!(service.calls() > 0);
    check_alive(&server);
}

// ---- extended calls ----

#[test]
fn extended_calls_are_answered_in_any_order_and_in_words() {
    let (server, service) = serve(Limits::default());
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&[request("Hold", 1, "held"), request("Echo", 2, "now")].concat());
    raw.expect_echo(2, "now");
    raw.send(&request("Nothing", 3, "x"));
    assert!(raw.expect_status(3, StatusCode::UnknownMethod).contains("\"Nothing\""));
    raw.send(&frame(&Head { service: "no\nne".into(), ..head("Echo", 4, 3) }, b"abc"));
    assert!(raw.expect_status(4, StatusCode::UnknownService).contains(r#""no\nne""#));
    raw.send(&frame(&head("Echo", 5, 2), &[0x0a, 9]));
    raw.expect_status(5, StatusCode::BadArguments);
    raw.send(&frame(&Head { codec: 1, ..head("Echo", 6, 0) }, b""));
    assert!(raw.expect_status(6, StatusCode::UnsupportedCodec).contains("codec 1"));
    for (id, method, code) in [
        (7, "Drop", StatusCode::Unanswered),
        (8, "Panic", StatusCode::Internal),
        (9, "Fail", StatusCode::Other(77)),
    ] {
        raw.send(&request(method, id, "x"));
        raw.expect_status(id, code);
    }
    // All this while the first call waits on the same connection.
    let (args, call) = service.take_held().pop().unwrap();
    call.typed().run(args);
    raw.expect_echo(1, "held");
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_thousand_calls_sent_without_reading_are_all_answered() {
    let (server, _) = serve(Limits::default());
    let mut raw = Raw::connect(server.local_addr());
    let all: Vec<u8> = (1..=1000).flat_map(|id| request("Echo", id, &id.to_string())).collect();
    raw.send(&all);
    let mut ids: Vec<u64> = (0..1000).map(|_| raw.reply().0.call_id).collect();
    ids.sort();
    assert!(ids.into_iter().eq(1..=1000));
}

#[test]
fn a_call_whose_deadline_has_passed_is_not_run() {
    let (server, service) = serve(Limits::default());
    let mut raw = Raw::connect(server.local_addr());
    let args = echo("late").encode_to_vec();
    let bytes = frame(&Head { deadline_ms: 1, ..head("Echo", 1, args.len()) }, &args);
    // The arguments arrive after the caller's deadline of one millisecond.
    raw.send(&bytes[..bytes.len() - 1]);
    thread::sleep(Duration::from_millis(30));
    raw.send(&bytes[bytes.len() - 1..]);
    raw.expect_status(1, StatusCode::DeadlineExceeded);
    assert_eq!(service.calls(), 0);
}

#[test]
fn arguments_over_the_limit_are_refused_and_the_connection_lives() {
    let limits = Limits { frame: FrameLimits { body_len_max_bytes: 1000 }, ..Limits::default() };
    let (server, _) = serve(limits);
    let data = "d".repeat(997);
    assert_eq!(echo(data.clone()).encoded_len(), 1000);
    for varint_body in [0, 1] {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&request("Echo", 1, &data));
        raw.expect_echo(1, &data);
        raw.send(&frame(&head("Echo", 2, 1001 + varint_body), &vec![0; 1001 + varint_body]));
        raw.expect_status(2, StatusCode::FrameTooLarge);
        raw.send(&request("Echo", 3, "in step"));
        raw.expect_echo(3, "in step");
        // Too long to skip: the client is told, and the connection is closed.
        raw.send(&frame(&head("Echo", 4, u32::MAX as usize), b"some"));
        raw.expect_status(4, StatusCode::FrameTooLarge);
        raw.expect_closed();
    }
    check_alive(&server);
}

#[test]
fn too_much_in_flight_is_answered_busy() {
    let limits = Limits { calls_per_connection_max: 3, calls_max: 5, ..Limits::default() };
    let (server, service) = serve(limits);
    let [mut one, mut two] = [(); 2].map(|()| Raw::connect(server.local_addr()));
    (1..=3).for_each(|id| one.send(&request("Hold", id, "x")));
    one.send(&request("Echo", 4, "too many for the connection"));
    one.expect_status(4, StatusCode::Busy);
    (1..=2).for_each(|id| two.send(&request("Hold", id, "x")));
    service.wait_held(5);
    two.send(&request("Echo", 3, "too many for the server"));
    let (head, _) = two.reply();
    assert_eq!(
        (head.call_id, head.status, head.retry_after_ms > 0),
        (3, StatusCode::Busy.number(), true)
    );
    // A documented call cannot be told that the server is busy, so it waits.
    let mut documented = Raw::connect(server.local_addr());
    documented.send(&request("Echo", 0, "patient"));
    service.take_held().into_iter().for_each(|(args, call)| call.typed().run(args));
    documented.expect_bare("patient");
    (1..=3).for_each(|_| assert_eq!(one.reply().0.status, 0));
    one.send(&request("Echo", 9, "room again"));
    one.expect_echo(9, "room again");
}

#[test]
fn bytes_in_flight_are_bounded_too() {
    let limits = Limits {
        frame: FrameLimits { body_len_max_bytes: 1000 },
        bytes_per_connection_max: 1500,
        bytes_max: 2000,
        ..Limits::default()
    };
    let (server, service) = serve(limits);
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Hold", 1, &"x".repeat(900)));
    raw.send(&request("Hold", 2, &"x".repeat(900)));
    raw.expect_status(2, StatusCode::Busy);
    raw.send(&request("Echo", 3, "small"));
    raw.expect_echo(3, "small");
    service.wait_held(1);
    drop(service.take_held());
    raw.expect_status(1, StatusCode::Unanswered);
    raw.send(&request("Echo", 4, &"x".repeat(900)));
    raw.expect_echo(4, &"x".repeat(900));
}

// ---- bytes that are no calls ----

#[test]
fn strangers_are_answered_in_their_own_words() {
    let (server, _) = serve(Limits::default());
    for verb in
        ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH", "PRI"]
    {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(format!("{verb} / HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let answer = String::from_utf8(raw.rest()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{head} for {} bytes",
            body.len()
        );
    }
    for minor in 1..=4 {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&[0x16, 3, minor, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
        let alert = raw.rest();
        assert_eq!((alert[0], &alert[3..]), (0x15, &[0, 2, 2, 40][..]));
    }
    check_alive(&server);
}

#[test]
fn frames_that_are_none_close_their_connection_soon() {
    let (server, service) = serve(Limits::default());
    let good = request("Echo", 0, "x");
    let cases: [&[u8]; 13] = [
        // Head lengths of 0, limit + 1, 2^31 and 2^32 - 1 bytes.
        &[0, 0, 0, 0],
        &[1, 4, 0, 0],
        &[0, 0, 0, 0x80],
        &[0xff; 4],
        // The same as varints; one too long and one padded.
        &[0x81, 8, 0x0a],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x80, 0x80, 0x80, 0x00],
        // Heads that do not decode, do not begin as a head does, or end too early.
        &[3, 0, 0, 0, 0x0a, 9, b'x'],
        &[3, 0, 0, 0, 0x12, 1, b'x'],
        &[3, 0x0a, 9, b'x'],
        &[0x16, 3, 0, 0, 0x5b, 1],
        // Other protocols.
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\0\0\0\x01\x01",
    ];
    for bytes in cases {
        for before in [&[][..], &good] {
            let mut raw = Raw::connect(server.local_addr());
            let began = Instant::now();
            raw.send(&[before, bytes].concat());
            if !before.is_empty() {
                raw.expect_bare("x");
            }
            // After a first call, varint and `u32` heads differ: bytes too short for a head end
            // with the stream. The server may have been faster.
            let _ = raw.0.shutdown(Shutdown::Write);
            raw.expect_closed();
            assert!(began.elapsed() < Duration::from_secs(5), "{bytes:02x?}");
        }
    }
    assert_eq!(service.calls(), cases.len() as u64);
    check_alive(&server);
}

#[test]
fn an_extended_client_is_told_why_its_stream_cannot_go_on() {
    let (server, _) = serve(Limits::default());
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&[request("Echo", 1, "x"), vec![3, 0, 0, 0, 0x0a, 9, b'x']].concat());
    raw.expect_echo(1, "x");
    raw.expect_status(0, StatusCode::BadHeader);
    raw.expect_closed();
}

#[test]
fn every_beginning_of_a_call_may_be_its_end() {
    let (server, service) = serve(Limits::default());
    let bytes = request("Echo", 0, "x");
    for len in 0..bytes.len() {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&bytes[..len]);
        raw.0.shutdown(Shutdown::Write).unwrap();
        raw.expect_closed();
    }
    wait_until("every connection ends", || server.connections() == 0);
    assert_eq!(service.calls(), 0);
}

#[test]
fn random_frames_do_no_harm() {
    let seed =
        std::env::var("RPC_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
    println!("RPC_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (server, _) = serve(Limits::default());
    for _ in 0..1500 {
        // A valid call with some bytes changed, or pure noise.
        let mut bytes = match random.bool() {
            true => request("Echo", random.u64(0..3), "some data"),
            false => vec![0; random.usize(0..200)],
        };
        let changes =
            if bytes.iter().all(|byte| *byte == 0) { bytes.len() } else { random.usize(1..5) };
        for _ in 0..changes {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        // The server may have closed it by now.
        let _ = stream.write_all(&bytes);
        if random.bool() {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 100]);
        }
    }
    check_alive(&server);
    wait_until("every connection ends", || server.connections() <= 1);
}

// ---- ends and stalls ----

#[test]
fn a_client_that_closes_its_sending_side_still_gets_its_answers() {
    let (server, service) = serve(Limits::default());
    for call_id in [0, 1] {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&request("Hold", call_id, "x"));
        raw.0.shutdown(Shutdown::Write).unwrap();
        service.wait_held(1);
        let (args, call) = service.take_held().pop().unwrap();
        call.typed().run(args);
        match call_id {
            0 => raw.expect_bare("x"),
            _ => raw.expect_echo(1, "x"),
        }
        raw.expect_closed();
    }
    wait_until("every connection ends", || server.connections() == 0);
}

#[test]
fn a_client_that_never_takes_its_answer_is_given_up_after_a_time() {
    let (server, service) =
        serve(Limits { half_close_timeout: Duration::from_millis(50), ..Limits::default() });
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Hold", 1, "x"));
    service.wait_held(1);
    drop(raw);
    wait_until("the connection ends", || server.connections() == 0);
    // The answer then reaches nobody and harms nobody.
    service.take_held().into_iter().for_each(|(args, call)| call.typed().run(args));
    check_alive(&server);
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_reset_before_during_and_after_a_call_does_no_harm() {
    let (server, service) =
        serve(Limits { half_close_timeout: Duration::from_millis(50), ..Limits::default() });
    let bytes = request("Hold", 1, "x");
    for len in [0, 3, bytes.len() - 1, bytes.len()] {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&bytes[..len]);
        if len == bytes.len() {
            service.wait_held(1);
        }
        reset(raw.0);
    }
    wait_until("every connection ends", || server.connections() == 0);
    service.take_held().into_iter().for_each(|(args, call)| call.typed().run(args));
    // The same in the middle of a reply.
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Big", 0, "8000000"));
    raw.read(1000);
    reset(raw.0);
    wait_until("every connection ends", || server.connections() == 0);
    check_alive(&server);
}

#[test]
fn a_frame_that_trickles_is_cut_and_an_idle_connection_is_not() {
    let (server, _) =
        serve(Limits { frame_timeout: Duration::from_millis(1500), ..Limits::default() });
    let mut idle = Raw::connect(server.local_addr());
    idle.send(&request("Echo", 0, "x"));
    idle.expect_bare("x");
    let began = Instant::now();
    let mut slow = Raw::connect(server.local_addr());
    let trickler = {
        let mut slow = slow.0.try_clone().unwrap();
        // A byte now and then, never a complete frame, until the server closes the connection.
        thread::spawn(move || {
            while slow.write_all(&[20]).is_ok() {
                thread::sleep(Duration::from_millis(20))
            }
        })
    };
    slow.0.set_read_timeout(Some(LONG)).unwrap();
    let mut silent = Raw::connect(server.local_addr());
    silent.send(&request("Echo", 0, "x")[..20]);
    silent.expect_closed();
    slow.rest();
    trickler.join().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(1500));
    assert!(began.elapsed() < LONG);
    // A client that is merely slow is served.
    let mut steady = Raw::connect(server.local_addr());
    request("Echo", 0, "x").chunks(10).for_each(|bytes| {
        steady.send(bytes);
        thread::sleep(Duration::from_millis(10));
    });
    steady.expect_bare("x");
    idle.send(&request("Echo", 0, "still here"));
    idle.expect_bare("still here");
}

#[test]
fn a_client_that_does_not_read_loses_its_connection_and_holds_nobody() {
    let (server, service) =
        serve(Limits { write_timeout: Duration::from_secs(5), ..Limits::default() });
    let mut slow = Raw::connect(server.local_addr());
    for id in 1..=8 {
        slow.send(&request("Hold", id, "x"));
    }
    service.wait_held(8);
    // The test's own thread answers. It waits for nobody: it is done long before the connection is
    // given up.
    for (_, call) in service.take_held() {
        call.typed().run(echo(vec![0; 7 << 20]));
    }
    assert_eq!(server.connections(), 1, "the answers were held up until the connection ended");
    check_alive(&server);
    wait_until("the connection ends", || server.connections() <= 1);
}

#[test]
fn replies_that_find_no_room_cost_their_own_calls_and_not_the_connection() {
    let frame = FrameLimits { body_len_max_bytes: 1 << 20 };
    let (server, service) = serve(Limits { frame, unsent_bytes_max: 4 << 20, ..Limits::default() });
    let mut raw = Raw::connect(server.local_addr());
    (1..=50).for_each(|id| raw.send(&request("Hold", id, "x")));
    service.wait_held(50);
    // The client reads nothing before everything is answered. The last answers have a few bytes,
    // which always find room.
    let mut held = service.take_held();
    let (args, last) = held.pop().unwrap();
    held.into_iter().for_each(|(_, call)| call.typed().run(echo(vec![0; 1_000_000])));
    last.typed().run(args);
    let mut unanswered = Vec::new();
    for _ in 1..50 {
        let (head, body) = raw.reply();
        match StatusCode::from_number(head.status) {
            StatusCode::Unanswered => {
                assert!(head.retry_after_ms > 0);
                unanswered.push(head.call_id);
            }
            _ => assert_eq!((head.status, body.len() > 1_000_000), (0, true), "{}", head.message),
        }
    }
    raw.expect_echo(50, "x");
    assert!(!unanswered.is_empty() && unanswered.len() < 47, "{unanswered:?}");
    // Once everything is read, there is room.
    for id in unanswered {
        raw.send(&request("Big", id, "1000000"));
        let (head, _) = raw.reply();
        assert_eq!((head.call_id, head.status), (id, 0), "{}", head.message);
    }
}

#[test]
fn a_slow_reader_of_large_replies_gets_them_all() {
    let (server, _) = serve(Limits { unsent_bytes_max: 20 << 20, ..Limits::default() });
    let mut raw = Raw::connect(server.local_addr());
    // Far more than the buffer holds: the server stops reading calls until the client reads
    // replies.
    let sender = {
        let mut stream = raw.0.try_clone().unwrap();
        thread::spawn(move || {
            (1..=100).for_each(|id| stream.write_all(&request("Big", id, "1000000")).unwrap())
        })
    };
    for id in 1..=100 {
        let (head, body) = raw.reply();
        assert_eq!((head.call_id, head.status), (id, 0));
        assert_eq!(Echo::decode(body).unwrap().data.len(), 1_000_000);
    }
    sender.join().unwrap();
}

// ---- the server as a whole ----

#[test]
fn one_connection_too_many_is_refused_in_words() {
    let (server, _) = serve(Limits { connections_max: 6, ..Limits::default() });
    let connect = || {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&request("Echo", 1, "x"));
        let (head, _) = raw.reply();
        (raw, head)
    };
    let taken: Vec<_> = (0..6).map(|_| connect()).collect();
    assert!(taken.iter().all(|(_, head)| head.status == 0));
    for _ in 0..4 {
        let (mut raw, head) = connect();
        assert_eq!((head.call_id, head.status), (0, StatusCode::Busy.number()));
        assert!(
            head.message.contains("6 connections are open") && head.retry_after_ms > 0,
            "{}",
            head.message
        );
        raw.expect_closed();
    }
    assert_eq!(server.connections_refused(), 4);
    wait_until("they have gone", || server.connections() == 6);
    // Our own channel understands it.
    let error = call(&channel(server.local_addr()).lazy(), "Echo", "x").unwrap_err();
    let is_busy =
        matches!(&error, CallError::Refused { status, .. } if status.code == StatusCode::Busy);
    assert!((is_busy || matches!(error, CallError::Lost { .. })), "{error}");
    drop(taken);
    wait_until("there is room", || server.connections() < 6);
    check_alive(&server);
}

#[test]
fn a_server_does_not_start_with_contradictions() {
    let service = || Published(Arc::new(TestService::default()));
    let error = Server::builder()
        .service(service())
        .service(service())
        .bind("127.0.0.1:0")
        .build()
        .unwrap_err();
    assert!(matches!(error, ServerError::DuplicateService { name: "testRpc" }), "{error}");
    let error = Server::builder()
        .limits(Limits { calls_max: 0, ..Limits::default() })
        .bind("127.0.0.1:0")
        .build()
        .unwrap_err();
    assert!(matches!(error, ServerError::BadLimits { .. }), "{error}");
    let taken = Server::builder().bind("127.0.0.1:0").build().unwrap().start();
    let addr = taken.local_addr().to_string();
    let error = Server::builder().bind(&addr).build().unwrap_err();
    assert!(matches!(&error, ServerError::Bind { addr: shown, .. } if *shown == addr), "{error}");
}

#[test]
fn the_port_is_free_after_a_stop() {
    let (server, _) = serve(Limits::default());
    let addr = server.local_addr();
    let _client = Raw::connect(addr);
    server.stop();
    server.stop();
    assert_eq!(server.connections(), 0);
    let again = Server::builder()
        .service(Published(Arc::default()))
        .bind(addr.to_string())
        .build()
        .unwrap()
        .start();
    check_alive(&again);
}

#[test]
fn a_call_may_be_answered_after_the_stop() {
    let (server, service) = serve(Limits::default());
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Hold", 0, "x"));
    service.wait_held(1);
    in_time(move || drop(server));
    raw.expect_closed();
    let (args, call) = service.take_held().pop().unwrap();
    call.typed().run(args);
}

#[test]
fn values_may_outlive_their_connection() {
    let (server, service) = serve(Limits::default());
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request("Hold", 1, "kept"));
    service.wait_held(1);
    let (args, call) = service.take_held().pop().unwrap();
    drop((server, raw, call));
    assert_eq!(args.data, Bytes::from("kept"));
}
