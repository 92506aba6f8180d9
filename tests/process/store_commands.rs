//! The commands that read and write entries: exit statuses, what they print, and what they refuse.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use syncraft::kv::model::{Action, KeyRange, NewLease, NewValue, Txn};
use syncraft::raft::MemberId;
use syncraft::testing::{Cluster, Options};

use crate::processes::*;

/// A shell's view of one cluster.
pub(crate) struct Shell<'a>(pub(crate) &'a Processes);

impl Shell<'_> {
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(SYNCRAFT)
            .args(args)
            .env("SYNCRAFT_MEMBERS", self.0.members())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that ends before it has read everything closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Runs a command that ends with this status, and returns what it prints.
    #[track_caller]
    pub(crate) fn check(&self, args: &[&str], status: i32) -> String {
        self.check_with(args, b"", status)
    }

    #[track_caller]
    pub(crate) fn check_with(&self, args: &[&str], input: &[u8], status: i32) -> String {
        let output = self.run_with(args, input);
        let (said, code) = (stderr(&output), output.status.code());
        assert_eq!(code, Some(status), "{args:?}: {said}");
        if ![0, 1].contains(&status) {
            assert_eq!(said.lines().count(), 1, "{args:?} says one line: {said}");
            assert!(said.starts_with("syncraft: "), "{args:?}: {said}");
        }
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that is refused with status 2, in a line that has these words.
    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str], input: &str, words: &[&str]) {
        let output = self.run_with(args, input.as_bytes());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?} says one line: {said}");
        words.iter().for_each(|word| assert!(said.contains(word), "{word:?} is not in {said}"));
    }
}

pub(crate) fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn entries_are_read_and_written_from_a_shell() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    sh.check(&["put", "k", "one"], 0);
    sh.check(&["put", "k", "two"], 0);
    let entry = json(&sh.check(&["get", "k", "--entry"], 0));
    let expected = serde_json::json!({
        "key": "k", "value": "two", "create_revision": 2, "mod_revision": 3, "version": 2, "lease": 0
    });
    assert_eq!(entry, expected);
    assert_eq!(sh.check(&["get", "k", "--at", "2"], 0), "one\n");
    assert_eq!(sh.check(&["get", "k", "--at", "1"], 1), "");
    assert_eq!(sh.check(&["get", "absent", "--entry"], 1), "");

    sh.check(&["put", "k", "three", "--if-absent"], 5);
    sh.check(&["put", "new", "1", "--if-absent"], 0);
    assert_eq!(sh.check(&["incr", "new"], 0), "2\n");
    assert_eq!(sh.check(&["incr", "new", "-12"], 0), "-10\n");
    assert_eq!(sh.check(&["incr", "fresh", "7"], 0), "7\n");

    sh.check(&["cas", "k", "two", "three"], 0);
    sh.check(&["cas", "k", "two", "four"], 5);
    sh.check(&["cas", "k", "--absent", "four"], 5);
    sh.check(&["cas", "light", "--absent", "red"], 0);
    sh.check_with(&["cas", "light", "red", "-"], b"gr\xff\xffn", 0);
    sh.check(&["cas", "light", "red", "--delete"], 5);
    let entry = json(&sh.check(&["get", "light", "--entry"], 0));
    assert_eq!(entry["value"], serde_json::json!({"base64": "Z3L//24="}));
    sh.check(&["cas", "k", "three", "--delete"], 0);
    sh.check(&["cas", "k", "three", "four"], 5);
    assert_eq!(sh.check(&["get", "k"], 1), "");

    assert_eq!(sh.check(&["delete", "light"], 0), "1\n");
    assert_eq!(sh.check(&["delete", "light"], 1), "0\n");
    sh.check(&["put", "user/1", "ann"], 0);
    sh.check(&["put", "user/2", "bob"], 0);
    assert_eq!(sh.check(&["delete", "user/", "--prefix"], 0), "2\n");
    assert_eq!(sh.check(&["delete", "user/", "--prefix"], 1), "0\n");
}

