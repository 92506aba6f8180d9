//! Watches over HTTP: each change once, in order and whole, or an end that says why not.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use syncraft::clerk::Clerk;
use syncraft::front::http::HttpFront;
use syncraft::kv::model::{Action, KeyRange, Operation, Txn};
use syncraft::raft::MemberId;
use syncraft::rpc::http::{Answer, Limits, Request, Server};
use syncraft::testing::Cluster;

use crate::http_front::{ask, ask_once, follower, serve};

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

const EVENTS: &str = "Accept: text/event-stream\r\n";

/// A watch whose answer has begun.
struct Watching {
    reader: BufReader<TcpStream>,
    head: String,
    /// What has come of the body and was not looked at.
    body: Vec<u8>,
    is_whole: bool,
}

/// An event, or a line as an event without an id.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    id: Option<u64>,
    data: Value,
}

impl Watching {
    /// `fields`: each ends with CR LF.
    fn begin(addr: SocketAddr, target: &str, fields: &str) -> Watching {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            let head = format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\n{fields}\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            let (mut reader, mut head) = (BufReader::new(stream), String::new());
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
            }
            // While leaders change, a member may serve nobody for a moment.
            if head.starts_with("HTTP/1.1 503 ") && Instant::now() < deadline {
                continue;
            }
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            return Watching { reader, head, body: Vec::new(), is_whole: false };
        }
    }

    fn lines(addr: SocketAddr, target: &str) -> Watching {
        Watching::begin(addr, target, "")
    }

    fn events(addr: SocketAddr, target: &str) -> Watching {
        Watching::begin(addr, target, EVENTS)
    }

    /// The body up to this end, without it. `None`: the answer is over.
    fn text(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.body.windows(end.len()).position(|it| it == end.as_bytes()) {
                let text = self.body.drain(..at + end.len()).take(at).collect();
                return Some(String::from_utf8(text).unwrap());
            }
            let mut size = String::new();
            match self.reader.read_line(&mut size) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}; so far: {:?}", self.body),
            }
            let len = usize::from_str_radix(size.trim_end(), 16).unwrap();
            let mut chunk = vec![0; len + 2];
            self.reader.read_exact(&mut chunk).unwrap();
            if len == 0 {
                self.is_whole = true;
                return None;
            }
            self.body.extend_from_slice(&chunk[..len]);
        }
    }

    fn line(&mut self) -> Option<Value> {
        self.text("\n").map(|line| serde_json::from_str(&line).unwrap())
    }

    /// The next event that is not a comment.
    fn event(&mut self) -> Option<Event> {
        loop {
            let text = self.text("\n\n")?;
            let field = |name: &str| {
                text.lines().find_map(|line| Some(line.strip_prefix(name)?.to_owned()))
            };
            let Some(data) = field("data: ") else {
                assert_eq!(text, ":");
                continue;
            };
            let data: Value = serde_json::from_str(&data).unwrap();
            assert_eq!(field("event: ").as_deref(), data["type"].as_str());
            return Some(Event { id: field("id: ").map(|id| id.parse().unwrap()), data });
        }
    }

    /// The lines up to the first one that is like this.
    fn lines_until(&mut self, is_it: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut lines = Vec::new();
        while !lines.last().is_some_and(&is_it) {
            let line = self.line();
            lines.push(line.unwrap_or_else(|| panic!("it is over, behind {:?}", lines.last())));
        }
        lines
    }

    fn events_until(&mut self, is_it: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        while !events.last().is_some_and(&is_it) {
            let event = self.event();
            events.push(event.unwrap_or_else(|| panic!("it is over, behind {:?}", events.last())));
        }
        events
    }

    /// The end of the answer, whatever comes before it.
    fn end(&mut self) -> Value {
        let end = self.lines_until(|line| line["type"] == "end").pop().unwrap();
        assert_eq!(self.line(), None);
        assert!(self.is_whole);
        end
    }
}

fn serve_all(cluster: &Cluster) -> (Vec<Server>, Vec<SocketAddr>) {
    let servers: Vec<Server> = cluster.ids().into_iter().map(|id| serve(cluster, id)).collect();
    let addrs = servers.iter().map(Server::local_addr).collect();
    (servers, addrs)
}

fn serve_with(cluster: &Cluster, id: MemberId, limits: Limits) -> Server {
    let front = HttpFront::new(cluster.api(id).unwrap(), cluster.lanes(id).unwrap());
    let handler = move |request: &mut Request<'_>, answer: Answer| front.handle(request, answer);
    Server::builder(handler).limits(limits).bind("127.0.0.1:0").start().unwrap()
}

