//! Locks and elections: one holder at a time, in the order in which they came, whatever happens to
//! members and leases, and nobody writes under a lost lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use syncraft::clerk::lock::LOCK_NAME_LEN_MAX;
use syncraft::clerk::{Clerk, ClerkErrorKind, Guard, LockError};
use syncraft::kv::model::{Action, KeyRange, LeaseId};
use syncraft::raft::MemberId;
use syncraft::testing::Cluster;

use crate::relay::Relay;

const TEST_TIMEOUT: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(5);

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {TEST_TIMEOUT:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn places(cluster: &Cluster, name: &str) -> usize {
    cluster.clerk().scan(KeyRange::prefix(format!("{name}/"))).filter(Result::is_ok).count()
}

#[test]
fn a_lock_has_one_holder_and_is_free_when_its_guard_is_dropped() {
    let cluster = Cluster::start(3).unwrap();
    let (ann, bob) = (cluster.clerk(), cluster.clerk());
    let guard = ann.lock("l").ttl(TTL).acquire().unwrap();
    assert!(guard.is_held());
    assert_eq!(guard.fence(), ann.get_entry(guard.key()).unwrap().unwrap().create_revision);
    for wait in [Duration::ZERO, Duration::from_millis(300)] {
        let began = Instant::now();
        let error = bob.lock("l").wait(wait).acquire().unwrap_err();
        assert!(matches!(error, LockError::Taken { .. }), "{error:?}");
        assert!(began.elapsed() >= wait, "{:?}", began.elapsed());
    }
    assert_eq!(places(&cluster, "l"), 1, "nothing is left of those who went away");
    let first = guard.fence();
    drop(guard);
    let guard = bob.lock("l").wait(Duration::ZERO).acquire().unwrap();
    assert!(guard.fence() > first);
    guard.unlock().unwrap();
    assert_eq!(places(&cluster, "l"), 0);
    assert!(cluster.clerk().leases().unwrap().is_empty());
    // Stopped by the caller.
    let _guard = ann.lock("l").acquire().unwrap();
    let mut asked = 0;
    let stop = || {
        asked += 1;
        asked > 2
    };
    let error = bob.lock("l").wait(TEST_TIMEOUT).give_up_if(stop).acquire().unwrap_err();
    assert!(matches!(error, LockError::Taken { .. }), "{error:?}");
}

/// The name of one lock begins with that of another, and others put keys of their own below it.
#[test]
fn queues_do_not_mix() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    for at in 0..40 {
        clerk.put(format!("a/{at}"), "not a place").unwrap();
    }
    let inner = clerk.lock("a/b").acquire().unwrap();
    let outer = clerk.lock("a").wait(Duration::ZERO).acquire().unwrap();
    assert!(inner.is_held() && outer.is_held());
    let error = clerk.lock("a").wait(Duration::ZERO).acquire().unwrap_err();
    assert!(matches!(error, LockError::Taken { .. }), "{error:?}");
}

/// They name their keys by the ids of their leases, too, but without zeros before them.
#[test]
fn a_lock_that_a_client_of_etcd_has_is_taken() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let lease = clerk.grant_lease(Duration::from_secs(60), Some(LeaseId(0x17c))).unwrap().id;
    clerk.txn().then(Action::put_with("l/17c", "", lease)).commit().unwrap();
    let error = clerk.lock("l").wait(Duration::ZERO).acquire().unwrap_err();
    assert!(matches!(error, LockError::Taken { .. }), "{error:?}");
    // A key that its lease does not name is no place.
    clerk.txn().then(Action::put_with("other/17d", "", lease)).commit().unwrap();
    drop(clerk.lock("other").wait(Duration::ZERO).acquire().unwrap());
    clerk.revoke_lease(lease).unwrap();
    clerk.lock("l").wait(Duration::ZERO).acquire().unwrap().unlock().unwrap();
}

#[test]
fn a_name_over_the_limit_is_refused_in_words() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let error = clerk.lock(vec![b'n'; 64 << 10]).acquire().unwrap_err();
    let words = syncraft::ErrorChain(&error).to_string();
    assert!(words.contains("name of a lock of 65536 bytes is over the limit of 65519"), "{words}");
    let LockError::Clerk(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), ClerkErrorKind::Rejected);
    assert!(clerk.lock(vec![b'n'; LOCK_NAME_LEN_MAX]).acquire().unwrap().is_held());
}

