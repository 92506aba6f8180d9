//! `lock` and `elect`: exit statuses, signals, and that nothing is left behind, however a COMMAND
//! ends.

use std::fs;
use std::io::BufReader;
use std::process::{ChildStdout, Command};
use std::thread;
use std::time::{Duration, Instant};

use syncraft::kv::model::KeyRange;

use crate::processes::*;
use crate::running::{end, line, start};
use crate::store_commands::Shell;

const UP: &str = "echo up $SYNCRAFT_FENCE $SYNCRAFT_FENCE_KEY; sleep 60";

fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

fn places(cluster: &Processes, name: &str) -> usize {
    cluster.clerk().scan(KeyRange::prefix(format!("{name}/"))).filter(Result::is_ok).count()
}

/// The next line is "up", the fence and the key of the place, which a transaction can compare.
#[track_caller]
fn check_up(cluster: &Processes, out: &mut BufReader<ChildStdout>) {
    let line = line(out);
    let ["up", fence, key] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{line:?}")
    };
    let place = cluster.clerk().get_entry(key).unwrap().unwrap();
    assert_eq!(fence, place.create_revision.0.to_string());
}

/// Runs a command that takes the lock "l" and ends with this status. Nothing is left behind.
#[track_caller]
fn check(cluster: &Processes, command: &[&str], status: i32, words: &str) {
    let lock = ["lock", "l", "--wait", "10s", "--"];
    let (child, _out) = start(cluster, &[&lock, command].concat());
    let (code, said) = end(child);
    assert_eq!(code, Some(status), "{command:?}: {said}");
    assert!(said.contains(words), "{command:?}: {said}");
    assert_eq!(places(cluster, "l"), 0, "{command:?}");
}

