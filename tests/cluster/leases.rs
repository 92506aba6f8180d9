//! Leases, from outside: through the Clerk, over the wire, and over changes of leader.

use std::collections::BTreeSet;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use syncraft::clerk::{Clerk, ClerkErrorKind, LockError};
use syncraft::kv::model::proto::{
    LeaseGrantRequest, LeaseInfoRequest, LeaseKeepAliveRequest, StoreRpcStub, lease_grant_reply,
    lease_info_reply,
};
use syncraft::kv::model::{Compare, LeaseId, NewLease, Reason};
use syncraft::kv::{LEASES_PER_REQUEST_MAX, LimitsChange};
use syncraft::raft::{MemberId, RoleName};
use syncraft::rpc::{CallError, Channel, StatusCode};
use syncraft::testing::Cluster;

use crate::alone::alone;
use crate::nodes::until;
use crate::relay::Relay;

const TEST_TIMEOUT: Duration = Duration::from_secs(30);

fn soon() -> Instant {
    Instant::now() + TEST_TIMEOUT
}

fn stub(cluster: &Cluster, id: u64) -> StoreRpcStub {
    let addr = cluster.members().addr(MemberId(id)).unwrap().to_owned();
    StoreRpcStub::new(Channel::builder(addr).lazy())
}

/// Waits until a key is gone. Returns when it was first missed.
fn wait_gone(clerk: &Clerk, key: &str) -> Instant {
    let deadline = soon();
    while clerk.get(key).unwrap().is_some() {
        assert!(Instant::now() < deadline, "{key} stays");
    }
    Instant::now()
}

#[test]
fn a_lease_ends_after_its_time_and_not_before() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    let ttl = Duration::from_secs(3);
    let asked = Instant::now();
    let lease = clerk.grant_lease(ttl, None).unwrap();
    assert_eq!((lease.ttl(), lease.left()), (ttl, ttl));
    let mine = clerk.clone();
    mine.put_with("of the lease", "v", lease.id).unwrap();
    assert_eq!(clerk.lease_info(lease.id).unwrap().unwrap().keys, ["of the lease"]);
    let missed = wait_gone(&clerk, "of the lease");
    assert!(missed - asked >= ttl, "it lived for {:?}", missed - asked);
    assert_eq!(clerk.lease_info(lease.id).unwrap(), None);
    let refused = mine.put_with("of the lease", "v", lease.id).unwrap_err();
    assert_eq!(refused.refusal().map(|it| it.reason), Some(Reason::NoSuchLease));
    // A key with a time to live of its own.
    let asked = Instant::now();
    clerk.put_with("own", "v", NewLease::ttl(ttl)).unwrap();
    let missed = wait_gone(&clerk, "own");
    assert!(missed - asked >= ttl, "it lived for {:?}", missed - asked);
}

/// Members that each count a lease's time for themselves begin anew with each leader, or end it
/// early.
#[test]
fn a_change_of_leader_neither_restarts_a_lease_nor_shortens_it() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    let ttl = Duration::from_secs(3);
    let asked = Instant::now();
    let lease = clerk.grant_lease(ttl, None).unwrap();
    clerk.put_with("k", "v", lease.id).unwrap();
    for _ in 0..3 {
        let leader = cluster.leader().unwrap();
        cluster.kill(leader);
        cluster.leader().unwrap();
        cluster.restart(leader).unwrap();
    }
    let missed = wait_gone(&clerk, "k");
    let lived = missed - asked;
    assert!(lived >= ttl, "it lived for {lived:?}");
    // Each leader might have begun anew. Time without a leader does not count.
    assert!(lived < ttl * 3, "it lived for {lived:?}");
}

