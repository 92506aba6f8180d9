//! What commands do to the entries, their revisions and their past.

use bytes::Bytes;

use super::*;
use crate::kv::VALUE_LEN_MAX;
use crate::kv::model::{
    ANSWER_LEN_MAX, Action, Compare, Entry, KeyRange, LeaseId, NewLease, NewValue, Operand,
    Operation, OperationAnswer, Range, RangeAnswer, Relation, RevisionBounds, ScanPage, SortBy,
    TOUCHED_KEYS_MAX, Want,
};

fn then(operations: impl IntoIterator<Item = Action>) -> Txn {
    Txn { then: operations.into_iter().map(Operation::from).collect(), ..Txn::default() }
}

fn may_fail(action: Action) -> Operation {
    Operation { action, may_fail: true }
}

fn run(state: &mut State, operations: impl IntoIterator<Item = Action>) -> Vec<OperationAnswer> {
    state.run(LogEntry::default(), &then(operations)).unwrap().answer.answers
}

fn refused(state: &mut State, operations: Vec<Action>) -> (Reason, u32) {
    let before = state.clone();
    let Refusal { reason, operation, .. } =
        state.run(LogEntry::default(), &then(operations)).unwrap_err();
    assert_eq!(contents(state), contents(&before), "a refused transaction changes nothing");
    assert_eq!(state.revision, before.revision);
    assert_eq!(state.tree.bytes(), before.tree.bytes());
    assert_eq!(state.history.len(), before.history.len());
    (reason, operation)
}

fn contents(state: &State) -> Vec<Entry> {
    state.tree.iter().map(|(key, stored)| stored.entry(key)).collect()
}

/// Key, value, create revision, mod revision, version.
type Row = (&'static str, &'static str, u64, u64, u64);

fn rows(entries: Vec<Entry>) -> Vec<(String, String, u64, u64, u64)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let row = |it: &Entry| {
        let (key, value) = (text(&it.key), text(&it.value));
        (key, value, it.create_revision.0, it.mod_revision.0, it.version)
    };
    entries.iter().map(row).collect()
}

fn check(state: &State, expected: &[Row]) {
    let expected: Vec<_> =
        expected.iter().map(|&(k, v, c, m, n)| (k.to_owned(), v.to_owned(), c, m, n)).collect();
    assert_eq!(rows(contents(state)), expected);
}

fn read(state: &State, range: Range) -> RangeAnswerOrReason {
    let txn = then([Action::Range(range)]);
    let answer = state.read(&txn, &mut Budget::of_a_command());
    answer.map_err(|refusal| (refusal.reason, refusal.value)).map(|mut answer| {
        match answer.answers.remove(0) {
            OperationAnswer::Range(range) => range,
            other => panic!("{other:?}"),
        }
    })
}

type RangeAnswerOrReason = Result<crate::kv::model::RangeAnswer, (Reason, u64)>;

fn keys_of(state: &State, range: Range) -> String {
    let answer = read(state, range).unwrap();
    let keys: Vec<_> = answer.entries.iter().map(|it| String::from_utf8_lossy(&it.key)).collect();
    keys.join(" ")
}

#[test]
fn revisions_and_versions_count_changes() {
    let state = &mut State::default();
    assert_eq!(state.revision, Revision::EMPTY_STORE);
    state.put(b"a", b"1").unwrap();
    state.put(b"b", b"1").unwrap();
    state.append(b"a", b"2").unwrap();
    check(state, &[("a", "12", 2, 4, 2), ("b", "1", 3, 3, 1)]);
    // Everything that a transaction changes carries one revision, and each key counts once.
    run(state, [Action::put("a", "x"), Action::append("a", "y"), Action::put("c", "")]);
    check(state, &[("a", "xy", 2, 5, 3), ("b", "1", 3, 3, 1), ("c", "", 5, 5, 1)]);
    run(state, [Action::delete(KeyRange::key("a"))]);
    state.put(b"a", b"new").unwrap();
    check(state, &[("a", "new", 7, 7, 1), ("b", "1", 3, 3, 1), ("c", "", 5, 5, 1)]);
}

