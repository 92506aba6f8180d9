//! Commands that run while a test goes on.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::processes::{Processes, SYNCRAFT, until};

/// Starts `syncraft` with these arguments, and returns its output as a pipe.
pub(crate) fn start(cluster: &Processes, args: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(SYNCRAFT)
        .args(args)
        .env("SYNCRAFT_MEMBERS", cluster.members())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

/// Waits for its end, and returns the exit status and what it said.
#[track_caller]
pub(crate) fn end(mut child: Child) -> (Option<i32>, String) {
    until("it ends", || child.try_wait().unwrap().is_some());
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status.code(), said)
}

/// The next line of the output.
pub(crate) fn line(out: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line
}
