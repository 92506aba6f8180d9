//! Members as processes: their addresses change, their disks are lost after that, and they listen
//! on other addresses than those in their list.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use syncraft::testing::Port;

use crate::processes::*;

/// `size` members whose addresses have changed since their first start. They hold `k` = `v`.
fn moved(size: usize) -> Processes {
    let mut cluster = Processes::start(size);
    cluster.clerk().put("k", "v").unwrap();
    (1..=size).for_each(|id| cluster.kill(id));
    cluster.ports = (0..size).map(|_| Port::free().unwrap()).collect();
    (1..=size).for_each(|id| cluster.restart(id));
    cluster.wait_ready();
    cluster
}

fn lose_disk(cluster: &mut Processes, id: usize) {
    cluster.kill(id);
    fs::remove_dir_all(cluster.data_dir(id)).unwrap();
}

/// The line of `meta` that names the cluster.
fn cluster_of(data_dir: &Path) -> Option<String> {
    let meta = fs::read_to_string(data_dir.join("meta")).ok()?;
    meta.lines().find(|line| line.starts_with("cluster ")).map(str::to_owned)
}

fn is_joining(cluster: &Processes, id: usize) -> Option<bool> {
    cluster.status()["members"][id - 1]["joining"].as_bool()
}

fn until_filled(cluster: &Processes, id: usize) {
    until("it is filled", || is_joining(cluster, id) == Some(false));
}

/// What `status` prints about a member.
fn words(members: &str, id: usize) -> String {
    let status = syncraft(&["status", "--members", members]);
    let line = format!("member {id} does not vote");
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    text.lines().find(|it| it.starts_with(&line)).unwrap_or_default().to_owned()
}

fn until_told(members: &str, id: usize, expected: &[&str]) {
    until(&format!("member {id} says {expected:?}"), || {
        let words = words(members, id);
        expected.iter().all(|expected| words.contains(expected))
    });
}

/// With its help another member can be missed, so it really holds the data.
fn check_counts(cluster: &mut Processes, id: usize) {
    let other = (1..=cluster.children.len()).find(|&other| other != id).unwrap();
    cluster.kill(other);
    let clerk = cluster.clerk();
    assert_eq!(appended(&clerk, "k"), "v");
    clerk.put("with", id.to_string()).unwrap();
    cluster.restart(other);
    cluster.wait_ready();
}

/// The list is not the one that the others began with: their cluster has the id of the first list.
#[test]
fn a_lost_disk_is_filled_after_a_change_of_addresses() {
    for options in [&[][..], &["--rebuild"]] {
        let mut cluster = moved(3);
        let theirs = cluster_of(&cluster.data_dir(1)).unwrap();
        for id in [2, 1] {
            lose_disk(&mut cluster, id);
            cluster.restart_until(id, options, |member| member["joining"] == false);
            assert_eq!(cluster_of(&cluster.data_dir(id)).as_ref(), Some(&theirs));
            check_counts(&mut cluster, id);
            // From now on it starts normally.
            cluster.kill(id);
            cluster.restart(id);
            until_filled(&cluster, id);
        }
    }
}

#[test]
fn a_lost_disk_is_filled_in_a_cluster_of_two_that_has_moved() {
    let mut cluster = moved(2);
    lose_disk(&mut cluster, 2);
    cluster.restart(2);
    until_filled(&cluster, 2);
    assert_eq!(appended(&cluster.clerk(), "k"), "v");
    lose_disk(&mut cluster, 1);
    cluster.restart(1);
    until_filled(&cluster, 1);
    assert_eq!(appended(&cluster.clerk(), "k"), "v");
}

/// `meta` cannot be read, so nobody knows which cluster the data was of.
#[test]
fn a_damaged_meta_is_rebuilt_after_a_change_of_addresses() {
    let mut cluster = moved(3);
    let theirs = cluster_of(&cluster.data_dir(1));
    cluster.kill(2);
    fs::write(cluster.data_dir(2).join("meta"), "nonsense").unwrap();
    cluster.restart_until(2, &["--rebuild"], |member| member["joining"] == false);
    assert_eq!(cluster_of(&cluster.data_dir(2)), theirs);
    check_counts(&mut cluster, 2);
}

