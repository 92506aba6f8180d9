//! The command-line arguments and their help texts.

mod backup;
mod bench;
mod dev;
mod lease;
mod lock;
mod member;
mod store;
mod watch;

use std::time::Duration;

use clap::{Parser, Subcommand};
use syncraft::duration::parse as parse_duration;

pub(crate) use backup::{BackupArgs, BackupCommand, RecoverArgs, RestoreArgs, VerifyArgs};
pub(crate) use bench::{BenchArgs, BenchOperation, WatchLoadArgs};
pub(crate) use dev::DevArgs;
pub(crate) use lease::{KeepAliveArgs, LeaseCommand};
pub(crate) use lock::{ElectArgs, HoldArgs, LockArgs};
pub(crate) use member::{AddArgs, MemberCommand};
pub(crate) use store::{
    CasArgs, CompactArgs, DeleteArgs, ExportArgs, GetArgs, ImportArgs, IncrArgs, LimitsArgs,
    ListArgs, PutArgs, TxnArgs, WriteArgs,
};
pub(crate) use watch::{WaitArgs, WatchArgs};

const EXIT_STATUS_HELP: &str = "\
Exit status:
  0  done
  1  get, delete: the key is absent; lease: there is no such lease
  2  wrong usage, or a request that the store refuses as it is
  3  not done, and never will be: trying again is safe. Also a server that
     cannot start, stops by itself or was removed from its cluster, a result
     that cannot be written, and a wait that was in vain
  4  a write, or a change of the members, may or may not have happened, or
     has and its result is lost; or a lock was lost while COMMAND ran
  5  a comparison did not hold: cas, put --if-absent, txn
Commands that run a COMMAND end with its status; with 127 if there is no such
program, with 126 if it cannot be started, and with 128 + N if signal N ends it.";

const SERVER_HELP: &str = "\
Examples:
  syncraft server --id 1 --members 1=HOST:7001,2=HOST:7002,3=HOST:7003 --data-dir data/1
  syncraft server --id 4 --join 1=HOST:7001 --listen HOST:7004 --data-dir data/4

It runs until SIGTERM or SIGINT. A leader hands over before it stops.";

const APPEND_HELP: &str = "\
Examples:
  syncraft append log 'one more line'
  date | syncraft append log -

An absent key counts as an empty value.";

const LEASE_HELP: &str = "\
Examples:
  lease=$(syncraft lease grant 30s)
  syncraft lease keep-alive $lease &
  syncraft lease info $lease | jq .keys
  syncraft lease revoke $lease";

const COMPACT_HELP: &str = "\
Example:
  syncraft compact \"$(syncraft limits --json | jq .revision)\"

Reads from before REVISION are refused from then on, and so are watches from REVISION or before. \
Compaction is rarely needed: the history has a bound (see syncraft limits).";

const STATUS_HELP: &str = "\
Examples:
  syncraft status
  syncraft status --json | jq '.members[] | select(.role == \"leader\").id'";

const MEMBER_HELP: &str = "\
Examples:
  syncraft member list
  syncraft member add 4=HOST:7004
  syncraft member move 4 HOST:7014
  syncraft member remove 4";

const TRANSFER_HELP: &str = "\
Example:
  syncraft transfer 2";

const SNAPSHOT_HELP: &str = "\
Example:
  syncraft snapshot

Members write snapshots by themselves. This makes the next start faster, and frees space now.";

const WAIT_READY_HELP: &str = "\
Example:
  syncraft wait-ready --timeout 30s && ./serve";

