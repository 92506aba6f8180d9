//! etcd's API as JSON: keys and transactions through any member, while leaders die, and bad input.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use syncraft::raft::MemberId;
use syncraft::testing::{Cluster, Options};

use crate::http_front::{ask_once, follower};
use crate::nodes::until;

pub(crate) fn cluster(size: usize) -> Cluster {
    cluster_with(size, Options::default())
}

/// One in which a busy machine costs no leader its leadership. A leader that is killed is missed at
/// once.
pub(crate) fn calm_cluster(size: usize) -> Cluster {
    let mut options = Options::default();
    options.timing.election_min = Duration::from_secs(3);
    options.timing.election_max = Duration::from_secs(6);
    cluster_with(size, options)
}

fn cluster_with(size: usize, mut options: Options) -> Cluster {
    options.etcd_port = Some(0);
    Cluster::start_with(size, options).unwrap()
}

pub(crate) fn addr(cluster: &Cluster, id: MemberId) -> SocketAddr {
    cluster.etcd_addr(id).unwrap()
}

/// Base64, without padding and in the URL alphabet: the server takes that, too.
pub(crate) fn b64(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = text.as_bytes().chunks(3).flat_map(|chunk| {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        (0..=chunk.len()).map(move |at| DIGITS[(bits >> (18 - 6 * at)) as usize & 63] as char)
    });
    digits.collect()
}

/// The status and the body. Nothing is asked twice: the front does that by itself.
pub(crate) fn post(addr: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    send(addr, path, &body.to_string())
}

pub(crate) fn send(addr: SocketAddr, path: &str, body: &str) -> (u16, Value) {
    let got = ask_once(addr, &format!("POST /v3/{path}"), body);
    (got.status, got.json())
}

/// The body of an answer of status 200, without its header.
#[track_caller]
pub(crate) fn ok(addr: SocketAddr, path: &str, body: Value) -> Value {
    let (status, mut answer) = post(addr, path, &body);
    assert_eq!(status, 200, "{path} {body}: {answer}");
    answer.as_object_mut().unwrap().remove("header");
    answer
}

#[track_caller]
pub(crate) fn revision(addr: SocketAddr, path: &str, body: Value) -> u64 {
    let (status, answer) = post(addr, path, &body);
    assert_eq!(status, 200, "{path} {body}: {answer}");
    answer["header"]["revision"].as_str().unwrap().parse().unwrap()
}

/// Expects an error, in the form that both generations of clients understand.
#[track_caller]
pub(crate) fn fails(addr: SocketAddr, path: &str, body: &str, status: u16, code: u32, text: &str) {
    let (found, answer) = send(addr, path, body);
    let expected = json!({"error": text, "message": text, "code": code, "details": []});
    assert_eq!((found, &answer), (status, &expected), "{path} {body}");
}

pub(crate) fn put(addr: SocketAddr, key: &str, value: &str) -> u64 {
    revision(addr, "kv/put", json!({"key": b64(key), "value": b64(value)}))
}

