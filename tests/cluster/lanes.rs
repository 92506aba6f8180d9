//! Writes on behalf of clients without an identity: at most once, from any member, while leaders
//! die.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::bounded;
use syncraft::kv::model::{Action, KeyRange, OperationAnswer, Txn};
use syncraft::kv::{
    self, Change, Command, Done, LANES_MAX, LaneError, Lanes, Outcome, SESSIONS_MAX, SessionLimits,
    Store,
};
use syncraft::node::{Node, NodeConfig};
use syncraft::raft::{Index, MemberId, Standing};
use syncraft::storage::{DataDir, Identity};
use syncraft::testing::{Cluster, Port};

use crate::nodes::{leads, members, serve, until};

fn append(key: &str, value: String) -> Change {
    Change::Append { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into() }
}

fn follower(cluster: &Cluster) -> MemberId {
    let leader = cluster.leader().unwrap();
    cluster.ids().into_iter().find(|&id| id != leader).unwrap()
}

fn write(lanes: &Lanes, change: Change, timeout: Duration) -> Result<Outcome, LaneError> {
    let (send, receive) = bounded(1);
    lanes.write(change, Instant::now() + timeout, move |end| send.send(end).unwrap());
    receive.recv_timeout(timeout + Duration::from_secs(10)).expect("a write ends by its deadline")
}

/// Each request is one append of its own number. So a value with a number twice was written twice,
/// and one without an acknowledged number has lost it.
#[test]
fn three_thousand_writes_on_a_follower_take_effect_at_most_once_while_leaders_die() {
    let cluster = Cluster::start(5).unwrap();
    let front = follower(&cluster);
    let lanes = cluster.lanes(front).unwrap();
    let (send, ends) = bounded(LANES_MAX);
    let timeout = Duration::from_secs(60);
    let begin = |n: usize| {
        let send = send.clone();
        let change = append(&format!("k{}", n % 16), format!("{n},"));
        lanes.write(change, Instant::now() + timeout, move |end| send.send((n, end)).unwrap());
    };
    let count = 4 * LANES_MAX;
    let (mut begun, mut acknowledged, mut unknown) = (0, Vec::new(), Vec::new());
    while begun < LANES_MAX {
        begin(begun);
        begun += 1;
    }
    // All lanes are taken, or some have ended: then another one takes no harm.
    let mut killed = Vec::new();
    for ended in 0..count {
        if ended % LANES_MAX == LANES_MAX / 2 && killed.len() < 2 {
            let leader = cluster.leader().unwrap();
            if leader != front {
                cluster.kill(leader);
                killed.push(leader);
            }
        }
        let (n, end) = ends.recv_timeout(2 * timeout).expect("a write ends by its deadline");
        match end {
            Ok(Outcome::Applied { .. }) => acknowledged.push(n),
            Err(error) if error.may_apply() => unknown.push(n),
            other => panic!("write {n}: {other:?}"),
        }
        if begun < count {
            begin(begun);
            begun += 1;
        }
    }
    assert!(!killed.is_empty(), "no leader died");
    let clerk = cluster.clerk();
    let mut found = BTreeMap::new();
    for key in 0..16 {
        let value = clerk.get(format!("k{key}")).unwrap().unwrap_or_default();
        let text = String::from_utf8(value.to_vec()).unwrap();
        for number in text.split_terminator(',') {
            *found.entry(number.parse::<usize>().unwrap()).or_insert(0) += 1;
        }
    }
    assert!(found.values().all(|&times| times == 1), "a write took effect twice");
    assert!(acknowledged.iter().all(|n| found.contains_key(n)), "an acknowledged write is lost");
    let told: usize = acknowledged.len() + unknown.len();
    assert_eq!(told, count);
    assert!(acknowledged.len() > count / 2, "{} of {count}", acknowledged.len());
}

