//! Leases over HTTP: `/v1/leases`, and keys that end with one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use syncraft::kv::model::LeaseId;
use syncraft::raft::MemberId;
use syncraft::testing::Cluster;

use crate::http_front::{ask, ask_with, follower, serve};

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

fn get_status(addr: SocketAddr, path: &str) -> u16 {
    ask(addr, &format!("GET {path}"), "").status
}

#[test]
fn a_lease_is_granted_used_kept_alive_and_revoked_at_any_member() {
    let cluster = Cluster::start(3).unwrap();
    let (leader, other) = (cluster.leader().unwrap(), follower(&cluster));
    let servers = [serve(&cluster, leader), serve(&cluster, other)];
    for server in &servers {
        let addr = server.local_addr();
        let granted = ask(addr, "POST /v1/leases?ttl=1m", "");
        assert_eq!(granted.status, 200, "{granted:?}");
        let granted = granted.json();
        assert_eq!(granted["ttl_ms"], 60_000);
        assert!(granted["revision"].as_u64() >= Some(1));
        let id = granted["lease"].as_u64().unwrap();
        for key in ["b", "a"] {
            let put = ask(addr, &format!("PUT /v1/kv/{key}?lease={id}"), "v");
            assert_eq!(put.status, 200, "{put:?}");
        }
        assert_eq!(ask(addr, "GET /v1/kv/a?json", "").json()["lease"], id);
        let info = ask(addr, &format!("GET /v1/leases/{id}"), "").json();
        assert_eq!((&info["lease"], &info["ttl_ms"]), (&id.into(), &60_000.into()));
        assert_eq!(info["keys"], serde_json::json!(["a", "b"]));
        let left = info["left_ms"].as_u64().unwrap();
        assert!((1..=60_000).contains(&left), "{left}");
        let kept = ask(addr, &format!("POST /v1/leases/{id}/keep-alive"), "");
        assert_eq!((kept.status, &kept.json()["ttl_ms"]), (200, &60_000.into()));
        let revoked = ask(addr, &format!("DELETE /v1/leases/{id}"), "");
        assert_eq!(revoked.status, 200, "{revoked:?}");
        assert_eq!(get_status(addr, "/v1/kv/a"), 404);
        for line in ["GET /v1/leases/ID", "POST /v1/leases/ID/keep-alive", "DELETE /v1/leases/ID"] {
            let gone = ask(addr, &line.replace("ID", &id.to_string()), "");
            assert_eq!((gone.status, &*gone.error()), (404, "no_such_lease"), "{line}");
        }
        let refused = ask(addr, &format!("PUT /v1/kv/a?lease={id}"), "v");
        assert_eq!((refused.status, &*refused.error()), (409, "no_such_lease"));
    }
}

#[test]
fn keys_end_with_their_lease_and_not_before() {
    let cluster = Cluster::start(3).unwrap();
    let server = serve(&cluster, follower(&cluster));
    let addr = server.local_addr();
    let ttl = Duration::from_secs(3);
    let begin = Instant::now();
    let id = ask(addr, "POST /v1/leases?ttl=3s", "").json()["lease"].as_u64().unwrap();
    assert_eq!(ask(addr, &format!("PUT /v1/kv/of-lease?lease={id}"), "v").status, 200);
    assert_eq!(ask(addr, "PUT /v1/kv/own?ttl=3s", "v").status, 200);
    for key in ["of-lease", "own"] {
        while get_status(addr, &format!("/v1/kv/{key}")) == 200 {
            assert!(begin.elapsed() < TEST_TIMEOUT, "{key} stays");
        }
        assert!(begin.elapsed() >= ttl, "{key} lived for {:?}", begin.elapsed());
    }
    assert_eq!(get_status(addr, &format!("/v1/leases/{id}")), 404);
    // A put without one takes a key's lease away.
    assert_eq!(ask(addr, "PUT /v1/kv/own?ttl=1s", "v").status, 200);
    assert_eq!(ask(addr, "PUT /v1/kv/own", "stays").status, 200);
    let begin = Instant::now();
    while begin.elapsed() < 2 * Duration::from_secs(1) {
        assert_eq!(get_status(addr, "/v1/kv/own"), 200);
    }
}

#[test]
fn a_lease_is_kept_alive_over_a_change_of_leader() {
    let cluster = Cluster::start(3).unwrap();
    let (leader, other) = (cluster.leader().unwrap(), follower(&cluster));
    let server = serve(&cluster, other);
    let addr = server.local_addr();
    let id = ask(addr, "POST /v1/leases?ttl=10m", "").json()["lease"].as_u64().unwrap();
    cluster.kill(leader);
    let kept = ask(addr, &format!("POST /v1/leases/{id}/keep-alive?timeout=30s"), "");
    assert_eq!(kept.status, 200, "{kept:?}");
    assert_eq!(ask(addr, &format!("GET /v1/leases/{id}?timeout=30s"), "").status, 200);
}

