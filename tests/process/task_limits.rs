//! A leader under a limit on threads, and a crowd of silent clients: its peers get through.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::processes::{Processes, TEST_TIMEOUT, stderr, syncraft};
use crate::program::copy_program;

const CROWD: usize = 400;
const TASKS_MAX: usize = 300;

/// Clients that say nothing, and connect again when they are dropped.
struct Crowd {
    stop: Arc<AtomicBool>,
    connected: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    fn gather(addr: SocketAddr) -> Crowd {
        let (stop, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (is_over, count) = (stop.clone(), connected.clone());
        let run = move || {
            let mut streams: Vec<TcpStream> = Vec::new();
            while !is_over.load(Ordering::SeqCst) {
                streams.retain(is_open);
                while streams.len() < CROWD
                    && let Ok(stream) = TcpStream::connect(addr)
                {
                    stream.set_nonblocking(true).unwrap();
                    streams.push(stream);
                    count.fetch_add(1, Ordering::SeqCst);
                }
                thread::sleep(Duration::from_millis(5));
            }
        };
        Crowd { stop, connected, thread: Some(thread::spawn(run)) }
    }

    /// Waits until each of them was connected, and many of them again.
    fn wait_until_it_is_there(&self) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while self.connected.load(Ordering::SeqCst) < 2 * CROWD {
            assert!(Instant::now() < deadline, "the crowd does not connect");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// A user id that nothing else uses.
fn user() -> u32 {
    static USERS: AtomicUsize = AtomicUsize::new(0);
    let number = USERS.fetch_add(1, Ordering::SeqCst) as u32;
    20_000 + (10 * std::process::id() + number) % 40_000
}

/// Starts a program as `user` with a limit of `TASKS_MAX` tasks. The limit comes first, because
/// only a privileged user can set it for another one.
fn as_user(program: &Path, user: u32) -> Command {
    let mut command = Command::new("prlimit");
    // If this process is not root, the limit applies to its own user, and that user's other
    // processes count.
    let others = if is_root() { 0 } else { tasks_of_this_user() };
    command.arg(format!("--nproc={}", TASKS_MAX + others)).arg("--").arg(program);
    if is_root() {
        command.uid(user).gid(user);
    }
    command
}

fn tasks_of_this_user() -> usize {
    let user = rustix::process::getuid().as_raw();
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let own = entries.filter(|it| it.metadata().is_ok_and(|metadata| metadata.uid() == user));
    own.filter_map(|it| Some(fs::read_dir(it.path().join("task")).ok()?.count())).sum()
}

fn has_prlimit() -> bool {
    let has = Command::new("prlimit").arg("--version").output().is_ok();
    if !has {
        eprintln!("no prlimit on this machine: not tested");
    }
    has
}

/// A control group of version 1 or 2 with `TASKS_MAX` tasks, removed when dropped. `None` if none
/// can be created.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Group> {
        let name = format!("syncraft-test-{}", std::process::id());
        // The hierarchies of version 1 and 2, and the place of version 2 on a machine with version
        // 1.
        let parents = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        parents.iter().find_map(|parent| {
            let group = Group(Path::new(parent).join(&name));
            fs::create_dir(&group.0).ok()?;
            // Not just a directory beside the hierarchies.
            fs::metadata(group.0.join("cgroup.procs")).ok()?;
            fs::write(group.0.join("pids.max"), TASKS_MAX.to_string()).ok().map(|()| group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is busy until a process that was killed is completely gone.
        let deadline = Instant::now() + TEST_TIMEOUT;
        while fs::remove_dir(&self.0).is_err_and(|error| error.kind() == ErrorKind::ResourceBusy)
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Restarts member `id` through `command`, which gets the program's arguments.
fn restart_by(processes: &mut Processes, id: usize, mut command: Command) {
    let args: Vec<_> = processes.command(id).get_args().map(ToOwned::to_owned).collect();
    command.args(args);
    processes.spawn(id, command);
}

/// Where any user can run it.
fn program(processes: &Processes) -> PathBuf {
    let dir = processes.dir.path();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.join("syncraft");
    copy_program(env!("CARGO_BIN_EXE_syncraft"), &path);
    path
}

fn give(dir: &Path, user: u32) {
    chown(dir, Some(user), Some(user)).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            give(&path, user)
        } else {
            chown(&path, Some(user), Some(user)).unwrap()
        }
    }
}

/// Three members. `limited` restarts the leader with a limit.
fn start(limited: impl FnOnce(&mut Processes, usize)) -> (Processes, usize) {
    let mut processes = Processes::start(3);
    let id = processes.leader();
    processes.kill(id);
    limited(&mut processes, id);
    processes.wait_ready();
    let deadline = Instant::now() + TEST_TIMEOUT;
    while status_of(&processes, id)["role"] != "leader" {
        assert!(Instant::now() < deadline, "it does not lead");
        syncraft(&["transfer", &id.to_string(), "--members", &processes.members()]);
    }
    (processes, id)
}

/// What member `id` reports about itself; null if it does not answer.
fn status_of(processes: &Processes, id: usize) -> serde_json::Value {
    let alone = format!("{id}={}", processes.ports[id - 1].addr());
    let status = syncraft(&["status", "--json", "--members", &alone]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
    let members = status["members"].as_array().map_or(&[][..], Vec::as_slice);
    members.iter().find(|it| it["id"] == id).cloned().unwrap_or_default()
}

/// While the crowd is there, a killed follower comes back and finds the leader, and a new client
/// can write.
fn check(processes: &mut Processes, leader: usize) {
    let crowd = Crowd::gather(processes.ports[leader - 1].addr());
    crowd.wait_until_it_is_there();
    let follower = (1..=3).find(|&id| id != leader).unwrap();
    processes.kill(follower);
    processes.restart(follower);
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        let status = status_of(processes, follower);
        if status["leader"].as_u64() == Some(leader as u64) {
            break;
        }
        assert!(Instant::now() < deadline, "it stays without that leader: {status}");
        // On a busy machine another member may have become the leader.
        if status["leader"].is_u64() {
            let all = processes.members();
            syncraft(&["transfer", &leader.to_string(), "--members", &all]);
        }
        thread::sleep(Duration::from_millis(20));
    }
    let put = ["put", "k", "v", "--timeout", "30s", "--members", &processes.members()];
    let put = syncraft(&put);
    assert!(put.status.success(), "{}", stderr(&put));
    drop(crowd);
}

#[test]
fn a_limit_on_a_users_tasks_keeps_no_peers_out() {
    if !has_prlimit() {
        return;
    }
    if !is_root() {
        eprintln!("not root: the tasks of this user's other programs count as well");
    }
    let (mut processes, leader) = start(|processes, id| {
        let (user, program) = (user(), program(processes));
        if is_root() {
            give(&processes.data_dir(id), user);
        }
        restart_by(processes, id, as_user(&program, user));
    });
    check(&mut processes, leader);
}

#[test]
fn a_limit_on_a_control_groups_tasks_keeps_no_peers_out() {
    let Some(group) = Group::new() else {
        eprintln!("no control group can be made: not tested");
        return;
    };
    let (mut processes, leader) = start(|processes, id| {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]);
        command.arg(&group.0).arg(env!("CARGO_BIN_EXE_syncraft"));
        restart_by(processes, id, command);
    });
    check(&mut processes, leader);
    drop(processes);
}

/// Processes that do nothing, and end when dropped.
struct Idlers(Vec<Child>);

impl Drop for Idlers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Other programs of its user use up the tasks that were free when the member started: the member
/// could not have known.
#[test]
fn others_that_take_the_tasks_away_keep_no_peers_out() {
    if !is_root() {
        eprintln!("not root: not tested, as it would leave this user no tasks");
        return;
    }
    if !has_prlimit() {
        return;
    }
    let user = user();
    let (mut processes, leader) = start(|processes, id| {
        let program = program(processes);
        give(&processes.data_dir(id), user);
        restart_by(processes, id, as_user(&program, user));
    });
    let idler = || as_user(Path::new("sleep"), user).arg("1000").spawn();
    let mut idlers = Idlers((0..TASKS_MAX).map_while(|_| idler().ok()).collect());
    // Some failed only when they executed `sleep`.
    idlers.0.retain_mut(|it| !matches!(it.try_wait(), Ok(Some(_))));
    // A few tasks are left, fewer than the crowd would take.
    for mut idler in idlers.0.drain(..30.min(idlers.0.len())) {
        let _ = idler.kill();
        let _ = idler.wait();
    }
    check(&mut processes, leader);
    drop(idlers);
}
