//! `scripts/cluster.sh` as its users meet it: other programs have its ports, files are gone or
//! cannot be written. Afterwards the script must know every process that it has started.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use socket2::{Domain, Socket, Type};

use crate::processes::*;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
const MEMBERS: u16 = 3;

/// A place for clusters that all have the same ports. Whatever still runs there at the end is
/// stopped.
struct Place {
    dir: tempfile::TempDir,
    base_port: u16,
    /// Bound, but not listening: nobody else is given these ports.
    _ports: Vec<Socket>,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::TempDir::with_prefix("syncraft-cluster-sh-").unwrap();
        let (base_port, _ports) = (0..100).find_map(|_| neighbours()).expect("free ports in a row");
        Place { dir, base_port, _ports }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn port(&self, id: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.base_port + id - 1))
    }

    fn command(&self, shell: &str, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(shell);
        command
            .arg(Path::new(SCRIPTS).join("cluster.sh"))
            .args(args)
            .env("SYNCRAFT_BIN", SYNCRAFT)
            .env("DIR", self.dir(name))
            .env("BASE_PORT", self.base_port.to_string())
            .env_remove("NODES")
            .stdin(Stdio::null());
        command
    }

    /// Runs the script for the cluster in this directory.
    fn run(&self, name: &str, args: &[&str]) -> Output {
        self.command("bash", name, args).output().unwrap()
    }

    fn check_done(&self, name: &str, args: &[&str], words: &str) {
        check(&self.run(name, args), args, 0, words);
    }

    /// It fails with a sentence of its own that contains `words`.
    fn check_fails(&self, name: &str, args: &[&str], words: &str) {
        let output = self.run(name, args);
        check(&output, args, 1, words);
        let said = stderr(&output);
        assert!(said.lines().all(|line| line.starts_with("cluster.sh: ")), "{args:?}: {said}");
    }

    /// A leader serves, perhaps after an election.
    fn check_leader(&self, name: &str) {
        let mut output = self.run(name, &["status"]);
        until("a leader is followed", || {
            let is_known = !stderr(&output).contains("no leader is followed by a majority");
            if !is_known {
                output = self.run(name, &["status"]);
            }
            is_known
        });
        check(&output, &["status"], 0, "leader");
    }

    fn check_runs_nothing(&self, name: &str) {
        assert_eq!(processes_of(&self.dir(name)), [0; 0], "in {name}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            self.run(&entry.unwrap().file_name().to_string_lossy(), &["stop"]);
        }
    }
}

/// Consecutive ports that are free.
fn neighbours() -> Option<(u16, Vec<Socket>)> {
    let first = hold(0)?;
    let base = first.local_addr().ok()?.as_socket()?.port();
    let others = (1..MEMBERS).map(|n| base.checked_add(n).and_then(hold));
    let ports: Option<Vec<Socket>> = [Some(first)].into_iter().chain(others).collect();
    Some((base, ports?))
}

fn hold(port: u16) -> Option<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.set_reuse_address(true).ok()?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).ok()?;
    Some(socket)
}

fn check(output: &Output, args: &[&str], code: i32, words: &str) {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(output));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(said.contains(words), "{args:?}: {words:?} is not in: {said}");
}

/// The processes whose data is in this directory.
fn processes_of(dir: &Path) -> Vec<u32> {
    let needle = format!("\0--data-dir\0{}/", dir.display());
    let ours = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command_line = fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&command_line).contains(&needle).then_some(pid)
    };
    let processes = fs::read_dir("/proc").expect("processes are looked up in /proc");
    processes.filter_map(|entry| ours(entry.unwrap())).collect()
}

