//! Reads at any member, and stale reads.

use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use syncraft::clerk::{Clerk, ClerkErrorKind, Stale};
use syncraft::node::ReadMode;
use syncraft::raft::MemberId;
use syncraft::testing::{Cluster, Options};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

fn follower(cluster: &Cluster) -> MemberId {
    let leader = cluster.leader().unwrap();
    cluster.ids().into_iter().find(|&id| id != leader).unwrap()
}

/// A client that knows one member only. Hints still lead it on.
fn clerk_of(cluster: &Cluster, id: MemberId, timeout: Duration) -> Clerk {
    let members = cluster.members();
    let addr = members.addr(id).unwrap();
    Clerk::builder().members(addr).timeout(timeout).build().unwrap()
}

/// Whichever member is asked, a read sees every write acknowledged before it, even while others
/// write.
#[test]
fn every_member_serves_linearizable_reads() {
    let cluster = Cluster::start(3).unwrap();
    let writer = cluster.clerk();
    let clerks: Vec<Clerk> =
        cluster.ids().into_iter().map(|id| clerk_of(&cluster, id, TEST_TIMEOUT)).collect();
    for number in 0..200 {
        let value = number.to_string();
        writer.put("k", &value).unwrap();
        for clerk in &clerks {
            assert_eq!(clerk.get("k").unwrap().as_deref(), Some(value.as_bytes()));
        }
    }
}

/// Followers serve a Clerk's reads in turn. A dead follower costs no read its answer, and every
/// read sees the latest write.
#[test]
fn a_clerk_may_read_from_followers() {
    let cluster = Cluster::start(3).unwrap();
    let addrs: Vec<String> = cluster
        .ids()
        .into_iter()
        .map(|id| cluster.members().addr(id).unwrap().to_owned())
        .collect();
    let clerk =
        Clerk::builder().members(addrs).timeout(TEST_TIMEOUT).follower_reads(true).build().unwrap();
    for number in 0..60 {
        if number == 30 {
            cluster.kill(follower(&cluster));
        }
        let value = number.to_string();
        clerk.put("k", &value).unwrap();
        for _ in 0..3 {
            assert_eq!(clerk.get("k").unwrap().as_deref(), Some(value.as_bytes()));
        }
    }
}

/// Raw calls: a follower's answer is its own, not the leader's after a hint.
#[test]
fn a_follower_answers_by_itself_and_says_who_leads() {
    use syncraft::kv::proto::{GetArgs, KvServerRpcStub};
    use syncraft::rpc::Channel;
    let cluster = Cluster::start(3).unwrap();
    cluster.clerk().put("k", "v").unwrap();
    let (leader, follower) = (cluster.leader().unwrap(), follower(&cluster));
    let channel = Channel::builder(cluster.members().addr(follower).unwrap()).lazy();
    let args = GetArgs { key: "k".into(), ..GetArgs::default() };
    let reply = KvServerRpcStub::new(channel).get(&args, Instant::now() + TEST_TIMEOUT).unwrap();
    assert_eq!((&reply.err[..], &reply.value[..]), (&b"OK"[..], &b"v"[..]));
    assert_eq!(reply.leader.unwrap().id, leader.0);
}

/// Without a majority, a linearizable read is refused. A stale read is answered and says how old
/// its value may be.
#[test]
fn what_may_be_old_is_answered_without_a_majority() {
    let cluster = Cluster::start(3).unwrap();
    cluster.clerk().put("k", "v").unwrap();
    let last = follower(&cluster);
    let (clerk, patient) = (
        clerk_of(&cluster, last, Duration::from_millis(500)),
        clerk_of(&cluster, last, TEST_TIMEOUT),
    );
    let fresh = patient.get("k").unwrap();
    assert_eq!(fresh.as_deref(), Some(&b"v"[..]));
    cluster.ids().into_iter().filter(|&id| id != last).for_each(|id| cluster.kill(id));
    let killed = Instant::now();
    assert_eq!(clerk.get("k").unwrap_err().kind(), ClerkErrorKind::NotApplied);
    // The age is that at the answer, and this thread may sleep after it.
    let asked = killed.elapsed();
    let Stale { value, age_max } = patient.get_stale("k", None).unwrap();
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
    assert!(age_max >= asked, "{age_max:?}, {asked:?}");
    let bound = Some(Duration::from_millis(400));
    let error = clerk.get_stale("k", bound).unwrap_err();
    assert_eq!(error.kind(), ClerkErrorKind::NotApplied, "known to be too old: {error}");
    cluster.ids().into_iter().for_each(|id| cluster.restart(id).unwrap());
    cluster.leader().unwrap();
    assert_eq!(patient.get_stale("k", bound).unwrap().value.as_deref(), Some(&b"v"[..]));
}