#[test]
fn what_changes_nothing_takes_no_revision() {
    let state = &mut State::default();
    let answers = run(
        state,
        [
            Action::delete(KeyRange::all()),
            Action::get("k"),
            Action::put("k", "v"),
            Action::delete(KeyRange::key("k")),
        ],
    );
    assert_eq!(answers[0], OperationAnswer::Delete { count: 0, previous: Vec::new() });
    assert_eq!(answers[3], OperationAnswer::Delete { count: 1, previous: Vec::new() });
    assert_eq!((state.revision, state.history.len()), (Revision::EMPTY_STORE, 0));
    // A put of the same value is a change.
    state.put(b"k", b"v").unwrap();
    state.put(b"k", b"v").unwrap();
    check(state, &[("k", "v", 2, 3, 2)]);
}

#[test]
fn a_key_that_is_deleted_and_written_by_one_transaction_is_new() {
    let state = &mut State::default();
    state.put(b"k", b"old").unwrap();
    run(state, [Action::delete(KeyRange::key("k")), Action::put("k", "new")]);
    check(state, &[("k", "new", 3, 3, 1)]);
    let past = Range { at: Revision(2), ..Range::of(KeyRange::all()) };
    assert_eq!(rows(read(state, past).unwrap().entries), [row("k", "old", 2, 2, 1)]);
}

#[test]
fn a_transaction_that_reads_the_past_does_not_find_its_own_changes_there() {
    let past = |at: u64| Action::Range(Range { at: Revision(at), ..Range::of(KeyRange::all()) });
    for write in [
        Action::put("k", "x"),
        Action::append("k", "x"),
        Action::delete(KeyRange::key("k")),
        Action::put("new", ""),
    ] {
        let state = &mut State::default();
        state.put(b"k", b"long").unwrap();
        state.append(b"k", b"er").unwrap();
        let answers = run(state, [write, past(2), past(3)]);
        for (answer, expected) in
            answers[1..].iter().zip([row("k", "long", 2, 2, 1), row("k", "longer", 2, 3, 2)])
        {
            let OperationAnswer::Range(range) = answer else { panic!("{answers:?}") };
            assert_eq!(rows(range.entries.clone()), [expected]);
        }
    }
}

fn row(key: &str, value: &str, c: u64, m: u64, n: u64) -> (String, String, u64, u64, u64) {
    (key.to_owned(), value.to_owned(), c, m, n)
}

#[test]
fn later_operations_see_earlier_ones() {
    let state = &mut State::default();
    let inner = Txn {
        compare: vec![Compare::value("k", "1")],
        then: vec![Action::increment("k", 41).into()],
        otherwise: vec![Action::put("k", "wrong").into()],
    };
    let answers = run(state, [Action::increment("k", 1), Action::Txn(inner), Action::get("k")]);
    assert_eq!(answers[0], OperationAnswer::Increment { value: 1 });
    let OperationAnswer::Txn(nested) = &answers[1] else { panic!("{answers:?}") };
    assert!(nested.held);
    let OperationAnswer::Range(range) = &answers[2] else { panic!("{answers:?}") };
    assert_eq!(rows(range.entries.clone()), [row("k", "42", 2, 2, 1)]);
}

#[test]
fn the_branch_that_runs_is_the_one_whose_comparisons_say_so() {
    let mut state = State::default();
    state.put(b"k", b"v").unwrap();
    state.put(b"k", b"v").unwrap();
    state.put(b"l", b"w").unwrap();
    let holds = |state: &mut State, keys: KeyRange, relation, operand: Operand| {
        let compare = vec![Compare { keys, relation, operand }];
        state.run(LogEntry::default(), &Txn { compare, ..Txn::default() }).unwrap().answer.held
    };
    use Relation::{Equal, Greater, Less, NotEqual};
    let value = |value: &'static str| Operand::Value(Bytes::from_static(value.as_bytes()));
    for (key, relation, operand, expected) in [
        ("k", Equal, value("v"), true),
        ("k", NotEqual, value("v"), false),
        ("k", Less, value("w"), true),
        ("k", Greater, value("w"), false),
        ("k", Equal, Operand::Version(2), true),
        ("k", Greater, Operand::Version(2), false),
        ("k", Equal, Operand::CreateRevision(Revision(2)), true),
        ("k", Equal, Operand::ModRevision(Revision(3)), true),
        ("k", Less, Operand::ModRevision(Revision(4)), true),
        ("k", Equal, Operand::Lease(LeaseId::NONE), true),
        // An absent key has zeros, and no value.
        ("absent", Equal, Operand::Version(0), true),
        ("absent", Equal, Operand::CreateRevision(Revision(0)), true),
        ("absent", Less, Operand::ModRevision(Revision(1)), true),
        ("absent", Equal, value(""), false),
        ("absent", NotEqual, value("x"), false),
        ("absent", Less, value("x"), false),
    ] {
        let held = holds(&mut state, KeyRange::key(key), relation, operand.clone());
        assert_eq!(held, expected, "{key} {relation:?} {operand:?}");
    }
    // Every key of a range must compare so, and an empty range counts as one absent key.
    assert!(holds(&mut state, KeyRange::all(), Greater, Operand::Version(0)));
    assert!(!holds(&mut state, KeyRange::all(), Greater, Operand::Version(1)));
    assert!(holds(&mut state, KeyRange::prefix("x"), Equal, Operand::Version(0)));
    let both = vec![Compare::present("k"), Compare::absent("l")];
    assert!(
        !state
            .run(LogEntry::default(), &Txn { compare: both, ..Txn::default() })
            .unwrap()
            .answer
            .held
    );
    assert_eq!(state.revision, Revision(4));
}

