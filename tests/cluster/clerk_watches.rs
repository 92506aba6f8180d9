//! Watches of a Clerk: no change is lost or comes twice, whatever happens to the members.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use syncraft::clerk::{Clerk, ClerkErrorKind, Watch, WatchError};
use syncraft::kv::model::{Action, Change, Changes, KeyRange, Reason, Revision, Txn};
use syncraft::raft::MemberId;
use syncraft::testing::Cluster;

use crate::nodes::until;

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

#[track_caller]
fn next(watch: &mut Watch) -> Changes {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        match watch.next_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(changes) => return changes.expect("a change in time"),
            // The cluster may be without a leader for longer than a call lasts.
            Err(error) => assert!(!error.is_final() && Instant::now() < deadline, "{error}"),
        }
    }
}

fn keys(changes: &Changes) -> Vec<String> {
    let key = |change: &Change| String::from_utf8(change.key().to_vec()).unwrap();
    changes.changes.iter().map(key).collect()
}

fn put(clerk: &Clerk, entries: &[(String, Vec<u8>)]) -> Revision {
    let put = |(key, value): &(String, Vec<u8>)| Action::put(key.clone(), value.clone()).into();
    let txn = Txn { then: entries.iter().map(put).collect(), ..Txn::default() };
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        match clerk.run(&txn) {
            Ok(done) => return done.revision,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

/// Every member in turn is killed, paused, or cut off from the others, so that each watch loses its
/// member several times.
#[test]
fn watches_miss_nothing_and_repeat_nothing_while_members_fail() {
    let cluster = Cluster::start(3).unwrap();
    let first = cluster.clerk().stats().unwrap().revision.next();
    let (is_over, pairs_put) = (AtomicBool::new(false), AtomicUsize::new(0));
    let pair =
        |at: usize| [(format!("w/a/{at}"), vec![1; 100]), (format!("w/b/{at}"), vec![2; 100])];
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let clerk = cluster.clerk();
            let mut at = 0;
            while !is_over.load(Ordering::Relaxed) {
                put(&clerk, &pair(at));
                put(&clerk, &[("other".to_owned(), vec![0; 10])]);
                at += 1;
                pairs_put.store(at, Ordering::Relaxed);
            }
            let last = put(&clerk, &[("w/last".to_owned(), Vec::new())]);
            (at, last)
        });
        let watchers: Vec<_> = (0..6)
            .map(|_| {
                let clerk = cluster.clerk();
                scope.spawn(move || {
                    let mut watch =
                        clerk.watch(KeyRange::prefix("w/")).from(first).start().unwrap();
                    let mut found = Vec::new();
                    loop {
                        let changes = next(&mut watch);
                        assert!(watch.revision() >= changes.revision);
                        let is_last = keys(&changes) == ["w/last"];
                        found.push(changes);
                        if is_last {
                            return found;
                        }
                    }
                })
            })
            .collect();
        let writes_go_on = || {
            let before = pairs_put.load(Ordering::Relaxed);
            until("pairs are put", || pairs_put.load(Ordering::Relaxed) >= before + 3);
        };
        for _ in 0..2 {
            for id in cluster.ids() {
                let others: Vec<_> = cluster.ids().into_iter().filter(|it| *it != id).collect();
                cluster.kill(id);
                writes_go_on();
                cluster.restart(id).unwrap();
                writes_go_on();
                cluster.partition(&[id], &others);
                until("it ends its watches", || {
                    let knows_a_leader = cluster.status(id).unwrap().role.leader.is_some();
                    !knows_a_leader && cluster.api(id).unwrap().open_watches() == 0
                });
                writes_go_on();
                cluster.heal();
                writes_go_on();
            }
        }
        is_over.store(true, Ordering::Relaxed);
        let (pairs, last) = writer.join().unwrap();
        assert!(pairs > 20, "{pairs}");
        for watcher in watchers {
            let found = watcher.join().unwrap();
            assert!(found.is_sorted_by(|a, b| a.revision < b.revision), "in order, each once");
            assert_eq!(found.last().map(|it| it.revision), Some(last));
            // A pair whose answer was unknown may have been put twice: that is two revisions.
            let mut expected = 0;
            for changes in &found[..found.len() - 1] {
                let of = |at: usize| vec![format!("w/a/{at}"), format!("w/b/{at}")];
                let at = match keys(changes) == of(expected) {
                    true => expected,
                    false => expected - 1,
                };
                assert_eq!(keys(changes), of(at), "both keys of a pair together");
                assert!(changes.changes.iter().all(|it| it.revision() == changes.revision));
                expected = at + 1;
            }
            assert_eq!(expected, pairs);
        }
    });
}

