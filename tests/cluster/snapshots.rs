//! Snapshots, seen from outside: the log has a bound, restarts are complete, and a member that was
//! away for long gets the state instead of the entries.

use std::cell::RefCell;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use syncraft::clerk::Clerk;
use syncraft::raft::{Index, MemberId};
use syncraft::testing::{Cluster, Options};

/// Takes a snapshot every 64 KiB of log.
fn start(size: usize) -> Cluster {
    let mut options = Options::default();
    options.snapshot_log_bytes = 64 << 10;
    Cluster::start_with(size, options).expect("the cluster starts")
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within half a minute");
        thread::yield_now();
    }
}

fn write(clerk: &Clerk, from: usize, to: usize) {
    for n in from..to {
        clerk.put(format!("k{}", n % 50), format!("{n}:{}", "x".repeat(1000))).unwrap();
        clerk.append("log", format!("{n},")).unwrap();
    }
}

fn check(clerk: &Clerk, to: usize) {
    let log: String = (0..to).map(|n| format!("{n},")).collect();
    assert_eq!(clerk.get("log").unwrap().as_deref(), Some(log.as_bytes()));
    for n in to - 50..to {
        let value = clerk.get(format!("k{}", n % 50)).unwrap().unwrap();
        assert!(value.starts_with(format!("{n}:").as_bytes()));
    }
}

fn snapshot_index(cluster: &Cluster, id: MemberId) -> Index {
    cluster.status(id).map_or(Index::ZERO, |status| status.snapshot_index)
}

#[test]
fn all_restart_from_their_snapshots() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    write(&clerk, 0, 300);
    for id in cluster.ids() {
        wait_for("a snapshot", || snapshot_index(&cluster, id) > Index(100));
    }
    for round in 0..3 {
        for id in cluster.ids() {
            cluster.kill(id);
        }
        for id in cluster.ids() {
            cluster.restart(id).unwrap();
            assert!(snapshot_index(&cluster, id) > Index(100), "round {round}");
        }
        check(&clerk, 300 + 50 * round);
        write(&clerk, 300 + 50 * round, 350 + 50 * round);
    }
}

#[test]
fn one_member_restarts_from_its_snapshot() {
    let cluster = start(1);
    let clerk = cluster.clerk();
    write(&clerk, 0, 200);
    wait_for("a snapshot", || snapshot_index(&cluster, MemberId(1)) > Index(100));
    cluster.stop(1);
    cluster.restart(1).unwrap();
    check(&clerk, 200);
}

/// While a snapshot is written, and until the log has been told of it, another one must not seem
/// due.
#[test]
fn each_snapshot_is_taken_once() {
    const LOG_BYTES: usize = 256 << 10;
    const VALUE_LEN: usize = 1 << 10;
    let mut options = Options::default();
    options.snapshot_log_bytes = LOG_BYTES as u64;
    let cluster = Cluster::start_with(1, options).expect("the cluster starts");
    let is_over = AtomicBool::new(false);
    let taken = thread::scope(|scope| {
        for thread in 0..4 {
            let (clerk, is_over) = (cluster.clerk(), &is_over);
            scope.spawn(move || {
                for n in (0..).take_while(|_| !is_over.load(Ordering::Relaxed)) {
                    clerk.put(format!("{thread}/{}", n % 200), vec![b'x'; VALUE_LEN]).unwrap();
                }
            });
        }
        let mut taken = vec![Index::ZERO];
        wait_for("five snapshots", || {
            let index = snapshot_index(&cluster, MemberId(1));
            if taken.last() != Some(&index) {
                taken.push(index);
            }
            taken.len() > 5
        });
        is_over.store(true, Ordering::Relaxed);
        taken
    });
    let apart_min = taken.windows(2).map(|two| two[1].0 - two[0].0).min();
    // The log begins anew at the start of a segment, so there may be a little less between two.
    assert!(apart_min > Some((LOG_BYTES / VALUE_LEN / 2) as u64), "{taken:?}");
}

#[test]
fn the_log_on_disk_stays_bounded() {
    let cluster = start(1);
    let clerk = cluster.clerk();
    // Ten times the first segment's content, over the same few keys.
    for n in 0..700 {
        clerk.put(format!("k{}", n % 5), vec![b'x'; 16 << 10]).unwrap();
    }
    let wal_bytes = || -> u64 {
        let wal = fs::read_dir(cluster.data_dir(1).join("wal")).unwrap();
        let segments = wal
            .filter_map(Result::ok)
            .filter(|file| file.path().extension().is_some_and(|it| it == "wal"));
        segments.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    };
    wait_for("segments that are not needed are given back", || wal_bytes() < 9 << 20);
}

