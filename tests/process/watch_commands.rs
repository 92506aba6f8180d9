//! `watch` and `wait`: what they print and run, how they end, and members that fail meanwhile.

use std::io::BufRead;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use crate::processes::*;
use crate::running::{end, start};
use crate::store_commands::{Shell, json};

#[test]
fn changes_are_printed_as_they_happen() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    sh.check(&["put", "k", "one"], 0);
    sh.check(&["put", "other", "x"], 0);
    sh.check(&["put", "k/2", "two words"], 0);
    sh.check(&["delete", "k"], 0);
    let lines = sh.check(&["watch", "k", "--from", "1", "--count", "2"], 0);
    assert_eq!(lines, "put\tk\tone\ndelete\tk\n");
    let lines = sh.check(&["watch", "k", "--prefix", "--from", "3", "--count", "2"], 0);
    assert_eq!(lines, "put\tk/2\ttwo words\ndelete\tk\n");
    sh.check_with(&["put", "k", "-"], b"\xff\n", 0);
    let lines = sh.check(&["watch", "", "--prefix", "--from", "4", "--count", "3", "--json"], 0);
    let found: Vec<_> = lines.lines().map(json).collect();
    let expected = serde_json::json!([
        {"type": "put", "key": "k/2", "value": "two words", "create_revision": 4,
            "mod_revision": 4, "version": 1, "lease": 0},
        {"type": "delete", "key": "k", "mod_revision": 5},
        {"type": "put", "key": "k", "value": {"base64": "/wo="}, "create_revision": 6,
            "mod_revision": 6, "version": 1, "lease": 0},
    ]);
    assert_eq!(serde_json::Value::from(found), expected);

    // Each line is there at once.
    let (child, mut out) = start(&cluster, &["watch", "live", "--from", "7"]);
    for at in 0..3 {
        sh.check(&["put", "live", &at.to_string()], 0);
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, format!("put\tlive\t{at}\n"));
    }
    // And a reader that goes away ends it, although nothing changes any more.
    drop(out);
    assert_eq!(end(child), (Some(0), String::new()));
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    for value in ["1", "2", "3"] {
        sh.check(&["put", "k", value], 0);
    }
    sh.check(&["compact", "4"], 0);
    sh.refused(&["watch", "k", "--from", "2"], "", &["revision 5", "begin"]);
    sh.refused(&["watch", &"k".repeat(65_537)], "", &["65537", "65536"]);
    for args in [
        &["watch"][..],
        &["watch", "k", "--from", "0"],
        &["watch", "k", "--from", "-1"],
        &["watch", "k", "--count", "0"],
        &["watch", "k", "--json", "--", "true"],
        &["wait", "k", "--absent", "--equals", "v"],
    ] {
        assert_eq!(sh.run_with(args, b"").status.code(), Some(2), "{args:?}");
    }
    let nowhere = ["--members", "127.0.0.1:1", "--timeout", "300ms"];
    for args in [&["watch", "k"], &["wait", "k"]] {
        let output = syncraft(&[&args[..], &nowhere].concat());
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_command_runs_for_each_change() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    sh.check(&["put", "k", "a b"], 0);
    sh.check(&["delete", "k"], 0);
    sh.check_with(&["put", "k", "-"], b"zero\0byte", 0);
    sh.check_with(&["put", "k", "-"], &vec![b'x'; 200_000], 0);
    let script = r#"printf '%s,%s,%s,%s|' "$SYNCRAFT_TYPE" "$SYNCRAFT_KEY" "${SYNCRAFT_VALUE-unset}" "$SYNCRAFT_REVISION""#;
    let watch = ["watch", "k", "--from", "2", "--count"];
    let found = sh.check(&[&watch[..], &["4", "--", "sh", "-c", script]].concat(), 0);
    assert_eq!(found, "put,k,a b,2|delete,k,unset,3|put,k,unset,4|put,k,unset,5|");
    // All of it is on its standard input.
    let found = sh.check(&[&watch[..], &["4", "--", "cat"]].concat(), 0);
    let lines: Vec<_> = found.lines().map(json).collect();
    assert_eq!(lines[2]["value"], "zero\0byte");
    assert_eq!(lines[3]["value"].as_str().map(str::len), Some(200_000));
    // It may use the cluster, and need not read.
    let put = ["put", "seen", "yes"];
    sh.check(&[&watch[..], &["4", "--", SYNCRAFT], &put].concat(), 0);
    assert_eq!(sh.check(&["get", "seen"], 0), "yes\n");

    let check = |command: &[&str], status, words: &str| {
        let output = sh.run_with(&[&watch[..], &["2", "--"], command].concat(), b"");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{command:?}: {said}");
        assert!(said.contains(words), "{command:?}: {said}");
    };
    check(&["sh", "-c", "echo ran >&2; exit 7"], 7, "ran\n");
    check(&["sh", "-c", "kill -9 $$"], 128 + 9, "");
    check(&["/nonexistent/program"], 127, "cannot run \"/nonexistent/program\"");
    check(&["/etc/passwd"], 126, "cannot run \"/etc/passwd\"");
}

