//! `syncraft dev` as a process, for the tests of it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::processes::{SYNCRAFT, TEST_TIMEOUT, until};

/// A cluster in a process of its own. Its temporary files have a directory of their own, too.
pub(crate) struct Dev {
    pub(crate) child: Child,
    /// What it printed, as JSON.
    reach: Value,
    pub(crate) dir: TempDir,
}

/// `syncraft dev` with these arguments, and its temporary files in this directory.
pub(crate) fn dev(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(SYNCRAFT);
    if !args.contains(&"--timeout") {
        command.args(["--timeout", "60s"]);
    }
    command.arg("dev").args(args).env("TMPDIR", dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in
        ["SYNCRAFT_MEMBERS", "SYNCRAFT_HTTP", "SYNCRAFT_HTTP_ALL", "SYNCRAFT_ETCD", "SYNCRAFT_DEV"]
    {
        command.env_remove(name);
    }
    command
}

impl Dev {
    pub(crate) fn start(args: &[&str]) -> Dev {
        Dev::try_start(args).unwrap_or_else(|ended| panic!("it does not serve: {ended:?}"))
    }

    /// Fails with how it ended.
    pub(crate) fn try_start(args: &[&str]) -> Result<Dev, (Option<i32>, String, String)> {
        let dir = TempDir::with_prefix("syncraft-dev-test-").unwrap();
        let mut child = dev(&[&["--json"], args].concat(), dir.path()).spawn().unwrap();
        let mut line = String::new();
        out(&mut child).read_line(&mut line).unwrap();
        match line.is_empty() {
            true => Err(end(child)),
            false => Ok(Dev { child, reach: serde_json::from_str(&line).unwrap(), dir }),
        }
    }

    pub(crate) fn members(&self) -> &str {
        self.reach["members"].as_str().unwrap()
    }

    /// The URL at which a member serves HTTP.
    pub(crate) fn http(&self, id: u64) -> &str {
        self.reach["http_all"][id as usize - 1].as_str().unwrap()
    }

    /// The variables that a COMMAND would have.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let text = |name: &str| self.reach[name].as_str().unwrap().to_owned();
        let all = self.reach["http_all"].as_array().unwrap().iter();
        let all: Vec<&str> = all.map(|url| url.as_str().unwrap()).collect();
        let env = [
            ("SYNCRAFT_MEMBERS", text("members")),
            ("SYNCRAFT_HTTP", text("http")),
            ("SYNCRAFT_HTTP_ALL", all.join(" ")),
            ("SYNCRAFT_DEV", text("dev")),
        ];
        env.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// How the cluster is.
    pub(crate) fn view(&self) -> Value {
        let (status, body) = self.control("GET", "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The state of a member.
    pub(crate) fn state(&self, id: u64) -> String {
        self.view()["members"][id as usize - 1]["state"].as_str().unwrap().to_owned()
    }

    /// A fault that is taken: `kill?member=2`.
    #[track_caller]
    pub(crate) fn fault(&self, fault: &str) -> Value {
        let (status, body) = self.control("POST", &format!("/{fault}"));
        assert_eq!(status, 200, "{fault}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The leader, once there is one.
    pub(crate) fn leader(&self) -> u64 {
        let mut leader = None;
        until("there is a leader", || {
            leader = self.view()["leader"].as_u64();
            leader.is_some()
        });
        leader.unwrap()
    }

    /// `rest`: what follows `/v1/dev`.
    pub(crate) fn control(&self, method: &str, rest: &str) -> (u16, String) {
        let url = format!("{}/v1/dev{rest}", self.reach["dev"].as_str().unwrap());
        ask(method, &url, "").unwrap()
    }

    /// Writes through a member.
    pub(crate) fn put(&self, id: u64, key: &str, value: &str) -> io::Result<(u16, String)> {
        ask("PUT", &format!("{}/v1/kv/{key}?timeout=50s", self.http(id)), value)
    }

    /// Reads from a member.
    pub(crate) fn get(&self, id: u64, key: &str) -> io::Result<(u16, String)> {
        ask("GET", &format!("{}/v1/kv/{key}?timeout=50s", self.http(id)), "")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        self::signal(self.child.id(), signal);
    }

    /// The exit status and what it said, once it has ended by itself.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> (Option<i32>, String) {
        until("it ends", || self.child.try_wait().unwrap().is_some());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

pub(crate) fn out(child: &mut Child) -> BufReader<ChildStdout> {
    BufReader::new(child.stdout.take().unwrap())
}

/// The exit status, the output and what was said, once it has ended.
pub(crate) fn end(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Asks over a connection of its own. The status and the body of the answer.
pub(crate) fn ask(method: &str, url: &str, body: &str) -> io::Result<(u16, String)> {
    answer(&mut send(method, url, body)?)
}

/// Sends a request.
pub(crate) fn send(method: &str, url: &str, body: &str) -> io::Result<TcpStream> {
    send_with(method, url, "", body)
}

/// `fields`: more fields of the head, each with its CR LF.
pub(crate) fn send_with(
    method: &str,
    url: &str,
    fields: &str,
    body: &str,
) -> io::Result<TcpStream> {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(TEST_TIMEOUT))?;
    let head = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Length: {}\r\n{fields}\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes())?;
    Ok(stream)
}

/// The answer to the one request of a connection.
pub(crate) fn answer(stream: &mut TcpStream) -> io::Result<(u16, String)> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}

/// Whether nothing is answered for a while.
pub(crate) fn is_silent(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
