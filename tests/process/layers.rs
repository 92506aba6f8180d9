//! Who may know whom: what ARCHITECTURE.md says of the folders of `src/`.

use std::fs;
use std::path::{Path, PathBuf};

/// What the code of each folder may name of the others, beside what all may: errors in words, the
/// clock, the list of members.
const MAY_NAME: [(&str, &[&str]); 9] = [
    ("storage", &["raft"]),
    ("node", &["raft", "rpc", "storage"]),
    ("kv", &["node", "raft", "rpc"]),
    ("front", &["kv", "node", "raft", "rpc"]),
    ("server", &["front", "kv", "node", "raft", "rpc", "storage"]),
    ("clerk", &["kv", "rpc"]),
    ("registry", &["clerk", "kv", "rpc"]),
    ("backup", &["kv", "node", "raft", "rpc", "server", "storage"]),
    ("testing", &["clerk", "front", "kv", "node", "raft", "rpc", "server"]),
];

/// What all may name.
const FOR_ALL: [&str; 5] = ["ErrorChain", "clock", "duration", "error_words", "members"];

/// The files below a folder, without those of unit tests.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let is_test = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().ends_with("tests");
    let files = files.into_iter().filter(|path| !is_test(path));
    files.chain(dirs.iter().flat_map(|dir| sources(dir))).collect()
}

/// The lines of a folder's code, without comments, unit tests, and what only a build for tests has.
fn lines(folder: &str) -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut lines = Vec::new();
    for path in sources(&src.join(folder)) {
        let text = fs::read_to_string(path).unwrap();
        let mut is_for_tests = false;
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        for line in code.lines() {
            if line.trim_start().starts_with("#[cfg(feature = \"testing\")]") {
                is_for_tests = true;
            } else if !std::mem::take(&mut is_for_tests) {
                lines.push(line.split("//").next().unwrap().to_owned());
            }
        }
    }
    assert!(lines.len() > 100, "{folder} has code");
    lines
}

/// What follows `crate::` in a line.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|it: char| !it.is_alphanumeric() && it != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn folders_name_those_below_them_and_no_others() {
    for (folder, may_name) in MAY_NAME {
        for line in lines(folder) {
            for name in named(&line) {
                let is_well = name == folder || may_name.contains(&name) || FOR_ALL.contains(&name);
                // Names between braces would escape this test, so there are none.
                assert!(is_well, "src/{folder} names {name}: {line}");
            }
        }
    }
}

/// Whatever others speak to a member goes through one [`Api`](syncraft::kv::api::Api).
#[test]
fn fronts_reach_the_store_through_its_api_alone() {
    for line in lines("front") {
        for name in ["NodeHandle", "StateMachine", "kv::Store", "kv::StoreView", "storage::"] {
            assert!(!line.contains(name), "a front names {name}: {line}");
        }
        // Of the node, they know its errors.
        let of_node = line.split("crate::node::").nth(1);
        assert!(of_node.is_none_or(|name| name.starts_with("RequestError")), "{line}");
    }
}
