//! A lost connection takes its own calls with it, and nothing else.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use parking_lot::Mutex;
use prost::Message;
use syncraft::rpc::{
    Call, CallError, CallOptions, Channel, Framing, Method, Pending, Server, Service,
};

use crate::peers::*;
use crate::raw::*;
use crate::relay::Relay;
use crate::support::*;

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

    // Sent: a blocking call, a claim, and a call with a completion.
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

    // One call that was sent, and two that wait for their turn.
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

    // Calls that had not been sent go over the next connection; calls that had been sent are not
    // repeated.
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

/// Answers that came before the end count, even right before it.
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

/// A reply that is cut off does not count.
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

/// Remembers each request and echoes it.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<HashSet<Bytes>>>);

impl Service for Notes {
    fn name(&self) -> &'static str {
        "notesRpc"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Note"]
    }

    fn call(&self, _: usize, args: Bytes, call: Call) {
        let Some((args, done)) = call.open::<Echo, Echo>(args) else { return };
        assert!(self.0.lock().insert(args.data.clone()), "{:?} came twice", args.data);
        done.run(args);
    }
}

const NOTE: Method = Method::new("notesRpc", "Note");

type Outcome = Result<Echo, CallError>;

/// One call, made in one of the possible ways.
fn note_once(channel: &Channel, data: &Bytes, rng: &mut Rng) -> Option<Outcome> {
    let (args, deadline) = (echo(data.clone()), within(rng.u64(0..20)));
    let claim =
        || -> Pending<Echo> { channel.call_async(&NOTE, &CallOptions::default(), &args, deadline) };
    match rng.u8(0..8) {
        0..3 => Some(channel.call(&NOTE, &args, deadline)),
        3..5 => Some(claim().wait()),
        5 => claim().wait_timeout(Duration::from_millis(rng.u64(0..20))).ok(),
        6 => {
            claim().cancel();
            None
        }
        _ => {
            let (tx, rx) = mpsc::channel();
            let done = move |outcome| tx.send(outcome).unwrap();
            channel.call_then(&NOTE, &CallOptions::default(), &args, deadline, done);
            Some(rx.recv_timeout(LONG).unwrap())
        }
    }
}

/// Calls of many threads over a network that breaks and stops at random. Each call gets its own
/// reply, or an error that is true.
fn check_chaos(framing: Framing) {
    const THREADS: u64 = 8;
    let seed = fastrand::u64(..);
    println!("{framing:?}, seed {seed}");
    let notes = Notes::default();
    let server = Server::builder()
        .service(notes.clone())
        .handlers(2)
        .bind("127.0.0.1:0")
        .build()
        .unwrap()
        .start();
    let relay = Relay::to(server.local_addr());
    let channel = channel(relay.addr()).framing(framing).calls_max(6).lazy();
    let is_over = AtomicBool::new(false);
    let not_run = thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng::with_seed(seed);
            while !is_over.load(Ordering::SeqCst) {
                match rng.u8(0..4) {
                    0 => relay.freeze(),
                    1 => relay.cut(),
                    _ => relay.thaw(),
                }
                // The time between faults.
                thread::sleep(Duration::from_micros(rng.u64(0..20_000)));
            }
            relay.thaw();
        });
        let callers: Vec<_> = (1..=THREADS)
            .map(|t| {
                let channel = &channel;
                scope.spawn(move || {
                    let (mut rng, mut not_run) = (Rng::with_seed(seed ^ t), Vec::new());
                    for i in 0..400 {
                        let data = Bytes::from(format!("{t}:{i}"));
                        match note_once(channel, &data, &mut rng) {
                            Some(Ok(reply)) => assert_eq!(reply.data, data),
                            Some(Err(error)) if !error.may_have_run() => not_run.push(data),
                            Some(Err(CallError::Lost { .. } | CallError::TimedOut { .. })) => {}
                            Some(Err(error)) => panic!("{error}"),
                            None => {}
                        }
                    }
                    not_run
                })
            })
            .collect();
        let not_run: Vec<_> = callers.into_iter().flat_map(|it| it.join().unwrap()).collect();
        is_over.store(true, Ordering::SeqCst);
        not_run
    });
    // It still serves.
    relay.thaw();
    let last: Echo = loop {
        if let Ok(reply) = channel.call(&NOTE, &echo(format!("{}", fastrand::u64(..))), soon()) {
            break reply;
        }
    };
    assert!(notes.0.lock().contains(&last.data));
    drop((channel, relay));
    wait_until("everything that was sent has ended", || server.connections() == 0);
    let notes = notes.0.lock();
    println!("{} ran, {} did not", notes.len(), not_run.len());
    for data in not_run {
        assert!(!notes.contains(&data), "{data:?} was said not to have run");
    }
}

#[test]
fn whatever_the_network_does_each_call_gets_its_own_reply_or_a_true_error() {
    check_chaos(Framing::Extended);
}

#[test]
fn whatever_the_network_does_each_documented_call_gets_its_own_reply_or_a_true_error() {
    check_chaos(Framing::Documented);
}