fn revision(clerk: &Clerk) -> u64 {
    clerk.stats().unwrap().revision.0
}

/// Changes three keys at once.
fn write_three(clerk: &Clerk, n: usize) {
    let last = match n % 5 {
        4 => Action::delete(KeyRange::key("k/c")),
        _ => Action::put("k/c", n.to_string()),
    };
    let actions = [Action::put("k/b", "v"), Action::append("k/a", "x"), last];
    let then = actions.into_iter().map(Operation::from).collect();
    clerk.run(&Txn { then, ..Txn::default() }).unwrap();
}

fn mod_revision(change: &Value) -> u64 {
    change["mod_revision"].as_u64().unwrap()
}

fn is_change(value: &Value) -> bool {
    value["type"] == "put" || value["type"] == "delete"
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not yet: {what}");
        thread::yield_now();
    }
}

#[test]
fn all_members_tell_the_same_changes_whole_and_in_order() {
    const WRITES: usize = 60;
    let cluster = Cluster::start(3).unwrap();
    let ((_servers, addrs), clerk) = (serve_all(&cluster), cluster.clerk());
    let target = "/v1/kv/k/?watch&prefix";
    let mut lines: Vec<_> = addrs.iter().map(|&addr| Watching::lines(addr, target)).collect();
    let mut events: Vec<_> = addrs.iter().map(|&addr| Watching::events(addr, target)).collect();
    for n in 0..WRITES {
        write_three(&clerk, n);
        clerk.put("other", "v").unwrap();
    }
    let last = revision(&clerk) - 1;
    let told: Vec<Vec<Value>> = lines
        .iter_mut()
        .map(|it| {
            let first = it.line().unwrap();
            let begin = it.head.split("Syncraft-Revision: ").nth(1).unwrap();
            let begin = begin.lines().next().unwrap().parse::<u64>().unwrap();
            assert_eq!(first, json!({"type": "progress", "revision": begin}));
            assert!(it.head.contains("Content-Type: application/x-ndjson\r\n"));
            let rest = it.lines_until(|line| {
                line["type"] == "progress" && line["revision"].as_u64() >= Some(last)
            });
            // What comes behind progress is newer.
            let mut complete_to = 0;
            for line in &rest {
                match is_change(line) {
                    true => assert!(mod_revision(line) > complete_to, "{line}"),
                    false => complete_to = line["revision"].as_u64().unwrap(),
                }
            }
            rest.into_iter().filter(is_change).collect()
        })
        .collect();
    assert_eq!(told[0].len(), 3 * WRITES);
    assert!(told[0] == told[1] && told[1] == told[2]);
    for (n, of_one) in told[0].chunks(3).enumerate() {
        let keys: Vec<&str> = of_one.iter().map(|it| it["key"].as_str().unwrap()).collect();
        assert_eq!(keys, ["k/a", "k/b", "k/c"]);
        assert!(of_one.iter().all(|it| mod_revision(it) == mod_revision(&of_one[0])));
        assert_eq!(of_one[0]["value"], "x".repeat(n + 1));
        assert_eq!(of_one[2]["type"], if n % 5 == 4 { "delete" } else { "put" });
    }
    for it in &mut events {
        assert!(it.head.contains("Content-Type: text/event-stream\r\n"), "{}", it.head);
        let all = it.events_until(|event| event.id >= Some(last));
        assert!(all[0].id.is_some() && all[0].data["type"] == "progress");
        let changes: Vec<&Event> = all.iter().filter(|it| is_change(&it.data)).collect();
        assert!(changes.iter().map(|it| &it.data).eq(&told[0]));
        // Only the last change of a revision has its id.
        for (n, event) in changes.iter().enumerate() {
            let expected = (n % 3 == 2).then(|| mod_revision(&event.data));
            assert_eq!(event.id, expected, "{event:?}");
        }
    }
}