#[test]
fn one_write_more_than_there_are_lanes_is_told_so() {
    let cluster = Cluster::start(3).unwrap();
    let front = follower(&cluster);
    let lanes = cluster.lanes(front).unwrap();
    // Nobody answers, so no lane is freed.
    let others: Vec<_> = cluster.ids().into_iter().filter(|&id| id != front).collect();
    cluster.partition(&[front], &others);
    let (send, ends) = bounded(LANES_MAX + 1);
    let deadline = Instant::now() + Duration::from_secs(60);
    for n in 0..LANES_MAX {
        let send = send.clone();
        lanes.write(append("k", "x".to_owned()), deadline, move |end| send.send((n, end)).unwrap());
    }
    let refused = write(&lanes, append("k", "y".to_owned()), Duration::from_secs(60));
    assert_eq!(refused, Err(LaneError::Busy));
    cluster.heal();
    for _ in 0..LANES_MAX {
        let (n, end) = ends.recv_timeout(Duration::from_secs(90)).unwrap();
        assert!(matches!(end, Ok(Outcome::Applied { .. })), "write {n}: {end:?}");
    }
    let value = cluster.clerk().get("k").unwrap().unwrap();
    assert_eq!(value, vec![b'x'; LANES_MAX]);
}

/// Adds two to the key "n".
fn increment() -> Change {
    Change::Txn(Txn { then: vec![Action::increment("n", 2).into()], ..Txn::default() })
}

#[track_caller]
fn check_incremented(end: Result<Outcome, LaneError>, expected: i64) {
    let Ok(Outcome::Ran { result: Ok(Done { answer: Some(answer), .. }), .. }) = end else {
        panic!("{end:?}");
    };
    assert_eq!(answer.answers, [OperationAnswer::Increment { value: expected }]);
}

/// A member that is started again counts its lanes and their writes from the beginning. They are
/// other clients than those of its last life, whose answers are remembered.
#[test]
fn the_lanes_of_each_start_are_clients_of_their_own() {
    let cluster = Cluster::start(3).unwrap();
    let id = follower(&cluster);
    for start in 1..=3 {
        let lanes = cluster.lanes(id).unwrap();
        check_incremented(write(&lanes, increment(), Duration::from_secs(60)), 2 * start);
        drop(lanes);
        cluster.kill(id);
        cluster.restart(id).unwrap();
    }
}

#[test]
fn writes_one_after_the_other_take_up_one_session() {
    let cluster = Cluster::start(1).unwrap();
    let lanes = cluster.lanes(1).unwrap();
    for n in 1..=50 {
        check_incremented(write(&lanes, increment(), Duration::from_secs(60)), 2 * n);
    }
    assert_eq!(cluster.clerk().stats().unwrap().sessions, 1);
}

/// The copies of a write that was given up may arrive at any time: before the lane's next write, or
/// after it, when they change nothing.
#[test]
fn a_lane_that_gave_a_write_up_is_used_again() {
    let cluster = Cluster::start(3).unwrap();
    let front = follower(&cluster);
    let lanes = cluster.lanes(front).unwrap();
    let timeout = Duration::from_secs(60);
    write(&lanes, append("k", String::new()), timeout).unwrap();
    let others: Vec<_> = cluster.ids().into_iter().filter(|&id| id != front).collect();
    const ROUNDS: usize = 5;
    for round in 0..ROUNDS {
        // It believes that it has a leader, and sends it the write.
        cluster.partition(&[front], &others);
        let lost = write(&lanes, append("k", format!("lost{round},")), Duration::from_millis(300));
        assert!(matches!(lost, Err(LaneError::TimedOut { .. })), "{lost:?}");
        cluster.heal();
        let end = write(&lanes, append("k", format!("next{round},")), timeout);
        assert!(matches!(end, Ok(Outcome::Applied { .. })), "{end:?}");
    }
    let value = cluster.clerk().get("k").unwrap().unwrap();
    let text = String::from_utf8(value.to_vec()).unwrap();
    let mut found = text.split_terminator(',').peekable();
    for round in 0..ROUNDS {
        found.next_if_eq(&&*format!("lost{round}"));
        assert_eq!(found.next(), Some(&*format!("next{round}")), "{text}");
    }
    assert_eq!(found.next(), None, "{text}");
}

