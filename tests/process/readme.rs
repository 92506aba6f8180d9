//! Runs what the README tells its readers to type. Each of its shell blocks runs in a shell, with
//! the test's own ports and directories in place of those in the text. The README's Rust programs
//! are doctests (`src/lib.rs`), and the service in its RPC section is tested in its own crate
//! (`examples/friend_service/tests`).

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use syncraft::testing::Port;

use crate::processes::{Processes, TEST_TIMEOUT, stderr, syncraft};

/// A fenced block of the README.
struct Block {
    language: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn blocks() -> Vec<Block> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    // The text between two fences is a block, and the text between two blocks is prose.
    let fenced = readme.split("\n```").skip(1).step_by(2);
    fenced
        .map(|block| {
            let (language, text) = block.split_once('\n').expect("a block has lines");
            Block { language: language.to_owned(), text: text.to_owned() }
        })
        .collect()
}

/// The one shell block that contains `mark`.
fn shell_block(mark: &str) -> String {
    let mut found = blocks().into_iter().filter(|it| it.language == "sh" && it.text.contains(mark));
    let block = found.next().unwrap_or_else(|| panic!("the README has no shell block with {mark}"));
    assert!(found.next().is_none(), "two shell blocks of the README have {mark}");
    block.text
}

/// Replaces parts of the README's text with the test's own. Each part must be there, or the test
/// would run something else.
fn with(text: &str, replacements: &[(&str, &str)]) -> String {
    replacements.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the README has no {from} any more in\n{text}");
        text.replace(from, to)
    })
}

/// A shell in the root of the repository that stops at the first command that fails.
fn shell(text: &str, env: &[(&str, &str)]) -> Command {
    let theirs = ["7001", "/var/lib", "target/release"].iter().find(|it| text.contains(**it));
    assert_eq!(theirs, None, "this would touch what is not the test's:\n{text}");
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", text]).current_dir(root());
    command.env_remove("SYNCRAFT_MEMBERS").env("SYNCRAFT_BIN", binary());
    command.envs(env.iter().copied());
    command
}

fn run(text: &str, env: &[(&str, &str)]) -> String {
    let output = shell(text, env).output().expect("bash starts");
    assert!(output.status.success(), "{text}\n{}", words(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn words(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), stderr(output))
}

fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_syncraft")
}

/// The first of so many consecutive ports that are free, below those that the kernel assigns.
fn free_ports(count: u16) -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut bases = std::iter::repeat_with(|| fastrand::u16(12_000..32_000)).take(1_000);
    bases.find(|&base| (base..base + count).all(is_free)).expect("free ports in a row")
}

/// Stops the cluster that a block has started, however the test ends.
struct Stopped<'a>(&'a [(&'a str, &'a str)]);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = shell("scripts/cluster.sh stop", self.0).output();
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A new block needs a test: these words identify the blocks that the tests below run.
#[test]
fn every_block_has_its_test() {
    for Block { language, text } in blocks() {
        let marks: &[&str] = match &*language {
            "sh" => &[
                "syncraft dev",
                "scripts/cluster.sh start",
                "scripts/cluster.sh kill",
                "syncraft lock",
                "--id 1 ",
                "--rebuild",
                "scripts/bench.sh",
                "-p friend_service",
            ],
            "rs" => &["FriendService for"],
            "toml" => &["[dependencies]"],
            // Doctests.
            "rust" | "rust,no_run" => &["fn main()"],
            _ => &[],
        };
        let is_tested = marks.iter().any(|mark| text.contains(mark));
        assert!(is_tested, "no test runs this block of the README ({language}):\n{text}");
    }
}

