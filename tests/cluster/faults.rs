//! Faults of members and of the network between them: each fault does what it says, and the cluster
//! keeps its promises through it.

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use syncraft::clerk::{Clerk, ClerkErrorKind};
use syncraft::kv::proto::{GetArgs, KvServerRpcStub, PutAppendArgs};
use syncraft::raft::{MemberId, RoleName, Status};
use syncraft::rpc::Channel;
use syncraft::server::StartError;
use syncraft::testing::{Cluster, ClusterError, History, Options};

use crate::nodes::{TEST_TIMEOUT, until};

/// How long to wait for something that must fail: several election timeouts.
const IN_VAIN: Duration = Duration::from_millis(1500);

fn start(size: usize) -> Cluster {
    Cluster::start(size).expect("the cluster starts")
}

/// Options for three members, whose clerks do not wait for long.
fn start_with_short_timeouts() -> Cluster {
    let mut options = Options::default();
    options.timeout = IN_VAIN;
    Cluster::start_with(3, options).expect("the cluster starts")
}

/// For tests of who keeps the leadership: a busy machine must not cost a leader its leadership. The
/// longest election timeout is half as long again as the shortest one.
fn start_calm(size: usize, election_min: Duration) -> Cluster {
    let mut options = Options::default();
    options.timing.election_min = election_min;
    options.timing.election_max = election_min * 3 / 2;
    Cluster::start_with(size, options).expect("the cluster starts")
}

/// The other members, in order.
fn others(cluster: &Cluster, id: MemberId) -> Vec<MemberId> {
    cluster.ids().into_iter().filter(|&other| other != id).collect()
}

fn clerk_with(cluster: &Cluster, timeout: Duration) -> Clerk {
    Clerk::builder().members(cluster.members()).timeout(timeout).build().unwrap()
}

/// A Clerk of one member that does not wait for long.
fn clerk_with_short_timeout_of(cluster: &Cluster, id: MemberId) -> Clerk {
    let members = cluster.members();
    let addr = members.addr(id).unwrap();
    Clerk::builder().members(addr).timeout(IN_VAIN).build().unwrap()
}

fn value(clerk: &Clerk, key: &str) -> Option<String> {
    let value = clerk.get(key).expect("a read that is answered");
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn status(cluster: &Cluster, id: MemberId) -> Status {
    cluster.status(id).expect("it runs")
}

fn max_term(cluster: &Cluster) -> u64 {
    cluster.ids().into_iter().map(|id| status(cluster, id).role.term.0).max().unwrap()
}

fn leads(cluster: &Cluster, id: MemberId) -> bool {
    status(cluster, id).role.role == RoleName::Leader
}

/// Waits until all hold the same log and have applied it.
fn until_equal(cluster: &Cluster) {
    until("all members hold the same", || {
        let all: Vec<_> = cluster.ids().into_iter().map(|id| status(cluster, id)).collect();
        all.iter()
            .all(|it| it.last_index == all[0].last_index && it.commit_index == all[0].last_index)
    });
}

#[test]
fn a_paused_leader_is_replaced_and_learns_it_when_it_wakes() {
    let cluster = start_calm(3, Duration::from_millis(800));
    let clerk = cluster.clerk();
    clerk.put("k", "1").unwrap();
    let old = cluster.leader().unwrap();
    let believed = status(&cluster, old).role;
    cluster.pause(old);
    let new = cluster.leader().unwrap();
    assert_ne!(new, old, "one that is paused leads nobody");
    // Everything that it had begun has long ended.
    let before = status(&cluster, old);
    clerk.put("k", "2").unwrap();
    assert_eq!(status(&cluster, old), before, "it does nothing");
    assert_eq!(before.role, believed, "and still believes that it leads");
    cluster.resume(old);
    until("it follows", || status(&cluster, old).role.leader == Some(cluster.leader().unwrap()));
    until_equal(&cluster);
}

/// A paused member's clients wait. They get no answer and no broken connection, and are answered
/// when the member wakes, if they are still there.
#[test]
fn a_paused_member_keeps_its_clients_waiting() {
    let cluster = start(1);
    let clerk = cluster.clerk();
    clerk.put("k", "1").unwrap();
    cluster.pause(1);
    let error = clerk_with_short_timeout_of(&cluster, MemberId(1)).put("k", "2").unwrap_err();
    assert_eq!(error.kind(), ClerkErrorKind::Unknown, "it was sent: {error}");
    let answered = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            clerk.append("k", "3").unwrap();
            answered.store(true, Ordering::Release);
        });
        cluster.restart(1).unwrap();
        assert!(!answered.load(Ordering::Acquire), "a restart of one that runs is nothing");
        cluster.resume(1);
    });
    // The put came before the append, or after it, or never.
    let value = value(&clerk, "k").unwrap();
    assert!(["13", "23", "2"].contains(&value.as_str()), "{value}");
}