/// Waiters get the lock in the order in which they came. When one is released, only the next one
/// looks: the others' watches tell nothing.
#[test]
fn waiters_have_it_in_turn_and_one_at_a_time() {
    const WAITERS: usize = 20;
    let cluster = Cluster::start(3).unwrap();
    let holder = cluster.clerk().lock("l").acquire().unwrap();
    let holders = Arc::new(AtomicUsize::new(0));
    let (order, turns) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for waiter in 0..WAITERS {
            let (clerk, holders, order) = (cluster.clerk(), Arc::clone(&holders), order.clone());
            scope.spawn(move || {
                let guard = clerk.lock("l").wait(TEST_TIMEOUT).acquire().unwrap();
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock");
                order.send((waiter, guard.fence())).unwrap();
                // Whoever also has it would be seen.
                thread::sleep(Duration::from_millis(5));
                holders.fetch_sub(1, Ordering::SeqCst);
                guard.unlock().unwrap();
            });
            until("it waits in the queue", || places(&cluster, "l") == waiter + 2);
        }
        holder.unlock().unwrap();
    });
    drop(order);
    let turns: Vec<_> = turns.iter().collect();
    assert!(turns.iter().map(|(waiter, _)| *waiter).eq(0..WAITERS), "{turns:?}");
    assert!(turns.is_sorted_by(|a, b| a.1 < b.1), "fences grow: {turns:?}");
}

/// A release wakes one waiter, however many there are: what crosses the network shows it.
#[test]
fn a_release_wakes_one_of_a_thousand_waiters() {
    const WAITERS: usize = 1_000;
    const TURNS: usize = 10;
    // One waiter needs about 300. If all of them woke, each would need as much.
    const BYTES_OF_A_TURN_MAX: usize = 10_000;
    let cluster = Cluster::start(1).unwrap();
    let relay = Relay::to(cluster.members().addr(MemberId(1)).unwrap().parse().unwrap());
    let members = format!("1={}", relay.addr());
    let clerk = Clerk::builder().members(members).timeout(TEST_TIMEOUT).build().unwrap();
    let lock = || clerk.lock("l").ttl(TEST_TIMEOUT).wait(2 * TEST_TIMEOUT);
    let holder = lock().acquire().unwrap();
    let (turns, taken) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..WAITERS {
            let turns = turns.clone();
            let wait = move || turns.send(lock().acquire().unwrap()).unwrap();
            thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, wait).unwrap();
        }
        until("all wait in the queue", || places(&cluster, "l") == WAITERS + 1);
        let api = cluster.api(MemberId(1)).unwrap();
        until("each watches the one before it", || api.open_watches() == WAITERS);
        let before = relay.relayed_bytes();
        holder.unlock().unwrap();
        let mut fence = None;
        for turn in 1..=WAITERS {
            let guard: Guard = taken.recv_timeout(TEST_TIMEOUT).unwrap();
            assert!(fence < Some(guard.fence()), "in the order in which they came");
            fence = Some(guard.fence());
            assert!(taken.try_recv().is_err(), "one at a time");
            guard.unlock().unwrap();
            if turn == TURNS {
                let bytes = (relay.relayed_bytes() - before) / TURNS;
                assert!(bytes < BYTES_OF_A_TURN_MAX, "{bytes} bytes for a turn");
            }
        }
    });
    assert_eq!(places(&cluster, "l"), 0);
}

