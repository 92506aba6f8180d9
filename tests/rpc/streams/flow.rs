//! Items in order, credit, a slow reader beside a fast one, limits, many streams without threads.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use syncraft::rpc::{CallError, CallOptions, Cork, Limits, Next, SendError, StatusCode};

use super::support::*;
use crate::raw::{echo, soon};
use crate::support::{channel, in_time};

const WINDOW: usize = 1 << 20;

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[test]
fn a_server_streams_in_order() {
    let fixture = Fixture::new();
    let (incoming, replies) = fixture.list("numbers");
    let sender = thread::spawn(move || {
        for (number, text) in numbers(20_000).into_iter().enumerate() {
            // Some together, some alone.
            let _cork = (number % 100 < 50).then(Cork::new);
            replies.send(&echo(text), soon()).unwrap();
        }
        replies.end();
    });
    assert_eq!(all(incoming).unwrap(), numbers(20_000));
    sender.join().unwrap();
}

#[test]
fn a_caller_streams_in_order_and_gets_one_reply() {
    let fixture = Fixture::new();
    let (sender, reply, items, done) = fixture.load();
    let receiver = thread::spawn(move || {
        let items = all(items).unwrap();
        done.run(echo(items.len().to_string()));
        items
    });
    for number in numbers(20_000) {
        sender.send(&echo(number), soon()).unwrap();
    }
    sender.finish().unwrap();
    assert_eq!(reply.wait().unwrap(), echo("20000"));
    assert_eq!(receiver.join().unwrap(), numbers(20_000));
}

#[test]
fn both_stream_at_once_without_a_thread_at_the_server() {
    let fixture = Fixture::new();
    let (sender, incoming) = fixture.channel.open_duplex(&MIRROR, &CallOptions::default(), None);
    let feeder = thread::spawn(move || {
        for number in numbers(5_000) {
            sender.send(&echo(number), soon()).unwrap();
        }
        sender.finish().unwrap();
    });
    assert_eq!(all(incoming).unwrap(), numbers(5_000));
    feeder.join().unwrap();
}

#[test]
fn a_closure_gets_what_has_come_before_and_then_the_rest() {
    let fixture = Fixture::new();
    let (sender, _incoming, mut items, _replies) = fixture.talk();
    let send = |range: std::ops::Range<usize>| {
        range.for_each(|number| sender.send(&echo(number.to_string()), soon()).unwrap());
    };
    send(0..10);
    // By now the others have come, or will come while the closure runs.
    assert_eq!(next(&mut items), "0");
    let (taken, all_taken) = mpsc::channel();
    items.on_item(move |item| taken.send(item).unwrap());
    send(10..20);
    sender.finish().unwrap();
    let items: Vec<_> = all_taken.iter().map(|item| item.unwrap()).collect();
    let texts = items.into_iter().map(|item| item.map(|item| item.data));
    let expected = (1..20).map(|number| Some(number.to_string().into()));
    assert!(texts.eq(expected.chain([None])));
}

#[test]
fn a_method_may_reply_before_it_has_all_items() {
    let fixture = Fixture::new();
    let (sender, reply, items, done) = fixture.load();
    sender.send(&echo("first"), soon()).unwrap();
    drop(items);
    done.run(echo("enough"));
    assert_eq!(reply.wait().unwrap(), echo("enough"));
    assert_eq!(over(sender.send(&echo("second"), soon()).unwrap_err()), StatusCode::Cancelled);
    fixture.check_alive();
}

#[test]
fn a_sender_stops_at_the_window_and_goes_on_when_items_are_taken() {
    let fixture = Fixture::new();
    let (mut incoming, replies) = fixture.list("much");
    let item = echo(vec![b'x'; 1000]);
    let mut sent = 0;
    while replies.try_send(&item).is_ok() {
        sent += 1;
    }
    assert!((WINDOW / 1100..WINDOW / 1000).contains(&sent), "{sent} items");
    let (ready, is_ready) = mpsc::channel();
    replies.when_ready(move || ready.send(()).unwrap());
    // Half of the window is given back at once.
    for _ in 0..sent / 4 {
        next(&mut incoming);
    }
    assert!(is_ready.try_recv().is_err());
    for _ in sent / 4..sent * 3 / 4 {
        next(&mut incoming);
    }
    wait(&is_ready);
    replies.try_send(&item).unwrap();
    replies.end();
    assert_eq!(all(incoming).unwrap().len(), sent - sent * 3 / 4 + 1);
}

