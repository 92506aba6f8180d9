//! How a stream ends, and what each side learns.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use prost::Message;
use syncraft::rpc::{CallError, CallOptions, Incoming, Next, SendError, Status, StatusCode};

use super::support::*;
use crate::raw::{Echo, Head, LONG, Raw, echo, soon};
use crate::relay::Relay;
use crate::support::in_time;

#[test]
fn the_method_ends_it_behind_its_items() {
    let fixture = Fixture::new();
    let (mut incoming, replies) = fixture.list("some");
    replies.try_send(&echo("one")).unwrap();
    replies.fail(Status::new(StatusCode::Other(77), "no more today"));
    assert_eq!(next(&mut incoming), "one");
    let error = failure(&mut incoming);
    assert_eq!(ended(&error), StatusCode::Other(77));
    assert!(error.to_string().contains("no more today"), "{error}");
    assert!(incoming.next().is_none());
    fixture.check_alive();
}

#[test]
fn an_upload_may_fail() {
    let fixture = Fixture::new();
    let (sender, reply, _items, done) = fixture.load();
    done.fail(Status::new(StatusCode::Other(77), "not this"));
    assert_eq!(ended(&reply.wait().unwrap_err()), StatusCode::Other(77));
    assert_eq!(over(sender.finish().unwrap_err()), StatusCode::Other(77));
}

#[test]
fn a_method_that_gives_up_or_panics_ends_its_stream() {
    let fixture = Fixture::new();
    let (mut incoming, replies) = fixture.list("dropped");
    drop(replies);
    assert_eq!(ended(&failure(&mut incoming)), StatusCode::Unanswered);
    let options = CallOptions::default();
    let mut incoming: Incoming<Echo> =
        fixture.channel.open_stream(&PANIC, &options, &echo("x"), None);
    assert_eq!(ended(&failure(&mut incoming)), StatusCode::Internal);
    let (sender, mut incoming) = fixture.channel.open_duplex::<Echo, Echo>(&MIRROR, &options, None);
    sender.send(&echo("panic"), soon()).unwrap();
    assert_eq!(ended(&failure(&mut incoming)), StatusCode::Internal);
    fixture.check_alive();
}

#[test]
fn a_caller_that_drops_its_items_cancels() {
    let fixture = Fixture::new();
    let (incoming, replies) = fixture.list("cancelled");
    let is_over = when_over(&replies);
    let (ready, is_ready) = mpsc::channel();
    while replies.try_send(&echo(vec![b'x'; 1000])).is_ok() {}
    replies.when_ready(move || ready.send(()).unwrap());
    drop(incoming);
    wait(&is_over);
    wait(&is_ready);
    assert!(replies.is_over());
    assert_eq!(over(replies.send(&echo("late"), soon()).unwrap_err()), StatusCode::Cancelled);
    fixture.check_alive();
}

#[test]
fn a_caller_that_drops_its_sender_cancels() {
    let fixture = Fixture::new();
    let (sender, mut incoming, mut items, replies) = fixture.talk();
    sender.send(&echo("half"), soon()).unwrap();
    assert_eq!(next(&mut items), "half");
    drop(sender);
    assert_eq!(failure(&mut items).code, StatusCode::Cancelled);
    assert_eq!(ended(&failure(&mut incoming)), StatusCode::Cancelled);
    assert!(replies.is_over());
    let (sender, reply, mut items, done) = fixture.load();
    drop(reply);
    assert_eq!(failure(&mut items).code, StatusCode::Cancelled);
    assert_eq!(over(sender.finish().unwrap_err()), StatusCode::Cancelled);
    done.run(echo("too late"));
    fixture.check_alive();
}

#[test]
fn a_cancel_wakes_a_method_that_waits() {
    let fixture = Fixture::new();
    let (sender, incoming, mut items, replies) = fixture.talk();
    while replies.try_send(&echo(vec![b'x'; 1000])).is_ok() {}
    let receives = thread::spawn(move || failure(&mut items).code);
    let sends = thread::spawn(move || over(replies.send(&echo("more"), soon()).unwrap_err()));
    drop(incoming);
    assert_eq!(receives.join().unwrap(), StatusCode::Cancelled);
    assert_eq!(sends.join().unwrap(), StatusCode::Cancelled);
    drop(sender);
}

#[test]
fn a_method_that_wants_no_items_lets_the_stream_go_on() {
    let fixture = Fixture::new();
    let (sender, mut incoming, items, replies) = fixture.talk();
    drop(items);
    sender.send(&echo("unheard"), soon()).unwrap();
    replies.try_send(&echo("heard")).unwrap();
    assert_eq!(next(&mut incoming), "heard");
    sender.finish().unwrap();
    replies.end();
    assert!(matches!(incoming.next_timeout(LONG), Next::End));
}

