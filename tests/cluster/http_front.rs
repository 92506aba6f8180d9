//! The store over HTTP: `/v1/kv/KEY` and `/v1/txn`, on any member, while leaders die.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use syncraft::front::http::HttpFront;
use syncraft::kv::LimitsChange;
use syncraft::raft::MemberId;
use syncraft::rpc::http::{Answer, Request, Server};
use syncraft::testing::{Cluster, Options};

use crate::nodes::until;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The front of a member of a cluster.
pub(crate) fn serve(cluster: &Cluster, id: MemberId) -> Server {
    let front = HttpFront::new(cluster.api(id).unwrap(), cluster.lanes(id).unwrap());
    let handler = move |request: &mut Request<'_>, answer: Answer| front.handle(request, answer);
    Server::builder(handler).bind("127.0.0.1:0").start().unwrap()
}

pub(crate) fn follower(cluster: &Cluster) -> MemberId {
    let leader = cluster.leader().unwrap();
    cluster.ids().into_iter().find(|&id| id != leader).unwrap()
}

#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

/// `line`: the method and the target. `fields`: each ends with CR LF.
fn ask_once_with(addr: SocketAddr, line: &str, fields: &str, body: &[u8]) -> Got {
    ask_host(addr, &addr.to_string(), line, fields, body)
}

