//! A member that may open few files: `syncraft server` under a `ulimit`.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use syncraft::rpc::StatusCode;
use syncraft::testing::Port;

use crate::raw::{Head, Raw, frame, head};

/// The only member of its cluster, as a process.
struct Limited {
    child: Child,
    addr: SocketAddr,
    _port: Port,
    _dir: tempfile::TempDir,
}

impl Limited {
    /// Started by a shell that runs `ulimit` first. It serves.
    fn start(ulimit: &str) -> Limited {
        let (port, dir) = (Port::free().unwrap(), tempfile::tempdir().unwrap());
        let mut child = Command::new("sh")
            .args(["-c", &format!("{ulimit} && exec \"$0\" \"$@\"")])
            .args([env!("CARGO_BIN_EXE_syncraft"), "server", "--id", "1", "--members"])
            .arg(format!("1={}", port.addr()))
            .arg("--data-dir")
            .arg(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(line.contains("serves on"), "{line:?}");
        Limited { child, addr: port.addr(), _port: port, _dir: dir }
    }

    /// A connection that has asked for the member's status, and the status code of the answer.
    fn ask(&self) -> (Raw, u32) {
        let mut raw = Raw::connect(self.addr);
        raw.send(&frame(&Head { service: "adminRpc".into(), ..head("Status", 1, 0) }, b""));
        let (head, _) = raw.reply();
        (raw, head.status)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_soft_limit_is_raised() {
    let member = Limited::start("ulimit -Sn 64");
    let all: Vec<_> = (0..200).map(|_| member.ask()).collect();
    assert!(all.iter().all(|(_, status)| *status == 0));
}

#[test]
fn a_hard_limit_leaves_words_for_the_client_too_many() {
    let member = Limited::start("ulimit -n 160");
    let (mut first, status) = member.ask();
    assert_eq!(status, 0);
    // Silent connections keep nobody out; connections that have asked do.
    let _silent: Vec<Raw> = (0..300).map(|_| Raw::connect(member.addr)).collect();
    let (_held, statuses): (Vec<Raw>, Vec<u32>) = (0..100).map(|_| member.ask()).unzip();
    assert_eq!((statuses[0], statuses[99]), (0, StatusCode::Busy.number()), "{statuses:?}");
    first.send(&frame(&Head { service: "adminRpc".into(), ..head("Status", 2, 0) }, b""));
    assert_eq!(first.reply().0.status, 0);
}
