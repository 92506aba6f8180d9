//! The arguments of `syncraft lease`, and their examples.

use std::time::Duration;

const GRANT_HELP: &str = "\
Examples:
  lease=$(syncraft lease grant 30s)
  syncraft put workers/7 busy --lease $lease
  syncraft lease keep-alive $lease &

The lease and its keys end when nobody has kept it alive for TTL. A lease never ends early, and a \
change of leader does not begin it anew.";

const KEEP_ALIVE_HELP: &str = "\
Examples:
  syncraft lease keep-alive 7 &
  syncraft lease keep-alive --once 7

Without --once it goes on until it is killed, also while no member answers: the time without a \
leader does not count for a lease. Exit status 1: there is no such lease (any more).";

/// What to do with leases.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum LeaseCommand {
    /// Grant a lease, and print its id; exit status 2 if the id is in use
    Grant(GrantArgs),
    /// Keep a lease alive until this command is killed; exit status 1 if there is no such lease
    KeepAlive(KeepAliveArgs),
    /// End a lease and delete its keys; exit status 1 if there is no such lease
    Revoke(LeaseArgs),
    /// Print a lease and its keys as one JSON object; exit status 1 if there is no such lease
    Info(LeaseArgs),
    /// Print the ids of all leases, one a line
    List(LeaseListArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = GRANT_HELP)]
pub(crate) struct GrantArgs {
    /// How long the lease lives without being kept alive, such as 30s; from 1ms to 285 years
    #[arg(allow_hyphen_values = true, value_parser = super::parse_duration)]
    pub(crate) ttl: Duration,
    /// The id of the lease; by default the store chooses one
    #[arg(long, allow_hyphen_values = true, value_parser = lease_id())]
    pub(crate) id: Option<u64>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = KEEP_ALIVE_HELP)]
pub(crate) struct KeepAliveArgs {
    /// The id of the lease
    #[arg(allow_hyphen_values = true, value_parser = lease_id())]
    pub(crate) id: u64,
    /// Keep it alive once, and return
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LeaseArgs {
    /// The id of the lease
    #[arg(allow_hyphen_values = true, value_parser = lease_id())]
    pub(crate) id: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LeaseListArgs {
    /// Print each lease as one JSON object, without its keys
    #[arg(long)]
    pub(crate) json: bool,
}

/// From 1 to 2^63 - 1.
pub(super) fn lease_id() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=i64::MAX as u64)
}