fn ask_host(addr: SocketAddr, host: &str, line: &str, fields: &str, body: &[u8]) -> Got {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let len = body.len();
    let own = format!("Host: {host}\r\nConnection: close\r\nContent-Length: {len}\r\n");
    let head = format!("{line} HTTP/1.1\r\n{own}{fields}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses it need not read it.
    let _ = stream.write_all(body);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let end = all.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Got { status, head, body: all[end + 4..].to_vec() }
}

/// The same. While leaders change, a member may serve nobody for a moment: then it is asked again.
pub(crate) fn ask_with(addr: SocketAddr, line: &str, fields: &str, body: &[u8]) -> Got {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let got = ask_once_with(addr, line, fields, body);
        if got.status != 503 || Instant::now() >= deadline {
            return got;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn ask_once(addr: SocketAddr, line: &str, body: &str) -> Got {
    ask_once_with(addr, line, "", body.as_bytes())
}

pub(crate) fn ask(addr: SocketAddr, line: &str, body: &str) -> Got {
    ask_with(addr, line, "", body.as_bytes())
}

#[test]
fn keys_are_written_and_read_on_every_member() {
    let cluster = Cluster::start(3).unwrap();
    let servers: Vec<Server> = cluster.ids().into_iter().map(|id| serve(&cluster, id)).collect();
    let addrs: Vec<SocketAddr> = servers.iter().map(Server::local_addr).collect();
    for (n, &addr) in addrs.iter().enumerate() {
        let key = format!("/v1/kv/key%2F{n}");
        assert_eq!(ask(addr, &format!("GET {key}"), "").status, 404);
        let put = ask(addr, &format!("PUT {key}"), "one");
        assert_eq!(put.status, 200, "{put:?}");
        let revision = put.json()["revision"].as_u64().unwrap();
        assert_eq!(put.field("ETag"), Some(&*format!("\"{revision}\"")));
        // Whoever has an answer finds it on all members.
        for &other in &addrs {
            let got = ask(other, &format!("GET {key}"), "");
            assert_eq!(
                (got.status, got.text(), got.field("ETag")),
                (200, "one", put.field("ETag"))
            );
        }
        let appended = ask(addr, &format!("POST {key}"), ", two");
        assert_eq!(appended.json()["value_len"], 8);
        let entry = ask(addr, &format!("GET {key}?json"), "").json();
        assert_eq!((&entry["value"], &entry["version"]), (&"one, two".into(), &2.into()));
        assert_eq!(entry["key"], format!("key/{n}"));
        assert_eq!(ask(addr, &format!("HEAD {key}"), "").body, b"");
        assert_eq!(ask(addr, &format!("DELETE {key}"), "").json()["count"], 1);
        assert_eq!(ask(addr, &format!("DELETE {key}"), "").status, 404);
        let past = ask(addr, &format!("GET {key}?at={revision}"), "");
        assert_eq!(past.text(), "one");
    }
    let stale = ask(addrs[0], "GET /v1/kv/key/1?stale=10s", "");
    assert_eq!(stale.status, 404);
    assert!(stale.field("Syncraft-Age-Ms").unwrap().parse::<u64>().unwrap() < 10_000);
}

#[test]
fn keys_and_values_are_any_bytes() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let addr = server.local_addr();
    let every_byte: Vec<u8> = (0..=255).collect();
    for (target, key) in [
        ("%00%ff", &b"\x00\xff"[..]),
        ("a/../b", b"a/../b"),
        ("a%2f..%2F", b"a/../"),
        ("", b""),
        ("//", b"//"),
        ("%3Fa%3Db%26%25", b"?a=b&%"),
        ("+", b"+"),
    ] {
        assert_eq!(ask_with(addr, &format!("PUT /v1/kv/{target}"), "", &every_byte).status, 200);
        let value = cluster.clerk().get(key).unwrap();
        assert_eq!(value.as_deref(), Some(&every_byte[..]), "{target}");
        assert_eq!(ask(addr, &format!("GET /v1/kv/{target}"), "").body, every_byte);
    }
    let json = ask(addr, "GET /v1/kv/%00%ff?json", "").json();
    assert_eq!(json["key"]["base64"], "AP8=");
    let long = vec![b'x'; 15 << 20];
    assert_eq!(ask_with(addr, "PUT /v1/kv/long", "", &long).status, 200);
    assert_eq!(ask(addr, "GET /v1/kv/long", "").body.len(), long.len());
    let refused = ask(addr, "POST /v1/kv/long", "x");
    assert_eq!((refused.status, refused.error()), (413, "too_long".to_owned()));
    let refused = ask_with(addr, "PUT /v1/kv/long", "", &vec![b'x'; (15 << 20) + 1]);
    assert_eq!(refused.status, 413);
}

#[test]
fn a_write_with_a_condition_happens_only_if_it_holds() {
    let cluster = Cluster::start(3).unwrap();
    let server = serve(&cluster, follower(&cluster));
    let addr = server.local_addr();
    let with = |line: &str, fields: &str| ask_with(addr, line, fields, b"v");
    // Absent: only conditions hold that want no entry.
    for (line, fields, status) in [
        ("PUT /v1/kv/k?cas=7", "", 409),
        ("PUT /v1/kv/k", "If-Match: *\r\n", 412),
        ("PUT /v1/kv/k", "If-Match: \"7\"\r\n", 412),
        ("POST /v1/kv/k", "If-Match: *\r\n", 412),
        ("DELETE /v1/kv/k", "If-Match: *\r\n", 412),
        ("GET /v1/kv/k", "If-Match: *\r\n", 412),
        ("PUT /v1/kv/k", "If-None-Match: *\r\n", 200),
        // From here on it is there.
        ("PUT /v1/kv/k", "If-None-Match: *\r\n", 412),
        ("PUT /v1/kv/k?cas=0", "", 409),
        ("PUT /v1/kv/k", "If-Match: *\r\n", 200),
        ("PUT /v1/kv/k", "If-None-Match: \"0\"\r\n", 200),
        ("PUT /v1/kv/k", "If-Match: \"foreign\"\r\n", 412),
        ("PUT /v1/kv/k", "If-Match: 7\r\n", 400),
        ("PUT /v1/kv/k", "If-Match: \"7\", \"8\"\r\n", 400),
    ] {
        let got = with(line, fields);
        assert_eq!(got.status, status, "{line} {fields}: {got:?}");
    }
    let found = with("PUT /v1/kv/k?cas=1", "");
    assert_eq!((found.status, found.error()), (409, "condition".to_owned()));
    let revision = found.json()["mod_revision"].as_u64().unwrap();
    let tag = found.field("ETag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{revision}\""));
    let unchanged = with("GET /v1/kv/k", &format!("If-None-Match: {tag}\r\n"));
    assert_eq!((unchanged.status, &unchanged.body[..]), (304, &b""[..]));
    assert_eq!(with("GET /v1/kv/k", &format!("If-None-Match: W/{tag}\r\n")).status, 304);
    assert_eq!(with("GET /v1/kv/k", "If-None-Match: \"1\"\r\n").status, 200);
    assert_eq!(with("PUT /v1/kv/k", &format!("If-Match: W/{tag}\r\n")).status, 412);
    assert_eq!(with(&format!("PUT /v1/kv/k?cas={revision}"), "").status, 200);
    assert_eq!(with("DELETE /v1/kv/k", &format!("If-Match: {tag}\r\n")).status, 412);
    let tag = with("GET /v1/kv/k", "").field("ETag").unwrap().to_owned();
    assert_eq!(with("DELETE /v1/kv/k", &format!("If-Match: {tag}\r\n")).status, 200);
    assert_eq!(cluster.clerk().get("k").unwrap(), None);
}

/// Pages are of one revision, whatever is written meanwhile.
#[test]
fn a_list_is_read_page_by_page_at_one_revision() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let addr = server.local_addr();
    let clerk = cluster.clerk();
    for n in 0..10 {
        clerk.put(format!("p/{n}\u{e4} &"), n.to_string()).unwrap();
    }
    clerk.put("q", "not of the list").unwrap();
    let (mut found, mut pages) = (Vec::new(), 0);
    let mut next = Some("/v1/kv/p/?prefix&limit=3".to_owned());
    while let Some(target) = next.take() {
        let got = ask(addr, &format!("GET {target}"), "");
        assert_eq!(got.status, 200, "{got:?}");
        let page = got.json();
        for entry in page["entries"].as_array().unwrap() {
            found.push(entry["value"].as_str().unwrap().to_owned());
        }
        next = page["next"].as_str().map(str::to_owned);
        let link = next.as_ref().map(|next| format!("<{next}>; rel=\"next\""));
        assert_eq!(got.field("Link"), link.as_deref());
        clerk.put("p/0\u{e4} &", "changed").unwrap();
        clerk.put("p/99", "new").unwrap();
        clerk.delete("p/7\u{e4} &").unwrap();
        pages += 1;
    }
    assert_eq!((found.concat(), pages), ("0123456789".to_owned(), 4));
    let keys = ask(addr, "GET /v1/kv/?prefix&keys", "").json();
    let keys = keys["entries"].as_array().unwrap().clone();
    assert_eq!((keys.len(), &keys[0]["value"]), (11, &serde_json::Value::Null));
    let nothing = ask(addr, "GET /v1/kv/none?prefix", "").json();
    assert_eq!(nothing["entries"], serde_json::json!([]));
    let deleted = ask(addr, "DELETE /v1/kv/p/?prefix", "");
    assert_eq!(deleted.json()["count"], 10);
    assert_eq!(clerk.get("q").unwrap().as_deref(), Some(&b"not of the list"[..]));
}