/// A replicated, linearizable, durable key-value store.
#[derive(Debug, Parser)]
#[command(
    name = "syncraft",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = EXIT_STATUS_HELP
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every subcommand takes, before or after its name.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Common {
    /// The members: 1=HOST:PORT,2=HOST:PORT,... Clients need only some of them, and no ids. A
    /// server begins its cluster with them; later, the list is only where to look for the others
    #[arg(long, global = true, env = "SYNCRAFT_MEMBERS", value_name = "LIST")]
    pub(crate) members: Option<String>,
    /// The longest time that the command may take: 500ms, 2s, 1m30s
    #[arg(long, global = true, default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster in this process, for tests and trials
    Dev(DevArgs),
    /// Run one member of a cluster
    #[command(after_help = SERVER_HELP)]
    Server(ServerArgs),
    /// Set KEY to VALUE
    Put(PutArgs),
    /// Print the value of KEY; exit status 1 if there is none
    Get(GetArgs),
    /// Append VALUE to the value of KEY
    #[command(after_help = APPEND_HELP)]
    Append(WriteArgs),
    /// Add BY to the number that KEY holds, and print the new one
    Incr(IncrArgs),
    /// Delete KEY, and print how many keys that were; exit status 1 if none
    Delete(DeleteArgs),
    /// Compare and set: set KEY to NEW if it holds EXPECTED
    Cas(CasArgs),
    /// Print keys and values, one entry a line with a tab between
    List(ListArgs),
    /// Run a transaction that is written in JSON, and print what it did
    Txn(TxnArgs),
    /// Print all entries of one revision as lines of JSON
    Export(ExportArgs),
    /// Put the entries that are written as lines of JSON on standard input, and print how many
    Import(ImportArgs),
    /// Print changes of KEY as they happen, or run COMMAND for each
    Watch(WatchArgs),
    /// Wait until KEY is there, has a value, or is absent; exit status 3 if time runs out
    Wait(WaitArgs),
    /// Grant a lease, keep it alive, look at it, end it
    #[command(after_help = LEASE_HELP)]
    Lease {
        /// What to do.
        #[command(subcommand)]
        command: LeaseCommand,
    },
    /// Run COMMAND while holding the lock NAME; exit status 3 if it is not free in time
    Lock(LockArgs),
    /// Run COMMAND after winning the election NAME, which others can watch
    Elect(ElectArgs),
    /// Forget what the store was like before REVISION
    #[command(after_help = COMPACT_HELP)]
    Compact(CompactArgs),
    /// Print how much the store holds and may hold; change what it may hold
    Limits(LimitsArgs),
    /// Show the state of every member; exit status 3 unless a majority follows one leader
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Show and change who the members are
    #[command(after_help = MEMBER_HELP)]
    Member {
        /// What to do.
        #[command(subcommand)]
        command: MemberCommand,
    },
    /// Make member ID the leader; exit status 3 if it does not lead in time, 2 if there is no such
    /// member
    #[command(after_help = TRANSFER_HELP)]
    Transfer(TransferArgs),
    /// Make every reachable member write a snapshot and shorten its log
    #[command(after_help = SNAPSHOT_HELP)]
    Snapshot,
    /// Copy everything at one revision into FILE; or check such a file
    Backup(BackupArgs),
    /// Make a data directory from a backup, for one member of a new cluster
    Restore(RestoreArgs),
    /// After a majority is lost for ever: make the member that is left a cluster of one
    Recover(RecoverArgs),
    /// Wait until the cluster serves reads and writes, and up to 5 s more for members that do not
    /// vote yet; exit status 3 if time runs out
    #[command(after_help = WAIT_READY_HELP)]
    WaitReady,
    /// Measure how fast the cluster is; writes keys that begin with "bench-"
    Bench(BenchArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct TransferArgs {
    /// The member that should lead
    pub(crate) id: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// The id of this member
    #[arg(long, env = "SYNCRAFT_ID")]
    pub(crate) id: u64,
    /// Join a cluster that exists, in place of --members: some of its members. The member waits
    /// until it is added with `syncraft member add`
    #[arg(long, value_name = "LIST", env = "SYNCRAFT_JOIN")]
    pub(crate) join: Option<String>,
    /// The address to listen on, if it differs from the one that clients and other members use: in
    /// a container, behind NAT, or where a name means another address on this machine. By default
    /// this member's address in the list
    #[arg(long, value_name = "HOST:PORT", env = "SYNCRAFT_LISTEN")]
    pub(crate) listen: Option<String>,
    /// The address at which clients and other members reach this member. By default its address in
    /// the list, or that of --listen. A member that is not found at the address that the cluster
    /// has for it asks to be moved to this one
    #[arg(long, value_name = "HOST:PORT", env = "SYNCRAFT_ADVERTISE")]
    pub(crate) advertise: Option<String>,
    /// The data directory of this member alone; created if absent, readable only by its owner
    #[arg(long, value_name = "DIR", env = "SYNCRAFT_DATA_DIR")]
    pub(crate) data_dir: std::path::PathBuf,
    /// Serve keys (/v1/kv/KEY, /v1/txn) and /livez, /readyz, /status and /metrics over HTTP on this
    /// address
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: Option<String>,
    /// Serve etcd's v3 API, as JSON over HTTP, on this address
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) etcd: Option<String>,
    /// The URL that etcd's clients are told for this member, if they cannot use the address of
    /// --etcd; without it, http:// and that address
    #[arg(long, value_name = "URL", requires = "etcd")]
    pub(crate) advertise_etcd: Option<String>,
    /// The time between the heartbeats of a leader; up to twice as long while nothing happens
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_duration)]
    pub(crate) heartbeat: Duration,
    /// How long a leader may be silent before the others elect a new one: this long to twice as
    /// long
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = parse_duration)]
    pub(crate) election_timeout: Duration,
    /// How a leader makes sure that it may answer a read
    #[arg(long, value_enum, default_value_t = ReadModeArg::ReadIndex)]
    pub(crate) read_mode: ReadModeArg,
    /// Discard this member's data, for example because it is damaged, and copy the data of the
    /// other members; all of them must be up and have their data
    #[arg(long)]
    pub(crate) rebuild: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReadModeArg {
    /// Ask a majority before each answer
    ReadIndex,
    /// Rely on a majority's promise to elect nobody else for a while. Assumes that no member's
    /// clock runs more than a tenth faster than another's. When a leader dies, the others wait for
    /// an election timeout
    Lease,
}

