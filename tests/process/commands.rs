//! The `syncraft` command as a shell sees it: exit statuses, and what it prints. Members that are
//! started on something they cannot use say so in one line.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use syncraft::testing::Port;

use crate::processes::*;
use crate::program::copy_program;

#[test]
fn a_member_stops_cleanly_on_sigterm_and_keeps_its_data() {
    let mut cluster = Processes::start(1);
    cluster.clerk().put("k", "v").unwrap();
    for signal in ["-TERM", "-INT"] {
        cluster.signal(1, signal);
        let status = cluster.children[0].take().unwrap().wait().unwrap();
        assert_eq!(status.code(), Some(0), "{signal}");
        cluster.restart(1);
        cluster.wait_ready();
        assert_eq!(appended(&cluster.clerk(), "k"), "v");
    }
}

#[test]
fn the_leadership_goes_to_whom_the_operator_names() {
    let mut cluster = Processes::start(3);
    let behind = (1..=3).find(|&id| id != cluster.leader()).unwrap();
    cluster.kill(behind);
    cluster.clerk().put("k", "written without it").unwrap();
    cluster.restart(behind);
    let members = cluster.members();
    // The first one has yet to catch up.
    for id in [behind, 1, 2, 3, 1] {
        // On a busy machine, an election may follow.
        until("it leads", || {
            let to = id.to_string();
            let done = syncraft(&["transfer", &to, "--timeout", "60s", "--members", &members]);
            assert!(done.status.success(), "{}", stderr(&done));
            cluster.leader() == id
        });
    }
    // The command does not wait for a member that cannot exist, ...
    for id in ["9", "0"] {
        let (refused, began) =
            (["transfer", id, "--timeout", "10m", "--members", &members], Instant::now());
        let refused = syncraft(&refused);
        assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
        assert!(stderr(&refused).contains(&format!("there is no member {id}")));
        assert!(began.elapsed() < Duration::from_secs(60), "at once: {:?}", began.elapsed());
    }
    // ... and it names a member that is down.
    let away = (1..=3).find(|&id| id != cluster.leader()).unwrap();
    cluster.kill(away);
    let id = away.to_string();
    let late = syncraft(&["transfer", &id, "--timeout", "1s", "--members", &members]);
    assert_eq!(late.status.code(), Some(3), "{}", stderr(&late));
    assert!(stderr(&late).contains(&format!("member {id} does not answer")), "{}", stderr(&late));
    cluster.clerk().put("k", "v").expect("and the cluster goes on");
}