#[test]
fn transactions_are_those_of_the_command_line() {
    let cluster = Cluster::start(3).unwrap();
    let server = serve(&cluster, follower(&cluster));
    let addr = server.local_addr();
    let txn = r#"{"compare": [{"key": "a", "version": 0}],
        "then": [{"put": {"key": "a", "value": "1"}}, {"increment": {"key": "n", "by": 2}}],
        "else": [{"range": {"key": "a"}}]}"#;
    let first = ask(addr, "POST /v1/txn", txn).json();
    assert_eq!(
        (&first["held"], &first["answers"][1]["increment"]["value"]),
        (&true.into(), &2.into())
    );
    let second = ask(addr, "POST /v1/txn", txn).json();
    assert_eq!(second["held"], false);
    assert_eq!(second["answers"][0]["range"]["entries"][0]["value"], "1");
    let read = r#"{"then": [{"range": {"prefix": ""}}]}"#;
    let stale = ask(addr, "POST /v1/txn?stale=10s", read);
    assert!(stale.field("Syncraft-Age-Ms").is_some());
    assert_eq!(stale.json()["answers"][0]["range"]["count"], 2);
    let failed = ask(
        addr,
        "POST /v1/txn",
        r#"{"then": [{"append": {"key": "a", "value": "x"}},
        {"increment": {"key": "a"}}]}"#,
    );
    assert_eq!((failed.status, failed.error()), (409, "failed".to_owned()));
    assert_eq!(ask(addr, "GET /v1/kv/a", "").text(), "1");
}