#[test]
fn a_follower_that_is_paused_costs_nothing() {
    let cluster = start_calm(3, Duration::from_secs(4));
    let leader = cluster.leader().unwrap();
    let term = max_term(&cluster);
    let paused = others(&cluster, leader)[0];
    cluster.pause(paused);
    let clerk = cluster.clerk();
    (0..50).for_each(|n| clerk.append("k", format!("{n},")).unwrap());
    cluster.resume(paused);
    until_equal(&cluster);
    assert_eq!((cluster.leader().unwrap(), max_term(&cluster)), (leader, term));
}

/// The old leader still believes that it leads. A request that arrives before it hears of the new
/// leader must not be answered from its old state. The requests are raw calls that are under way
/// before it wakes, and calls of a Clerk that knows no other member.
fn check_wakes(is_cut_off: bool) {
    let cluster = start_with_short_timeouts();
    let clerk = clerk_with(&cluster, TEST_TIMEOUT);
    for round in 0..3 {
        let (before, after) = (format!("{round} before"), format!("{round} after"));
        clerk.put("k", &before).unwrap();
        let old = cluster.leader().unwrap();
        let members = cluster.members();
        let addr = members.addr(old).unwrap();
        let stub = KvServerRpcStub::new(Channel::builder(addr).lazy());
        let only_it = cluster.clerk_of(old);
        assert_eq!(value(&only_it, "k"), Some(before), "it leads");
        cluster.pause(old);
        clerk.put("k", &after).expect("the two others go on");
        if is_cut_off {
            cluster.partition(&[old], &others(&cluster, old));
        }
        thread::scope(|scope| {
            let get = || {
                let args = GetArgs { key: Bytes::from("k"), ..GetArgs::default() };
                stub.get(&args, Instant::now() + IN_VAIN)
            };
            let raw: Vec<_> = (0..8).map(|_| scope.spawn(get)).collect();
            cluster.resume(old);
            match only_it.get("k") {
                Ok(seen) => assert_eq!(seen.unwrap(), after),
                Err(error) => assert_eq!(error.kind(), ClerkErrorKind::NotApplied, "{error}"),
            }
            for call in raw {
                // A refusal is fine; an old value is not.
                match call.join().unwrap() {
                    Ok(reply) if &reply.err[..] == b"OK" => assert_eq!(reply.value, after),
                    _ => {}
                }
            }
        });
        cluster.heal();
        until("it follows", || !leads(&cluster, old) || cluster.leader().unwrap() == old);
    }
}

#[test]
fn a_leader_that_wakes_answers_no_read_with_what_it_knew() {
    check_wakes(false);
}

/// And nobody is there to tell it.
#[test]
fn a_leader_that_wakes_alone_answers_no_read_with_what_it_knew() {
    check_wakes(true);
}