/// As [`parse_duration`], but accepts zero.
fn parse_duration_or_none(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s" | "0ms") { Ok(Duration::ZERO) } else { parse_duration(text) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_finds_no_contradiction() {
        Args::command().debug_assert();
    }

    #[test]
    fn help_wraps_to_the_width_of_the_terminal() {
        let check = |mut command: clap::Command| {
            let help = command.render_long_help().to_string();
            let longest = help.lines().map(|line| line.chars().count()).max().unwrap_or_default();
            assert!((50..=70).contains(&longest), "{longest} columns:\n{help}");
        };
        let mut args = Args::command().term_width(70);
        args.build();
        check(args.clone());
        args.get_subcommands().cloned().for_each(check);
    }

    #[test]
    fn the_help_of_each_command_has_an_example() {
        let mut args = Args::command();
        args.build();
        for command in args.get_subcommands().filter(|it| it.get_name() != "help") {
            let help = command.clone().render_long_help().to_string();
            let examples = help.split("Example").nth(1).unwrap_or_default();
            let example = format!("syncraft {}", command.get_name());
            assert!(examples.contains(&example), "{example}: {help}");
        }
    }

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([&["syncraft"], args].concat())
    }

    #[test]
    fn common_options_stand_before_or_after_the_command() {
        for args in [
            ["--timeout", "2s", "get", "k"],
            ["get", "--timeout", "2s", "k"],
            ["get", "k", "--timeout", "2s"],
        ] {
            let parsed = parse(&args).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(parsed.common.timeout, Duration::from_secs(2));
        }
    }

    #[test]
    fn keys_and_values_may_begin_with_a_hyphen() {
        let check = |args: &[&str], expected: (&str, &str)| match parse(args)
            .map(|args| args.command)
        {
            Ok(Command::Put(PutArgs { write: WriteArgs { key, value }, .. })) => {
                assert_eq!((key.to_str(), value.to_str()), (Some(expected.0), Some(expected.1)));
            }
            other => panic!("{args:?}: {other:?}"),
        };
        check(&["put", "-k", "-v"], ("-k", "-v"));
        check(&["put", "--key", "--value=1"], ("--key", "--value=1"));
        check(&["put", "k", "-"], ("k", "-"));
        check(&["put", "k", "-1"], ("k", "-1"));
        check(&["put", "-k", "-v", "--timeout", "1s"], ("-k", "-v"));
        check(&["put", "--timeout", "1s", "-k", "-v"], ("-k", "-v"));
        check(&["put", "--", "--timeout", "--"], ("--timeout", "--"));
        check(&["put", "", ""], ("", ""));
    }

    #[test]
    fn compare_and_set_takes_options_in_place_of_values() {
        let check = |args: &[&str], expected: (&[&str], bool, bool)| match parse(args)
            .map(|args| args.command)
        {
            Ok(Command::Cas(CasArgs { key, first, second, absent, delete })) => {
                let values: Vec<_> = first.into_iter().chain(second).collect();
                assert_eq!((key.to_str(), absent, delete), (Some("k"), expected.1, expected.2));
                assert_eq!(values, expected.0, "{args:?}");
            }
            other => panic!("{args:?}: {other:?}"),
        };
        check(&["cas", "k", "a", "b"], (&["a", "b"], false, false));
        check(&["cas", "k", "-1", "-2"], (&["-1", "-2"], false, false));
        check(&["cas", "k", "--absent", "b"], (&["b"], true, false));
        check(&["cas", "k", "b", "--absent"], (&["b"], true, false));
        check(&["cas", "k", "a", "--delete"], (&["a"], false, true));
        check(&["cas", "--delete", "k", "a", "--timeout", "1s"], (&["a"], false, true));
        check(
            &["cas", "--", "k", "--absent", "--delete"],
            (&["--absent", "--delete"], false, false),
        );
    }

    #[test]
    fn wrong_usage_is_2_and_help_is_0() {
        let check = |args: &[&str], exit: i32| match parse(args) {
            Err(error) => assert_eq!(error.exit_code(), exit, "{args:?}"),
            Ok(args) => panic!("{args:?}"),
        };
        check(&["--help"], 0);
        check(&["--version"], 0);
        check(&["get", "--help"], 0);
        for args in [
            &[][..],
            &["put", "k"],
            &["get"],
            &["nonsense"],
            &["get", "a", "b"],
            &["get", "k", "--timeout", "10"],
        ] {
            check(args, 2);
        }
    }
}
