//! What a member does to its files, and what happens to them and to its process from outside:
//! permissions, a directory that is taken away, signals that should not end it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::processes::*;
use crate::program::copy_program;

/// The exit status and the log of a member that ends by itself.
fn end_of(cluster: &mut Processes, id: usize) -> (Option<i32>, String) {
    let mut child = cluster.children[id - 1].take().unwrap();
    let mut status = None;
    until("it ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    (status.unwrap().code(), cluster.logs())
}

#[test]
fn a_signal_that_is_not_meant_to_end_a_member_does_not() {
    let mut cluster = Processes::start(3);
    let clerk = cluster.clerk();
    clerk.put("key", "before").unwrap();
    let leader = cluster.leader();
    let noticed = |cluster: &Processes| cluster.logs().matches("ignores SIGHUP").count();
    for (number, signal) in ["-HUP", "-USR1", "-USR2", "-HUP"].into_iter().enumerate() {
        cluster.signal(leader, signal);
        until(signal, || noticed(&cluster) == number + 1);
    }
    assert!(cluster.children[leader - 1].as_mut().unwrap().try_wait().unwrap().is_none());
    clerk.put("key", "after").unwrap();
    // It still ends when it is told to.
    cluster.signal(leader, "-TERM");
    let (code, logs) = end_of(&mut cluster, leader);
    assert_eq!(code, Some(0), "{logs}");
}

/// A directory and everything in it.
fn all_below(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(all_below(&path)),
            false => all.push(path),
        }
    }
    all
}

fn mode(path: &Path) -> Option<u32> {
    // Files in the making are renamed meanwhile.
    fs::metadata(path).ok().map(|metadata| metadata.permissions().mode() & 0o7777)
}

/// Checks the mode of every file, and returns how many there are.
fn check_private(dir: &Path, but: Option<&Path>) -> usize {
    let all = all_below(dir);
    for path in all.iter().filter(|path| Some(path.as_path()) != but) {
        let Some(mode) = mode(path) else { continue };
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}: {mode:o}", path.display());
    }
    all.len()
}

/// A cluster of one member that has written segments, a spare one, and a snapshot.
fn start_with_umask(umask: &str) -> Processes {
    let ports = vec![syncraft::testing::Port::free().unwrap()];
    let dir = tempfile::TempDir::with_prefix("syncraft-files-").unwrap();
    let mut cluster = Processes { ports, children: Vec::new(), dir };
    let server = cluster.command(1);
    let mut command = Command::new("sh");
    command.args(["-c", "umask \"$0\"; exec \"$@\"", umask]).arg(server.get_program());
    let log = fs::File::create(cluster.dir.path().join("1.log")).unwrap();
    let child = command.args(server.get_args()).stderr(log).stdout(Stdio::null()).spawn();
    cluster.children.push(Some(child.unwrap()));
    cluster.wait_ready();
    cluster
}

fn write_much(cluster: &Processes) {
    let clerk = cluster.clerk();
    let value = "v".repeat(300_000);
    (0..10).for_each(|n| clerk.put(format!("key{n}"), value.clone()).unwrap());
    let snapshot = syncraft(&["snapshot", "--members", &cluster.members(), "--timeout", "30s"]);
    assert!(snapshot.status.success(), "{}", stderr(&snapshot));
}

#[test]
fn what_a_member_writes_is_its_owner_s_alone_under_any_umask() {
    for umask in ["000", "022", "0777"] {
        let cluster = start_with_umask(umask);
        write_much(&cluster);
        let dir = cluster.data_dir(1);
        // LOCK, meta, wal and a segment, snap and a snapshot, and the directory itself.
        until("a snapshot is there", || {
            fs::read_dir(dir.join("snap")).is_ok_and(|mut dir| dir.next().is_some())
        });
        let count = check_private(&dir, None);
        assert!(count >= 7, "umask {umask}: {:?}", all_below(&dir));
    }
}

