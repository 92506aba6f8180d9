//! `server`: runs one member until it is told to stop, or has to.

use std::fmt::Display;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use syncraft::members::Members;
use syncraft::node::{ReadMode, Timing};
use syncraft::raft::MemberId;
use syncraft::server::{Config, Member, StartError};

use super::args::{Common, ReadModeArg, ServerArgs};
use super::room::fit_connections;
use super::{Exit, Failure, Outcome, print};

/// Between looks at whether to go on.
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// What glibc reads at a program's start: how many arenas its `malloc` may have.
const ARENAS_VAR: &str = "MALLOC_ARENA_MAX";
/// By default there are eight for each core. What connections' threads allocate stays in the log for a while, and each arena keeps
/// the most that it ever held: after some thousand connections a member took four times the memory, and was no faster.
const ARENAS: &str = "2";

pub(super) fn run(common: &Common, args: ServerArgs) -> Outcome {
    limit_arenas();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let stop = stop_on_signals().map_err(|error| cannot_start(&error))?;
    let mut config = config(common, args)?;
    fit_connections(&mut config.limits, config.members.len().saturating_sub(1));
    let id = config.id;
    let member = Member::start(config).map_err(|error| match error {
        StartError::NotAMember { .. }
        | StartError::NobodyToRebuildFrom { .. }
        | StartError::Timing(_) => Failure::usage(error.to_string()),
        error => cannot_start(&error),
    })?;
    print(&[format!("member {id} serves on {}\n", member.addr()).as_bytes()])?;
    while !stop.load(Ordering::Relaxed) {
        if let Some(failure) = member.failure() {
            return Err(Failure::not_applied(format!("member {id} stops: {}", chain(&failure))));
        }
        thread::sleep(POLL_PAUSE);
    }
    log::info!("member {id} stops as it was told");
    member.hand_over_and_stop();
    Ok(Exit::Done)
}

/// Becomes the same program, as the same process, with fewer arenas, unless somebody has said how many there should be.
fn limit_arenas() {
    if cfg!(target_env = "gnu")
        && std::env::var_os(ARENAS_VAR).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        let mut names = std::env::args_os();
        let mut command = Command::new(program);
        command.arg0(names.next().unwrap_or_default()).args(names).env(ARENAS_VAR, ARENAS);
        // It only returns if that failed: then with more memory.
        let _ = command.exec();
    }
}

fn config(common: &Common, args: ServerArgs) -> Result<Config, Failure> {
    let ServerArgs { id, data_dir, http, heartbeat, election_timeout, read_mode, rebuild } = args;
    let members: Members =
        common.members()?.parse().map_err(|error| Failure::usage(format!("--members: {error}")))?;
    let timing = Timing {
        heartbeat,
        election_min: election_timeout,
        election_max: election_timeout.saturating_mul(2),
        ..Timing::default()
    };
    let read_mode = match read_mode {
        ReadModeArg::ReadIndex => ReadMode::ReadIndex,
        ReadModeArg::Lease => ReadMode::Lease,
    };
    let defaults = Config::new(MemberId(id), members, data_dir);
    Ok(Config { timing, http, read_mode, rebuild, ..defaults })
}

/// Becomes true with SIGTERM or SIGINT; the second one ends the process at once.
fn stop_on_signals() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

fn cannot_start(error: &dyn Display) -> Failure {
    Failure::not_applied(format!("cannot start: {error}"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|error| error.to_string()).collect::<Vec<_>>().join(": ")
}
