//! Runs the examples of `docs/etcd.md`, one after the other, against a member of its own.

use syncraft::testing::Port;

use crate::doc_examples::{blocks, examples, has, page};
use crate::processes::Processes;

/// What the page calls the member's port for etcd's clients.
const THEIRS: &str = "localhost:2379";

#[test]
fn every_example_prints_what_the_page_says() {
    if !has("curl") || !has("jq") {
        return;
    }
    let etcd = Port::free().unwrap();
    let addr = etcd.addr().to_string();
    let _member = Processes::start_with(1, &["--etcd", &addr]);
    let page = page("etcd.md");
    assert!(blocks(&page).all(|(language, _)| ["sh", ""].contains(&language)), "unknown blocks");
    let examples = examples(&page, "sh");
    assert!(examples.len() > 15, "{} examples", examples.len());
    for example in examples {
        assert!(example.command.contains(THEIRS), "it asks another port: {}", example.command);
        example.check(&example.command.replace(THEIRS, &addr), &[]);
    }
}