#[test]
fn a_send_without_room_ends_at_its_deadline_and_the_stream_goes_on() {
    let fixture = Fixture::new();
    let (mut incoming, replies) = fixture.list("much");
    let item = echo(vec![b'x'; WINDOW]);
    replies.try_send(&item).unwrap();
    assert!(matches!(replies.try_send(&item), Err(SendError::NoRoom)));
    let error = replies.send(&item, soon() - Duration::from_secs(19)).unwrap_err();
    assert!(matches!(error, SendError::NoRoom), "{error}");
    next(&mut incoming);
    replies.send(&item, soon()).unwrap();
    replies.end();
    assert_eq!(incoming.count(), 1);
}

#[test]
fn an_item_may_be_longer_than_the_window_but_not_than_a_frame() {
    let fixture = Fixture::new();
    let (sender, mut incoming, mut items, replies) = fixture.talk();
    let long = echo(vec![b'x'; 5 << 20]);
    for _ in 0..3 {
        replies.send(&long, soon()).unwrap();
        assert_eq!(next(&mut incoming), long.data);
        sender.send(&long, soon()).unwrap();
        assert_eq!(next(&mut items), long.data);
    }
    let too_long = echo(vec![b'x'; 17 << 20]);
    assert!(matches!(sender.try_send(&too_long), Err(SendError::TooLong { .. })));
    assert!(matches!(replies.try_send(&too_long), Err(SendError::TooLong { .. })));
    replies.try_send(&echo("short")).unwrap();
    assert_eq!(next(&mut incoming), "short");
}

#[test]
fn a_slow_reader_does_not_hold_up_a_fast_one() {
    let fixture = Fixture::new();
    let (slow, to_slow) = fixture.list("slow");
    let (fast, to_fast) = fixture.list("fast");
    let item = echo(vec![b'x'; 10_000]);
    while to_slow.try_send(&item).is_ok() {}
    let sender = thread::spawn(move || {
        for _ in 0..1000 {
            to_fast.send(&echo(vec![b'y'; 10_000]), soon()).unwrap();
        }
        to_fast.end();
    });
    assert_eq!(in_time(move || fast.count()), 1000);
    sender.join().unwrap();
    assert!(!to_slow.is_over());
    to_slow.end();
    assert!(slow.count() > 20);
}

/// Nobody reads the connection at all, so that the outbox is what is full.
#[test]
fn streams_wait_for_a_connection_that_takes_nothing() {
    let fixture = Fixture::new();
    let relay = crate::relay::Relay::to(fixture.server.local_addr());
    let channel = channel(relay.addr()).stream_window_bytes(64 << 20).lazy();
    let mut incoming = list(&channel, "much", None);
    let replies = fixture.listed("much");
    replies.try_send(&echo("first")).unwrap();
    next(&mut incoming);
    relay.freeze();
    let item = echo(vec![b'x'; 100_000]);
    let mut sent = 0;
    while replies.try_send(&item).is_ok() {
        sent += 1;
    }
    assert!(sent < 500, "{sent} items, and still room");
    let (ready, is_ready) = mpsc::channel();
    replies.when_ready(move || ready.send(()).unwrap());
    assert!(is_ready.try_recv().is_err());
    relay.thaw();
    for _ in 0..sent {
        next(&mut incoming);
    }
    wait(&is_ready);
    replies.send(&item, soon()).unwrap();
    replies.end();
    assert_eq!(incoming.count(), 1);
}

#[test]
fn next_timeout_waits_no_longer_and_loses_nothing() {
    let fixture = Fixture::new();
    let (mut incoming, replies) = fixture.list("later");
    assert!(matches!(incoming.next_timeout(Duration::ZERO), Next::NotYet));
    assert!(matches!(incoming.next_timeout(Duration::from_millis(10)), Next::NotYet));
    replies.try_send(&echo("now")).unwrap();
    assert_eq!(next(&mut incoming), "now");
    replies.end();
    for _ in 0..3 {
        assert!(matches!(incoming.next_timeout(crate::raw::LONG), Next::End));
    }
    assert!(incoming.next().is_none());
}

#[test]
fn a_method_on_a_handler_may_wait_for_room() {
    let fixture = Fixture::with(|builder| builder.handlers(1));
    let options = CallOptions::default();
    let mut incoming: syncraft::rpc::Incoming<crate::raw::Echo> =
        fixture.channel.open_stream(&BLOCK, &options, &echo(vec![b'x'; 1000]), None);
    for _ in 0..2000 {
        next(&mut incoming);
    }
    drop(incoming);
    // Its handler is free again.
    fixture.check_alive();
}