/// As an older version left it: readable for everybody.
fn open_to_all(dir: &Path) {
    for path in all_below(dir) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn what_an_older_version_left_readable_is_made_private() {
    let mut cluster = Processes::start(1);
    cluster.clerk().put("key", "value").unwrap();
    let dir = cluster.data_dir(1);
    cluster.kill(1);
    open_to_all(&dir);
    cluster.restart(1);
    cluster.wait_ready();
    check_private(&dir, None);
    assert!(cluster.logs().contains("they are private now"), "{}", cluster.logs());

    // Somebody else's file is there. It stays as readable as before, but none of our files is.
    cluster.kill(1);
    open_to_all(&dir);
    let other = dir.join("notes.txt");
    fs::write(&other, "not a member's").unwrap();
    fs::set_permissions(&other, Permissions::from_mode(0o644)).unwrap();
    cluster.restart(1);
    cluster.wait_ready();
    assert_eq!((mode(&dir), mode(&other)), (Some(0o755), Some(0o644)));
    fs::remove_file(&other).unwrap();
    check_private(&dir, Some(&dir));
}

/// A volume that belongs to root and is shared with a group, as Kubernetes makes one with
/// `fsGroup`: the member may use the files, but may not change their modes.
#[test]
fn a_volume_of_another_user_is_served_from() {
    if !rustix::process::getuid().is_root() {
        eprintln!("not root: files of another user cannot be made, so this is not tested");
        return;
    }
    let mut cluster = Processes::start(1);
    write_much(&cluster);
    let dir = cluster.data_dir(1);
    cluster.kill(1);
    // The member is killed at this point of the replacement.
    fs::write(dir.join("meta.tmp"), "half of it").unwrap();
    const USER: u32 = 31_337;
    for path in all_below(&dir) {
        chown(&path, Some(0), Some(USER)).unwrap();
        let mode = if path.is_dir() { 0o2770 } else { 0o660 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    // So that the other user reaches the directory and the program, wherever they are.
    fs::set_permissions(cluster.dir.path(), Permissions::from_mode(0o755)).unwrap();
    let program = cluster.dir.path().join("syncraft");
    copy_program(SYNCRAFT, &program);
    let server = cluster.command(1);
    let mut command = Command::new(&program);
    command.args(server.get_args()).uid(USER).gid(USER);
    let log = fs::File::create(cluster.dir.path().join("1.log")).unwrap();
    let child = command.stderr(log).stdout(Stdio::null()).spawn().unwrap();
    cluster.children[0] = Some(child);
    cluster.wait_ready();
    assert!(cluster.clerk().get("key9").unwrap().is_some());
    write_much(&cluster);
    assert!(cluster.logs().contains("other users of this machine may read"), "{}", cluster.logs());
}

fn limit_files(cluster: &Processes, id: usize, limit: u64) {
    let pid = cluster.children[id - 1].as_ref().unwrap().id().to_string();
    // Only the soft limit: a process may raise it again up to the hard one.
    let limit = format!("--nofile={limit}:");
    let limited = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(limited.unwrap().success());
}

/// A new segment needs a descriptor, and so does a snapshot: without one, the member waits and goes
/// on once there is one.
#[test]
fn a_member_without_file_descriptors_waits_for_them() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        eprintln!("no prlimit on this machine: not tested");
        return;
    }
    let mut cluster = Processes::start(1);
    let clerk = cluster.clerk();
    clerk.put("key", "before").unwrap();
    // What is open stays open, and nothing more can be opened.
    limit_files(&cluster, 1, 3);
    // The first segment ends with the first mebibyte.
    let writer = thread::spawn({
        let value = "v".repeat(300_000);
        move || (0..10).try_for_each(|n| clerk.put(format!("key{n}"), value.clone()))
    });
    until("it says what it lacks", || cluster.logs().contains("Too many open files"));
    assert!(cluster.children[0].as_mut().unwrap().try_wait().unwrap().is_none());
    limit_files(&cluster, 1, 1024);
    until("it writes again", || cluster.logs().contains("the log is written again"));
    let written = writer.join().unwrap();
    assert!(written.is_ok(), "{written:?}");
    write_much(&cluster);
    cluster.kill(1);
    cluster.restart(1);
    cluster.wait_ready();
    assert_eq!(appended(&cluster.clerk(), "key"), "before");
}

fn check_taken_away(what: &str, take: impl FnOnce(&Path)) {
    let mut cluster = Processes::start(1);
    cluster.clerk().put("key", "value").unwrap();
    let dir = cluster.data_dir(1);
    take(&dir);
    let (code, logs) = end_of(&mut cluster, 1);
    assert_eq!(code, Some(3), "{what}: {logs}");
    let words = [&dir.display().to_string(), "removed, moved away or replaced", "member 1 stops"];
    assert!(words.iter().all(|words| logs.contains(words)), "{what}: {logs}");
}

#[test]
fn a_data_directory_that_is_taken_away_ends_its_member() {
    check_taken_away("removed", |dir| fs::remove_dir_all(dir).unwrap());
    check_taken_away("moved away", |dir| fs::rename(dir, dir.with_extension("old")).unwrap());
    check_taken_away("replaced by a copy", |dir| {
        let old = dir.with_extension("old");
        fs::rename(dir, &old).unwrap();
        assert!(Command::new("cp").arg("-a").args([&old, dir]).status().unwrap().success());
    });
    check_taken_away("without its log", |dir| fs::remove_dir_all(dir.join("wal")).unwrap());
    check_taken_away("without its meta", |dir| fs::remove_file(dir.join("meta")).unwrap());
    check_taken_away("without snap", |dir| fs::remove_dir_all(dir.join("snap")).unwrap());
    check_taken_away("without a segment", |dir| {
        let files = fs::read_dir(dir.join("wal")).unwrap();
        files.for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
    });
}
