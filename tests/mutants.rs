//! The bugs of `tests/mutants`, which `scripts/mutants.sh` puts into the code one at a time: each patch still fits the code that
//! it breaks, and the table in `tests/BUGS.md` has it. Whether each bug is still caught is for the script, as that takes a build
//! each.

use std::fs;
use std::path::Path;

/// A patch, as far as this test looks at it.
struct Mutant {
    name: String,
    /// The free text before the first file.
    head: Vec<String>,
    hunks: Vec<Hunk>,
}

struct Hunk {
    file: String,
    /// What has to be in the file: the lines around the change, and those that it replaces.
    old: String,
    is_change: bool,
}

impl Mutant {
    fn parse(name: String, text: &str) -> Mutant {
        let (mut head, mut hunks, mut file) = (Vec::new(), Vec::<Hunk>::new(), None);
        for line in text.lines() {
            if let Some(path) = line.strip_prefix("+++ b/") {
                file = Some(path.to_owned());
            } else if line.starts_with("diff ") || line.starts_with("--- ") {
                file.get_or_insert_default();
            } else if let (Some(file), true) = (&file, line.starts_with("@@")) {
                hunks.push(Hunk { file: file.clone(), old: String::new(), is_change: false });
            } else if let Some(hunk) = hunks.last_mut() {
                hunk.take(line);
            } else if file.is_none() {
                head.push(line.to_owned());
            }
        }
        Mutant { name, head, hunks }
    }

    fn has_line_of(&self, field: &str) -> bool {
        self.head.iter().any(|line| line.starts_with(field))
    }
}

impl Hunk {
    fn take(&mut self, line: &str) {
        self.is_change |= line.starts_with(['+', '-']);
        if !line.starts_with('+') {
            self.old.push_str(line.get(1..).unwrap_or_default());
            self.old.push('\n');
        }
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

#[test]
fn each_patch_still_fits() {
    let mutants = mutants();
    assert!(mutants.len() >= 20, "only {} bugs", mutants.len());
    for Mutant { name, hunks, .. } in &mutants {
        assert!(!hunks.is_empty(), "{name} changes nothing");
        for Hunk { file, old, is_change } in hunks {
            let text = fs::read_to_string(root().join(file)).unwrap_or_default();
            assert!(file.starts_with("src/"), "{name} changes {file}");
            assert!(
                *is_change && text.contains(old),
                "{name} does not fit {file}; it wants\n{old}"
            );
        }
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
