//! The command line. Scripts depend on its exit statuses:
//!
//! | exit status | meaning |
//! |---:|---|
//! | 0 | done |
//! | 1 | `get`, `delete`: the key is absent; `lease`: there is no such lease |
//! | 2 | wrong usage, including a value over its limit and whatever the store refuses as it is |
//! | 3 | not done and never will be, so trying again is safe; a server cannot start, failed, or was removed from its cluster |
//! | 4 | unknown: a write or a change of the members may or may not have happened; or it has, and its result is lost; or a lock was lost while COMMAND ran |
//! | 5 | `cas`, `put --if-absent`, `txn`: a comparison did not hold |
//! | 126, 127 | a COMMAND cannot be started; there is no such program |
//!
//! `server` and `dev` end with 0 if a signal tells them to end. Commands that run a COMMAND end
//! with its status, or with 128 and the number of the signal that ended it. If its result cannot be
//! written to standard output, a command that has changed something ends with 4, and any other one
//! with 3.
//!
//! Results go to standard output, everything else to standard error. An error is one line that
//! begins with `syncraft: `. The module `output` says what happens when one of the two cannot be
//! written.

mod admin;
mod args;
mod asking;
mod backup;
mod bench;
mod bulk;
mod child;
mod dev;
mod entries;
mod import;
mod kv;
mod lease;
mod lock;
mod member;
mod output;
mod restore;
mod room;
mod server;
mod status;
mod watch;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Parser;
use signal_hook::consts::SIGXFSZ;
use syncraft::ErrorChain;
use syncraft::backup::BackupError;
use syncraft::clerk::{
    BuildError, Clerk, ClerkError, ClerkErrorKind, Endpoints, LockError, WatchError,
};
use syncraft::members::Members;
use syncraft::rpc::CallError;
use syncraft::storage::StorageError;

use args::{Args, Command, Common};

/// How a command ends. Scripts depend on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done,
    Absent,
    Usage,
    NotApplied,
    Unknown,
    Differs,
    /// That of a COMMAND.
    Command(u8),
}

impl Exit {
    fn status(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Absent => 1,
            Exit::Usage => 2,
            Exit::NotApplied => 3,
            Exit::Unknown => 4,
            Exit::Differs => 5,
            Exit::Command(status) => status,
        }
    }
}

/// How a command fails: its exit status, and a line for people.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    line: String,
}

type Outcome = Result<Exit, Failure>;

/// Parses the command line and runs it.
pub(crate) fn run() -> ExitCode {
    outlive_file_size_limit();
    let outcome = match Args::try_parse() {
        Ok(Args { common, command }) => dispatch(&common, command),
        Err(usage) => {
            let exit = if usage.use_stderr() { Exit::Usage } else { Exit::Done };
            output::print_usage(&usage).map(|()| exit)
        }
    };
    let exit = outcome.unwrap_or_else(|failure| {
        output::eprint_line(&format_args!("syncraft: {}", failure.line));
        failure.exit
    });
    ExitCode::from(exit.status())
}

/// Makes a write over the limit on file size (`ulimit -f`) fail like a write to a full disk.
/// Without a handler, SIGXFSZ would end the process.
fn outlive_file_size_limit() {
    // If the handler cannot be installed, reaching the limit ends the process; all else works.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

fn dispatch(common: &Common, command: Command) -> Outcome {
    match command {
        Command::Dev(args) => dev::run(common, args),
        Command::Server(args) => server::run(common, args),
        Command::Put(args) => kv::put(common, args),
        Command::Append(args) => kv::append(common, args),
        Command::Get(args) => kv::get(common, args),
        Command::Incr(args) => entries::incr(common, args),
        Command::Delete(args) => entries::delete(common, args),
        Command::Cas(args) => entries::cas(common, args),
        Command::Txn(args) => entries::txn(common, args),
        Command::Compact(args) => entries::compact(common, args),
        Command::Limits(args) => entries::limits(common, args),
        Command::List(args) => bulk::list(common, args),
        Command::Export(args) => bulk::export(common, args),
        Command::Import(args) => import::import(common, &args),
        Command::Watch(args) => watch::watch(common, &args),
        Command::Lock(args) => lock::lock(common, &args),
        Command::Elect(args) => lock::elect(common, &args),
        Command::Wait(args) => watch::wait(common, &args),
        Command::Lease { command } => lease::run(common, command),
        Command::Status(args) => status::status(common, args),
        Command::Member { command } => member::run(common, command),
        Command::Transfer(args) => admin::transfer(common, args),
        Command::Snapshot => admin::snapshot(common),
        Command::Backup(args) => backup::backup(common, args),
        Command::Restore(args) => restore::restore(common, &args),
        Command::Recover(args) => restore::recover(common, &args),
        Command::WaitReady => kv::wait_ready(common),
        Command::Bench(args) => bench::run(common, args),
    }
}

impl Common {
    /// The list of members as given.
    fn members(&self) -> Result<&str, Failure> {
        self.members.as_deref().ok_or_else(|| {
            Failure::usage(
                "no members: give --members 1=HOST:PORT,2=HOST:PORT,... or set SYNCRAFT_MEMBERS",
            )
        })
    }

    /// The list of members as clients read it: ids are optional.
    fn endpoints(&self) -> Result<Endpoints, Failure> {
        self.members()?.parse().map_err(|error| bad_list(&error))
    }

    /// The list of members as members read it.
    fn member_list(&self) -> Result<Members, Failure> {
        self.members()?.parse().map_err(|error| bad_list(&error))
    }

    fn clerk(&self) -> Result<Clerk, Failure> {
        let clerk = Clerk::builder().members(self.endpoints()?).timeout(self.timeout).build();
        clerk.map_err(|error| match error {
            BuildError::Entropy(_) => Failure::not_applied(ErrorChain(&error).to_string()),
            error => Failure::usage(ErrorChain(&error).to_string()),
        })
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// The list may have come from the variable.
fn bad_list(error: &dyn Error) -> Failure {
    Failure::usage(format!("--members (or SYNCRAFT_MEMBERS): {error}"))
}

impl Failure {
    fn usage(line: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, line: line.into() }
    }

    fn differs(line: impl Into<String>) -> Failure {
        Failure { exit: Exit::Differs, line: line.into() }
    }

    fn not_applied(line: impl Into<String>) -> Failure {
        Failure { exit: Exit::NotApplied, line: line.into() }
    }
}

impl From<ClerkError> for Failure {
    fn from(error: ClerkError) -> Failure {
        let exit = match error.kind() {
            ClerkErrorKind::NotApplied => Exit::NotApplied,
            ClerkErrorKind::Unknown | ClerkErrorKind::Applied => Exit::Unknown,
            ClerkErrorKind::Rejected => Exit::Usage,
        };
        Failure { exit, line: ErrorChain(&error).to_string() }
    }
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Failure {
        match error {
            WatchError::NotServed(error) => error.into(),
            error => Failure::usage(ErrorChain(&error).to_string()),
        }
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Failure {
        match error {
            LockError::Clerk(error) => error.into(),
            LockError::Watch(error) => error.into(),
            error => Failure::not_applied(ErrorChain(&error).to_string()),
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Failure {
        let line = ErrorChain(&error).to_string();
        match error {
            BackupError::Exists { .. }
            | BackupError::NotAMember { .. }
            | BackupError::Storage(StorageError::NotEmpty { .. } | StorageError::NoData { .. }) => {
                Failure::usage(line)
            }
            _ => Failure::not_applied(line),
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        Failure::not_applied(ErrorChain(&error).to_string())
    }
}
