//! Histories that are known to be good or bad.

use super::*;

/// What happens, in order: `b1 put k v` (call 1 begins), `e1 done` (it ends).
fn history(script: &str) -> History {
    let history = History::new();
    let mut calls: BTreeMap<&str, Call<'_>> = BTreeMap::new();
    for line in script.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        let (what, name) = words[0].split_at(1);
        let call = match (what, &words[1..]) {
            ("b", ["put", key, value]) => history.begin_put(key, value),
            ("b", ["append", key, value]) => history.begin_append(key, value),
            ("b", ["get", key]) => history.begin_get(key),
            ("e", outcome) => {
                calls.remove(name).expect("it has begun").end(parse(outcome));
                continue;
            }
            other => panic!("{other:?}"),
        };
        calls.insert(name, call);
    }
    drop(calls);
    history
}

fn parse(outcome: &[&str]) -> Outcome {
    match outcome {
        ["done"] => Outcome::Done,
        ["absent"] => Outcome::Value(None),
        ["saw"] => Outcome::Value(Some(Bytes::new())),
        ["saw", value] => Outcome::Value(Some(Bytes::copy_from_slice(value.as_bytes()))),
        ["failed"] => Outcome::NotApplied,
        ["unknown"] => Outcome::Unknown,
        other => panic!("{other:?}"),
    }
}

fn check_good(script: &str) {
    if let Err(violation) = history(script).check() {
        panic!("{script}\nis good, and yet: {violation}");
    }
}

fn check_bad(script: &str) {
    let violation = history(script).check().expect_err(script);
    assert!(matches!(violation, Violation::NotLinearizable { .. }), "{violation}");
}

#[test]
fn what_happens_one_after_the_other_is_seen_in_that_order() {
    check_good("");
    check_good(
        "b1 get k\n e1 absent\n b2 put k a\n e2 done\n b3 append k b\n e3 done\n b4 get k\n e4 saw ab",
    );
    check_bad("b1 put k a\n e1 done\n b2 get k\n e2 absent");
    check_bad("b1 put k a\n e1 done\n b2 put k b\n e2 done\n b3 get k\n e3 saw a");
    check_bad("b1 get k\n e1 saw a\n b2 put k a\n e2 done");
}

#[test]
fn an_empty_value_is_not_an_absent_one() {
    check_good("b1 append k \n e1 done\n b2 get k\n e2 saw");
    check_bad("b1 append k \n e1 done\n b2 get k\n e2 absent");
    check_bad("b2 get k\n e2 saw");
}

#[test]
fn what_happens_at_once_is_seen_in_either_order() {
    check_good("b1 put k a\n b2 get k\n e2 absent\n e1 done");
    check_good("b1 put k a\n b2 get k\n e2 saw a\n e1 done");
    for seen in ["ab", "ba"] {
        check_good(&format!(
            "b1 append k a\n b2 append k b\n e1 done\n e2 done\n b3 get k\n e3 saw {seen}"
        ));
    }
    check_bad("b1 append k a\n b2 append k b\n e1 done\n e2 done\n b3 get k\n e3 saw a");
    check_bad("b1 append k a\n e1 done\n b2 append k b\n e2 done\n b3 get k\n e3 saw ba");
}

#[test]
fn what_a_read_saw_no_later_read_unsees() {
    check_good("b1 put k a\n b2 get k\n e2 absent\n b3 get k\n e3 saw a\n e1 done");
    check_bad("b1 put k a\n b2 get k\n e2 saw a\n b3 get k\n e3 absent\n e1 done");
    check_bad("b1 put k a\n b2 get k\n e2 saw a\n b3 get k\n e3 absent\n e1 unknown");
}

#[test]
fn a_write_of_unknown_outcome_happens_at_any_time_or_never() {
    let begin = "b1 put k a\n e1 unknown\n";
    check_good(&format!("{begin} b2 get k\n e2 absent"));
    check_good(&format!("{begin} b2 get k\n e2 absent\n b3 get k\n e3 saw a"));
    check_good(&format!(
        "{begin} b2 put k b\n e2 done\n b3 get k\n e3 saw b\n b4 get k\n e4 saw a"
    ));
    check_good("b1 put k a\n b2 get k\n e2 saw a");
    check_bad(&format!("{begin} b2 get k\n e2 saw a\n b3 put k b\n e3 done\n b4 get k\n e4 saw a"));
    check_bad("b2 get k\n e2 saw a\n b1 put k a\n e1 unknown");
}

