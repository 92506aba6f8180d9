//! The checker itself: histories that are known to be good or bad, and all orders of small ones.

use super::*;

/// A history in a picture: `write [asked, answered]`; a call that is never answered has no second number.
fn history(calls: &[(&str, u64, Option<u64>)]) -> Vec<Call> {
    let call = |&(words, asked_at, answered_at): &(&str, u64, Option<u64>)| {
        let (verb, value) = words.split_once(' ').unwrap_or((words, ""));
        let bytes = value.as_bytes().to_vec();
        let op = match verb {
            "put" => Op::Put(bytes),
            "append" => Op::Append(bytes),
            "get" => Op::Get(Some(bytes)),
            "absent" => Op::Get(None),
            _ => panic!("no such call: {words}"),
        };
        Call { op, asked_at, answered_at }
    };
    calls.iter().map(call).collect()
}

#[track_caller]
fn is_good(calls: &[(&str, u64, Option<u64>)]) {
    assert_eq!(check(&history(calls)), Ok(()));
}

#[track_caller]
fn is_bad(calls: &[(&str, u64, Option<u64>)]) {
    assert!(check(&history(calls)).is_err(), "{calls:?}");
}

#[test]
fn calls_one_after_the_other() {
    is_good(&[]);
    is_good(&[("absent", 1, Some(2))]);
    is_good(&[("put a", 1, Some(2)), ("append b", 3, Some(4)), ("get ab", 5, Some(6))]);
    is_good(&[
        ("append a", 1, Some(2)),
        ("get a", 3, Some(4)),
        ("put ", 5, Some(6)),
        ("get ", 7, Some(8)),
    ]);
}

#[test]
fn calls_that_overlap_may_have_either_order() {
    for read in ["get a", "get b"] {
        is_good(&[("put a", 1, Some(4)), ("put b", 2, Some(3)), (read, 5, Some(6))]);
    }
    for read in ["get ab", "get ba"] {
        is_good(&[("append a", 1, Some(4)), ("append b", 2, Some(3)), (read, 5, Some(6))]);
    }
    for read in ["absent", "get a"] {
        is_good(&[("put a", 1, Some(4)), (read, 2, Some(3))]);
    }
}

#[test]
fn a_stale_read() {
    is_bad(&[("put a", 1, Some(2)), ("put b", 3, Some(4)), ("get a", 5, Some(6))]);
    is_bad(&[("put a", 1, Some(2)), ("absent", 3, Some(4))]);
    // What one read has seen, no later one unsees, though the write itself is still under way.
    is_bad(&[("put a", 1, Some(8)), ("get a", 2, Some(3)), ("absent", 4, Some(5))]);
}

#[test]
fn a_lost_write() {
    is_bad(&[("append a", 1, Some(2)), ("append b", 3, Some(4)), ("get b", 5, Some(6))]);
    is_bad(&[
        ("put a", 1, Some(2)),
        ("append b", 3, Some(6)),
        ("append c", 4, Some(5)),
        ("get ab", 7, Some(8)),
    ]);
}

#[test]
fn an_append_that_was_applied_twice() {
    is_bad(&[("append a", 1, Some(2)), ("get aa", 3, Some(4))]);
    is_bad(&[("append a", 1, None), ("get aa", 3, Some(4))]);
}

#[test]
fn a_value_that_nobody_wrote() {
    is_bad(&[("put a", 1, Some(2)), ("get x", 3, Some(4))]);
    is_bad(&[("get x", 1, Some(2))]);
    is_bad(&[("get a", 1, Some(2)), ("put a", 3, Some(4))]);
}

#[test]
fn an_order_that_clients_saw_otherwise() {
    // Appends one after the other, in the wrong order.
    is_bad(&[("append a", 1, Some(2)), ("append b", 3, Some(4)), ("get ba", 5, Some(6))]);
    // Two clients see the writes in different orders.
    is_bad(&[
        ("put a", 1, Some(10)),
        ("put b", 2, Some(11)),
        ("get a", 3, Some(4)),
        ("get b", 5, Some(6)),
        ("get a", 7, Some(8)),
    ]);
}

#[test]
fn an_unknown_write_that_shows_up_later() {
    is_good(&[("put a", 1, None), ("absent", 2, Some(3)), ("get a", 4, Some(5))]);
    is_good(&[
        ("append a", 1, None),
        ("put b", 2, Some(3)),
        ("get b", 4, Some(5)),
        ("get ba", 6, Some(7)),
    ]);
    is_bad(&[("put a", 1, None), ("get a", 2, Some(3)), ("absent", 4, Some(5))]);
    is_bad(&[("get a", 1, Some(2)), ("put a", 3, None)]);
}

#[test]
fn an_unknown_write_that_never_shows_up() {
    is_good(&[("put a", 1, None), ("absent", 2, Some(3))]);
    is_good(&[("append a", 1, None), ("put b", 2, Some(3)), ("get b", 4, Some(5))]);
    is_bad(&[("put a", 1, None), ("put b", 2, Some(3)), ("absent", 4, Some(5))]);
}