/// What is left is told as it is now, and neither a change of leader nor a restart of all members
/// gives any of it back.
#[test]
fn what_is_left_of_a_lease_shrinks_and_stays_lost() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    let ttl = Duration::from_secs(60);
    let [lease, other] = [(); 2].map(|()| clerk.grant_lease(ttl, None).unwrap().id);
    let left = || clerk.lease_info(lease).unwrap().unwrap().left();
    // The log learns the time every ten seconds, and it is told between two entries, too.
    let deadline = soon();
    let mut told = BTreeSet::new();
    while told.len() <= 5 {
        assert!(Instant::now() < deadline, "{told:?}");
        told.insert(left());
    }
    // What the log says is lost.
    let spent = loop {
        let before = Instant::now();
        clerk.keep_alive(&[other]).unwrap();
        let spent = left() + before.elapsed();
        if spent < ttl - Duration::from_secs(1) {
            break spent;
        }
        assert!(Instant::now() < deadline, "{spent:?}");
    };
    for _ in 0..2 {
        let leader = cluster.leader().unwrap();
        cluster.kill(leader);
        cluster.leader().unwrap();
        cluster.restart(leader).unwrap();
        assert!(left() <= spent, "a new leader gives back: {:?}", left());
    }
    cluster.ids().iter().for_each(|id| cluster.kill(*id));
    cluster.ids().iter().for_each(|id| cluster.restart(*id).unwrap());
    assert!(left() <= spent, "a restart gives back: {:?}", left());
}

/// Time that nobody measured counts for a lease. A leader that works measures all of it.
#[test]
fn a_lease_ends_at_most_200_ms_late() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    let ttl = Duration::from_secs(1);
    // How late one ends, beyond the time of a write.
    let late = || {
        let lease = clerk.grant_lease(ttl, None).unwrap().id;
        let granted = Instant::now();
        let put = clerk.put_with("k", "v", lease);
        let write = granted.elapsed();
        match put {
            Ok(()) => wait_gone(&clerk, "k").duration_since(granted).saturating_sub(ttl + write),
            // This thread was late.
            Err(_) => Duration::MAX,
        }
    };
    // A busy machine may be late itself, but not always.
    let mut all = Vec::new();
    let is_on_time = |late: &Duration| late.as_millis() <= 200;
    while !all.ends_with(&[true; 3]) {
        assert!(all.len() < 20, "{all:?}");
        all.push(is_on_time(&late()));
    }
}

/// A leader that is stopped and goes on later still believes that it leads. If the gap in its clock
/// counted, much time would have passed since it kept anything alive (etcd#15247).
#[test]
fn a_leader_that_stalled_ends_no_lease_that_another_one_kept_alive() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    let ttl = Duration::from_secs(5);
    let lease = clerk.grant_lease(ttl, None).unwrap().id;
    clerk.put_with("k", "v", lease).unwrap();
    let stalled = cluster.leader().unwrap();
    cluster.pause(stalled);
    let paused = Instant::now();
    let keep_alive = || assert_eq!(clerk.keep_alive(&[lease]).unwrap(), [Some(ttl)]);
    while paused.elapsed() < ttl + Duration::from_secs(1) {
        keep_alive();
    }
    cluster.resume(stalled);
    let deadline = soon();
    while cluster.status(stalled).is_none_or(|it| it.role.role != RoleName::Follower) {
        assert!(Instant::now() < deadline, "{:?}", cluster.status(stalled));
        keep_alive();
    }
    keep_alive();
    assert!(clerk.get("k").unwrap().is_some());
}

#[test]
fn a_lease_is_kept_alive_until_it_is_dropped() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let ttl = Duration::from_secs(6);
    let [kept, dropped] = [ttl, ttl / 2].map(|ttl| clerk.lease(ttl).unwrap());
    clerk.put_with("kept", "v", kept.id()).unwrap();
    clerk.put_with("dropped", "v", dropped.id()).unwrap();
    drop(dropped);
    wait_gone(&clerk, "dropped");
    assert!(!kept.wait_lost(ttl + Duration::from_secs(1)), "it is kept alive");
    assert!(kept.is_held());
    assert!(clerk.get("kept").unwrap().is_some());
    kept.revoke().unwrap();
    assert_eq!(clerk.get("kept").unwrap(), None);
    assert!(clerk.leases().unwrap().is_empty());
}