#[test]
fn a_failure_undoes_all_and_names_its_operation() {
    let state = &mut State::default();
    state.put(b"text", b"not a number").unwrap();
    state.put(b"max", i64::MAX.to_string().as_bytes()).unwrap();
    let put = || Action::put("k", "v");
    let keep = |value, lease| Action::Put { key: "absent".into(), value, lease, previous: false };
    let increment = |key: &'static str| Action::increment(key, 1);
    assert_eq!(refused(state, vec![put(), increment("text")]), (Reason::NotANumber, 1));
    assert_eq!(refused(state, vec![put(), put(), increment("max")]), (Reason::Overflow, 2));
    let no_lease = NewLease::Set(LeaseId::NONE);
    let kept_value = keep(NewValue::Keep, no_lease);
    assert_eq!(refused(state, vec![kept_value]), (Reason::KeyAbsent, 0));
    let kept_lease = keep(NewValue::Set("v".into()), NewLease::Keep);
    assert_eq!(refused(state, vec![put(), kept_lease]), (Reason::KeyAbsent, 1));
    let lease = keep(NewValue::Set("v".into()), NewLease::Set(LeaseId(7)));
    assert_eq!(refused(state, vec![put(), lease]), (Reason::NoSuchLease, 1));
    let future = Range { at: Revision(9), ..Range::of(KeyRange::all()) };
    assert_eq!(refused(state, vec![put(), Action::Range(future)]), (Reason::InTheFuture, 1));
    // Operations of nested transactions count, too.
    let nested = then([put(), Action::delete(KeyRange::key("max")), increment("text")]);
    let all = vec![put(), Action::Txn(nested), put()];
    assert_eq!(refused(state, all), (Reason::NotANumber, 3));
}

#[test]
fn an_operation_that_may_fail_fails_alone() {
    let state = &mut State::default();
    state.put(b"text", b"x").unwrap();
    let nested = then([Action::append("text", "y"), Action::increment("text", 1)]);
    let txn = Txn {
        then: vec![
            Action::append("text", "1").into(),
            may_fail(Action::increment("text", 1)),
            may_fail(Action::Txn(nested)),
            Action::append("text", "2").into(),
        ],
        ..Txn::default()
    };
    let answers = state.run(LogEntry::default(), &txn).unwrap().answer.answers;
    let failed = OperationAnswer::Failed(Reason::NotANumber);
    assert_eq!((&answers[1], &answers[2]), (&failed, &failed));
    check(state, &[("text", "x12", 2, 3, 2)]);
    let past = Range { at: Revision(2), ..Range::of(KeyRange::all()) };
    assert_eq!(rows(read(state, past).unwrap().entries), [row("text", "x", 2, 2, 1)]);
}

