//! The registry of services in the store: what instances say of themselves is found, for as long as
//! they live, whatever happens to the store.

use std::time::Duration;

use syncraft::clerk::Clerk;
use syncraft::kv::LimitsChange;
use syncraft::registry::{Discovery, Instance, Registration};
use syncraft::rpc::{Endpoint, Source};
use syncraft::testing::Cluster;

use crate::nodes::until;

const SERVICE: &str = "friends";

fn instance(addr: &str) -> Instance {
    Instance::new(Endpoint::new(addr).weighted(3)).with("zone", "a").unwrap()
}

fn put(clerk: &Clerk, addr: &str) {
    let key = format!("services/{SERVICE}/{addr}");
    clerk.put(key, instance(addr).to_string()).unwrap();
}

#[test]
fn what_an_instance_says_of_itself_is_found() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let one = instance("a:1");
    let ttl = Duration::from_secs(60);
    let _registered = Registration::start(&clerk, SERVICE, one.clone(), ttl).unwrap();
    let _elsewhere = Registration::start(&clerk, "friendship", instance("b:1"), ttl).unwrap();
    let discovery = Discovery::start(&clerk, SERVICE).unwrap();
    assert_eq!(discovery.instances(), std::slice::from_ref(&one));
    assert_eq!(discovery.endpoints(), [one.endpoint().clone()]);
    // Another registration at the same address replaces it.
    let heavier = Instance::new(Endpoint::new("a:1").weighted(4));
    let _again = Registration::start(&clerk, SERVICE, heavier.clone(), ttl).unwrap();
    until("it is told", || discovery.instances() == [heavier.clone()]);
    // A script may write nonsense.
    clerk.put(format!("services/{SERVICE}/a:1"), "a:1 heavy").unwrap();
    until("it is no instance", || discovery.endpoints().is_empty());
}

/// Its time to live is far longer than this test.
#[test]
fn one_that_stops_is_out_of_the_registry_at_once() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let register = || {
        let ttl = Duration::from_secs(3600);
        Registration::start(&clerk, SERVICE, instance("a:1"), ttl).unwrap()
    };
    let registered = register();
    let key = registered.key().clone();
    assert!(clerk.get(&key).unwrap().is_some());
    registered.deregister().unwrap();
    assert_eq!(clerk.get(&key).unwrap(), None);
    assert!(clerk.leases().unwrap().is_empty());
    // One that is dropped gives up after a second on a busy machine.
    until("it is out", || {
        drop(register());
        clerk.get(&key).unwrap().is_none()
    });
}

#[test]
fn one_that_lives_is_registered_again_when_its_lease_has_ended() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    // It asks within a third of this.
    let ttl = Duration::from_secs(15);
    let registered = Registration::start(&clerk, SERVICE, instance("a:1"), ttl).unwrap();
    let entry = || clerk.get_entry(registered.key()).unwrap();
    let before = entry().unwrap();
    clerk.revoke_lease(before.lease).unwrap();
    until("it is there again", || entry().is_some_and(|it| it.lease != before.lease));
    assert_eq!(entry().unwrap().value, before.value);
}

#[test]
fn callers_keep_the_last_list_while_the_store_is_away() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    put(&clerk, "a:1");
    let discovery = Discovery::start(&clerk, SERVICE).unwrap();
    cluster.kill(1);
    // For longer than its thread takes to notice.
    let mut looks = 0;
    until("it has been asked often", || {
        assert_eq!(discovery.endpoints().len(), 1);
        looks += 1;
        looks > 400
    });
    cluster.restart(1).unwrap();
    put(&clerk, "b:1");
    until("it goes on", || {
        let count = discovery.endpoints().len();
        assert!(count > 0, "the list was lost");
        count == 2
    });
}

/// The history has room for one change. So whoever was cut off has missed some.
#[test]
fn a_list_whose_changes_are_forgotten_is_read_anew() {
    let cluster = Cluster::start(1).unwrap();
    let clerk = cluster.clerk();
    let limits = LimitsChange { history_bytes_max: Some(0), ..LimitsChange::default() };
    clerk.set_limits(limits).unwrap();
    put(&clerk, "a:0");
    let discovery = Discovery::start(&clerk, SERVICE).unwrap();
    for round in 1..=5 {
        cluster.kill(1);
        cluster.restart(1).unwrap();
        clerk.delete(format!("services/{SERVICE}/a:{}", round - 1)).unwrap();
        put(&clerk, &format!("a:{round}"));
        clerk.put("other", "v").unwrap();
        let expected = instance(&format!("a:{round}"));
        until("the list is right", || discovery.instances() == [expected.clone()]);
    }
}