#[test]
fn an_append_happens_once() {
    check_bad("b1 append k a\n e1 done\n b2 get k\n e2 saw aa");
    check_bad("b1 append k a\n e1 unknown\n b2 get k\n e2 saw aa");
}

#[test]
fn a_write_that_failed_for_certain_is_never_seen() {
    check_good("b1 put k a\n e1 failed\n b2 get k\n e2 absent");
    check_bad("b1 put k a\n e1 failed\n b2 get k\n e2 saw a");
    check_good("b1 get k\n e1 failed");
}

#[test]
fn a_put_in_between_starts_anew() {
    check_good(
        "b1 append k x\n b2 put k a\n b3 append k y\n e1 done\n e2 done\n e3 done\n b4 get k\n e4 saw ay",
    );
    check_good(
        "b1 append k x\n b2 put k a\n b3 append k y\n e1 done\n e2 done\n e3 done\n b4 get k\n e4 saw ayx",
    );
    check_bad("b1 append k x\n e1 done\n b2 put k a\n e2 done\n b4 get k\n e4 saw xa");
}

#[test]
fn keys_are_judged_each_on_its_own() {
    check_good("b1 put k a\n e1 done\n b2 get j\n e2 absent");
    let violation = history("b1 put k a\n e1 done\n b2 put j b\n e2 done\n b3 get j\n e3 saw a");
    assert!(violation.check().unwrap_err().to_string().contains("key \"j\""));
}

#[test]
fn the_explanation_names_the_calls() {
    let history = history("b1 put k new\n e1 done\n b2 get k\n e2 saw old");
    let text = history.check().unwrap_err().to_string();
    for part in
        ["key \"k\"", "2 calls", "put \"new\", done", "now the value is \"new\"", "saw \"old\""]
    {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// Many calls at once and few reads: the reads' values guide the search.
#[test]
fn long_histories_are_judged_quickly() {
    const CLIENTS: usize = 8;
    const ROUNDS: usize = 250;
    for is_good in [true, false] {
        let history = History::new();
        let mut value = Vec::new();
        for round in 0..ROUNDS {
            let calls: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let token = format!("{client}:{round},");
                    (history.begin_append("log", &token), token)
                })
                .collect();
            // Now and then one whose outcome is unknown, and that did happen.
            for (client, (call, token)) in calls.into_iter().enumerate().rev() {
                value.extend_from_slice(token.as_bytes());
                call.end(if (client + round) % 50 == 0 { Outcome::Unknown } else { Outcome::Done });
            }
        }
        if !is_good {
            let len = value.len();
            value.swap(len - 2, len - 30);
        }
        let get = history.begin_get("log");
        get.end(Outcome::Value(Some(Bytes::from(value))));
        assert_eq!(history.len(), CLIENTS * ROUNDS + 1);
        let violation = history.check().err();
        assert_eq!(violation.is_none(), is_good, "{violation:?}");
    }
}

/// Nobody knows in which order these took effect, until someone reads.
#[test]
fn many_writes_of_unknown_outcome_at_once() {
    let token = |n: usize| format!("[{n}]");
    for is_good in [true, false] {
        let history = History::new();
        for n in 0..60 {
            history.begin_append("k", token(n)).end(Outcome::Unknown);
            // These no read has seen, and nothing says where they belong.
            history.begin_append("k", token(100 + n)).end(Outcome::Unknown);
        }
        let value: String = (0..60).map(|n| token(n * 7 % 60)).collect();
        let get = history.begin_get("k");
        get.end(Outcome::Value(Some(value.clone().into())));
        let seen = if is_good { value } else { value.replace("[42]", "") };
        let get = history.begin_get("k");
        get.end(Outcome::Value(Some(seen.into())));
        let violation = history.check().err();
        assert_eq!(violation.is_none(), is_good, "{violation:?}");
        assert!(!matches!(violation, Some(Violation::Undecided { .. })));
    }
}