#[test]
fn the_majority_serves_and_the_minority_refuses() {
    let cluster = start(5);
    let clerk = cluster.clerk();
    clerk.put("k", "before").unwrap();
    let leader = cluster.leader().unwrap();
    let rest = others(&cluster, leader);
    let (minority, majority) = ([leader, rest[0]], &rest[1..]);
    cluster.partition(&minority, majority);
    assert!(majority.contains(&cluster.leader().unwrap()));
    clerk.put("k", "after").unwrap();
    for id in minority {
        let cut_off = clerk_with_short_timeout_of(&cluster, id);
        let read = cut_off.get("k").expect_err("nobody there can know");
        assert_eq!(read.kind(), ClerkErrorKind::NotApplied);
        cut_off.put("k", "lost").expect_err("nobody there can decide");
    }
    assert_eq!(value(&clerk, "k").as_deref(), Some("after"));
    until("the old leader gives up", || !leads(&cluster, leader));
    cluster.heal();
    until_equal(&cluster);
    // Their writes may have been proposed by a short-lived leader, and then lost.
    for id in cluster.ids() {
        assert_eq!(value(&clerk_via(&cluster, id), "k").as_deref(), Some("after"));
    }
}

/// The call may go on from the member to the leader.
fn clerk_via(cluster: &Cluster, id: MemberId) -> Clerk {
    let members = cluster.members();
    let addr = members.addr(id).unwrap();
    Clerk::builder().members(addr).timeout(TEST_TIMEOUT).build().unwrap()
}

#[test]
fn a_clerk_of_one_member_asks_nobody_else() {
    let cluster = start_calm(3, Duration::from_secs(4));
    let leader = cluster.leader().unwrap();
    cluster.clerk_of(leader).put("k", "v").unwrap();
    let clerk = cluster.clerk_of(others(&cluster, leader)[0]);
    assert_eq!(clerk.get("k").unwrap().as_deref(), Some(&b"v"[..]), "reads need no leader");
    let error = clerk.with_timeout(IN_VAIN).put("k", "w").expect_err("it does not lead");
    assert_eq!(error.kind(), ClerkErrorKind::NotApplied);
    let members = cluster.members();
    let leader = members.addr(leader).unwrap();
    assert!(error.to_string().contains(&format!("says that {leader} leads")), "{error}");
}

/// Without pre-vote, a member that hears nobody would come back with a term that deposes the
/// leader.
#[test]
fn a_follower_that_was_cut_off_for_long_costs_no_term_and_no_leader() {
    let cluster = start_calm(3, Duration::from_secs(2));
    let clerk = cluster.clerk();
    clerk.put("k", "1").unwrap();
    until_equal(&cluster);
    let leader = cluster.leader().unwrap();
    let follower = others(&cluster, leader)[1];
    let term = max_term(&cluster);
    cluster.partition(&[follower], &others(&cluster, follower));
    until("it asks whether it could lead", || {
        status(&cluster, follower).role.role == RoleName::PreCandidate
    });
    // Many election timeouts, with writes meanwhile.
    let end = Instant::now() + Duration::from_secs(14);
    while Instant::now() < end {
        clerk.append("k", "x").unwrap();
        assert_eq!(status(&cluster, follower).role.term.0, term, "it asks, and begins no term");
    }
    cluster.heal();
    until_equal(&cluster);
    assert_eq!((cluster.leader().unwrap(), max_term(&cluster)), (leader, term));
}

/// The leader's messages do not reach one follower, which has no reason to believe that there is a
/// leader. The leader hears that follower well.
#[test]
fn a_way_that_is_cut_in_one_direction_costs_few_terms() {
    let cluster = start_calm(3, Duration::from_millis(800));
    let clerk = cluster.clerk();
    for from_leader in [true, false] {
        clerk.put("k", "before").unwrap();
        let leader = cluster.leader().unwrap();
        let term = max_term(&cluster);
        let deaf = others(&cluster, leader)[0];
        match from_leader {
            true => cluster.partition_one_way(leader, deaf),
            false => cluster.partition_one_way(deaf, leader),
        }
        let end = Instant::now() + Duration::from_secs(3);
        let mut longest = Duration::ZERO;
        while Instant::now() < end {
            let begin = Instant::now();
            clerk.append("k", "x").unwrap();
            longest = longest.max(begin.elapsed());
        }
        let terms = max_term(&cluster) - term;
        assert!(terms <= 2, "{terms} terms in 3 s, from the leader: {from_leader}");
        cluster.heal();
        until_equal(&cluster);
    }
}

