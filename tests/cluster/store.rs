//! Entries, ranges and transactions, from outside: through the Clerk, and over the wire.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use syncraft::clerk::{Clerk, ClerkErrorKind, Expected, Swap};
use syncraft::kv::model::proto::{self, StoreRpcStub, txn_reply};
use syncraft::kv::model::{
    ANSWER_LEN_MAX, Action, Compare, DEPTH_MAX, Entry, KeyRange, Operation, OperationAnswer, Range,
    Reason, Revision, Txn, TxnAnswer, Want,
};
use syncraft::kv::{COMMAND_LEN_MAX, KEY_LEN_MAX, Limits, LimitsChange, VALUE_LEN_MAX};
use syncraft::raft::{Index, MemberId};
use syncraft::rpc::{CallError, Channel, StatusCode};
use syncraft::testing::Cluster;

use crate::nodes::until;
use crate::relay::Relay;

const TEST_TIMEOUT: Duration = Duration::from_secs(30);

fn soon() -> Instant {
    Instant::now() + TEST_TIMEOUT
}

fn then(action: Action) -> Txn {
    Txn { then: vec![action.into()], ..Txn::default() }
}

fn nested(depth: usize) -> Txn {
    (1..depth).fold(then(Action::put("deep", "")), |inner, _| then(Action::Txn(inner)))
}

/// The refusal in an answer, if it has one.
type Answer = Result<Option<proto::Refusal>, CallError>;

/// What a request over the wire must be answered with.
enum Expect {
    /// "Bad arguments", in words that contain these.
    Bad(&'static [&'static str]),
    /// A refusal for this reason, with this value.
    Refusal(Reason, u64),
}

use Expect::{Bad, Refusal};

/// Calls of one connection to the only member of a cluster.
struct Wire {
    relay: Relay,
    stub: StoreRpcStub,
}

impl Wire {
    fn to(cluster: &Cluster) -> Wire {
        let relay = Relay::to(cluster.members().addr(MemberId(1)).unwrap().parse().unwrap());
        let stub = StoreRpcStub::new(Channel::builder(relay.addr().to_string()).lazy());
        Wire { relay, stub }
    }

    fn txn(&self, txn: proto::Txn) -> Answer {
        let args = proto::TxnRequest { txn: Some(txn), ..Default::default() };
        self.stub.txn(&args, soon()).map(refusal)
    }

    fn range(&self, range: proto::Range) -> Answer {
        let args = proto::RangeRequest { range: Some(range), ..Default::default() };
        let reply = self.stub.range(&args, soon())?;
        Ok(match reply.result {
            Some(proto::range_reply::Result::Refusal(refusal)) => Some(refusal),
            _ => None,
        })
    }

    fn compact(&self, revision: u64) -> Answer {
        let args = proto::CompactRequest { identity: None, revision };
        self.stub.compact(&args, soon()).map(refusal)
    }

    fn limits(&self, history_bytes_max: u64) -> Answer {
        let history_bytes_max = Some(history_bytes_max);
        let args = proto::LimitsRequest { history_bytes_max, ..Default::default() };
        self.stub.set_limits(&args, soon()).map(refusal)
    }
}

fn refusal(reply: proto::TxnReply) -> Option<proto::Refusal> {
    match reply.result {
        Some(txn_reply::Result::Refusal(refusal)) => Some(refusal),
        _ => None,
    }
}

