//! A channel against our own server: many calls at once, deadlines, losses, the end of the channel.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use syncraft::rpc::{CallError, CallOptions, Channel, FrameLimits, Limits, Method, StatusCode};

use crate::raw::*;
use crate::support::*;

/// Makes an async call. The receiver gets its outcome.
fn call_then(
    channel: &Channel,
    method: &'static str,
    data: &str,
    deadline: Instant,
) -> Receiver<Result<Echo, CallError>> {
    let (tx, rx) = mpsc::channel();
    let caller = thread::current().id();
    channel.call_then(
        &Method::new("testRpc", method),
        &CallOptions::default(),
        &echo(data.to_owned()),
        deadline,
        move |outcome| {
            assert_ne!(thread::current().id(), caller, "a completion on the calling thread");
            tx.send(outcome).unwrap();
        },
    );
    rx
}

fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

#[test]
fn many_threads_share_one_connection_and_each_gets_its_own_reply() {
    const THREADS: usize = 64;
    let (server, _) = serve(Limits::default());
    let channel = channel(server.local_addr()).connect(soon()).unwrap();
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|t| {
            let (channel, start) = (channel.clone(), start.clone());
            thread::spawn(move || {
                start.wait();
                for i in 0..200 {
                    let data = format!("{t}:{i}");
                    assert_eq!(call(&channel, "Echo", data.clone()).unwrap(), data);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(server.connections(), 1);
}

#[test]
fn two_hundred_clients_at_once() {
    let (server, _) = serve(Limits::default());
    let addr = server.local_addr();
    let clients: Vec<_> = (0..200)
        .map(|i| {
            thread::spawn(move || {
                let channel = channel(addr).connect(soon()).unwrap();
                for j in 0..20 {
                    let data = format!("{i}:{j}");
                    assert_eq!(call(&channel, "Echo", data.clone()).unwrap(), data);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    wait_until("every connection ends", || server.connections() == 0);
}

#[test]
fn answers_come_in_any_order() {
    let (server, service) = serve(Limits::default());
    let channel = channel(server.local_addr()).lazy();
    let first = call_then(&channel, "Hold", "first", soon());
    let second = call_then(&channel, "Hold", "second", soon());
    service.wait_held(2);
    assert_eq!(call(&channel, "Echo", "third").unwrap(), "third");
    let mut held = service.take_held();
    for expected in [("second", &second), ("first", &first)] {
        let (args, call) = held.pop().unwrap();
        assert_eq!(args.data, expected.0);
        call.typed().run(args);
        assert_eq!(expected.1.recv_timeout(LONG).unwrap().unwrap().data, expected.0);
    }
}

#[test]
fn a_value_as_long_as_allowed_and_an_empty_one_round_trip() {
    let limits = Limits::default();
    let (server, _) = serve(limits);
    let channel = channel(server.local_addr()).lazy();
    // Tag and length take five bytes of the body.
    for len in [limits.frame.body_len_max_bytes - 5, 10 << 20, 100_000, 1, 0] {
        let data: Bytes = (0..len).map(|i| (i * 31) as u8).collect::<Vec<_>>().into();
        assert!(call(&channel, "Echo", data.clone()).unwrap() == data, "{len} bytes");
    }
}

#[test]
fn what_is_too_long_fails_alone() {
    let small = FrameLimits { body_len_max_bytes: 1000 };
    let (server, service) =
        serve(Limits { frame: FrameLimits { body_len_max_bytes: 10_000 }, ..Limits::default() });
    let narrow = channel(server.local_addr()).frame_limits(small).lazy();
    let error = call(&narrow, "Echo", vec![0; 1000]).unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }) && !error.may_have_run(), "{error}");
    assert_eq!(service.calls(), 0);
    // In turn: a reply too long for the client, a reply too long for the server, arguments too long
    // for the server.
    assert!(matches!(call(&narrow, "Big", "2000").unwrap_err(), CallError::BadReply { .. }));
    let wide = channel(server.local_addr()).lazy();
    for (method, data, code) in [
        ("Big", Bytes::from("20000"), StatusCode::Internal),
        ("Echo", vec![0; 10_000].into(), StatusCode::FrameTooLarge),
    ] {
        let error = call(&wide, method, data).unwrap_err();
        assert!(
            matches!(&error, CallError::Refused { status, .. } if status.code == code),
            "{error}"
        );
    }
    for channel in [&narrow, &wide] {
        assert_eq!(call(channel, "Echo", "still here").unwrap(), "still here");
    }
    assert_eq!(server.connections(), 2);
}

/// The channel resolves the name before each connect. A resolver that fails costs only the calls
/// that wait for it, and a changed answer is used.
#[test]
fn a_server_that_moves_is_found_again() {
    let (servers, answers) = ([serve(Limits::default()), serve(Limits::default())], Mutex::new(0));
    let addrs = [servers[0].0.local_addr(), servers[1].0.local_addr()];
    let resolve = move |name: &str| {
        assert_eq!(name, "moving.test:1");
        let mut answers = answers.lock().unwrap();
        *answers += 1;
        match *answers {
            1 => Err(std::io::Error::other("no answer from the name server")),
            2 => Ok(vec![addrs[0]]),
            _ => Ok(vec![addrs[0], addrs[1]]),
        }
    };
    let channel = Channel::builder("moving.test:1").resolver(resolve).lazy();
    let error = call(&channel, "Echo", "x").unwrap_err();
    let CallError::NotSent { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("name server"), "{error}");
    assert_eq!(call(&channel, "Echo", "x").unwrap(), "x");
    assert_eq!(servers[0].1.calls(), 1);
    servers[0].0.stop();
    wait_until("the end is noticed", || !channel.is_connected());
    assert_eq!(call(&channel, "Echo", "y").unwrap(), "y");
    assert_eq!(servers[1].1.calls(), 1);
}

#[test]
fn a_status_reaches_the_caller() {
    let (server, _) = serve(Limits::default());
    let channel = channel(server.local_addr()).caller("someone").lazy();
    let check = |service, method, code, may_have_run| {
        let error =
            channel.call::<_, Echo>(&Method::new(service, method), &echo("x"), soon()).unwrap_err();
        assert!(
            matches!(&error, CallError::Refused { status, .. } if status.code == code),
            "{error}"
        );
        assert_eq!(error.may_have_run(), may_have_run, "{error}");
    };
    check("testRpc", "Fail", StatusCode::Other(77), true);
    check("testRpc", "Drop", StatusCode::Unanswered, true);
    check("testRpc", "Panic", StatusCode::Internal, true);
    check("testRpc", "None", StatusCode::UnknownMethod, false);
    check("noneRpc", "Echo", StatusCode::UnknownService, false);
    assert_eq!(call(&channel, "Caller", "").unwrap(), "someone");
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_call_ends_at_its_deadline_and_its_late_reply_is_dropped() {
    let (server, service) = serve(Limits::default());
    let channel = channel(server.local_addr()).connect(soon()).unwrap();
    let began = Instant::now();
    let slow = call_then(&channel, "Hold", "async", within(1000));
    let error = channel
        .call::<_, Echo>(&Method::new("testRpc", "Hold"), &echo("blocking"), within(1000))
        .unwrap_err();
    for error in [error, slow.recv_timeout(LONG).unwrap().unwrap_err()] {
        assert!(
            matches!(error, CallError::TimedOut { sent: true, .. }) && error.may_have_run(),
            "{error}"
        );
    }
    assert!(began.elapsed() >= Duration::from_millis(1000));
    assert!(began.elapsed() < LONG);
    // The other calls of the connection go on, and the late replies reach nobody.
    service.wait_held(2);
    service.take_held().into_iter().for_each(|(args, call)| call.typed().run(args));
    assert_eq!(call(&channel, "Echo", "next").unwrap(), "next");
    assert!(slow.try_recv().is_err());
}

#[test]
fn a_deadline_that_has_passed_sends_nothing() {
    let (server, service) = serve(Limits::default());
    let channel = channel(server.local_addr()).connect(soon()).unwrap();
    let past = Instant::now();
    let blocking =
        channel.call::<_, Echo>(&Method::new("testRpc", "Echo"), &echo("x"), past).unwrap_err();
    let not_blocking =
        call_then(&channel, "Echo", "x", past).recv_timeout(LONG).unwrap().unwrap_err();
    for error in [blocking, not_blocking] {
        assert!(
            matches!(error, CallError::TimedOut { sent: false, .. }) && !error.may_have_run(),
            "{error}"
        );
    }
    assert_eq!((service.calls(), call(&channel, "Echo", "y").unwrap()), (0, Bytes::from("y")));
}

#[test]
fn the_caller_s_time_travels_with_the_call() {
    let (server, service) = serve(Limits::default());
    let channel = channel(server.local_addr()).lazy();
    let before = Instant::now();
    let _pending = call_then(&channel, "Hold", "", before + Duration::from_secs(15));
    service.wait_held(1);
    let left = service.take_held()[0].1.deadline().unwrap() - before;
    assert!(left > Duration::from_secs(14) && left < Duration::from_secs(25), "{left:?}");
}

#[test]
fn a_server_that_takes_no_bytes_holds_nobody_beyond_the_deadline() {
    // It never reads; the kernel accepts for it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let channel = channel(listener.local_addr().unwrap()).connect(soon()).unwrap();
    let began = Instant::now();
    // Some calls fit into the buffers, and then no more.
    let mut kinds = (0, 0);
    while kinds.0 == 0 || kinds.1 == 0 {
        assert!(began.elapsed() < LONG, "{kinds:?}");
        match channel
            .call::<_, Echo>(&Method::new("testRpc", "Echo"), &echo(vec![0; 10 << 20]), within(20))
            .unwrap_err()
        {
            CallError::TimedOut { sent, .. } => kinds.0 += u32::from(sent),
            CallError::Busy { .. } => kinds.1 += 1,
            error => panic!("{error}"),
        }
    }
    in_time(move || channel.close());
}

#[test]
fn nobody_there_is_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let channel = channel(addr).lazy();
    assert!(!channel.is_connected());
    let blocking = call(&channel, "Echo", "x").unwrap_err();
    let not_blocking =
        call_then(&channel, "Echo", "x", soon()).recv_timeout(LONG).unwrap().unwrap_err();
    for error in [blocking, not_blocking, channel.connect_now(soon()).unwrap_err()] {
        assert!(matches!(error, CallError::NotSent { .. }) && !error.may_have_run(), "{error}");
    }
}

#[test]
fn a_connect_without_an_answer_ends_at_the_deadline_of_each_call() {
    // The backlog is full, so the kernel drops the SYN of one more connection: a black hole.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let _fill: Vec<_> =
        (0..3).map(|_| TcpStream::connect_timeout(&addr, Duration::from_millis(50))).collect();
    let channel = channel(addr).connect_timeout(Duration::from_secs(2)).lazy();
    let pending = call_then(&channel, "Echo", "x", within(50));
    let error = channel
        .call::<_, Echo>(&Method::new("testRpc", "Echo"), &echo("x"), within(50))
        .unwrap_err();
    for error in [error, pending.recv_timeout(LONG).unwrap().unwrap_err()] {
        // Not `NotSent`, which the end of the connection attempt would give.
        assert!(matches!(error, CallError::TimedOut { sent: false, .. }), "{error}");
    }
    let error = call(&channel, "Echo", "x").unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error}");
}

#[test]
fn every_address_of_a_name_is_tried() {
    // "localhost" is ::1 and 127.0.0.1 on most machines; the server listens on one of them only.
    let (server, _) = serve(Limits::default());
    let channel = Channel::builder(format!("localhost:{}", server.local_addr().port())).lazy();
    assert_eq!(call(&channel, "Echo", "x").unwrap(), "x");
    let error = call(&Channel::builder("no.such.name.invalid:1").lazy(), "Echo", "x").unwrap_err();
    assert!(
        matches!(error, CallError::NotSent { .. } | CallError::TimedOut { sent: false, .. }),
        "{error}"
    );
}

#[test]
fn a_loss_fails_what_was_sent_and_is_told_at_once() {
    let (server, service) = serve(Limits::default());
    let (tx, disconnects) = mpsc::channel();
    let channel = channel(server.local_addr())
        .on_disconnect(move || tx.send(()).unwrap())
        .connect(soon())
        .unwrap();
    let pending = call_then(&channel, "Hold", "x", soon());
    service.wait_held(1);
    server.stop();
    let error = pending.recv_timeout(LONG).unwrap().unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }) && error.may_have_run(), "{error}");
    disconnects.recv_timeout(LONG).unwrap();
    assert!(!channel.is_connected());
    assert!(disconnects.try_recv().is_err());
}

#[test]
fn a_loss_is_told_also_with_no_call_outstanding_and_the_next_call_connects_again() {
    let (server, _) = serve(Limits::default());
    let addr = server.local_addr();
    let (tx, disconnects) = mpsc::channel();
    let channel =
        channel(addr).on_disconnect(move || tx.send(()).unwrap()).connect(soon()).unwrap();
    assert_eq!(call(&channel, "Echo", "x").unwrap(), "x");
    server.stop();
    disconnects.recv_timeout(LONG).unwrap();
    assert!(!call(&channel, "Echo", "x").unwrap_err().may_have_run());
    // The same port serves again.
    let again = syncraft::rpc::Server::builder()
        .service(Published(Arc::new(TestService::default())))
        .bind(addr.to_string())
        .build()
        .unwrap()
        .start();
    assert_eq!(call(&channel, "Echo", "again").unwrap(), "again");
    drop(again);
    disconnects.recv_timeout(LONG).unwrap();
}

#[test]
fn calls_outstanding_are_bounded() {
    let (server, service) = serve(Limits::default());
    let channel = channel(server.local_addr()).calls_max(3).lazy();
    let pending: Vec<_> = (0..3).map(|_| call_then(&channel, "Hold", "x", soon())).collect();
    service.wait_held(3);
    let not_blocking =
        call_then(&channel, "Echo", "x", soon()).recv_timeout(LONG).unwrap().unwrap_err();
    for error in [call(&channel, "Echo", "x").unwrap_err(), not_blocking] {
        assert!(
            matches!(error, CallError::Busy { calls: 3, .. }) && !error.may_have_run(),
            "{error}"
        );
    }
    service.take_held().into_iter().for_each(|(args, call)| call.typed().run(args));
    pending
        .iter()
        .for_each(|pending| assert_eq!(pending.recv_timeout(LONG).unwrap().unwrap().data, "x"));
    assert_eq!(call(&channel, "Echo", "x").unwrap(), "x");
}

#[test]
fn close_fails_what_is_outstanding_and_every_later_call() {
    let (server, service) = serve(Limits::default());
    let disconnects = Arc::new(AtomicUsize::new(0));
    let counted = disconnects.clone();
    let channel = channel(server.local_addr())
        .on_disconnect(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        })
        .lazy();
    let pending = call_then(&channel, "Hold", "x", soon());
    service.wait_held(1);
    in_time({
        let channel = channel.clone();
        move || channel.close()
    });
    // `close` has joined the threads, so the completion has run.
    let error = pending.try_recv().unwrap().unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }), "{error}");
    let not_blocking =
        call_then(&channel, "Echo", "x", soon()).recv_timeout(LONG).unwrap().unwrap_err();
    for error in [
        call(&channel, "Echo", "x").unwrap_err(),
        not_blocking,
        channel.connect_now(soon()).unwrap_err(),
    ] {
        assert!(matches!(error, CallError::NotSent { .. }), "{error}");
    }
    channel.close();
    assert_eq!(disconnects.load(Ordering::SeqCst), 0);
}