/// There is room for one session. So three lanes drive each other out: the first of them is
/// forgotten before its next write knows of the others'.
#[test]
fn a_lane_whose_session_was_forgotten_begins_anew() {
    const LANES: i64 = 3;
    const ROUNDS: i64 = 20;
    let (port, dir) = (Port::free().unwrap(), tempfile::tempdir().unwrap());
    let identity = Identity { cluster_id: 0, list_id: 7, member_id: MemberId(1) };
    let data_dir = DataDir::open(dir.path().join("1"), identity, Standing::New).unwrap();
    let config = NodeConfig::new(MemberId(1), members(std::slice::from_ref(&port)));
    let limits = SessionLimits { sessions_max: 1, ..SessionLimits::default() };
    let node = Node::start(config, data_dir, Store::with_session_limits(limits)).unwrap();
    let _server = serve(&node, &port);
    let handle = node.handle();
    until("it leads", || leads(&handle));
    let lanes = Lanes::start(handle.clone()).unwrap();
    let together = Barrier::new(LANES as usize);
    let rounds = || {
        let round = |_| {
            together.wait();
            write(&lanes, increment(), Duration::from_secs(60))
        };
        (0..ROUNDS).map(round).collect::<Vec<_>>()
    };
    let ends: Vec<_> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(rounds)).collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    });
    for end in ends {
        assert!(matches!(end, Ok(Outcome::Ran { result: Ok(_), .. })), "{end:?}");
    }
    let expected = 2 * LANES * ROUNDS + 2;
    check_incremented(write(&lanes, increment(), Duration::from_secs(60)), expected);
}

/// The leader applies a write, but its answer is lost. Before the lane can ask again, so many other
/// clients have written that the lane is forgotten. So nobody can tell what became of the write.
#[test]
fn a_lane_that_was_forgotten_while_an_outcome_was_unknown_says_that_it_may_have_taken_effect() {
    // On a busy machine, another member may come to lead, and be asked early.
    let end = (0..5).find_map(|_| end_of_a_forgotten_lane());
    assert_eq!(end.expect("a leader that leads for a while"), Err(LaneError::Forgotten));
    assert!(LaneError::Forgotten.may_apply());
}

/// What the lane was told. `None`: the leader has changed.
fn end_of_a_forgotten_lane() -> Option<Result<Outcome, LaneError>> {
    let cluster = Cluster::start(3).unwrap();
    let front = follower(&cluster);
    let leader = cluster.leader().unwrap();
    let term = || cluster.status(leader).unwrap().role.term;
    let begun_in = term();
    let lanes = cluster.lanes(front).unwrap();
    let timeout = Duration::from_secs(300);
    // From now on there is a connection.
    write(&lanes, append("k", "first,".to_owned()), timeout).unwrap();
    cluster.partition_one_way(leader, front);
    let (send, end) = bounded(1);
    let change = append("k", "lost,".to_owned());
    lanes.write(change, Instant::now() + timeout, move |it| send.send(it).unwrap());
    let clerk = cluster.clerk_of(leader);
    let applied = Some(Bytes::from_static(b"first,lost,"));
    until("it is applied", || clerk.get("k").is_ok_and(|value| value == applied));
    // The lane asks again and again, which would keep its session. From now on nobody hears it, and
    // what the leader has answered is lost, not only late.
    let others: Vec<_> = cluster.ids().into_iter().filter(|&id| id != front).collect();
    cluster.partition(&[front], &others);
    cluster.blackhole(&[front], &others);
    let api = cluster.api(leader).unwrap();
    let (send, ends) = bounded(SESSIONS_MAX);
    // What it has asked before may still be applied beside the first batch of writes, not beside
    // the next ones, which suffice.
    for batch in (0..SESSIONS_MAX + 1_000).collect::<Vec<_>>().chunks(1_000) {
        for n in batch {
            let client_id = format!("other-{n}").into();
            let identity = kv::Identity { client_id, request_id: 1, seen_index: Index(1) };
            let change = Change::Put { key: "other".into(), value: Bytes::new() };
            let (send, deadline) = (send.clone(), Instant::now() + timeout);
            let command = Command { identity, change };
            api.write(command, deadline, move |it| send.send(it.is_ok()).unwrap());
        }
        if batch.iter().any(|_| !ends.recv_timeout(timeout).unwrap()) {
            return None;
        }
    }
    cluster.heal();
    let end = end.recv_timeout(timeout + Duration::from_secs(10)).unwrap();
    // The lane goes on, as a client of which nothing is known.
    let next = write(&lanes, append("k", "next".to_owned()), timeout);
    assert!(matches!(next, Ok(Outcome::Applied { .. })), "{next:?}");
    assert_eq!(cluster.clerk().get("k").unwrap().as_deref(), Some(&b"first,lost,next"[..]));
    (term() == begun_in).then_some(end)
}