#[test]
fn whatever_is_acknowledged_after_the_start_is_seen_by_whichever_member_serves() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    for at in 0..30 {
        let mut watch = clerk.watch(KeyRange::key("k")).start().unwrap();
        clerk.put("k", at.to_string()).unwrap();
        let changes = next(&mut watch);
        assert_eq!(changes.changes[0].value().map(|it| &it[..]), Some(at.to_string().as_bytes()));
    }
}

#[test]
fn filters_previous_entries_and_deletions() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let range = || clerk.watch(KeyRange::prefix("k/"));
    let mut all = range().previous().start().unwrap();
    let mut puts = range().puts_only().start().unwrap();
    let mut deletes = range().deletes_only().start().unwrap();
    clerk.put("k/1", "one").unwrap();
    clerk.put("j", "not watched").unwrap();
    clerk.put("k/1", "two").unwrap();
    clerk.delete("k/1").unwrap();
    let value = |change: &Change| change.value().map(|it| it.to_vec());
    let before = |change: &Change| change.previous().map(|it| it.value.to_vec());
    let told: Vec<_> = (0..3).map(|_| next(&mut all).changes.remove(0)).collect();
    let expected = [Some(b"one".to_vec()), Some(b"two".to_vec()), None];
    assert_eq!(told.iter().map(value).collect::<Vec<_>>(), expected);
    let expected = [None, Some(b"one".to_vec()), Some(b"two".to_vec())];
    assert_eq!(told.iter().map(before).collect::<Vec<_>>(), expected);
    assert_eq!(told[2].revision(), clerk.stats().unwrap().revision);
    let told: Vec<_> = (0..2).map(|_| next(&mut puts).changes.remove(0)).collect();
    assert!(told.iter().all(|it| it.value().is_some() && it.previous().is_none()));
    assert_eq!(next(&mut deletes).changes[0].value(), None);
    assert_eq!(deletes.next_timeout(Duration::from_millis(50)).unwrap(), None);
}

/// Far more than one message, in one revision: the changes come together.
#[test]
fn a_large_revision_comes_whole() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let mut watch = clerk.watch(KeyRange::prefix("large/")).previous().start().unwrap();
    let entries: Vec<_> =
        (0..5_000).map(|at| (format!("large/{at:05}"), vec![b'x'; 1000])).collect();
    let put = put(&clerk, &entries);
    assert_eq!(clerk.delete_range(KeyRange::prefix("large/")).unwrap(), 5_000);
    for revision in [put, put.next()] {
        let changes = next(&mut watch);
        assert_eq!((changes.revision, changes.changes.len()), (revision, 5_000));
        assert!(changes.changes.is_sorted_by(|a, b| a.key() < b.key()));
        let before = changes.changes.iter().filter_map(Change::previous).count();
        assert_eq!(before, if revision == put { 0 } else { 5_000 });
    }
}