fn keys(answer: &Value) -> Vec<&str> {
    let kvs = answer["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
    kvs.iter().map(|kv| kv["key"].as_str().unwrap()).collect()
}

#[test]
fn every_member_serves_and_says_the_same() {
    let cluster = cluster(3);
    let addrs: Vec<SocketAddr> = cluster.ids().into_iter().map(|id| addr(&cluster, id)).collect();
    let (status, empty) = post(addrs[0], "kv/range", &json!({"key": "YQ"}));
    let header = empty["header"].as_object().unwrap();
    assert_eq!(
        (status, &header["revision"], header["member_id"].as_str()),
        (200, &"1".into(), Some("1"))
    );
    assert_eq!(empty.as_object().unwrap().len(), 1, "zero fields are left out: {empty}");
    for (n, &here) in addrs.iter().enumerate() {
        let key = format!("key/{n}");
        let revision = put(here, &key, "one");
        for &other in &addrs {
            let (_, answer) = post(other, "kv/range", &json!({"key": b64(&key)}));
            assert_eq!(answer["header"]["cluster_id"], header["cluster_id"]);
            let kv = &answer["kvs"][0];
            assert_eq!(kv["mod_revision"], revision.to_string());
            assert_eq!(
                (&kv["version"], &kv["value"], &answer["count"]),
                (&"1".into(), &"b25l".into(), &"1".into())
            );
            assert_eq!((kv.get("lease"), answer.get("more")), (None, None));
        }
    }
    let local = json!({"key": "a2V5", "range_end": "a2V6", "serializable": true});
    let count = |addr| ok(addr, "kv/range", local.clone())["count"].clone();
    // The last write came through the last member.
    assert_eq!(count(addrs[2]), "3");
}

#[test]
fn ranges_have_all_of_etcds_options() {
    let cluster = cluster(1);
    let addr = addr(&cluster, MemberId(1));
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("d", "1"), ("b", "4")] {
        put(addr, key, value);
    }
    let range = |more: Value| {
        let mut body = json!({"key": "YQ==", "range_end": "AA=="});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ok(addr, "kv/range", body)
    };
    let check = |more: Value, expected: &[&str]| {
        let answer = range(more.clone());
        let expected: Vec<String> = expected.iter().map(|key| format!("{}==", b64(key))).collect();
        assert_eq!(keys(&answer), expected, "{more}");
        answer
    };
    check(json!({}), &["a", "b", "c", "d"]);
    let cut = check(json!({"limit": 2}), &["a", "b"]);
    assert_eq!((&cut["more"], &cut["count"]), (&true.into(), &"4".into()));
    check(json!({"limit": "-1"}), &["a", "b", "c", "d"]);
    check(json!({"limit": 1, "sort_order": "DESCEND", "sort_target": "MOD"}), &["b"]);
    check(json!({"sortTarget": "VALUE"}), &["d", "c", "a", "b"]);
    check(json!({"sort_target": "CREATE", "sort_order": 2}), &["d", "c", "b", "a"]);
    check(json!({"sort_target": "VERSION", "sort_order": "DESCEND", "limit": 1}), &["b"]);
    let filtered = check(json!({"min_mod_revision": 4, "max_mod_revision": "5"}), &["c", "d"]);
    assert_eq!(filtered["count"], "4", "filters do not lower the count");
    check(json!({"max_create_revision": 3}), &["a", "b"]);
    check(json!({"max_mod_revision": -1}), &[]);
    check(json!({"revision": 2}), &["a"]);
    let (_, old) = post(addr, "kv/range", &json!({"key": "YQ==", "revision": "2"}));
    assert_eq!(old["header"]["revision"], "6", "the current one");
    let only_keys = range(json!({"keys_only": true}));
    assert!(only_keys["kvs"].as_array().unwrap().iter().all(|kv| kv.get("value").is_none()));
    assert_eq!(range(json!({"count_only": true, "limit": 1})), json!({"count": "4"}));
    // The end is before the begin.
    assert_eq!(ok(addr, "kv/range", json!({"key": "Yg==", "range_end": "YQ=="})), json!({}));
    fails(
        addr,
        "kv/range",
        r#"{"key":"Yg==","range_end":"YQ==","revision":99}"#,
        400,
        11,
        "etcdserver: mvcc: required revision is a future revision",
    );
}

#[test]
fn puts_and_deletes_keep_etcds_rules() {
    let cluster = cluster(1);
    let addr = addr(&cluster, MemberId(1));
    put(addr, "a", "1");
    let previous = ok(addr, "kv/put", json!({"key": "YQ==", "prev_kv": true}));
    assert_eq!(previous["prev_kv"]["value"], "MQ==");
    let kv = ok(addr, "kv/range", json!({"key": "YQ=="}))["kvs"][0].clone();
    assert_eq!((kv.get("value"), &kv["version"]), (None, &"2".into()));
    put(addr, "a", "x");
    ok(addr, "kv/put", json!({"key": "YQ==", "ignore_value": true, "ignore_lease": true}));
    let kv = ok(addr, "kv/range", json!({"key": "YQ=="}))["kvs"][0].clone();
    assert_eq!((&kv["value"], &kv["version"]), (&"eA==".into(), &"4".into()));
    let before = revision(addr, "kv/deleterange", json!({"key": "eA=="}));
    assert_eq!(ok(addr, "kv/deleterange", json!({"key": "eA=="})), json!({}));
    assert_eq!(ok(addr, "kv/deleterange", json!({"key": "Yg==", "range_end": "YQ=="})), json!({}));
    let deleted = ok(addr, "kv/deleterange", json!({"key": "YQ==", "prevKv": true}));
    assert_eq!(
        (&deleted["deleted"], &deleted["prev_kvs"][0]["value"]),
        (&"1".into(), &"eA==".into())
    );
    assert_eq!(put(addr, "a", "y"), before + 2, "what changes nothing takes no revision");
    let kv = ok(addr, "kv/range", json!({"key": "YQ=="}))["kvs"][0].clone();
    assert_eq!((&kv["version"], &kv["create_revision"]), (&"1".into(), &kv["mod_revision"]));
}