/// The port of `--http` is recognised at once, and nothing that was sent to it was applied.
#[test]
fn an_http_port_is_named_at_once() {
    let mut cluster = Processes::start(1);
    let http = Port::free().unwrap().addr().to_string();
    cluster.kill(1);
    cluster.restart_with(1, &["--http", &http]);
    cluster.wait_ready();
    let began = Instant::now();
    for args in [
        &["put", "k", "v"][..],
        &["append", "k", "v"],
        &["get", "k"],
        &["get", "--stale", "k"],
        &["status"],
        &["transfer", "1"],
        &["snapshot"],
        &["wait-ready"],
        &["bench", "put"],
    ] {
        let output = syncraft(&[args, &["--timeout", "10m", "--members", &http]].concat());
        let said = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {said}");
        assert!(
            said.contains(&format!("{http} speaks HTTP, not this protocol")),
            "{args:?}: {said}"
        );
    }
    assert!(began.elapsed() < Duration::from_secs(120), "at once: {:?}", began.elapsed());
    // Among members, it is skipped.
    let list = format!("{http},{}", cluster.ports[0].addr());
    for args in [&["put", "k", "v"][..], &["get", "k"], &["transfer", "1"]] {
        let output = syncraft(&[args, &["--members", &list]].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    }
}

/// `ld.so ./syncraft server ...`, as on systems whose own loader does not work: the process then
/// has the loader as its program.
#[test]
fn a_server_starts_through_the_loader() {
    const LOADERS: [&str; 3] =
        ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-linux-armhf.so.3"];
    let Some(loader) = LOADERS.into_iter().find(|loader| Path::new(loader).exists()) else {
        return eprintln!("not tried: this system has none of {LOADERS:?}");
    };
    let dir = tempfile::tempdir().unwrap();
    let port = Port::free().unwrap();
    let members = format!("1={}", port.addr());
    let direct = server(1, &members, &dir.path().join("1"));
    let mut command = Command::new(loader);
    command.arg(direct.get_program()).args(direct.get_args());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let put = syncraft(&["put", "k", "v", "--timeout", "30s", "--members", &members]);
    let stopped = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", stderr(&put));
    assert!(stopped.success() && put.status.success(), "{}", stderr(&put));
}

/// When the system refuses a thread, the command says so, or other threads do the work.
#[test]
fn commands_do_with_few_threads_or_say_so() {
    let cluster = Processes::start(3);
    cluster.clerk().put("k", "v").unwrap();
    let members = cluster.members();
    // The limit does not apply to root, so the commands run as another user. That user must be
    // allowed to run the program, and must have no other process, because these count.
    let is_root = rustix::process::geteuid().is_root();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("syncraft");
    copy_program(SYNCRAFT, &program);
    let uid = 1_000_000 + std::process::id();
    let limits = match is_root {
        true => vec![1, 2, 3, 5, 6, 12, 20],
        // Other processes of the user exist, so this one gets no thread at all.
        false => vec![1],
    };
    if !is_root {
        eprintln!("not root: tried with no thread at all only");
    }
    for limit in limits {
        for (args, least) in [
            (&["get", "k"][..], 2),
            (&["put", "k", "v"], 2),
            (&["status"], 2),
            (&["transfer", "1"], 2),
            (&["snapshot"], 2),
            (&["wait-ready"], 2),
            (&["bench", "put", "--count", "100", "--warm-up", "0s"], 12),
        ] {
            let mut command = Command::new("bash");
            let limited = format!("ulimit -u {limit} && exec \"$@\"");
            command.args(["-c", &limited, "limited"]).arg(&program).args(args);
            // With a thread, it has all the time that a busy machine needs.
            let timeout = if limit == 1 { "1s" } else { "30s" };
            command.args(["--timeout", timeout, "--members", &members]);
            if is_root {
                command.uid(uid).gid(uid);
            }
            let (mut code, mut said, mut all) = (None, String::new(), String::new());
            // `status` may have met an election.
            until("a leader is followed, or there are too few threads", || {
                let output = command.output().unwrap();
                (code, said) = (output.status.code(), stderr(&output));
                all = said.clone() + &String::from_utf8_lossy(&output.stdout);
                !said.contains("no leader is followed by a majority") || all.contains("thread")
            });
            assert!(!said.contains("panicked"), "{args:?} of {limit}: {said}");
            assert!([Some(0), Some(3)].contains(&code), "{args:?} of {limit}: {code:?} {said}");
            if code == Some(3) {
                assert!(all.contains("thread"), "{args:?} of {limit}: {all}");
            }
            if limit >= least {
                assert_eq!(code, Some(0), "{args:?} of {limit}: {said}");
            }
            if limit == 1 {
                assert_eq!(code, Some(3), "the limit does not hold: {args:?}");
            }
        }
    }
}

/// When members are frozen, a command takes no longer than its timeout.
#[test]
fn no_command_waits_longer_than_its_timeout() {
    let cluster = Processes::start(1);
    let members = cluster.members();
    cluster.signal(1, "-STOP");
    for args in
        [&["bench", "put"][..], &["status"], &["transfer", "1"], &["wait-ready"], &["get", "k"]]
    {
        // On a busy machine, a single command may take longer.
        let took = |_| {
            let began = Instant::now();
            let output = syncraft(&[args, &["--timeout", "200ms", "--members", &members]].concat());
            assert_eq!(output.status.code(), Some(3), "{args:?}: {}", stderr(&output));
            began.elapsed()
        };
        let quickest = (0..5).map(took).min().unwrap();
        assert!(quickest < Duration::from_millis(1500), "{args:?}: {quickest:?}");
    }
    cluster.signal(1, "-CONT");
}

/// Otherwise a script that kills one of the first two next finds a cluster that cannot go on.
#[test]
fn ready_is_a_cluster_that_can_lose_a_member() {
    let mut cluster = Processes::start(3);
    cluster.kill(3);
    fs::remove_dir_all(cluster.data_dir(3)).unwrap();
    cluster.restart_until(3, &["--rebuild"], |member| member["reachable"] == true);
    cluster.wait_ready();
    for id in 1..=3 {
        let member = cluster.answer_of(id);
        assert_eq!(member["joining"], false, "{member}");
    }
}

#[test]
fn a_snapshot_is_taken_when_the_operator_says_so() {
    let mut cluster = Processes::start(3);
    let clerk = cluster.clerk();
    (0..50).for_each(|n| clerk.append("log", format!("{n},")).unwrap());
    let done = syncraft(&["snapshot", "--members", &cluster.members()]);
    assert!(done.status.success(), "{}", stderr(&done));
    for id in 1..=3 {
        assert_eq!(
            fs::read_dir(cluster.data_dir(id).join("snap")).unwrap().count(),
            1,
            "member {id}"
        );
        cluster.kill(id);
    }
    (1..=3).for_each(|id| cluster.restart(id));
    cluster.wait_ready();
    let expected: String = (0..50).map(|n| format!("{n},")).collect();
    assert_eq!(appended(&cluster.clerk(), "log"), expected);
}

/// A member that is told to stop first hands its leadership over: nobody waits for an election
/// timeout, and no write is lost.
#[test]
fn a_leader_that_stops_hands_over() {
    let mut cluster = Processes::start(3);
    let clerk = cluster.clerk();
    let (mut stops, mut hand_overs) = (0, 0);
    // There is little time to hand over: on a busy machine, a member may stop as a leader.
    while stops < 10 && hand_overs < 3 {
        let leader = cluster.leader();
        cluster.signal(leader, "-TERM");
        clerk.append("log", format!("{stops},")).unwrap();
        assert_eq!(cluster.children[leader - 1].take().unwrap().wait().unwrap().code(), Some(0));
        let log = cluster.log(leader);
        let last_role = log.lines().rfind(|line| line.contains("driver")).unwrap();
        hand_overs += usize::from(!last_role.contains("leads"));
        stops += 1;
        cluster.restart(leader);
        cluster.wait_ready();
    }
    assert_eq!(hand_overs, 3, "of {stops} stops");
    let expected: String = (0..stops).map(|n| format!("{n},")).collect();
    assert_eq!(appended(&clerk, "log"), expected);
}

/// The server ends by itself with `code`, and gives the reason in one line that contains `words`.
fn check_refused(mut command: Command, code: i32, words: &[&str]) {
    let output = command.env_remove("RUST_LOG").output().unwrap();
    let line = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {line}");
    assert_eq!(line.trim_end().lines().count(), 1, "one line: {line}");
    words.iter().for_each(|word| assert!(line.contains(word), "{word:?} is not in: {line}"));
}

#[test]
fn what_cannot_start_says_why_in_one_line() {
    let mut cluster = Processes::start(1);
    cluster.clerk().put("k", "v").unwrap();
    let (members, data_dir) = (cluster.members(), cluster.data_dir(1));
    let dir = cluster.dir.path().to_owned();
    let fresh = |name: &str| dir.join(name);

    check_refused(server(2, &members, &fresh("a")), 2, &["2", &members]);
    check_refused(server(1, "1=127.0.0.1", &fresh("a")), 2, &["port"]);
    check_refused(server(1, "1=127.0.0.1:7001,1=127.0.0.1:7002", &fresh("a")), 2, &["already"]);
    check_refused(
        server(1, &members, &fresh("a")),
        3,
        &["listen", &cluster.ports[0].addr().to_string()],
    );
    // Same directory, another port: the lock.
    let port = Port::free().unwrap();
    let elsewhere = format!("1={},2={}", port.addr(), cluster.ports[0].addr());
    check_refused(
        server(1, &elsewhere, &data_dir),
        3,
        &["in use", &data_dir.display().to_string()],
    );

    cluster.kill(1);
    check_refused(
        server(2, &format!("1=127.0.0.1:1,2={}", port.addr()), &data_dir),
        3,
        &["belongs to member 1"],
    );
    let unreleased = fresh("unreleased");
    let meta = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/storage-unreleased-1/meta");
    fs::create_dir(&unreleased).unwrap();
    fs::copy(meta, unreleased.join("meta")).unwrap();
    let words = ["meta has format version 1", "start with an empty data directory"];
    check_refused(server(1, &members, &unreleased), 3, &words);
    let file = fresh("file");
    fs::write(&file, "").unwrap();
    check_refused(server(1, &members, &file.join("data")), 3, &["file"]);
}

#[test]
fn a_damaged_log_is_refused_with_file_and_offset() {
    let mut cluster = Processes::start(1);
    let clerk = cluster.clerk();
    (0..20).for_each(|n| clerk.put(format!("k{n}"), "v".repeat(100)).unwrap());
    cluster.kill(1);
    let wal = cluster.data_dir(1).join("wal");
    let segment = fs::read_dir(wal).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let needle = b"k5";
    let at = fs::read(&segment).unwrap().windows(needle.len()).position(|it| it == needle).unwrap();
    let mut file = OpenOptions::new().write(true).open(&segment).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(b"XX").unwrap();
    drop(file);
    check_refused(cluster.command(1), 3, &[&segment.display().to_string(), "offset"]);
}

#[test]
fn a_port_that_someone_else_has_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    check_refused(server(1, &format!("1={addr}"), &dir.path().join("1")), 3, &[&addr, "in use"]);
}

