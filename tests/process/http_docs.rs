//! Runs the examples of `docs/http.md`, one after the other, against a member of its own.

use std::fs;
use std::process::Command;

use syncraft::testing::Port;

use crate::processes::{Processes, stderr};

/// What the page calls the member's HTTP port.
const THEIRS: &str = "localhost:8001";

/// A command, and what it prints.
struct Example {
    command: String,
    expected: String,
}

fn examples() -> Vec<Example> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/http.md");
    let page = fs::read_to_string(path).unwrap();
    // Every other part between two fences is a block.
    let blocks = page.split("\n```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| match block.strip_prefix("sh\n") {
        None => {
            assert!(block.starts_with("js\n"), "neither run nor JavaScript: {block}");
            None
        }
        shell => shell,
    });
    let mut examples: Vec<Example> = Vec::new();
    for line in blocks.flat_map(str::lines) {
        match line.strip_prefix("$ ") {
            Some(command) => {
                examples.push(Example { command: command.to_owned(), expected: String::new() });
            }
            None => {
                let last = examples.last_mut().expect("a block begins with a command");
                last.expected += line;
                last.expected.push('\n');
            }
        }
    }
    examples
}

#[test]
fn every_example_prints_what_the_page_says() {
    if Command::new("curl").arg("--version").output().is_err() {
        return eprintln!("not tried: there is no curl");
    }
    let http = Port::free().unwrap();
    let addr = http.addr().to_string();
    let _member = Processes::start_with(1, &["--http", &addr]);
    let examples = examples();
    assert!(examples.len() > 20, "{} examples", examples.len());
    for Example { command, expected } in examples {
        assert!(command.contains(THEIRS), "it asks another port: {command}");
        let ours = command.replace(THEIRS, &addr).replace("curl ", "curl -sS --max-time 30 ");
        let output = Command::new("bash").args(["-c", &ours]).output().unwrap();
        let printed = String::from_utf8(output.stdout.clone()).unwrap().replace('\r', "");
        assert_eq!(printed, expected, "{command}\n{}", stderr(&output));
    }
}
