//! What a cluster promises, tested through the public API on real members inside this process.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use syncraft::clerk::{Clerk, ClerkErrorKind};
use syncraft::kv::{KEY_LEN_MAX, VALUE_LEN_MAX};
use syncraft::raft::MemberId;
use syncraft::testing::Cluster;

fn start(size: usize) -> Cluster {
    Cluster::start(size).expect("the cluster starts")
}

/// A clerk that knows one member only, and must find the leader from there.
fn clerk_of(cluster: &Cluster, id: MemberId) -> Clerk {
    let members = cluster.members();
    let addr = members.addr(id).expect("a member of the cluster");
    Clerk::builder().members(addr).timeout(Duration::from_secs(10)).build().expect("an address")
}

fn value(clerk: &Clerk, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    clerk.get(key).expect("a read that is answered").map(|value| value.to_vec())
}

/// Checks that each writer, who wrote "W:N,", has its numbers 0, 1, 2, ... in the value, each once
/// and in order.
fn check_appends(value: &[u8], writers: usize, acknowledged: &[usize]) {
    let text = std::str::from_utf8(value).expect("appends are text");
    for (writer, &acked) in (0..writers).zip(acknowledged) {
        let prefix = format!("{writer}:");
        let mut numbers = text.split_terminator(',').filter_map(|part| part.strip_prefix(&prefix));
        let numbers: Vec<usize> = numbers.by_ref().map(|n| n.parse().expect("a number")).collect();
        assert_eq!(
            numbers,
            (0..numbers.len()).collect::<Vec<_>>(),
            "writer {writer}: lost, doubled or out of order"
        );
        assert_eq!(
            numbers.len(),
            acked,
            "writer {writer}: every acknowledged append is there, and no other"
        );
    }
}

#[test]
fn what_one_member_takes_another_gives() {
    let cluster = start(3);
    clerk_of(&cluster, MemberId(1)).put("k", "v").unwrap();
    for id in cluster.ids() {
        assert_eq!(
            value(&clerk_of(&cluster, id), "k").as_deref(),
            Some(&b"v"[..]),
            "through member {id}"
        );
    }
}

#[test]
fn one_member_is_a_cluster() {
    let cluster = start(1);
    let clerk = cluster.clerk();
    clerk.put("k", "1").unwrap();
    cluster.kill(1);
    cluster.restart(1).unwrap();
    clerk.append("k", "2").unwrap();
    assert_eq!(value(&clerk, "k").as_deref(), Some(&b"12"[..]));
}

#[test]
fn an_absent_key_is_not_an_empty_value() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    assert_eq!(value(&clerk, "k"), None);
    clerk.put("k", "").unwrap();
    assert_eq!(value(&clerk, "k"), Some(Vec::new()));
    clerk.append("created", "by append").unwrap();
    assert_eq!(value(&clerk, "created").as_deref(), Some(&b"by append"[..]));
}

#[test]
fn any_bytes_are_a_key_and_a_value() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    let all_bytes: Vec<u8> = (0..=255).collect();
    clerk.put(&all_bytes, &all_bytes).unwrap();
    assert_eq!(value(&clerk, &all_bytes), Some(all_bytes));
    clerk.put("", "the empty key").unwrap();
    assert_eq!(value(&clerk, "").as_deref(), Some(&b"the empty key"[..]));
}

/// The longest value allowed and one byte more, and lengths around the 1,024 bytes that existing
/// clients read at once.
#[test]
fn a_value_of_any_length_comes_back_and_a_longer_one_is_refused() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    for len in [0, 1, 1023, 1024, 1025, 65_535, 65_536, VALUE_LEN_MAX] {
        let bytes: Vec<u8> =
            (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        clerk.put("k", &bytes).unwrap();
        assert!(value(&clerk, "k").as_deref() == Some(&bytes[..]), "{len} bytes");
    }
    let longer = clerk.append("k", "x").expect_err("it is as long as may be");
    assert_eq!(longer.kind(), ClerkErrorKind::Rejected);
    let longer = clerk.put("k", vec![0; VALUE_LEN_MAX + 1]).expect_err("longer than may be");
    assert_eq!(longer.kind(), ClerkErrorKind::Rejected);
    let key = vec![b'k'; KEY_LEN_MAX];
    clerk.put(&key, "v").unwrap();
    assert_eq!(value(&clerk, &key).as_deref(), Some(&b"v"[..]));
    let longer = clerk.get([&key[..], b"k"].concat()).expect_err("longer than may be");
    assert_eq!(longer.kind(), ClerkErrorKind::Rejected);
    assert_eq!(value(&clerk, "k").unwrap().len(), VALUE_LEN_MAX);
}

#[test]
fn a_value_of_ten_mebibytes_survives_the_leader() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    let big: Vec<u8> =
        (0..10 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    clerk.put("big", &big).unwrap();
    cluster.kill(cluster.leader().unwrap());
    assert!(value(&clerk, "big").as_deref() == Some(&big[..]), "10 MiB come back as they went");
}

#[test]
fn a_killed_leader_loses_no_append_and_doubles_none() {
    const WRITERS: usize = 4;
    const APPENDS: usize = 150;
    let cluster = start(3);
    let acknowledged: Vec<usize> = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let clerk = cluster.clerk();
                scope.spawn(move || {
                    for n in 0..APPENDS {
                        clerk
                            .append("log", format!("{writer}:{n},"))
                            .expect("an append that is answered");
                    }
                    APPENDS
                })
            })
            .collect();
        for _ in 0..3 {
            let leader = cluster.leader().unwrap();
            cluster.kill(leader);
            cluster.leader().expect("the two others elect one");
            cluster.restart(leader).unwrap();
        }
        writers.into_iter().map(|writer| writer.join().expect("no writer fails")).collect()
    });
    let value = value(&cluster.clerk(), "log").expect("the key is there");
    check_appends(&value, WRITERS, &acknowledged);
}

