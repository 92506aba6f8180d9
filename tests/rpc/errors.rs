//! Every `CallError` from a real exchange, and whether it says that the call may have run.

use std::io::ErrorKind;
use std::net::TcpListener;

use prost::Message;
use serde::{Deserialize, Serialize, Serializer};
use syncraft::rpc::{
    Bincode, CallError, CallOptions, Channel, Deadline, FrameLimits, Framing, Limits, Method,
    Pending, Status, StatusCode,
};
use syncraft::testing::Port;

use crate::peers::*;
use crate::raw::*;
use crate::support::*;

const LIMIT: usize = 1_000;

fn raw_server(limit: usize) -> (TcpListener, Channel) {
    let (listener, addr) = listen();
    let limits = FrameLimits { body_len_max_bytes: limit };
    (listener, channel(addr).frame_limits(limits).lazy())
}

/// Makes a call that `answer` answers, and returns its error.
fn error_of(answer: impl FnOnce(&mut Raw, u64)) -> CallError {
    let (listener, channel) = raw_server(LIMIT);
    let claim = pending(&channel, "Echo", "x", soon());
    let mut server = Raw::accept(&listener);
    let id = server.next_call().0.call_id;
    answer(&mut server, id);
    claim.wait().unwrap_err()
}

/// The head of a reply, followed by as many bytes as it announces.
fn long_reply(call_id: u64, len: usize) -> Vec<u8> {
    let head = ReplyHead { call_id, reply_size: len as u32, ..ReplyHead::default() };
    frame(&head, &vec![b'x'; len])
}

#[test]
fn nobody_there_is_not_sent() {
    let port = Port::free().unwrap();
    let error = call(&channel(port.addr()).lazy(), "Echo", "x").unwrap_err();
    let CallError::NotSent { addr, source } = &error else { panic!("{error}") };
    assert_eq!((addr, source.kind()), (&port.addr().to_string(), ErrorKind::ConnectionRefused));
    assert!(!error.may_have_run());
}

#[test]
fn a_connection_that_ends_without_an_answer_is_lost() {
    let error = error_of(|server, _| drop(server.0.shutdown(std::net::Shutdown::Both)));
    assert!(is_lost(&error), "{error}");
    // The status says why the connection ends, but not that the call has not run.
    let error = error_of(|server, _| server.refuse(0, StatusCode::BadHeader));
    assert!(is_lost(&error), "{error}");
    assert!(format!("{:?}", error).contains("in so many words"), "{error:?}");
}

#[test]
fn what_the_server_says_is_refused_and_its_code_says_whether_it_ran() {
    for number in 1..=14 {
        let code = StatusCode::from_number(number);
        let error = error_of(|server, id| server.refuse(id, code));
        let CallError::Refused { status, .. } = &error else { panic!("{error}") };
        assert_eq!((status.code, &status.message[..]), (code, "in so many words"));
        let ran = [StatusCode::Internal, StatusCode::Unanswered].contains(&code) || number > 13;
        assert_eq!(error.may_have_run(), ran, "{error}");
    }
    // A status about the connection: none of its calls has run.
    for code in [StatusCode::Busy, StatusCode::ShuttingDown, StatusCode::Closing] {
        let error = error_of(|server, _| server.refuse(0, code));
        assert!(
            matches!(&error, CallError::Refused { status, .. } if status.code == code),
            "{error}"
        );
        assert!(!error.may_have_run());
    }
}

#[test]
fn an_answer_that_does_not_come_is_timed_out_and_says_whether_the_call_was_sent() {
    let (listener, addr) = listen();
    let channel = channel(addr).framing(Framing::Documented).connect(soon()).unwrap();
    // In this order, so that the late one is later however long this thread is held up.
    let early = within(500);
    let late = within(1000);
    let sent = pending(&channel, "Echo", "x", late);
    // It waits for its turn.
    let unsent = pending(&channel, "Echo", "x", early);
    let _server = Raw::accept(&listener);
    for (claim, was_sent) in [(sent, true), (unsent, false)] {
        let error = claim.wait().unwrap_err();
        let CallError::TimedOut { sent, which, .. } = &error else { panic!("{error}") };
        assert_eq!((*sent, *which), (was_sent, Deadline::Call));
        assert_eq!(error.may_have_run(), was_sent);
    }
}

