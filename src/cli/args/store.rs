//! The arguments of the commands that read and write entries, and their examples.

use std::ffi::OsString;
use std::path::PathBuf;

const PUT_HELP: &str = "\
Examples:
  syncraft put greeting hello
  date | syncraft put now -
  syncraft put --if-absent leader me || echo taken
  syncraft put --ttl 10m session/7 ann
  syncraft put --lease 7 workers/7 busy";

const GET_HELP: &str = "\
Examples:
  syncraft get greeting
  syncraft get --entry greeting | jq .mod_revision
  syncraft get --at 17 greeting
  syncraft get --stale --max-age 5s greeting";

const INCR_HELP: &str = "\
Examples:
  syncraft incr visits
  syncraft incr stock -3";

const DELETE_HELP: &str = "\
Examples:
  syncraft delete greeting
  syncraft delete --prefix session/";

const CAS_HELP: &str = "\
Examples:
  syncraft cas light red green
  syncraft cas light --absent red
  syncraft cas light green --delete

Exit status 5 if the key holds something else. Nothing changed then. Otherwise the key has no lease \
and no time to live afterwards, as after a put.";

const LIST_HELP: &str = "\
Examples:
  syncraft list
  syncraft list user/ --limit 10
  syncraft list user/ --keys
  syncraft list --json | jq -r .key

Entries come in pages, all as of one revision. Each page may take as long as --timeout says. Without \
--json, keys and values are printed as they are.";

const TXN_HELP: &str = "\
The transaction is one JSON object. If all of \"compare\" hold, \"then\" runs, otherwise \"else\"; \
each may be left out. All of it takes effect, or nothing.

compare: KEYS, and one of \"value\", \"version\", \"create_revision\", \"mod_revision\", \"lease\". \
With \"relation\": \"!=\", \"<\" or \">\" in place of \"=\". An absent key has version and \
revisions 0, and no value.

