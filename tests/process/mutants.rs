//! The bugs of `tests/mutants`, which `scripts/mutants.sh` puts into the code one at a time. The
//! script can apply each patch, each patch changes only the program, and the table in
//! `tests/BUGS.md` has it. Whether each bug is still caught takes a build each: that is the
//! script's task, and `scripts/test.sh` runs it on two of them.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The parts of a patch that these tests check.
struct Mutant {
    name: String,
    /// The text before the first file.
    head: Vec<String>,
    /// The files that it changes.
    files: Vec<String>,
}

impl Mutant {
    fn parse(name: String, text: &str) -> Mutant {
        let head = text.lines().take_while(|line| !line.starts_with("diff "));
        let files = text.lines().filter_map(|line| line.strip_prefix("+++ b/"));
        Mutant {
            name,
            head: head.map(str::to_owned).collect(),
            files: files.map(str::to_owned).collect(),
        }
    }

    fn has_line_of(&self, field: &str) -> bool {
        self.head.iter().any(|line| line.starts_with(field))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn mutants() -> Vec<Mutant> {
    let dir = fs::read_dir(root().join("tests/mutants")).unwrap();
    dir.map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        Mutant::parse(name, &fs::read_to_string(path).unwrap())
    })
    .collect()
}

/// The script itself checks this: git may refuse a patch that looks complete.
#[test]
fn the_script_can_apply_each_patch() {
    let script = root().join("scripts/mutants.sh");
    let output = Command::new("bash").arg(script).arg("--fits").output().expect("bash starts");
    let words = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{}", words.concat());
}

#[test]
fn each_patch_changes_the_program_and_nothing_else() {
    let mutants = mutants();
    assert!(mutants.len() >= 20, "only {} bugs", mutants.len());
    for Mutant { name, files, .. } in &mutants {
        assert!(!files.is_empty(), "{name} changes nothing");
        let is_of_the_program = |file: &String| {
            let in_crate = file.strip_prefix("crates/").and_then(|path| path.split_once('/'));
            in_crate.map_or(file.as_str(), |(_, path)| path).starts_with("src/")
        };
        assert!(files.iter().all(is_of_the_program), "{name} changes {files:?}");
    }
}

#[test]
fn each_patch_says_what_it_breaks_and_what_notices_it() {
    let table = fs::read_to_string(root().join("tests/BUGS.md")).unwrap();
    for mutant in mutants() {
        let (name, head) = (&mutant.name, &mutant.head);
        let is_told = head.first().is_some_and(|line| line.ends_with('.'));
        assert!(is_told, "{name} does not say what is broken: {head:?}");
        let ways = ["seed: ", "test: "].map(|field| mutant.has_line_of(field));
        assert!(ways[0] != ways[1], "{name} needs a seed or a test: {head:?}");
        let row = format!("| `{name}` | {} |", head[0].trim_end_matches('.'));
        assert!(table.contains(&row), "tests/BUGS.md has no row that begins with: {row}");
    }
}