#[test]
fn requests_that_make_no_sense_are_told_why() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let addr = server.local_addr();
    for (line, status, error) in [
        ("GET /v1/", 404, "no_such_path"),
        ("GET /v1/kv", 404, "no_such_path"),
        ("GET /v1/txn", 405, "method"),
        ("PATCH /v1/kv/k", 405, "method"),
        ("GET /v1/kv/k?nonsense", 400, "invalid"),
        ("GET /v1/kv/k?cas=1", 400, "invalid"),
        ("PUT /v1/kv/k?stale", 400, "invalid"),
        ("PUT /v1/kv/k?cas=x", 400, "invalid"),
        ("PUT /v1/kv/k?cas", 400, "invalid"),
        ("GET /v1/kv/k?json=1", 400, "invalid"),
        ("GET /v1/kv/k?prefix&limit=0", 400, "invalid"),
        ("GET /v1/kv/k?timeout=1", 400, "invalid"),
        ("GET /v1/kv/k?at=1000", 400, "in_the_future"),
        ("DELETE /v1/kv/k?prefix&cas=1", 400, "invalid"),
        ("POST /v1/txn", 400, "invalid"),
    ] {
        let got = ask(addr, line, "");
        assert_eq!((got.status, &*got.error()), (status, error), "{line}: {}", got.text());
        assert!(got.text().ends_with('\n'));
    }
    let long = format!("PUT /v1/kv/{}", "k".repeat(20_000));
    assert_eq!(ask(addr, &long, "").status, 414);
    let key = "k".repeat(65_537);
    let txn = format!(r#"{{"then": [{{"put": {{"key": "{key}", "value": ""}}}}]}}"#);
    assert_eq!(ask(addr, "POST /v1/txn", &txn).error(), "invalid");
    assert_eq!(cluster.clerk().stats().unwrap().keys, 0);
}

/// Otherwise any page that somebody looks at could write to a cluster that the browser reaches.
#[test]
fn a_page_of_another_site_writes_nothing() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let addr = server.local_addr();
    let with = |line: &str, origin: &str| {
        ask_with(addr, line, &format!("Origin: {origin}\r\n"), b"v").status
    };
    assert_eq!(with("POST /v1/kv/k", "http://evil.example"), 403);
    assert_eq!(with("PUT /v1/kv/k", "null"), 403);
    assert_eq!(with("GET /v1/kv/k", "http://evil.example"), 404);
    assert_eq!(with("PUT /v1/kv/k", &format!("http://{addr}")), 200);
}