#[test]
fn a_lease_that_is_revoked_by_somebody_else_is_lost() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let lease = clerk.lease(Duration::from_secs(30)).unwrap();
    let (told, hears) = channel();
    lease.when_lost(move || told.send(()).unwrap());
    clerk.revoke_lease(lease.id()).unwrap();
    // The next keep-alive tells, long before nine tenths of its time.
    assert!(lease.wait_lost(Duration::from_secs(20)));
    assert!(!lease.is_held());
    hears.recv_timeout(TEST_TIMEOUT).unwrap();
    let (told, hears) = channel();
    lease.when_lost(move || told.send(()).unwrap());
    hears.try_recv().expect("it is told at once");
    let refused = lease.revoke().unwrap_err();
    assert_eq!(refused.refusal().map(|it| it.reason), Some(Reason::NoSuchLease));
}

/// Nobody can keep it alive, so nobody may rely on it, although it is still there.
#[test]
fn a_lease_without_a_cluster_is_lost_before_it_can_have_ended() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk().with_timeout(Duration::from_secs(1));
    let ttl = Duration::from_secs(2);
    let lease = clerk.lease(ttl).unwrap();
    cluster.kill(MemberId(1));
    let killed = Instant::now();
    // The last moment before an answer that it is not lost: this thread may sleep after it.
    let mut held = killed;
    loop {
        let now = Instant::now();
        if lease.wait_lost(Duration::from_millis(5)) {
            break;
        }
        assert!(now < killed + TEST_TIMEOUT, "it is never lost");
        held = now;
    }
    assert!(held - killed < ttl, "it was held for {:?}", held - killed);
    assert!(!lease.is_held());
    drop(lease);
}

/// The answer comes late. The cluster may count from the first attempt, so the holder must.
#[test]
fn a_lease_counts_from_when_it_was_first_asked_for() {
    let cluster = Cluster::start(1).unwrap();
    cluster.leader().unwrap();
    let relay = Relay::to(cluster.members().addr(MemberId(1)).unwrap().parse().unwrap());
    let clerk = Clerk::builder().members([relay.addr().to_string()]).timeout(TEST_TIMEOUT);
    let clerk = clerk.build().unwrap();
    let ttl = Duration::from_secs(2);
    relay.freeze();
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| clerk.lease(ttl).unwrap());
        let deadline = soon();
        while relay.accepted() == 0 {
            assert!(Instant::now() < deadline, "nobody asks");
            std::thread::yield_now();
        }
        // It passes while the answer is on its way.
        std::thread::sleep(ttl);
        relay.thaw();
        assert!(!asks.join().unwrap().is_held());
    });
}

#[test]
fn a_lease_and_its_keys_outlive_a_restart_of_all_members() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    clerk.grant_lease(Duration::from_secs(600), Some(LeaseId(7))).unwrap();
    clerk.put_with("k", "v", LeaseId(7)).unwrap();
    clerk.put_with("own", "v", NewLease::ttl(Duration::from_secs(600))).unwrap();
    cluster.kill(MemberId(1));
    cluster.restart(MemberId(1)).unwrap();
    let info = clerk.lease_info(LeaseId(7)).unwrap().unwrap();
    assert_eq!((info.ttl(), info.keys), (Duration::from_secs(600), vec!["k".into()]));
    clerk.revoke_lease(LeaseId(7)).unwrap();
    assert_eq!(clerk.get("k").unwrap(), None);
    let stats = clerk.stats().unwrap();
    assert_eq!((stats.leases, stats.keys_with_ttl, stats.keys), (0, 1, 1));
}