#[test]
fn a_watch_of_the_forgotten_past_says_where_it_can_begin() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    for at in 0..10 {
        clerk.put("k", at.to_string()).unwrap();
    }
    let now = clerk.stats().unwrap().revision;
    clerk.compact(now).unwrap();
    let past = |revision| clerk.watch(KeyRange::key("k")).from(revision);
    let error =
        past(Revision(2)).start().and_then(|mut it| it.next_timeout(TEST_TIMEOUT)).unwrap_err();
    let WatchError::Compacted { wanted, oldest } = error else { panic!("{error:?}") };
    assert_eq!(wanted, Revision(2));
    let mut watch = past(oldest).start().unwrap();
    clerk.put("k", "last").unwrap();
    let mut told = next(&mut watch);
    while told.revision == now {
        told = next(&mut watch);
    }
    assert_eq!(told.revision, now.next());
}

/// A watch from a revision to come sees nothing before it.
#[test]
fn a_watch_of_the_future_waits_for_it() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    let now = clerk.stats().unwrap().revision;
    let mut watch = match clerk.watch(KeyRange::key("k")).from(Revision(now.0 + 3)).start() {
        Ok(watch) => watch,
        Err(WatchError::Refused(refusal)) if refusal.reason == Reason::InTheFuture => return,
        Err(error) => panic!("{error:?}"),
    };
    for at in 0..4 {
        clerk.put("k", at.to_string()).unwrap();
    }
    assert_eq!(next(&mut watch).revision, Revision(now.0 + 3));
    assert_eq!(next(&mut watch).revision, Revision(now.0 + 4));
}

#[test]
fn without_a_majority_a_watch_says_so_and_goes_on_later() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk().with_timeout(Duration::from_secs(2));
    let mut watch = clerk.watch(KeyRange::key("k")).start().unwrap();
    let leader = cluster.leader().unwrap();
    let others: Vec<MemberId> = cluster.ids().into_iter().filter(|it| *it != leader).collect();
    others.iter().for_each(|id| cluster.kill(*id));
    let began = Instant::now();
    let error = watch.next_timeout(TEST_TIMEOUT).unwrap_err();
    assert!(!error.is_final() && began.elapsed() < TEST_TIMEOUT / 2, "{error}");
    let error = clerk.watch(KeyRange::key("k")).start().unwrap_err();
    let WatchError::NotServed(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), ClerkErrorKind::NotApplied);
    others.iter().for_each(|id| cluster.restart(*id).unwrap());
    cluster.leader().unwrap();
    cluster.clerk().put("k", "v").unwrap();
    assert_eq!(keys(&next(&mut watch)), ["k"]);
}

#[test]
fn a_watch_goes_on_where_it_was_after_a_restart_of_all_members() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    let mut watch = clerk.watch(KeyRange::prefix("w/")).start().unwrap();
    let put_in_round = |round: usize| -> Vec<String> {
        let keys = (0..4).map(|n| format!("w/{round}/{n}")).collect();
        for key in &keys {
            put(&clerk, &[(String::clone(key), Vec::new())]);
        }
        keys
    };
    // Before the members end, it has been told of all changes, of some, and of none.
    for (round, told) in [4, 2, 0].into_iter().enumerate() {
        let expected = put_in_round(round);
        let mut found: Vec<_> = (0..told).flat_map(|_| keys(&next(&mut watch))).collect();
        cluster.ids().iter().for_each(|id| cluster.kill(*id));
        cluster.ids().iter().for_each(|id| cluster.restart(*id).unwrap());
        found.extend((told..4).flat_map(|_| keys(&next(&mut watch))));
        assert_eq!(found, expected);
    }
}

/// Its member is paused and says nothing, though its connections stay open.
#[test]
fn a_watch_leaves_a_member_that_is_paused() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    let watches: Vec<_> =
        (0..6).map(|_| clerk.watch(KeyRange::key("k")).start().unwrap()).collect();
    let leader = cluster.leader().unwrap();
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    cluster.pause(follower);
    clerk.put("k", "v").unwrap();
    let began = Instant::now();
    thread::scope(|scope| {
        for mut watch in watches {
            scope.spawn(move || assert_eq!(keys(&next(&mut watch)), ["k"]));
        }
    });
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
