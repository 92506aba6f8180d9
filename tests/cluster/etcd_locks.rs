//! etcd's locks and elections as JSON.

use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc::channel;
use std::thread;

use serde_json::{Value, json};
use syncraft::kv::api::Api;
use syncraft::raft::MemberId;

use crate::etcd_kv::{addr, b64, cluster, fails, ok, post};
use crate::etcd_watches::Messages;
use crate::http_front::{ask_once, follower};
use crate::nodes::until;

fn grant(addr: SocketAddr, id: u64) {
    ok(addr, "lease/grant", json!({"TTL": 600, "ID": id}));
}

/// Waits until so many keys are under a name.
fn wait_for_queue(addr: SocketAddr, name: &str, count: usize) {
    let body = json!({"key": b64(&format!("{name}/")), "range_end": b64(&format!("{name}0"))});
    let len = || ok(addr, "kv/range", body.clone())["kvs"].as_array().map_or(0, Vec::len);
    until("that many wait", || len() == count);
}

fn wait_for_watches(api: &Api, count: usize) {
    until("that many watches", || api.open_watches() == count);
}

#[test]
fn a_lock_is_held_by_one_after_the_other() {
    let cluster = cluster(3);
    let addrs: Vec<SocketAddr> = cluster.ids().into_iter().map(|id| addr(&cluster, id)).collect();
    (1..=3).for_each(|id| grant(addrs[0], id));
    let lock =
        |at: SocketAddr, lease: u64| ok(at, "lock/lock", json!({"name": b64("l"), "lease": lease}));
    let first = lock(addrs[0], 1);
    assert_eq!(first["key"], "bC8x");
    // Who has it gets it again.
    assert_eq!(lock(addrs[1], 1), first);
    let (told, hears) = channel();
    thread::scope(|scope| {
        for (n, lease) in [(1, 2), (2, 3)] {
            let (told, at) = (told.clone(), addrs[n]);
            scope.spawn(move || {
                let got = lock(at, lease);
                told.send((lease, got["key"].clone())).unwrap();
            });
            wait_for_queue(addrs[0], "l", n + 1);
        }
        assert!(hears.try_recv().is_err(), "it is held");
        ok(addrs[2], "lock/unlock", json!({"key": first["key"]}));
        let (lease, key) = hears.recv().unwrap();
        assert_eq!((lease, &key), (2, &"bC8y".into()));
        assert!(hears.try_recv().is_err(), "it is held");
        // Its lease ends.
        ok(addrs[0], "lease/revoke", json!({"ID": 2}));
        assert_eq!(hears.recv().unwrap(), (3, "bC8z".into()));
    });
    ok(addrs[0], "lock/unlock", json!({"key": "bC8z"}));
    // Without a lease of one's own.
    let own = ok(addrs[1], "lock/lock", json!({"name": b64("l")}));
    assert!(own["key"].is_string());
    let text = "etcdserver: requested lease not found";
    fails(addrs[0], "lock/lock", r#"{"name":"bDI","lease":99}"#, 500, 2, text);
    fails(addrs[0], "lock/unlock", "{}", 500, 2, "etcdserver: key is not provided");
}

#[test]
fn who_loses_its_lease_while_it_waits_is_told() {
    let cluster = cluster(1);
    let here = addr(&cluster, MemberId(1));
    (1..=2).for_each(|id| grant(here, id));
    ok(here, "lock/lock", json!({"name": b64("l"), "lease": 1}));
    thread::scope(|scope| {
        let waits = scope.spawn(|| post(here, "lock/lock", &json!({"name": b64("l"), "lease": 2})));
        wait_for_queue(here, "l", 2);
        ok(here, "lease/revoke", json!({"ID": 2}));
        let (status, answer) = waits.join().unwrap();
        assert_eq!((status, &answer["error"]), (500, &"mutex: session is expired".into()));
    });
}

/// How many connections of etcd's clients a member has, beside the one that asks.
fn connections(addr: SocketAddr) -> usize {
    let metrics = ask_once(addr, "GET /metrics", "");
    let line = metrics.text().lines().find_map(|it| it.strip_prefix("syncraft_http_connections "));
    line.unwrap().parse::<usize>().unwrap() - 1
}

#[test]
fn a_client_that_goes_while_it_waits_leaves_the_queue() {
    let cluster = cluster(3);
    let id = follower(&cluster);
    let (here, api) = (addr(&cluster, id), cluster.api(id).unwrap());
    (1..=3).for_each(|id| grant(here, id));
    for (what, path) in [("l", "lock/lock"), ("e", "election/campaign")] {
        let ask = |lease: u64| json!({"name": b64(what), "lease": lease});
        ok(here, path, ask(1));
        // The last one gets a lease of its own.
        for lease in [2, 3, 0] {
            let waits = Messages::begin(here, path, &ask(lease).to_string());
            wait_for_queue(here, what, 2);
            match lease {
                // It may still read: it counts as gone.
                3 => waits.shutdown(Shutdown::Write),
                _ => drop(waits),
            }
            wait_for_queue(here, what, 1);
        }
        let gone = Messages::begin(here, path, &ask(2).to_string());
        wait_for_queue(here, what, 2);
        thread::scope(|scope| {
            let waits = scope.spawn(|| ok(here, path, ask(3)));
            wait_for_queue(here, what, 3);
            drop(gone);
            ok(here, "kv/deleterange", json!({"key": b64(&format!("{what}/1"))}));
            waits.join().unwrap();
        });
        wait_for_queue(here, what, 1);
    }
    let leases = ok(here, "lease/leases", json!({}))["leases"].as_array().map_or(0, Vec::len);
    assert_eq!(leases, 3, "a lease that was made for a claim ends with it");
    wait_for_watches(&api, 0);
}

#[test]
fn a_request_that_is_given_up_takes_nothing_from_a_later_one() {
    let cluster = cluster(1);
    let (here, api) = (addr(&cluster, MemberId(1)), cluster.api(MemberId(1)).unwrap());
    (1..=2).for_each(|id| grant(here, id));
    let ask = |lease: u64| json!({"name": b64("l"), "lease": lease});
    let first = ok(here, "lock/lock", ask(1));
    let given_up = Messages::begin(here, "lock/lock", &ask(2).to_string());
    wait_for_watches(&api, 2);
    thread::scope(|scope| {
        let again = scope.spawn(|| ok(here, "lock/lock", ask(2)));
        wait_for_watches(&api, 4);
        drop(given_up);
        wait_for_watches(&api, 2);
        // Were its key deleted, that would be in the log before this.
        ok(here, "kv/put", json!({"key": b64("after"), "value": b64("")}));
        ok(here, "lock/unlock", json!({"key": first["key"]}));
        assert_eq!(again.join().unwrap()["key"], "bC8y");
    });
    wait_for_queue(here, "l", 1);
}

#[test]
fn a_claim_that_ends_with_an_error_leaves_the_queue() {
    let cluster = cluster(3);
    let id = follower(&cluster);
    let here = addr(&cluster, id);
    (1..=2).for_each(|id| grant(here, id));
    ok(here, "lock/lock", json!({"name": b64("l"), "lease": 1}));
    let others: Vec<MemberId> = cluster.ids().into_iter().filter(|it| *it != id).collect();
    thread::scope(|scope| {
        let waits = scope.spawn(|| post(here, "lock/lock", &json!({"name": b64("l"), "lease": 2})));
        wait_for_queue(here, "l", 2);
        others.iter().for_each(|it| cluster.kill(*it));
        let (status, answer) = waits.join().unwrap();
        assert_eq!((status, &answer["code"]), (503, &14.into()), "{answer}");
    });
    others.iter().for_each(|it| cluster.restart(*it).unwrap());
    cluster.leader().unwrap();
    wait_for_queue(here, "l", 1);
}

#[test]
fn clients_that_go_while_they_wait_leave_no_connection_behind() {
    const CLIENTS: usize = 50;
    let cluster = cluster(1);
    let (here, api) = (addr(&cluster, MemberId(1)), cluster.api(MemberId(1)).unwrap());
    grant(here, 1);
    ok(here, "lock/lock", json!({"name": b64("l"), "lease": 1}));
    let begin = |path: &str, name: &str| {
        Messages::begin(here, path, &json!({"name": b64(name)}).to_string())
    };
    let observers: Vec<_> = (0..CLIENTS).map(|_| begin("election/observe", "nobody")).collect();
    let lockers: Vec<_> = (0..CLIENTS).map(|_| begin("lock/lock", "l")).collect();
    wait_for_queue(here, "l", 1 + CLIENTS);
    wait_for_watches(&api, 3 * CLIENTS);
    // Some end only their side.
    observers[..CLIENTS / 2].iter().for_each(|it| it.shutdown(Shutdown::Write));
    wait_for_watches(&api, 3 * CLIENTS - CLIENTS / 2);
    drop((observers, lockers));
    wait_for_watches(&api, 0);
    wait_for_queue(here, "l", 1);
    until("all connections are gone", || connections(here) == 0);
}

#[test]
fn a_lock_is_waited_for_while_leaders_die() {
    let cluster = cluster(3);
    let (leader, here) = (cluster.leader().unwrap(), addr(&cluster, follower(&cluster)));
    (1..=2).for_each(|id| grant(here, id));
    let first = ok(here, "lock/lock", json!({"name": b64("l"), "lease": 1}));
    thread::scope(|scope| {
        let waits = scope.spawn(|| ok(here, "lock/lock", json!({"name": b64("l"), "lease": 2})));
        wait_for_queue(here, "l", 2);
        cluster.kill(leader);
        ok(here, "lock/unlock", json!({"key": first["key"]}));
        assert_eq!(waits.join().unwrap()["key"], "bC8y");
    });
}

#[test]
fn an_election_has_one_leader_whom_all_can_see() {
    let cluster = cluster(3);
    let here = addr(&cluster, follower(&cluster));
    (1..=2).for_each(|id| grant(here, id));
    fails(here, "election/leader", r#"{"name":"ZQ"}"#, 500, 2, "election: no leader");
    let campaign = |lease: u64, value: &str| {
        ok(here, "election/campaign", json!({"name": "ZQ==", "lease": lease, "value": b64(value)}))
    };
    let first = campaign(1, "one")["leader"].clone();
    assert_eq!(
        (&first["name"], &first["key"], &first["lease"]),
        (&"ZQ==".into(), &"ZS8x".into(), &"1".into())
    );
    let leader = || ok(here, "election/leader", json!({"name": "ZQ=="}))["kv"]["value"].clone();
    assert_eq!(leader(), "b25l");
    let mut observer = Messages::begin(here, "election/observe", r#"{"name":"ZQ=="}"#).opened();
    let mut observed = || observer.result()["kv"]["value"].clone();
    assert_eq!(observed(), "b25l");
    ok(here, "election/proclaim", json!({"leader": first, "value": b64("uno")}));
    assert_eq!((leader(), observed()), ("dW5v".into(), "dW5v".into()));
    let (status, answer) = thread::scope(|scope| {
        let second = scope.spawn(|| campaign(2, "two"));
        wait_for_queue(here, "e", 2);
        ok(here, "election/resign", json!({"leader": first}));
        let second = second.join().unwrap();
        assert_eq!(second["leader"]["lease"], "2");
        post(here, "election/proclaim", &json!({"leader": first, "value": ""}))
    });
    assert_eq!((status, &answer["error"]), (500, &"election: not leader".into()));
    assert_eq!((leader(), observed()), ("dHdv".into(), "dHdv".into()));
    ok(here, "election/resign", json!({"leader": first}));
    assert_eq!(leader(), Value::from("dHdv"), "who does not lead cannot resign");
    // What names no key that there could be.
    let no_key = "etcdserver: key is not provided";
    for path in ["election/proclaim", "election/resign"] {
        fails(here, path, r#"{"leader":{}}"#, 500, 2, no_key);
    }
    let never = r#"{"leader":{"name":"eg==","key":"eg==","rev":-1},"value":"eg=="}"#;
    fails(here, "election/proclaim", never, 500, 2, "election: not leader");
    ok(here, "election/resign", serde_json::from_str(never).unwrap());
    assert_eq!(ok(here, "kv/range", json!({"key": "eg=="})), json!({}));
    let missing = "\"leader\" field must be provided";
    fails(here, "election/resign", "{}", 500, 2, missing);
    fails(here, "election/proclaim", "{}", 500, 2, missing);
}