/// A place that is given up in the middle of the queue moves nobody to the front.
#[test]
fn whoever_leaves_the_queue_hands_on_nothing() {
    let cluster = Cluster::start(1).unwrap();
    let holder = cluster.clerk().lock("l").acquire().unwrap();
    let leave = &AtomicBool::new(false);
    thread::scope(|scope| {
        let (second, third) = (cluster.clerk(), cluster.clerk());
        let leaves = scope.spawn(move || {
            let lock = second.lock("l").wait(TEST_TIMEOUT);
            lock.give_up_if(|| leave.load(Ordering::Acquire)).acquire().unwrap_err()
        });
        until("the second waits", || places(&cluster, "l") == 2);
        let waits = scope.spawn(move || third.lock("l").wait(TEST_TIMEOUT).acquire().unwrap());
        until("the third waits", || places(&cluster, "l") == 3);
        leave.store(true, Ordering::Release);
        assert!(matches!(leaves.join().unwrap(), LockError::Taken { .. }));
        until("the second has left", || places(&cluster, "l") == 2);
        thread::sleep(Duration::from_millis(300));
        assert!(!waits.is_finished(), "the first still holds it");
        holder.unlock().unwrap();
        assert!(waits.join().unwrap().is_held());
    });
}

/// A lease that ends while its owner waits, or holds the lock, takes both away, and is noticed
/// (etcd#11456).
#[test]
fn a_lost_lease_is_a_lost_lock() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    let holder = clerk.lock("l").ttl(TTL).acquire().unwrap();
    let waiter = {
        let clerk = cluster.clerk();
        thread::spawn(move || clerk.lock("l").wait(TEST_TIMEOUT).acquire())
    };
    until("it waits", || clerk.leases().unwrap().len() == 2);
    let of_waiter =
        clerk.leases().unwrap().into_iter().find(|lease| lease.id != holder.lease()).unwrap();
    clerk.revoke_lease(of_waiter.id).unwrap();
    // The holder goes, so that the waiter would be next.
    let revision = clerk.stats().unwrap().revision;
    clerk.revoke_lease(holder.lease()).unwrap();
    let lost = waiter.join().unwrap();
    assert!(matches!(lost, Err(LockError::Lost)), "{lost:?}");
    // And what the former holder still wants to write under the lock does not happen.
    let late = holder.txn().then_put("result", "late").commit().unwrap();
    assert!(!late.held);
    assert_eq!(clerk.get("result").unwrap(), None);
    assert!(clerk.stats().unwrap().revision > revision);
    until("it is told", || !holder.is_held());
    let next = clerk.lock("l").acquire().unwrap();
    assert!(next.txn().then_put("result", "in time").commit().unwrap().held);
    drop(holder);
    assert!(next.is_held() && clerk.get_entry(next.key()).unwrap().is_some());
}

/// Somebody deletes the key of the holder. The next one has the lock, and the holder is told when
/// it asks.
#[test]
fn a_deleted_place_is_a_lost_lock() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let holder = clerk.lock("l").acquire().unwrap();
    assert!(holder.check().unwrap());
    clerk.delete(holder.key()).unwrap();
    clerk.put(holder.key(), "not a place of this guard").unwrap();
    assert!(!holder.check().unwrap());
    assert!(!holder.is_held());
}

/// The cluster is gone for longer than the time to live: the guard notices it in time, and the next
/// one has the lock afterwards.
#[test]
fn a_holder_that_cannot_reach_the_cluster_loses_the_lock() {
    let cluster = Cluster::start(3).unwrap();
    let ttl = Duration::from_secs(2);
    let guard = cluster.clerk().lock("l").ttl(ttl).acquire().unwrap();
    cluster.ids().iter().for_each(|id| cluster.kill(*id));
    let killed = Instant::now();
    // The last moment before an answer that it is held: this thread may sleep after it.
    let mut held = killed;
    until("it is told", || {
        let now = Instant::now();
        let is_held = guard.is_held();
        held = if is_held { now } else { held };
        !is_held
    });
    assert!(held - killed < ttl, "it was held for {:?}", held - killed);
    cluster.ids().iter().for_each(|id| cluster.restart(*id).unwrap());
    cluster.leader().unwrap();
    let next = cluster.clerk().lock("l").wait(TEST_TIMEOUT).acquire().unwrap();
    assert!(next.fence() > guard.fence() && !guard.is_held());
}