#[test]
fn the_members_of_another_cluster_are_not_taken_for_its_own() {
    let place = Place::new();
    place.check_done("b", &["start"], "serving: 3 members");
    place.check_done("b", &["stop"], "stopped");
    place.check_done("a", &["start"], "serving: 3 members");
    assert_eq!(processes_of(&place.dir("a")).len(), 3);
    // A new member, and one that was there before.
    for (name, args) in
        [("new", &["start"][..]), ("b", &["start"]), ("b", &["restart", "2"]), ("b", &["status"])]
    {
        check(&place.run(name, args), args, 1, "is served by process");
        place.check_runs_nothing(name);
    }
    assert!(!place.dir("new").exists(), "nothing is left of what was not started");
    place.check_fails("new", &["status"], "there is no cluster in");
    place.check_leader("a");
    place.check_done("a", &["start"], "already running");
}

#[test]
fn a_port_that_another_program_has_is_named() {
    let place = Place::new();
    let taken = TcpListener::bind(place.port(2)).unwrap();
    place.check_fails(
        "a",
        &["start"],
        "member 2 did not start: syncraft: cannot start: cannot listen",
    );
    // The script names the others, and finds them.
    assert_eq!(processes_of(&place.dir("a")).len(), 2);
    drop(taken);
    place.check_done("a", &["start"], "serving: 3 members");

    place.check_done("a", &["kill", "2"], "member 2 is killed");
    let taken = TcpListener::bind(place.port(2)).unwrap();
    place.check_fails("a", &["restart", "2"], "cannot listen on");
    assert_eq!(processes_of(&place.dir("a")).len(), 2);
    place.check_fails("a", &["pause", "2"], "member 2 is not running");
    // The same with too few members to wait for a leader.
    place.check_done("a", &["kill", "1"], "member 1 is killed");
    place.check_done("a", &["kill", "3"], "member 3 is killed");
    place.check_fails("a", &["restart", "2"], "cannot listen on");
    place.check_runs_nothing("a");
    drop(taken);
    place.check_done("a", &["restart", "2"], "1 of 3 are too few to serve");
    // All of them: member 2 is new to an existing cluster, so it may not vote yet and asks every
    // other member first.
    place.check_done("a", &["start"], "serving: 3 members");
}

#[test]
fn members_are_found_when_their_files_are_gone() {
    let place = Place::new();
    let dir = place.dir("a");
    place.check_done("a", &["start"], "serving");
    let forget =
        || (1..=MEMBERS).for_each(|id| drop(fs::remove_file(dir.join(format!("{id}.pid")))));
    forget();
    place.check_done("a", &["start"], "already running");
    place.check_fails("a", &["wipe"], "is running");
    place.check_done("a", &["pause", "1"], "member 1 is paused");
    place.check_done("a", &["resume", "1"], "member 1 continues");
    place.check_done("a", &["kill", "2"], "member 2 is killed");
    assert_eq!(processes_of(&dir).len(), 2);
    place.check_done("a", &["restart", "2"], "the cluster serves");
    forget();
    // The number in a pid file may belong to another process by now.
    fs::write(dir.join("3.pid"), format!("{}\n", std::process::id())).unwrap();
    place.check_done("a", &["restart", "3"], "the cluster serves");
    assert_eq!(processes_of(&dir).len(), 3);
    forget();
    place.check_done("a", &["stop"], "stopped");
    place.check_runs_nothing("a");

    place.check_done("a", &["start"], "serving");
    fs::remove_dir_all(&dir).unwrap();
    place.check_done("a", &["stop"], "stopped");
    place.check_runs_nothing("a");
}

