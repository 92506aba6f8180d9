//! Members as processes: killed, paused and wiped at random moments while clients write and read.
//! At the end, every acknowledged append is there once and an unknown one at most once, each
//! client's appends are in order, and what the clients saw is linearizable.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use syncraft::clerk::{Clerk, ClerkErrorKind};
use syncraft::kv::SESSIONS_MAX;
use syncraft::kv::proto::{KvServerRpcStub, PutAppendArgs};
use syncraft::rpc::{CallError, Channel};
use syncraft::testing::{History, Port};

use crate::alone::alone;
use crate::processes::*;

const CLIENTS: usize = 4;
/// Appends of each client to one key: reads of it stay short.
const APPENDS_A_KEY: usize = 100;

/// Random moments from a seed, which is printed. `SYNCRAFT_SEED` repeats a seed, as far as the
/// machine allows.
fn random() -> fastrand::Rng {
    let given = std::env::var("SYNCRAFT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SYNCRAFT_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// The results of one client's appends, in order.
type Appends = Vec<Result<(), ClerkErrorKind>>;

fn key(n: usize) -> String {
    // Keys in alphabetical order.
    format!("log{:06}", n / APPENDS_A_KEY)
}

/// Appends and reads until it is told to end, and until enough appends are acknowledged to be
/// meaningful.
fn client(number: usize, clerk: &Clerk, history: &History, is_over: &AtomicBool) -> Appends {
    let mut appends = Appends::new();
    let mut acknowledged = 0;
    let deadline = Instant::now() + 2 * TEST_TIMEOUT;
    while !is_over.load(Ordering::Acquire) || acknowledged < 20 {
        assert!(Instant::now() < deadline, "client {number}: nothing works any more");
        let (n, key) = (appends.len(), key(appends.len()));
        let result = history.append(clerk, &key, format!("{number}:{n},"));
        acknowledged += usize::from(result.is_ok());
        appends.push(result.map_err(|error| error.kind()));
        if n % 4 == 0 {
            let _ = history.get(clerk, &key);
        }
        // Faults should fall among some hundreds of calls, not tens of thousands.
        thread::sleep(Duration::from_millis(2));
    }
    appends
}

/// Ends the clients with the thread that makes trouble, however that thread ends.
struct EndsWith<'a>(&'a AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Clients work while `trouble` runs. All members must run at its end.
fn under_load(cluster: &mut Processes, trouble: impl FnOnce(&mut Processes)) {
    let (history, is_over) = (History::new(), AtomicBool::new(false));
    let appends: Vec<Appends> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let members = cluster.members();
                let builder = Clerk::builder().members(members.as_str());
                let clerk = builder.timeout(Duration::from_secs(5)).build().unwrap();
                let (history, is_over) = (&history, &is_over);
                scope.spawn(move || client(number, &clerk, history, is_over))
            })
            .collect();
        let end = EndsWith(&is_over);
        trouble(cluster);
        cluster.wait_ready();
        drop(end);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let clerk = cluster.clerk();
    let keys: BTreeSet<String> =
        appends.iter().flat_map(|appends| (0..appends.len()).map(key)).collect();
    let mut log = String::new();
    for key in &keys {
        let value = history.get(&clerk, key).unwrap().unwrap_or_default();
        log += std::str::from_utf8(&value).unwrap();
    }
    for (number, appends) in appends.iter().enumerate() {
        check_appends(&log, number, appends);
    }
    if let Err(violation) = history.check() {
        panic!("{violation}");
    }
}

fn check_appends(log: &str, client: usize, appends: &Appends) {
    let prefix = format!("{client}:");
    let mut found = BTreeSet::new();
    let mut last = None;
    for token in log.split_terminator(',').filter_map(|token| token.strip_prefix(&prefix)) {
        let n: usize = token.parse().unwrap();
        assert!(found.insert(n), "append {n} of client {client} is there twice");
        assert!(Some(n) > last, "append {n} of client {client} stands behind a later one");
        last = Some(n);
    }
    for (n, outcome) in appends.iter().enumerate() {
        match outcome {
            Ok(()) => assert!(found.contains(&n), "append {n} of client {client} is lost"),
            Err(ClerkErrorKind::Unknown) => {}
            Err(kind) => assert!(!found.contains(&n), "{n} of client {client} was {kind:?}"),
        }
    }
}