/// One member, at first a follower, reaches all others, and they reach nobody else. Only that
/// member can lead, though the others' timeouts pass first.
#[test]
fn the_only_member_that_all_reach_leads_and_terms_stay_bounded() {
    let cluster = start(5);
    let clerk = cluster.clerk();
    clerk.put("k", "before").unwrap();
    let hub = others(&cluster, cluster.leader().unwrap())[0];
    let term = max_term(&cluster);
    for (at, &one) in cluster.ids().iter().enumerate() {
        for &other in &cluster.ids()[at + 1..] {
            if one != hub && other != hub {
                cluster.partition(&[one], &[other]);
            }
        }
    }
    until("the hub leads", || leads(&cluster, hub) && cluster.leader().is_ok_and(|it| it == hub));
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        clerk.append("k", "x").unwrap();
    }
    let terms = max_term(&cluster) - term;
    // Each other member may try once or twice before this one does.
    assert!(terms <= 10, "{terms} terms");
    cluster.heal();
    until_equal(&cluster);
}

/// The other follower does not hear the leader, but reaches a member that does.
#[test]
fn a_leader_that_reaches_one_of_two_followers_goes_on() {
    let cluster = start_calm(3, Duration::from_secs(2));
    let clerk = cluster.clerk();
    clerk.put("k", "before").unwrap();
    let leader = cluster.leader().unwrap();
    let term = max_term(&cluster);
    cluster.partition(&[leader], &others(&cluster, leader)[..1]);
    // Several election timeouts.
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        clerk.append("k", "x").unwrap();
    }
    assert_eq!(
        (cluster.leader().unwrap(), max_term(&cluster)),
        (leader, term),
        "a majority hears it"
    );
    cluster.heal();
    until_equal(&cluster);
}

#[test]
fn a_slow_network_is_slow_and_works() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    let delay = Duration::from_millis(30);
    cluster.delay(delay);
    let begin = Instant::now();
    clerk.put("k", "1").unwrap();
    assert!(begin.elapsed() >= 2 * delay, "there and back: {:?}", begin.elapsed());
    cluster.delay(Duration::ZERO..=Duration::from_millis(60));
    (0..20).for_each(|n| clerk.append("k", format!("{n},")).unwrap());
    cluster.delay(Duration::ZERO);
    let expected: String = (0..20).map(|n| format!("{n},")).collect();
    assert_eq!(value(&clerk, "k"), Some(format!("1{expected}")));
}

/// Connections between members break all the time. Clients retry as well, because they lose
/// answers.
#[test]
fn appends_are_applied_once_over_a_network_that_loses_much() {
    const WRITERS: usize = 4;
    let cluster = start(3);
    cluster.drop_rate(0.03);
    let doubled = AtomicU64::new(0);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (cluster, doubled) = (&cluster, &doubled);
            scope.spawn(move || append_many_times(cluster, writer, 100, doubled));
        }
    });
    cluster.drop_rate(0.0);
    assert!(doubled.into_inner() > 0, "no write was answered twice: the test says nothing");
    let text = value(&cluster.clerk(), "log").unwrap();
    for writer in 0..WRITERS {
        let prefix = format!("{writer}:");
        let own: Vec<&str> =
            text.split_terminator(',').filter(|it| it.starts_with(&prefix)).collect();
        let expected: Vec<String> = (0..100).map(|n| format!("{writer}:{n}")).collect();
        assert_eq!(own, expected, "lost, doubled or out of order");
    }
}

