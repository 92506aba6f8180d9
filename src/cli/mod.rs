//! The command line: what scripts depend on.
//!
//! | exit status | meaning |
//! |---:|---|
//! | 0 | done |
//! | 1 | the key is absent |
//! | 2 | wrong usage, a value over its limit among it |
//! | 3 | not applied: it did not happen, and trying again is safe; a server that cannot start, or failed |
//! | 4 | the outcome is unknown: it may have happened |
//!
//! Results go to standard output, everything else to standard error, an error as one line that begins with `syncraft: `.

mod admin;
mod args;
mod bench;
mod kv;
mod room;
mod server;
mod status;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use syncraft::clerk::{BuildError, Clerk, ClerkError, ClerkErrorKind, Endpoints};

use args::{Args, Command, Common};

/// How a command ends; the numbers are the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done = 0,
    Absent = 1,
    Usage = 2,
    NotApplied = 3,
    Unknown = 4,
}

/// How a command fails: its exit status, and a line for a person.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    line: String,
}

type Outcome = Result<Exit, Failure>;

/// Parses the command line and runs it. Clap itself ends the process for `--help` (0), `--version` (0) and wrong usage (2).
pub(crate) fn run() -> ExitCode {
    let Args { common, command } = Args::parse();
    let exit = dispatch(&common, command).unwrap_or_else(|failure| {
        // Where standard error is gone there is nobody to tell.
        let _ = writeln!(io::stderr(), "syncraft: {}", failure.line);
        failure.exit
    });
    ExitCode::from(exit as u8)
}

fn dispatch(common: &Common, command: Command) -> Outcome {
    match command {
        Command::Server(args) => server::run(common, args),
        Command::Put(args) => kv::put(common, args),
        Command::Append(args) => kv::append(common, args),
        Command::Get(args) => kv::get(common, args),
        Command::Status(args) => status::status(common, args),
        Command::Transfer(args) => admin::transfer(common, args),
        Command::Snapshot => admin::snapshot(common),
        Command::WaitReady => kv::wait_ready(common),
        Command::Bench(args) => bench::run(common, args),
    }
}

impl Common {
    /// The list as it was given.
    fn members(&self) -> Result<&str, Failure> {
        self.members.as_deref().ok_or_else(|| {
            Failure::usage(
                "no members: give --members 1=HOST:PORT,2=HOST:PORT,... or set SYNCRAFT_MEMBERS",
            )
        })
    }

    /// The list as clients read it: ids are optional.
    fn endpoints(&self) -> Result<Endpoints, Failure> {
        self.members()?.parse().map_err(|error| Failure::usage(format!("--members: {error}")))
    }

    fn clerk(&self) -> Result<Clerk, Failure> {
        let clerk = Clerk::builder().members(self.endpoints()?).timeout(self.timeout).build();
        clerk.map_err(|error| match error {
            BuildError::Entropy(source) => Failure::not_applied(format!("{error}: {source}")),
            error => Failure::usage(error.to_string()),
        })
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl Failure {
    fn usage(line: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, line: line.into() }
    }

    fn not_applied(line: impl Into<String>) -> Failure {
        Failure { exit: Exit::NotApplied, line: line.into() }
    }
}

impl From<ClerkError> for Failure {
    fn from(error: ClerkError) -> Failure {
        let exit = match error.kind() {
            ClerkErrorKind::NotApplied => Exit::NotApplied,
            ClerkErrorKind::Unknown => Exit::Unknown,
            ClerkErrorKind::Rejected => Exit::Usage,
        };
        Failure { exit, line: error.to_string() }
    }
}

/// Writes results. A reader that has gone away (`| head`) wants no more of them: no error.
fn print(bytes: &[&[u8]]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = bytes.iter().try_for_each(|part| out.write_all(part)).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::not_applied(format!("cannot write the result: {error}")))
        }
        _ => Ok(()),
    }
}
