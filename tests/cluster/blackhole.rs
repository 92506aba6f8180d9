//! Connections of a cluster that stay open and carry nothing, as after a restart of a firewall:
//! members and Clerks notice, connect again, and serve.

use std::thread;
use std::time::{Duration, Instant};

use syncraft::clerk::Clerk;
use syncraft::raft::MemberId;
use syncraft::testing::{Cluster, Options};

use crate::nodes::until;
use crate::relay::Relay;

/// Far from the 25 s that it takes until TCP notices. Two seconds are typical; on a busy machine an
/// election alone may take longer.
const AT_MOST: Duration = Duration::from_secs(15);
/// A call that has not ended by then is hung.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

fn three_members() -> Cluster {
    let mut options = Options::default();
    options.timeout = CALL_TIMEOUT;
    Cluster::start_with(3, options).unwrap()
}

fn others(cluster: &Cluster, id: MemberId) -> Vec<MemberId> {
    cluster.ids().into_iter().filter(|&other| other != id).collect()
}

/// A Clerk's appends around a fault: each is applied once, and soon. One value is small; the other
/// takes a slow network some time.
fn check_served(clerk: &Clerk, fault: impl Fn()) {
    for (key, len) in [("small", 1), ("large", 1 << 20)] {
        let [a, b, c] = ["a", "b", "c"].map(|text| text.repeat(len));
        clerk.append(key, a.clone()).unwrap();
        fault();
        let began = Instant::now();
        clerk.append(key, b.clone()).unwrap();
        assert!(began.elapsed() < AT_MOST, "{key}: the first append took {:?}", began.elapsed());
        clerk.append(key, c.clone()).unwrap();
        assert!(began.elapsed() < AT_MOST, "{key}: the second came after {:?}", began.elapsed());
        assert!(clerk.get(key).unwrap().unwrap() == a + &b + &c, "{key}");
    }
}

#[test]
fn all_connections_of_a_leader() {
    let cluster = three_members();
    let leader = cluster.leader().unwrap();
    check_served(&cluster.clerk(), || cluster.blackhole(&[leader], &others(&cluster, leader)));
}

#[test]
fn all_connections_between_members() {
    let cluster = three_members();
    let ids = cluster.ids();
    check_served(&cluster.clerk(), || cluster.blackhole(&ids, &ids));
    // And all members hold the same again.
    let applied = || ids.iter().map(|&id| cluster.status(id).unwrap().commit_index);
    until("all hold the same", || applied().min() == applied().max());
}

/// The one follower that is left is needed for a majority.
#[test]
fn the_only_connection_that_makes_a_majority() {
    let cluster = three_members();
    let leader = cluster.leader().unwrap();
    let [follower, down] = others(&cluster, leader)[..] else { panic!("three members") };
    cluster.kill(down);
    check_served(&cluster.clerk(), || cluster.blackhole(&[leader], &[follower]));
}

fn relays(cluster: &Cluster) -> Vec<Relay> {
    cluster.members().iter().map(|(_, addr)| Relay::to(addr.parse().unwrap())).collect()
}

/// A Clerk that reaches the members through these relays.
fn clerk_through(cluster: &Cluster, relays: &[Relay]) -> Clerk {
    let ids = cluster.ids().into_iter();
    let list: Vec<String> =
        ids.zip(relays).map(|(id, relay)| format!("{id}={}", relay.addr())).collect();
    let builder = Clerk::builder().members(list.join(",")).timeout(CALL_TIMEOUT);
    builder.follower_reads(true).build().unwrap()
}

#[test]
fn all_connections_of_a_clerk() {
    let cluster = three_members();
    let relays = relays(&cluster);
    let clerk = clerk_through(&cluster, &relays);
    // It has a connection to each.
    let are_connected = || relays.iter().all(|relay| relay.accepted() > 0);
    until("reads have gone everywhere", || clerk.get("k").is_ok() && are_connected());
    check_served(&clerk, || relays.iter().for_each(Relay::blackhole));
}

#[test]
fn a_snapshot_on_its_way_goes_on_over_a_new_connection() {
    const KEYS: usize = 10;
    let mut options = Options::default();
    (options.snapshot_log_bytes, options.timeout) = (1 << 20, CALL_TIMEOUT);
    let cluster = Cluster::start_with(3, options).unwrap();
    let clerk = cluster.clerk();
    let leader = cluster.leader().unwrap();
    let away = others(&cluster, leader)[0];
    cluster.kill(away);
    for n in 0..KEYS {
        clerk.put(format!("k{n}"), vec![n as u8; 1 << 20]).unwrap();
    }
    let snapshot = || cluster.status(leader).unwrap().snapshot_index;
    until("the log is cut", || snapshot().0 > 5);
    // So that it takes a while: each chunk is sent after the previous one has been acknowledged.
    cluster.delay(Duration::from_millis(200));
    cluster.restart(away).unwrap();
    let is_filled = || cluster.status(away).unwrap().commit_index >= snapshot();
    let mut faults = 0;
    while faults < 5 && !is_filled() {
        // Each fault comes at a random moment of the transfer.
        thread::sleep(Duration::from_millis(fastrand::u64(50..400)));
        cluster.blackhole(&[away], &others(&cluster, away));
        faults += 1;
    }
    assert!(faults > 0, "the transfer takes seconds");
    cluster.delay(Duration::ZERO);
    until("the state has arrived", is_filled);
}
