//! etcd's watches as JSON: each event once, in order, and each message a chunk of its own.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use syncraft::kv::model::{Action, Operation, Txn};
use syncraft::raft::MemberId;
use syncraft::testing::Cluster;

use crate::etcd_kv::{addr, b64, calm_cluster, cluster, ok, post, put};
use crate::http_front::follower;
use crate::nodes::until;

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A stream of messages.
pub(crate) struct Messages {
    reader: BufReader<TcpStream>,
}

impl Messages {
    pub(crate) fn begin(addr: SocketAddr, path: &str, body: &str) -> Messages {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        let len = body.len();
        let head =
            format!("POST /v3/{path} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {len}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        Messages { reader: BufReader::new(stream) }
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        self.reader.get_ref().shutdown(how).unwrap();
    }

    /// Reads the head, which comes with the first message.
    pub(crate) fn opened(self) -> Messages {
        self.opened_as(200)
    }

    fn opened_as(mut self, status: u16) -> Messages {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        self
    }

    fn watch(addr: SocketAddr, create: &Value) -> Messages {
        Messages::begin(addr, "watch", &json!({"create_request": create}).to_string()).opened()
    }

    /// The next chunk; `None`: the body is over, or was cut.
    pub(crate) fn message(&mut self) -> Option<Value> {
        let mut size = String::new();
        match self.reader.read_line(&mut size) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("{error}"),
        }
        let len = usize::from_str_radix(size.trim_end(), 16).unwrap();
        let mut chunk = vec![0; len + 2];
        self.reader.read_exact(&mut chunk).unwrap();
        let message = chunk[..len].strip_suffix(b"\n")?;
        assert!(!message.contains(&b'\n'), "one message, one chunk");
        Some(serde_json::from_slice(message).unwrap())
    }

    /// The next message, without its envelope.
    #[track_caller]
    pub(crate) fn result(&mut self) -> Value {
        let message = self.message().expect("the stream goes on");
        assert!(message["result"].is_object(), "{message}");
        message["result"].clone()
    }

    /// The events of as many messages as have so many.
    fn events(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            let result = self.result();
            let more = result["events"].as_array().unwrap().clone();
            let last = more.last().unwrap()["kv"]["mod_revision"].clone();
            assert_eq!(result["header"]["revision"], last);
            events.extend(more);
        }
        events
    }
}

#[test]
fn a_watch_tells_what_changes() {
    let cluster = cluster(3);
    let here = addr(&cluster, follower(&cluster));
    let there = addr(&cluster, cluster.leader().unwrap());
    put(there, "a", "0");
    let mut watch = Messages::watch(here, &json!({"key": "YQ==", "prev_kv": true}));
    let created = watch.result();
    assert_eq!((&created["created"], &created["header"]["revision"]), (&true.into(), &"2".into()));
    assert_eq!(created.get("watch_id"), None, "the first one has number 0");
    put(there, "b", "0");
    put(there, "a", "1");
    ok(there, "kv/deleterange", json!({"key": "YQ=="}));
    put(there, "a", "2");
    let kv = |created: &str, revision: &str, version: &str, value: &str| {
        json!({"key": "YQ==", "create_revision": created, "mod_revision": revision,
            "version": version, "value": value})
    };
    let expected = [
        json!({"kv": kv("2", "4", "2", "MQ=="), "prev_kv": kv("2", "2", "1", "MA==")}),
        json!({"type": "DELETE", "kv": {"key": "YQ==", "mod_revision": "5"},
            "prev_kv": kv("2", "4", "2", "MQ==")}),
        json!({"kv": kv("6", "6", "1", "Mg==")}),
    ];
    assert_eq!(watch.events(3), expected);
    // From a revision, of a range, filtered.
    let create = json!({"key": "YQ==", "range_end": "Yw==", "start_revision": "3",
        "filters": ["NODELETE"]});
    let mut watch = Messages::watch(here, &create);
    watch.result();
    let revisions: Vec<Value> =
        watch.events(3).iter().map(|event| event["kv"]["mod_revision"].clone()).collect();
    assert_eq!(revisions, ["3", "4", "6"]);
    // A revision that has not come.
    let mut watch = Messages::watch(here, &json!({"key": "YQ==", "start_revision": 8}));
    assert_eq!(watch.result()["created"], true);
    put(there, "a", "3");
    put(there, "a", "4");
    assert_eq!(watch.events(1)[0]["kv"]["value"], "NA==");
}

#[test]
fn a_revision_is_one_message() {
    let cluster = cluster(1);
    let here = addr(&cluster, MemberId(1));
    let mut watch = Messages::watch(here, &json!({"range_end": "AA=="}));
    watch.result();
    // More than the store tells at once.
    let put = |n: u32| Operation::from(Action::put(format!("key/{n:05}"), vec![b'v'; 100]));
    let txn = Txn { then: (0..5_000).map(put).collect(), ..Txn::default() };
    let (told, hears) = std::sync::mpsc::channel();
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    let api = cluster.api(1).unwrap();
    api.txn(Default::default(), txn, Default::default(), deadline, move |result| {
        told.send(result.is_ok()).unwrap();
    });
    assert!(hears.recv().unwrap());
    let result = watch.result();
    assert_eq!(
        (&result["header"]["revision"], result["events"].as_array().unwrap().len()),
        (&"2".into(), 5_000)
    );
    crate::etcd_kv::put(here, "z", "");
    assert_eq!(watch.events(1)[0]["kv"]["mod_revision"], "3");
}