/// A client that loses a third of the answers, and sends the same write again, to any member.
fn append_many_times(cluster: &Cluster, writer: usize, count: i64, doubled: &AtomicU64) {
    let stubs: Vec<KvServerRpcStub> = cluster
        .members()
        .iter()
        .map(|(_, addr)| KvServerRpcStub::new(Channel::builder(addr).lazy()))
        .collect();
    for request_id in 0..count {
        let args = PutAppendArgs {
            key: Bytes::from("log"),
            value: Bytes::from(format!("{writer}:{request_id},")),
            op: Bytes::from("Append"),
            client_id: Bytes::from(format!("client {writer}")),
            request_id,
            seen_index: 1,
        };
        let deadline = Instant::now() + TEST_TIMEOUT;
        let mut answers = 0;
        loop {
            assert!(Instant::now() < deadline, "write {request_id} is never done");
            let stub = &stubs[fastrand::usize(..stubs.len())];
            let reply = stub.put_append(&args, Instant::now() + Duration::from_millis(500));
            if reply.is_ok_and(|reply| &reply.err[..] == b"OK") {
                answers += 1;
                if fastrand::u8(..3) > 0 {
                    break;
                }
            }
        }
        doubled.fetch_add(answers - 1, Ordering::Relaxed);
    }
}

#[test]
fn a_wiped_member_is_filled_again() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    (0..20).for_each(|n| clerk.append("k", format!("{n},")).unwrap());
    let leader = cluster.leader().unwrap();
    let wiped = others(&cluster, leader)[0];
    cluster.wipe(wiped).unwrap();
    assert!(cluster.status(wiped).is_none() && !cluster.data_dir(wiped).exists());
    cluster.wipe(wiped).expect("nothing there is nothing to remove");
    cluster.restart(wiped).unwrap();
    until_equal(&cluster);
    // It is needed for a majority now.
    cluster.kill(others(&cluster, leader)[1]);
    let expected: String = (0..20).map(|n| format!("{n},")).collect();
    assert_eq!(value(&clerk, "k"), Some(expected));
}

#[test]
fn what_is_down_is_neither_paused_nor_resumed() {
    let cluster = start(3);
    let down = others(&cluster, cluster.leader().unwrap())[0];
    cluster.kill(down);
    cluster.pause(down);
    cluster.resume(down);
    cluster.restart(down).unwrap();
    cluster.pause(down);
    cluster.kill(down);
    assert!(cluster.status(down).is_none());
    cluster.restart(down).unwrap();
    cluster.pause(down);
    cluster.stop(down);
    cluster.restart(down).unwrap();
    // It is no longer paused.
    cluster.clerk().put("k", "v").unwrap();
    until_equal(&cluster);
}

/// A cluster can be dropped whatever its faults are.
#[test]
fn a_cluster_full_of_faults_is_dropped_at_once() {
    for _ in 0..3 {
        let cluster = start(5);
        let clerk = clerk_with(&cluster, Duration::from_millis(200));
        cluster.delay(Duration::from_secs(3600));
        cluster.partition(&[1, 2], &[3, 4]);
        cluster.partition_one_way(5, 1);
        cluster.pause(3);
        cluster.pause(1);
        cluster.kill(4);
        let _ = clerk.put("k", "v");
        let begin = Instant::now();
        drop(cluster);
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    }
}

/// Each time, it lacks recent writes and has every reason to think that there is no leader.
#[test]
fn a_follower_that_restarts_again_and_again_costs_no_leader() {
    let cluster = start_calm(3, Duration::from_secs(4));
    let clerk = cluster.clerk();
    clerk.put("k", "before").unwrap();
    let (leader, term) = (cluster.leader().unwrap(), max_term(&cluster));
    let follower = others(&cluster, leader)[0];
    for _ in 0..15 {
        cluster.kill(follower);
        (0..10).for_each(|_| clerk.append("k", "x").unwrap());
        cluster.restart(follower).unwrap();
        // Not always until it has caught up.
        (0..fastrand::u8(..20)).for_each(|_| clerk.append("k", "x").unwrap());
    }
    until_equal(&cluster);
    assert_eq!((cluster.leader().unwrap(), max_term(&cluster)), (leader, term));
}