#[test]
fn numbers_are_those_of_redis() {
    let check = |text: &str, expected: Option<i64>| {
        let state = &mut State::default();
        state.put(b"n", text.as_bytes()).unwrap();
        let done = state.run(LogEntry::default(), &then([Action::increment("n", 0)]));
        let value = done.ok().map(|ran| ran.answer.answers[0].clone());
        assert_eq!(value, expected.map(|value| OperationAnswer::Increment { value }), "{text:?}");
    };
    for number in [0, 1, -1, i64::MAX, i64::MIN] {
        check(&number.to_string(), Some(number));
    }
    for text in ["", " 1", "1 ", "+1", "01", "-0", "1.0", "9223372036854775808", "x"] {
        check(text, None);
    }
}

#[test]
fn a_put_answers_with_what_was_there() {
    let state = &mut State::default();
    let put = |value: NewValue| Action::Put {
        key: "k".into(),
        value,
        lease: NewLease::Keep,
        previous: true,
    };
    state.put(b"k", b"old").unwrap();
    let answers = run(state, [put(NewValue::Set("new".into())), put(NewValue::Keep)]);
    let previous = |answer: &OperationAnswer| match answer {
        OperationAnswer::Put { previous: Some(entry) } => rows(vec![entry.clone()]).remove(0),
        other => panic!("{other:?}"),
    };
    assert_eq!(previous(&answers[0]), row("k", "old", 2, 2, 1));
    assert_eq!(previous(&answers[1]), row("k", "new", 2, 3, 2));
    check(state, &[("k", "new", 2, 3, 2)]);
    let delete = Action::Delete { keys: KeyRange::all(), previous: true };
    let OperationAnswer::Delete { count, previous } = run(state, [delete]).remove(0) else {
        panic!("another answer");
    };
    assert_eq!((count, rows(previous)), (1, vec![row("k", "new", 2, 3, 2)]));
}

#[test]
fn ranges_are_cut_sorted_and_filtered() {
    let state = &mut State::default();
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("d", "1")] {
        state.put(key.as_bytes(), value.as_bytes()).unwrap();
    }
    state.put(b"a", b"3").unwrap();
    let all = || Range::of(KeyRange::all());
    let by = |sort_by, descending| Range { sort_by, descending, ..all() };
    assert_eq!(keys_of(state, all()), "a b c d");
    assert_eq!(keys_of(state, by(SortBy::Key, true)), "d c b a");
    assert_eq!(keys_of(state, by(SortBy::Value, false)), "b d c a");
    assert_eq!(keys_of(state, by(SortBy::Value, true)), "a c b d");
    assert_eq!(keys_of(state, by(SortBy::Version, true)), "a b c d");
    assert_eq!(keys_of(state, by(SortBy::CreateRevision, true)), "d c b a");
    assert_eq!(keys_of(state, by(SortBy::ModRevision, false)), "b c d a");
    let limited = Range { limit: 2, ..by(SortBy::ModRevision, true) };
    assert_eq!(keys_of(state, limited.clone()), "a d");
    assert!(read(state, limited).unwrap().more);
    let bounds = |min, max| RevisionBounds { min: Revision(min), max: Revision(max) };
    assert_eq!(keys_of(state, Range { mod_revision: bounds(4, 5), ..all() }), "c d");
    assert_eq!(keys_of(state, Range { create_revision: bounds(0, 3), ..all() }), "a b");
    let middle = KeyRange::between("b", "d").unwrap();
    assert_eq!(keys_of(state, Range::of(middle)), "b c");
    assert_eq!(keys_of(state, Range::of(KeyRange::starting_at("c"))), "c d");
}

#[test]
fn a_range_counts_what_it_was_asked_to_count() {
    let state = &mut State::default();
    for key in ["a", "b", "c", "d"] {
        state.put(key.as_bytes(), b"v").unwrap();
    }
    let check = |range: Range, expected| {
        let answer = read(state, range.clone()).unwrap();
        let found = (answer.entries.len(), answer.count, answer.more);
        assert_eq!(found, expected, "{range:?}");
    };
    let all = || Range::of(KeyRange::all());
    check(all(), (4, 4, false));
    check(Range { limit: 4, ..all() }, (4, 4, false));
    check(Range { limit: 3, ..all() }, (3, 3, true));
    check(Range { limit: 3, count_all: true, ..all() }, (3, 4, true));
    check(Range { limit: 1, descending: true, ..all() }, (1, 1, true));
    check(Range { want: Want::Count, ..all() }, (0, 4, false));
    check(Range { want: Want::Count, limit: 1, ..all() }, (0, 4, false));
    check(Range { limit: 1, sort_by: SortBy::Value, ..all() }, (1, 4, true));
    // Filters lower the number of entries, not the count.
    let filter = RevisionBounds { min: Revision(4), max: Revision(0) };
    check(Range { mod_revision: filter, count_all: true, ..all() }, (2, 4, false));
    let keys = read(state, Range { want: Want::Keys, ..all() }).unwrap();
    assert!(keys.entries.iter().all(|entry| entry.value.is_empty() && entry.version == 1));
}

