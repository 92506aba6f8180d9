//! The arguments of `dev`, and their examples.

use std::ffi::OsString;
use std::path::PathBuf;

use syncraft::members::MEMBERS_MAX;

const DEV_HELP: &str = "\
Examples:
  syncraft dev --http 8001
  syncraft dev -- bash
  syncraft dev -- ./test_my_program.py
  curl -X POST \"$SYNCRAFT_DEV/v1/dev/kill?member=leader\"

Members 1 to N run in this process, on ports of the loopback interface. Once they serve, lines are \
printed that a shell can read, or one JSON object with --json:
  SYNCRAFT_MEMBERS   the members, as --members takes them
  SYNCRAFT_HTTP      where member 1 serves keys over HTTP
  SYNCRAFT_HTTP_ALL  the same for all members, with spaces between
  SYNCRAFT_ETCD      where member 1 serves etcd's clients
  SYNCRAFT_ETCD_ALL  the same for all members, with spaces between
  SYNCRAFT_DEV       where faults are asked for
SIGINT, SIGTERM, SIGQUIT and SIGHUP end the cluster; the status is then 0.

With COMMAND, nothing is printed: COMMAND has these variables in its environment, and the cluster \
ends with it. The exit status is that of COMMAND: 127 if there is no such program, 126 if it cannot \
be started, 128 + N if signal N has ended it. Signals that syncraft gets are passed on to COMMAND.

POST $SYNCRAFT_DEV/v1/dev/FAULT takes a fault: kill, stop, restart, wipe, pause, resume \
(?member=ID or ?member=leader), partition, blackhole (?one=ID,..&other=ID,..), heal, delay \
(?min=TIME&max=TIME), drop (?rate=SHARE). GET $SYNCRAFT_DEV/v1/dev tells how the cluster is. \
docs/dev.md has all of it.

If the cluster does not start, for example because a port is in use, the status is 3, and nothing \
is left behind. --timeout bounds how long it may take to elect its leader. A cluster on one machine \
is for tests: the members share its fate.";

#[derive(Debug, clap::Args)]
#[command(after_help = DEV_HELP)]
pub(crate) struct DevArgs {
    /// How many members the cluster has
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u8).range(1..=MEMBERS_MAX as i64)
    )]
    pub(crate) nodes: u8,
    /// A directory for the data, which stays there for the next cluster of as many members; without
    /// it, a temporary one that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The port of member 1; the others have the next ones; without it, any free ports
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// The port of member 1 for HTTP; the others have the next ones, and the faults the one behind
    /// these; without it, any free ports
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) http: Option<u16>,
    /// The port of member 1 for etcd's clients; the others have the next ones; without it, any free
    /// ports
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) etcd: Option<u16>,
    /// Print one JSON object in place of lines for a shell
    #[arg(long, conflicts_with = "command")]
    pub(crate) json: bool,
    /// A program that runs while the cluster does, and its arguments
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}
