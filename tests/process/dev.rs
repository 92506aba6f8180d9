//! `syncraft dev`: how it begins and ends, and what it leaves behind. The faults are in
//! `dev_faults.rs`.

use std::fs;
use std::io::{BufRead, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::dev_process::{Dev, ask, dev, end, out, send, signal};
use crate::doc_examples::has;
use crate::processes::{SYNCRAFT, stderr, syncraft, until};

/// The names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut names: Vec<_> = entries.map(|it| it.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The lines are read by a shell, and those for people work when they are pasted.
#[test]
fn a_shell_reads_what_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = dev(&[], dir.path()).spawn().unwrap();
    let mut lines: Vec<String> = Vec::new();
    for line in out(&mut child).lines().map(Result::unwrap) {
        let is_last = line.contains("/v1/dev/kill");
        lines.push(line);
        if is_last {
            break;
        }
    }
    let shell = |text: &str| {
        let eval = "eval \"$LINES_OF_DEV\"\n".to_owned();
        let mut command = Command::new("bash");
        command.args(["-euc", &(eval + text)]).env("LINES_OF_DEV", lines.join("\n"));
        let output = command.env("SYNCRAFT", SYNCRAFT).output().unwrap();
        assert!(output.status.success(), "{text}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let said =
        shell("\"$SYNCRAFT\" put k v; \"$SYNCRAFT\" get k; set -- $SYNCRAFT_HTTP_ALL; echo $#");
    assert_eq!(said, "v\n3\n");
    if has("curl") {
        let commands = lines.iter().filter_map(|line| line.strip_prefix("#   "));
        let said: Vec<String> = commands.map(shell).collect();
        assert_eq!(said.len(), 3, "{lines:?}");
        assert!(said[0].contains("\"revision\":") && said[1] == "hello", "{said:?}");
        assert!(said[2].contains("\"fault\":\"kill\""), "{said:?}");
    }
    signal(child.id(), "-TERM");
    assert_eq!(end(child), (Some(0), String::new(), String::new()));
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn the_status_is_that_of_the_command_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let check = |command: &[&str], status: i32, printed: &str, words: &str| {
        let args = [&["--nodes", "1", "--"], command].concat();
        let (code, out, said) = end(dev(&args, dir.path()).spawn().unwrap());
        assert_eq!((code, &*out), (Some(status), printed), "{command:?}: {said}");
        assert!(said.contains(words), "{command:?}: {said}");
        assert_eq!(names(dir.path()), [""; 0], "{command:?}");
    };
    check(&["true"], 0, "", "");
    check(&["sh", "-c", "exit 7"], 7, "", "");
    check(&["sh", "-c", "kill -9 $$"], 128 + 9, "", "");
    check(&["/nonexistent/program"], 127, "", "syncraft: cannot run");
    check(&["/etc/passwd"], 126, "", "syncraft: cannot run");
    let script = format!("{SYNCRAFT} put k v && {SYNCRAFT} get k");
    check(&["sh", "-c", &script], 0, "v\n", "");
    let script = "test -n \"$SYNCRAFT_HTTP\" && test -n \"$SYNCRAFT_DEV\"; echo $?";
    check(&["sh", "-c", script], 0, "0\n", "");
}

/// Signals go to COMMAND, and the cluster ends with it.
#[test]
fn a_command_is_told_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap 'echo told; exit 5' TERM; echo up; while :; do sleep 0.1; done";
    let args = ["--nodes", "1", "--", "sh", "-c", script];
    let mut child = dev(&args, dir.path()).spawn().unwrap();
    let mut out = out(&mut child);
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    assert_eq!(names(dir.path()).len(), 1, "the data");
    signal(child.id(), "-TERM");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "told\n");
    assert_eq!(end(child).0, Some(5));
    assert_eq!(names(dir.path()), [""; 0]);
}

/// SIGTERM ends it. So do SIGINT, SIGQUIT and SIGHUP, unless they were ignored when it started.
#[test]
fn a_signal_ends_it_cleanly() {
    let mut dev = Dev::start(&[]);
    dev.signal("-USR1");
    dev.signal("-USR2");
    assert_eq!(dev.put(1, "k", "v").unwrap().0, 200);
    assert_eq!(names(dev.dir.path()).len(), 1, "the data");
    dev.signal("-TERM");
    assert_eq!(dev.ended(), (Some(0), String::new()));
    assert_eq!(names(dev.dir.path()), [""; 0]);
}

