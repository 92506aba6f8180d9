//! The arguments of `lock` and `elect`, and their examples.

use std::ffi::OsString;
use std::time::Duration;

const LOCK_HELP: &str = "\
Examples:
  syncraft lock nightly --wait 0s -- ./backup.sh
  syncraft lock deploy --ttl 30s -- sh -c 'upload --fence $SYNCRAFT_FENCE'

COMMAND runs while the lock is held, and the exit status is that of COMMAND: 127 if there is no \
such program, 126 if it cannot be started, 128 + N if signal N has ended it. If the lock was not taken \
within --wait, or no member answers, the status is 3, and COMMAND has not run. Those who wait have \
the lock in the order in which they came.

The lock is kept alive as long as COMMAND runs, and released when it ends, however it ends. \
Signals that syncraft gets are passed on to COMMAND; one that ignores them keeps the lock until it \
ends. While syncraft waits for the lock, a signal ends it, with 128 + N, as soon as it has left \
the queue, which takes up to --timeout if no member answers. A second signal ends it at once; then \
its place in the queue is gone after --ttl.

The lock is lost if no member can be reached for nearly as long as --ttl: this is noticed before \
another one can have it. It is also lost if somebody else revokes its lease or deletes its key: \
this is noticed within a third of --ttl. Then COMMAND and all processes of its group get SIGTERM, \
and after 5 s SIGKILL. In the foreground of a terminal only COMMAND itself gets them, and must end \
what it has started. The status is 4 whenever the lock was lost before COMMAND was seen to end.

If syncraft itself is killed (SIGKILL) or stopped, the lock is free after --ttl, and COMMAND may \
still run: that is what the fence is for.

COMMAND's environment has SYNCRAFT_FENCE, a number that is higher than that of every holder \
before. Give it to what the lock protects, which refuses lower ones. A write of this store depends \
on it as in {\"compare\": [{\"key\": \"$SYNCRAFT_FENCE_KEY\", \"create_revision\": \
$SYNCRAFT_FENCE}], ..} (see syncraft txn).

--timeout bounds each call, not the time of the whole, and --wait begins when syncraft has its \
place in the queue: to get that takes up to twice --timeout if no member answers. While syncraft \
waits for the lock, a call that nobody answers is made again until --wait is over or the place in \
the queue is lost.";

const ELECT_HELP: &str = "\
Examples:
  syncraft elect primary --value db-1:5432 -- ./serve
  syncraft get primary
  syncraft watch primary

While COMMAND runs, the key NAME has VALUE, which others can read and watch. It is gone when \
COMMAND has ended or the election is lost. NAME is for the election alone: what it held before is \
written over, and whoever else writes or deletes it changes only what others see. Everything else \
is as for syncraft lock: exit statuses, signals, and SYNCRAFT_FENCE.";

#[derive(Debug, clap::Args)]
#[command(after_help = LOCK_HELP)]
pub(crate) struct LockArgs {
    #[command(flatten)]
    pub(crate) hold: HoldArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = ELECT_HELP)]
pub(crate) struct ElectArgs {
    #[command(flatten)]
    pub(crate) hold: HoldArgs,
    /// What the winner announces; without it, the name of this machine and the id of this process
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub(crate) value: Option<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct HoldArgs {
    /// At most 65,519 bytes; its queue has keys that begin with it and a slash, where there should
    /// be no others: each look at the queue sorts them all
    #[arg(allow_hyphen_values = true)]
    pub(crate) name: OsString,
    /// How long it is held after its holder has died or is cut off
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = super::parse_duration)]
    pub(crate) ttl: Duration,
    /// How long to wait for it, 0s: not at all; without it, as long as it takes
    #[arg(long, value_name = "TIME", value_parser = super::parse_duration_or_none)]
    pub(crate) wait: Option<Duration>,
    /// The program that runs while it is held, and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}