/// A signal to a watch that runs a COMMAND goes to COMMAND, and ends a watch that runs none.
#[test]
fn signals_go_to_the_command() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    let file = cluster.dir.path().join("told");
    let script =
        format!("trap 'echo told >> {0}; exit 9' TERM; echo up; sleep 60 & wait", file.display());
    let (child, mut out) =
        start(&cluster, &["watch", "k", "--from", "2", "--", "sh", "-c", &script]);
    sh.check(&["put", "k", "v"], 0);
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    signal(&child, "-TERM");
    assert_eq!(end(child), (Some(9), String::new()));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "told\n");

    // A COMMAND that handles it and succeeds: no other one runs.
    let script = "trap 'exit 0' TERM; echo up; sleep 60 & wait";
    let (child, mut out) =
        start(&cluster, &["watch", "k", "--from", "2", "--", "sh", "-c", script]);
    sh.check(&["put", "k", "w"], 0);
    line.clear();
    out.read_line(&mut line).unwrap();
    signal(&child, "-TERM");
    assert_eq!(end(child), (Some(128 + 15), String::new()));
    line.clear();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "");

    let (child, _out) = start(&cluster, &["watch", "none", "--", "true"]);
    signal(&child, "-TERM");
    assert_eq!(end(child).0, None, "the signal has ended it");
}

fn signal(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

#[test]
fn wait_returns_when_it_is_so() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    sh.check(&["put", "k", "v"], 0);
    sh.check(&["wait", "k"], 0);
    sh.check(&["wait", "k", "--equals", "v"], 0);
    sh.check(&["wait", "nothing", "--absent"], 0);
    sh.check(&["wait", "nothing", "--timeout", "200ms"], 3);
    sh.check(&["wait", "k", "--equals", "w", "--timeout", "200ms"], 3);
    sh.check(&["wait", "k", "--absent", "--timeout", "200ms"], 3);
    let later = |args: &[&str], then: &[&str]| {
        let (mut child, _out) = start(&cluster, &[args, &["--timeout", "30s"]].concat());
        thread::sleep(Duration::from_millis(200));
        assert!(child.try_wait().unwrap().is_none(), "{args:?} waits");
        sh.check(then, 0);
        assert_eq!(end(child), (Some(0), String::new()), "{args:?}");
    };
    later(&["wait", "later"], &["put", "later", ""]);
    later(&["wait", "k", "--equals", "w"], &["put", "k", "w"]);
    later(&["wait", "k", "--absent"], &["delete", "k"]);
}

/// Members are killed and stopped, in turn, under the watch.
#[test]
fn a_watch_goes_on_when_its_member_is_killed_or_hangs() {
    let mut cluster = Processes::start(3);
    let clerk = cluster.clerk();
    let (mut child, out) =
        start(&cluster, &["watch", "k/", "--prefix", "--from", "2", "--timeout", "30s"]);
    let mut lines = out.lines();
    let mut at = 0;
    let mut put_and_see = || {
        at += 1;
        clerk.put(format!("k/{at}"), "v").unwrap();
        let began = Instant::now();
        assert_eq!(lines.next().unwrap().unwrap(), format!("put\tk/{at}\tv"));
        began.elapsed()
    };
    put_and_see();
    for id in 1..=3 {
        cluster.kill(id);
        put_and_see();
        cluster.restart(id);
        until("all members vote", || cluster.all_vote());
    }
    for id in 1..=3 {
        cluster.signal(id, "-STOP");
        let took = put_and_see();
        assert!(took < Duration::from_secs(10), "{took:?}");
        cluster.signal(id, "-CONT");
        until("all members vote", || cluster.all_vote());
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