/// Each request is refused with the offending value, changes nothing, and costs nobody the
/// connection.
#[test]
fn input_that_makes_no_sense_is_refused_and_the_connection_goes_on() {
    let cluster = Cluster::start(1).unwrap();
    let (clerk, wire) = (cluster.clerk(), Wire::to(&cluster));
    for value in ["v", "w", "x"] {
        clerk.put("k", value).unwrap();
    }
    for key in 0..9 {
        clerk.put(format!("big/{key}"), vec![0; 1 << 20]).unwrap();
    }
    clerk.compact(Revision(3)).unwrap();
    let before = clerk.stats().unwrap();
    let now = before.revision.0;

    let step = |action| proto::Operation { action, may_fail: false };
    let then_wire = |action| proto::Txn { then: vec![step(action)], ..proto::Txn::default() };
    let backwards = proto::KeyRange { begin: "b".into(), before: Some("a".into()), open: false };
    let at = |at: u64| {
        let range = Range { at: Revision(at), ..Range::of(KeyRange::key("k")) };
        proto::Range::from(&range)
    };
    let txn = |txn: Txn| wire.txn((&txn).into());
    let relation = |relation| proto::Compare {
        relation,
        operand: Some(proto::compare::Operand::Version(0)),
        keys: Some((&KeyRange::key("k")).into()),
    };
    let big = || Range::of(KeyRange::prefix("big/"));
    let long = |len: usize| vec![b'x'; len];
    let half = long(COMMAND_LEN_MAX / 2);
    let mut too_long = then(Action::put("a", half.clone()));
    too_long.then.push(Action::put("b", half).into());
    let mut reads_and_writes = then(Action::put("k", "y"));
    reads_and_writes.then.push(Action::Range(big()).into());
    let with_lease = |lease| proto::Put { lease, value: Some("".into()), ..Default::default() };

    let cases: Vec<(&str, Answer, Expect)> = vec![
        ("an operation without an action", wire.txn(then_wire(None)), Bad(&["action"])),
        (
            "an unknown relation",
            wire.txn(proto::Txn { compare: vec![relation(77)], ..Default::default() }),
            Bad(&["relation", "77"]),
        ),
        (
            "a range that ends before it begins",
            wire.range(proto::Range { keys: Some(backwards.clone()), ..Default::default() }),
            Bad(&["\"b\"", "\"a\""]),
        ),
        (
            "a delete that ends before it begins",
            wire.txn(then_wire(Some(proto::operation::Action::Delete(proto::Delete {
                keys: Some(backwards),
                previous: false,
            })))),
            Bad(&["\"b\"", "\"a\""]),
        ),
        ("a range of nothing", wire.range(proto::Range::default()), Bad(&["keys"])),
        (
            "a range of an unknown kind",
            wire.range(proto::Range { want: 9, ..at(0) }),
            Bad(&["kind of range", "9"]),
        ),
        (
            "a key over its limit",
            wire.range((&Range::of(KeyRange::key(long(KEY_LEN_MAX + 1)))).into()),
            Bad(&["65537"]),
        ),
        (
            "a value over its limit",
            txn(then(Action::put("k", long(VALUE_LEN_MAX + 1)))),
            Bad(&["15728641"]),
        ),
        ("depth 17", txn(nested(DEPTH_MAX + 1)), Bad(&["17"])),
        ("a command over its limit", txn(too_long), Bad(&["command of 1585"])),
        ("compaction of revision 0", wire.compact(0), Bad(&["revision 0"])),
        ("compaction of the future", wire.compact(now + 1), Refusal(Reason::InTheFuture, now)),
        ("compaction of the past", wire.compact(3), Refusal(Reason::Compacted, 3)),
        ("a read of the future", wire.range(at(now + 1)), Refusal(Reason::InTheFuture, now)),
        ("a read of the past", wire.range(at(2)), Refusal(Reason::Compacted, 3)),
        (
            "a limit out of bounds",
            wire.limits(Limits::HISTORY_BYTES_MAX_MAX + 1),
            Refusal(Reason::LimitOutOfBounds, Limits::HISTORY_BYTES_MAX_MAX + 1),
        ),
        (
            "a read of 9 MiB",
            wire.range((&big()).into()),
            Refusal(Reason::AnswerTooLong, ANSWER_LEN_MAX),
        ),
        (
            "a write with an answer of 9 MiB",
            txn(reads_and_writes),
            Refusal(Reason::AnswerTooLong, ANSWER_LEN_MAX),
        ),
        ("not a number", txn(then(Action::increment("k", 1))), Refusal(Reason::NotANumber, 1)),
        (
            "an unknown lease",
            wire.txn(then_wire(Some(proto::operation::Action::Put(with_lease(Some(7)))))),
            Refusal(Reason::NoSuchLease, 7),
        ),
    ];
    for (what, found, expected) in cases {
        match (found, expected) {
            (Err(CallError::Refused { status, .. }), Bad(words)) => {
                assert_eq!(status.code, StatusCode::BadArguments, "{what}: {status}");
                for word in words {
                    assert!(status.message.contains(word), "{what}: {word:?} is not in {status}");
                }
            }
            (Ok(Some(found)), Refusal(reason, value)) => {
                assert_eq!((found.reason, found.value), (reason.number(), value), "{what}");
            }
            (other, _) => panic!("{what}: {other:?}"),
        }
    }
    assert_eq!(
        clerk.stats().unwrap(),
        syncraft::clerk::Stats { revision: Revision(now), ..before },
        "nothing changed"
    );
    assert_eq!(wire.range(at(0)).unwrap(), None, "it still serves");
    assert_eq!(wire.relay.accepted(), 1, "over the same connection");
}