/// Nobody can keep a lease alive while no member runs, so that time does not count.
#[test]
fn a_restart_of_all_members_adds_the_time_down() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk().with_timeout(TEST_TIMEOUT);
    let ttl = Duration::from_secs(8);
    let asked = Instant::now();
    let lease = clerk.grant_lease(ttl, None).unwrap();
    clerk.put_with("k", "v", lease.id).unwrap();
    cluster.ids().iter().for_each(|id| cluster.kill(*id));
    let killed = Instant::now();
    until("a lease would have ended", || killed.elapsed() > ttl);
    let down = killed.elapsed();
    cluster.ids().iter().for_each(|id| cluster.restart(*id).unwrap());
    let missed = wait_gone(&clerk, "k");
    let lived = missed - asked;
    assert!(lived >= ttl + down, "it lived for {lived:?}, and nobody did for {down:?}");
    // Ten seconds that the log may not know of, an election, and this machine may be busy.
    assert!(lived < ttl + down + Duration::from_secs(20), "it lived for {lived:?}");
}

#[test]
fn one_thread_keeps_all_leases_alive() {
    alone(|| {
        let cluster = Cluster::start(1).unwrap();
        let clerk = cluster.clerk();
        let keepers = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            let names =
                tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
            // A thread may end meanwhile.
            names.flatten().filter(|name| name.trim_end() == "lease-keeper").count()
        };
        assert_eq!(keepers(), 0);
        let lease = |_| clerk.clone().lease(Duration::from_secs(60)).unwrap();
        let leases: Vec<_> = (0..50).map(lease).collect();
        assert_eq!(keepers(), 1);
        assert!(leases.iter().all(|lease| lease.is_held()));
        drop(leases);
        until("it ends with the last lease", || keepers() == 0);
    });
}

/// Whoever cannot tell would ask again for what may be there already.
#[test]
fn every_error_of_leases_and_locks_says_whether_it_happened() {
    use ClerkErrorKind::{NotApplied, Unknown};
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let lease = clerk.grant_lease(Duration::from_secs(600), None).unwrap().id;
    let clerk = clerk.with_timeout(Duration::from_secs(2));
    let ttl = Duration::from_secs(60);
    let of_lock = |error| match error {
        LockError::Clerk(error) => error.kind(),
        error => panic!("{error:?}"),
    };
    let errors = || {
        [
            clerk.grant_lease(ttl, None).unwrap_err().kind(),
            clerk.lease(ttl).unwrap_err().kind(),
            clerk.keep_alive(&[lease]).unwrap_err().kind(),
            clerk.put_with("k", "v", lease).unwrap_err().kind(),
            of_lock(clerk.lock("l").acquire().unwrap_err()),
            of_lock(clerk.elect("e", "v").acquire().unwrap_err()),
            clerk.revoke_lease(lease).unwrap_err().kind(),
            // Reads.
            clerk.lease_info(lease).unwrap_err().kind(),
            clerk.leases().unwrap_err().kind(),
        ]
    };
    // It takes what is sent, and says nothing.
    cluster.pause(1);
    let expected = [&[Unknown; 7][..], &[NotApplied; 2]].concat();
    assert_eq!(errors()[..], expected);
    cluster.resume(1);
    cluster.kill(1);
    // It finds out that its connection has ended.
    clerk.leases().unwrap_err();
    assert_eq!(errors(), [NotApplied; 9]);
}

#[test]
fn leases_are_listed_and_counted() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    for id in [5, 3, 9] {
        clerk.grant_lease(Duration::from_secs(60), Some(LeaseId(id))).unwrap();
    }
    let ids: Vec<u64> = clerk.leases().unwrap().iter().map(|lease| lease.id.0).collect();
    assert_eq!(ids, [3, 5, 9]);
    clerk.set_limits(LimitsChange { leases_max: Some(3), ..Default::default() }).unwrap();
    let error = clerk.grant_lease(Duration::from_secs(60), None).unwrap_err();
    assert_eq!(error.refusal().map(|it| (it.reason, it.value)), Some((Reason::NoSpace, 3)));
    assert_eq!(error.kind(), ClerkErrorKind::NotApplied);
    assert_eq!(clerk.stats().unwrap().leases, 3);
    let kept = clerk.keep_alive(&[LeaseId(9), LeaseId(4)]).unwrap();
    assert_eq!(kept, [Some(Duration::from_secs(60)), None]);
}

