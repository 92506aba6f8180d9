//! The two programs, run as the README says.

use std::io::{BufRead, BufReader};
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
    let output = client(&[addr]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage"), "{output:?}");
}