/// If the server's first bytes are of another protocol, no call has run, and the next calls need
/// not be tried.
#[test]
fn another_protocol_is_named_and_ran_nothing() {
    let answers: [(&[u8], &str); 3] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
        (&[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28], "TLS"),
        (&[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x46], "TLS"),
    ];
    for (bytes, name) in answers {
        let error = error_of(|server, _| {
            server.send(bytes);
            server.expect_closed();
        });
        let CallError::OtherProtocol { protocol, .. } = &error else { panic!("{error}") };
        assert_eq!(*protocol, name);
        assert!(error.to_string().contains(&format!("speaks {name}, not this protocol")));
        assert!(!error.may_have_run());
    }
    // After a reply, the same bytes are an ordinary bad frame: the server has run calls before.
    let (listener, channel) = raw_server(LIMIT);
    let ([answered, lost, _], mut server, ids) = three(&channel, &listener);
    server.answer(ids[0], "x");
    server.send(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
    assert_eq!(answered.wait().unwrap(), echo("x"));
    let error = lost.wait().unwrap_err();
    assert!(matches!(error, CallError::BadFrame { .. }) && error.may_have_run(), "{error}");
}

/// The front of a message says what failed, and its end why: of a long message both arrive.
#[test]
fn a_long_message_arrives_with_its_reason() {
    let (server, service) = serve(Limits::default());
    let channel = channel(server.local_addr()).lazy();
    let claim = pending(&channel, "Hold", "x", soon());
    service.wait_held(1);
    let words = format!("cannot open /{}: no space left", "a".repeat(2000));
    for (_, call) in service.take_held() {
        call.fail(Status::new(StatusCode::Internal, words.clone()));
    }
    let error = claim.wait().unwrap_err();
    let CallError::Refused { status, .. } = &error else { panic!("{error}") };
    let message = &status.message;
    assert!(message.starts_with("cannot open /aaaa"), "{message}");
    assert!(message.contains("a ... a") && message.ends_with("aaaa: no space left"), "{message}");
    assert!((500..=512).contains(&message.len()), "{}", message.len());
}

