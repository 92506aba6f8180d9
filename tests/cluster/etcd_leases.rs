//! etcd's leases as JSON.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use syncraft::raft::MemberId;

use crate::etcd_kv::{addr, b64, cluster, fails, ok, post, revision};
use crate::http_front::{ask_once, follower};
use crate::nodes::until;

/// The messages of a keep-alive, without their headers.
fn keep_alive(addr: std::net::SocketAddr, body: &str) -> Vec<Value> {
    let got = ask_once(addr, "POST /v3/lease/keepalive", body);
    assert_eq!(got.status, 200, "{got:?}");
    assert_eq!(got.field("Transfer-Encoding"), Some("chunked"));
    let mut rest = got.text();
    let mut messages = Vec::new();
    // Each message is a chunk with the end of its line.
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let len = usize::from_str_radix(size, 16).unwrap();
        if len > 0 {
            let line = tail[..len].strip_suffix('\n').unwrap();
            let mut message: Value = serde_json::from_str(line).unwrap();
            let result = message["result"].as_object_mut().unwrap();
            assert!(result.remove("header").unwrap()["revision"].is_string());
            messages.push(message["result"].take());
        }
        rest = &tail[len + 2..];
    }
    messages
}

#[test]
fn a_lease_lives_as_long_as_it_is_kept_alive() {
    let cluster = cluster(3);
    let here = addr(&cluster, follower(&cluster));
    let wait_gone = |id: u64| {
        let gone = json!({"ID": id.to_string(), "TTL": "-1"});
        let told = || ok(here, "lease/timetolive", json!({"ID": id, "keys": true}));
        until("it has ended", || told() == gone);
    };
    let begun = Instant::now();
    assert_eq!(
        ok(here, "lease/grant", json!({"TTL": 1, "ID": 77})),
        json!({"ID": "77", "TTL": "2"})
    );
    let kept = keep_alive(here, r#"{"ID":77}"#);
    // On a machine that stood still, it is over.
    if begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(kept, [json!({"ID": "77", "TTL": "2"})]);
    }
    wait_gone(77);
    assert_eq!(keep_alive(here, r#"{"ID":77}"#), [json!({"ID": "77"})]);
    // One that lives for longer than all that follows takes.
    assert_eq!(
        ok(here, "lease/grant", json!({"TTL": 10, "ID": 78})),
        json!({"ID": "78", "TTL": "10"})
    );
    let exists = "etcdserver: lease already exists";
    fails(here, "lease/grant", r#"{"TTL":"5","ID":"78"}"#, 400, 9, exists);
    let too_large = "etcdserver: too large lease TTL";
    fails(here, "lease/grant", r#"{"TTL":9000000001}"#, 400, 11, too_large);
    let own = ok(here, "lease/grant", json!({"TTL": "60"}));
    assert_eq!(own["TTL"], "60");
    let own: i64 = own["ID"].as_str().unwrap().parse().unwrap();
    let mut ids = [78, own];
    ids.sort_unstable();
    let listed = json!(ids.map(|id| json!({"ID": id.to_string()})));
    assert_eq!(ok(here, "lease/leases", json!({}))["leases"], listed);
    assert_eq!(ok(here, "kv/lease/leases", json!({}))["leases"], listed);
    for key in ["b", "a"] {
        ok(here, "kv/put", json!({"key": b64(key), "lease": "78"}));
    }
    let info = ok(here, "kv/lease/timetolive", json!({"ID": 78, "keys": true}));
    assert_eq!((&info["grantedTTL"], &info["keys"]), (&"10".into(), &json!(["YQ==", "Yg=="])));
    let left: u64 = info.get("TTL").map_or(0, |ttl| ttl.as_str().unwrap().parse().unwrap());
    assert!(left <= 10, "{info}");
    assert_eq!(keep_alive(here, r#"{"ID":78}"#), [json!({"ID": "78", "TTL": "10"})]);
    let several = format!(r#"{{"ID":"{own}"}}{{"ID":123456}}"#);
    let kept = keep_alive(here, &several);
    assert_eq!(kept, [json!({"ID": own.to_string(), "TTL": "60"}), json!({"ID": "123456"})]);
    assert_eq!(keep_alive(here, ""), [] as [Value; 0]);
    // It ends, with its keys, in one revision.
    wait_gone(78);
    assert_eq!(ok(here, "kv/range", json!({"key": "YQ==", "range_end": "Yw=="})), json!({}));
    assert_eq!(revision(here, "kv/range", json!({"key": "YQ=="})), 4);
}

#[test]
fn a_revoked_lease_takes_its_keys_with_it() {
    let cluster = cluster(1);
    let here = addr(&cluster, MemberId(1));
    ok(here, "lease/grant", json!({"TTL": 600, "ID": "9"}));
    for key in ["kept", "gone"] {
        ok(here, "kv/put", json!({"key": b64(key), "lease": 9}));
    }
    // A put without a lease detaches the key.
    ok(here, "kv/put", json!({"key": b64("kept")}));
    ok(here, "lease/revoke", json!({"ID": 9}));
    let not_found = "etcdserver: requested lease not found";
    for body in [r#"{"ID":9}"#, "{}", r#"{"ID":"-9"}"#] {
        fails(here, "kv/lease/revoke", body, 404, 5, not_found);
    }
    let (_, left) = post(here, "kv/range", &json!({"key": "AA==", "range_end": "AA=="}));
    assert_eq!((&left["count"], &left["kvs"][0]["key"]), (&"1".into(), &"a2VwdA==".into()));
    fails(here, "kv/put", r#"{"key":"YQ==","lease":9}"#, 404, 5, not_found);
    let (status, answer) = post(here, "lease/grant", &json!({"TTL": 5, "ID": -1}));
    assert_eq!((status, &answer["code"]), (400, &3.into()));
}
