//! Runs the examples of `docs/backup.md`, one after the other.

use std::path::Path;
use std::process::Command;

use syncraft::testing::Port;

use crate::doc_examples::{examples, page};
use crate::processes::{Processes, SYNCRAFT, syncraft};

/// What the page calls the member of the new cluster.
const THEIRS: &str = "localhost:7009";

#[test]
fn every_example_prints_what_the_page_says() {
    let cluster = Processes::start(3);
    let port = Port::free().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bin_dir = Path::new(SYNCRAFT).parent().unwrap().display();
    let path = format!("{bin_dir}:{}", std::env::var("PATH").unwrap());
    let env = [("SYNCRAFT_MEMBERS".to_owned(), cluster.members()), ("PATH".to_owned(), path)];
    let examples = examples(&page("backup.md"), "sh");
    assert!(examples.len() > 8, "{} examples", examples.len());
    let addr = port.addr().to_string();
    let _stopped = Stopped(&addr);
    for example in examples {
        let command = example.command.replace(THEIRS, &addr);
        example.check(&format!("cd {}\n{command}", dir.path().display()), &env);
    }
}

/// Stops the member that the page starts, however the test ends.
struct Stopped<'a>(&'a str);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let status = syncraft(&["status", "--json", "--members", self.0]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        if let Some(pid) = status["members"][0]["pid"].as_u64() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}