/// It waits, says for whom, and takes no id from only some of them.
#[test]
fn while_another_member_is_down_no_cluster_is_taken() {
    let mut cluster = moved(3);
    let theirs = cluster_of(&cluster.data_dir(1));
    cluster.kill(3);
    lose_disk(&mut cluster, 2);
    cluster.restart(2);
    until_told(&cluster.members(), 2, &["member 1 is of cluster ", "member 3 does not answer"]);
    assert_ne!(cluster_of(&cluster.data_dir(2)), theirs);
    cluster.restart(3);
    until_filled(&cluster, 2);
    assert_eq!(cluster_of(&cluster.data_dir(2)), theirs);
}

/// Two of three members have lost their data. They are a majority, but must not begin a cluster of
/// their own beside the third. Once one of them has its data again, the other one is filled.
#[test]
fn two_lost_disks_begin_no_cluster_of_their_own() {
    let mut cluster = moved(3);
    cluster.kill(3);
    let (data_dir, aside) = (cluster.data_dir(3), cluster.dir.path().join("aside"));
    fs::rename(&data_dir, &aside).unwrap();
    lose_disk(&mut cluster, 2);
    let members = cluster.members();
    cluster.restart(2);
    until_told(&members, 2, &["member 1 is of cluster ", "member 3 does not answer"]);
    // This one need not hear of the first in time: the second one tells it enough.
    cluster.restart(3);
    until_told(&members, 3, &["member 1 is of cluster ", "member 2 ", "lost its data, too?"]);
    until_told(&members, 2, &["member 1 is of cluster ", "member 3 ", "lost its data, too?"]);
    let put = syncraft(&["put", "k", "unsure", "--timeout", "2s", "--members", &members]);
    assert!(matches!(put.status.code(), Some(3 | 4)), "{}", stderr(&put));
    cluster.kill(3);
    fs::remove_dir_all(&data_dir).unwrap();
    fs::rename(&aside, &data_dir).unwrap();
    cluster.restart(3);
    until_filled(&cluster, 2);
    cluster.wait_ready();
    // The first member may have taken the write while it still believed that it led.
    assert!(matches!(&appended(&cluster.clerk(), "k")[..], "v" | "unsure"));
}

/// Killed at the moment at which it has recorded the cluster, and at some others.
#[test]
fn kill_9_while_a_cluster_is_taken_is_harmless() {
    let mut cluster = moved(3);
    let theirs = cluster_of(&cluster.data_dir(1));
    let before: [&dyn Fn(&Path) -> bool; 3] = [
        &|dir| dir.join("meta").exists(),
        &|dir| fs::read_dir(dir.join("wal")).is_ok_and(|files| files.count() > 0),
        &|dir| cluster_of(dir) == theirs,
    ];
    for is_time in before {
        lose_disk(&mut cluster, 2);
        cluster.restart(2);
        let deadline = Instant::now() + TEST_TIMEOUT;
        // No pause: the moment is short.
        while !is_time(&cluster.data_dir(2)) {
            assert!(Instant::now() < deadline, "it does not get there");
        }
        cluster.kill(2);
        cluster.restart(2);
        until_filled(&cluster, 2);
        assert_eq!(cluster_of(&cluster.data_dir(2)), theirs);
    }
    check_counts(&mut cluster, 2);
}

/// A member that runs beside the clusters of a test.
struct Stray(Child);

