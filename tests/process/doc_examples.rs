//! The examples of a page in `docs/`: commands, and what they print.

use std::fs;
use std::process::Command;

use crate::processes::stderr;

/// A command, and what it prints.
pub(crate) struct Example {
    pub(crate) command: String,
    pub(crate) expected: String,
}

/// A page of `docs/`.
pub(crate) fn page(name: &str) -> String {
    fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The blocks of a page between two fences, each with its language.
pub(crate) fn blocks(page: &str) -> impl Iterator<Item = (&str, &str)> {
    // Every other part is a block.
    let blocks = page.split("\n```").skip(1).step_by(2);
    blocks.map(|block| block.split_once('\n').expect("a block has lines"))
}

/// The examples in the blocks of this language. A line that begins with `$` is a command, and the
/// lines below it are what it prints.
pub(crate) fn examples(page: &str, language: &str) -> Vec<Example> {
    let blocks = blocks(page).filter(|(found, _)| *found == language);
    let mut examples: Vec<Example> = Vec::new();
    for line in blocks.flat_map(|(_, block)| block.lines()) {
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

impl Example {
    /// Runs `command`, which is that of the example with the test's own addresses in it.
    pub(crate) fn check(&self, command: &str, env: &[(String, String)]) {
        let ours = command.replace("curl ", "curl -sS --max-time 60 ");
        let output = Command::new("bash").args(["-c", &ours]).envs(env.iter().cloned()).output();
        let output = output.unwrap();
        let printed = String::from_utf8(output.stdout.clone()).unwrap().replace('\r', "");
        assert_eq!(printed, self.expected, "{}\n{}", self.command, stderr(&output));
    }
}

/// Whether this program is there.
pub(crate) fn has(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").output().is_ok();
    if !is_there {
        eprintln!("not tried: there is no {program}");
    }
    is_there
}