#[test]
fn lists_and_exports_have_every_entry_of_one_revision() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    for (key, value) in [("a/1", "x"), ("a/2", "y"), ("b", "z")] {
        sh.check(&["put", key, value], 0);
    }
    assert_eq!(sh.check(&["list"], 0), "a/1\tx\na/2\ty\nb\tz\n");
    assert_eq!(sh.check(&["list", "a/", "--keys"], 0), "a/1\na/2\n");
    assert_eq!(sh.check(&["list", "--limit", "2", "--at", "3"], 0), "a/1\tx\na/2\ty\n");
    assert_eq!(sh.check(&["list", "--limit", "0"], 0), "");
    assert_eq!(sh.check(&["list", "nothing"], 0), "");
    let lines = sh.check(&["list", "b", "--json"], 0);
    assert_eq!(
        (json(&lines)["key"].as_str(), json(&lines)["value"].as_str()),
        (Some("b"), Some("z"))
    );
    assert_eq!(json(&sh.check(&["list", "b", "--json", "--keys"], 0)).get("value"), None);

    // More than a page, bytes that are no text, and lines of any length.
    let clerk = cluster.clerk();
    clerk.put(b"\xff\xfe", b"\x00\xff").unwrap();
    clerk.put("long", vec![b'\n'; 3 << 20]).unwrap();
    for at in 0..2500 {
        clerk.put(format!("many/{at:05}"), at.to_string()).unwrap();
    }
    let exported = sh.check(&["export"], 0);
    assert_eq!(exported.lines().count(), 2505);
    let keys: Vec<&[u8]> = vec![b"\xff\xfe", b"long", b"a/1", b"many/02499"];
    let before: Vec<_> = keys.iter().map(|key| clerk.get(key).unwrap()).collect();
    assert_eq!(sh.check(&["delete", "", "--prefix"], 0), "2505\n");
    assert_eq!(sh.check_with(&["import"], exported.as_bytes(), 0), "2505\n");
    let after: Vec<_> = keys.iter().map(|key| clerk.get(key).unwrap()).collect();
    assert!(before == after && before.iter().all(Option::is_some));
    assert_eq!(sh.check(&["export"], 0).lines().count(), 2505);
    assert_eq!(sh.check(&["export", "many/"], 0).lines().count(), 2500);

    // Too long to be sent: no time helps.
    let put =
        |at| format!("{{\"put\":{{\"key\":\"{at}\",\"value\":\"{}\"}}}}", "v".repeat(4 << 20));
    let text = format!("{{\"then\":[{}]}}", (0..5).map(put).collect::<Vec<_>>().join(","));
    let began = Instant::now();
    sh.refused(&["txn", "--timeout", "10m"], &text, &["at most"]);
    assert!(began.elapsed() < Duration::from_secs(60));

    // A key whose lease is gone would never expire.
    let leased = "{\"key\":\"l\",\"value\":\"v\",\"lease\":7}\n{\"key\":\"m\",\"value\":\"v\",\"lease\":0}\n";
    let output = sh.run_with(&["import"], leased.as_bytes());
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"1\n"[..]));
    assert!(stderr(&output).contains("keys skipped because they have a lease"));
    sh.check(&["get", "l"], 1);

    let some = format!("{{\"key\":\"i/1\",\"value\":\"1\"}}\n\n{}\n", r#"{"key":"i/2"}"#);
    sh.refused(&["import"], &some, &["line 3", "value", "0 entries before"]);
    assert_eq!(sh.check_with(&["import"], b"", 0), "0\n");
}