/// Kills this many members at once, at random moments, for some seconds.
fn check_kills(at_once: usize) {
    let mut random = random();
    let mut cluster = Processes::start(3);
    under_load(&mut cluster, |cluster| {
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(random.u64(100..900)));
            let mut ids = [1, 2, 3];
            random.shuffle(&mut ids);
            ids[..at_once].iter().for_each(|&id| cluster.kill(id));
            thread::sleep(Duration::from_millis(random.u64(0..500)));
            ids[..at_once].iter().for_each(|&id| cluster.restart(id));
        }
    });
}

#[test]
fn kill_9_of_the_leader_during_appends_loses_none_and_doubles_none() {
    let mut cluster = Processes::start(3);
    let clerk = cluster.clerk();
    let expected: String = (0..600).map(|n| format!("{n},")).collect();
    thread::scope(|scope| {
        let writer =
            scope.spawn(|| (0..600).for_each(|n| clerk.append("log", format!("{n},")).unwrap()));
        while !writer.is_finished() {
            let leader = cluster.leader();
            cluster.kill(leader);
            cluster.wait_ready();
            cluster.restart(leader);
            cluster.wait_ready();
        }
        writer.join().expect("every append is acknowledged");
    });
    assert_eq!(appended(&cluster.clerk(), "log"), expected);
}

#[test]
fn all_killed_at_once_keep_everything() {
    let mut cluster = Processes::start(3);
    let clerk = cluster.clerk();
    let expected: String = (0..100).map(|n| format!("{n},")).collect();
    (0..100).for_each(|n| clerk.append("log", format!("{n},")).unwrap());
    (1..=3).for_each(|id| cluster.kill(id));
    (1..=3).for_each(|id| cluster.restart(id));
    cluster.wait_ready();
    assert_eq!(appended(&cluster.clerk(), "log"), expected);
}

/// A leader that sleeps through an election must not answer from its old state when it wakes.
#[test]
fn a_paused_leader_serves_nothing_stale_when_it_wakes() {
    let cluster = Processes::start(3);
    let clerk = cluster.clerk();
    clerk.put("k", "old").unwrap();
    let paused = cluster.leader();
    let addr = cluster.ports[paused - 1].addr();
    let only_it =
        Clerk::builder().members([addr]).timeout(Duration::from_secs(20)).build().unwrap();
    assert_eq!(appended(&only_it, "k"), "old");
    cluster.signal(paused, "-STOP");
    clerk.put("k", "new").expect("the two others go on");
    thread::scope(|scope| {
        // The read is under way before the old leader wakes, so that it is the first thing that it
        // sees.
        let read = scope.spawn(|| appended(&only_it, "k"));
        cluster.signal(paused, "-CONT");
        assert_eq!(read.join().unwrap(), "new");
    });
}

#[test]
fn kill_9_of_one_at_random_moments_loses_nothing() {
    check_kills(1);
}

#[test]
fn kill_9_of_two_at_random_moments_loses_nothing() {
    check_kills(2);
}

#[test]
fn kill_9_of_all_at_random_moments_loses_nothing() {
    check_kills(3);
}

/// It sleeps longer than an election takes, and the first thing that it receives afterwards is a
/// read.
#[test]
fn a_leader_that_is_paused_under_load_answers_nothing_old_when_it_wakes() {
    let mut random = random();
    let mut cluster = Processes::start(3);
    under_load(&mut cluster, |cluster| {
        let clerk = cluster.clerk();
        for round in 0..3 {
            let paused = cluster.leader();
            let addr = cluster.ports[paused - 1].addr();
            let only_it = Clerk::builder().members([addr]).timeout(TEST_TIMEOUT).build().unwrap();
            clerk.put("round", format!("{round} before")).unwrap();
            only_it.get("round").unwrap();
            cluster.signal(paused, "-STOP");
            clerk.put("round", format!("{round} after")).expect("the two others go on");
            thread::sleep(Duration::from_millis(random.u64(0..800)));
            thread::scope(|scope| {
                let read = scope.spawn(|| only_it.get("round").unwrap().unwrap());
                cluster.signal(paused, "-CONT");
                assert_eq!(read.join().unwrap(), format!("{round} after"));
            });
        }
    });
}