/// The same through a Clerk: the error says that nothing happened, and why.
#[test]
fn a_clerk_says_why_the_store_refused() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    clerk.put("text", "x").unwrap();
    clerk.put("most", i64::MAX.to_string()).unwrap();
    let check = |error: syncraft::clerk::ClerkError, kind, reason, value| {
        let refusal = error.refusal().unwrap();
        assert_eq!((error.kind(), refusal.reason, refusal.value), (kind, reason, value), "{error}");
    };
    let rejected = ClerkErrorKind::Rejected;
    check(clerk.increment("text", 1).unwrap_err(), rejected, Reason::NotANumber, 1);
    check(clerk.increment("most", 1).unwrap_err(), rejected, Reason::Overflow, 0);
    let future = clerk.get_at("text", Revision(99)).unwrap_err();
    check(future, ClerkErrorKind::NotApplied, Reason::InTheFuture, 3);
    let limits = LimitsChange { history_bytes_max: Some(u64::MAX), ..Default::default() };
    let limit = clerk.set_limits(limits).unwrap_err();
    check(limit, rejected, Reason::LimitOutOfBounds, u64::MAX);
    let second = clerk.txn().then_put("other", "x").then_increment("text", 1).commit();
    assert_eq!(second.unwrap_err().refusal().unwrap().operation, 1);
    assert_eq!(clerk.get("other").unwrap(), None, "all or nothing");
    let zero = clerk.compact(Revision::NONE).unwrap_err();
    assert_eq!((zero.kind(), zero.refusal()), (rejected, None), "{zero}");
    let deep = clerk.run(&nested(DEPTH_MAX + 1)).unwrap_err();
    assert_eq!(deep.kind(), rejected, "{deep}");
}

/// Without space, puts and appends are not applied, deletes are, and then there is space again.
#[test]
fn a_store_without_space_takes_deletes() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    clerk.put("k", vec![b'x'; 1000]).unwrap();
    clerk.set_limits(LimitsChange { bytes_max: Some(1100), ..Default::default() }).unwrap();
    for error in [
        clerk.put("other", vec![b'x'; 200]).unwrap_err(),
        clerk.append("k", vec![b'x'; 200]).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ClerkErrorKind::NotApplied, "{error}");
        assert!(error.to_string().contains("no space"), "{error}");
    }
    let txn = clerk.txn().then_put("other", vec![b'x'; 200]).commit().unwrap_err();
    assert_eq!(txn.kind(), ClerkErrorKind::NotApplied, "{txn}");
    assert_eq!(txn.refusal().unwrap().reason, Reason::NoSpace);
    assert!(clerk.delete("k").unwrap());
    clerk.put("other", vec![b'x'; 200]).unwrap();
}

/// Several threads count with compare-and-set, while leaders are killed. Each success counts once,
/// and an unknown outcome may or may not.
#[test]
fn compare_and_set_and_increments_count_right_while_leaders_die() {
    const WRITERS: usize = 4;
    const WRITES: i64 = 60;
    let cluster = Cluster::start(3).unwrap();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let clerk = cluster.clerk();
            scope.spawn(move || {
                for _ in 0..WRITES {
                    clerk.increment("increments", 1).unwrap();
                    count_up(&clerk, "swaps");
                    let key = format!("own/{writer}");
                    let done = clerk.txn().then_increment(key, 1).then_increment("both", 1);
                    done.commit().unwrap();
                }
            });
        }
        for _ in 0..3 {
            let leader = cluster.leader().unwrap();
            cluster.kill(leader);
            cluster.leader().unwrap();
            cluster.restart(leader).unwrap();
        }
    });
    let clerk = cluster.clerk();
    let number = |key: &str| -> i64 {
        let value = clerk.get(key).unwrap().unwrap();
        std::str::from_utf8(&value).unwrap().parse().unwrap()
    };
    let all = WRITERS as i64 * WRITES;
    assert_eq!([number("increments"), number("swaps"), number("both")], [all; 3]);
    let own: i64 = (0..WRITERS).map(|writer| number(&format!("own/{writer}"))).sum();
    assert_eq!(own, all);
}