#[test]
fn a_stream_has_as_many_watches_as_it_asks_for() {
    let cluster = cluster(1);
    let here = addr(&cluster, MemberId(1));
    let body = concat!(
        r#"{"create_request":{"key":"YQ=="}}{"create_request":{"key":"Yg=="}}"#,
        r#"{"create_request":{"key":"Yw==","watch_id":1}}"#,
        r#"{"create_request":{"key":"Yw==","watch_id":"7"}}"#,
        r#"{"create_request":{"key":"Yg==","range_end":"YQ=="}}"#,
        r#"{"cancel_request":{"watch_id":1}}{"cancel_request":{"watch_id":99}}{}"#,
        r#"{"progress_request":{}}"#
    );
    let mut stream = Messages::begin(here, "watch", body).opened();
    let mut next = || {
        let mut result = stream.result();
        result.as_object_mut().unwrap().remove("header");
        result
    };
    assert_eq!(next(), json!({"created": true}));
    assert_eq!(next(), json!({"watch_id": "1", "created": true}));
    let duplicate = "mvcc: duplicate watch ID provided on the WatchStream";
    let refused =
        |why| json!({"watch_id": "-1", "created": true, "canceled": true, "cancel_reason": why});
    assert_eq!(next(), refused(duplicate));
    assert_eq!(next(), json!({"watch_id": "7", "created": true}));
    assert_eq!(next(), refused("mvcc: watcher range is empty"));
    let mut last = [next(), next()];
    last.sort_by_key(Value::to_string);
    assert_eq!(last, [json!({"watch_id": "1", "canceled": true}), json!({"watch_id": "-1"})]);
    for key in ["b", "c", "a"] {
        put(here, key, "");
    }
    let ids: Vec<Value> = (0..2).map(|_| stream.result()["watch_id"].clone()).collect();
    assert_eq!(ids, [json!("7"), Value::Null]);
}

