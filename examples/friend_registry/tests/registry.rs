//! Instances that come, stop and die, and a caller that goes on.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use syncraft::registry::Discovery;
use syncraft::testing::Cluster;

/// A program of this crate. It ends with the test.
struct Program {
    child: Child,
    input: Option<ChildStdin>,
}

impl Program {
    fn start(path: &str, members: &str) -> Program {
        let mut command = Command::new(path);
        let command = command.arg(members).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let input = child.stdin.take();
        Program { child, input }
    }

    fn instance(members: &str) -> Program {
        let mut instance = Program::start(env!("CARGO_BIN_EXE_instance"), members);
        let mut line = String::new();
        let output = instance.child.stdout.as_mut().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("it says where it serves");
        assert!(line.starts_with("serving on "), "{line}");
        instance
    }

    /// Ends its input, so that it stops by itself. Returns what is left of its output.
    fn stop(mut self) -> String {
        drop(self.input.take());
        let mut output = String::new();
        self.child.stdout.take().expect("it is piped").read_to_string(&mut output).unwrap();
        assert!(self.child.wait().unwrap().success());
        output
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until there are so many instances.
fn wait_for(discovery: &Discovery, count: usize) {
    let end = Instant::now() + Duration::from_secs(30);
    while discovery.instances().len() != count {
        assert!(Instant::now() < end, "{:?} are not {count}", discovery.instances());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_caller_goes_on_while_instances_come_stop_and_die() {
    let cluster = Cluster::start(3).unwrap();
    let members = cluster.members().to_string();
    let clerk = cluster.clerk();
    let discovery = Discovery::start(&clerk, "friends").unwrap();
    assert_eq!(discovery.instances(), []);
    let (first, second) = (Program::instance(&members), Program::instance(&members));
    wait_for(&discovery, 2);
    let caller = Program::start(env!("CARGO_BIN_EXE_caller"), &members);
    first.kill();
    // One TTL later it is gone.
    wait_for(&discovery, 1);
    let third = Program::instance(&members);
    wait_for(&discovery, 2);
    second.stop();
    wait_for(&discovery, 1);
    let said = caller.stop();
    assert!(said.ends_with(" calls, 0 failed\n"), "{said}");
    assert!(!said.starts_with("0 "), "{said}");
    drop(third);
}
