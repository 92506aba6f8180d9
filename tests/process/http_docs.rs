//! Runs the examples of `docs/http.md`, one after the other, against a member of its own.

use syncraft::testing::Port;

use crate::doc_examples::{blocks, examples, has, page};
use crate::processes::Processes;

/// What the page calls the member's HTTP port.
const THEIRS: &str = "localhost:8001";

#[test]
fn every_example_prints_what_the_page_says() {
    if !has("curl") {
        return;
    }
    let http = Port::free().unwrap();
    let addr = http.addr().to_string();
    let _member = Processes::start_with(1, &["--http", &addr]);
    let page = page("http.md");
    assert!(blocks(&page).all(|(language, _)| ["sh", "js"].contains(&language)), "unknown blocks");
    let examples = examples(&page, "sh");
    assert!(examples.len() > 20, "{} examples", examples.len());
    for example in examples {
        assert!(example.command.contains(THEIRS), "it asks another port: {}", example.command);
        example.check(&example.command.replace(THEIRS, &addr), &[]);
    }
}
