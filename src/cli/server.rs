//! `server`: runs one member until it is told to stop, or fails.

use std::error::Error;
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use syncraft::ErrorChain;
use syncraft::members::Members;
use syncraft::node::{NodeFailure, ReadMode, Timing};
use syncraft::raft::MemberId;
use syncraft::server::{Config, Member, StartError};

use super::args::{Common, ReadModeArg, ServerArgs};
use super::output::print;
use super::room::fit_connections;
use super::{Exit, Failure, Outcome};

/// How often it is checked whether the member has stopped by itself. Each check wakes a thread.
const POLL_PAUSE: Duration = Duration::from_millis(500);

/// The variable for `--members`.
const MEMBERS_VAR: &str = "SYNCRAFT_MEMBERS";

pub(super) fn run(common: &Common, args: ServerArgs) -> Outcome {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let signals = Signals::new().map_err(|error| cannot_start(&error))?;
    let mut config = config(common, args)?;
    let peers = config.members.len().saturating_sub(1);
    let http_limits = config.http.is_some().then_some(&mut config.http_limits);
    let etcd_limits = config.etcd.is_some().then_some(&mut config.etcd_limits);
    let fronts = http_limits.into_iter().chain(etcd_limits).collect();
    fit_connections(&mut config.limits, fronts, peers);
    let id = config.id;
    let mut member = start(&config)?;
    // A member serves even if this line cannot be written.
    if let Err(Failure { line, .. }) =
        print(&[format!("member {id} serves on {}\n", member.addr()).as_bytes()])
    {
        log::warn!("{line}");
    }
    while !signals.stop.load(Ordering::Relaxed) {
        match member.failure() {
            Some(NodeFailure::ClusterTaken(cluster_id)) => {
                log::info!("member {id} starts again, as one of cluster {cluster_id:016x}");
                member.stop();
                member = start(&config)?;
            }
            Some(NodeFailure::Removed) => return Err(removed(id)),
            Some(failure) => {
                let words = format!("member {id} stops: {}", ErrorChain(&failure));
                return Err(Failure::not_applied(words));
            }
            None => signals.wait(),
        }
        if signals.ignored.swap(false, Ordering::Relaxed) {
            log::info!("member {id} ignores SIGHUP, SIGUSR1 and SIGUSR2");
        }
    }
    log::info!("member {id} stops: it was told to");
    member.hand_over_and_stop();
    Ok(Exit::Done)
}

fn removed(id: MemberId) -> Failure {
    Failure::not_applied(format!(
        "member {id} stops: it was removed from the cluster, and its id is not used again. To use \
         this machine for a new member, start it with --join, another id and an empty data directory"
    ))
}

fn start(config: &Config) -> Result<Member, Failure> {
    Member::start(config.clone()).map_err(|error| match &error {
        StartError::NotAMember { .. } => {
            let advice = "to add it to a cluster that exists, give --join in place of --members";
            Failure::usage(format!("{}; {advice}", ErrorChain(&error)))
        }
        StartError::BadListen(_)
        | StartError::BadUrl { .. }
        | StartError::NobodyToRebuildFrom { .. }
        | StartError::Timing(_) => Failure::usage(ErrorChain(&error).to_string()),
        StartError::NothingToAdvertise { .. } => {
            Failure::usage(format!("{}; give --advertise-etcd", ErrorChain(&error)))
        }
        StartError::NoOwnAddr { .. } => {
            Failure::usage(format!("{}; give --advertise", ErrorChain(&error)))
        }
        StartError::Listen { source, .. }
            if config.listen.is_none() && source.kind() == ErrorKind::AddrNotAvailable =>
        {
            let advice = "to listen on another address than the one in the list, give --listen";
            Failure::not_applied(format!("cannot start: {}; {advice}", ErrorChain(&error)))
        }
        _ => cannot_start(&error),
    })
}

fn config(common: &Common, args: ServerArgs) -> Result<Config, Failure> {
    let ServerArgs { id, listen, data_dir, http, etcd, advertise_etcd, rebuild, .. } = args;
    let ServerArgs { heartbeat, election_timeout, read_mode, join, advertise, .. } = args;
    let (joins, members) = (join.is_some(), members(common, join)?);
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
    if joins && listen.is_none() && advertise.is_none() && !members.contains(MemberId(id)) {
        return Err(Failure::usage("a member with --join needs --listen HOST:PORT"));
    }
    let defaults = Config::new(MemberId(id), members, data_dir);
    let at = Config { joins, listen, advertise, ..defaults };
    Ok(Config { timing, http, etcd, advertise_etcd, read_mode, rebuild, ..at })
}

/// The members with which the cluster begins, or of the cluster to join. A variable that clients on
/// this machine use does not stand against `--join`.
fn members(common: &Common, join: Option<String>) -> Result<Members, Failure> {
    let Some(join) = join else { return common.member_list() };
    if common.members.is_some() && common.members != std::env::var(MEMBERS_VAR).ok() {
        let words = "--join and --members exclude each other: a member joins a cluster that \
                     exists, or begins one";
        return Err(Failure::usage(words));
    }
    join.parse().map_err(|error| Failure::usage(format!("--join: {error}")))
}

/// What signals have said, and a wait that they end.
struct Signals {
    /// Set by SIGTERM and SIGINT. A second one ends the process at once.
    stop: Arc<AtomicBool>,
    /// Set by signals which are not sent to end a server: from a closed terminal, logrotate,
    /// `systemctl reload`. Unhandled, each would end the process without handing over.
    ignored: Arc<AtomicBool>,
    /// Each signal writes a byte, which ends a wait.
    wakes: UnixStream,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        let (wakes, from_signals) = UnixStream::pair()?;
        wakes.set_read_timeout(Some(POLL_PAUSE))?;
        let (stop, ignored) = (Arc::default(), Arc::default());
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register_conditional_shutdown(
                signal,
                128 + signal,
                Arc::clone(&stop),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        for signal in [SIGHUP, SIGUSR1, SIGUSR2] {
            signal_hook::flag::register(signal, Arc::clone(&ignored))?;
        }
        // After the flags: who is woken finds them set.
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2] {
            signal_hook::low_level::pipe::register(signal, from_signals.try_clone()?)?;
        }
        Ok(Signals { stop, ignored, wakes })
    }

    /// Waits for [`POLL_PAUSE`], or until there is a signal.
    fn wait(&self) {
        // However it ends: the flags say whether there was a signal.
        let _ = (&self.wakes).read(&mut [0; 16]);
    }
}

fn cannot_start(error: &dyn Error) -> Failure {
    Failure::not_applied(format!("cannot start: {}", ErrorChain(error)))
}
