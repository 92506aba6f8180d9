//! Tests in processes of their own: those that count the threads or descriptors of the process,
//! change its limits, or install its logger. The test program starts itself again with that one
//! test.

use std::any::type_name;
use std::process::Command;

/// Set in the process that runs one test alone.
const IS_ALONE: &str = "SYNCRAFT_TEST_IS_ALONE";

/// Whether this process runs one test alone.
pub(crate) fn is_alone() -> bool {
    std::env::var_os(IS_ALONE).is_some()
}

/// Runs the body of a test in a process of its own.
pub(crate) fn alone<F: FnOnce()>(body: F) {
    alone_in(|| Command::new(std::env::current_exe().unwrap()), body);
}

/// Like [`alone`]; `program` makes the command that starts this test program.
pub(crate) fn alone_in<F: FnOnce()>(program: impl FnOnce() -> Command, body: F) {
    if is_alone() {
        return body();
    }
    // "program::module::test::{{closure}}", which the harness knows as "module::test". If a later
    // compiler names closures otherwise, no test is run, which fails below.
    let test = type_name::<F>().trim_end_matches("::{{closure}}");
    let test = test.split_once("::").map_or(test, |(_, test)| test);
    let mut command = program();
    let output =
        command.args(["--exact", test, "--nocapture"]).env(IS_ALONE, "1").output().unwrap();
    let words = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (words(&output.stdout), words(&output.stderr));
    // The harness shows it if the test fails, or with `--nocapture`.
    print!("{stdout}");
    eprint!("{stderr}");
    assert!(output.status.success() && stdout.contains("1 passed"), "{test}: {}", output.status);
}