#[test]
fn all_killed_at_once_keep_everything() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    for n in 0..50 {
        clerk.put(format!("k{n}"), format!("v{n}")).unwrap();
        clerk.append("log", format!("0:{n},")).unwrap();
    }
    thread::scope(|scope| {
        for id in cluster.ids() {
            scope.spawn({
                let cluster = &cluster;
                move || cluster.kill(id)
            });
        }
    });
    // In another order than at their first start.
    for id in [3, 1, 2] {
        cluster.restart(id).unwrap();
    }
    for n in 0..50 {
        assert_eq!(value(&clerk, format!("k{n}")), Some(format!("v{n}").into_bytes()));
    }
    check_appends(&value(&clerk, "log").unwrap(), 1, &[50]);
}

#[test]
fn a_member_that_was_away_catches_up() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    let leader = cluster.leader().unwrap();
    let away = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    cluster.kill(away);
    for n in 0..200 {
        clerk.put(format!("k{n}"), vec![b'x'; 10_000]).unwrap();
    }
    cluster.restart(away).unwrap();
    // The member that was away is needed for a majority now, so it must hold everything.
    let other = cluster.ids().into_iter().find(|&id| id != leader && id != away).unwrap();
    cluster.kill(other);
    clerk.put("last", "1").unwrap();
    for n in 0..200 {
        assert_eq!(value(&clerk, format!("k{n}")).map(|value| value.len()), Some(10_000));
    }
}

#[test]
fn two_hundred_clients_at_once() {
    let cluster = start(3);
    thread::scope(|scope| {
        for client in 0..200 {
            let clerk = cluster.clerk();
            scope.spawn(move || {
                for n in 0..5 {
                    clerk.put(format!("{client}"), format!("{n}")).expect("a put that is answered");
                    assert_eq!(
                        value(&clerk, format!("{client}")),
                        Some(format!("{n}").into_bytes())
                    );
                }
            });
        }
    });
}

#[test]
fn clones_of_a_clerk_write_side_by_side() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    thread::scope(|scope| {
        for writer in 0..8 {
            let clerk = clerk.clone();
            scope.spawn(move || {
                (0..20).for_each(|n| clerk.append("log", format!("{writer}:{n},")).unwrap())
            });
        }
    });
    check_appends(&value(&clerk, "log").unwrap(), 8, &[20; 8]);
}

#[test]
fn without_a_majority_every_call_ends_and_says_what_happened() {
    let cluster = start(3);
    let leader = cluster.leader().unwrap();
    for id in cluster.ids().into_iter().filter(|&id| id != leader) {
        cluster.kill(id);
    }
    let timeout = Duration::from_millis(1500);
    let clerk = Clerk::builder().members(cluster.members()).timeout(timeout).build().unwrap();
    let begin = Instant::now();
    let write = clerk.put("k", "v").expect_err("nothing can be committed");
    let read = clerk.get("k").expect_err("nobody can know what is committed");
    // This does not test speed, but that calls end: ten times the timeout is a hang.
    assert!(begin.elapsed() < 20 * timeout, "calls end at their deadline");
    assert_ne!(write.kind(), ClerkErrorKind::Rejected);
    assert_eq!(read.kind(), ClerkErrorKind::NotApplied, "a read changes nothing");

    for id in cluster.ids() {
        cluster.restart(id).unwrap();
    }
    let after = value(&cluster.clerk(), "k");
    let allowed: BTreeSet<Option<Vec<u8>>> = match write.kind() == ClerkErrorKind::Unknown {
        true => [None, Some(b"v".to_vec())].into(),
        false => [None].into(),
    };
    assert!(allowed.contains(&after), "the error said {write}, and the value is {after:?}");
}

#[test]
fn clusters_do_not_see_each_other() {
    let (one, two) = (start(3), start(3));
    one.clerk().put("k", "one").unwrap();
    two.clerk().put("k", "two").unwrap();
    assert_eq!(value(&one.clerk(), "k").as_deref(), Some(&b"one"[..]));
}

#[test]
fn a_dropped_cluster_leaves_nothing_behind() {
    let cluster = start(3);
    let (dir, addr) =
        (cluster.data_dir(1), cluster.members().addr(MemberId(1)).unwrap().to_owned());
    drop(cluster);
    assert!(!dir.exists());
    assert!(std::net::TcpStream::connect(addr).is_err());
}

/// The leader, which has not changed, fills its log again, though nobody writes.
#[test]
fn a_follower_whose_data_was_removed_is_filled_again() {
    let cluster = Cluster::start(3).unwrap();
    let clerk = cluster.clerk();
    (0..20).for_each(|i| clerk.put(format!("k{i}"), "v").unwrap());
    let leader = cluster.leader().unwrap();
    let follower = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    let wait = || {
        let deadline = Instant::now() + Duration::from_secs(30);
        let durable = |id| cluster.status(id).unwrap().durable_index;
        while durable(follower) < durable(leader) {
            let statuses = (cluster.status(leader), cluster.status(follower));
            assert!(Instant::now() < deadline, "{statuses:?}");
            thread::sleep(Duration::from_millis(5));
        }
    };
    wait();
    cluster.kill(follower);
    std::fs::remove_dir_all(cluster.data_dir(follower)).unwrap();
    cluster.restart(follower).unwrap();
    wait();
}