#[test]
fn transactions_are_those_of_etcd() {
    let cluster = cluster(3);
    let addr = addr(&cluster, follower(&cluster));
    assert_eq!(ok(addr, "kv/txn", json!({})), json!({"succeeded": true}));
    put(addr, "y", "");
    // As Go's locks do it: the key that was put is the first one of a range.
    let (_, answer) = post(
        addr,
        "kv/txn",
        &json!({
            "compare": [{"key": "YQ==", "target": "CREATE", "createRevision": "0"}],
            "success": [
                {"request_range": {"key": "YQ=="}},
                {"requestPut": {"key": "YQ=="}},
                {"request_range": {"key": "YQ=="}},
                {"request_delete_range": {"key": "eQ=="}},
                {"request_txn": {"success": [{"requestPut": {"key": "Yg=="}},
                    {"request_range": {"key": "YQ==", "count_only": true}}]}},
            ],
        }),
    );
    let kv = json!({"key": "YQ==", "create_revision": "3", "mod_revision": "3", "version": "1"});
    let header = |revision: &str| json!({"revision": revision});
    assert_eq!(answer["header"]["revision"], "3");
    assert_eq!(
        answer["responses"],
        json!([
            {"response_range": {"header": header("2")}},
            {"response_put": {"header": header("3")}},
            {"response_range": {"header": header("3"), "kvs": [kv], "count": "1"}},
            {"response_delete_range": {"header": header("3"), "deleted": "1"}},
            {"response_txn": {"header": {}, "succeeded": true, "responses": [
                {"response_put": {"header": header("3")}},
                {"response_range": {"header": header("3"), "count": "1"}}]}},
        ])
    );
    let holds = |compare: Value| {
        let answer = ok(addr, "kv/txn", json!({"compare": [compare]}));
        answer.get("succeeded").is_some()
    };
    assert!(holds(json!({"key": "YQ==", "target": "LEASE", "lease": 0})));
    assert!(holds(json!({"key": "YQ==", "target": 1, "result": "GREATER", "create_revision": -1})));
    assert!(!holds(
        json!({"key": "bm8=", "target": "VALUE", "result": "NOT_EQUAL", "value": "YQ=="})
    ));
    assert!(holds(
        json!({"key": "YQ==", "range_end": "Yw==", "target": "MOD", "mod_revision": "3"})
    ));
    assert!(!holds(json!({"key": "YQ==", "range_end": "AA==", "target": "VERSION", "result": 0})));
    // Refused as a whole, whichever branch is taken and whatever else is in it.
    let future = "etcdserver: mvcc: required revision is a future revision";
    let bad = r#"{"success":[{"request_put":{"key":"eg=="}},
        {"request_range":{"key":"YQ==","revision":99}}]}"#;
    fails(addr, "kv/txn", bad, 400, 11, future);
    let lease = r#"{"success":[{"request_put":{"key":"eg=="}},
        {"request_put":{"key":"eQ==","lease":"7"}}]}"#;
    fails(addr, "kv/txn", lease, 404, 5, "etcdserver: requested lease not found");
    for id in cluster.ids() {
        let at = crate::etcd_kv::addr(&cluster, id);
        let (_, answer) = post(at, "kv/range", &json!({"key": "eg=="}));
        assert_eq!((answer.get("kvs"), &answer["header"]["revision"]), (None, &"3".into()));
    }
}