#[test]
fn streams_have_limits_of_their_own() {
    let limits = Limits { streams_per_connection_max: 2, calls_max: 1, ..Limits::default() };
    let fixture = Fixture::limited(limits);
    let (first, to_first) = fixture.list("1");
    let _second = fixture.list("2");
    let error = failure(&mut list(&fixture.channel, "3", None));
    assert_eq!(refused(&error), StatusCode::Busy);
    assert!(error.retry_after().is_some());
    to_first.end();
    assert_eq!(all(first).unwrap(), [""; 0]);
    fixture.check_alive();
}

#[test]
fn a_channel_opens_no_more_streams_than_it_may() {
    let fixture = Fixture::new();
    let channel = channel(fixture.server.local_addr()).streams_max(1).calls_max(1).lazy();
    let first = list(&channel, "1", None);
    let error = failure(&mut list(&channel, "2", None));
    assert!(matches!(error, CallError::Busy { calls: 1, .. }), "{error}");
    channel.ping(soon()).unwrap();
    drop(first);
    fixture.listed("1");
    let _third = list(&channel, "3", None);
    fixture.listed("3");
}

/// The limit on bytes, not that of each stream.
#[test]
fn an_item_without_room_at_the_server_costs_its_stream() {
    let frame = syncraft::rpc::FrameLimits { body_len_max_bytes: 100_000 };
    let limits = Limits { frame, bytes_per_connection_max: 250_000, ..Limits::default() };
    let fixture = Fixture::limited(limits);
    let (first, mut to_first, items, _replies) = fixture.talk();
    let (second, mut to_second, second_items, _second_replies) = fixture.talk();
    let item = echo(vec![b'x'; 90_000]);
    first.try_send(&item).unwrap();
    second.try_send(&item).unwrap();
    // Both have overdrawn their first credit, and nothing is taken.
    assert!(matches!(first.try_send(&item), Err(SendError::NoRoom)));
    let (third, mut to_third, _items, _third_replies) = fixture.talk();
    third.try_send(&item).unwrap();
    let error = failure(&mut to_third);
    assert_eq!(ended(&error), StatusCode::Unanswered);
    assert!(error.may_have_run() && error.retry_after().is_some());
    assert!(matches!(to_first.next_timeout(Duration::ZERO), Next::NotYet));
    assert!(matches!(to_second.next_timeout(Duration::ZERO), Next::NotYet));
    drop((items, second_items, first, second));
    fixture.check_alive();
}

/// Neither those that wait, nor those that the method has taken out with others.
#[test]
fn items_that_a_method_does_not_want_take_no_room() {
    let frame = syncraft::rpc::FrameLimits { body_len_max_bytes: 100_000 };
    let limits = Limits { frame, bytes_per_connection_max: 200_000, ..Limits::default() };
    let fixture = Fixture::limited(limits);
    let (first, _to_first, waiting, _first_replies) = fixture.talk();
    let (second, _to_second, mut partly_taken, _second_replies) = fixture.talk();
    let (third, _to_third, mut third_items, _third_replies) = fixture.talk();
    let (fourth, _to_fourth, mut fourth_items, _fourth_replies) = fixture.talk();
    let (last, _to_last, mut last_items, _last_replies) = fixture.talk();
    let mut wait_until_all_have_come = || {
        last.try_send(&echo("all have come")).unwrap();
        next(&mut last_items);
    };
    let item = |len| echo(vec![b'x'; len]);
    first.try_send(&item(90_000)).unwrap();
    second.try_send(&item(30_000)).unwrap();
    second.try_send(&item(30_000)).unwrap();
    wait_until_all_have_come();
    next(&mut partly_taken);
    drop((waiting, partly_taken));
    // These need nearly all of the room.
    third.try_send(&item(90_000)).unwrap();
    fourth.try_send(&item(90_000)).unwrap();
    wait_until_all_have_come();
    assert_eq!(next(&mut third_items).len(), 90_000);
    assert_eq!(next(&mut fourth_items).len(), 90_000);
}

#[test]
fn ten_thousand_idle_streams_need_no_threads() {
    let fixture = Fixture::new();
    let count = 10_000;
    let streams: Vec<_> = (0..count).map(|_| list(&fixture.channel, "idle", None)).collect();
    let replies: Vec<_> = (0..count).map(|_| fixture.listed("idle")).collect();
    assert_eq!(fixture.report(&LIST).open, count);
    // Other tests have threads, too.
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    assert!(threads < count as usize / 4, "{threads} threads");
    for replies in &replies {
        replies.try_send(&echo("event")).unwrap();
    }
    for mut incoming in streams {
        assert_eq!(next(&mut incoming), "event");
    }
    // Dropped: all are cancelled.
    let is_over = replies.iter().map(when_over).collect::<Vec<_>>();
    is_over.iter().for_each(wait);
    assert_eq!(fixture.report(&LIST).open, 0);
    assert_eq!(fixture.server.connections(), 1);
}