#[test]
fn what_is_no_frame_is_a_bad_frame() {
    let noise: [&[u8]; 5] = [
        // Not the version of a TLS alert.
        &[0x15, 0x03, 0x09, 0x00, 0x02],
        &[0xff; 64],
        &[0; 64],
        &[4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        &[1, 4, 0, 0, 0x08],
    ];
    for bytes in noise {
        let error = error_of(|server, _| {
            server.send(bytes);
            // The connection cannot be used any more, so the channel ends it.
            server.expect_closed();
        });
        assert!(matches!(error, CallError::BadFrame { .. }), "{bytes:?}: {error}");
        assert!(error.may_have_run());
    }
}

#[test]
fn an_answer_of_another_kind_is_a_bad_reply() {
    let error = error_of(|server, id| {
        let head = ReplyHead { call_id: id, reply_size: 3, ..ReplyHead::default() };
        server.send(&frame(&head, &[0x0a, 200, b'x']));
    });
    assert!(matches!(error, CallError::BadReply { .. }) && error.may_have_run(), "{error}");
}

#[test]
fn too_many_calls_are_busy() {
    let (listener, addr) = listen();
    let channel = channel(addr).calls_max(1).lazy();
    let _claim = pending(&channel, "Echo", "x", soon());
    let _server = Raw::accept(&listener);
    let error = call(&channel, "Echo", "x").unwrap_err();
    assert!(matches!(error, CallError::Busy { calls: 1, .. }) && !error.may_have_run(), "{error}");
}

/// Three calls under way.
fn three(channel: &Channel, listener: &TcpListener) -> ([Pending<Echo>; 3], Raw, [u64; 3]) {
    let claims = [(); 3].map(|()| pending(channel, "Echo", "x", soon()));
    let mut server = Raw::accept(listener);
    let ids = [(); 3].map(|()| server.next_call().0.call_id);
    (claims, server, ids)
}

#[test]
fn a_reply_over_the_limit_fails_alone() {
    // One byte too long, and the longest body that is skipped.
    for len in [LIMIT + 1, 4 * LIMIT] {
        let (listener, channel) = raw_server(LIMIT);
        let ([too_long, after, before], mut server, ids) = three(&channel, &listener);
        server.answer(ids[2], "before");
        server.send(&long_reply(ids[0], len));
        let error = too_long.wait().unwrap_err();
        assert!(matches!(error, CallError::BadReply { .. }) && error.may_have_run(), "{error}");
        assert!(!after.is_ready());
        server.answer(ids[1], "after");
        assert_eq!(after.wait().unwrap(), echo("after"));
        assert_eq!(before.wait().unwrap(), echo("before"));
        assert!(channel.is_connected());
    }
    // As long as allowed.
    let (listener, channel) = raw_server(LIMIT);
    let claim = pending(&channel, "Echo", "x", soon());
    let mut server = Raw::accept(&listener);
    let id = server.next_call().0.call_id;
    let body = echo(vec![b'x'; LIMIT - 3]).encode_to_vec();
    assert_eq!(body.len(), LIMIT);
    let head = ReplyHead { call_id: id, reply_size: LIMIT as u32, ..ReplyHead::default() };
    server.send(&frame(&head, &body));
    assert_eq!(claim.wait().unwrap().data.len(), LIMIT - 3);
}

#[test]
fn a_reply_far_over_the_limit_ends_the_connection() {
    for len in [4 * LIMIT + 4, u32::MAX as usize] {
        let (listener, channel) = raw_server(LIMIT);
        let ([too_long, other, another], mut server, ids) = three(&channel, &listener);
        let head = ReplyHead { call_id: ids[1], reply_size: len as u32, ..ReplyHead::default() };
        server.send(&frame(&head, b""));
        server.expect_closed();
        let error = other.wait().unwrap_err();
        assert!(matches!(error, CallError::BadReply { .. }) && error.may_have_run(), "{error}");
        for claim in [too_long, another] {
            let error = claim.wait().unwrap_err();
            assert!(matches!(error, CallError::BadFrame { .. }) && error.may_have_run(), "{error}");
        }
        // The next call has a new connection.
        let next = pending(&channel, "Echo", "x", soon());
        let mut server = Raw::accept(&listener);
        let id = server.next_call().0.call_id;
        server.answer(id, "next");
        assert_eq!(next.wait().unwrap(), echo("next"));
    }
}

/// A value that fails to serialize.
#[derive(Debug, Deserialize)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it has no form"))
    }
}

#[test]
fn arguments_that_cannot_be_serialized_are_not_sent_and_cost_nothing_else() {
    let (server, service) = serve_inline();
    let channel = channel(server.local_addr()).lazy();
    const METHOD: Method = method("Echo");
    let check = |error: CallError| {
        let CallError::NotSent { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.kind(), ErrorKind::InvalidInput);
        assert!(source.to_string().contains("it has no form"), "{source}");
        assert!(!error.may_have_run());
    };
    for _ in 0..2 {
        let args = Bincode(Unwritable);
        check(channel.call::<_, Echo>(&METHOD, &args, soon()).unwrap_err());
        let options = CallOptions::default();
        check(channel.call_async::<_, Echo>(&METHOD, &options, &args, soon()).wait().unwrap_err());
        let (tx, rx) = std::sync::mpsc::channel();
        channel.call_then(&METHOD, &options, &args, soon(), move |outcome: Result<Echo, _>| {
            tx.send(outcome.unwrap_err()).unwrap();
        });
        check(rx.recv_timeout(LONG).unwrap());
    }
    assert_eq!(service.calls(), 0);
    assert_eq!(call(&channel, "Echo", "still here").unwrap(), "still here");
}

#[test]
fn arguments_over_the_limit_are_not_sent() {
    let (listener, channel) = raw_server(LIMIT);
    let error = pending(&channel, "Echo", vec![0; LIMIT], soon()).wait().unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }) && !error.may_have_run(), "{error}");
    let fits = pending(&channel, "Echo", vec![0; LIMIT - 3], soon());
    assert_eq!(Raw::accept(&listener).next_call().1.len(), LIMIT);
    fits.cancel();
}