#[test]
fn a_directory_may_be_a_symbolic_link() {
    let place = Place::new();
    // A link to a directory, and a link to one that does not exist yet.
    fs::create_dir(place.dir("there")).unwrap();
    for target in ["there", "not-yet"] {
        let link = format!("link-to-{target}");
        symlink(target, place.dir(&link)).unwrap();
        for _ in 0..2 {
            place.check_done(&link, &["start"], "serving");
            // By both of its names.
            place.check_leader(target);
            place.check_done(&link, &["stop"], "stopped");
            place.check_done(&link, &["wipe"], "wiped");
            assert!(!place.dir(target).join("cluster.conf").exists());
        }
    }
    // One member's data may be on another disk. It is removed with the others'.
    let disk = place.dir("disk");
    fs::create_dir(&disk).unwrap();
    fs::create_dir(place.dir("a")).unwrap();
    symlink(&disk, place.dir("a").join("2")).unwrap();
    place.check_done("a", &["start"], "serving");
    assert_ne!(fs::read_dir(&disk).unwrap().count(), 0);
    place.check_done("a", &["stop"], "stopped");
    place.check_done("a", &["wipe"], "wiped");
    assert_eq!(fs::read_dir(&disk).unwrap().count(), 0);
}

/// `/dev/full` stands for a full disk.
#[test]
fn what_cannot_be_written_has_a_sentence_and_leaves_no_process() {
    let place = Place::new();
    for (name, file) in [("conf", "cluster.conf.new"), ("pid", "1.pid")] {
        fs::create_dir(place.dir(name)).unwrap();
        symlink("/dev/full", place.dir(name).join(file)).unwrap();
        let words = format!("{}: No space left on device", file.trim_end_matches(".new"));
        place.check_fails(name, &["start"], &words);
        place.check_runs_nothing(name);
    }
    fs::create_dir_all(place.dir("log").join("1.log")).unwrap();
    place.check_fails("log", &["start"], "1.log: Is a directory");
    place.check_runs_nothing("log");
    fs::write(place.dir("file"), "").unwrap();
    place.check_fails("file", &["start"], "cannot make");
    // A limit on the size of files makes a write fail. It must not end the script by a signal.
    let mut limited = Command::new("bash");
    limited.args(["-c", "ulimit -f 0; exec \"$@\"", "limited"]);
    let command = place.command("bash", "limited", &["start"]);
    limited.arg(command.get_program()).args(command.get_args()).env("SYNCRAFT_BIN", SYNCRAFT);
    limited.env("DIR", place.dir("limited")).env("BASE_PORT", place.base_port.to_string());
    check(&limited.output().unwrap(), &["start"], 1, "cluster.conf: File too large");
    place.check_runs_nothing("limited");
    // A member without a log serves: it just cannot tell anybody.
    fs::create_dir(place.dir("a")).unwrap();
    (1..=MEMBERS)
        .for_each(|id| symlink("/dev/full", place.dir("a").join(format!("{id}.log"))).unwrap());
    place.check_done("a", &["start"], "serving");
    // The script does not need a reader either.
    let mut to_nobody = place.command("bash", "a", &["stop"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(to_nobody.stdout(writer).status().unwrap().code(), Some(0));
    place.check_runs_nothing("a");
}

#[test]
fn any_shell_may_start_it() {
    let place = Place::new();
    for shell in ["sh", "dash", "bash"] {
        match place.command(shell, "a", &["help"]).output() {
            Ok(output) => check(&output, &[shell], 0, "usage: scripts/cluster.sh COMMAND"),
            Err(error) => eprintln!("not tried with {shell}: {error}"),
        }
    }
    // The other scripts too: their first command takes care of it.
    for script in fs::read_dir(SCRIPTS).unwrap().map(|entry| entry.unwrap().path()) {
        if script.extension().is_none_or(|extension| extension != "sh") {
            continue;
        }
        let text = fs::read_to_string(&script).unwrap();
        let first = text.lines().find(|line| !line.starts_with('#')).unwrap();
        let expected = r#"[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@""#;
        assert!(first.starts_with(expected), "{}: {first}", script.display());
    }
}

#[test]
fn misuse_is_2() {
    let place = Place::new();
    for args in [&[][..], &["nonsense"], &["start", "1"], &["kill"], &["kill", "4"], &["kill", "x"]]
    {
        check(&place.run("a", args), args, 2, "usage: scripts/cluster.sh COMMAND");
    }
}