#[test]
fn an_answer_has_a_limit_but_one_entry_always_fits() {
    let state = &mut State::default();
    let large = vec![0; VALUE_LEN_MAX];
    state.put(b"a", &large).unwrap();
    let all = || Range::of(KeyRange::all());
    assert_eq!(read(state, all()).unwrap().entries[0].value.len(), VALUE_LEN_MAX);
    state.put(b"b", b"").unwrap();
    assert_eq!(read(state, all()), Err((Reason::AnswerTooLong, ANSWER_LEN_MAX)));
    assert_eq!(keys_of(state, Range { want: Want::Keys, ..all() }), "a b");
    assert_eq!(keys_of(state, Range { limit: 1, ..all() }), "a");
    assert_eq!(keys_of(state, Range { descending: true, limit: 1, ..all() }), "b");
}

#[test]
fn a_command_touches_a_million_keys_at_most() {
    let state = &mut State::default();
    let keys = 999u32;
    (0..keys).for_each(|key| state.put(&key.to_be_bytes(), b"").unwrap());
    let count = || Action::Range(Range { want: Want::Count, ..Range::of(KeyRange::all()) });
    // An operation counts as a key, too.
    let times = (TOUCHED_KEYS_MAX / u64::from(keys + 1)) as usize;
    run(state, (0..times).map(|_| count()));
    let too_many = (0..=times).map(|_| count()).collect();
    assert_eq!(refused(state, too_many), (Reason::TooManyKeys, times as u32));
}

/// Otherwise one small command could keep every member busy for hours.
#[test]
fn what_takes_long_counts_as_many_keys() {
    let mut state = State::default();
    (0..1_000).for_each(|_| state.put(b"k", b"v").unwrap());
    let past = || {
        let range = Range { at: Revision(2), ..Range::of(KeyRange::key("k")) };
        Action::Range(Range { want: Want::Count, ..range })
    };
    let times = TOUCHED_KEYS_MAX as usize / 1_000;
    let (reason, operation) = refused(&mut state, (0..times).map(|_| past()).collect());
    assert_eq!(reason, Reason::TooManyKeys);
    assert!((990..1_000).contains(&operation), "{operation}");
    // Each append within a transaction copies the value.
    state.put(b"k", &[0; 1 << 20]).unwrap();
    let appends = (0..4_000).map(|_| Action::append("k", "x")).collect();
    let (reason, operation) = refused(&mut state, appends);
    assert_eq!((reason, operation), (Reason::TooManyKeys, 1_000_000 / (2 + 256)));
    let compare = vec![Compare::value("k", vec![0; 1 << 20]); 1];
    let txn = Txn { compare, ..Txn::default() };
    let mut budget = Budget::of_a_read(256);
    assert!(state.read(&txn, &mut budget).is_err() && budget.has_run_out);
    // A value of the past is copied to answer with it, and not to count it.
    let at = state.revision;
    state.put(b"k", b"v").unwrap();
    for (want, has_run_out) in [(Want::Entries, true), (Want::Keys, false), (Want::Count, false)] {
        let range = Range { at, want, ..Range::of(KeyRange::key("k")) };
        let mut budget = Budget::of_a_read(256);
        let read = state.read(&then([Action::Range(range)]), &mut budget);
        assert_eq!((read.is_err(), budget.has_run_out), (has_run_out, has_run_out), "{want:?}");
    }
    // Operations that find nothing count as well.
    let mut budget = Budget::of_a_read(9);
    let nothing = then((0..10).map(|_| Action::delete(KeyRange::prefix("x"))));
    assert!(state.clone().run(LogEntry::default(), &nothing).is_ok());
    let nothing = then((0..10).map(|_| Action::Range(Range::of(KeyRange::prefix("x")))));
    assert!(state.read(&nothing, &mut budget).is_err());
}

