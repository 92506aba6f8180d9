//! Frames of streams that break the rules, by hand: each costs its stream or its connection, and
//! nothing else.

use std::thread;

use prost::Message;
use syncraft::rpc::{CallError, FrameLimits, Limits, StatusCode};

use super::support::*;
use crate::peers::listen;
use crate::raw::{Head, Raw, echo, frame, request};
use crate::support::wait_until;

/// Opens stream 1 by hand, sends these frames, and expects its end with this status.
fn check(frames: &[Vec<u8>], code: StatusCode) {
    let frame = FrameLimits { body_len_max_bytes: 200_000 };
    let fixture = Fixture::limited(Limits { frame, ..Limits::default() });
    let (mut other, to_other) = fixture.list("other");
    let mut raw = Raw::connect(fixture.server.local_addr());
    raw.send(&open(&TALK, 1));
    let (_items, replies) = fixture.talked();
    let is_over = when_over(&replies);
    raw.send(&frames.concat());
    wait(&is_over);
    loop {
        let (head, _) = raw.reply();
        if head.stream == END {
            assert_eq!((head.call_id, head.status), (1, code.number()), "{}", head.message);
            break;
        }
    }
    // The connection lives on.
    raw.send(&open(&TALK, 2));
    let (_, replies) = fixture.talked();
    replies.end();
    expect_end_of(&mut raw, 2);
    to_other.try_send(&echo("well")).unwrap();
    assert_eq!(next(&mut other), "well");
    fixture.check_alive();
}

/// Expects that a stream ends well. What is about others is left out.
fn expect_end_of(raw: &mut Raw, id: u64) {
    loop {
        let (head, _) = raw.reply();
        if head.call_id == id {
            assert_eq!((head.stream, head.status), (END, 0), "{}", head.message);
            return;
        }
    }
}

#[test]
fn items_and_ends_after_the_end() {
    let end = || stream_frame(END, 1, 0, b"");
    check(&[end(), item_frame(1, "x")], StatusCode::BadStream);
    check(&[end(), end()], StatusCode::BadStream);
}

#[test]
fn items_beyond_the_credit() {
    // 64 KiB are granted; the first one overdraws them.
    check(&[item_frame(1, &"x".repeat(66_000)), item_frame(1, "x")], StatusCode::BadStream);
    let empty = stream_frame(ITEM, 1, 0, b"").repeat(2049);
    check(&[empty], StatusCode::BadStream);
}

#[test]
fn an_item_over_the_limit_of_frames() {
    check(&[item_frame(1, &"x".repeat(200_000))], StatusCode::FrameTooLarge);
}

#[test]
fn more_credit_than_there_may_be() {
    check(&[stream_frame(CREDIT, 1, u64::MAX, b"")], StatusCode::BadStream);
    check(&[stream_frame(CREDIT, 1, 1 << 30, b"")], StatusCode::BadStream);
    let twice = [stream_frame(CREDIT, 1, 1 << 29, b""), stream_frame(CREDIT, 1, 1 << 29, b"")];
    check(&twice, StatusCode::BadStream);
}

#[test]
fn frames_of_unknown_kinds_and_a_second_open() {
    check(&[stream_frame(99, 1, 0, b"body")], StatusCode::BadStream);
    check(&[open(&TALK, 1)], StatusCode::BadStream);
    check(&[stream_frame(OPEN_ONE, 1, 0, b"body")], StatusCode::BadStream);
}

#[test]
fn frames_with_bodies_that_they_should_not_have() {
    let frames = [
        stream_frame(CREDIT, 1, 7, b"body"),
        stream_frame(END, 1, 0, b"body"),
        stream_frame(99, 1, 0, &[b'x'; 100_000]),
    ];
    check(&frames, StatusCode::BadStream);
}

#[test]
fn frames_of_streams_that_nobody_opened() {
    let fixture = Fixture::new();
    let mut raw = Raw::connect(fixture.server.local_addr());
    let strays = [
        stream_frame(CREDIT, 5, 7, b""),
        stream_frame(END, 5, 0, b""),
        stream_frame(CANCEL, 5, 0, b""),
        stream_frame(77, 5, 0, b"body"),
        item_frame(5, "one"),
        item_frame(5, "two"),
        item_frame(6, "three"),
    ];
    raw.send(&strays.concat());
    // One answer for each stream.
    assert_eq!(raw.expect_status(5, StatusCode::BadStream), "there is no such stream");
    raw.expect_status(6, StatusCode::BadStream);
    raw.send(&open(&TALK, 7));
    let (_, replies) = fixture.talked();
    replies.end();
    expect_end(&mut raw, 7, StatusCode::from_number(0));
}