/// A member is stopped only while the two others can do without it.
#[test]
fn restarts_in_every_order_lose_nothing() {
    let orders = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    let mut cluster = Processes::start(3);
    let before = cluster.clerk();
    before.put("before", "all of it").unwrap();
    under_load(&mut cluster, |cluster| {
        for order in orders {
            // All down, killed in one order and started in another, each as soon as it can.
            order.iter().for_each(|&id| cluster.kill(id));
            order.iter().rev().for_each(|&id| cluster.restart(id));
            cluster.wait_ready();
        }
        for order in orders.iter().take(2) {
            for &id in order {
                cluster.signal(id, "-TERM");
                cluster.children[id - 1].take().unwrap().wait().unwrap();
                cluster.restart(id);
                cluster.wait_ready();
            }
        }
    });
    assert_eq!(appended(&before, "before"), "all of it");
}

/// As a proxy does in front of a member that is down.
#[test]
fn a_peer_that_accepts_and_closes_is_not_called_without_a_pause() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    // Held until the end: nobody else gets it.
    let port = Port::free().unwrap();
    let list = format!("1={},2={}", port.addr(), proxy.local_addr().unwrap());
    let mut member = server(1, &list, dir.path()).stderr(Stdio::null()).spawn().unwrap();
    drop(proxy.accept().unwrap());
    let (began, mut calls) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(2) {
        drop(proxy.accept().unwrap());
        calls += 1;
    }
    member.kill().unwrap();
    member.wait().unwrap();
    assert!(calls <= 100, "{calls} in two seconds");
}

/// All others are up meanwhile, as they must be: the member has forgotten what it had acknowledged.
#[test]
fn a_member_whose_disk_is_replaced_is_filled_again_under_load() {
    let mut cluster = Processes::start(3);
    cluster.clerk().put("before", "all of it").unwrap();
    let wiped = (1..=3).find(|&id| id != cluster.leader()).unwrap();
    under_load(&mut cluster, |cluster| {
        cluster.kill(wiped);
        fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
        cluster.restart(wiped);
        until("it has what the leader has", || {
            let members = members_now(cluster);
            let applied = |id: usize| members[id - 1]["applied_index"].as_u64();
            let has_all = applied(wiped).is_some() && applied(wiped) >= applied(cluster.leader());
            has_all && members[wiped - 1]["joining"] == false
        });
        // Now it counts like any other: with its help, another member can be missed.
        let other = (1..=3).find(|&id| id != wiped && id != cluster.leader()).unwrap();
        cluster.kill(other);
        cluster.clerk().put("after", "with it").unwrap();
        cluster.restart(other);
    });
    assert_eq!(appended(&cluster.clerk(), "before"), "all of it");
}

/// Damage in the middle of a log is refused with a reason, and `--rebuild` repairs it: the member
/// discards its data, is filled by the others, and only then counts again.
#[test]
fn a_member_whose_log_is_damaged_is_rebuilt() {
    let mut cluster = Processes::start(3);
    let clerk = cluster.clerk();
    (0..50).for_each(|n| clerk.put(format!("k{n}"), "v".repeat(100)).unwrap());
    let damaged = (1..=3).find(|&id| id != cluster.leader()).unwrap();
    let wal = cluster.data_dir(damaged).join("wal");
    let segment = fs::read_dir(wal).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let find = |bytes: &[u8], key: &[u8]| bytes.windows(key.len()).position(|it| it == key);
    // It may be behind the two others, and has to write what it has applied.
    until("it has written them", || find(&fs::read(&segment).unwrap(), b"k49").is_some());
    cluster.kill(damaged);
    let mut bytes = fs::read(&segment).unwrap();
    let at = find(&bytes, b"k10").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let refused = ended(&mut cluster.command(damaged));
    assert_eq!(refused.status.code(), Some(3));
    let words = stderr(&refused);
    assert!(words.contains(&segment.display().to_string()) && words.contains("offset"), "{words}");
    // With another list of members, nothing is discarded.
    let other_list = format!("1={},2=127.0.0.1:1", cluster.ports[damaged - 1].addr());
    let other_list =
        if damaged == 1 { other_list } else { other_list.replace("1=", &format!("{damaged}=")) };
    let mut wrong = server(damaged, &other_list, &cluster.data_dir(damaged));
    let code = ended(wrong.arg("--rebuild")).status.code();
    assert!(code.is_some_and(|code| code != 0), "{code:?}");
    assert!(segment.exists(), "its data is still there");

    cluster.restart_until(damaged, &["--rebuild"], |member| member["joining"] == false);
    let other = (1..=3).find(|&id| id != damaged && id != cluster.leader()).unwrap();
    cluster.kill(other);
    (0..50).for_each(|n| assert_eq!(appended(&clerk, &format!("k{n}")), "v".repeat(100)));
    clerk.put("after", "with it").unwrap();
    // From now on it starts normally.
    cluster.kill(damaged);
    cluster.restart(damaged);
    cluster.wait_ready();
    assert_eq!(appended(&clerk, "after"), "with it");
}