/// While another client writes, no answer is ever older than the bound.
#[test]
fn no_answer_is_older_than_its_bound() {
    let cluster = Cluster::start(3).unwrap();
    let writer = cluster.clerk();
    writer.put("k", "0").unwrap();
    let begun = Instant::now();
    let acknowledged = &Mutex::new(vec![(begun, 0)]);
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 1..400 {
                writer.put("k", number.to_string()).unwrap();
                acknowledged.lock().push((Instant::now(), number));
            }
        });
        for id in cluster.ids() {
            let clerk = clerk_of(&cluster, id, TEST_TIMEOUT);
            scope.spawn(move || {
                for at in 0..200 {
                    let allowed =
                        [None, Some(Duration::ZERO), Some(Duration::from_millis(20))][at % 3];
                    // The age is that at the answer, and this thread may sleep after it.
                    let asked = Instant::now();
                    let Stale { value, age_max } = clerk.get_stale("k", allowed).unwrap();
                    let number: i32 =
                        String::from_utf8(value.unwrap().to_vec()).unwrap().parse().unwrap();
                    let acknowledged = acknowledged.lock();
                    let floor = acknowledged.iter().rev().find(|(when, _)| *when + age_max < asked);
                    assert!(
                        floor.is_none_or(|&(_, floor)| number >= floor),
                        "{number}, {floor:?}, {age_max:?}"
                    );
                }
            });
        }
    });
}

/// Leases, under everything that members assume about clocks: a leader that sleeps through its
/// lease, and wakes while another member leads, answers no read from its old state.
#[test]
fn a_leader_with_a_lease_that_sleeps_answers_nothing_old() {
    let mut options = Options::default();
    options.read_mode = ReadMode::Lease;
    let cluster = Cluster::start_with(3, options).unwrap();
    let clerk = cluster.clerk();
    for number in 0..5 {
        let old = format!("old {number}");
        clerk.put("k", &old).unwrap();
        let leader = cluster.leader().unwrap();
        let alone = cluster.clerk_of(leader);
        assert_eq!(alone.get("k").unwrap().as_deref(), Some(old.as_bytes()));
        thread::scope(|scope| {
            cluster.pause(leader);
            // This read waits in the leader's socket until the leader wakes.
            let read = scope.spawn(|| alone.get("k"));
            let new = format!("new {number}");
            clerk.put("k", &new).unwrap();
            cluster.resume(leader);
            if let Ok(value) = read.join().unwrap() {
                // It overlaps the write, so it may see either value. Later reads must see the new
                // one.
                assert!([&old, &new].iter().any(|it| value.as_deref() == Some(it.as_bytes())));
            }
            if let Ok(value) = alone.get("k") {
                assert_eq!(value.as_deref(), Some(new.as_bytes()));
            }
        });
    }
}

/// A member that has lost its data does not know how old its empty state is: it refuses instead of
/// answering "absent".
#[test]
fn a_member_without_its_data_does_not_call_a_key_absent() {
    let cluster = Cluster::start(3).unwrap();
    cluster.clerk().put("k", "v").unwrap();
    let leader = cluster.leader().unwrap();
    let others: Vec<MemberId> = cluster.ids().into_iter().filter(|&id| id != leader).collect();
    // The leader has applied it, and has confirmed a read of its own.
    assert!(cluster.clerk_of(leader).get("k").unwrap().is_some());
    cluster.kill(others[0]);
    cluster.wipe(others[1]).unwrap();
    cluster.restart(others[1]).unwrap();
    let members = cluster.members();
    let addr = members.addr(others[1]).unwrap();
    let alone = Clerk::builder().members(addr).timeout(Duration::from_millis(300));
    // A hint may lead the read to the leader, which has the value.
    match alone.build().unwrap().get_stale("k", None) {
        Ok(Stale { value, .. }) => assert_eq!(value.as_deref(), Some(&b"v"[..])),
        Err(error) => assert_eq!(error.kind(), ClerkErrorKind::NotApplied),
    }
    for _ in 0..30 {
        let value = cluster.clerk().get_stale("k", None).unwrap().value;
        assert_eq!(value.as_deref(), Some(&b"v"[..]), "another one knows");
    }
}