/// The etcd is played by a member that serves its API; what a real one answers is in the golden
/// files.
#[test]
fn what_an_etcd_holds_is_imported_but_for_leased_keys() {
    let mut options = Options::default();
    options.etcd_port = Some(0);
    let etcd = Cluster::start_with(1, options).unwrap();
    let url = format!("http://{}", etcd.etcd_addr(MemberId(1)).unwrap());
    let clerk = etcd.clerk();
    for at in 0..2500 {
        clerk.put(format!("many/{at:05}"), at.to_string()).unwrap();
    }
    clerk.put(b"\xff\xff", b"\x00\xff").unwrap();
    clerk.put("long", vec![b'x'; 3 << 20]).unwrap();
    let lease = clerk.grant_lease(Duration::from_secs(600), None).unwrap().id;
    let leased = Action::Put {
        key: "leased".into(),
        value: NewValue::Set("v".into()),
        lease: NewLease::Set(lease),
        previous: false,
    };
    clerk.run(&Txn { then: vec![leased.into()], ..Txn::default() }).unwrap();

    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    assert_eq!(sh.check(&["import", "--etcd", &url, "many/"], 0), "2500\n");
    assert_eq!(sh.check(&["list", "--keys"], 0).lines().count(), 2500);
    let output = sh.run_with(&["import", "--etcd", &url], b"");
    let said = stderr(&output);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"2502\n"[..]), "{said}");
    assert!(said.ends_with(": 1\n"), "{said}");
    let own = cluster.clerk();
    for key in [&b"\xff\xff"[..], b"long", b"many/02499", b"leased"] {
        let expected = clerk.get(key).unwrap().filter(|_| key != b"leased");
        assert!(own.get(key).unwrap() == expected, "{}", key.escape_ascii());
    }

    sh.refused(&["import", "--etcd", "https://127.0.0.1:1"], "", &["http://HOST:PORT"]);
    let said = sh.run_with(&["import", "--etcd", "http://127.0.0.1:1"], b"");
    assert_eq!(said.status.code(), Some(3), "{}", stderr(&said));
}

#[test]
fn transactions_are_json() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    let take = r#"{"compare": [{"key": "lock", "version": 0}],
        "then": [{"put": {"key": "lock", "value": "me"}}], "else": [{"range": {"key": "lock"}}]}"#;
    let first = json(&sh.check_with(&["txn"], take.as_bytes(), 0));
    assert_eq!(first, serde_json::json!({"held": true, "revision": 2, "answers": [{"put": {}}]}));
    let file = cluster.dir.path().join("txn.json");
    std::fs::write(&file, take).unwrap();
    let output = sh.run_with(&["txn", file.to_str().unwrap()], b"");
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    let second = json(std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!((second["held"].as_bool(), second["revision"].as_u64()), (Some(false), Some(2)));
    assert_eq!(second["answers"][0]["range"]["entries"][0]["value"], "me");

    let mixed = r#"{"then": [{"increment": {"key": "lock"}, "may_fail": true},
        {"append": {"key": "lock", "value": "!"}}, {"increment": {"key": "n", "by": -2}},
        {"delete": {"prefix": "x"}}, {"txn": {"compare": [{"key": "n", "value": "7"}]}}]}"#;
    let answers = &json(&sh.check_with(&["txn", "-"], mixed.as_bytes(), 0))["answers"];
    assert_eq!(answers[0]["failed"]["reason"], 2);
    assert_eq!(answers[1], serde_json::json!({"append": {"value_len": 3}}));
    assert_eq!(answers[2], serde_json::json!({"increment": {"value": -2}}));
    assert_eq!(answers[3], serde_json::json!({"delete": {"count": 0}}));
    assert_eq!(answers[4], serde_json::json!({"txn": {"held": false, "answers": []}}));

    sh.refused(&["txn"], "{", &["not a transaction", "EOF"]);
    sh.refused(&["txn"], r#"{"then": [{"puts": {}}]}"#, &["puts"]);
    sh.refused(&["txn", "/nonexistent"], "", &["/nonexistent"]);
    let refused =
        r#"{"then": [{"put": {"key": "a", "value": ""}}, {"increment": {"key": "lock"}}]}"#;
    sh.refused(&["txn"], refused, &["operation 1", "not a decimal"]);
    assert_eq!(sh.check(&["get", "a"], 1), "", "all or nothing");
}

