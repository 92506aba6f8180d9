//! `backup`, `restore` and `recover`: a cluster is copied while clients write, and begins anew
//! elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use syncraft::clerk::{Clerk, WatchError};
use syncraft::kv::RAISED_BY;
use syncraft::kv::model::{Action, KeyRange, Revision, Txn};
use syncraft::testing::Port;

use crate::processes::*;
use crate::store_commands::Shell;

const CLIENTS: usize = 64;

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}

/// Makes a backup, and returns where it is and what is in it.
fn backup(cluster: &Processes, name: &str) -> (PathBuf, serde_json::Value) {
    let file = cluster.dir.path().join(name);
    Shell(cluster).check(&["backup", path(&file), "--timeout", "60s"], 0);
    let told = Shell(cluster).check(&["backup", "verify", "--json", path(&file)], 0);
    (file, serde_json::from_str(&told).unwrap())
}

fn number(told: &serde_json::Value, field: &str) -> u64 {
    told[field].as_u64().unwrap_or_else(|| panic!("{field} in {told}"))
}

/// Restores the data directory of one member.
fn restore(cluster: &Processes, id: usize, file: &Path) -> Output {
    let (id_arg, dir) = (id.to_string(), cluster.data_dir(id));
    let args = ["restore", path(file), "--id", &id_arg, "--data-dir", path(&dir)];
    syncraft(&[&args[..], &["--members", &cluster.members()]].concat())
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Stops all members and starts them with what is in the backup.
fn restore_all(cluster: &mut Processes, file: &Path) {
    let ids = 1..=cluster.children.len();
    ids.clone().for_each(|id| cluster.kill(id));
    for id in ids.clone() {
        let _ = fs::remove_dir_all(cluster.data_dir(id));
        succeeded(&restore(cluster, id, file));
    }
    ids.for_each(|id| cluster.restart(id));
    cluster.wait_ready();
}

/// So many members that have not been started.
fn unstarted(size: usize) -> Processes {
    let ports = (0..size).map(|_| Port::free().unwrap()).collect();
    let dir = tempfile::TempDir::with_prefix("syncraft-restored-").unwrap();
    Processes { ports, children: (0..size).map(|_| None).collect(), dir }
}

/// What a client has written, and what was acknowledged to it.
#[derive(Default)]
struct Written {
    sent: AtomicU64,
    acknowledged: AtomicU64,
}

/// Puts numbers that grow, each under two keys at once.
fn write_until(clerk: &Clerk, client: usize, written: &Written, is_over: &AtomicBool) {
    for n in 1.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        written.sent.store(n, Ordering::SeqCst);
        let put = |half: &str| Action::put(format!("{half}/{client:02}"), n.to_string()).into();
        clerk.run(&Txn { then: vec![put("left"), put("right")], ..Txn::default() }).unwrap();
        written.acknowledged.store(n, Ordering::SeqCst);
    }
}

fn value(clerk: &Clerk, half: &str, client: usize) -> u64 {
    appended(clerk, &format!("{half}/{client:02}")).parse().unwrap_or(0)
}