#[test]
fn the_deadline_ends_it_on_both_sides() {
    let fixture = Fixture::new();
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut incoming = list(&fixture.channel, "soon", Some(deadline));
    let replies = fixture.listed("soon");
    let is_over = when_over(&replies);
    assert!(replies.deadline().is_some());
    replies.try_send(&echo("in time")).unwrap();
    assert_eq!(next(&mut incoming), "in time");
    let error = failure(&mut incoming);
    assert!(matches!(error, CallError::TimedOut { sent: true, .. }), "{error}");
    wait(&is_over);
    let code = over(replies.try_send(&echo("late")).unwrap_err());
    assert!([StatusCode::Cancelled, StatusCode::DeadlineExceeded].contains(&code), "{code}");
    fixture.check_alive();
}

/// The server ends it by itself: this caller has no timer.
#[test]
fn a_server_keeps_the_deadline_too() {
    let fixture = Fixture::new();
    let mut raw = Raw::connect(fixture.server.local_addr());
    let head = Head {
        service: "streamRpc".into(),
        method: "Talk".into(),
        call_id: 7,
        deadline_ms: 100,
        stream: OPEN,
        credit: 1 << 20,
        ..Head::default()
    };
    raw.send(&crate::raw::frame(&head, b""));
    let (mut items, replies) = fixture.talked();
    assert_eq!(failure(&mut items).code, StatusCode::DeadlineExceeded);
    assert!(replies.is_over());
    expect_end(&mut raw, 7, StatusCode::DeadlineExceeded);
    raw.send(&stream_frame(CANCEL, 7, 0, b""));
}

#[test]
fn a_deadline_that_has_passed_opens_nothing() {
    let fixture = Fixture::new();
    let error = failure(&mut list(&fixture.channel, "late", Some(Instant::now())));
    assert!(matches!(error, CallError::TimedOut { sent: false, .. }), "{error}");
}

#[test]
fn a_server_that_stops_or_drains_says_so() {
    for drains in [false, true] {
        let fixture = Fixture::new();
        let (mut incoming, replies) = fixture.list("stopped");
        let is_over = when_over(&replies);
        replies.try_send(&echo("before")).unwrap();
        match drains {
            true => assert!(fixture.server.drain(LONG)),
            false => fixture.server.stop(),
        }
        wait(&is_over);
        assert_eq!(over(replies.try_send(&echo("x")).unwrap_err()), StatusCode::ShuttingDown);
        assert_eq!(next(&mut incoming), "before");
        let error = failure(&mut incoming);
        assert_eq!(ended(&error), StatusCode::ShuttingDown);
        assert!(error.may_have_run());
    }
}

/// An inline method that waits holds up its connection, but not a server that stops.
#[test]
fn a_stop_wakes_a_method_that_waits_for_room() {
    let fixture = Fixture::new();
    let options = CallOptions::default();
    let mut incoming: Incoming<Echo> =
        fixture.channel.open_stream(&BLOCK, &options, &echo(vec![b'x'; 1000]), None);
    next(&mut incoming);
    let began = Instant::now();
    in_time(move || fixture.server.stop());
    assert!(began.elapsed() < Duration::from_secs(9), "the stop has waited in vain");
}

#[test]
fn a_lost_connection_ends_it_on_both_sides() {
    let fixture = Fixture::new();
    let relay = Relay::to(fixture.server.local_addr());
    let channel = channel_to(relay.addr());
    let mut incoming = list(&channel, "lost", None);
    let replies = fixture.listed("lost");
    let is_over = when_over(&replies);
    replies.try_send(&echo("before")).unwrap();
    assert_eq!(next(&mut incoming), "before");
    relay.cut();
    let error = failure(&mut incoming);
    assert!(matches!(error, CallError::Lost { .. }), "{error}");
    wait(&is_over);
    assert_eq!(over(replies.try_send(&echo("x")).unwrap_err()), StatusCode::Cancelled);
    fixture.check_alive();
}

/// Neither side takes an item, so both wait for the other's credit.
#[test]
fn a_lost_connection_wakes_those_who_wait_for_room() {
    let fixture = Fixture::new();
    let relay = Relay::to(fixture.server.local_addr());
    let channel = channel_to(relay.addr());
    let options = CallOptions::default();
    let (sender, _incoming) = channel.open_duplex::<Echo, Echo>(&TALK, &options, None);
    let (_items, replies) = fixture.talked();
    let item = echo(vec![b'x'; 1000]);
    while sender.try_send(&item).is_ok() {}
    while replies.try_send(&item).is_ok() {}
    let much_later = Instant::now() + Duration::from_secs(3600);
    let ours = thread::spawn(move || over(sender.send(&echo("more"), much_later).unwrap_err()));
    let theirs = thread::spawn(move || over(replies.send(&echo("more"), much_later).unwrap_err()));
    // By then both wait, most of the time.
    thread::sleep(Duration::from_millis(50));
    relay.cut();
    in_time(move || {
        ours.join().unwrap();
        assert_eq!(theirs.join().unwrap(), StatusCode::Cancelled);
    });
    fixture.check_alive();
}