/// A stream may be cut anywhere. Whoever goes on behind the last id gets the rest of the changes,
/// each transaction whole.
#[test]
fn a_watch_goes_on_at_another_member_when_its_own_dies() {
    const WRITES: usize = 40;
    let cluster = Cluster::start(3).unwrap();
    let leader = cluster.leader().unwrap();
    let (one, other) = (serve(&cluster, leader), serve(&cluster, follower(&cluster)));
    let clerk = cluster.clerk();
    let target = "/v1/kv/k/?watch&prefix";
    let mut events = Watching::events(one.local_addr(), target);
    (0..WRITES / 2).for_each(|n| write_three(&clerk, n));
    let half = revision(&clerk);
    let seen = events.events_until(|event| event.id >= Some(half));
    let mut lines = Watching::lines(one.local_addr(), target);
    cluster.kill(leader);
    // It says that it goes on elsewhere.
    assert_eq!(lines.end()["error"], "not_served");
    let end = events.events_until(|event| event.data["type"] == "end").pop().unwrap();
    assert_eq!(end.data["error"], "not_served");
    (WRITES / 2..WRITES).for_each(|n| write_three(&clerk, n));
    let last = revision(&clerk);
    let from = mod_revision(&seen.iter().find(|it| is_change(&it.data)).unwrap().data);
    let from = format!("{target}&from={from}");
    let changes_of = |events: Vec<Event>| -> Vec<Value> {
        events.into_iter().map(|it| it.data).filter(is_change).collect()
    };
    let mut whole = Watching::events(other.local_addr(), &from);
    let whole = changes_of(whole.events_until(|event| event.id >= Some(last)));
    assert_eq!(whole.len(), 3 * WRITES);
    for cut in [1, 2, 3, 4, seen.len() - 2, seen.len() - 1, seen.len()] {
        let seen = &seen[..cut];
        let id = seen.iter().rev().find_map(|it| it.id).unwrap();
        let fields = format!("{EVENTS}Last-Event-ID: {id}\r\n");
        // The target still has its first revision.
        let mut rest = Watching::begin(other.local_addr(), &from, &fields);
        let rest = changes_of(rest.events_until(|event| event.id >= Some(last)));
        assert!(rest.iter().all(|it| mod_revision(it) > id));
        let whole_before = whole.iter().filter(|it| mod_revision(it) <= id).cloned();
        let all: Vec<Value> = whole_before.chain(rest).collect();
        assert!(all == whole, "cut behind event {cut}");
        let mut rest = Watching::lines(other.local_addr(), &format!("{target}&from={}", id + 1));
        assert_eq!(rest.line().unwrap(), json!({"type": "progress", "revision": id}));
        let rest = rest.lines_until(|line| line["revision"].as_u64() >= Some(last));
        let rest = rest.into_iter().filter(is_change);
        let whole_before = whole.iter().filter(|it| mod_revision(it) <= id).cloned();
        assert!(whole_before.chain(rest).eq(whole.iter().cloned()), "cut behind event {cut}");
    }
}

#[test]
fn what_is_forgotten_is_told_with_the_revision_at_which_a_watch_can_begin() {
    let cluster = Cluster::start(1).unwrap();
    let (server, clerk) = (serve(&cluster, MemberId(1)), cluster.clerk());
    let addr = server.local_addr();
    let mut quiet = Watching::lines(addr, "/v1/kv/quiet?watch");
    (0..10).for_each(|n| clerk.put("k", n.to_string()).unwrap());
    let now = revision(&clerk);
    clerk.compact(syncraft::kv::model::Revision(now)).unwrap();
    for (target, fields) in [
        ("GET /v1/kv/k?watch&from=1", String::new()),
        ("GET /v1/kv/?watch&prefix&from=2", String::new()),
        ("GET /v1/kv/k?watch", format!("{EVENTS}Last-Event-ID: 0\r\n")),
    ] {
        let got = crate::http_front::ask_with(addr, target, &fields, b"");
        assert_eq!((got.status, &*got.error()), (410, "compacted"), "{got:?}");
        assert_eq!(got.json()["first_revision"], now + 1, "{got:?}");
    }
    let mut next = Watching::lines(addr, &format!("/v1/kv/k?watch&from={}", now + 1));
    clerk.put("k", "new").unwrap();
    let told = next.lines_until(is_change);
    assert_eq!(told.last().unwrap()["value"], "new");
    // What it needs is not forgotten.
    clerk.put("quiet", "v").unwrap();
    assert_eq!(quiet.lines_until(is_change).last().unwrap()["value"], "v");
}