fn bench(cluster: &Processes, args: &[&str]) -> serde_json::Value {
    let members = cluster.members();
    let mut all = vec!["bench"];
    all.extend_from_slice(args);
    all.extend_from_slice(&["--json", "--warm-up", "10ms", "--members", &members]);
    let output = syncraft(&all);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn bench_measures_what_it_says() {
    let mut cluster = Processes::start(3);
    let puts = bench(&cluster, &["put", "--clients", "8", "--count", "500", "--keys", "50"]);
    assert_eq!((&puts["operation"], &puts["clients"]), (&"put".into(), &8.into()));
    assert_eq!((&puts["operations"], &puts["members"]), (&500.into(), &3.into()));
    assert_eq!(puts["read_mode"], "read-index");
    assert_eq!(
        puts["errors"],
        serde_json::json!({"not_applied": 0, "unknown": 0, "rejected": 0, "not_begun": 0})
    );
    let latency = |name: &str| puts["latency_us"][name].as_u64().unwrap();
    assert!(latency("min") > 0 && latency("min") <= latency("p50"));
    assert!(latency("p50") <= latency("p99") && latency("p99") <= latency("max"));
    let clerk = cluster.clerk();
    assert_eq!(clerk.get("bench-0000000007").unwrap().map(|value| value.len()), Some(256));

    // Reads find their keys by themselves, and appends make values longer.
    let gets = bench(&cluster, &["get", "--count", "100", "--keys", "70", "--value-size", "10"]);
    assert_eq!(gets["operations"], 100);
    assert_eq!(clerk.get("bench-0000000069").unwrap().map(|value| value.len()), Some(10));
    bench(
        &cluster,
        &["append", "--count", "3", "--keys", "1", "--value-size", "5", "--clients", "1"],
    );
    assert!(clerk.get("bench-0000000000").unwrap().is_some_and(|value| value.len() >= 25));
    bench(&cluster, &["mixed", "--read-ratio", "0.9", "--count", "100", "--keys", "10"]);

    // Each swap of its own keys succeeds, and a range finds all of its keys.
    let members = cluster.members();
    let next_revision = || {
        clerk.put("mark", "").unwrap();
        clerk.get_entry("mark").unwrap().unwrap().mod_revision.0
    };
    let before = next_revision();
    let swaps = bench(&cluster, &["cas", "--clients", "3", "--count", "50", "--keys", "7"]);
    assert_eq!((&swaps["operation"], &swaps["operations"]), (&"cas".into(), &50.into()));
    assert_eq!(swaps["errors"], puts["errors"], "nobody lost a race");
    assert!(next_revision() > before + 7 + 50, "a put of each key, and 50 swaps");
    let ranges = bench(&cluster, &["range", "--count", "20", "--keys", "1500"]);
    assert_eq!((&ranges["operation"], &ranges["operations"]), (&"range".into(), &20.into()));
    assert_eq!(ranges["errors"], puts["errors"]);
    // Without its keys, it would be measured as faster than it is.
    let args = ["bench", "range", "--no-fill", "--count", "1", "--keys", "1501", "--clients", "1"];
    let rest = ["--warm-up", "0s", "--members", &members];
    let output = syncraft(&[&args[..], &rest].concat());
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("1500 keys in place of 1501"), "{}", stderr(&output));

    // Each put counts once for each watcher. Other watches are not in the way.
    let args = ["watch", "--watchers", "20", "--idle", "7", "--streams", "3", "--count", "50"];
    let watches = bench(&cluster, &[&args[..], &["--clients", "4"]].concat());
    assert_eq!((&watches["operation"], &watches["operations"]), (&"watch".into(), &1000.into()));
    assert_eq!(watches["errors"], puts["errors"]);

    // Leases of an earlier run can be used again.
    let args = ["lease", "--leases", "30", "--ttl", "60s", "--round", "10ms", "--count", "2"];
    for args in [&args[..], &[&args[..], &["--no-fill"]].concat()] {
        let leases = bench(&cluster, args);
        assert_eq!(leases["operation"], "lease");
        assert_eq!((&leases["operations"], &leases["errors"]), (&2.into(), &puts["errors"]));
    }
    let output = syncraft(&["bench", "watch", "--rate", "5", "--members", &members]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));

    // An open loop starts this many calls, however long they take.
    let open = bench(&cluster, &["put", "--rate", "500", "--seconds", "0.5", "--clients", "20"]);
    let operations = open["operations"].as_u64().unwrap();
    assert_eq!(operations + open["errors"]["not_begun"].as_u64().unwrap(), 250);

    // It goes on with the next leader, and a put that began before waits. Few keys, so that each is
    // soon written.
    let args = ["bench", "put", "--seconds", "3", "--clients", "16", "--keys", "2", "--json"];
    let mut attempts = 0..10;
    let report = loop {
        assert!(attempts.next().is_some(), "it is always over before its leader can be killed");
        let before = clerk.get("bench-0000000001").unwrap();
        let mut disturbed = Command::new(env!("CARGO_BIN_EXE_syncraft"))
            .args(args)
            .args(["--members", &members])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut is_over = || disturbed.try_wait().unwrap().is_some();
        while clerk.get("bench-0000000001").unwrap() == before && !is_over() {}
        let leader = cluster.leader();
        cluster.kill(leader);
        let was_killed_in_time = !is_over();
        let output = disturbed.wait_with_output().unwrap();
        assert!(output.status.success());
        if was_killed_in_time {
            break serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
        }
        cluster.restart(leader);
        cluster.wait_ready();
    };
    assert_eq!(report["errors"], puts["errors"], "every put was begun again until it was done");
}

#[test]
fn bench_refuses_what_makes_no_sense() {
    let nowhere = ["--members", "127.0.0.1:1"];
    for args in [
        &["bench", "put", "--clients", "0"][..],
        &["bench", "put", "--value-size", "99999999"],
        &["bench", "mixed", "--read-ratio", "1.5"],
        &["bench", "put", "--rate", "0"],
        &["bench", "put", "--seconds", "1", "--count", "1"],
        &["bench", "cas", "--clients", "8", "--keys", "7"],
        &["bench", "cas", "--keys", "100000001"],
        &["bench", "range", "--keys", "25000"],
        &["bench", "delete"],
    ] {
        let output = syncraft(&[args, &nowhere].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
    let output = syncraft(&[&["bench", "put"][..], &nowhere].concat());
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}