/// A member that reaches nobody says that the write did not happen. A leader that has it in its log
/// says that it may.
#[test]
fn what_became_of_a_write_without_a_majority_is_told() {
    let mut options = Options::default();
    // A leader that is cut off must still lead when it is asked.
    options.timing.election_min = Duration::from_secs(5);
    options.timing.election_max = Duration::from_secs(8);
    let cluster = Cluster::start_with(3, options).unwrap();
    let (leader, alone) = (cluster.leader().unwrap(), follower(&cluster));
    let servers = [serve(&cluster, leader), serve(&cluster, alone)];
    let [of_leader, of_follower] = [servers[0].local_addr(), servers[1].local_addr()];
    let without = |id: MemberId| -> Vec<MemberId> {
        cluster.ids().into_iter().filter(|&other| other != id).collect()
    };
    // From now on it knows how old its state is.
    assert_eq!(ask(of_follower, "GET /v1/kv/k", "").status, 404);
    cluster.partition(&[leader], &without(leader));
    let unknown = ask_once(of_leader, "POST /v1/kv/k?timeout=200ms", "1");
    assert_eq!((unknown.status, unknown.error()), (504, "unknown".to_owned()), "{unknown:?}");
    assert!(unknown.text().contains("may have taken effect"));
    let read = ask_once(of_leader, "GET /v1/kv/k?timeout=200ms", "");
    assert_eq!((read.status, read.field("Retry-After")), (503, Some("1")), "{read:?}");
    cluster.heal();
    cluster.partition(&[alone], &without(alone));
    // It notices that its leader is gone, and then knows nobody to bring the write to.
    let told = (0..100).map(|_| ask_once(of_follower, "POST /v1/kv/other?timeout=300ms", "1"));
    let refused = told.into_iter().find(|got| got.status == 503).expect("it knows no leader");
    assert_eq!(
        (refused.error(), refused.field("Retry-After")),
        ("not_applied".to_owned(), Some("1"))
    );
    // Its own state it still tells, with how old it may be.
    assert!(ask_once(of_follower, "GET /v1/kv/k?stale", "").field("Syncraft-Age-Ms").is_some());
}