fn count_up(clerk: &Clerk, key: &str) {
    let mut expected = Expected::Absent;
    loop {
        let next = match &expected {
            Expected::Absent => 1,
            Expected::Value(value) => {
                std::str::from_utf8(value).unwrap().parse::<i64>().unwrap() + 1
            }
        };
        match clerk.compare_and_set(key, expected, next.to_string()).unwrap() {
            Swap::Done { .. } => return,
            Swap::Differs { found: Some(Entry { value, .. }) } => {
                expected = Expected::Value(value);
            }
            Swap::Differs { found: None } => panic!("nobody deletes it"),
        }
    }
}

/// A transaction that only reads is a read: it takes no place in the log, and sees one state.
#[test]
fn a_transaction_that_changes_nothing_never_enters_the_log() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    clerk.txn().then_put("a", "1").then_put("b", "1").commit().unwrap();
    let last = |id| cluster.status(id).unwrap().last_index;
    let leader = cluster.leader().unwrap();
    // A cluster begins with a no-op, its configuration and the feature level, besides the write.
    until("the leader has said all of its own", || last(leader) >= Index(4));
    let before = last(leader);
    for _ in 0..20 {
        let seen = clerk.txn().when(Compare::present("a")).then_get("a").then_get("b").commit();
        let seen = seen.unwrap();
        assert!(seen.held && seen.entry(0).unwrap().value == seen.entry(1).unwrap().value);
    }
    assert_eq!((cluster.leader().unwrap(), last(leader)), (leader, before));
}

/// Reads of many keys are made beside the writes. Each sees one state: a writer keeps the number of
/// keys even.
#[test]
fn large_reads_see_one_state_while_others_write() {
    const KEYS: u32 = 20_000;
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    for batch in 0..KEYS / 1000 {
        let puts = (0..1000).map(|at| {
            Action::put(format!("row/{:06}", batch * 1000 + at), batch.to_string()).into()
        });
        clerk.run(&Txn { then: puts.collect(), ..Txn::default() }).unwrap();
    }
    let is_over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = clerk.clone();
        scope.spawn(move || {
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let key = |part| format!("row/pair/{part}/{}", number % 50);
                let txn = writer.txn().when(Compare::absent(key("a")));
                let txn = txn.then_put(key("a"), "x").then_put(key("b"), "x");
                txn.or_else_delete(key("a")).or_else_delete(key("b")).commit().unwrap();
            }
        });
        for reader in 0..4 {
            let clerk = clerk.clone();
            scope.spawn(move || {
                for _ in 0..10 {
                    let keys = KeyRange::prefix("row/");
                    let count = match reader {
                        0 => {
                            clerk.scan(keys).inspect(|entry| assert!(entry.is_ok())).count() as u64
                        }
                        _ => {
                            let range = Range { want: Want::Count, ..Range::of(keys) };
                            clerk.range(&range).unwrap().1.count
                        }
                    };
                    assert!(count >= u64::from(KEYS) && count % 2 == 0, "{count}");
                }
            });
        }
        let stopper = clerk.clone();
        scope.spawn(move || {
            // Until the readers have read for a while beside a writer that goes on.
            let begun = stopper.stats().unwrap().revision.0;
            let deadline = soon();
            while stopper.stats().unwrap().revision.0 < begun + 200 && Instant::now() < deadline {
                thread::yield_now();
            }
            is_over.store(true, Ordering::Relaxed);
        });
    });
}