#[test]
fn a_cluster_in_one_process() {
    if Command::new("curl").arg("--version").output().is_err() {
        return eprintln!("not tried: there is no curl");
    }
    let base = free_ports(4);
    let port = |at: u16| format!("{}", base + at);
    let bin_dir = Path::new(binary()).parent().unwrap().display().to_string();
    let text = with(
        &shell_block("syncraft dev"),
        &[
            ("cargo build --release", "true"),
            ("$PWD/target/release", &*bin_dir),
            ("8001", &port(0)),
            ("8002", &port(1)),
            ("8004", &port(3)),
            ("syncraft dev", "syncraft --timeout 60s dev"),
            // Its port may be in use until it has ended.
            ("kill %1 ", "kill %1; wait %1"),
        ],
    );
    let said = run(&text, &[]);
    assert!(said.contains("{\"revision\":2}\n"), "{said}");
    assert_eq!(said.matches("hello\n").count(), 2, "{said}");
    assert!(said.ends_with("40 writes were acknowledged, and none is lost\n"), "{said}");
}

/// The two blocks about `scripts/cluster.sh`, one after the other, and the example that the README
/// runs against their cluster.
#[test]
fn the_first_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let base = free_ports(3);
    let cluster_dir = dir.path().join("cluster").display().to_string();
    let base_port = base.to_string();
    let env = [("DIR", &*cluster_dir), ("BASE_PORT", &*base_port)];
    let ports: Vec<String> = (base..base + 3).map(|port| port.to_string()).collect();

    // The second command runs all tests, including this one.
    let start = with(
        &shell_block("scripts/cluster.sh start"),
        &[("scripts/test.sh ", "true "), ("ports 7001 to 7003", "the ports of this test")],
    );
    let _stopped = Stopped(&env);
    let serving = run(&start, &env);
    assert!(serving.contains("serving: 3 members"), "{serving}");

    let bin_dir = Path::new(binary()).parent().unwrap().display().to_string();
    let session = with(
        &shell_block("scripts/cluster.sh kill"),
        &[
            ("7001", &*ports[0]),
            ("7002", &ports[1]),
            ("7003", &ports[2]),
            ("$PWD/target/release", &bin_dir),
            // The members are needed once more.
            ("scripts/cluster.sh stop", "cargo_example"),
        ],
    );
    let example = format!(
        "cargo_example() {{ {} run --quiet --locked --example clerk -- $SYNCRAFT_MEMBERS; }}\n",
        env!("CARGO")
    );
    let said = run(&(example + &session), &env);
    assert_eq!(said.matches("hello, world\n").count(), 3, "the three gets: {said}");
    assert!(said.contains("greeting is \"hello, world\""), "the example: {said}");

    run("scripts/cluster.sh stop", &env);
    let left = run("scripts/cluster.sh status 2>&1 || true", &env);
    assert_eq!(left.matches("not running").count(), 3, "{left}");
}

#[test]
fn watches_and_locks() {
    let cluster = Processes::start(1);
    cluster.clerk().put("greeting", "hello").unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", Path::new(binary()).parent().unwrap().display());
    let env = [("SYNCRAFT_MEMBERS", &*cluster.members()), ("PATH", &path)];
    let said = run(&shell_block("syncraft lock"), &env);
    assert_eq!(said, "put\tgreeting\thello\nnow hello\nmine\ndb-1\n");
}