/// Each request is one append of its own number: one that was acknowledged is there once, and none
/// is there twice.
#[test]
fn writes_over_http_take_effect_at_most_once_while_the_leader_dies() {
    const CLIENTS: usize = 8;
    const WRITES: usize = 40;
    let cluster = Arc::new(Cluster::start(3).unwrap());
    let here = follower(&cluster);
    let server = serve(&cluster, here);
    let (addr, done) = (server.local_addr(), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let done = done.clone();
            thread::spawn(move || {
                (0..WRITES)
                    .map(|n| format!("{client}.{n},"))
                    .filter(|number| {
                        let got = ask(addr, "POST /v1/kv/numbers?timeout=30s", number);
                        assert!([200, 504].contains(&got.status), "{got:?}");
                        done.fetch_add(1, Ordering::SeqCst);
                        got.status == 200
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    while done.load(Ordering::SeqCst) < CLIENTS * WRITES / 4 {
        thread::yield_now();
    }
    let mut leader = here;
    // Since an election, the front's own member may lead.
    until("another one leads", || {
        leader = cluster.leader().unwrap();
        if leader == here {
            cluster.api(here).unwrap().transfer(MemberId(here.0 % 3 + 1));
        }
        leader != here
    });
    cluster.kill(leader);
    let acknowledged: Vec<String> =
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let value = String::from_utf8(ask(addr, "GET /v1/kv/numbers", "").body).unwrap();
    let times = |number: &str| value.split_inclusive(',').filter(|it| *it == number).count();
    assert!(acknowledged.iter().all(|number| times(number) == 1));
    assert!(value.split_inclusive(',').all(|number| times(number) == 1));
    assert!(acknowledged.len() > CLIENTS * WRITES / 2, "{}", acknowledged.len());
}

/// A client that does not know what became of a request sends it again with the same key, to any
/// member, until it knows.
#[test]
fn requests_with_a_key_take_effect_once_however_often_they_are_sent() {
    const CLIENTS: usize = 4;
    const WRITES: usize = 40;
    let cluster = Arc::new(Cluster::start(3).unwrap());
    let servers: Vec<Server> = cluster.ids().into_iter().map(|id| serve(&cluster, id)).collect();
    let addrs: Vec<SocketAddr> = servers.iter().map(Server::local_addr).collect();
    let done = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (addrs, done) = (addrs.clone(), done.clone());
            thread::spawn(move || {
                for n in 0..WRITES {
                    let number = format!("{client}.{n},");
                    let key = format!("Idempotency-Key: \"{client}-{n}\"\r\n");
                    let send = |at: usize| {
                        let line = "POST /v1/kv/numbers?timeout=1s";
                        ask_once_with(addrs[at % addrs.len()], line, &key, number.as_bytes())
                    };
                    let first = (0..).map(send).find(|got| got.status == 200).unwrap();
                    // Another member knows the answer as well, if it is not the one that has died.
                    let again = (client..).map(send).find(|got| got.status == 200).unwrap();
                    assert_eq!(again.text(), first.text());
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    while done.load(Ordering::SeqCst) < CLIENTS * WRITES / 4 {
        thread::yield_now();
    }
    cluster.kill(cluster.leader().unwrap());
    clients.into_iter().for_each(|client| client.join().unwrap());
    let got =
        (0..).map(|at| ask_once(addrs[at % addrs.len()], "GET /v1/kv/numbers?timeout=1s", ""));
    let value = String::from_utf8(got.into_iter().find(|got| got.status == 200).unwrap().body);
    let mut numbers: Vec<String> = value.unwrap().split_inclusive(',').map(str::to_owned).collect();
    let all = numbers.len();
    numbers.sort();
    numbers.dedup();
    assert_eq!((all, numbers.len()), (CLIENTS * WRITES, CLIENTS * WRITES));
}

#[test]
fn a_key_of_a_request_belongs_to_what_it_asks_for() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let ask = |line: &str, key: &str, body: &str| {
        let field = format!("idempotency-key: {key}\r\n");
        ask_with(server.local_addr(), line, &field, body.as_bytes())
    };
    let first = ask("POST /v1/kv/k", "\"a\"", "x");
    assert_eq!(first.status, 200);
    // With quotes or without, it is the same.
    assert_eq!(ask("POST /v1/kv/k", "a", "x").text(), first.text());
    for (line, body) in [("POST /v1/kv/k", "y"), ("PUT /v1/kv/k", "x"), ("DELETE /v1/kv/k", "")] {
        let other = ask(line, "a", body);
        assert_eq!((other.status, other.error()), (422, "key_taken".to_owned()), "{line}");
    }
    // A condition that did not hold is an answer, too.
    let failed = ask("PUT /v1/kv/k?cas=0", "b", "x");
    assert_eq!(failed.status, 409);
    ask("DELETE /v1/kv/k", "c", "");
    let again = ask("PUT /v1/kv/k?cas=0", "b", "x");
    assert_eq!((again.status, again.text()), (409, failed.text()));
    let longest = "k".repeat(255);
    assert_eq!(ask("PUT /v1/kv/k", &longest, "x").status, 200);
    for key in ["", "\"\"", "two words", "\"a", "a\"b", "\\", "grün", &format!("{longest}k")] {
        let got = ask("PUT /v1/kv/k", key, "x");
        assert_eq!((got.status, got.error()), (400, "invalid".to_owned()), "{key}");
    }
    let twice = ask("PUT /v1/kv/k", "a\r\nIdempotency-Key: b", "x");
    assert_eq!(twice.status, 400);
}

/// A refused request has changed nothing. Sent again, it may succeed.
#[test]
fn a_refusal_is_not_remembered_for_a_key() {
    let cluster = Cluster::start(1).unwrap();
    let (server, clerk) = (serve(&cluster, MemberId(1)), cluster.clerk());
    let set = |keys_max| {
        clerk.set_limits(LimitsChange { keys_max: Some(keys_max), ..LimitsChange::default() })
    };
    set(0).unwrap();
    let put = || ask_with(server.local_addr(), "PUT /v1/kv/k", "Idempotency-Key: a\r\n", b"v");
    assert_eq!((put().status, put().error()), (507, "no_space".to_owned()));
    set(9).unwrap();
    let first = put();
    assert_eq!(first.status, 200, "{first:?}");
    set(0).unwrap();
    assert_eq!(put().text(), first.text());
}

#[test]
fn a_transaction_that_reads_is_made_anew_also_with_a_key() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let addr = server.local_addr();
    let read = || {
        let txn = br#"{"then": [{"range": {"key": "k"}}]}"#;
        let got = ask_with(addr, "POST /v1/txn", "Idempotency-Key: a\r\n", txn);
        assert_eq!(got.status, 200, "{got:?}");
        got.text().to_owned()
    };
    let first = read();
    ask(addr, "PUT /v1/kv/k", "v");
    // Beside the reads, the leader may raise the feature level, with one entry.
    let last_index = || cluster.status(1).unwrap().last_index.0;
    let before = last_index();
    for _ in 0..10 {
        assert_ne!(read(), first);
    }
    assert!(last_index() < before + 10, "they are no entries of the log");
    let stale =
        ask_with(addr, "POST /v1/txn?stale", "", br#"{"then": [{"delete": {"key": "k"}}]}"#);
    assert_eq!((stale.status, stale.error()), (400, "invalid".to_owned()));
    let conditional = ask_with(addr, "POST /v1/txn", "If-Match: \"1\"\r\n", b"{}");
    assert_eq!((conditional.status, conditional.error()), (400, "invalid".to_owned()));
}

/// The thread of a connection has a small stack.
#[test]
fn json_that_is_nested_too_deeply_is_refused() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    for levels in [16, 17, 42, 10_000] {
        let (open, close) = (r#"{"then": [{"txn": "#.repeat(levels - 1), "}]}".repeat(levels - 1));
        let body = format!(r#"{open}{{"then": [{{"delete": {{"key": "k"}}}}]}}{close}"#);
        let got = ask(server.local_addr(), "POST /v1/txn", &body);
        assert_eq!(got.status, if levels == 16 { 200 } else { 400 }, "{levels}: {got:?}");
    }
}

/// The values of a page are more than an answer of the store may have, and one value alone is.
#[test]
fn a_list_of_long_values_has_shorter_pages() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let (addr, clerk) = (server.local_addr(), cluster.clerk());
    for n in 0..10 {
        clerk.put(format!("p/{n}"), vec![b'x'; 1 << 20]).unwrap();
    }
    clerk.put("p/5", vec![b'x'; 9 << 20]).unwrap();
    let (mut keys, mut pages) = (Vec::new(), Vec::new());
    let mut next = Some("/v1/kv/p/?prefix&limit=9".to_owned());
    while let Some(target) = next.take() {
        let got = ask(addr, &format!("GET {target}"), "");
        assert_eq!(got.status, 200, "{target}: {}", got.text());
        let page = got.json();
        let entries = page["entries"].as_array().unwrap();
        keys.extend(entries.iter().map(|it| it["key"].as_str().unwrap().to_owned()));
        pages.push(entries.len());
        next = page["next"].as_str().map(str::to_owned);
        clerk.put("p/6", "changed").unwrap();
        clerk.put(format!("p/1{}", pages.len()), "new").unwrap();
    }
    let all: Vec<String> = (0..10).map(|n| format!("p/{n}")).collect();
    assert_eq!((keys, pages), (all, vec![4, 1, 1, 4]));
}

/// A page of a name that an attacker has pointed at this member is of the same origin.
#[test]
fn a_name_that_is_pointed_at_a_member_gives_a_page_no_access() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let addr = server.local_addr();
    for (host, line, fields, status) in [
        ("evil.example:7381", "POST", "Origin: http://evil.example:7381", 403),
        ("evil.example", "PUT", "Sec-Fetch-Site: same-origin", 403),
        ("evil.example", "GET", "Sec-Fetch-Site: same-origin", 403),
        ("evil.example", "GET", "Origin: http://evil.example", 403),
        ("localhost:7381", "PUT", "Sec-Fetch-Site: cross-site", 403),
        ("localhost:7381", "PUT", "Sec-Fetch-Site: same-site", 403),
        ("localhost:7381", "PUT", "Origin: http://localhost:8080", 403),
        (
            "localhost:7381",
            "PUT",
            "Origin: http://localhost:7381\r\nSec-Fetch-Site: cross-site",
            403,
        ),
        (
            "localhost:7381",
            "PUT",
            "Origin: http://localhost:7381\r\nOrigin: http://evil.example",
            400,
        ),
        ("localhost:7381", "GET", "Sec-Fetch-Site: cross-site", 404),
        ("localhost:7381", "GET", "Sec-Fetch-Site: none", 404),
        (
            "localhost:7381",
            "PUT",
            "Origin: http://localhost:7381\r\nSec-Fetch-Site: same-origin",
            200,
        ),
        ("[::1]:7381", "PUT", "Origin: http://[::1]:7381", 200),
        // No browser.
        ("node1:7381", "PUT", "Accept: */*", 200),
        ("node1:7381", "GET", "Accept: */*", 200),
    ] {
        let fields = format!("{fields}\r\n");
        let got = ask_host(addr, host, &format!("{line} /v1/kv/k"), &fields, b"v");
        assert_eq!(got.status, status, "{host} {line} {fields}: {got:?}");
    }
}

#[test]
fn what_a_request_says_twice_or_in_other_words_is_refused() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let addr = server.local_addr();
    let revision = ask(addr, "PUT /v1/kv/k", "v").json()["revision"].as_u64().unwrap();
    for (line, fields, status) in [
        ("PUT /v1/kv/k", format!("If-Match: \"{revision}\"\r\nif-match: \"1\"\r\n"), 400),
        ("PUT /v1/kv/k", "If-None-Match: \"1\"\r\nIf-None-Match: *\r\n".to_owned(), 400),
        ("GET /v1/kv/k", "If-None-Match: \"1\"\r\nIf-None-Match: *\r\n".to_owned(), 400),
        ("GET /v1/kv/k?prefix", "If-Match: \"1\"\r\n".to_owned(), 400),
        ("GET /v1/kv/k?prefix", "If-None-Match: *\r\n".to_owned(), 400),
        ("GET /v1/kv/k?watch", "If-None-Match: *\r\n".to_owned(), 400),
        ("POST /v1/leases?ttl=1s", "If-Match: *\r\n".to_owned(), 400),
        ("GET /v1/kv/k?watch", "Last-Event-ID: 1\r\nLast-Event-ID: 2\r\n".to_owned(), 400),
        ("GET /v1/kv/k?watch", "Last-Event-ID: +1\r\n".to_owned(), 400),
        ("PUT /v1/kv/k", format!("If-Match: \"+{revision}\"\r\n"), 412),
        ("PUT /v1/kv/k", format!("If-Match: \"0{revision}\"\r\n"), 412),
        ("GET /v1/kv/k", format!("If-None-Match: \"+{revision}\"\r\n"), 200),
    ] {
        let got = ask_with(addr, line, &fields, b"other");
        assert_eq!(got.status, status, "{line} {fields}: {got:?}");
    }
    for line in [
        format!("PUT /v1/kv/k?cas=0&cas={revision}"),
        format!("PUT /v1/kv/k?cas=%2B{revision}"),
        format!("PUT /v1/kv/k?cas=+{revision}"),
        "PUT /v1/kv/k?cas=-1".to_owned(),
        "PUT /v1/kv/k?cas=18446744073709551616".to_owned(),
        "PUT /v1/kv/k?lease=%2B1".to_owned(),
        "PUT /v1/kv/k?timeout=1s&timeout=2s".to_owned(),
        "DELETE /v1/kv/k?prefix&prefix".to_owned(),
        "GET /v1/kv/k?watch&watch".to_owned(),
        "GET /v1/kv/k?at=0".to_owned(),
        "GET /v1/kv/k?prefix&at=0".to_owned(),
    ] {
        let got = ask(addr, &line, "other");
        assert_eq!((got.status, got.error()), (400, "invalid".to_owned()), "{line}: {got:?}");
    }
    assert_eq!(ask(addr, "GET /v1/kv/k", "").text(), "v");
}
