//! What these tests share: members as processes of the `syncraft` command.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use syncraft::clerk::Clerk;
use syncraft::testing::Port;

pub(crate) const SYNCRAFT: &str = env!("CARGO_BIN_EXE_syncraft");

/// Long enough for a busy machine. A test that waits longer has failed.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until `holds` is true.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {TEST_TIMEOUT:?}: {what}");
        // Many conditions start a process.
        thread::sleep(Duration::from_millis(20));
    }
}

/// Members 1 to `size` as processes.
pub(crate) struct Processes {
    pub(crate) ports: Vec<Port>,
    pub(crate) children: Vec<Option<Child>>,
    pub(crate) dir: tempfile::TempDir,
}

impl Processes {
    pub(crate) fn start(size: usize) -> Processes {
        Processes::start_with(size, &[])
    }

    /// With additional options.
    pub(crate) fn start_with(size: usize, options: &[&str]) -> Processes {
        let ports = (0..size).map(|_| Port::free().unwrap()).collect();
        let dir = tempfile::TempDir::with_prefix("syncraft-processes-").unwrap();
        let mut processes = Processes { ports, children: (0..size).map(|_| None).collect(), dir };
        (1..=size).for_each(|id| processes.restart_with(id, options));
        processes.wait_ready();
        // A cluster begins with a majority. Most tests take a member down next, which the others
        // can do without only once they all vote.
        until("all members vote", || processes.all_vote());
        processes
    }

    pub(crate) fn members(&self) -> String {
        let member = |(at, port): (usize, &Port)| format!("{}={}", at + 1, port.addr());
        self.ports.iter().enumerate().map(member).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn data_dir(&self, id: usize) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    pub(crate) fn command(&self, id: usize) -> Command {
        server(id, &self.members(), &self.data_dir(id))
    }

    pub(crate) fn restart(&mut self, id: usize) {
        self.restart_with(id, &[]);
    }

    /// With additional options.
    pub(crate) fn restart_with(&mut self, id: usize, options: &[&str]) {
        let mut command = self.command(id);
        command.args(options);
        self.spawn(id, command);
    }

    /// Starts member `id` with these options, and waits until `holds` is true of what `status` says
    /// of it. With `--rebuild`, a member ends if another one is too busy to answer it in time: then
    /// it is started again.
    pub(crate) fn restart_until(
        &mut self,
        id: usize,
        options: &[&str],
        holds: impl Fn(&serde_json::Value) -> bool,
    ) {
        self.restart_with(id, options);
        until(&format!("member {id} has started with {options:?}"), || {
            if self.children[id - 1].as_mut().unwrap().try_wait().unwrap().is_some() {
                let log = self.log(id);
                let words = log.lines().last().unwrap_or_default();
                assert!(words.contains("no answer from"), "member {id} has ended: {words}");
                self.restart_with(id, options);
            }
            let status = self.status();
            let mut members = status["members"].as_array().unwrap().iter();
            members.find(|member| member["id"] == id).is_some_and(&holds)
        });
    }

    /// Starts member `id` by `command`.
    pub(crate) fn spawn(&mut self, id: usize, mut command: Command) {
        let log = self.dir.path().join(format!("{id}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        self.children[id - 1] = Some(command.stderr(log).stdout(Stdio::null()).spawn().unwrap());
    }

    pub(crate) fn kill(&mut self, id: usize) {
        if let Some(mut child) = self.children[id - 1].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, id: usize, signal: &str) {
        let pid = self.children[id - 1].as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(crate) fn wait_ready(&self) {
        let ready = syncraft(&["wait-ready", "--timeout", "30s", "--members", &self.members()]);
        assert!(ready.status.success(), "no leader: {}\n{}", stderr(&ready), self.logs());
    }

    pub(crate) fn all_vote(&self) -> bool {
        let status = self.status();
        status["members"].as_array().unwrap().iter().all(|member| member["joining"] == false)
    }

    /// What `status --json` prints.
    pub(crate) fn status(&self) -> serde_json::Value {
        let status = syncraft(&["status", "--json", "--members", &self.members()]);
        serde_json::from_slice(&status.stdout).unwrap()
    }

    /// What `status` says of member `id`. One that is too busy to answer is asked again.
    pub(crate) fn answer_of(&self, id: usize) -> serde_json::Value {
        let mut answer = None;
        until(&format!("member {id} answers"), || {
            let status = self.status();
            let mut members = status["members"].as_array().unwrap().iter();
            let is_it = |it: &&serde_json::Value| it["id"] == id && it["reachable"] == true;
            answer = members.find(is_it).cloned();
            answer.is_some()
        });
        answer.unwrap()
    }

    /// The member that leads. On a busy machine an election may be under way.
    pub(crate) fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.status();
            let members = status["members"].as_array().unwrap().iter();
            let leader = members
                .filter(|member| member["role"] == "leader")
                .max_by_key(|it| it["term"].as_u64());
            if let Some(leader) = leader {
                return leader["id"].as_u64().unwrap() as usize;
            }
            assert!(Instant::now() < deadline, "nobody leads: {status}");
        }
    }

    pub(crate) fn clerk(&self) -> Clerk {
        Clerk::builder().members(self.members()).timeout(Duration::from_secs(20)).build().unwrap()
    }

    pub(crate) fn log(&self, id: usize) -> String {
        fs::read_to_string(self.dir.path().join(format!("{id}.log"))).unwrap_or_default()
    }

    pub(crate) fn logs(&self) -> String {
        (1..=self.children.len()).map(|id| format!("--- {id}\n{}", self.log(id))).collect()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        (1..=self.children.len()).for_each(|id| self.kill(id));
        if thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

pub(crate) fn server(id: usize, members: &str, data_dir: &Path) -> Command {
    let mut command = Command::new(SYNCRAFT);
    command
        .args(["server", "--id", &id.to_string(), "--members", members, "--data-dir"])
        .arg(data_dir)
        .env_remove("SYNCRAFT_LISTEN");
    command
}

pub(crate) fn syncraft(args: &[&str]) -> Output {
    Command::new(SYNCRAFT).args(args).env_remove("SYNCRAFT_MEMBERS").output().unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn appended(clerk: &Clerk, key: &str) -> String {
    String::from_utf8(clerk.get(key).unwrap().unwrap_or_default().to_vec()).unwrap()
}