/// A member on each of several machines; then the data of one of them is discarded.
#[test]
fn several_machines_and_a_damaged_member() {
    let dir = tempfile::tempdir().unwrap();
    let ports: Vec<Port> = (0..3).map(|_| Port::free().unwrap()).collect();
    let addrs: Vec<String> = ports.iter().map(|port| port.addr().to_string()).collect();
    let members = format!("1={},2={},3={}", addrs[0], addrs[1], addrs[2]);
    let data_dir = |id: usize| -> PathBuf { dir.path().join(id.to_string()) };
    let start = |text: &str| {
        let text = with(text, &[("syncraft server", &format!("exec {} server", binary()))]);
        Killed(shell(&text, &[]).stderr(Stdio::null()).spawn().expect("bash starts"))
    };

    let block = shell_block("--id 1 ");
    let mut running: Vec<Killed> = (1..=3)
        .map(|id| {
            start(&with(
                &block,
                &[
                    ("--id 1 ", &*format!("--id {id} ")),
                    ("ten.example:7001", &addrs[0]),
                    ("eleven.example:7001", &addrs[1]),
                    ("twelve.example:7001", &addrs[2]),
                    ("/var/lib/syncraft", &data_dir(id).display().to_string()),
                ],
            ))
        })
        .collect();
    let ask = |args: &[&str], members: &str| {
        syncraft(&[args, &["--timeout", "30s", "--members", members]].concat())
    };
    let put = ask(&["put", "k", "v"], &members);
    assert!(put.status.success(), "{}", words(&put));
    // The first two begin a cluster, and the third one gets its vote a moment later.
    let ready = ask(&["wait-ready"], &members);
    assert!(ready.status.success(), "{}", words(&ready));

    drop(running.remove(1));
    let rebuild = with(
        &shell_block("--rebuild"),
        &[
            ("--members ...", &*format!("--members {members}")),
            ("/var/lib/syncraft", &data_dir(2).display().to_string()),
        ],
    );
    running.insert(1, start(&rebuild));
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        let get = ask(&["get", "--stale", "k"], &addrs[1]);
        if get.stdout == b"v\n" {
            break;
        }
        assert!(Instant::now() < deadline, "member 2 is not filled: {}", words(&get));
        // It ends if another member is too busy to answer it in time.
        if let Some(status) = running[1].0.try_wait().unwrap() {
            assert_eq!(status.code(), Some(3));
            running[1] = start(&rebuild);
        }
        thread::sleep(Duration::from_millis(50));
    }

    for Killed(child) in &mut running {
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }
    for Killed(child) in &mut running {
        assert_eq!(child.wait().unwrap().code(), Some(0), "it stops cleanly on SIGTERM");
    }
}

/// Fewer and shorter runs. etcd and Redis take part only if they are asked for.
#[test]
fn the_benchmarks() {
    let cluster = Processes::start(3);
    let block = shell_block("scripts/bench.sh");
    let bin_dir = Path::new(binary()).parent().unwrap().display().to_string();
    let path = format!("{bin_dir}:{}", std::env::var("PATH").unwrap());
    let text =
        with(&block, &[("--seconds 10", "--seconds 1"), ("--vs etcd --vs redis", "--quick")]);
    // The system's temporary directory may be in memory, where the script refuses to measure.
    let env = [
        ("PATH", &*path),
        ("SYNCRAFT_MEMBERS", &cluster.members()),
        ("BENCH_DIR", env!("CARGO_TARGET_TMPDIR")),
    ];
    let said = run(&text, &env);
    assert!(said.contains("64 clients"), "{said}");
    // Each row of the page has a number: a dash would stand for a missing one.
    let rows: Vec<&str> = said.lines().filter(|line| line.starts_with("| ")).collect();
    for row in ["put, 256 B, 64 clients", "get, 256 B, 1 client", "`kill -9` of the leader"] {
        let cell = rows.iter().find(|line| line.contains(row)).unwrap_or_else(|| panic!("{said}"));
        assert!(cell.contains(|c: char| c.is_ascii_digit()) && !cell.contains('–'), "{cell}");
    }
}

/// A crate with these lines, beside a checkout of this repository, can use syncraft.
#[test]
fn the_lines_for_a_manifest() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root(), dir.path().join("syncraft")).unwrap();
    let user = dir.path().join("user");
    fs::create_dir_all(user.join("src")).unwrap();
    fs::write(user.join("src/lib.rs"), "").unwrap();
    fs::copy(root().join("Cargo.lock"), user.join("Cargo.lock")).unwrap();
    let block = blocks().into_iter().find(|it| it.language == "toml").expect("it is there").text;
    let head = "[package]\nname = \"user\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n";
    fs::write(user.join("Cargo.toml"), format!("{head}{block}\n")).unwrap();
    // Nothing is built or fetched: cargo finds the crate, and its dependencies are available.
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--depth", "1"])
        .current_dir(&user)
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", words(&tree));
    assert!(String::from_utf8_lossy(&tree.stdout).contains("syncraft v"), "{}", words(&tree));
}