/// While another member is down, a member without its data cannot know what it had promised: it
/// does not vote, and nothing is lost. A member that has its data does not discard it then.
#[test]
fn a_member_without_its_data_waits_for_all_the_others() {
    let mut cluster = Processes::start(3);
    cluster.clerk().put("k", "v").unwrap();
    let leader = cluster.leader();
    let (lost, other) =
        ((1..=3).find(|&id| id != leader).unwrap(), (1..=3).rfind(|&id| id != leader).unwrap());
    cluster.kill(lost);
    cluster.clerk().put("k", "w").unwrap();
    let meta = cluster.data_dir(lost).join("meta");
    let before = fs::read(&meta).unwrap();
    cluster.kill(other);
    check_kept(cluster.command(lost).arg("--rebuild"), other, &meta, &before);

    fs::remove_dir_all(cluster.data_dir(lost)).unwrap();
    cluster.restart(lost);
    until("it answers", || members_now(&cluster)[lost - 1]["joining"] == true);
    let put = syncraft(&["put", "k", "x", "--timeout", "2s", "--members", &cluster.members()]);
    assert!(matches!(put.status.code(), Some(3 | 4)), "{}", stderr(&put));
    assert_eq!(cluster.answer_of(lost)["joining"], true);
    // Nor does a member discard its data while another one has none: only the leader would be left.
    let meta = cluster.data_dir(other).join("meta");
    let before = fs::read(&meta).unwrap();
    check_kept(cluster.command(other).arg("--rebuild"), lost, &meta, &before);
    cluster.restart(other);
    until("it votes", || members_now(&cluster)[lost - 1]["joining"] == false);
    cluster.wait_ready();
    assert!(matches!(&appended(&cluster.clerk(), "k")[..], "w" | "x"));
}

