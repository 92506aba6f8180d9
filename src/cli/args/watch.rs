//! The arguments of the commands that wait for changes, and their examples.

use std::ffi::OsString;

use super::store::revision;

const WATCH_HELP: &str = "\
Examples:
  syncraft watch config
  syncraft watch user/ --prefix --from 17 --json | jq .key
  syncraft watch jobs/ --prefix | while read -r type key value; do ..; done
  syncraft watch config -- sh -c 'echo \"$SYNCRAFT_VALUE\" > app.conf'

Each change is a line: put, KEY and VALUE, or delete and KEY, with tabs between, and bytes as they \
are. With --json it is an object: \"type\" is \"put\" or \"delete\"; a put has the fields of an \
entry, a deletion has \"key\" and \"mod_revision\"; bytes that are no text are \
{\"base64\": \"..\"}.

It goes on when members die, and no change is lost or comes twice. --timeout bounds the time in \
which no member serves it, not the time of the whole: then the exit status is 3. If the store has \
forgotten changes that are wanted, the status is 2, and the error names the revision at which \
another watch can begin.

COMMAND runs for each change, one after another. Its environment has SYNCRAFT_TYPE (put or \
delete), SYNCRAFT_KEY, SYNCRAFT_VALUE (of a put) and SYNCRAFT_REVISION. A key or value that has a \
zero byte or more than 100,000 bytes is not in the environment. COMMAND's standard input is the \
change as --json prints it, always whole. If COMMAND fails, the watch ends with its exit status: \
127 if there is no such program, 126 if it cannot be started, 128 + N if signal N has ended it. \
Signals that syncraft gets are passed on to COMMAND. After SIGTERM, SIGINT, SIGQUIT or SIGHUP, the \
watch ends when COMMAND does, with 128 + N if COMMAND has succeeded.";

const WAIT_HELP: &str = "\
Examples:
  syncraft wait ready --timeout 1m && echo it is there
  syncraft wait light --equals green
  syncraft wait lock --absent

It prints nothing. --timeout bounds the whole time: exit status 3.";

#[derive(Debug, clap::Args)]
#[command(after_help = WATCH_HELP)]
pub(crate) struct WatchArgs {
    /// Any bytes
    #[arg(allow_hyphen_values = true)]
    pub(crate) key: OsString,
    /// Watch all keys that begin with KEY; an empty KEY means all keys
    #[arg(long)]
    pub(crate) prefix: bool,
    /// Begin with the changes of this revision; without it, with those that come after the start
    #[arg(long, value_name = "REVISION", value_parser = revision())]
    pub(crate) from: Option<u64>,
    /// End after this many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Print each change as one JSON object
    #[arg(long, conflicts_with = "command")]
    pub(crate) json: bool,
    /// The program that runs for each change, and its arguments
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = WAIT_HELP)]
pub(crate) struct WaitArgs {
    /// Any bytes
    #[arg(allow_hyphen_values = true)]
    pub(crate) key: OsString,
    /// Wait until the key has this value
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub(crate) equals: Option<OsString>,
    /// Wait until the key is absent
    #[arg(long, conflicts_with = "equals")]
    pub(crate) absent: bool,
}