#[test]
fn a_violation_tells_what_fits_and_what_does_not() {
    let calls = [("put a", 1, Some(2)), ("put b", 3, Some(4)), ("get a", 5, Some(6))];
    let words = check(&history(&calls)).unwrap_err();
    assert_eq!(
        words.to_string(),
        "the history is not linearizable. After 0 calls, in order:\n    1 to 2: put a\nnone of these can be next:\n    3 \
         to 4: put b\n"
    );
}

#[test]
fn a_long_history_with_many_unknown_writes_has_an_answer() {
    let (mut calls, mut value, mut now) = (Vec::new(), Vec::new(), 0);
    for n in 0..CALLS_MAX / 4 {
        let written = format!("[{n}]").into_bytes();
        let is_unknown = n % 5 == 0;
        calls.push(Call {
            op: Op::Append(written.clone()),
            asked_at: now,
            answered_at: (!is_unknown).then_some(now + 7),
        });
        if n % 10 != 0 {
            value.extend(written);
        }
        let op = Op::Get(Some(value.clone()));
        calls.push(Call { op, asked_at: now + 8, answered_at: Some(now + 9) });
        now += 10;
    }
    calls.retain(|call| call.op != Op::Get(Some(Vec::new())));
    assert_eq!(check(&calls), Ok(()));
    let forged = Op::Get(Some(b"[1][3]".to_vec()));
    calls.push(Call { op: forged, asked_at: now, answered_at: Some(now + 1) });
    assert!(check(&calls).is_err());
}

/// By definition: any order of any of the unknown writes and all other calls.
fn has_an_order(left: &[Call], state: &State) -> bool {
    let precedes = |a: &Call, b: &Call| a.answered_at.is_some_and(|at| at < b.asked_at);
    left.iter().all(|call| call.answered_at.is_none())
        || (0..left.len()).any(|at| {
            let mut rest = left.to_vec();
            let call = rest.remove(at);
            !rest.iter().any(|other| precedes(other, &call))
                && call.op.after(0, state).is_some_and(|then| has_an_order(&rest, &then))
        })
}

/// Random histories of up to five calls, with what `value` makes of each place and `read` of all that is written.
fn check_small(
    value: impl Fn(&mut fastrand::Rng, usize) -> Vec<u8>,
    read: impl Fn(&mut fastrand::Rng, &[Vec<u8>]) -> Vec<u8>,
) {
    let rng = &mut fastrand::Rng::with_seed(1);
    let mut verdicts = [0, 0];
    for run in 0..30_000 {
        let count = rng.usize(1..=5);
        let mut times: Vec<u64> = (0..2 * count as u64).collect();
        rng.shuffle(&mut times);
        let values: Vec<Vec<u8>> = (0..count).map(|at| value(rng, at)).collect();
        let calls: Vec<Call> = (0..count)
            .map(|at| {
                let (one, other) = (times[2 * at], times[2 * at + 1]);
                let op = match rng.u8(0..6) {
                    0 => Op::Put(values[at].clone()),
                    1 | 2 => Op::Append(values[at].clone()),
                    3 => Op::Get(None),
                    _ => Op::Get(Some(read(rng, &values))),
                };
                let is_unknown = !matches!(op, Op::Get(_)) && rng.u8(0..4) == 0;
                let answered_at = (!is_unknown).then_some(one.max(other));
                Call { op, asked_at: one.min(other), answered_at }
            })
            .collect();
        let expected = has_an_order(&calls, &State::default());
        assert_eq!(check(&calls).is_ok(), expected, "run {run}: {calls:#?}");
        verdicts[usize::from(expected)] += 1;
    }
    assert!(verdicts.iter().all(|&count| count > 3_000), "both verdicts are common: {verdicts:?}");
}

fn letter(rng: &mut fastrand::Rng) -> Vec<u8> {
    vec![b'a' + rng.u8(0..2)]
}

#[test]
fn small_histories_are_judged_as_by_the_definition() {
    check_small(
        |rng, _| letter(rng),
        |rng, _| (0..rng.usize(1..=2)).flat_map(|_| letter(rng)).collect(),
    );
}

#[test]
fn small_histories_of_unique_values_are_judged_as_by_the_definition() {
    check_small(
        |_, at| format!("[{at}]").into_bytes(),
        |rng, values| {
            (0..rng.usize(1..=3)).flat_map(|_| values[rng.usize(..values.len())].clone()).collect()
        },
    );
}

/// Nobody knows in which order these took effect, until someone reads.
#[test]
fn many_writes_of_unknown_outcome_at_once() {
    let append = |at: u64| Call {
        op: Op::Append(format!("[{at}]").into()),
        asked_at: at,
        answered_at: None,
    };
    let mut calls: Vec<Call> = (0..60).map(append).collect();
    let order: String = (0..60).map(|at| format!("[{}]", at * 7 % 60)).collect();
    let read = |value: &str, at| Call {
        op: Op::Get(Some(value.into())),
        asked_at: at,
        answered_at: Some(at + 1),
    };
    calls.push(read(&order, 100));
    assert_eq!(check(&calls), Ok(()));
    calls.push(read(&order[..order.len() - 4], 102));
    assert!(check(&calls).is_err());
}
