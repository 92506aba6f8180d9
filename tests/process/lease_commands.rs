//! `syncraft lease`, and puts with a lease or a time to live.

use std::io::{BufRead, BufReader};
use std::process::Command;
use std::time::{Duration, Instant};

use syncraft::kv::model::LeaseId;

use crate::processes::*;
use crate::running::start;
use crate::store_commands::{Shell, json};

#[test]
fn a_lease_is_granted_kept_alive_and_revoked_from_a_shell() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    let id = sh.check(&["lease", "grant", "60s"], 0);
    let id = id.trim();
    assert_eq!(sh.check(&["lease", "grant", "1h", "--id", "7"], 0), "7\n");
    sh.check(&["put", "k", "v", "--lease", id], 0);
    let entry = json(&sh.check(&["get", "k", "--entry"], 0));
    assert_eq!(entry["lease"].to_string(), id);
    let info = json(&sh.check(&["lease", "info", id], 0));
    assert_eq!((&info["ttl_ms"], &info["keys"][0]), (&60_000.into(), &"k".into()));
    assert!(info["left_ms"].as_u64().unwrap() <= 60_000);
    assert_eq!(sh.check(&["lease", "keep-alive", "--once", id], 0), "");
    let mut ids: Vec<u64> = vec![id.parse().unwrap(), 7];
    ids.sort_unstable();
    let listed = sh.check(&["lease", "list"], 0);
    assert_eq!(listed, ids.iter().map(|id| format!("{id}\n")).collect::<String>());
    for line in sh.check(&["lease", "list", "--json"], 0).lines() {
        assert!(json(line)["lease"].is_u64(), "{line}");
    }
    assert_eq!(json(&sh.check(&["limits", "--json"], 0))["leases"], 2);
    sh.check(&["lease", "revoke", id], 0);
    sh.check(&["get", "k"], 1);
    for command in [&["revoke"][..], &["info"], &["keep-alive", "--once"], &["keep-alive"]] {
        assert_eq!(sh.check(&[&["lease"], command, &[id]].concat(), 1), "");
    }
}

#[test]
fn a_key_with_a_time_to_live_ends_and_one_of_a_lease_that_is_kept_alive_does_not() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    sh.check(&["lease", "grant", "6s", "--id", "7"], 0);
    sh.check(&["put", "kept", "v", "--lease", "7"], 0);
    let mut keeper = Command::new(SYNCRAFT)
        .args(["lease", "keep-alive", "7"])
        .env("SYNCRAFT_MEMBERS", cluster.members())
        .spawn()
        .unwrap();
    // It ends later than the lease would if nobody kept that alive.
    sh.check(&["put", "own", "v", "--ttl", "8s", "--if-absent"], 0);
    sh.check(&["put", "own", "v", "--ttl", "8s", "--if-absent"], 5);
    let text = r#"{"then": [{"put": {"key": "brief", "value": "v", "ttl": "100ms"}},
                            {"put": {"key": "of 7", "value": "v", "lease": 7}}]}"#;
    sh.check_with(&["txn"], text.as_bytes(), 0);
    sh.check(&["wait", "brief", "--absent", "--timeout", "60s"], 0);
    sh.check(&["wait", "own", "--absent", "--timeout", "60s"], 0);
    assert_eq!(sh.check(&["get", "kept"], 0), "v\n");
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    sh.check(&["wait", "kept", "--absent", "--timeout", "60s"], 0);
    sh.check(&["get", "of 7"], 1);
}

/// The time without a leader does not count, so whoever goes on saves the lease.
#[test]
fn a_lease_is_kept_alive_through_an_outage_that_is_longer_than_it() {
    const TTL: Duration = Duration::from_secs(4);
    let cluster = Processes::start(1);
    let (sh, clerk) = (Shell(&cluster), cluster.clerk());
    sh.check(&["lease", "grant", "4s", "--id", "7"], 0);
    let (mut keeper, _out) = start(&cluster, &["lease", "keep-alive", "7"]);
    let is_there = || clerk.lease_info(LeaseId(7)).unwrap().is_some();
    until("it is kept alive", || {
        let left = clerk.lease_info(LeaseId(7)).unwrap().unwrap().left();
        left < TTL * 3 / 4
    });
    until("it is kept alive again", || {
        let left = clerk.lease_info(LeaseId(7)).unwrap().unwrap().left();
        left > TTL * 9 / 10
    });
    cluster.signal(1, "-STOP");
    let mut said = String::new();
    BufReader::new(keeper.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("syncraft: not kept alive for 4s: "), "{said}");
    cluster.signal(1, "-CONT");
    let begun = Instant::now();
    until("it is still kept alive", || {
        assert!(is_there());
        begun.elapsed() > TTL * 2
    });
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    until("it ends", || !is_there());
}

#[test]
fn a_lease_that_makes_no_sense_is_refused_in_words() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    let usage = |args: &[&str], words: &str| {
        let output = sh.run_with(args, b"");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {words:?} is not in {said}");
    };
    usage(&["lease", "grant", "0s"], "a time must be more than zero");
    usage(&["lease", "grant", "0"], "a time is a number and a unit");
    usage(&["lease", "grant", "-1"], "a time is a number and a unit");
    usage(&["lease", "grant", "9223372036854775808"], "a time is a number and a unit");
    usage(&["lease", "grant", "9223372036854775808s"], "at most 300 years");
    sh.refused(&["lease", "grant", "2600000h"], "", &["from 1 ms"]);
    sh.refused(&["lease", "grant", "0.1ms"], "", &["0 ms", "from 1 ms"]);
    for id in ["0", "-1", "9223372036854775808"] {
        usage(&["lease", "grant", "1s", "--id", id], id);
        usage(&["lease", "info", id], id);
    }
    sh.check(&["lease", "grant", "1h", "--id", "7"], 0);
    sh.refused(&["lease", "grant", "1h", "--id", "7"], "", &["in use", "7"]);
    sh.refused(&["put", "k", "v", "--lease", "8"], "", &["no such lease", "8"]);
    sh.refused(
        &["txn"],
        r#"{"then": [{"put": {"key": "k", "value": "v", "lease": 7, "ttl": "1s"}}]}"#,
        &["a lease or a ttl"],
    );
}
