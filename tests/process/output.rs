//! Output that cannot be written: every command, each of its two streams, in every way. A command
//! whose result cannot be written fails with status 3; a lost message to a person is not a failure.
//! Every exit status is a documented one.

use std::fs::File;
use std::process::{Command, Output, Stdio};

use syncraft::testing::Port;

use crate::processes::*;

/// How a stream cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// Each write fails, as on a full disk.
    Full,
    /// It was closed before the start.
    Closed,
    /// It is a pipe without a reader.
    Unread,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

const BROKEN: [Broken; 3] = [Broken::Full, Broken::Closed, Broken::Unread];

/// The command with a broken stream. Only a shell can close one.
fn broken(args: &[&str], stream: Stream, how: Broken) -> Command {
    let mut command = match (how, stream) {
        (Broken::Closed, Stream::Stdout) => closing(">&-"),
        (Broken::Closed, Stream::Stderr) => closing("2>&-"),
        _ => Command::new(SYNCRAFT),
    };
    command.args(args).env_remove("SYNCRAFT_MEMBERS").env_remove("RUST_LOG");
    let target = match how {
        Broken::Full => Stdio::from(File::options().write(true).open("/dev/full").unwrap()),
        Broken::Closed => return command,
        Broken::Unread => {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            Stdio::from(writer)
        }
    };
    match stream {
        Stream::Stdout => command.stdout(target),
        Stream::Stderr => command.stderr(target),
    };
    command
}

fn closing(redirection: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec \"$0\" \"$@\" {redirection}"), SYNCRAFT]);
    command
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn a_broken_stream_costs_what_stands_on_it_and_no_more() {
    let cluster = Processes::start(1);
    cluster.clerk().put("k", "value").unwrap();
    let members = cluster.members();
    let nobody = Port::free().unwrap().addr().to_string();
    // The command, its status, and whether it has a result.
    let commands: [(&[&str], i32, bool); 23] = [
        (&["get", "k"], 0, true),
        (&["get", "--raw", "k"], 0, true),
        (&["get", "--stale", "k"], 0, true),
        (&["get", "absent"], 1, false),
        (&["get", "--stale", "absent"], 1, false),
        (&["put", "p", "v"], 0, false),
        (&["append", "a", "v"], 0, false),
        (&["incr", "n"], 0, true),
        (&["delete", "absent"], 1, true),
        (&["lease", "grant", "1h"], 0, true),
        (&["status"], 0, true),
        (&["status", "--json"], 0, true),
        (&["transfer", "1"], 0, false),
        (&["transfer", "9"], 2, false),
        (&["snapshot"], 0, false),
        (&["wait-ready"], 0, false),
        (&["bench", "put", "--count", "1", "--warm-up", "0s"], 0, true),
        (&["bench", "get", "--count", "1", "--keys", "1", "--warm-up", "0s", "--json"], 0, true),
        (&["get", "k", "--timeout", "100ms", "--members", &nobody], 3, false),
        (&["status", "--timeout", "100ms", "--members", &nobody], 3, true),
        (&["--help"], 0, true),
        (&["--version"], 0, true),
        (&["nonsense"], 2, false),
    ];
    for (args, expected, has_result) in commands {
        let args = match args.contains(&"--members") {
            true => args.to_vec(),
            false => [&["--members", &members], args].concat(),
        };
        // A script that tries again would write a second time.
        let when_lost = if args.contains(&"incr") || args.contains(&"grant") { 4 } else { 3 };
        for how in BROKEN {
            let output = broken(&args, Stream::Stderr, how).output().unwrap();
            assert_eq!(code(&output), Some(expected), "{args:?} 2 {how:?}");
            assert_eq!(!output.stdout.is_empty(), has_result, "{args:?} 2 {how:?}");
            if args.contains(&"k") && expected == 0 {
                assert_eq!(output.stdout.trim_ascii_end(), b"value", "{args:?} 2 {how:?}");
            }

            let output = broken(&args, Stream::Stdout, how).output().unwrap();
            let is_lost = how == Broken::Full && has_result;
            let (said, expected) = (stderr(&output), if is_lost { when_lost } else { expected });
            assert_eq!(code(&output), Some(expected), "{args:?} 1 {how:?}: {said}");
            assert_eq!(said.contains("cannot write the result"), is_lost, "{args:?}: {said}");
            assert!(!said.contains("panicked"), "{args:?} 1 {how:?}: {said}");
        }
        // And both at once.
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = broken(&args, Stream::Stdout, Broken::Full);
        let expected = if has_result { when_lost } else { expected };
        assert_eq!(command.stderr(full).status().unwrap().code(), Some(expected), "{args:?}");
    }
}

/// A signal would end it with an undocumented status.
#[test]
fn a_result_over_the_limit_on_files_is_a_failure_in_words() {
    let cluster = Processes::start(1);
    cluster.clerk().put("k", "value").unwrap();
    let file = cluster.dir.path().join("out");
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 0; exec \"$@\" >\"$0\""])
        .arg(&file)
        .args([SYNCRAFT, "get", "k", "--members", &cluster.members()])
        .output()
        .unwrap();
    assert_eq!(code(&output), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot write the result"), "{}", stderr(&output));
}

#[test]
fn a_server_serves_whoever_reads_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (stream, how)) in [Stream::Stdout, Stream::Stderr]
        .into_iter()
        .flat_map(|stream| BROKEN.map(|how| (stream, how)))
        .enumerate()
    {
        let port = Port::free().unwrap();
        let members = format!("1={}", port.addr());
        let data_dir = dir.path().join(number.to_string());
        let args = ["server", "--id", "1", "--members", &members, "--data-dir"];
        let mut command = broken(&[&args[..], &[data_dir.to_str().unwrap()]].concat(), stream, how);
        // The other stream is intact, and the log is verbose.
        command.env("RUST_LOG", "debug");
        match stream {
            Stream::Stdout => command.stderr(Stdio::null()),
            Stream::Stderr => command.stdout(Stdio::null()),
        };
        let mut server = command.spawn().unwrap();
        let put = syncraft(&["put", "k", "v", "--timeout", "30s", "--members", &members]);
        let stopped = Command::new("kill").arg(server.id().to_string()).status().unwrap();
        let (status, put_code) = (server.wait().unwrap(), code(&put));
        assert_eq!(put_code, Some(0), "{stream:?} {how:?}: {}", stderr(&put));
        assert!(stopped.success());
        assert_eq!(status.code(), Some(0), "{stream:?} {how:?}");
    }
}

/// A member that fails to start and cannot print the reason ends with the same status.
#[test]
fn a_server_that_cannot_start_fails_as_documented_unheard() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::free().unwrap();
    let _taken = port.listen().unwrap();
    let members = format!("1={}", port.addr());
    let data_dir = dir.path().join("d");
    let args = ["server", "--id", "1", "--members", &members, "--data-dir"];
    let args = [&args[..], &[data_dir.to_str().unwrap()]].concat();
    for how in BROKEN {
        let output = broken(&args, Stream::Stderr, how).output().unwrap();
        assert_eq!(code(&output), Some(3), "{how:?}");
    }
}