/// The cluster is gone for many times the Clerk's timeout, but not for the time to live: whoever
/// has time to wait goes on.
#[test]
fn a_waiter_outlives_calls_that_fail() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    let holder = clerk.lock("l").acquire().unwrap();
    let held = holder.lease();
    let mut asked = 0;
    let stop = || {
        asked += 1;
        match asked {
            // What the waiter does next is to look at the queue, or to begin a watch.
            1 => {
                clerk.revoke_lease(held).unwrap();
                thread::sleep(Duration::from_millis(200));
                cluster.ids().iter().for_each(|id| cluster.kill(*id));
            }
            4 => cluster.ids().iter().for_each(|id| cluster.restart(*id).unwrap()),
            _ => {}
        }
        false
    };
    let waiter = clerk.clone().with_timeout(Duration::from_secs(2));
    let lock = waiter.lock("l").ttl(TEST_TIMEOUT).wait(TEST_TIMEOUT).give_up_if(stop);
    let guard = lock.acquire().unwrap();
    assert!(guard.check().unwrap());
    assert!(asked >= 4, "{asked}");
}

/// Counts with read and write under a lock, which is right only if there is one holder at a time,
/// while leaders die.
#[test]
fn counting_under_a_lock_is_right_while_leaders_die() {
    const CLIENTS: usize = 4;
    const TURNS: usize = 10;
    let cluster = Cluster::start(3).unwrap();
    let count_once = |guard: &Guard, clerk: &Clerk| {
        let count = clerk
            .get("count")
            .ok()?
            .map_or(0, |it| String::from_utf8(it.to_vec()).unwrap().parse::<usize>().unwrap());
        let next = (count + 1).to_string();
        // If its outcome is not known, the count tells later.
        let done = guard.txn().then_put("count", next).commit().ok()?;
        done.held.then_some(count + 1)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let clerk = cluster.clerk();
                scope.spawn(move || {
                    let (mut counted, mut failed) = (Vec::new(), 0);
                    while counted.len() < TURNS {
                        let lock = clerk.lock("l").ttl(TTL).wait(TEST_TIMEOUT);
                        match lock.acquire().ok().and_then(|guard| count_once(&guard, &clerk)) {
                            Some(count) => counted.push(count),
                            None => failed += 1,
                        }
                        assert!(failed < 100, "it never works");
                    }
                    (counted, failed)
                })
            })
            .collect();
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(500));
            let leader = cluster.leader().unwrap();
            cluster.kill(leader);
            cluster.leader().unwrap();
            cluster.restart(leader).unwrap();
        }
        let (mut all, mut failed) = (Vec::new(), 0);
        for client in clients {
            let (counted, failures) = client.join().unwrap();
            all.extend(counted);
            failed += failures;
        }
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count, "a number was counted twice");
        let last = cluster.clerk().get("count").unwrap().unwrap();
        let last: usize = String::from_utf8(last.to_vec()).unwrap().parse().unwrap();
        assert!((count..=count + failed).contains(&last), "{last} of {count}, {failed} unknown");
    });
}

#[test]
fn the_winner_of_an_election_is_announced_and_watched() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    assert_eq!(clerk.leader("primary").unwrap(), None);
    let mut watch = clerk.watch(KeyRange::key("primary")).start().unwrap();
    let first = clerk.elect("primary", "ann").ttl(TTL).acquire().unwrap();
    let second = {
        let clerk = cluster.clerk();
        thread::spawn(move || clerk.elect("primary", "bob").wait(TEST_TIMEOUT).acquire().unwrap())
    };
    until("it stands", || places(&cluster, "primary") == 2);
    assert_eq!(&clerk.leader("primary").unwrap().unwrap().value[..], b"ann");
    first.unlock().unwrap();
    let second = second.join().unwrap();
    assert_eq!(&clerk.leader("primary").unwrap().unwrap().value[..], b"bob");
    second.unlock().unwrap();
    let mut told = || {
        let changes = watch.next_timeout(TEST_TIMEOUT).unwrap().unwrap();
        changes.changes.iter().map(|it| it.value().map(|it| it.to_vec())).collect::<Vec<_>>()
    };
    let expected = [Some(b"ann".to_vec()), None, Some(b"bob".to_vec()), None];
    assert_eq!((0..4).flat_map(|_| told()).collect::<Vec<_>>(), expected);
    assert_eq!(clerk.leader("primary").unwrap(), None);
}