/// What a client does not read is not kept for it, and others get theirs meanwhile.
#[test]
fn a_slow_client_costs_others_nothing_and_is_told_what_it_has_lost() {
    const WRITES: usize = 3_000;
    let cluster = Cluster::start(1).unwrap();
    let mut limits = Limits::default();
    limits.write_timeout = 2 * TEST_TIMEOUT;
    let (server, clerk) = (serve_with(&cluster, MemberId(1), limits), cluster.clerk());
    let addr = server.local_addr();
    let [mut slow, mut fast, mut lost] = [(); 3].map(|()| Watching::lines(addr, "/v1/kv/k?watch"));
    let value = |n: usize| format!("{n}{}", "x".repeat(4_000));
    (0..WRITES).for_each(|n| clerk.put("k", value(n)).unwrap());
    let last = revision(&clerk);
    let changes = |it: &mut Watching| -> Vec<Value> {
        let lines =
            it.lines_until(|line| line["type"] == "end" || line["revision"].as_u64() >= Some(last));
        lines.into_iter().filter(is_change).collect()
    };
    for it in [&mut fast, &mut slow] {
        let told = changes(it);
        assert!(told.iter().map(|it| it["value"].as_str().unwrap()).eq((0..WRITES).map(value)));
    }
    clerk.compact(syncraft::kv::model::Revision(last)).unwrap();
    let told = lost.lines_until(|line| line["type"] == "end");
    let end = told.last().unwrap();
    assert_eq!((&end["error"], &end["first_revision"]), (&"compacted".into(), &(last + 1).into()));
    let told: Vec<&Value> = told.iter().filter(|it| is_change(it)).collect();
    let expected = (0..told.len()).map(value);
    assert!(
        told.len() < WRITES && told.iter().map(|it| it["value"].as_str().unwrap()).eq(expected)
    );
    assert_eq!(mod_revision(told[told.len() - 1]), end["revision"].as_u64().unwrap());
}

#[test]
fn a_client_that_goes_or_does_not_read_ends_its_watch() {
    const CLIENTS: usize = 50;
    let cluster = Cluster::start(1).unwrap();
    let mut limits = Limits::default();
    limits.write_timeout = Duration::from_millis(200);
    let (server, clerk) = (serve_with(&cluster, MemberId(1), limits), cluster.clerk());
    let (addr, api) = (server.local_addr(), cluster.api(MemberId(1)).unwrap());
    let mut watching: Vec<Watching> =
        (0..CLIENTS).map(|_| Watching::lines(addr, "/v1/kv/quiet?watch")).collect();
    assert_eq!(api.open_watches(), CLIENTS);
    // Some end only their side: there is nothing that they could still ask.
    for it in watching.drain(..CLIENTS / 2).rev() {
        it.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    }
    drop(watching);
    wait_for("all clients have gone", || api.open_watches() == 0);
    wait_for("their connections, too", || server.stats().connections == 0);
    let deaf = Watching::lines(addr, "/v1/kv/k?watch");
    let value = "x".repeat(100_000);
    wait_for("a client that does not read is cut", || {
        clerk.put("k", value.clone()).unwrap();
        api.open_watches() == 0
    });
    drop(deaf);
}

/// A watch that a member without a leader keeps open looks as if all were well.
#[test]
fn a_member_that_is_cut_off_says_so_and_ends_its_watches() {
    let cluster = Cluster::start(3).unwrap();
    let alone = follower(&cluster);
    let server = serve(&cluster, alone);
    let addr = server.local_addr();
    let mut lines = Watching::lines(addr, "/v1/kv/?watch&prefix");
    let mut events = Watching::events(addr, "/v1/kv/?watch&prefix");
    let others: Vec<MemberId> = cluster.ids().into_iter().filter(|&id| id != alone).collect();
    cluster.partition(&[alone], &others);
    let end = lines.end();
    assert_eq!(end["error"], "not_served", "{end}");
    assert!(end["revision"].is_u64() && end["message"].is_string(), "{end}");
    let end = events.events_until(|event| event.data["type"] == "end").pop().unwrap();
    assert_eq!((end.id, &end.data["error"]), (None, &"not_served".into()));
    let refused = ask_once(addr, "GET /v1/kv/k?watch", "");
    assert_eq!((refused.status, &*refused.error()), (503, "not_served"));
    assert_eq!(refused.field("Retry-After"), Some("1"));
    cluster.heal();
    cluster.clerk().put("k", "v").unwrap();
    wait_for("it serves again", || {
        let got = ask(addr, "GET /v1/kv/k?watch&from=1000000", "");
        // It knows what has not come.
        got.status == 400
    });
}

#[test]
fn a_member_that_stops_ends_its_watches() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let mut lines = Watching::lines(server.local_addr(), "/v1/kv/k?watch");
    cluster.clerk().put("k", "v").unwrap();
    lines.lines_until(is_change);
    cluster.stop(1);
    assert_eq!(lines.end()["error"], "not_served");
    assert_eq!(ask_once(server.local_addr(), "GET /v1/kv/k?watch", "").status, 503);
}