/// It ends although a client waits for a leader that will never be, and others are connected.
#[test]
fn nobody_holds_up_the_end() {
    let mut dev = Dev::start(&["--timeout", "10m"]);
    let _idle = send("GET", &format!("{}/livez", dev.http(1)), "").unwrap();
    (1..=3).for_each(|id| drop(dev.fault(&format!("kill?member={id}"))));
    assert!(dev.view()["leader"].is_null());
    let control = dev.env().pop().unwrap().1;
    let _waits = send("POST", &format!("{control}/v1/dev/kill?member=leader"), "").unwrap();
    dev.signal("-TERM");
    assert_eq!(dev.ended().0, Some(0));
    assert_eq!(names(dev.dir.path()), [""; 0]);
}

/// With the same data, on other ports, and though the data of a member is gone.
#[test]
fn a_named_directory_is_kept_and_serves_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let args = ["--data-dir", data.to_str().unwrap()];
    let mut first = Dev::start(&args);
    assert_eq!(first.put(1, "k", "kept").unwrap().0, 200);
    let (status, _, said) = end(super::dev_process::dev(&args, dir.path()).spawn().unwrap());
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("belongs to a cluster that runs"), "{said}");
    first.fault("wipe?member=2");
    first.signal("-TERM");
    assert_eq!(first.ended().0, Some(0));
    assert_eq!(names(&data), ["1", "3", "cluster.json"]);
    assert_eq!(names(first.dir.path()), [""; 0]);

    let mut second = Dev::start(&args);
    assert_ne!(first.members(), second.members());
    let stale = |id| ask("GET", &format!("{}/v1/kv/k?stale", second.http(id)), "").unwrap().1;
    assert_eq!(second.get(1, "k").unwrap(), (200, "kept".to_owned()));
    until("the member without its data has it again", || stale(2) == "kept");
    second.signal("-TERM");
    assert_eq!(second.ended().0, Some(0));

    let other = ["--nodes", "5", args[0], args[1]];
    let (status, _, said) = end(super::dev_process::dev(&other, dir.path()).spawn().unwrap());
    assert_eq!((status, said.lines().count()), (Some(3), 1), "{said}");
    assert!(said.contains("has the data of 3 members, not of 5"), "{said}");
    assert_eq!(names(&data), ["1", "2", "3", "cluster.json"]);
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let check = |args: &[&str], status: i32, words: &str| {
        let (code, out, said) = end(dev(args, dir.path()).spawn().unwrap());
        assert_eq!((code, &*out), (Some(status), ""), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert_eq!(names(dir.path()), [""; 0], "{args:?}");
    };
    check(&["--nodes", "0"], 2, "--nodes");
    check(&["--nodes", "16"], 2, "--nodes");
    check(&["--port", "0"], 2, "--port");
    check(&["--http", "65536"], 2, "--http");
    check(&["--http", "65533"], 2, "not enough ports");
    check(&["--port", "65534"], 3, "not enough ports");
    check(&["--json", "--", "true"], 2, "--json");
    check(&["true"], 2, "true");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let data = dir.path().join("data");
    let data = ["--data-dir", data.to_str().unwrap()];
    check(&["--port", &port, data[0], data[1]], 3, &format!("cannot use port {port}"));
    // Those behind it may be in use as well.
    check(&["--http", &port, data[0], data[1]], 3, "cannot use port");
    let twice = ["--port", &port, "--http", &port];
    check(&twice, 3, "cannot use port");
    check(&["--data-dir", "/proc/nothing"], 3, "/proc/nothing");

    let others = tempfile::tempdir().unwrap();
    fs::write(others.path().join("notes"), "mine").unwrap();
    check(&["--data-dir", others.path().to_str().unwrap()], 3, "is not empty");
    assert_eq!(names(others.path()), ["notes"]);
}

/// The ports are those that were asked for, one behind the other.
#[test]
fn ports_can_be_chosen() {
    // Another program may take one of them before it is used.
    let dev = (0..20).find_map(|_| {
        let first = fastrand::u16(12_000..32_000);
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        let all_are_free = (first..first + 7).all(is_free);
        let [port, http] = [first, first + 3].map(|port| port.to_string());
        let args = ["--port", &port, "--http", &http];
        all_are_free.then(|| Some((first, Dev::try_start(&args).ok()?)))?
    });
    let (first, dev) = dev.expect("seven free ports in a row");
    let member = |id: u16| format!("{id}=127.0.0.1:{}", first + id - 1);
    assert_eq!(dev.members(), [1, 2, 3].map(member).join(","));
    let http = |id: u16| format!("http://127.0.0.1:{}", first + 2 + id);
    assert_eq!([1, 2, 3].map(|id| dev.http(id).to_owned()), [1, 2, 3].map(http));
    assert_eq!(dev.env()[3].1, format!("http://127.0.0.1:{}", first + 6));
    let get = syncraft(&["get", "k", "--members", dev.members()]);
    assert_eq!(get.status.code(), Some(1), "{}", stderr(&get));
}
