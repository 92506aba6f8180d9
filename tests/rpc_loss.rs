//! A connection that is lost takes its own calls with it, and nothing else.

mod rpc_support;

use std::sync::mpsc;
use std::thread;

use bytes::Bytes;
use prost::Message;
use rpc_support::peers::*;
use rpc_support::*;
use syncraft::rpc::{CallOptions, Framing};

fn data(args: Bytes) -> Bytes {
    Echo::decode(args).unwrap().data
}

#[test]
fn a_lost_connection_fails_exactly_what_was_sent_over_it() {
    let [(lost, lost_addr), (lined, lined_addr), (other, other_addr)] =
        [listen(), listen(), listen()];
    let many = channel(lost_addr).lazy();
    let in_line = channel(lined_addr).framing(Framing::Documented).lazy();
    let unaffected = channel(other_addr).lazy();

    // Sent: one that is waited for, a claim, a completion.
    let blocking = thread::spawn({
        let many = many.clone();
        move || call(&many, "Echo", "blocking")
    });
    let claim = pending(&many, "Echo", "claim", soon());
    let (tx, completion) = mpsc::channel();
    let done = move |outcome| tx.send(outcome).unwrap();
    many.call_then::<_, Echo>(
        &method("Echo"),
        &CallOptions::default(),
        &echo("completion"),
        soon(),
        done,
    );
    let mut server = Raw::accept(&lost);
    let mut sent = [(); 3].map(|()| data(server.next_call().1));
    sent.sort();
    assert_eq!(sent, ["blocking", "claim", "completion"]);

    // Sent, and two that wait for their turn.
    let first = pending(&in_line, "Echo", "first", soon());
    let mut line = Raw::accept(&lined);
    assert_eq!(data(line.next_call().1), "first");
    let second = pending(&in_line, "Echo", "second", soon());
    let third = thread::spawn({
        let in_line = in_line.clone();
        move || call(&in_line, "Echo", "third")
    });

    let elsewhere = pending(&unaffected, "Echo", "elsewhere", soon());
    let mut bystander = Raw::accept(&other);
    let elsewhere_id = bystander.next_call().0.call_id;

    drop((server, line));
    assert!(is_lost(&blocking.join().unwrap().unwrap_err()));
    assert!(is_lost(&claim.wait().unwrap_err()));
    assert!(is_lost(&completion.recv_timeout(LONG).unwrap().unwrap_err()));
    assert!(is_lost(&first.wait().unwrap_err()));

    // What had not been sent goes over the next connection, and what had been does not come again.
    let mut line = Raw::accept(&lined);
    let mut come = Vec::new();
    for _ in 0..2 {
        let args = data(line.next_call().1);
        line.send(&echo(args.clone()).encode_to_vec());
        come.push(args);
    }
    come.sort();
    assert_eq!(come, ["second", "third"]);
    assert_eq!(second.wait().unwrap(), echo("second"));
    assert_eq!(third.join().unwrap().unwrap(), "third");

    let next = pending(&many, "Echo", "next", soon());
    let mut server = Raw::accept(&lost);
    let (head, args) = server.next_call();
    assert_eq!(data(args), "next");
    server.answer(head.call_id, "after");
    assert_eq!(next.wait().unwrap(), echo("after"));

    assert!(!elsewhere.is_ready());
    bystander.answer(elsewhere_id, "unaffected");
    assert_eq!(elsewhere.wait().unwrap(), echo("unaffected"));

    // Nothing was repeated: each connection ends without another byte.
    drop((many, in_line, unaffected));
    [server, line, bystander].iter_mut().for_each(Raw::expect_closed);
}

/// Answers that came before the end count, however close the end is behind them.
#[test]
fn what_was_answered_before_the_loss_is_answered() {
    let (listener, addr) = listen();
    let channel = channel(addr).lazy();
    for round in 0..50 {
        let claims: Vec<_> =
            (0..4).map(|i| pending(&channel, "Echo", format!("{i}"), soon())).collect();
        let mut server = Raw::accept(&listener);
        let ids = [(); 4].map(|()| server.next_call().0.call_id);
        server.send(&[reply(ids[2], "two"), reply(ids[0], "zero")].concat());
        drop(server);
        let outcomes: Vec<_> = claims.into_iter().map(|claim| claim.wait()).collect();
        assert_eq!(outcomes[0].as_ref().unwrap(), &echo("zero"), "round {round}");
        assert_eq!(outcomes[2].as_ref().unwrap(), &echo("two"), "round {round}");
        for lost in [1, 3] {
            assert!(is_lost(outcomes[lost].as_ref().unwrap_err()), "round {round}");
        }
    }
}

/// A reply that is cut off is none.
#[test]
fn half_a_reply_is_a_loss_wherever_it_ends() {
    let (listener, addr) = listen();
    let channel = channel(addr).lazy();
    for len in 0..reply(1, "whole").len() {
        let claim = pending(&channel, "Echo", "x", soon());
        let mut server = Raw::accept(&listener);
        let id = server.next_call().0.call_id;
        let whole = reply(id, "whole");
        server.send(&whole[..len.min(whole.len() - 1)]);
        drop(server);
        let error = claim.wait().unwrap_err();
        assert!(is_lost(&error), "{len} bytes: {error}");
    }
}