#[test]
fn a_backup_under_load_is_one_revision_and_begins_clusters_of_one_and_three() {
    let cluster = Processes::start(3);
    let (written, is_over): (Vec<Written>, _) =
        ((0..CLIENTS).map(|_| Written::default()).collect(), AtomicBool::new(false));
    let (file, told, before) = thread::scope(|scope| {
        for (client, written) in written.iter().enumerate() {
            let (clerk, is_over) = (cluster.clerk(), &is_over);
            scope.spawn(move || write_until(&clerk, client, written, is_over));
        }
        let has_written = |it: &Written| it.acknowledged.load(Ordering::SeqCst) > 5;
        until("all clients write", || written.iter().all(has_written));
        let before: Vec<u64> =
            written.iter().map(|it| it.acknowledged.load(Ordering::SeqCst)).collect();
        let (file, told) = backup(&cluster, "under-load");
        is_over.store(true, Ordering::Relaxed);
        (file, told, before)
    });
    assert_eq!(number(&told, "keys"), 2 * CLIENTS as u64);

    let mut exports = Vec::new();
    for size in [1, 3] {
        let mut restored = unstarted(size);
        restore_all(&mut restored, &file);
        let clerk = restored.clerk();
        let first = clerk.get_entry("left/00").unwrap().unwrap();
        assert!(first.mod_revision.0 <= number(&told, "revision"), "an entry keeps its revision");
        for (client, before) in before.iter().enumerate() {
            let found = value(&clerk, "left", client);
            let sent = written[client].sent.load(Ordering::SeqCst);
            assert!((*before..=sent).contains(&found), "{before} <= {found} <= {sent}");
            assert_eq!(found, value(&clerk, "right", client), "half of a transaction");
        }
        exports.push(Shell(&restored).check(&["export"], 0));
        let put = clerk.run(&Txn { then: vec![Action::put("new", "1").into()], ..Txn::default() });
        assert_eq!(put.unwrap().revision.0, number(&told, "revision") + RAISED_BY + 1);
        if size == 3 {
            until("all members have applied everything", || {
                let status = restored.status();
                let members = status["members"].as_array().unwrap();
                let state =
                    |it: &serde_json::Value| (it["applied_index"].clone(), it["digest"].clone());
                members.iter().all(|member| state(member) == state(&members[0]))
            });
        }
    }
    assert!(exports[0] == exports[1], "one member has another state than three");
}

/// A client and a watch of the old cluster turn to the restored one, at the same addresses.
#[test]
fn old_clients_begin_anew_and_nothing_is_applied_twice() {
    let mut cluster = Processes::start(3);
    let clerk = cluster.clerk();
    clerk.append("a", "1").unwrap();
    clerk.append("a", "2").unwrap();
    let lease = cluster.clerk();
    Shell(&cluster).check(&["lease", "grant", "10m", "--id", "7"], 0);
    Shell(&cluster).check(&["put", "held", "x", "--lease", "7"], 0);
    let (file, told) = backup(&cluster, "before");
    clerk.append("a", "lost").unwrap();
    let seen = lease.get_entry("a").unwrap().unwrap().mod_revision;
    assert_eq!(seen.0, number(&told, "revision") + 1);

    restore_all(&mut cluster, &file);
    clerk.append("a", "3").unwrap();
    assert_eq!(appended(&clerk, "a"), "123");
    let watch = clerk.watch(KeyRange::key("a")).from(seen).start();
    let error = watch.and_then(|mut watch| watch.next().expect("it says something")).unwrap_err();
    let WatchError::Compacted { wanted, oldest } = error else { panic!("{error}") };
    assert_eq!((wanted, oldest), (seen, Revision(number(&told, "revision") + RAISED_BY + 1)));
    assert_eq!(number(&told, "leases"), 1);
    let info = Shell(&cluster).check(&["lease", "info", "7"], 0);
    assert!(info.contains("held"), "{info}");
}

#[test]
fn what_is_refused_is_refused_in_words() {
    let cluster = Processes::start(1);
    let shell = Shell(&cluster);
    shell.check(&["put", "k", "v"], 0);
    shell.refused(&["backup", "-"], "", &["not to standard output"]);
    let (file, _) = backup(&cluster, "first");
    shell.refused(&["backup", path(&file)], "", &["is there already"]);
    let nowhere = cluster.dir.path().join("absent/second");
    shell.check(&["backup", path(&nowhere)], 3);
    let nobody = ["backup", path(&nowhere), "--members", "127.0.0.1:1", "--timeout", "300ms"];
    shell.check(&nobody, 3);

    let output = restore(&cluster, 1, &file);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("is not empty"), "{}", stderr(&output));
    let output = restore(&cluster, 2, &file);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("member 2 is not in the list"), "{}", stderr(&output));

    let mut bytes = fs::read(&file).unwrap();
    bytes[200] ^= 1;
    fs::write(&file, bytes).unwrap();
    shell.check(&["backup", "verify", path(&file)], 3);
    let files = fs::read_dir(cluster.dir.path()).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    let is_left = |name: &std::ffi::OsString| name.to_str().unwrap().ends_with(".tmp");
    assert!(!names.iter().any(is_left), "nothing unfinished is left: {names:?}");
}

