//! Ends in every order, by chance: whatever both sides do, each stream ends once for each side, no
//! item is out of order, and nothing is left.

use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use syncraft::rpc::{CallOptions, Incoming, Next, Status, StatusCode};

use super::support::*;
use crate::raw::{Echo, LONG, echo, soon};
use crate::support::wait_until;

/// Reads until the stream ends or `items` have come. They must be in order.
fn read<E>(mut incoming: Incoming<Echo, E>, items: usize) {
    for number in 0..items {
        match incoming.next_timeout(LONG) {
            Next::Item(item) => {
                let text = item.data.split(|byte| *byte == b' ').next().unwrap();
                assert_eq!(text, number.to_string().as_bytes());
            }
            Next::End | Next::Failed(_) => return,
            Next::NotYet => panic!("a stream hangs"),
        }
    }
}

fn item(number: usize, rng: &mut Rng) -> Echo {
    echo(format!("{number} {}", "x".repeat(rng.usize(..30_000))))
}

/// What a method does with its stream.
fn serve(opened: (Theirs, syncraft::rpc::Outgoing<Echo>), mut rng: Rng) {
    let (items, replies) = opened;
    let (count, wanted) = (rng.usize(..40), rng.usize(..40));
    let reader = thread::spawn(move || read(items, wanted));
    for number in 0..count {
        if replies.send(&item(number, &mut rng), soon()).is_err() {
            break;
        }
    }
    match rng.u8(..4) {
        0 => drop(replies),
        1 => replies.fail(Status::new(StatusCode::Other(77), "")),
        _ => replies.end(),
    }
    reader.join().unwrap();
}

/// What a caller does with its stream.
fn call(fixture: &Fixture, mut rng: Rng) {
    let deadline =
        (rng.u8(..3) == 0).then(|| Instant::now() + Duration::from_micros(rng.u64(..20_000)));
    let (sender, incoming) =
        fixture.channel.open_duplex::<Echo, Echo>(&TALK, &CallOptions::default(), deadline);
    let (count, wanted) = (rng.usize(..40), rng.usize(..40));
    let reader = thread::spawn(move || read(incoming, wanted));
    for number in 0..count {
        if sender.send(&item(number, &mut rng), soon()).is_err() {
            break;
        }
    }
    match rng.u8(..4) {
        0 => drop(sender),
        _ => drop(sender.finish()),
    }
    reader.join().unwrap();
}

#[test]
fn streams_end_in_any_order() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let fixture = Fixture::new();
    let (callers, rounds) = (8, 15);
    thread::scope(|scope| {
        let rngs: Vec<_> = (0..callers).map(|_| rng.fork()).collect();
        let fixture = &fixture;
        let threads: Vec<_> = rngs
            .into_iter()
            .map(|mut rng| scope.spawn(move || (0..rounds).for_each(|_| call(fixture, rng.fork()))))
            .collect();
        while !threads.iter().all(|it| it.is_finished()) {
            let Some(opened) = fixture.try_talked(Duration::from_millis(10)) else { continue };
            let rng = rng.fork();
            scope.spawn(move || serve(opened, rng));
        }
        threads.into_iter().for_each(|it| it.join().unwrap());
    });
    // Streams whose deadline had passed may still be on their way. This call is behind them.
    fixture.channel.call::<Echo, Echo>(&PLAIN, &echo("behind all"), soon()).unwrap();
    wait_until("no stream is left", || {
        while let Some(opened) = fixture.try_talked(Duration::ZERO) {
            drop(opened);
        }
        fixture.report(&TALK).open == 0
    });
    fixture.check_alive();
}