#[test]
fn a_completion_may_close_or_drop_its_channel_and_may_panic() {
    let (server, _) = serve(Limits::default());
    for closes in [true, false] {
        let (tx, done) = mpsc::channel();
        let channel = channel(server.local_addr()).lazy();
        let own = channel.clone();
        channel.call_then::<_, Echo>(
            &Method::new("testRpc", "Echo"),
            &CallOptions::default(),
            &echo("x"),
            soon(),
            move |_| {
                if closes {
                    own.close();
                }
                drop(own);
                tx.send(()).unwrap();
            },
        );
        drop(channel);
        done.recv_timeout(LONG).unwrap();
    }
    let channel = channel(server.local_addr()).lazy();
    channel.call_then::<_, Echo>(
        &Method::new("testRpc", "Echo"),
        &CallOptions::default(),
        &echo("x"),
        soon(),
        |_| panic!("on purpose"),
    );
    assert_eq!(call(&channel, "Echo", "x").unwrap(), "x");
}

#[test]
fn a_server_that_answers_nonsense_loses_the_connection_only() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let channel = channel(listener.local_addr().unwrap()).lazy();
    let unknown_call = frame(&ReplyHead { call_id: 999, ..ReplyHead::default() }, b"");
    let cases = [
        (b"HTTQ/1.1 400 Bad Request\r\n".to_vec(), Some("it does not speak this protocol")),
        (vec![0xff; 8], Some("it does not speak this protocol, it seems")),
        (vec![0; 8], Some("a header of 0 bytes")),
        (unknown_call, None),
    ];
    for (answer, bad_frame) in cases {
        let pending = call_then(&channel, "Echo", "x", soon());
        let (mut server, _) = listener.accept().unwrap();
        assert!(server.read(&mut [0; 1000]).unwrap() > 0);
        server.write_all(&answer).unwrap();
        server.shutdown(std::net::Shutdown::Write).unwrap();
        let error = pending.recv_timeout(LONG).unwrap().unwrap_err();
        match bad_frame {
            Some(words) => {
                assert!(matches!(error, CallError::BadFrame { .. }), "{error}");
                assert!(error.to_string().contains(words), "{error}");
            }
            None => assert!(matches!(error, CallError::Lost { .. }), "{error}"),
        }
        assert!(error.may_have_run());
    }
    // An answer that is not a reply of this method fails only its call.
    let pending = call_then(&channel, "Echo", "x", soon());
    let (mut server, _) = listener.accept().unwrap();
    let mut raw = Raw(server.try_clone().unwrap());
    let head_len = u32::from_le_bytes(raw.read(4).try_into().unwrap());
    let head = Head::decode(&raw.read(head_len as usize)[..]).unwrap();
    let reply = ReplyHead { call_id: head.call_id, reply_size: 2, ..ReplyHead::default() };
    server.write_all(&frame(&reply, &[0x0a, 9])).unwrap();
    let error = pending.recv_timeout(LONG).unwrap().unwrap_err();
    assert!(matches!(error, CallError::BadReply { .. }), "{error}");
    assert!(channel.is_connected());
}

