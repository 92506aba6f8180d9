//! Items that are sent together: as many as alone, in order, whatever other threads send.

use std::sync::Barrier;
use std::thread;

use syncraft::rpc::{Channel, Outgoing, SendError, StatusCode};

use super::support::*;
use crate::raw::{Echo, echo, soon};
use crate::support::channel;

/// Sends all of these, together as far as there is room.
fn send_all(replies: &Outgoing<Echo>, mut items: &[Echo]) {
    while !items.is_empty() {
        match replies.try_send_many_as(items) {
            Ok(sent) => {
                assert!(sent > 0);
                items = &items[sent..];
            }
            // Waits for room.
            Err(SendError::NoRoom) => {
                replies.send(&items[0], soon()).unwrap();
                items = &items[1..];
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A channel whose streams have so small a window that there is room on their connection whenever
/// they have credit.
fn small_windows(fixture: &Fixture) -> Channel {
    channel(fixture.server.local_addr()).stream_window_bytes(256 << 10).lazy()
}

#[test]
fn as_many_fit_as_when_each_is_sent_alone() {
    let fixture = Fixture::new();
    let channel = small_windows(&fixture);
    let _alone = list(&channel, "alone", None);
    let to_alone = fixture.listed("alone");
    let mut together = list(&channel, "together", None);
    let to_together = fixture.listed("together");
    let items = vec![echo(vec![b'x'; 1000]); 2000];
    let fit = items.iter().take_while(|item| to_alone.try_send(item).is_ok()).count();
    assert!((100..items.len()).contains(&fit));
    assert_eq!(to_together.try_send_many_as(&items).unwrap(), fit);
    let error = to_together.try_send_many_as(&items).unwrap_err();
    assert!(matches!(error, SendError::NoRoom), "{error}");
    assert_eq!(to_together.try_send_many_as::<Echo>(&[]).unwrap(), 0);
    for _ in 0..fit {
        assert_eq!(next(&mut together), items[0].data);
    }
    to_together.end();
    assert_eq!(all(together).unwrap(), [""; 0]);
}

#[test]
fn one_that_is_too_long_is_refused_when_it_is_the_first() {
    let fixture = Fixture::new();
    let (incoming, replies) = fixture.list("some");
    let items = [echo("a"), echo("b"), echo(vec![b'x'; 17 << 20]), echo("c")];
    assert_eq!(replies.try_send_many_as(&items).unwrap(), 2);
    let error = replies.try_send_many_as(&items[2..]).unwrap_err();
    assert!(matches!(error, SendError::TooLong { .. }), "{error}");
    assert_eq!(replies.try_send_many_as(&items[3..]).unwrap(), 1);
    replies.end();
    assert_eq!(all(incoming).unwrap(), ["a", "b", "c"]);
}

#[test]
fn a_stream_that_is_over_takes_none() {
    let fixture = Fixture::new();
    let (incoming, replies) = fixture.list("given up");
    let (over, is_over) = std::sync::mpsc::channel();
    replies.when_over(move || over.send(()).unwrap());
    drop(incoming);
    wait(&is_over);
    let error = replies.try_send_many_as(&[echo("nobody")]).unwrap_err();
    assert_eq!(super::support::over(error), StatusCode::Cancelled);
    fixture.check_alive();
}

/// A thread that has been overtaken sends only what there is still credit for. Nothing is taken
/// meanwhile, so no credit comes back.
#[test]
fn threads_share_the_credit() {
    const THREADS: usize = 3;
    let fixture = Fixture::new();
    let items = vec![echo(vec![b'x'; 1000]); 1000];
    let channel = small_windows(&fixture);
    let _alone = list(&channel, "alone", None);
    let to_alone = fixture.listed("alone");
    let fit = (0..).take_while(|_| to_alone.try_send(&items[0]).is_ok()).count();
    assert!((THREADS..THREADS * items.len()).contains(&fit));
    for _ in 0..50 {
        let mut incoming = list(&channel, "shared", None);
        let replies = fixture.listed("shared");
        let begin = Barrier::new(THREADS);
        let sent: usize = thread::scope(|scope| {
            let send = || {
                begin.wait();
                replies.try_send_many_as(&items).unwrap_or(0)
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(send)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(sent, fit);
        (0..sent).for_each(|_| drop(next(&mut incoming)));
    }
}

#[test]
fn each_threads_items_keep_their_order() {
    const THREADS: usize = 4;
    const ITEMS: usize = 3000;
    let fixture = Fixture::new();
    let (incoming, replies) = fixture.list("ordered");
    let text = |thread: usize, number: usize| format!("{thread} {number} {}", "x".repeat(500));
    let receiver = thread::spawn(move || {
        incoming.map(|item| item.expect("the stream goes on").data).collect::<Vec<_>>()
    });
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (replies, text) = (&replies, &text);
            scope.spawn(move || {
                let items = (0..ITEMS).map(|number| echo(text(thread, number)));
                send_all(replies, &items.collect::<Vec<Echo>>());
            });
        }
    });
    replies.end();
    let received = receiver.join().unwrap();
    assert_eq!(received.len(), THREADS * ITEMS);
    let mut nexts = [0; THREADS];
    for item in received {
        let thread = usize::from(item[0] - b'0');
        assert_eq!(item, text(thread, nexts[thread]));
        nexts[thread] += 1;
    }
}