/// The member's address is that of its log.
fn recover(cluster: &Processes, id: usize, more: &[&str]) -> Output {
    let dir = cluster.data_dir(id);
    syncraft(&[&["recover", "--data-dir", path(&dir)], more].concat())
}

#[test]
fn the_survivor_of_a_lost_majority_goes_on_alone() {
    let mut cluster = Processes::start(3);
    let clerk = cluster.clerk();
    for n in 0..20 {
        clerk.append("a", format!("{n},")).unwrap();
    }
    let expected = appended(&clerk, "a");
    let revision = clerk.get_entry("a").unwrap().unwrap().mod_revision.0;
    until("member 2 has applied everything", || {
        let members = cluster.status()["members"].as_array().unwrap().clone();
        members.iter().all(|member| member["applied_index"] == members[0]["applied_index"])
    });
    let running = recover(&cluster, 2, &["--force"]);
    assert_eq!(running.status.code(), Some(3), "{}", stderr(&running));
    assert!(stderr(&running).contains("is in use"), "{}", stderr(&running));
    (1..=3).for_each(|id| cluster.kill(id));

    let meta = || fs::read(cluster.data_dir(2).join("meta")).unwrap();
    let old_meta = meta();
    let unsure = recover(&cluster, 2, &[]);
    assert_eq!(unsure.status.code(), Some(2), "{}", stderr(&unsure));
    assert!(stderr(&unsure).contains("say --force"), "{}", stderr(&unsure));
    assert_eq!(meta(), old_meta, "nothing has changed");
    let told = succeeded(&recover(&cluster, 2, &["--force"]));
    assert!(told.contains("alone") && told.contains("before-recovery-"), "{told}");
    let addr = cluster.ports[1].addr().to_string();
    assert!(told.contains(&format!("start it with --members 2={addr};")), "{told}");

    let alone = format!("2={addr}");
    let child = server(2, &alone, &cluster.data_dir(2)).spawn().unwrap();
    cluster.children[1] = Some(child);
    let ready = syncraft(&["wait-ready", "--members", &addr, "--timeout", "30s"]);
    assert!(ready.status.success(), "{}", stderr(&ready));
    // The old client finds it, and its session is another one.
    assert_eq!(appended(&clerk, "a"), expected);
    clerk.append("a", "new").unwrap();
    assert_eq!(appended(&clerk, "a"), expected + "new");
    assert!(clerk.get_entry("a").unwrap().unwrap().mod_revision.0 > revision + RAISED_BY);

    // One of the others comes back with its old data: it is of another cluster, and gets nowhere.
    cluster.restart(1);
    until("member 1 answers", || !stderr(&member_status(&cluster, 1)).contains("refused"));
    assert_eq!(appended(&clerk, "a").split(',').count(), 21);
}

/// Its old cluster may have gone on without it.
#[test]
fn a_recovery_says_that_the_member_had_been_removed() {
    let mut cluster = Processes::start(3);
    cluster.clerk().put("a", "1").unwrap();
    let known = cluster.members();
    succeeded(&syncraft(&["member", "remove", "3", "--members", &known]));
    let removed = cluster.children[2].take().unwrap().wait().unwrap();
    assert_eq!(removed.code(), Some(3));
    let alone = format!("3={}", cluster.ports[2].addr());
    let told = succeeded(&recover(&cluster, 3, &["--force", "--members", &alone]));
    assert!(told.contains("member 3 was removed from cluster"), "{told}");
}

fn member_status(cluster: &Processes, id: usize) -> Output {
    syncraft(&["status", "--members", &cluster.ports[id - 1].addr().to_string()])
}