#[test]
fn a_client_may_choose_the_id_and_lists_come_in_pages() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let addr = server.local_addr();
    let highest = i64::MAX as u64;
    for id in [7, highest, 8] {
        let granted = ask(addr, &format!("POST /v1/leases?ttl=1h&id={id}"), "").json();
        assert_eq!(granted["lease"], id);
    }
    let exists = ask(addr, "POST /v1/leases?ttl=1h&id=7", "");
    assert_eq!((exists.status, &*exists.error()), (409, "lease_exists"));
    let ids = |line: &str| -> Vec<u64> {
        let leases = ask(addr, line, "").json()["leases"].as_array().unwrap().clone();
        leases.iter().map(|it| it["lease"].as_u64().unwrap()).collect()
    };
    assert_eq!(ids("GET /v1/leases"), [7, 8, highest]);
    assert_eq!(ids("GET /v1/leases?after=7"), [8, highest]);
    assert!(ids(&format!("GET /v1/leases?after={highest}")).is_empty());
    let stale = ask(addr, "GET /v1/leases/7?stale", "");
    assert!(stale.field("Syncraft-Age-Ms").is_some());
    // What one client grants another one sees.
    assert_eq!(cluster.clerk().lease_info(LeaseId(8)).unwrap().unwrap().ttl_ms, 3_600_000);
}

#[test]
fn a_long_list_says_where_it_goes_on() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let (addr, count) = (server.local_addr(), syncraft::kv::LEASES_PER_REQUEST_MAX as u64 + 1);
    let clerks: Vec<_> = (0..8).map(|_| cluster.clerk()).collect();
    std::thread::scope(|scope| {
        for (at, clerk) in clerks.iter().enumerate() {
            let ids = (1..=count).skip(at).step_by(clerks.len());
            scope.spawn(move || {
                for id in ids {
                    clerk.grant_lease(Duration::from_secs(3_600), Some(LeaseId(id))).unwrap();
                }
            });
        }
    });
    let first = ask(addr, "GET /v1/leases", "");
    assert_eq!(first.json()["leases"].as_array().unwrap().len() as u64, count - 1);
    let next = format!("/v1/leases?after={}", count - 1);
    assert_eq!(first.json()["next"], next);
    assert_eq!(first.field("Link"), Some(&*format!("<{next}>; rel=\"next\"")));
    let last = ask(addr, &format!("GET {next}"), "").json();
    assert_eq!((&last["leases"][0]["lease"], &last["next"]), (&count.into(), &().into()));
}

#[test]
fn requests_that_make_no_sense_are_told_why() {
    let cluster = Cluster::start(1).unwrap();
    let server = serve(&cluster, MemberId(1));
    let addr = server.local_addr();
    let (life, ids) = ("285 years", "from 1 to 2^63 - 1");
    for (line, status, error, words) in [
        ("POST /v1/leases", 400, "invalid", "ttl=30s"),
        ("POST /v1/leases?ttl", 400, "invalid", life),
        ("POST /v1/leases?ttl=0", 400, "invalid", life),
        ("POST /v1/leases?ttl=0s", 400, "invalid", life),
        ("POST /v1/leases?ttl=0.1ms", 400, "invalid", life),
        ("POST /v1/leases?ttl=-1s", 400, "invalid", life),
        ("POST /v1/leases?ttl=9223372036854775808", 400, "invalid", life),
        ("POST /v1/leases?ttl=9223372036854775808s", 400, "invalid", life),
        ("POST /v1/leases?ttl=9000000001s", 400, "invalid", life),
        ("POST /v1/leases?ttl=1s&id=0", 400, "invalid", ids),
        ("POST /v1/leases?ttl=1s&id=-1", 400, "invalid", ids),
        ("POST /v1/leases?ttl=1s&id=9223372036854775808", 400, "invalid", ids),
        ("POST /v1/leases?ttl=1s&nonsense", 400, "invalid", "nonsense"),
        ("PUT /v1/leases?ttl=1s", 405, "method", "GET, HEAD, POST"),
        ("GET /v1/leases?after=x", 400, "invalid", ids),
        ("GET /v1/leases/", 400, "invalid", ids),
        ("GET /v1/leases/x", 400, "invalid", ids),
        ("GET /v1/leases/0", 400, "invalid", ids),
        ("GET /v1/leases/1/keep-alive", 405, "method", "POST"),
        ("POST /v1/leases/1", 405, "method", "DELETE"),
        ("POST /v1/leases/1/2/keep-alive", 400, "invalid", ids),
        ("GET /v1/leases/1", 404, "no_such_lease", "no lease 1"),
        ("GET /v1/leasesx", 404, "no_such_path", "/v1/leases"),
        ("PUT /v1/kv/k?lease=0", 400, "invalid", ids),
        ("PUT /v1/kv/k?lease=1&ttl=1s", 400, "invalid", "not both"),
        ("PUT /v1/kv/k?ttl=0s", 400, "invalid", life),
        ("PUT /v1/kv/k?lease=99", 409, "no_such_lease", "99"),
        ("POST /v1/kv/k?lease=99", 400, "invalid", "lease"),
    ] {
        let got = ask(addr, line, "");
        assert_eq!((got.status, &*got.error()), (status, error), "{line}: {}", got.text());
        let message = got.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "{line}: {message}");
    }
    let stats = cluster.clerk().stats().unwrap();
    assert_eq!((stats.keys, stats.leases), (0, 0));
    let key = "Idempotency-Key: k\r\n";
    let got = ask_with(addr, "POST /v1/leases?ttl=1s", key, b"");
    assert_eq!((got.status, &*got.error()), (400, "invalid"), "{got:?}");
}