#[test]
fn a_lease_that_makes_no_sense_is_refused_in_words() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    for (ttl, words) in [
        (Duration::ZERO, "0 ms"),
        (Duration::from_secs(9_000_000_001), "9000000001000 ms"),
        (Duration::MAX, "18446744073709551615 ms"),
    ] {
        let error = clerk.grant_lease(ttl, None).unwrap_err();
        let said = syncraft::ErrorChain(&error).to_string();
        assert_eq!(error.kind(), ClerkErrorKind::Rejected);
        assert!(said.contains(words), "{said}");
        let error = clerk.put_with("k", "v", NewLease::ttl(ttl)).unwrap_err();
        assert_eq!(error.kind(), ClerkErrorKind::Rejected, "{error}");
    }
    // As a program says it that does not check.
    let stub = stub(&cluster, 1);
    let bad = |ttl_ms, id| {
        let request = LeaseGrantRequest { identity: None, ttl_ms, id };
        match stub.lease_grant(&request, soon()) {
            Err(CallError::Refused { status, .. }) => (status.code, status.message),
            other => panic!("{other:?}"),
        }
    };
    for (ttl_ms, id, words) in [
        (0, 1, "0 ms"),
        (u64::MAX, 1, "18446744073709551615 ms"),
        (1 << 63, 1, "9223372036854775808 ms"),
        (1, 1 << 63, "lease id 9223372036854775808"),
    ] {
        let (code, said) = bad(ttl_ms, id);
        assert_eq!(code, StatusCode::BadArguments);
        assert!(said.contains(words), "{said}");
    }
    let request = LeaseKeepAliveRequest { ids: vec![1; LEASES_PER_REQUEST_MAX + 1] };
    match stub.lease_keep_alive(&request, soon()) {
        Err(CallError::Refused { status, .. }) => assert_eq!(status.code, StatusCode::BadArguments),
        other => panic!("{other:?}"),
    }
    clerk.grant_lease(Duration::from_secs(60), Some(LeaseId(7))).unwrap();
    let error = clerk.grant_lease(Duration::from_secs(60), Some(LeaseId(7))).unwrap_err();
    assert_eq!(error.refusal().map(|it| (it.reason, it.value)), Some((Reason::LeaseExists, 7)));
    let request = LeaseInfoRequest { id: 8, keys: false, staleness: None };
    match stub.lease_info(&request, soon()).unwrap().result {
        Some(lease_info_reply::Result::Refusal(refusal)) => {
            assert_eq!(refusal.reason, Reason::NoSuchLease.number());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_repeat_of_a_grant_gets_the_first_answer() {
    let cluster = Cluster::start(1).unwrap();
    cluster.leader().unwrap();
    let stub = stub(&cluster, 1);
    let identity = syncraft::kv::model::proto::Identity {
        client_id: "c".into(),
        request_id: 1,
        seen_index: 1,
    };
    let request = LeaseGrantRequest { identity: Some(identity), ttl_ms: 60_000, id: 0 };
    let grant = || loop {
        // The time is not known before the leader's no-op is applied.
        match stub.lease_grant(&request, soon()) {
            Ok(reply) => break reply.result,
            Err(error) if error.is_busy() => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    let first = grant();
    assert!(matches!(first, Some(lease_grant_reply::Result::Lease(_))), "{first:?}");
    assert_eq!(grant(), first);
    assert_eq!(cluster.clerk().leases().unwrap().len(), 1);
}

/// What a lock is made of: a write under a lease that is lost does not happen.
#[test]
fn a_transaction_that_compares_a_key_of_a_lost_lease_changes_nothing() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let lease = clerk.grant_lease(Duration::from_secs(3), None).unwrap();
    clerk.put_with("lock", "me", lease.id).unwrap();
    let token = clerk.get_entry("lock").unwrap().unwrap().mod_revision;
    wait_gone(&clerk, "lock");
    let txn = clerk.txn().when(Compare::mod_revision("lock", token));
    assert!(!txn.then_put("resource", "mine").commit().unwrap().held);
    assert_eq!(clerk.get("resource").unwrap(), None);
}
