//! Runs the examples of `docs/dev.md`, and the tests in `examples/dev/`, which it shows.

use std::fs;
use std::path::Path;

use crate::dev_process::{Dev, dev, end};
use crate::doc_examples::{blocks, examples, has, page};
use crate::processes::SYNCRAFT;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_example_prints_what_the_page_says() {
    if !has("curl") {
        return;
    }
    let examples = examples(&page("dev.md"), "sh");
    assert!(examples.len() > 15, "{} examples", examples.len());
    let dev = Dev::start(&[]);
    let mut env = dev.env();
    let bin_dir = Path::new(SYNCRAFT).parent().unwrap().display();
    env.push(("PATH".to_owned(), format!("{bin_dir}:{}", std::env::var("PATH").unwrap())));
    for example in examples {
        example.check(&example.command, &env);
    }
}

/// Runs one of the tests as its users would.
fn run(name: &str) {
    let path = root().join("examples/dev").join(name);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.lines().count() <= 40, "{name} is short");
    let page = page("dev.md");
    let is_shown = blocks(&page).any(|(_, block)| block.trim() == text.trim());
    assert!(is_shown, "docs/dev.md shows another {name}");

    let dir = tempfile::tempdir().unwrap();
    let (status, out, said) =
        end(dev(&["--", path.to_str().unwrap()], dir.path()).spawn().unwrap());
    assert_eq!(status, Some(0), "{out}{said}");
    assert!(out.contains("\"fault\":\"kill\""), "the leader was killed: {out}");
    assert!(out.ends_with("40 writes were acknowledged, and none is lost\n"), "{out}");
}

#[test]
fn a_test_in_shell() {
    if has("curl") {
        run("leader_dies.sh");
    }
}

#[test]
fn a_test_in_python() {
    if has("python3") {
        run("leader_dies.py");
    }
}

#[test]
fn a_test_in_javascript() {
    if has("node") {
        run("leader_dies.mjs");
    }
}