#[test]
fn what_an_append_replaced_is_known_when_the_rest_is_gone() {
    let state = &mut State::default();
    state.put(b"k", &[b'a'; 30]).unwrap();
    run(state, [Action::append("k", vec![b'b'; 1 << 20]), Action::put("k", vec![b'c'; 30])]);
    let record = state.history.records().last().unwrap();
    let value = record.before.expect("it was there").value;
    assert_eq!(value, BeforeValue::Whole(&[b'a'; 30][..]));
    // The long value in between is kept nowhere.
    assert!(state.history.encoded().map(<[u8]>::len).sum::<usize>() < 300);
}

#[test]
fn no_space_ends_when_there_is_space() {
    let state = &mut State::default();
    let limits = LimitsChange { bytes_max: Some(6), keys_max: Some(2), ..Default::default() };
    state.set_limits(limits).unwrap();
    let no_space = |done: Result<(), Refusal>, limit| {
        assert_eq!(done, Err(Refusal { reason: Reason::NoSpace, operation: 0, value: limit }));
    };
    state.put(b"a", b"12").unwrap();
    state.append(b"b", b"12").unwrap();
    no_space(state.append(b"b", b"3"), 6);
    no_space(state.put(b"a", b"123"), 6);
    state.put(b"a", b"9").unwrap();
    no_space(state.put(b"c", b""), 2);
    let grows = refused(state, vec![Action::increment("a", 91)]);
    assert_eq!(grows, (Reason::NoSpace, 0));
    // A transaction that makes room for itself succeeds.
    run(state, [Action::delete(KeyRange::key("b")), Action::put("c", "123")]);
    check(state, &[("a", "9", 2, 4, 2), ("c", "123", 5, 5, 1)]);
    // Beyond a limit that was lowered, deletes and compactions succeed.
    state.set_limits(LimitsChange { bytes_max: Some(1), ..Default::default() }).unwrap();
    no_space(state.put(b"a", b"9"), 1);
    state.compact(Revision(5)).unwrap();
    run(state, [Action::delete(KeyRange::key("c"))]);
    no_space(state.put(b"a", b"9"), 1);
    run(state, [Action::delete(KeyRange::key("a"))]);
    state.put(b"a", b"").unwrap();
    let too_high = LimitsChange { history_bytes_max: Some(u64::MAX), ..Default::default() };
    let refusal = Refusal::of(Reason::LimitOutOfBounds, u64::MAX);
    assert_eq!(state.set_limits(too_high), Err(refusal));
}

#[test]
fn the_past_is_read_as_it_was() {
    let state = &mut State::default();
    let mut expected = vec![(state.revision, contents(state))];
    for round in 0..200u32 {
        let key = |n: u32| Bytes::from(format!("key {:02}", (round * 7 + n) % 40));
        match round % 5 {
            0 => drop(run(state, [Action::delete(KeyRange::key(key(0)))])),
            1 => state.append(&key(0), &[b'x'; 20]).unwrap(),
            2 => state.append(&key(1), b"y").unwrap(),
            3 => state.put(&key(2), round.to_string().as_bytes()).unwrap(),
            _ => drop(run(
                state,
                [
                    Action::append(key(3), "z"),
                    Action::put(key(3), "w"),
                    Action::append(key(4), "v"),
                ],
            )),
        }
        expected.push((state.revision, contents(state)));
    }
    for (at, then) in &expected {
        let all = Range { at: *at, ..Range::of(KeyRange::all()) };
        assert_eq!(read(state, all).unwrap().entries, *then, "{at}");
        let keys = KeyRange::between("key 10", "key 25").unwrap();
        let some: Vec<_> = then.iter().filter(|it| keys.contains(&it.key)).cloned().collect();
        let part = Range { at: *at, ..Range::of(keys) };
        assert_eq!(read(state, part).unwrap().entries, some, "{at}");
    }
    let past = |at: u64| Range { at: Revision(at), ..Range::of(KeyRange::all()) };
    let (now, oldest) = (state.revision.0, 100);
    assert_eq!(read(state, past(now + 1)), Err((Reason::InTheFuture, now)));
    state.compact(Revision(oldest)).unwrap();
    assert_eq!(read(state, past(oldest - 1)), Err((Reason::Compacted, oldest)));
    for (at, then) in expected.iter().filter(|(at, _)| at.0 >= oldest) {
        assert_eq!(read(state, past(at.0)).unwrap().entries, *then, "{at}");
    }
    let compacted = Err(Refusal::of(Reason::Compacted, oldest));
    assert_eq!(state.compact(Revision(oldest)), compacted);
    assert_eq!(state.compact(Revision(0)), compacted);
    assert_eq!(state.compact(Revision(now + 1)), Err(Refusal::of(Reason::InTheFuture, now)));
    state.compact(Revision(now)).unwrap();
    assert_eq!((state.history.len(), state.history.bytes()), (0, 0));
    assert_eq!(read(state, past(now)).unwrap().entries, contents(state));
}

