//! The two programs, run by themselves and as the README says; and the lines of them that it shows.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Ends the server with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn client(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_client")).args(args).output().expect("the client runs")
}

fn check(args: &[&str], expected: &str) {
    let output = client(args);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected);
}

#[test]
fn friends_are_added_and_listed() {
    let mut server = Command::new(env!("CARGO_BIN_EXE_server"));
    let mut server = Running(server.stdout(Stdio::piped()).spawn().expect("the server runs"));
    let mut line = String::new();
    let stdout = server.0.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).expect("the server says where it serves");
    let addr = line.trim().strip_prefix("serving on ").expect("in these words");
    check(&[addr, "ann"], "");
    check(&[addr, "ann", "bob"], "1");
    check(&[addr, "ann", "carl"], "2");
    check(&[addr, "ann", "bob"], "2");
    check(&[addr, "ann"], "bob\ncarl");
    let mut follower = Command::new(env!("CARGO_BIN_EXE_client"));
    let follower = follower.args([addr, "ann", "--follow"]).stdout(Stdio::piped());
    let mut follower = Running(follower.spawn().expect("the client runs"));
    let mut names = BufReader::new(follower.0.stdout.take().expect("it is piped")).lines();
    let mut next = || names.next().expect("a line").expect("it is text");
    assert_eq!([next(), next()], ["bob", "carl"]);
    check(&[addr, "ann", "dora"], "3");
    assert_eq!(next(), "dora");
    let output = client(&[addr]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage"), "{output:?}");
}

/// The block of the README that begins so, without its fences.
fn readme_block(beginning: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = fs::read_to_string(path).expect("the README is there");
    let from = readme.find(beginning).unwrap_or_else(|| panic!("no block begins {beginning}"));
    let (_, lines) = readme[from..].split_once('\n').expect("its fence is a line");
    lines.split("\n```").next().unwrap_or_default().to_owned()
}

#[test]
fn the_readme_can_be_followed() {
    // Free a moment ago. It must be known before the server starts, as it is in the README.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut script = readme_block("```sh\ncargo run -q -p friend_service");
    for (from, to) in [
        ("cargo run -q -p friend_service --bin server --", env!("CARGO_BIN_EXE_server")),
        ("cargo run -q -p friend_service --bin client --", env!("CARGO_BIN_EXE_client")),
        ("7100", &port.to_string()),
    ] {
        assert!(script.contains(from), "the README has no {from} any more");
        script = script.replace(from, to);
    }
    let output = Command::new("bash").args(["-euc", &script]).output().expect("bash starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.ends_with("1\nbob\n"), "{said}");
}

/// What the README shows of this crate is in it, line by line and in this order.
#[test]
fn the_readme_shows_what_is_here() {
    let (mut file, mut rest) = ("", String::new());
    let block = readme_block("```rs\n");
    for line in block.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let comment = line.strip_prefix("// ");
        if let Some(name) = comment.and_then(|words| words.split([',', ' ']).next())
            && name.ends_with(".rs")
        {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
            (file, rest) = (name, fs::read_to_string(path).expect("the file is there"));
        } else if comment.is_none() {
            let code = line.split(" // ").next().unwrap_or_default().trim_end();
            let at = rest.find(code).unwrap_or_else(|| panic!("{file} has no {code} there"));
            rest.drain(..at + code.len());
        }
    }
    assert!(!file.is_empty(), "it says in which file its lines are");
}