/// Otherwise neither side notices that the other one is gone.
#[test]
fn a_quiet_watch_is_told_that_it_is_alive() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let addr = server.local_addr();
    let mut lines = Watching::lines(addr, "/v1/kv/quiet?watch");
    let mut events = Watching::events(addr, "/v1/kv/quiet?watch");
    let first = lines.line().unwrap();
    let of_event = events.text("\n\n").unwrap();
    assert!(of_event.contains("event: progress\n"), "{of_event}");
    assert_eq!(lines.line().unwrap(), first);
    assert_eq!(events.text("\n\n").as_deref(), Some(":"));
    // It also comes further while other keys change.
    let clerk = cluster.clerk();
    clerk.put("other", "v").unwrap();
    let now = revision(&clerk);
    lines.lines_until(|line| *line == json!({"type": "progress", "revision": now}));
    let progress = events.event().unwrap();
    assert_eq!((progress.id, &progress.data["type"]), (Some(now), &"progress".into()));
}

#[test]
fn what_is_not_asked_for_is_not_told() {
    let cluster = Cluster::start(1).unwrap();
    let (server, clerk) = (serve(&cluster, MemberId(1)), cluster.clerk());
    let addr = server.local_addr();
    let from = revision(&clerk) + 1;
    clerk.put("k", "v").unwrap();
    clerk.put("other", "v").unwrap();
    clerk.append("k", "w").unwrap();
    clerk.delete("k").unwrap();
    let last = revision(&clerk);
    let told = |query: &str| -> Vec<Value> {
        let mut it = Watching::lines(addr, &format!("/v1/kv/k?watch&from={from}{query}"));
        let lines = it.lines_until(|line| line["revision"].as_u64() >= Some(last));
        lines.into_iter().filter(is_change).collect()
    };
    let types = |query| -> Vec<String> {
        told(query).iter().map(|it| it["type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(types(""), ["put", "put", "delete"]);
    assert_eq!(types("&only=puts"), ["put", "put"]);
    assert_eq!(types("&only=deletes"), ["delete"]);
    let put = json!({"type": "put", "key": "k", "value": "v", "create_revision": from,
        "mod_revision": from, "version": 1, "lease": 0});
    assert_eq!(told("")[0], put);
    assert!(told("&keys").iter().all(|it| it.get("value").is_none() && it["key"] == "k"));
    let with_prev = told("&prev");
    let prev: Vec<&Value> = with_prev.iter().map(|it| &it["prev"]["value"]).collect();
    assert_eq!(prev, [&Value::Null, &"v".into(), &"vw".into()]);
    assert!(told("&prev&keys")[1]["prev"].get("value").is_none());
}

#[test]
fn requests_that_make_no_sense_are_told_why() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let (addr, now) = (server.local_addr(), revision(&cluster.clerk()));
    let long = format!("GET /v1/kv/k?watch&from={}", u64::MAX);
    for (line, status, error) in [
        ("GET /v1/kv/k?watch&from=x", 400, "invalid"),
        ("GET /v1/kv/k?watch&from=-1", 400, "invalid"),
        ("GET /v1/kv/k?watch&from", 400, "invalid"),
        ("GET /v1/kv/k?watch=1", 400, "invalid"),
        ("GET /v1/kv/k?watch&at=1", 400, "invalid"),
        ("GET /v1/kv/k?watch&cas=1", 400, "invalid"),
        ("GET /v1/kv/k?watch&stale", 400, "invalid"),
        ("GET /v1/kv/k?watch&limit=1", 400, "invalid"),
        ("GET /v1/kv/k?watch&timeout=1s", 400, "invalid"),
        ("GET /v1/kv/k?watch&only=both", 400, "invalid"),
        ("GET /v1/kv/?watch", 400, "invalid"),
        ("PUT /v1/kv/k?watch", 400, "invalid"),
        ("GET /v1/kv/k?from=1", 400, "invalid"),
        (&format!("GET /v1/kv/k?watch&from={}", now + 2), 400, "in_the_future"),
        (&long, 400, "in_the_future"),
    ] {
        let got = ask(addr, line, "");
        assert_eq!((got.status, &*got.error()), (status, error), "{line}: {}", got.text());
    }
    assert_eq!(ask(addr, "HEAD /v1/kv/k?watch", "").status, 400);
    for id in ["x", "-1", "18446744073709551615"] {
        let fields = format!("{EVENTS}Last-Event-ID: {id}\r\n");
        let got = crate::http_front::ask_with(addr, "GET /v1/kv/k?watch", &fields, b"");
        assert_eq!((got.status, &*got.error()), (400, "invalid"), "{id}");
    }
    assert_eq!(cluster.api(MemberId(1)).unwrap().open_watches(), 0);
    // The next revision is not the future.
    let mut next = Watching::lines(addr, &format!("/v1/kv/k?watch&from={}", now + 1));
    cluster.clerk().put("k", "v").unwrap();
    assert_eq!(next.lines_until(is_change).last().unwrap()["value"], "v");
}