/// Damage that a checksum detects keeps a member from starting. It cannot vote, lead or answer, and
/// the others lose nothing.
#[test]
fn a_member_with_a_damaged_log_never_votes() {
    let cluster = start(3);
    let clerk = cluster.clerk();
    (0..50).for_each(|n| clerk.append("k", format!("entry-{n},")).unwrap());
    until_equal(&cluster);
    let leader = cluster.leader().unwrap();
    let [damaged, healthy] = others(&cluster, leader)[..] else { unreachable!("three members") };
    cluster.kill(damaged);
    let wal = cluster.data_dir(damaged).join("wal");
    let segment = fs::read_dir(wal).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let at =
        bytes.windows(8).position(|it| it == b"entry-7,").expect("the log holds what was written");
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let error = cluster.restart(damaged).expect_err("it is damaged");
    assert!(matches!(error, ClusterError::Start { source: StartError::Storage(_), .. }), "{error}");
    let words = syncraft::ErrorChain(&error).to_string();
    assert!(words.contains(&segment.display().to_string()), "{words}");

    clerk.append("k", "the others go on").unwrap();
    cluster.kill(leader);
    let alone = clerk_with_short_timeout_of(&cluster, healthy);
    assert_eq!(alone.get("k").expect_err("one of three").kind(), ClerkErrorKind::NotApplied);
    cluster.restart(damaged).expect_err("it is still damaged");
    cluster.restart(leader).unwrap();
    let expected: String = (0..50).map(|n| format!("entry-{n},")).collect();
    assert_eq!(value(&clerk, "k"), Some(expected + "the others go on"));
}

/// A packet that took long, or a client that sends an older attempt again.
#[test]
fn a_late_copy_of_an_older_write_changes_nothing() {
    let cluster = start(3);
    let write = |request_id: i64, op: &'static str, value: &'static str| {
        let args = PutAppendArgs {
            key: Bytes::from("k"),
            value: Bytes::from(value),
            op: Bytes::from(op),
            client_id: Bytes::from("me"),
            request_id,
            seen_index: 1,
        };
        until("the leader answers", || {
            let members = cluster.members();
            let addr = members.addr(cluster.leader().unwrap()).unwrap();
            let stub = KvServerRpcStub::new(Channel::builder(addr).lazy());
            let reply = stub.put_append(&args, Instant::now() + TEST_TIMEOUT);
            reply.is_ok_and(|reply| &reply.err[..] == b"OK")
        });
    };
    write(1, "Put", "a");
    write(2, "Append", "b");
    write(3, "Append", "c");
    for _ in 0..2 {
        write(2, "Append", "b");
        write(1, "Put", "a");
        write(3, "Append", "c");
        assert_eq!(value(&cluster.clerk(), "k").as_deref(), Some("abc"));
        // The next leader knows as much, and so do members that were all killed.
        cluster.kill(cluster.leader().unwrap());
        write(1, "Put", "a");
        assert_eq!(value(&cluster.clerk(), "k").as_deref(), Some("abc"));
        cluster.ids().into_iter().for_each(|id| cluster.kill(id));
        cluster.ids().into_iter().for_each(|id| cluster.restart(id).unwrap());
    }
}

fn start_with_snapshots(every_bytes: u64) -> Cluster {
    let mut options = Options::default();
    options.snapshot_log_bytes = every_bytes;
    Cluster::start_with(3, options).expect("the cluster starts")
}