#[test]
fn the_history_keeps_to_its_limit_and_keeps_the_newest() {
    let state = &mut State::default();
    let limit = 10 * (64 + 1 + 2);
    state
        .set_limits(LimitsChange { history_bytes_max: Some(limit), ..Default::default() })
        .unwrap();
    for _ in 0..1_000 {
        state.put(b"k", b"12").unwrap();
        assert!(state.history.bytes() <= limit);
    }
    assert_eq!((state.history.len(), state.history.compacted()), (10, Revision(991)));
    // An append costs the same however long the value is.
    state.put(b"k", &[0; 1 << 20]).unwrap();
    let before = state.history.bytes();
    state.append(b"k", b"1").unwrap();
    assert_eq!(state.history.bytes(), before + 64 + 1 - (64 + 1 + 2));
    // Whole revisions are forgotten, and the newest one stays whatever it costs.
    run(state, (0..50).map(|n| Action::put(format!("key {n}"), "v")));
    assert_eq!(state.history.len(), 50);
    state.put(b"k", b"v").unwrap();
    assert_eq!((state.history.len(), state.history.bytes()), (1, 64 + 1 + (1 << 20) + 1));
}

#[test]
fn a_clone_and_its_original_do_not_meet() {
    let state = &mut State::default();
    (0..300u32).for_each(|n| state.put(&n.to_be_bytes(), b"old").unwrap());
    let view = state.clone();
    (0..300u32).for_each(|n| state.put(&n.to_be_bytes(), b"new").unwrap());
    let now = contents(state);
    let past = Range { at: view.revision, ..Range::of(KeyRange::all()) };
    assert_eq!(read(state, past).unwrap().entries, contents(&view));
    assert_eq!((view.history.len(), state.history.len()), (300, 600));
    assert!(now.iter().all(|entry| entry.value == "new" && entry.version == 2));
}

/// Both ways, in pages of one entry, of any part of the range, and with the touched keys of a page.
#[test]
fn a_page_of_the_past_costs_what_its_own_keys_cost() {
    let state = &mut State::default();
    let key = |n: u32| Bytes::from(format!("{:04}", n * 7919 % 2000));
    (0..1_000).for_each(|n| state.put(&key(n), b"old").unwrap());
    let (at, before) = (state.revision, contents(state));
    for n in 0..2_000 {
        match n % 3 {
            0 => drop(run(state, [Action::delete(KeyRange::key(key(n)))])),
            1 => state.append(&key(n), b"more").unwrap(),
            _ => state.put(&key(n), b"new").unwrap(),
        }
        state.put(&key(n + 500), b"again").unwrap();
    }
    for descending in [false, true] {
        let whole = Range { at, descending, ..Range::of(KeyRange::all()) };
        let found = read(state, whole.clone()).unwrap().entries;
        match descending {
            true => assert!(found.iter().eq(before.iter().rev())),
            false => assert_eq!(found, before),
        }
        for (limit, begin) in [(1, "0500"), (3, "1000"), (10, "0000")] {
            let keys = KeyRange::between(begin, "1500").unwrap();
            let range = Range { keys: keys.clone(), limit, ..whole.clone() };
            // Each key has changed four times at most, and every other key came later.
            let mut budget = Budget::of_a_read(1 + (limit + 1) * 2 * 5);
            let answer = state.read(&then([Action::Range(range)]), &mut budget).unwrap();
            let OperationAnswer::Range(RangeAnswer { entries, more, .. }) = &answer.answers[0]
            else {
                panic!("{answer:?}")
            };
            let mut expected: Vec<_> = before.iter().filter(|it| keys.contains(&it.key)).collect();
            if descending {
                expected.reverse();
            }
            assert!(*more && entries.iter().eq(expected.into_iter().take(limit as usize)));
        }
    }
}