/// Puts that overlap and that no read has seen may come in any order: none of them needs to be
/// tried.
#[test]
fn many_unseen_writes_at_once() {
    for seen in ["[7]", "[7][8]", "[8]"] {
        let history = History::new();
        let calls: Vec<_> = (10..50)
            .map(|n| match n % 2 {
                0 => history.begin_put("k", format!("[{n}]")),
                _ => history.begin_append("k", format!("[{n}]")),
            })
            .collect();
        history.begin_put("k", "[7]").end(Outcome::Done);
        history.begin_append("k", "[8]").end(Outcome::Done);
        let get = history.begin_get("k");
        get.end(Outcome::Value(Some(seen.into())));
        calls.into_iter().for_each(|call| call.end(Outcome::Done));
        let expected = seen == "[7][8]";
        let violation = history.check().err();
        assert_eq!(violation.is_none(), expected, "{seen}: {violation:?}");
        assert!(!matches!(violation, Some(Violation::Undecided { .. })));
    }
}

#[test]
fn it_agrees_with_trying_all_orders() {
    let values = [None, Some("a"), Some("b"), Some("ab"), Some("aa"), Some("ba")];
    check_all_orders(
        |random, _| ["a", "b"][random.usize(..2)].to_owned(),
        |random, _| values[random.usize(..6)].map(str::to_owned),
    );
}

/// Where reads tell what they have seen, which is another way to search.
#[test]
fn it_agrees_with_trying_all_orders_of_unique_values() {
    check_all_orders(
        |_, n| format!("[{n}]"),
        |random, n| {
            let token = |random: &mut fastrand::Rng| format!("[{}]", random.usize(..n.max(1)));
            let len = random.usize(..4);
            (len > 0).then(|| (0..len).map(|_| token(random)).collect())
        },
    );
}

/// Random short histories of three clients, judged by trying all orders. `value` makes what the
/// n-th write writes, `seen` what is read after so many.
fn check_all_orders(
    value: impl Fn(&mut fastrand::Rng, usize) -> String,
    seen: impl Fn(&mut fastrand::Rng, usize) -> Option<String>,
) {
    let seed = 7;
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bad = 0;
    for _ in 0..20_000 {
        let history = History::new();
        let mut open: Vec<(Call<'_>, bool)> = Vec::new();
        let mut writes = 0;
        for _ in 0..12 {
            if open.len() < 3 && random.bool() {
                let value = value(&mut random, writes);
                writes += 1;
                open.push(match random.u8(..3) {
                    0 => (history.begin_put("k", value), false),
                    1 => (history.begin_append("k", value), false),
                    _ => (history.begin_get("k"), true),
                });
            } else if !open.is_empty() {
                let (call, is_read) = open.swap_remove(random.usize(..open.len()));
                call.end(match (is_read, random.u8(..8)) {
                    (true, _) => Outcome::Value(seen(&mut random, writes).map(Bytes::from)),
                    (false, 0) => Outcome::Unknown,
                    (false, 1) => Outcome::NotApplied,
                    (false, _) => Outcome::Done,
                });
            }
        }
        drop(open);
        let records: Vec<Record> = history.calls.lock().calls.clone();
        let records: Vec<&Record> = records.iter().filter(|it| it.says_something()).collect();
        let expected = has_order(&records, None);
        assert_eq!(history.check().is_ok(), expected, "{records:#?}");
        bad += usize::from(!expected);
    }
    assert!((1_000..19_000).contains(&bad), "{bad} were bad: the test says nothing");
}

/// Whether there is an order, by trying all.
fn has_order(left: &[&Record], value: Option<Vec<u8>>) -> bool {
    if left.iter().all(|record| record.returned().is_none()) {
        return true;
    }
    let first_end = left.iter().filter_map(|record| record.returned()).min();
    left.iter().enumerate().any(|(at, record)| {
        if first_end.is_some_and(|end| record.began.order > end) {
            return false;
        }
        let next = match &record.action {
            Action::Put(new) => Some(new.to_vec()),
            Action::Append(more) => {
                Some([value.clone().unwrap_or_default(), more.to_vec()].concat())
            }
            Action::Get if record.seen().unwrap().as_deref() == value.as_deref() => value.clone(),
            Action::Get => return false,
        };
        let mut rest = left.to_vec();
        rest.remove(at);
        has_order(&rest, next)
    })
}