/// The next snapshot comes while one is on its way, or half received.
#[test]
fn a_follower_that_is_cut_off_in_the_middle_of_one_snapshot_after_another_catches_up() {
    let cluster = start_with_snapshots(8 << 10);
    let clerk = cluster.clerk();
    let leader = cluster.leader().unwrap();
    let follower = others(&cluster, leader)[0];
    let rest = others(&cluster, follower);
    let mut written = 0;
    for _ in 0..12 {
        cluster.partition(&[follower], &rest);
        for _ in 0..40 {
            clerk
                .put(format!("k{}", written % 60), format!("{written}:{}", "x".repeat(700)))
                .unwrap();
            written += 1;
        }
        cluster.heal();
        thread::sleep(Duration::from_millis(fastrand::u64(..150)));
    }
    until_equal(&cluster);
    assert!(status(&cluster, follower).snapshot_index.0 > 100, "it was filled by snapshots");
    // It counts for a majority now.
    cluster.kill(rest[0]);
    for n in written - 60..written {
        let value = value(&clerk, &format!("k{}", n % 60)).unwrap();
        assert!(value.starts_with(&format!("{n}:")), "{n}: {}", &value[..10]);
    }
}

/// The connection breaks several times before all of it has arrived.
#[test]
fn a_large_state_arrives_over_a_network_that_loses_much() {
    const KEYS: usize = 10;
    let cluster = start_with_snapshots(1 << 20);
    let clerk = cluster.clerk();
    let leader = cluster.leader().unwrap();
    let away = others(&cluster, leader)[0];
    cluster.kill(away);
    for n in 0..KEYS {
        clerk.put(format!("k{n}"), vec![n as u8; 1 << 20]).unwrap();
    }
    until("the log is cut", || status(&cluster, leader).snapshot_index.0 > 5);
    cluster.drop_rate(0.01);
    cluster.restart(away).unwrap();
    // If the leader has a newer snapshot by then, the member received the rest as entries.
    until("the state has arrived", || {
        let filled = status(&cluster, away);
        filled.snapshot_index.0 > 5
            && filled.commit_index >= status(&cluster, leader).snapshot_index
    });
    cluster.drop_rate(0.0);
    until_equal(&cluster);
    cluster.kill(others(&cluster, leader)[1]);
    for n in 0..KEYS {
        assert!(clerk.get(format!("k{n}")).unwrap().unwrap() == vec![n as u8; 1 << 20], "k{n}");
    }
}

/// The machine of a member is gone, or another program has its port: clients find the other members
/// within each call's time.
#[test]
fn a_dead_endpoint_first_in_the_list_costs_one_attempt() {
    let cluster = start(3);
    let refusing = syncraft::testing::Port::free().unwrap();
    // Accepts connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    // Accepts connections and resets them.
    let rude = TcpListener::bind("127.0.0.1:0").unwrap();
    let rude_addr = rude.local_addr().unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for stream in rude.incoming().take_while(|_| !is_over.load(Ordering::Acquire)) {
                drop(stream);
            }
        });
        for dead in [refusing.addr(), silent.local_addr().unwrap(), rude_addr] {
            let members = format!(
                "{dead},{}",
                cluster.members().iter().map(|(_, it)| it).collect::<Vec<_>>().join(",")
            );
            let clerk =
                Clerk::builder().members(members.as_str()).timeout(TEST_TIMEOUT).build().unwrap();
            clerk.put("k", "v").unwrap();
            let begin = Instant::now();
            for _ in 0..20 {
                assert_eq!(value(&clerk, "k").as_deref(), Some("v"));
            }
            // 20 attempts in vain would take 20 s.
            assert!(begin.elapsed() < Duration::from_secs(5), "{dead} is asked again and again");
        }
        is_over.store(true, Ordering::Release);
        drop(std::net::TcpStream::connect(rude_addr));
    });
}

/// Ends the clients with the thread that makes trouble, however that thread ends.
struct EndsWith<'a>(&'a AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Keys that clients share.
const KEYS: usize = 6;