#[test]
fn answers_come_back_from_the_leader_through_a_follower() {
    let cluster = Cluster::start(3).unwrap();
    for (id, expected) in cluster.ids().into_iter().zip([2, 4, 6]) {
        let lanes = cluster.lanes(id).unwrap();
        check_incremented(write(&lanes, increment(), Duration::from_secs(20)), expected);
    }
    let lanes = cluster.lanes(follower(&cluster)).unwrap();
    let refused = Change::Txn(Txn {
        then: vec![Action::put("s", "text").into(), Action::increment("s", 1).into()],
        ..Txn::default()
    });
    let Ok(Outcome::Ran { result: Err(refusal), .. }) =
        write(&lanes, refused, Duration::from_secs(20))
    else {
        panic!("it is refused");
    };
    assert_eq!(refusal.operation, 1);
    assert_eq!(cluster.clerk().get("s").unwrap(), None);
}

#[test]
fn a_write_that_can_never_be_one_is_refused_at_once() {
    let cluster = Cluster::start(1).unwrap();
    let lanes = cluster.lanes(1).unwrap();
    let nested = (0..17).fold(Txn::default(), |inner, _| Txn {
        then: vec![Action::Txn(inner).into()],
        ..Txn::default()
    });
    let end = write(&lanes, Change::Txn(nested), Duration::from_secs(20));
    assert!(matches!(end, Err(LaneError::Limit(_))), "{end:?}");
    let operation = || Action::put("k", vec![0; 8 << 20]);
    let two = Txn { then: vec![operation().into(), operation().into()], ..Txn::default() };
    let end = write(&lanes, Change::Txn(two), Duration::from_secs(20));
    assert!(matches!(end, Err(LaneError::TooLong(len)) if len > 16 << 20), "{end:?}");
    // The lanes go on.
    let delete = Txn { then: vec![Action::delete(KeyRange::all()).into()], ..Txn::default() };
    write(&lanes, Change::Txn(delete), Duration::from_secs(20)).unwrap();
}

#[test]
fn a_member_that_stops_ends_its_writes() {
    let cluster = Cluster::start(3).unwrap();
    let front = follower(&cluster);
    let lanes = cluster.lanes(front).unwrap();
    let others: Vec<_> = cluster.ids().into_iter().filter(|&id| id != front).collect();
    cluster.partition(&[front], &others);
    let (send, ends) = bounded(1);
    let deadline = Instant::now() + Duration::from_secs(600);
    lanes.write(append("k", "x".to_owned()), deadline, move |end| send.send(end).unwrap());
    cluster.kill(front);
    let late = write(&lanes, append("k", "y".to_owned()), Duration::from_secs(60));
    assert_eq!(late, Err(LaneError::Stopped { may_apply: false }));
    drop(Arc::into_inner(lanes).expect("the member has let its lanes go"));
    let end = ends.recv_timeout(Duration::from_secs(30)).expect("the lanes end it");
    assert_eq!(end, Err(LaneError::Stopped { may_apply: true }));
}

/// It is called back by the thread that applies entries, without which a member is lost.
#[test]
fn whoever_panics_when_told_of_an_end_ends_nobody_else() {
    let cluster = Cluster::start(3).unwrap();
    for id in cluster.ids() {
        let lanes = cluster.lanes(id).unwrap();
        let timeout = Duration::from_secs(60);
        let (send, called) = bounded(1);
        lanes.write(append("k", "x".to_owned()), Instant::now() + timeout, move |_| {
            send.send(()).unwrap();
            panic!("a bug of a front");
        });
        called.recv_timeout(timeout).unwrap();
        assert!(write(&lanes, append("k", "y".to_owned()), timeout).is_ok());
    }
    let value = cluster.clerk().get("k").unwrap().unwrap();
    assert_eq!(value.len(), 2 * cluster.ids().len());
}