impl Stray {
    fn start(mut command: Command) -> Stray {
        Stray(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

/// Starts a member that ends by itself. Returns its exit status and what it printed.
fn refused(mut command: Command) -> (Option<i32>, String) {
    let stderr = tempfile::NamedTempFile::new().unwrap();
    command.stderr(stderr.reopen().unwrap()).stdout(Stdio::null()).env_remove("RUST_LOG");
    let mut member = Stray(command.spawn().unwrap());
    let mut status = None;
    until("it refuses to start", || {
        status = member.0.try_wait().unwrap();
        status.is_some()
    });
    let code = status.and_then(|status| status.code());
    (code, fs::read_to_string(stderr.path()).unwrap())
}

/// A list that points at other clusters: one with as many members, one with fewer, and two
/// different ones.
#[test]
fn a_stray_that_says_it_is_a_member_is_not_filled() {
    let one = Processes::start(3);
    one.clerk().put("k", "v").unwrap();
    let port = Port::free().unwrap();
    let member = |cluster: &Processes, id: usize| format!("{id}={}", cluster.ports[id - 1].addr());
    let own = format!("1={}", port.addr());
    // Whoever says that it is member 1 is taken for it, and is not filled: the leader finds member
    // 1 where the configuration says that it is.
    for others in [vec![member(&one, 2), member(&one, 3)], vec![member(&one, 2)]] {
        let list = format!("{own},{}", others.join(","));
        let dir = tempfile::tempdir().unwrap();
        for rebuild in [false, true] {
            let mut command = server(1, &list, &dir.path().join("1"));
            command.args(rebuild.then_some("--rebuild"));
            let _stray = Stray::start(command);
            until_told(&list, 1, &["it is being filled by the leader"]);
        }
    }
    one.wait_ready();
    assert_eq!(appended(&one.clerk(), "k"), "v");
}

/// Data is not discarded for a list that leads to another cluster.
#[test]
fn nothing_is_discarded_where_a_foreign_cluster_would_have_to_fill_it() {
    let (mut one, other) = (moved(3), Processes::start(3));
    one.kill(1);
    let addr = |cluster: &Processes, id: usize| cluster.ports[id - 1].addr();
    let list = format!("1={},2={},3={}", addr(&one, 1), addr(&other, 2), addr(&other, 3));
    let before = fs::read(one.data_dir(1).join("meta")).unwrap();
    let mut command = server(1, &list, &one.data_dir(1));
    command.arg("--rebuild");
    let (status, words) = refused(command);
    assert_eq!(status, Some(3), "{words}");
    assert!(words.contains("no data was discarded") && words.contains("of cluster"), "{words}");
    assert_eq!(fs::read(one.data_dir(1).join("meta")).unwrap(), before);
}

/// Its directory has the id of the wrong list.
#[test]
fn a_first_start_with_a_mistake_in_the_list_is_mended_by_a_second_one() {
    let mut cluster = Processes::start(3);
    lose_disk(&mut cluster, 3);
    let (right, nowhere) = (cluster.members(), Port::free().unwrap());
    let wrong = right.replace(&cluster.ports[0].addr().to_string(), &nowhere.addr().to_string());
    let mistaken = Stray::start(server(3, &wrong, &cluster.data_dir(3)));
    // Member 2 tells it where member 1 is, so it may be filled before it is asked.
    until("it says what is wrong, or is filled", || {
        let words = words(&right, 3);
        let is_told = ["member 2 is of cluster", "member 1 does not answer"];
        is_told.iter().all(|it| words.contains(it)) || is_joining(&cluster, 3) == Some(false)
    });
    drop(mistaken);
    cluster.restart(3);
    until_filled(&cluster, 3);
    assert_eq!(cluster_of(&cluster.data_dir(3)), cluster_of(&cluster.data_dir(1)));
}

/// Copies made while all members were stopped are a backup, if they are of all members or of a
/// majority.
#[test]
fn copies_of_stopped_members_bring_a_cluster_back() {
    let mut cluster = Processes::start(3);
    cluster.clerk().put("k", "v").unwrap();
    for id in 1..=3 {
        cluster.signal(id, "-TERM");
        assert!(cluster.children[id - 1].take().unwrap().wait().unwrap().success());
    }
    let backup = |id: usize| format!("{}.backup", cluster.data_dir(id).display());
    for id in 1..=3 {
        let copied =
            Command::new("cp").arg("-a").arg(cluster.data_dir(id)).arg(backup(id)).status();
        assert!(copied.unwrap().success());
    }
    let backups = [1, 2, 3].map(backup);
    for restored in [&[1, 2, 3][..], &[1, 3]] {
        for id in 1..=3 {
            let _ = fs::remove_dir_all(cluster.data_dir(id));
        }
        for &id in restored {
            let from = &backups[id - 1];
            let copied = Command::new("cp").arg("-a").arg(from).arg(cluster.data_dir(id)).status();
            assert!(copied.unwrap().success());
        }
        // Also on other machines.
        cluster.ports = (0..3).map(|_| Port::free().unwrap()).collect();
        (1..=3).for_each(|id| cluster.restart(id));
        cluster.wait_ready();
        (1..=3).for_each(|id| until_filled(&cluster, id));
        check_counts(&mut cluster, 2);
        cluster.clerk().put("k", "written after the copy").unwrap();
        (1..=3).for_each(|id| cluster.kill(id));
    }
}

/// The line that a member prints when it serves ends with the address that it listens on.
fn serves_on(mut command: Command) -> (Stray, String) {
    use std::io::{BufRead, BufReader};
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim_end().rsplit(' ').next().unwrap_or_default().to_owned();
    (Stray(child), addr)
}

#[test]
fn a_member_listens_where_it_is_told() {
    // The list has a name that this machine cannot resolve, as in a container whose outside address
    // does not exist inside.
    let (port, dir) = (Port::free().unwrap(), tempfile::tempdir().unwrap());
    let listen = port.addr().to_string();
    let list = format!("1=member-one.invalid:{}", port.addr().port());
    let check = |command: Command| {
        let (_member, addr) = serves_on(command);
        assert_eq!(addr, listen);
        let ready = syncraft(&["wait-ready", "--timeout", "30s", "--members", &listen]);
        assert!(ready.status.success(), "{}", stderr(&ready));
    };
    let mut by_flag = server(1, &list, &dir.path().join("1"));
    by_flag.args(["--listen", &listen]);
    check(by_flag);
    let mut by_environment = Command::new(env!("CARGO_BIN_EXE_syncraft"));
    by_environment
        .arg("server")
        .env("SYNCRAFT_ID", "1")
        .env("SYNCRAFT_MEMBERS", &list)
        .env("SYNCRAFT_DATA_DIR", dir.path().join("1"))
        .env("SYNCRAFT_LISTEN", &listen);
    check(by_environment);
    // A flag takes precedence over the environment.
    let mut both = server(1, &list, &dir.path().join("1"));
    both.args(["--listen", &listen])
        .env("SYNCRAFT_ID", "2")
        .env("SYNCRAFT_DATA_DIR", "/nowhere")
        .env("SYNCRAFT_LISTEN", "member-one.invalid:1");
    check(both);
}

/// Other members and clients use the address in the list. The member listens on all addresses of
/// its machine.
#[test]
fn a_cluster_whose_members_listen_everywhere_serves() {
    let mut cluster = Processes::start(3);
    for id in 1..=3 {
        cluster.kill(id);
        let everywhere = format!("0.0.0.0:{}", cluster.ports[id - 1].addr().port());
        cluster.restart_with(id, &["--listen", &everywhere]);
    }
    cluster.wait_ready();
    cluster.clerk().put("k", "v").unwrap();
}

#[test]
fn what_cannot_be_listened_on_is_told_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    // Addresses reserved for documentation: hardly any machine has all of them.
    let foreign = ["192.0.2.77", "198.51.100.77", "203.0.113.77"].into_iter();
    let Some(foreign) = foreign.map(|host| format!("{host}:7001")).find(|addr| !is_own(addr))
    else {
        eprintln!("this machine listens on every address: nothing to be refused");
        return;
    };
    let list = format!("1={foreign}");
    let check = |listen: &[&str], status: i32, expected: &str| {
        let mut command = server(1, &list, &dir.path().join("1"));
        command.args(listen);
        let (found, words) = refused(command);
        assert_eq!(found, Some(status), "{listen:?}: {words}");
        assert!(words.contains(expected) && words.trim_end().lines().count() == 1, "{words}");
    };
    check(&["--listen", "7001"], 2, "the port is missing");
    check(&["--listen", ":7001"], 2, "the host is missing");
    check(&["--listen", "127.0.0.1:0"], 2, "the port is not a number from 1 to 65535");
    check(&["--listen", "[fe80::1%]:7001"], 2, "name of an interface");
    check(&["--listen", "[fe80::1%no-such-one]:7001"], 3, "cannot listen on [fe80::1%no-such-one]");
    check(&["--listen", &foreign], 3, &format!("cannot listen on {foreign}"));
    check(&[], 3, "give --listen");
}

fn is_own(addr: &str) -> bool {
    let bound = std::net::TcpListener::bind(addr);
    !bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable)
}

/// An address of this machine that needs a zone, and the zone: the name of an interface.
fn link_local() -> Option<(String, String)> {
    let table = fs::read_to_string("/proc/net/if_inet6").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (addr, zone) = (*fields.first()?, *fields.last()?);
        let groups: Vec<&str> = (0..8).map(|at| &addr[at * 4..at * 4 + 4]).collect();
        addr.starts_with("fe80").then(|| (groups.join(":"), zone.to_owned()))
    })
}

#[test]
fn an_address_with_a_zone_serves() {
    let Some((addr, zone)) = link_local() else {
        eprintln!("this machine has no link-local IPv6 address: nothing to listen on");
        return;
    };
    let (port, dir) = (Port::free().unwrap(), tempfile::tempdir().unwrap());
    let list = format!("1=[{addr}%{zone}]:{}", port.addr().port());
    let _member = Stray::start(server(1, &list, &dir.path().join("1")));
    let put = syncraft(&["put", "k", "v", "--timeout", "30s", "--members", &list]);
    assert!(put.status.success(), "{}", stderr(&put));
}
