//! `lock`, `elect`: run a COMMAND while a lock is held.

use std::cell::Cell;
use std::process;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rustix::system::uname;
use syncraft::ErrorChain;
use syncraft::clerk::{Guard, LockBuilder};

use super::args::{Common, ElectArgs, HoldArgs, LockArgs};
use super::child::{self, Runner};
use super::kv::bytes;
use super::output::eprint_line;
use super::{Exit, Failure, Outcome};

pub(super) fn lock(common: &Common, args: &LockArgs) -> Outcome {
    let clerk = common.clerk()?;
    hold(common, &args.hold, clerk.lock(bytes(&args.hold.name)))
}

pub(super) fn elect(common: &Common, args: &ElectArgs) -> Outcome {
    let clerk = common.clerk()?;
    let value = match &args.value {
        Some(value) => bytes(value).to_vec(),
        None => format!("{}:{}", uname().nodename().to_string_lossy(), process::id()).into_bytes(),
    };
    hold(common, &args.hold, clerk.elect(bytes(&args.hold.name), value))
}

fn hold(common: &Common, args: &HoldArgs, lock: LockBuilder<'_>) -> Outcome {
    let mut command = child::command(common.members()?, &args.command);
    let runner = Runner::new()?;
    // From here on, there is a place in the queue to give up.
    runner.holding();
    let signal = Cell::new(None);
    let is_told_to_end = || {
        signal.set(signal.get().or_else(|| runner.signal()));
        signal.get().is_some()
    };
    let lock = lock.ttl(args.ttl).wait(args.wait.unwrap_or(Duration::MAX));
    let guard = lock.give_up_if(is_told_to_end).acquire();
    if let Some(signal) = signal.get().or_else(|| runner.signal()) {
        guard.into_iter().for_each(release);
        return Ok(Exit::Command(child::code_of_signal(signal)));
    }
    // COMMAND has not run. What may be left in the queue ends with its lease.
    let guard = guard.map_err(|error| match Failure::from(error) {
        Failure { exit: Exit::Unknown, line } => Failure { exit: Exit::NotApplied, line },
        failure => failure,
    })?;
    command.env("SYNCRAFT_FENCE", guard.fence().0.to_string());
    command.env("SYNCRAFT_FENCE_KEY", child::os(guard.key()));
    let ran = checking(&guard, args.ttl / 3, || {
        let ended = runner.run(command, None, || guard.is_held());
        // A COMMAND that ends by itself, just after the lock was lost or while this process is
        // stopped, was not told to end.
        (ended, guard.is_held())
    });
    release(guard);
    let (ended, is_held) = ran?;
    let status = ended?.status;
    if is_held {
        return Ok(Exit::Command(status));
    }
    let line = format!("the lock was lost before COMMAND was seen to end (status {status})");
    Err(Failure { exit: Exit::Unknown, line })
}

/// Does `work` while a thread asks the cluster now and then whether the lock is held.
fn checking<T>(guard: &Guard, interval: Duration, work: impl FnOnce() -> T) -> Result<T, Failure> {
    let (is_done, until_done) = channel::<()>();
    let check = move || {
        while until_done.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            // If no member answers, the lease tells in time.
            let _ = guard.check();
        }
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("lock-check".to_owned());
        let started = thread.spawn_scoped(scope, check);
        started.map_err(|error| Failure::not_applied(format!("cannot start a thread: {error}")))?;
        let result = work();
        drop(is_done);
        Ok(result)
    })
}

/// The exit status is decided already, and what becomes of this does not change it.
fn release(guard: Guard) {
    if let Err(error) = guard.unlock() {
        let why = ErrorChain(&error);
        eprint_line(&format_args!("syncraft: the lock is free only after its --ttl: {why}"));
    }
}