#[test]
fn an_open_far_over_the_limit_and_one_without_an_id() {
    let fixture = Fixture::new();
    let mut raw = Raw::connect(fixture.server.local_addr());
    let service = LIST.service.into();
    let method = LIST.name.into();
    let args_size = u32::MAX;
    let head = Head { service, method, args_size, call_id: 1, stream: OPEN_ONE, ..Head::default() };
    raw.send(&frame(&head, b""));
    raw.expect_status(1, StatusCode::FrameTooLarge);
    raw.expect_closed();
    for stream in [OPEN, ITEM, 99] {
        let mut raw = Raw::connect(fixture.server.local_addr());
        raw.send(&frame(&Head { call_id: 0, stream, ..head.clone() }, b""));
        raw.expect_reset();
    }
    fixture.check_alive();
}

/// A body that never comes to its end: its room is given back with the connection.
#[test]
fn a_connection_that_ends_within_an_open_or_an_item() {
    let fixture = Fixture::new();
    for cut in [false, true] {
        let mut raw = Raw::connect(fixture.server.local_addr());
        let whole = match cut {
            true => [open(&TALK, 1), item_frame(1, "never whole")].concat(),
            false => {
                let (service, method) = (LIST.service.into(), LIST.name.into());
                let head = Head {
                    service,
                    method,
                    args_size: 9,
                    call_id: 1,
                    stream: OPEN_ONE,
                    ..Head::default()
                };
                frame(&head, b"123456789")
            }
        };
        raw.send(&whole[..whole.len() - 3]);
        let opened = cut.then(|| fixture.talked());
        drop(raw);
        wait_until("the connection has ended", || fixture.server.connections() == 0);
        assert!(opened.is_none_or(|(_, replies)| replies.is_over()));
    }
    wait_until("no stream is open", || fixture.report(&TALK).open == 0);
    assert_eq!(fixture.report(&LIST).open, 0);
    fixture.check_alive();
}

// ---- a server that breaks the rules ----

/// What a caller gets from a server that answers the open of stream `id` with these frames.
fn caller_gets(answer: impl FnOnce(u64) -> Vec<u8> + Send + 'static) -> CallError {
    let (listener, addr) = listen();
    let channel = channel_to(addr);
    let mut incoming = list(&channel, "x", None);
    let server = thread::spawn(move || {
        let mut raw = Raw::accept(&listener);
        let id = raw.next_head().call_id;
        raw.send(&answer(id));
        // It learns that the caller has given up.
        let head = raw.next_head();
        assert_eq!((head.call_id, head.stream), (id, CANCEL));
        // The connection lives on.
        assert_eq!(raw.next_head().method, "Ping");
    });
    let error = failure(&mut incoming);
    channel.call_async::<_, crate::raw::Echo>(
        &syncraft::rpc::Method::new("rpc", "Ping"),
        &syncraft::rpc::CallOptions::default(),
        &echo(""),
        crate::raw::soon(),
    );
    server.join().unwrap();
    error
}

#[test]
fn a_caller_gives_a_server_up_that_breaks_the_rules() {
    let long = echo(vec![b'x'; 1_200_000]).encode_to_vec();
    let beyond = move |id| [&reply_frame(id, ITEM, 0, &long)[..]; 2].concat();
    let credit = |id| reply_frame(id, CREDIT, u64::MAX, b"");
    let unknown = |id| reply_frame(id, 99, 0, b"body");
    for error in [caller_gets(credit), caller_gets(unknown)] {
        assert!(matches!(error, CallError::BadFrame { .. }), "{error}");
    }
    let error = caller_gets_after_an_item(beyond);
    assert!(matches!(error, CallError::BadFrame { .. }), "{error}");
    let too_long = |id| reply_frame(id, ITEM, 0, &vec![b'x'; (16 << 20) + 1]);
    assert!(matches!(caller_gets(too_long), CallError::BadReply { .. }));
}

/// The same, where an item comes first.
fn caller_gets_after_an_item(answer: impl FnOnce(u64) -> Vec<u8> + Send + 'static) -> CallError {
    let (listener, addr) = listen();
    let channel = channel_to(addr);
    let mut incoming = list(&channel, "x", None);
    let mut raw = Raw::accept(&listener);
    let id = raw.next_head().call_id;
    raw.send(&answer(id));
    assert_eq!(raw.next_head().stream, CANCEL);
    next(&mut incoming);
    failure(&mut incoming)
}

#[test]
fn frames_that_a_caller_does_not_know_are_dropped() {
    let fixture = Fixture::new();
    let mut raw = Raw::connect(fixture.server.local_addr());
    raw.send(&request("Nothing", 1, "x"));
    raw.expect_status(1, StatusCode::UnknownService);
    let (listener, addr) = listen();
    let channel = channel_to(addr);
    let mut incoming = list(&channel, "x", None);
    let mut raw = Raw::accept(&listener);
    let id = raw.next_head().call_id;
    for stream in [ITEM, CREDIT, END, 99] {
        raw.send(&reply_frame(id + 100, stream, 1, b"body"));
    }
    raw.send(&reply_frame(id, ITEM, 0, &echo("mine").encode_to_vec()));
    assert_eq!(next(&mut incoming), "mine");
}