#[test]
fn the_status_is_that_of_the_command_and_nothing_is_left() {
    let cluster = Processes::start(1);
    check(&cluster, &["true"], 0, "");
    check(&cluster, &["sh", "-c", "exit 7"], 7, "");
    check(&cluster, &["sh", "-c", "kill -9 $$"], 128 + 9, "");
    check(&cluster, &["/nonexistent/program"], 127, "syncraft: cannot run");
    check(&cluster, &["/etc/passwd"], 126, "syncraft: cannot run");
    assert!(cluster.clerk().leases().unwrap().is_empty(), "no lease is left");

    let sh = Shell(&cluster);
    let script = "echo $SYNCRAFT_FENCE $SYNCRAFT_FENCE_KEY";
    let held = sh.check(&["lock", "l", "--", "sh", "-c", script], 0);
    let again = sh.check(&["lock", "l", "--", "sh", "-c", script], 0);
    let fence = |line: &str| line.split(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(fence(&held) < fence(&again) && held.contains(" l/"), "{held}{again}");
    // Its standard input is ours.
    assert_eq!(sh.check_with(&["lock", "l", "--", "cat"], b"input", 0), "input");
    sh.refused(&["lock", &"n".repeat(64 << 10), "--", "true"], "", &["name of a lock", "65536"]);
    for args in [&["lock", "l"][..], &["lock", "l", "--ttl", "0s", "--", "true"], &["elect", "e"]] {
        assert_eq!(sh.run_with(args, b"").status.code(), Some(2), "{args:?}");
    }
    let nowhere = ["lock", "l", "--members", "127.0.0.1:1", "--timeout", "300ms", "--", "true"];
    let output = syncraft(&nowhere);
    assert!([Some(3), Some(4)].contains(&output.status.code()), "{}", stderr(&output));
}

#[test]
fn a_taken_lock_is_waited_for_or_not() {
    let cluster = Processes::start(1);
    let sh = Shell(&cluster);
    let (holder, mut out) = start(&cluster, &["lock", "l", "--", "sh", "-c", UP]);
    check_up(&cluster, &mut out);
    for wait in ["0s", "300ms"] {
        let began = Instant::now();
        sh.check(&["lock", "l", "--wait", wait, "--", "echo", "never"], 3);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    // One that waits is told to end, and leaves the queue.
    let (waiter, _out) = start(&cluster, &["lock", "l", "--", "echo", "never"]);
    until("it waits", || places(&cluster, "l") == 2);
    signal(waiter.id(), "-TERM");
    assert_eq!(end(waiter), (Some(128 + 15), String::new()));
    assert_eq!(places(&cluster, "l"), 1);
    // Another has it as soon as the holder's COMMAND ends.
    let (waiter, mut its_out) = start(&cluster, &["lock", "l", "--", "echo", "mine"]);
    until("it waits", || places(&cluster, "l") == 2);
    signal(holder.id(), "-TERM");
    assert_eq!(end(holder).0, Some(128 + 15));
    assert_eq!(line(&mut its_out), "mine\n");
    assert_eq!(end(waiter), (Some(0), String::new()));
    assert_eq!(places(&cluster, "l"), 0);
}

/// No member answers, so that the queue cannot be left: whoever has no time to wait sends another
/// signal.
#[test]
fn a_second_signal_ends_one_that_waits_at_once() {
    let mut cluster = Processes::start(1);
    // To give it back would take long, too.
    std::mem::forget(cluster.clerk().lock("l").acquire().unwrap());
    let (mut waiter, _out) = start(&cluster, &["lock", "l", "--timeout", "10m", "--", "true"]);
    until("it waits", || places(&cluster, "l") == 2);
    cluster.kill(1);
    until("it ends", || {
        signal(waiter.id(), "-TERM");
        waiter.try_wait().unwrap().is_some()
    });
    assert_eq!(end(waiter).0, None, "the signal has ended it");
}

/// A signal reaches all processes of COMMAND. One that ignores it keeps the lock until it ends.
#[test]
fn signals_go_to_the_command() {
    let cluster = Processes::start(1);
    // It goes on once it has been told, however long that takes.
    let script = "trap 'echo told; told=1' TERM; told=; echo up; \
                  until [ \"$told\" ]; do sleep 0.1; done; echo done";
    let (holder, mut out) = start(&cluster, &["lock", "l", "--", "sh", "-c", script]);
    assert_eq!(line(&mut out), "up\n");
    signal(holder.id(), "-TERM");
    assert_eq!((line(&mut out), line(&mut out)), ("told\n".into(), "done\n".into()));
    assert_eq!(end(holder).0, Some(0));

    let script = "trap '' TERM INT; echo $$; while :; do sleep 0.1; done";
    let (mut holder, mut out) = start(&cluster, &["lock", "l", "--", "sh", "-c", script]);
    let pid: u32 = line(&mut out).trim().parse().unwrap();
    signal(holder.id(), "-TERM");
    signal(holder.id(), "-INT");
    thread::sleep(Duration::from_millis(300));
    assert!(holder.try_wait().unwrap().is_none());
    assert_eq!(places(&cluster, "l"), 1);
    signal(pid, "-KILL");
    assert_eq!(end(holder).0, Some(128 + 9));
    assert_eq!(places(&cluster, "l"), 0);
}

#[test]
fn a_command_that_is_stopped_ends_with_a_signal() {
    let cluster = Processes::start(1);
    let (holder, mut out) = start(&cluster, &["lock", "l", "--", "sh", "-c", "echo $$; sleep 60"]);
    let pid: u32 = line(&mut out).trim().parse().unwrap();
    signal(pid, "-STOP");
    signal(holder.id(), "-TERM");
    assert_eq!(end(holder).0, Some(128 + 15));
    assert_eq!(places(&cluster, "l"), 0);
}

/// Then a script knows that COMMAND has not run.
#[test]
fn a_lock_that_nobody_answers_for_is_not_taken() {
    let cluster = Processes::start(1);
    cluster.signal(1, "-STOP");
    for wait in ["0s", "500ms"] {
        let args = ["lock", "l", "--timeout", "500ms", "--wait", wait, "--", "echo", "ran"];
        let (child, mut out) = start(&cluster, &args);
        assert_eq!(line(&mut out), "");
        let (code, said) = end(child);
        assert_eq!(code, Some(3), "{said}");
    }
    cluster.signal(1, "-CONT");
}

/// The lock is lost: COMMAND is told, and ended if it does not listen, also if it is stopped, and
/// with all that it has started.
#[test]
fn a_command_ends_when_its_lock_is_lost() {
    let cluster = Processes::start(1);
    let run = |name: &str, script: &str| {
        let args = ["lock", name, "--ttl", "5s", "--", "sh", "-c", script];
        let (holder, mut out) = start(&cluster, &args);
        let first = line(&mut out).trim().to_owned();
        (holder, out, first)
    };
    let (listens, mut out, _) = run("a", "trap 'echo told; exit 5' TERM; echo up; sleep 60 & wait");
    let deaf = "trap '' TERM; echo $$; while :; do sleep 0.1; done";
    let (stopped, _out, stopped_pid) = run("b", deaf);
    signal(stopped_pid.parse().unwrap(), "-STOP");
    let (parent, _out, orphan_pid) =
        run("c", &format!("sh -c \"{}\" & wait", deaf.replace('$', "\\$")));
    let clerk = cluster.clerk();
    // Both are ways to lose it.
    for place in clerk.scan(KeyRange::prefix("a/")).map(Result::unwrap) {
        clerk.delete(place.key).unwrap();
    }
    for lease in clerk.leases().unwrap() {
        let keys = clerk.lease_info(lease.id).unwrap().unwrap().keys;
        if !keys.is_empty() {
            clerk.revoke_lease(lease.id).unwrap();
        }
    }
    assert_eq!(line(&mut out), "told\n");
    let (code, said) = end(listens);
    assert!(said.starts_with("syncraft: the lock was lost"), "{said}");
    assert_eq!(code, Some(4));
    for (holder, pid) in [(stopped, stopped_pid), (parent, orphan_pid)] {
        assert_eq!(end(holder).0, Some(4));
        until("all of COMMAND has ended", || !runs(&pid));
    }
}

/// A process that nobody waits for has ended all the same.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// COMMAND succeeds while syncraft is stopped for so long that the lock is lost: perhaps another
/// one had it before COMMAND ended.
#[test]
fn a_lost_lock_is_told_though_the_command_has_succeeded() {
    let cluster = Processes::start(1);
    let may_end = cluster.dir.path().join("may-end");
    let script = format!("echo up; while [ ! -e '{}' ]; do sleep 0.1; done", may_end.display());
    let args = ["lock", "l", "--ttl", "2s", "--", "sh", "-c", &script];
    let (holder, mut out) = start(&cluster, &args);
    assert_eq!(line(&mut out), "up\n");
    signal(holder.id(), "-STOP");
    fs::write(&may_end, "").unwrap();
    until("the lock is lost", || places(&cluster, "l") == 0);
    signal(holder.id(), "-CONT");
    let (code, said) = end(holder);
    assert!(said.starts_with("syncraft: the lock was lost"), "{said}");
    assert_eq!(code, Some(4));
}

#[test]
fn an_election_is_announced_while_the_command_runs() {
    let cluster = Processes::start(3);
    let sh = Shell(&cluster);
    let args = ["elect", "e", "--value", "ann:1", "--", "sh", "-c", UP];
    let (holder, mut out) = start(&cluster, &args);
    check_up(&cluster, &mut out);
    assert_eq!(sh.check(&["get", "e"], 0), "ann:1\n");
    sh.check(&["elect", "e", "--wait", "0s", "--", "true"], 3);
    // Not SIGINT, which programs ignore that a shell has started in the background.
    signal(holder.id(), "-TERM");
    assert_eq!(end(holder).0, Some(128 + 15));
    sh.check(&["get", "e"], 1);
    let own = sh.check(&["elect", "e", "--", SYNCRAFT, "get", "e"], 0);
    assert!(own.trim().rsplit(':').next().is_some_and(|pid| pid.parse::<u32>().is_ok()), "{own}");
}

/// Who holds it is killed, and its machine tells nobody: the next one has it after the time to
/// live.
#[test]
fn a_lock_is_free_when_its_holder_has_died() {
    let cluster = Processes::start(1);
    let args = ["lock", "l", "--ttl", "2s", "--", "sh", "-c", "echo $$; sleep 60"];
    let (mut holder, mut out) = start(&cluster, &args);
    let pid: u32 = line(&mut out).trim().parse().unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let began = Instant::now();
    check(&cluster, &["true"], 0, "");
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    signal(pid, "-KILL");
}