then, else: operations, each one of
  {\"put\": {\"key\": K, \"value\": V}}    also with \"lease\": N or \"ttl\": \"30s\"
  {\"append\": {\"key\": K, \"value\": V}}
  {\"increment\": {\"key\": K, \"by\": N}}
  {\"delete\": {KEYS}}
  {\"range\": {KEYS, \"limit\": N, \"keys_only\": true, \"at\": N}}
  {\"txn\": {..}}
With \"may_fail\": true beside it, an operation that fails does not end the transaction.

KEYS: \"key\": K, or \"prefix\": K, or \"from\": K, or \"from\": K, \"before\": K

K and V: text, or {\"base64\": \"..\"} for bytes that are no text.

Example:
  syncraft txn <<'.'
  {\"compare\": [{\"key\": \"lock\", \"version\": 0}],
   \"then\": [{\"put\": {\"key\": \"lock\", \"value\": \"me\"}}],
   \"else\": [{\"range\": {\"key\": \"lock\"}}]}
  .

It prints {\"held\":true,\"revision\":7,\"answers\":[..]}, with an answer for each operation that \
ran. Exit status 5 if \"else\" ran.";

const EXPORT_HELP: &str = "\
Examples:
  syncraft export > backup.jsonl
  syncraft export user/ | jq -r .key

Each line is an object with \"key\", \"value\", \"create_revision\", \"mod_revision\", \
\"version\" and \"lease\"; bytes that are no text are {\"base64\": \"..\"}. Entries come in \
pages, each of which may take as long as --timeout says. If one fails, what was printed is not all.";

const IMPORT_HELP: &str = "\
Examples:
  syncraft export > backup.jsonl
  syncraft import < backup.jsonl
  syncraft import --etcd http://localhost:2379 config/

Each line is an object with \"key\" and \"value\": text, or {\"base64\": \"..\"}. Other fields \
are ignored, so keys get new revisions. An entry whose \"lease\" is not 0 is skipped: without its \
lease it would never expire. The number of those is printed on standard error, and the programs \
that own them have to write them again. Lines are put in batches, each all or nothing and at most \
once, and each may take as long as --timeout says. If one fails, the error says how many entries \
had been put.

With --etcd, the entries are those that etcd 3.4 or later has at one revision. Those with a lease \
are skipped, too.";

const LIMITS_HELP: &str = "\
Examples:
  syncraft limits
  syncraft limits --bytes 17179869184
  syncraft limits --json | jq .revision";

/// Revisions begin at 1.
pub(super) fn revision() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

#[derive(Debug, clap::Args)]
pub(crate) struct WriteArgs {
    /// Any bytes; put -- before a key that is spelled like an option of this command
    #[arg(allow_hyphen_values = true)]
    pub(crate) key: OsString,
    /// Any bytes; - reads the value from standard input. To store a lone -, pipe it in: printf - |
    /// syncraft put KEY -
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: OsString,
}

#[derive(Debug, clap::Args)]
#[command(after_help = PUT_HELP)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    pub(crate) write: WriteArgs,
    /// Only if the key is absent; exit status 5 if it is there
    #[arg(long)]
    pub(crate) if_absent: bool,
    /// The key ends with this lease
    #[arg(long, value_name = "ID", value_parser = super::lease::lease_id())]
    pub(crate) lease: Option<u64>,
    /// The key ends when this time has passed, unless it is put again before
    #[arg(long, value_name = "TIME", value_parser = super::parse_duration, conflicts_with = "lease")]
    pub(crate) ttl: Option<std::time::Duration>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = GET_HELP)]
pub(crate) struct GetArgs {
    /// Any bytes; put -- before a key that is spelled like an option of this command
    #[arg(allow_hyphen_values = true)]
    pub(crate) key: OsString,
    /// Print only the value, without a newline
    #[arg(long)]
    pub(crate) raw: bool,
    /// Print the value, the revisions, the version and the lease as one JSON object
    #[arg(long, conflicts_with_all = ["raw", "stale"])]
    pub(crate) entry: bool,
    /// Read the key as it was at this revision
    #[arg(long, value_name = "REVISION", value_parser = revision(), conflicts_with = "stale")]
    pub(crate) at: Option<u64>,
    /// Read from any member, even without a leader; how old the value may be is printed to standard
    /// error
    #[arg(long)]
    pub(crate) stale: bool,
    /// With --stale: accept only values that are at most this old when the member answers
    #[arg(long, value_name = "TIME", value_parser = super::parse_duration, requires = "stale")]
    pub(crate) max_age: Option<std::time::Duration>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = INCR_HELP)]
pub(crate) struct IncrArgs {
    /// Any bytes; an absent key counts as 0
    #[arg(allow_hyphen_values = true)]
    pub(crate) key: OsString,
    /// How much is added
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) by: i64,
}

#[derive(Debug, clap::Args)]
#[command(after_help = DELETE_HELP)]
pub(crate) struct DeleteArgs {
    /// Any bytes; put -- before a key that is spelled like an option of this command
    #[arg(allow_hyphen_values = true)]
    pub(crate) key: OsString,
    /// Delete all keys that begin with KEY, at most a million; an empty KEY means all keys
    #[arg(long)]
    pub(crate) prefix: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = CAS_HELP,
    override_usage = "syncraft cas [OPTIONS] <KEY> <EXPECTED> <NEW>\n       \
                      syncraft cas [OPTIONS] <KEY> --absent <NEW>\n       \
                      syncraft cas [OPTIONS] <KEY> <EXPECTED> --delete"
)]
pub(crate) struct CasArgs {
    /// Any bytes
    #[arg(allow_hyphen_values = true)]
    pub(crate) key: OsString,
    /// The value that the key must hold; with --absent, NEW stands here
    #[arg(value_name = "EXPECTED", allow_hyphen_values = true)]
    pub(crate) first: Option<OsString>,
    /// The value of the key from then on; - reads it from standard input
    #[arg(value_name = "NEW", allow_hyphen_values = true)]
    pub(crate) second: Option<OsString>,
    /// In place of EXPECTED: the key must be absent
    #[arg(long, conflicts_with = "delete")]
    pub(crate) absent: bool,
    /// In place of NEW: delete the key
    #[arg(long)]
    pub(crate) delete: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = LIST_HELP)]
pub(crate) struct ListArgs {
    /// Only keys that begin with this
    #[arg(default_value = "", allow_hyphen_values = true)]
    pub(crate) prefix: OsString,
    /// At most this many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Keys without their values
    #[arg(long)]
    pub(crate) keys: bool,
    /// As of this revision
    #[arg(long, value_name = "REVISION", value_parser = revision())]
    pub(crate) at: Option<u64>,
    /// Print each entry as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = TXN_HELP)]
pub(crate) struct TxnArgs {
    /// The transaction; without FILE, or with -, standard input
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CompactArgs {
    /// The oldest revision that can still be read afterwards
    pub(crate) revision: u64,
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXPORT_HELP)]
pub(crate) struct ExportArgs {
    /// Only keys that begin with this
    #[arg(default_value = "", allow_hyphen_values = true)]
    pub(crate) prefix: OsString,
}

#[derive(Debug, clap::Args)]
#[command(after_help = IMPORT_HELP)]
pub(crate) struct ImportArgs {
    /// Import from a running etcd instead of standard input
    #[arg(long, value_name = "URL")]
    pub(crate) etcd: Option<String>,
    /// With --etcd: only keys that begin with this
    #[arg(default_value = "", requires = "etcd", allow_hyphen_values = true)]
    pub(crate) prefix: OsString,
}

#[derive(Debug, clap::Args)]
#[command(after_help = LIMITS_HELP)]
pub(crate) struct LimitsArgs {
    /// The length of all keys and values together, in bytes
    #[arg(long, value_name = "N")]
    pub(crate) bytes: Option<u64>,
    /// How many keys there may be
    #[arg(long, value_name = "N")]
    pub(crate) keys: Option<u64>,
    /// How much of its past the store remembers, in bytes: 64 for each change, and the key and the
    /// value that it replaced; at most 4 GiB
    #[arg(long, value_name = "N")]
    pub(crate) history: Option<u64>,
    /// How many leases there may be
    #[arg(long, value_name = "N")]
    pub(crate) leases: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
