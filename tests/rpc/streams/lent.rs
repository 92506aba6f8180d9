//! A stream that is alone on its channel: the thread that takes its items reads the connection.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use prost::Message;
use syncraft::rpc::{
    CallError, CallOptions, Channel, FrameLimits, Incoming, Method, Next, Outgoing, StatusCode,
};

use super::support::*;
use crate::peers::listen;
use crate::raw::{Echo, LONG, Raw, echo, soon};
use crate::support::wait_until;

/// A file of the system about the thread of a channel to this server.
#[cfg(target_os = "linux")]
fn about_thread(fixture: &Fixture, file: &str) -> String {
    let name = format!("rpc-chan-{}\n", fixture.server.local_addr().port());
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let read = |dir: &std::path::Path, file| std::fs::read_to_string(dir.join(file)).ok();
    let mut dirs = tasks.map(|task| task.unwrap().path());
    let own = dirs.find(|dir| read(dir, "comm") == Some(name.clone()));
    read(&own.expect("the channel has a thread"), file).expect("the thread runs")
}

/// How often it has waited for something.
#[cfg(target_os = "linux")]
fn waits(fixture: &Fixture) -> u64 {
    let status = about_thread(fixture, "status");
    let line = status.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

/// How much processor time it has taken.
#[cfg(target_os = "linux")]
fn processor_time(fixture: &Fixture) -> Duration {
    let times = about_thread(fixture, "schedstat");
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

/// Tries until one try is quick: on a busy machine any may be slow.
fn check_quick(what: &str, max: Duration, mut run: impl FnMut()) {
    wait_until(what, || {
        let began = Instant::now();
        run();
        began.elapsed() < max
    });
}

fn exchange(replies: &Outgoing<Echo>, incoming: &mut Incoming<Echo>) {
    replies.try_send(&echo("item")).unwrap();
    assert_eq!(next(incoming), "item");
}

#[cfg(target_os = "linux")]
#[test]
fn items_wake_no_thread_but_the_one_that_takes_them() {
    const ITEMS: u32 = 1_000;
    let fixture = Fixture::new();
    let (mut incoming, replies) = fixture.list("one by one");
    exchange(&replies, &mut incoming);
    // On a busy machine, the channel's thread may read ahead of the test's thread for a while.
    wait_until("the channel's thread sleeps", || {
        let before = processor_time(&fixture);
        (0..ITEMS).for_each(|_| exchange(&replies, &mut incoming));
        // To read an item, and to wake this thread, takes longer.
        (processor_time(&fixture) - before) / ITEMS < Duration::from_micros(1)
    });
}

/// The threads of a program that waits should sleep.
#[cfg(target_os = "linux")]
#[test]
fn a_stream_that_brings_nothing_wakes_its_channel_seldom() {
    let fixture = Fixture::new();
    let (mut incoming, replies) = fixture.list("quiet");
    (0..10).for_each(|_| exchange(&replies, &mut incoming));
    let (before, began) = (waits(&fixture), Instant::now());
    assert!(matches!(incoming.next_timeout(Duration::from_secs(1)), Next::NotYet));
    let (waits, time) = (waits(&fixture) - before, began.elapsed());
    assert!(Duration::from_millis(40) * waits as u32 <= time, "{waits} in {time:?}");
}

#[test]
fn calls_and_other_streams_go_on_beside_a_receiver_that_reads() {
    let fixture = Fixture::new();
    let (mut incoming, replies) = fixture.list("alone at first");
    exchange(&replies, &mut incoming);
    let (took, taken) = mpsc::channel();
    let receiver = thread::spawn(move || {
        for item in &mut incoming {
            took.send(item.unwrap().data).unwrap();
        }
    });
    let channel = &fixture.channel;
    for round in 0..100 {
        // After this, the receiver is about to read.
        replies.try_send(&echo("item")).unwrap();
        assert_eq!(taken.recv_timeout(LONG).unwrap(), "item");
        if round % 2 == 0 {
            let reply: Echo = channel.call(&PLAIN, &echo("beside it"), soon()).unwrap();
            assert_eq!(reply, echo("beside it"));
            continue;
        }
        let (told, outcomes) = mpsc::channel();
        channel.call_then::<_, Echo>(&PLAIN, &CallOptions::default(), &echo("then"), soon(), {
            move |reply| told.send((reply, thread::current().id())).unwrap()
        });
        let (reply, thread) = outcomes.recv_timeout(LONG).unwrap();
        assert_eq!(reply.unwrap(), echo("then"));
        assert_ne!(thread, receiver.thread().id(), "a completion runs on a thread of the channel");
    }
    fixture.check_alive();
    let (sender, mut both_ways, mut items, to_caller) = fixture.talk();
    sender.send(&echo("up"), soon()).unwrap();
    assert_eq!(next(&mut items), "up");
    to_caller.send(&echo("down"), soon()).unwrap();
    assert_eq!(next(&mut both_ways), "down");
    replies.try_send(&echo("last")).unwrap();
    assert_eq!(taken.recv_timeout(LONG).unwrap(), "last");
    replies.end();
    receiver.join().unwrap();
}

#[test]
fn a_receiver_that_is_away_holds_up_nobody() {
    let fixture = Fixture::new();
    let (mut incoming, replies) = fixture.list("away");
    for _ in 0..10 {
        replies.try_send(&echo("before")).unwrap();
        next(&mut incoming);
    }
    // It reads no more. A call is answered, and what comes meanwhile is kept.
    let reply: Echo = fixture.channel.call(&PLAIN, &echo("call"), soon()).unwrap();
    assert_eq!(reply, echo("call"));
    (0..10).for_each(|_| replies.try_send(&echo("kept")).unwrap());
    fixture.check_alive();
    replies.end();
    assert_eq!(all(incoming).unwrap(), ["kept"; 10]);
}

#[test]
fn a_receiver_that_reads_keeps_its_own_time() {
    let fixture = Fixture::new();
    let mut incoming = list(&fixture.channel, "late", Some(soon()));
    let replies = fixture.listed("late");
    check_quick("it does not wait for longer", Duration::from_millis(90), || {
        exchange(&replies, &mut incoming);
        let until = Instant::now() + Duration::from_millis(40);
        assert!(matches!(incoming.next_timeout(Duration::from_millis(40)), Next::NotYet));
        assert!(Instant::now() >= until);
    });
}

#[test]
fn a_receiver_that_reads_keeps_the_deadline_of_its_stream() {
    let fixture = Fixture::new();
    check_quick("it ends in time", Duration::from_millis(500), || {
        let deadline = Instant::now() + Duration::from_millis(300);
        let mut incoming = list(&fixture.channel, "late", Some(deadline));
        let replies = fixture.listed("late");
        let _ = replies.try_send(&echo("item"));
        let ends: Vec<_> = (&mut incoming).collect();
        assert!(matches!(ends.last(), Some(Err(CallError::TimedOut { .. }))), "{ends:?}");
        assert!(Instant::now() >= deadline);
        wait_until("the server knows", || replies.is_over());
    });
}

#[test]
fn a_receiver_that_only_looks_finds_what_has_come() {
    let fixture = Fixture::new();
    let (mut incoming, replies) = fixture.list("looked at");
    replies.try_send(&echo("first")).unwrap();
    next(&mut incoming);
    check_quick("items are found as they come", Duration::from_millis(100), || {
        for _ in 0..20 {
            replies.try_send(&echo("item")).unwrap();
            wait_until("it is there", || {
                matches!(incoming.next_timeout(Duration::ZERO), Next::Item(_))
            });
        }
    });
}

#[test]
fn a_stream_that_is_refused_while_its_receiver_reads_is_told_so_at_once() {
    let fixture = Fixture::new();
    check_quick("all are told", Duration::from_millis(100), || {
        (0..20).for_each(|_| refuse_after_another(&fixture));
    });
}

fn refuse_after_another(fixture: &Fixture) {
    // The receiver reads the end of this stream. Then the receiver of the next one may read, too.
    let (mut incoming, replies) = fixture.list("before");
    exchange(&replies, &mut incoming);
    replies.end();
    assert_eq!(incoming.count(), 0);
    let unknown = Method::new("streamRpc", "Unknown");
    let options = CallOptions::default();
    let stream = fixture.channel.open_stream::<_, Echo>(&unknown, &options, &echo("x"), None);
    assert_eq!(refused(&all(stream).unwrap_err()), StatusCode::UnknownMethod);
}

/// The frame of an item, as a server sends it.
fn item(call_id: u64, data: &'static str) -> Vec<u8> {
    reply_frame(call_id, ITEM, 0, &echo(data).encode_to_vec())
}

/// Without the item, a stream that goes on would look as if it were whole.
#[test]
fn nothing_follows_an_item_that_is_too_long() {
    let (listener, addr) = listen();
    let limits = FrameLimits { body_len_max_bytes: 1000 };
    let channel = Channel::builder(addr.to_string()).frame_limits(limits).lazy();
    let mut raw = None;
    // In any of these, this thread may be the one that reads.
    for _ in 0..50 {
        let mut incoming = list(&channel, "x", None);
        let raw = raw.get_or_insert_with(|| Raw::accept(&listener));
        let id = std::iter::repeat_with(|| raw.next_head())
            .find_map(|head| (head.stream == OPEN_ONE).then_some(head.call_id))
            .unwrap();
        raw.send(&item(id, "first"));
        assert_eq!(next(&mut incoming), "first");
        let too_long = reply_frame(id, ITEM, 0, &[0; 1001]);
        let end = reply_frame(id, END, 0, b"");
        raw.send(&[item(id, "second"), too_long, item(id, "behind it"), end].concat());
        assert_eq!(next(&mut incoming), "second");
        let error = failure(&mut incoming);
        assert!(matches!(error, CallError::BadReply { .. }), "{error}");
    }
}

#[test]
fn a_receiver_that_reads_learns_of_what_it_did_not_ask_for() {
    let (listener, addr) = listen();
    let channel = channel_to(addr);
    let mut incoming = list(&channel, "x", None);
    let mut raw = Raw::accept(&listener);
    let id = raw.next_head().call_id;
    raw.send(&item(id, "first"));
    assert_eq!(next(&mut incoming), "first");
    // An item of a stream that does not exist, and then an item in two parts.
    raw.send(&item(id + 77, "for nobody"));
    let second = item(id, "second");
    raw.send(&second[..7]);
    assert!(matches!(incoming.next_timeout(Duration::from_millis(50)), Next::NotYet));
    raw.send(&second[7..]);
    assert_eq!(next(&mut incoming), "second");
    // The connection ends while it reads.
    let receiver = thread::spawn(move || failure(&mut incoming));
    drop(raw);
    let error = receiver.join().unwrap();
    assert!(matches!(error, CallError::Lost { .. }), "{error}");
    // The channel is as good as new.
    let mut again = list(&channel, "x", None);
    let mut raw = Raw::accept(&listener);
    let id = raw.next_head().call_id;
    raw.send(&item(id, "again"));
    assert_eq!(next(&mut again), "again");
    // The server goes while the receiver is away.
    drop(raw);
    wait_until("the channel notices", || !channel.is_connected());
    let error = failure(&mut again);
    assert!(matches!(error, CallError::Lost { .. }), "{error}");
}