/// An import goes on with the next leader, and puts each line once: a key that was put twice would
/// have version 2.
#[test]
fn an_import_survives_its_leader_and_puts_each_line_once() {
    const LINES: usize = 6_000;
    let mut cluster = Processes::start(3);
    let clerk = cluster.clerk();
    let line = |at: usize| format!("{{\"key\":\"k/{at:05}\",\"value\":\"{at}\"}}\n");
    let mut child = Command::new(SYNCRAFT)
        .args(["import", "--timeout", "30s"])
        .env("SYNCRAFT_MEMBERS", cluster.members())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    for third in 0..3 {
        let lines: String = (third * LINES / 3..(third + 1) * LINES / 3).map(line).collect();
        input.write_all(lines.as_bytes()).unwrap();
        if third < 2 {
            // The first lines of this third are there, and the import goes on.
            let first = format!("k/{:05}", third * LINES / 3);
            until("a third is being put", || clerk.get(&first).unwrap().is_some());
            let leader = cluster.leader();
            cluster.kill(leader);
            cluster.restart(leader);
        }
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(output.stdout, format!("{LINES}\n").as_bytes());
    let entries = clerk.scan(KeyRange::prefix("k/")).collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(entries.len(), LINES);
    assert!(entries.iter().all(|entry| entry.version == 1), "a line was put twice");
}

#[test]
fn limits_and_compaction_are_an_operators() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    sh.check(&["put", "k", "old"], 0);
    sh.check(&["put", "k", "new"], 0);
    sh.check(&["compact", "3"], 0);
    sh.refused(&["get", "k", "--at", "2"], "", &["compacted", "3"]);
    sh.refused(&["compact", "3"], "", &["compacted"]);
    sh.refused(&["compact", "0"], "", &["revision 0"]);
    sh.check(&["compact", "99"], 3);
    let before = json(&sh.check(&["limits", "--json"], 0));
    assert_eq!(
        (&before["keys"], &before["revision"], &before["compacted"]),
        (&1.into(), &3.into(), &3.into())
    );
    assert_eq!(before["bytes_max"], 8u64 << 30);
    let text = sh.check(&["limits", "--keys", "1", "--history", "1000"], 0);
    assert!(text.contains("keys     1 of 1\n") && text.contains("of 1000 bytes"), "{text}");
    sh.check(&["put", "other", "v"], 3);
    sh.check(&["incr", "other"], 3);
    sh.refused(&["limits", "--history", &(1u64 << 40).to_string()], "", &["bounds"]);
    sh.check(&["limits", "--keys", "2"], 0);
    sh.check(&["put", "other", "v"], 0);
}

#[test]
fn wrong_usage_and_unreachable_members_have_their_statuses() {
    let nowhere = ["--members", "127.0.0.1:1", "--timeout", "300ms"];
    let check = |args: &[&str], status| {
        let output = syncraft(&[args, &nowhere].concat());
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", stderr(&output));
    };
    for args in [
        &["cas", "k"][..],
        &["cas", "k", "a"],
        &["cas", "k", "a", "b", "--absent"],
        &["cas", "k", "a", "b", "c"],
        &["cas", "k", "--absent", "--delete"],
        &["incr", "k", "one"],
        &["get", "k", "--at", "0"],
        &["get", "k", "--entry", "--stale"],
        &["list", "--limit", "-1"],
        &["compact"],
        &["limits", "--keys", "many"],
        &["delete"],
    ] {
        check(args, 2);
    }
    for args in [
        &["cas", "k", "a", "b"][..],
        &["incr", "k"],
        &["delete", "k"],
        &["put", "k", "v", "--if-absent"],
        &["get", "k", "--entry"],
        &["list"],
        &["export"],
        &["compact", "3"],
        &["limits"],
    ] {
        check(args, 3);
    }
}