/// A client of the cluster until it is told to end: appends of tokens, puts and reads. Some reads
/// ask one member only, which may believe that it leads.
fn client(cluster: &Cluster, history: &History, is_over: &AtomicBool, number: usize) {
    let clerk = clerk_with(cluster, Duration::from_secs(2));
    let members: Vec<Clerk> = cluster.ids().into_iter().map(|id| cluster.clerk_of(id)).collect();
    let mut n = 0;
    while !is_over.load(Ordering::Acquire) {
        let key = format!("k{}", fastrand::usize(..KEYS));
        let token = format!("{number}:{n},");
        let _ = match fastrand::u8(..20) {
            0..8 => history.append(&clerk, &key, token),
            8..10 => history.put(&clerk, &key, token),
            10..14 => history.get(&members[fastrand::usize(..members.len())], &key).map(drop),
            _ => history.get(&clerk, &key).map(drop),
        };
        n += 1;
        // Few enough calls for the search to order, and faults among many kinds of calls.
        thread::sleep(Duration::from_millis(1));
    }
}

/// One fault of each kind, and its end.
fn trouble(cluster: &Cluster, history: &History, random: &mut fastrand::Rng) {
    let ids = cluster.ids();
    let one = ids[random.usize(..ids.len())];
    let leader = cluster.leader().unwrap();
    match random.u8(..10) {
        0 => cluster.kill(one),
        1 => cluster.pause(leader),
        2 => cluster.pause(one),
        3 => cluster.partition(&[leader], &others(cluster, leader)),
        4 => cluster.partition(&[one], &others(cluster, one)),
        5 => cluster.partition_one_way(leader, one),
        6 => cluster.drop_rate(0.05),
        7 => cluster.delay(Duration::ZERO..=Duration::from_millis(40)),
        _ => {
            // It wakes as a leader, nobody tells it otherwise, and its state is old.
            cluster.pause(leader);
            let clerk = cluster.clerk_of(cluster.leader().unwrap());
            for key in 0..KEYS {
                let _ = history.put(&clerk, format!("k{key}"), format!("{},", random.u64(..)));
            }
            cluster.partition(&[leader], &others(cluster, leader));
            cluster.resume(leader);
            // The others may still wait for its answers to their earlier requests.
            let clerk = cluster.clerk_of(leader);
            for key in 0..KEYS {
                let _ = history.get(&clerk, format!("k{key}"));
            }
        }
    }
    thread::sleep(Duration::from_millis(random.u64(50..900)));
    ids.iter().for_each(|&id| cluster.resume(id));
    cluster.heal();
    cluster.drop_rate(0.0);
    cluster.delay(Duration::ZERO);
    ids.iter().for_each(|&id| cluster.restart(id).unwrap());
}

fn check_history(size: usize) {
    let given = std::env::var("SYNCRAFT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SYNCRAFT_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut options = Options::default();
    // The clock of the clerks that ask one member.
    options.timeout = Duration::from_millis(150);
    let cluster = Cluster::start_with(size, options).unwrap();
    let (history, is_over) = (History::new(), AtomicBool::new(false));
    thread::scope(|scope| {
        for number in 0..5 {
            let (cluster, history, is_over) = (&cluster, &history, &is_over);
            scope.spawn(move || client(cluster, history, is_over, number));
        }
        let _end = EndsWith(&is_over);
        let end = Instant::now() + Duration::from_secs(8);
        while Instant::now() < end {
            trouble(&cluster, &history, &mut random);
        }
    });
    let clerk = clerk_with(&cluster, TEST_TIMEOUT);
    for key in 0..KEYS {
        history.get(&clerk, format!("k{key}")).unwrap();
    }
    until_equal(&cluster);
    assert!(history.len() > 500, "{} calls are too few to say anything", history.len());
    if let Err(violation) = history.check() {
        panic!("seed {seed}, {size} members: {violation}");
    }
}

#[test]
fn what_clients_saw_through_many_faults_is_linearizable() {
    check_history(3);
}

#[test]
fn what_clients_of_five_members_saw_through_many_faults_is_linearizable() {
    check_history(5);
}
