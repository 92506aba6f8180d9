//! Runs the program as `scripts/bench.sh` does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const REQUEST_HEADER_BYTES: usize = 44;
const VALUE_BYTES: usize = 4;
const BATCH_HEADER_BYTES: usize = 8;

#[test]
fn entries_with_a_reply_are_in_two_logs() {
    let dir = fresh_dir("put");
    let load = ["--clients", "8", "--conns", "2", "--value-size", "4"];
    let report = report(&run("put", &dir, &load));

    let answered = field(&report, "operations") as usize;
    assert!(answered > 0, "{report}");
    let logs = ["leader", "follower-1", "follower-2"].map(|name| entries(&dir, name));
    let common =
        |a: usize, b: usize| logs[a].iter().zip(&logs[b]).take_while(|(a, b)| a == b).count();
    let in_two = [common(0, 1), common(0, 2), common(1, 2)].into_iter().max();
    assert!(in_two >= Some(answered), "{answered} replies, in two logs: {in_two:?}");
    for connection in [0u64, 1] {
        let has_entry = logs[0].iter().any(|entry| entry[..8] == connection.to_le_bytes());
        assert!(has_entry, "connection {connection}");
    }
}

#[test]
fn an_echo_replies_on_each_connection() {
    let report = report(&run("get", &fresh_dir("get"), &["--clients", "5", "--conns", "3"]));
    assert!(field(&report, "ops_per_second") > 0.0, "{report}");
    assert!(field(&report, "p50") <= field(&report, "p99"), "{report}");
    assert!(field(&report, "p99") <= field(&report, "max"), "{report}");
}

#[test]
fn failures_are_in_words() {
    let file = fresh_dir("failures").join("file");
    fs::write(&file, "").unwrap();
    for (dir, options, words) in [
        (&*file, &[][..], "creating "),
        (Path::new(""), &[], "--dir is missing"),
        (Path::new("unused"), &["--clients", "0"], "at least 1"),
        (Path::new("unused"), &["--clients", "many"], "--clients \"many\""),
        (Path::new("unused"), &["--value-size", "67108864"], "must fit"),
    ] {
        let output = run("put", dir, options);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(words), "{options:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

fn fresh_dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn run(operation: &str, dir: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ceiling"))
        .args([operation, "--seconds", "1", "--warm-up-ms", "0", "--dir"])
        .arg(dir)
        .args(options)
        .output()
        .unwrap()
}

fn report(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn field(report: &str, name: &str) -> f64 {
    let begin = report.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
    let len = report[begin..].find([',', '}']).unwrap();
    report[begin..begin + len].parse().unwrap()
}

/// All entries of a log that has not begun again at its start.
fn entries(dir: &Path, name: &str) -> Vec<Vec<u8>> {
    let bytes = fs::read(dir.join(name).with_extension("log")).unwrap();
    let mut entries = Vec::new();
    let mut rest = &bytes[..];
    while let Some(len_bytes) = rest.first_chunk().map(|it| u64::from_le_bytes(*it) as usize)
        && len_bytes > 0
    {
        let batch = &rest[BATCH_HEADER_BYTES..len_bytes];
        entries.extend(batch.chunks(REQUEST_HEADER_BYTES + VALUE_BYTES).map(<[u8]>::to_vec));
        rest = &rest[len_bytes..];
    }
    entries
}