/// Starts a member that ends by itself. Otherwise it is killed, and has no exit status.
fn ended(command: &mut Command) -> Output {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + TEST_TIMEOUT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() >= deadline {
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

/// It does not start, names the missing member, and still has its data.
fn check_kept(command: &mut Command, away: usize, meta: &Path, before: &[u8]) {
    let output = ended(command);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let words = format!("but member {away} at");
    assert!(stderr(&output).contains(&words), "{}", stderr(&output));
    assert_eq!(fs::read(meta).unwrap(), before);
}

fn members_now(cluster: &Processes) -> Vec<serde_json::Value> {
    let status = syncraft(&["status", "--json", "--members", &cluster.members()]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    status["members"].as_array().unwrap().clone()
}

/// Three times as many silent connections as the leader takes: a new client is served in place of
/// one of them, and nobody else notices.
#[test]
fn thousands_of_idle_connections_cost_no_leader() {
    alone(|| {
        const IDLE: usize = 3_000;
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        // A busy machine must not cost the leader its leadership.
        let cluster = Processes::start_with(3, &["--election-timeout", "5s"]);
        let clerk = cluster.clerk();
        clerk.put("k", "v").unwrap();
        let leader = cluster.leader();
        let follower = leader % 3 + 1;
        let addr = cluster.ports[leader - 1].addr();
        let seen = || {
            let answer = cluster.answer_of(follower);
            (answer["leader"].clone(), answer["term"].clone())
        };
        let before = seen();
        let idle: Vec<TcpStream> = (0..IDLE).map(|_| TcpStream::connect(addr).unwrap()).collect();
        let stranger =
            Clerk::builder().members([addr]).timeout(Duration::from_secs(1)).build().unwrap();
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            until("a newcomer is served", || stranger.get("k").is_ok());
            clerk.put("k", "who was there before is served").unwrap();
            assert_eq!(seen(), before, "the leader is the same, in the same term");
        }
        drop(idle);
        assert_eq!(seen(), before);
    });
}

/// Each client writes once and is never seen again. What a member remembers of clients has a bound.
/// Once it is reached, more clients cost no memory except what the allocator loses between
/// allocations. Each remembered client takes about 200 bytes.
#[test]
fn a_hundred_thousand_clients_that_come_and_go_leave_no_memory_behind() {
    /// Less than half of what these clients would take if all of them were remembered.
    const GROWTH_MAX_KIB: usize = 24 << 10;
    let cluster = Processes::start(1);
    // The history of the store has a limit of its own, which these writes would reach late.
    let limits = syncraft(&["limits", "--history", "0", "--members", &cluster.members()]);
    assert!(limits.status.success(), "{}", stderr(&limits));
    // With a snapshot after each hundred thousand, because the log has a bound of its own.
    let hundred_thousand = |nth: usize| {
        passing_clients(&cluster, nth * SESSIONS_MAX..(nth + 1) * SESSIONS_MAX);
        memory_kib(&cluster, 1)
    };
    let memory: Vec<usize> = (0..8).map(hundred_thousand).collect();
    // By then, the core keeps as many applied entries as it ever does.
    assert!(memory[7] < memory[4] + GROWTH_MAX_KIB, "KiB: {memory:?}");
}

/// One write each, over a few connections.
fn passing_clients(cluster: &Processes, numbers: std::ops::Range<usize>) {
    const UNDER_WAY_MAX: usize = 512;
    let addr = cluster.ports[cluster.leader() - 1].addr().to_string();
    let stub = KvServerRpcStub::new(Channel::builder(addr).lazy());
    let (done, ended) = mpsc::channel();
    let mut under_way = 0;
    let wait = |under_way: &mut usize, most: usize| {
        while *under_way > most {
            let ok: bool = ended.recv_timeout(TEST_TIMEOUT).unwrap();
            assert!(ok, "the leader takes every write");
            *under_way -= 1;
        }
    };
    for number in numbers {
        let args = PutAppendArgs {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v"),
            op: Bytes::from_static(b"Put"),
            client_id: Bytes::from(format!("passing-client-{number:06}")),
            request_id: 1,
            seen_index: 0,
        };
        let done = done.clone();
        stub.put_append_then(&args, Instant::now() + TEST_TIMEOUT, move |reply| {
            // Nobody waits if the test has failed.
            let _ = done.send(reply.is_ok_and(|reply| &reply.err[..] == b"OK"));
        });
        under_way += 1;
        wait(&mut under_way, UNDER_WAY_MAX);
    }
    wait(&mut under_way, 0);
}

/// A member's memory once its log is short again, because the log has a bound of its own.
fn memory_kib(cluster: &Processes, id: usize) -> usize {
    let done = syncraft(&["snapshot", "--members", &cluster.members()]);
    assert!(done.status.success(), "{}", stderr(&done));
    let pid = cluster.children[id - 1].as_ref().unwrap().id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The system accepts connections and bytes for a stopped process.
#[test]
fn a_process_that_is_stopped_is_noticed_and_served_by_again_when_it_goes_on() {
    let processes = Processes::start(1);
    let channel = Channel::builder(processes.ports[0].addr().to_string())
        .ping_interval(Duration::from_millis(100))
        .lazy();
    let soon = || Instant::now() + TEST_TIMEOUT;
    channel.connect_wait(soon()).unwrap();
    processes.signal(1, "-STOP");
    let stopped = Instant::now();
    // Over the existing connection, once the signal has reached all threads, and over a new one.
    let is_lost =
        |error: &CallError| matches!(error, CallError::Lost { .. }) && error.may_have_run();
    let is_noticed = || channel.ping(soon()).is_err_and(|error| is_lost(&error));
    until("it is noticed", is_noticed);
    assert!(is_noticed());
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    processes.signal(1, "-CONT");
    channel.connect_wait(soon()).unwrap();
}