#[test]
fn history_is_compacted_as_etcd_does_it() {
    let cluster = cluster(1);
    let addr = addr(&cluster, MemberId(1));
    for n in 0..4 {
        put(addr, "a", &n.to_string());
    }
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let future = "etcdserver: mvcc: required revision is a future revision";
    fails(addr, "kv/compaction", r#"{"revision":-1}"#, 400, 11, compacted);
    fails(addr, "kv/compaction", r#"{"revision":6}"#, 400, 11, future);
    assert_eq!(revision(addr, "kv/compaction", json!({"revision": 4, "physical": true})), 5);
    fails(addr, "kv/compaction", r#"{"revision":4}"#, 400, 11, compacted);
    let at = |revision| ok(addr, "kv/range", json!({"key": "YQ==", "revision": revision}));
    assert_eq!(at(4)["kvs"][0]["value"], "Mg==");
    fails(addr, "kv/range", r#"{"key":"YQ==","revision":3}"#, 400, 11, compacted);
}

#[test]
fn bad_input_has_an_answer() {
    let cluster = cluster(1);
    let addr = addr(&cluster, MemberId(1));
    let check = |path: &str, body: &str, code: u32| {
        let (status, answer) = send(addr, path, body);
        assert_eq!((status, &answer["code"]), (400, &code.into()), "{path} {body}: {answer}");
        assert_eq!(answer["error"], answer["message"]);
        assert!(answer["error"].as_str().is_some_and(|text| !text.contains('\n')));
    };
    let deep = format!("{}1{}", r#"{"a":"#.repeat(5_000), "}".repeat(5_000));
    let deep_txn = format!(
        r#"{{"success":[{}{}]}}"#,
        r#"{"request_txn":{"success":["#.repeat(40),
        "]}}".repeat(40)
    );
    for body in [r#"{"key":"#, "[]", "7", r#""a""#, "{\"key\":\u{1}}", "nul", &deep] {
        check("kv/range", body, 3);
        check("kv/txn", body, 3);
        check("lease/grant", body, 3);
    }
    check("kv/txn", &deep_txn, 3);
    check("watch", r#"{"create_request":"#, 3);
    check("lease/keepalive", "{", 3);
    for body in [
        "{}",
        r#"{"key":null}"#,
        r#"{"key":7}"#,
        r#"{"key":"Y"}"#,
        r#"{"key":"Y*=="}"#,
        r#"{"key":"YQ==","limit":"x"}"#,
        r#"{"key":"YQ==","limit":1.5}"#,
        r#"{"key":"YQ==","limit":99999999999999999999}"#,
        r#"{"key":"YQ==","serializable":1}"#,
        r#"{"key":"YQ==","sort_order":"UP"}"#,
        r#"{"key":"YQ==","sort_order":7}"#,
        r#"{"key":"YQ==","sort_target":-1}"#,
        r#"{"key":"YQ==","range_end":[]}"#,
    ] {
        check("kv/range", body, 3);
    }
    fails(addr, "kv/range", "", 400, 3, "etcdserver: key is not provided");
    fails(addr, "kv/put", r#"{"value":"YQ=="}"#, 400, 3, "etcdserver: key is not provided");
    let duplicate =
        r#"{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}"#;
    fails(addr, "kv/txn", duplicate, 400, 3, "etcdserver: duplicate key given in txn request");
    // Longer than the longest key.
    let long = format!(r#"{{"key":"{}"}}"#, "YWFh".repeat(30_000));
    fails(addr, "kv/put", &long, 400, 3, "etcdserver: request is too large");
    // What is not there.
    let got = ask_once(addr, "POST /v3/kv/nope", "{}");
    assert_eq!((got.status, got.text()), (404, "Not Found\n"));
    let got = ask_once(addr, "GET /v3/kv/range", "");
    assert_eq!((got.status, got.text()), (405, "Method Not Allowed\n"));
    assert_eq!(ask_once(addr, "GET /nope", "").text(), "404 page not found\n");
    let (status, answer) = send(addr, "maintenance/snapshot", "{}");
    assert_eq!((status, &answer["code"]), (501, &12.into()));
    assert_eq!(ask_once(addr, "POST /v3/maintenance/hashkv", "{}").status, 404);
    // It serves on.
    put(addr, "a", "1");
    for prefix in ["v3beta", "v3alpha"] {
        assert_eq!(
            ask_once(addr, &format!("POST /{prefix}/kv/range"), r#"{"key":"YQ=="}"#).status,
            200
        );
    }
}

#[test]
fn the_member_and_its_cluster_are_told() {
    let cluster = calm_cluster(3);
    let leader = cluster.leader().unwrap();
    let here = addr(&cluster, follower(&cluster));
    let version = ask_once(here, "GET /version", "{}").json();
    assert_eq!(version["etcdcluster"], "3.5.0");
    assert!(version["etcdserver"].as_str().unwrap().split('.').all(|it| it.parse::<u32>().is_ok()));
    let is_healthy =
        || ask_once(here, "GET /health", "").json() == json!({"health": "true", "reason": ""});
    until("it knows who leads", is_healthy);
    assert_eq!(ask_once(here, "POST /health", "").status, 405);
    for path in ["/livez", "/readyz", "/metrics", "/health?serializable=true"] {
        assert_eq!(ask_once(here, &format!("GET {path}"), "").status, 200, "{path}");
    }
    // Each member hears from the others within moments.
    let urls = |id: MemberId| vec![format!("http://{}", addr(&cluster, id))];
    for id in cluster.ids() {
        let mut members = Vec::new();
        until("it hears from the others", || {
            let (_, list) = post(addr(&cluster, id), "cluster/member/list", &json!({}));
            assert_eq!(list["header"].get("revision"), None);
            members = list["members"].as_array().unwrap().clone();
            assert_eq!(members.len(), 3);
            members.iter().all(|member| member.get("clientURLs").is_some())
        });
        for (member, id) in members.iter().zip(cluster.ids()) {
            assert_eq!(member["ID"], id.to_string());
            assert_eq!(member["clientURLs"], json!(urls(id)));
            assert_eq!(member["peerURLs"], json!([format!("http://{}", cluster.addr(id))]));
        }
    }
    let status = ok(here, "maintenance/status", json!({}));
    assert_eq!(status["leader"], leader.to_string());
    assert!(status["raftAppliedIndex"].is_string() && status["raftTerm"].is_string());
    assert_eq!(ok(here, "maintenance/alarm", json!({})), json!({}));
    assert_eq!(ok(here, "maintenance/defragment", json!({})), json!({}));
    assert_eq!(ok(here, "auth/status", json!({})), json!({"authRevision": "1"}));
    let text = "etcdserver: authentication is not enabled";
    fails(here, "auth/authenticate", r#"{"name":"a","password":"b"}"#, 400, 9, text);
    fails(
        here,
        "maintenance/transfer-leadership",
        r#"{"targetID":1}"#,
        400,
        9,
        "etcdserver: not leader",
    );
    let there = addr(&cluster, leader);
    let bad = "etcdserver: bad leader transferee";
    fails(there, "maintenance/transfer-leadership", r#"{"targetID":9}"#, 400, 9, bad);
    let target = follower(&cluster);
    ok(there, "maintenance/transfer-leadership", json!({"targetID": target.to_string()}));
    assert_eq!(cluster.leader().unwrap(), target);
}

#[test]
fn leaders_die_and_each_request_takes_effect_once() {
    let cluster = cluster(3);
    for round in 0..3 {
        let (leader, here) = (cluster.leader().unwrap(), addr(&cluster, follower(&cluster)));
        cluster.kill(leader);
        // The one that was killed is noticed within this request, and nobody asks twice.
        let key = format!("k{round}");
        put(here, &key, "v");
        let kv = ok(here, "kv/range", json!({"key": b64(&key)}))["kvs"][0].clone();
        assert_eq!(kv["version"], "1");
        cluster.restart(leader).unwrap();
    }
    // A minority says so in time, and still tells what it has.
    let (leader, here) = (cluster.leader().unwrap(), follower(&cluster));
    let other = cluster.ids().into_iter().find(|&id| id != leader && id != here).unwrap();
    let here = addr(&cluster, here);
    // It has caught up.
    assert_eq!(ok(here, "kv/range", json!({"key": "azA"}))["count"], "1");
    cluster.kill(leader);
    cluster.kill(other);
    for (path, body) in [
        ("kv/put", json!({"key": "YQ=="})),
        ("kv/range", json!({"key": "azA"})),
        ("lease/grant", json!({"TTL": 5})),
        ("lease/keepalive", json!({"ID": 5})),
        ("lock/lock", json!({"name": "YQ=="})),
    ] {
        let (status, answer) = post(here, path, &body);
        assert_eq!((status, &answer["code"]), (503, &14.into()), "{path}: {answer}");
    }
    let local = ok(here, "kv/range", json!({"key": "azA", "serializable": true}));
    assert_eq!(local["count"], "1");
    let health = ask_once(here, "GET /health", "");
    assert_eq!((health.status, &health.json()["health"]), (503, &"false".into()));
}