#[test]
fn a_client_that_goes_ends_its_streams_at_once() {
    for resets in [false, true] {
        let fixture = Fixture::new();
        let mut raw = Raw::connect(fixture.server.local_addr());
        raw.send(&open(&TALK, 1));
        let (mut items, replies) = fixture.talked();
        let is_over = when_over(&replies);
        match resets {
            true => raw.reset(),
            false => drop(raw),
        }
        wait(&is_over);
        assert_eq!(failure(&mut items).code, StatusCode::Cancelled);
        fixture.check_alive();
    }
}

#[test]
fn a_channel_that_is_closed_or_dropped_ends_its_streams() {
    for closes in [false, true] {
        let fixture = Fixture::new();
        let channel = channel_to(fixture.server.local_addr());
        let mut incoming = list(&channel, "closed", None);
        let replies = fixture.listed("closed");
        let is_over = when_over(&replies);
        if closes {
            channel.close();
        }
        drop(channel);
        let error = failure(&mut incoming);
        assert!(matches!(error, CallError::Lost { .. }), "{error}");
        wait(&is_over);
        fixture.check_alive();
    }
}

#[test]
fn a_stream_over_a_closed_channel_was_never_sent() {
    let fixture = Fixture::new();
    fixture.channel.close();
    let (sender, mut incoming) =
        fixture.channel.open_duplex::<Echo, Echo>(&TALK, &CallOptions::default(), None);
    let error = failure(&mut incoming);
    assert!(matches!(error, CallError::NotSent { .. }) && !error.may_have_run(), "{error}");
    assert_eq!(over(sender.send(&echo("x"), soon()).unwrap_err()), StatusCode::Cancelled);
}

/// The end of the items is not the end of the stream.
#[test]
fn items_come_after_the_callers_last_one() {
    let fixture = Fixture::new();
    let (sender, mut incoming, mut items, replies) = fixture.talk();
    sender.finish().unwrap();
    assert!(matches!(items.next_timeout(LONG), Next::End));
    replies.try_send(&echo("after")).unwrap();
    assert_eq!(next(&mut incoming), "after");
    replies.end();
    assert!(incoming.next().is_none());
}

/// A channel has no connection yet when these are asked for.
#[test]
fn what_is_asked_before_there_is_a_connection_happens_then() {
    let fixture = Fixture::new();
    let (sender, mut incoming) =
        fixture.channel.open_duplex::<Echo, Echo>(&MIRROR, &CallOptions::default(), None);
    sender.finish().unwrap();
    assert!(matches!(incoming.next_timeout(LONG), Next::End));
    // This one is dropped, perhaps before it was sent.
    let other = channel_to(fixture.server.local_addr());
    drop(list(&other, "dropped", None));
    let _ = other.ping(soon());
    crate::support::wait_until("no stream is left", || fixture.report(&LIST).open == 0);
}

#[test]
fn an_item_that_does_not_decode_ends_the_stream() {
    // A field of five bytes, of which one is there.
    let bad = || CallOptions::default();
    let fixture = Fixture::new();
    let (sender, mut incoming) = fixture.channel.open_duplex::<Bad, Echo>(&TALK, &bad(), None);
    let (mut items, replies) = fixture.talked();
    sender.send(&Bad { number: 300 }, soon()).unwrap();
    assert_eq!(failure(&mut items).code, StatusCode::BadArguments);
    assert_eq!(ended(&failure(&mut incoming)), StatusCode::BadArguments);
    assert!(replies.is_over());
    let (sender, mut incoming) = fixture.channel.open_duplex::<Echo, Bad>(&TALK, &bad(), None);
    let (_items, replies) = fixture.talked();
    let is_over = when_over(&replies);
    replies.try_send(&echo("text")).unwrap();
    match incoming.next_timeout(LONG) {
        Next::Failed(CallError::BadReply { .. }) => {}
        other => panic!("{other:?}"),
    }
    wait(&is_over);
    assert!(matches!(sender.try_send(&echo("x")), Err(SendError::Ended(_))));
    fixture.check_alive();
}

/// The same field as an `Echo`, of another type.
#[derive(Clone, PartialEq, Message)]
struct Bad {
    #[prost(uint32, tag = "1")]
    number: u32,
}

#[test]
fn the_counts_tell_how_streams_ended() {
    let fixture = Fixture::new();
    let (incoming, replies) = fixture.list("five");
    replies.try_send(&echo("five!")).unwrap();
    replies.end();
    assert_eq!(all(incoming).unwrap(), ["five!"]);
    let (mut incoming, replies) = fixture.list("fails");
    replies.fail(Status::new(StatusCode::Other(77), ""));
    failure(&mut incoming);
    let report = fixture.report(&LIST);
    assert_eq!((report.calls, report.open, report.running.count), (2, 0, 2));
    assert_eq!(report.errors.into_iter().collect::<Vec<_>>(), [(77, 1)]);
    assert_eq!(report.reply_bytes, 7);
}