/// Pages fit into answers, however long the values are, and hold every key once and in order.
#[test]
fn a_scan_of_long_values_comes_in_pages() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let mut expected = Vec::new();
    for key in 0..40 {
        let key = format!("{key:03}");
        // Short ones first, so that the first page is too long.
        clerk.put(&key, vec![b'x'; if &*key < "020" { 10 } else { 1 << 20 }]).unwrap();
        expected.push(key);
    }
    let mut scan = clerk.scan(KeyRange::all());
    let mut found = Vec::new();
    for entry in scan.by_ref() {
        let Entry { key, .. } = entry.unwrap();
        clerk.put("zzz", "later").unwrap();
        found.push(String::from_utf8(key.to_vec()).unwrap());
    }
    assert_eq!(found, expected, "the scan sees nothing that came after its first page");
    assert_eq!(scan.revision(), Revision(41));
    let (at, past) = (Revision(11), clerk.scan(KeyRange::all()).at(Revision(11)));
    assert_eq!(past.revision(), at);
    assert_eq!(past.count(), 10);
}

/// A follower that has not applied a revision yet waits for it, also if the client would be content
/// with an old state.
#[test]
fn a_stale_read_of_a_revision_to_come_waits_for_it() {
    let cluster = Cluster::start(3).unwrap();
    let (clerk, leader) = (cluster.clerk(), cluster.leader().unwrap());
    let follower = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    let members = cluster.members();
    let addr = members.addr(follower).unwrap();
    let stub = StoreRpcStub::new(Channel::builder(addr).lazy());
    let read = |at: u64| {
        let range = Range { at: Revision(at), ..Range::of(KeyRange::key("k")) };
        let staleness = Some(proto::Staleness { age_max_ms: None });
        let args = proto::RangeRequest { range: Some((&range).into()), staleness };
        stub.range(&args, soon()).unwrap()
    };
    let read_if_possible = |at: u64| {
        let range = Range { at: Revision(at), ..Range::of(KeyRange::key("k")) };
        let operation = Operation { action: Action::Range(range), may_fail: true };
        let inner = Txn { then: vec![operation], ..Txn::default() };
        let staleness = Some(proto::Staleness { age_max_ms: None });
        let txn = Some((&then(Action::Txn(inner))).into());
        let reply = stub.txn(&proto::TxnRequest { identity: None, txn, staleness }, soon());
        match reply.unwrap().result {
            Some(txn_reply::Result::Answer(answer)) => TxnAnswer::try_from(answer).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    for number in 0..100u64 {
        clerk.put("k", (2 * number).to_string()).unwrap();
        let reply = read(2 * number + 2);
        let Some(proto::range_reply::Result::Answer(answer)) = reply.result else {
            panic!("{reply:?}")
        };
        assert_eq!(answer.entries[0].value, (2 * number).to_string());
        assert!(reply.age_ms.is_some(), "a stale read says how old its state may be");
        // Nor does an operation fail that may fail.
        clerk.put("k", (2 * number + 1).to_string()).unwrap();
        let answer = read_if_possible(2 * number + 3);
        let OperationAnswer::Txn(inner) = &answer.answers[0] else { panic!("{answer:?}") };
        let OperationAnswer::Range(found) = &inner.answers[0] else { panic!("{answer:?}") };
        assert_eq!(found.entries[0].value, (2 * number + 1).to_string());
    }
    let reply = read(1000);
    let Some(proto::range_reply::Result::Refusal(refusal)) = reply.result else {
        panic!("{reply:?}")
    };
    assert_eq!((refusal.reason, refusal.value), (Reason::InTheFuture.number(), 201));
}

/// Whether it is repeated or not, a request that did not reach its client the first time gets the
/// first answer, and a long answer is told to be gone.
#[test]
fn a_repeat_gets_the_first_answer() {
    let cluster = Cluster::start(1).unwrap();
    let wire = Wire::to(&cluster);
    let send = |request_id, txn: &Txn| {
        let identity = proto::Identity { client_id: "me".into(), request_id, seen_index: 1 };
        let (identity, txn) = (Some(identity), Some(txn.into()));
        wire.stub.txn(&proto::TxnRequest { identity, txn, staleness: None }, soon()).unwrap()
    };
    let add = then(Action::increment("n", 5));
    let first = send(1, &add);
    assert_eq!(send(1, &add), first);
    let mut long = then(Action::put("big", vec![0; 2 << 20]));
    long.then.push(Action::get("big").into());
    let answer = send(2, &long);
    assert!(matches!(answer.result, Some(txn_reply::Result::Answer(_))));
    let repeat = send(2, &long);
    let forgotten = proto::Forgotten { held: 1, count: 1 };
    assert_eq!(repeat.result, Some(txn_reply::Result::Forgotten(forgotten)));
    assert_eq!((repeat.index, repeat.revision), (answer.index, answer.revision));
    let older = send(1, &add);
    let Some(txn_reply::Result::Refusal(refusal)) = older.result else { panic!("{older:?}") };
    assert_eq!(refusal.reason, Reason::Superseded.number());
    assert_eq!(cluster.clerk().get("n").unwrap().as_deref(), Some(&b"5"[..]));
}

/// A program that has a member inside needs no socket.
#[test]
fn a_program_reads_and_writes_through_the_member_that_it_holds() {
    use syncraft::kv::Identity;
    use syncraft::kv::api::Consistency;
    use syncraft::server::{Config, Member};

    let dir = tempfile::tempdir().unwrap();
    let port = syncraft::testing::Port::free().unwrap();
    let members = format!("1={}", port.addr()).parse().unwrap();
    let config = Config::new(MemberId(1), members, dir.path().join("1"));
    let member = Member::start_on(port.listen().unwrap(), config).unwrap();
    let api = member.api();
    let deadline = soon();
    loop {
        let (told, hears) = channel();
        let txn = then(Action::increment("n", 1));
        let now = Consistency::Linearizable;
        api.txn(Identity::default(), txn, now, deadline, move |it| told.send(it).unwrap());
        match hears.recv_timeout(TEST_TIMEOUT).unwrap() {
            // Nobody leads yet.
            Err(error) if !error.may_apply() && Instant::now() < deadline => thread::yield_now(),
            result => {
                let done = result.unwrap();
                assert_eq!(done.revision, Revision(2));
                break;
            }
        }
    }
    let (told, hears) = channel();
    api.get("n".into(), Consistency::default(), soon(), move |it| told.send(it).unwrap());
    let read = hears.recv_timeout(TEST_TIMEOUT).unwrap().unwrap();
    assert_eq!((read.answer.as_deref(), read.age_max), (Some(&b"1"[..]), None));
    member.stop();
    let (told, hears) = channel();
    let range = Range::of(KeyRange::all());
    api.range(range, Consistency::default(), soon(), move |it| told.send(it).unwrap());
    hears.recv_timeout(TEST_TIMEOUT).unwrap().unwrap_err();
}

/// All members hold the same after transactions of every kind.
#[test]
fn every_kind_of_operation_answers_as_it_says() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    let done = clerk
        .txn()
        .when(Compare::absent("a"))
        .then_put("a", "1")
        .then_append("a", "2")
        .then_increment("a", 30)
        .then_get("a")
        .then_delete("a")
        .then(Action::Txn(nested(3)))
        .then(Operation { may_fail: true, ..Action::increment("deep", 1).into() })
        .commit()
        .unwrap();
    assert!(done.held);
    let [put, append, increment, get, delete, txn, failed] = &done.answers[..] else {
        panic!("{done:?}")
    };
    assert_eq!(*put, OperationAnswer::Put { previous: None });
    assert_eq!(*append, OperationAnswer::Append { value_len: 2 });
    assert_eq!(*increment, OperationAnswer::Increment { value: 42 });
    assert!(matches!(get, OperationAnswer::Range(range) if range.entries[0].version == 1));
    assert_eq!(*delete, OperationAnswer::Delete { count: 1, previous: Vec::new() });
    assert!(matches!(txn, OperationAnswer::Txn(inner) if inner.held));
    assert_eq!(*failed, OperationAnswer::Failed(Reason::NotANumber));
    assert_eq!(done.revision, Revision(2), "one transaction is one revision");
    assert_eq!(clerk.get_entry("a").unwrap(), None);
    assert_eq!(clerk.get_entry("deep").unwrap().unwrap().mod_revision, Revision(2));
}