/// The entries that it lacks are gone everywhere.
#[test]
fn a_member_that_was_away_for_long_is_sent_the_state() {
    let mut options = Options::default();
    options.snapshot_log_bytes = 64 << 10;
    let cluster = Cluster::start_with(3, options).unwrap();
    let clerk = cluster.clerk();
    write(&clerk, 0, 60);
    let leader = cluster.leader().unwrap();
    let away = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    let other = cluster.ids().into_iter().find(|&id| id != leader && id != away).unwrap();
    cluster.kill(away);
    let had = {
        write(&clerk, 60, 700);
        for id in [leader, other] {
            wait_for("a snapshot", || snapshot_index(&cluster, id) > Index(500));
        }
        // In memory the leader keeps a tail of entries. After a restart it has only the entries
        // after the snapshot.
        for id in [leader, other] {
            cluster.kill(id);
        }
        for id in [leader, other] {
            cluster.restart(id).unwrap();
        }
        cluster.leader().unwrap();
        cluster.status(leader).unwrap().snapshot_index
    };
    cluster.restart(away).unwrap();
    wait_for("the snapshot", || snapshot_index(&cluster, away) >= Index(500));
    assert!(had >= Index(500));
    // It counts for a majority now.
    cluster.kill(other);
    check(&clerk, 700);
    write(&clerk, 700, 750);
    check(&clerk, 750);
    // And the received snapshot survives a restart.
    cluster.kill(away);
    cluster.restart(away).unwrap();
    check(&clerk, 750);
}

/// Memory keeps a tail of the log, however long the log on the disk is. Who needs more is sent a
/// snapshot, and the leader takes one for it.
#[test]
fn a_member_that_lacks_more_than_a_tail_is_sent_a_snapshot_taken_for_it() {
    let mut options = Options::default();
    options.snapshot_log_bytes = 1 << 40;
    let cluster = Cluster::start_with(3, options).unwrap();
    let clerk = cluster.clerk();
    let leader = cluster.leader().unwrap();
    let away = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    cluster.kill(away);
    let value = |n: u8| vec![n; 1 << 20];
    for n in 0..40 {
        clerk.put([n], value(n)).unwrap();
    }
    assert_eq!(snapshot_index(&cluster, leader), Index::ZERO, "there was no reason to take one");
    cluster.restart(away).unwrap();
    wait_for("the state", || snapshot_index(&cluster, away) > Index(40));
    let other = cluster.ids().into_iter().find(|&id| id != leader && id != away).unwrap();
    cluster.kill(other);
    for n in 0..40 {
        assert!(clerk.get([n]).unwrap().as_deref() == Some(&value(n)[..]), "value {n}");
    }
}

/// Chunk by chunk, while the others go on writing.
#[test]
fn a_large_state_is_sent_under_load() {
    let mut options = Options::default();
    options.snapshot_log_bytes = 4 << 20;
    let cluster = Cluster::start_with(3, options).unwrap();
    let clerk = cluster.clerk();
    let leader = cluster.leader().unwrap();
    let away = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    cluster.kill(away);
    let value = |n: u8| vec![n; 1 << 20];
    for n in 0..40 {
        clerk.put([n], value(n)).unwrap();
    }
    wait_for("a snapshot", || snapshot_index(&cluster, leader) > Index(20));
    cluster.restart(away).unwrap();
    let log = RefCell::new(String::new());
    wait_for("the state", || {
        clerk.append("log", "more,").unwrap();
        log.borrow_mut().push_str("more,");
        snapshot_index(&cluster, away) > Index(20)
    });
    let other = cluster.ids().into_iter().find(|&id| id != leader && id != away).unwrap();
    cluster.kill(other);
    for n in 0..40 {
        assert!(clerk.get([n]).unwrap().as_deref() == Some(&value(n)[..]), "value {n}");
    }
    assert_eq!(clerk.get("log").unwrap().as_deref(), Some(log.borrow().as_bytes()));
}

#[test]
fn at_most_once_holds_across_snapshots_and_restarts() {
    use prost::Message as _;
    use syncraft::kv::proto::{KvServerRpcStub, PutAppendArgs};
    use syncraft::rpc::Channel;

    let cluster = start(1);
    let addr = cluster.members().addr(MemberId(1)).unwrap().to_owned();
    let append = PutAppendArgs {
        key: "log".into(),
        value: "once".into(),
        op: "Append".into(),
        client_id: "client".into(),
        request_id: 1,
        seen_index: 0,
    };
    let send = || {
        let stub = KvServerRpcStub::new(Channel::builder(&addr).lazy());
        let deadline = Instant::now() + Duration::from_secs(20);
        stub.put_append(&append, deadline).unwrap().encode_to_vec()
    };
    let first = send();
    let clerk = cluster.clerk();
    (0..100).for_each(|n| clerk.put(format!("{n}"), vec![b'x'; 2000]).unwrap());
    wait_for("a snapshot", || snapshot_index(&cluster, MemberId(1)) > Index(10));
    cluster.kill(1);
    cluster.restart(1).unwrap();
    assert_eq!(clerk.get("log").unwrap().as_deref(), Some(&b"once"[..]));
    assert_eq!(send(), first, "a repeat gets the first answer");
    assert_eq!(clerk.get("log").unwrap().as_deref(), Some(&b"once"[..]));
}