/// Pages of a scan hold every entry of a revision once, however long the values are.
#[test]
fn pages_of_a_scan_are_bounded_and_complete() {
    let state = &mut State::default();
    let long = |n: u32| if n.is_multiple_of(50) { 100_000 } else { n as usize };
    (0..500u32).for_each(|n| state.put(&n.to_be_bytes(), &vec![b'x'; long(n)]).unwrap());
    let (at, then) = (state.revision, contents(state));
    (0..500u32).for_each(|n| state.append(&(n * 3 % 700).to_be_bytes(), b"y").unwrap());
    for (at, expected) in [(at, then), (Revision::NONE, contents(state))] {
        let scan = ScanRange { keys: KeyRange::all(), keys_only: false, at };
        let (mut pages, mut found) = (state.pages(&scan).unwrap(), Vec::new());
        loop {
            let page = pages.next(&mut Budget::of_a_command()).unwrap();
            let len: u64 = page.entries.iter().map(Entry::len_bytes).sum();
            assert!(len <= 64 << 10 || page.entries.len() == 1, "{len}");
            assert_eq!(page.rest(&scan.keys).is_some(), page.more);
            found.extend(page.entries);
            if !page.more {
                break;
            }
        }
        assert_eq!(found, expected);
    }
    let keys_only = ScanRange { keys: KeyRange::all(), keys_only: true, at: Revision::NONE };
    let page = state.pages(&keys_only).unwrap().next(&mut Budget::of_a_command()).unwrap();
    assert!(page.entries.iter().all(|entry| entry.value.is_empty()));
    let nothing = ScanRange { keys: KeyRange::prefix("none"), ..keys_only };
    let page = state.pages(&nothing).unwrap().next(&mut Budget::of_a_command()).unwrap();
    assert_eq!(page, ScanPage::default());
}

/// A command that deletes and puts again, or compares, keeps a member as busy as one that reads.
#[test]
fn deletes_and_comparisons_touch_keys() {
    let state = &mut State::default();
    let keys = || (0..999u32).map(|key| Bytes::copy_from_slice(&key.to_be_bytes()));
    run(state, keys().map(put_empty));
    let again = || [Action::delete(KeyRange::all())].into_iter().chain(keys().map(put_empty));
    // A put counts twice, as an operation and for its key.
    let deletes = (0..400).flat_map(|_| again()).collect();
    assert_eq!(refused(state, deletes).0, Reason::TooManyKeys);
    let compare = Compare {
        keys: KeyRange::all(),
        operand: Operand::Version(0),
        relation: Relation::Greater,
    };
    let txn = |times| Txn { compare: vec![compare.clone(); times], ..Txn::default() };
    assert!(state.run(LogEntry::default(), &txn(1_000)).unwrap().answer.held);
    let refusal = state.run(LogEntry::default(), &txn(1_002)).unwrap_err();
    assert_eq!(refusal.reason, Reason::TooManyKeys);
}

fn put_empty(key: Bytes) -> Action {
    Action::put(key, "")
}

#[test]
fn previous_entries_are_a_part_of_the_answer() {
    let state = &mut State::default();
    for key in [b"big/a", b"big/b"] {
        state.put(key, &vec![0; 5 << 20]).unwrap();
    }
    let delete = Action::Delete { keys: KeyRange::prefix("big/"), previous: true };
    assert_eq!(refused(state, vec![delete]), (Reason::AnswerTooLong, 0));
    let put = |key: &'static str| Action::Put {
        key: key.into(),
        value: NewValue::Set("".into()),
        lease: NewLease::Keep,
        previous: true,
    };
    assert_eq!(refused(state, vec![put("big/a"), put("big/b")]), (Reason::AnswerTooLong, 1));
    run(state, [put("big/a")]);
}

#[test]
fn a_value_that_grows_too_long_undoes_what_came_before_it() {
    let state = &mut State::default();
    state.put(b"large", &vec![0; VALUE_LEN_MAX]).unwrap();
    let grow = vec![Action::put("a", "1"), Action::append("large", "x")];
    assert_eq!(refused(state, grow), (Reason::ValueTooLong, 1));
}