/// One that is canceled or refused has no id any more, and what is asked behind it is done.
#[test]
fn a_stream_goes_on_behind_watches_that_are_canceled_or_refused() {
    let cluster = cluster(1);
    let here = addr(&cluster, MemberId(1));
    let too_long = b64(&"k".repeat(65_537));
    let body = [
        r#"{"create_request":{"key":"YQ==","watch_id":5}}{"cancel_request":{"watch_id":5}}"#,
        r#"{"create_request":{"key":"Yg==","watch_id":5}}"#,
        &format!(r#"{{"create_request":{{"key":"{too_long}"}}}}"#),
        r#"{"create_request":{"key":"Yg=="}}"#,
    ];
    let mut stream = Messages::begin(here, "watch", &body.concat()).opened();
    let mut seen: Vec<Value> = (0..5).map(|_| stream.result()).collect();
    seen.iter_mut().for_each(|it| drop(it.as_object_mut().unwrap().remove("header")));
    let refused = seen.iter().position(|it| it.get("cancel_reason").is_some()).unwrap();
    let refused = seen.remove(refused);
    assert_eq!((&refused["watch_id"], &refused["created"]), (&"-1".into(), &true.into()));
    // Of a watch that is canceled, the hub says so in its own time.
    let canceled = seen.iter().position(|it| it.get("canceled").is_some()).unwrap();
    assert_eq!(seen.remove(canceled), json!({"watch_id": "5", "canceled": true}));
    let created = |id: &str| json!({"watch_id": id, "created": true});
    assert_eq!(seen, [created("5"), created("5"), created("1")]);
    put(here, "b", "v");
    let ids: Vec<Value> = (0..2).map(|_| stream.result()["watch_id"].clone()).collect();
    assert!(ids.contains(&json!("5")) && ids.contains(&json!("1")), "{ids:?}");
}

#[test]
fn a_watch_from_the_compacted_revision_says_how_far_it_is() {
    let cluster = cluster(1);
    let here = addr(&cluster, MemberId(1));
    let at = put(here, "a", "1");
    ok(here, "kv/compaction", json!({"revision": at}));
    let body = format!(
        r#"{{"create_request":{{"key":"YQ==","start_revision":{at}}}}}{{"progress_request":{{}}}}"#
    );
    let mut stream = Messages::begin(here, "watch", &body).opened();
    assert_eq!(stream.result()["created"], true);
    let mut next = [stream.result(), stream.result()];
    next.sort_by_key(|it| it.get("events").is_none());
    assert_eq!(next[0]["events"][0]["kv"]["value"], "MQ==");
    assert_eq!((&next[1]["watch_id"], next[1].get("canceled")), (&"-1".into(), None));
}

#[test]
fn a_watch_of_a_forgotten_revision_says_where_a_new_one_begins() {
    let cluster = cluster(1);
    let here = addr(&cluster, MemberId(1));
    for value in ["1", "2", "3", "4"] {
        put(here, "a", value);
    }
    ok(here, "kv/compaction", json!({"revision": 4}));
    let mut watch = Messages::watch(here, &json!({"key": "YQ==", "start_revision": 3}));
    assert_eq!(watch.result()["created"], true);
    let canceled = watch.result();
    assert_eq!((&canceled["canceled"], &canceled["compact_revision"]), (&true.into(), &"4".into()));
    assert_eq!(canceled["header"].get("revision"), None, "it vouches for nothing");
    // From there on nothing is missing.
    let mut watch = Messages::watch(here, &json!({"key": "YQ==", "start_revision": 4}));
    watch.result();
    let values: Vec<Value> =
        watch.events(2).iter().map(|event| event["kv"]["value"].clone()).collect();
    assert_eq!(values, ["Mw==", "NA=="]);
    put(here, "a", "5");
    assert_eq!(watch.events(1)[0]["kv"]["value"], "NQ==");
}

#[test]
fn a_slow_reader_misses_nothing_and_others_do_not_wait() {
    let cluster = cluster(3);
    let here = addr(&cluster, follower(&cluster));
    let mut slow = Messages::watch(here, &json!({"key": "YQ=="}));
    slow.result();
    let value = "v".repeat(4_000);
    for _ in 0..1_000 {
        put(here, "a", &value);
    }
    let versions: Vec<u64> = slow
        .events(1_000)
        .iter()
        .map(|event| event["kv"]["version"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(versions, (1..=1_000).collect::<Vec<_>>());
}

#[test]
fn watches_go_on_elsewhere_when_a_member_is_cut_off_or_stops() {
    let cluster = cluster(3);
    let alone = follower(&cluster);
    let here = addr(&cluster, alone);
    let mut watch = Messages::watch(here, &json!({"key": "YQ=="}));
    watch.result();
    let first = put(here, "a", "1");
    watch.events(1);
    let others: Vec<MemberId> = cluster.ids().into_iter().filter(|&id| id != alone).collect();
    cluster.partition(&[alone], &others);
    let end = watch.message().unwrap();
    let error = json!({"grpc_code": 14, "code": 14, "http_code": 503,
        "message": "etcdserver: no leader", "http_status": "Service Unavailable", "details": []});
    assert_eq!(end, json!({ "error": error.clone() }));
    assert_eq!(watch.message(), None);
    // Clients expect a stream, whatever its status.
    let body = r#"{"create_request":{"key":"YQ=="}}"#;
    let mut refused = Messages::begin(here, "watch", body).opened_as(503);
    assert_eq!(refused.message(), Some(json!({ "error": error })));
    assert_eq!(refused.message(), None);
    let leader = cluster.leader().unwrap();
    let there = addr(&cluster, leader);
    put(there, "a", "2");
    let from = json!({"key": "YQ==", "start_revision": first + 1});
    let mut watch = Messages::watch(there, &from);
    watch.result();
    assert_eq!(watch.events(1)[0]["kv"]["value"], "Mg==");
    // A leader that comes in time is waited for.
    let waiting = Messages::begin(here, "watch", body);
    cluster.heal();
    assert_eq!(waiting.opened().result()["created"], true);
    stop_ends(&cluster, leader, &mut watch);
}

/// The watch is that of this member.
fn stop_ends(cluster: &Cluster, id: MemberId, watch: &mut Messages) {
    cluster.stop(id);
    let end = watch.message().unwrap();
    assert_eq!(end["error"]["code"], 14, "{end}");
    assert_eq!(watch.message(), None);
}

#[test]
fn a_watch_sees_all_events_while_leaders_die() {
    let cluster = calm_cluster(3);
    let here = follower(&cluster);
    let at = addr(&cluster, here);
    // Its time may be up before somebody leads. If it happens all the same, it is an event more.
    let put = |key: &str, value: &str| {
        let body = json!({"key": b64(key), "value": b64(value)});
        until("it is written", || post(at, "kv/put", &body).0 == 200);
    };
    let mut watch = Messages::watch(at, &json!({"key": b64("k")}));
    watch.result();
    for round in 0..30 {
        if round % 10 == 5 {
            let mut leader = here;
            // The watch is that of a member that stays.
            until("another one leads", || {
                leader = cluster.leader().unwrap();
                if leader == here {
                    let target = json!({"targetID": here.0 % 3 + 1});
                    post(at, "maintenance/transfer-leadership", &target);
                }
                leader != here
            });
            cluster.kill(leader);
            put("other", "x");
            cluster.restart(leader).unwrap();
        }
        put("k", &round.to_string());
    }
    let last = ok(at, "kv/range", json!({"key": b64("k")}))["kvs"][0]["version"].clone();
    let written: usize = last.as_str().unwrap().parse().unwrap();
    assert!(written >= 30, "{written}");
    let versions: Vec<usize> = watch
        .events(written)
        .iter()
        .map(|event| event["kv"]["version"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(versions.iter().copied().eq(1..=versions.len()), "{versions:?}");
}