/// Nobody reads an idle connection of blocking callers. A call that finds it closed was not sent
/// over it.
#[test]
fn an_idle_connection_that_was_closed_costs_no_call() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let channel = channel(listener.local_addr().unwrap()).lazy();
    let server = thread::spawn(move || {
        for _ in 0..3 {
            let (stream, _) = listener.accept().unwrap();
            let mut raw = Raw(stream);
            answer_one(&mut raw);
        }
    });
    for i in 0..3 {
        assert_eq!(call(&channel, "Echo", format!("{i}")).unwrap(), "answer");
        wait_until("the server has closed it", || !channel.is_connected());
    }
    server.join().unwrap();
}

/// Reads one call and answers "answer".
fn answer_one(raw: &mut Raw) {
    let head_len = u32::from_le_bytes(raw.read(4).try_into().unwrap());
    let head = Head::decode(&raw.read(head_len as usize)[..]).unwrap();
    raw.read(head.args_size as usize);
    let reply = echo("answer").encode_to_vec();
    let reply_head =
        ReplyHead { call_id: head.call_id, reply_size: reply.len() as u32, ..ReplyHead::default() };
    raw.send(&frame(&reply_head, &reply));
}

/// One of several callers reads for all. When its own call ends, in any way, another one takes
/// over.
#[test]
fn callers_hand_the_reading_over() {
    let (server, service) = serve(Limits::default());
    let channel = channel(server.local_addr()).connect(soon()).unwrap();
    let held: Vec<_> = (0..6)
        .map(|i| {
            let channel = channel.clone();
            thread::spawn(move || {
                // Every other caller gives up early.
                let deadline = if i % 2 == 0 { within(2000) } else { soon() };
                let args = echo(format!("{i}"));
                channel.call::<_, Echo>(&Method::new("testRpc", "Hold"), &args, deadline)
            })
        })
        .collect();
    service.wait_held(6);
    // These callers come and go, and read while they are there.
    for _ in 0..50 {
        assert_eq!(call(&channel, "Echo", "quick".to_owned()).unwrap(), "quick");
    }
    let (early, late): (Vec<_>, Vec<_>) =
        held.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
    for (_, caller) in early {
        assert!(matches!(caller.join().unwrap(), Err(CallError::TimedOut { sent: true, .. })));
    }
    for (args, call) in service.take_held() {
        call.typed().run(args);
    }
    for (i, caller) in late {
        assert_eq!(caller.join().unwrap().unwrap(), echo(format!("{i}")));
    }
}

/// The first completion gives the channel a reader of its own, even while a caller reads.
#[test]
fn completions_run_on_no_callers_thread() {
    let (server, service) = serve(Limits::default());
    let channel = channel(server.local_addr()).connect(soon()).unwrap();
    let blocked = thread::spawn({
        let channel = channel.clone();
        move || call(&channel, "Hold", "held".to_owned())
    });
    service.wait_held(1);
    let (tx, rx) = mpsc::channel();
    for i in 0..100 {
        let tx = tx.clone();
        let args = echo(format!("{i}"));
        channel.call_then(
            &Method::new("testRpc", "Echo"),
            &CallOptions::default(),
            &args,
            soon(),
            move |outcome: Result<Echo, _>| {
                outcome.unwrap();
                tx.send(thread::current().name().unwrap_or_default().to_owned()).unwrap();
            },
        );
    }
    for _ in 0..100 {
        let name = rx.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(name.starts_with("rpc-"), "{name:?}");
    }
    for (args, call) in service.take_held() {
        call.typed().run(args);
    }
    assert_eq!(blocked.join().unwrap().unwrap(), "held");
}
