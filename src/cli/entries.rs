//! `incr`, `delete`, `cas`, `txn`, `compact`, `limits`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use syncraft::clerk::{Expected, Stats, Swap};
use syncraft::kv::LimitsChange;
use syncraft::kv::json::{self, CommittedJson};
use syncraft::kv::model::{KeyRange, Revision};

use super::args::{CasArgs, Common, CompactArgs, DeleteArgs, IncrArgs, LimitsArgs, TxnArgs};
use super::kv::{bytes, value};
use super::output::{print, print_of_write};
use super::{Exit, Failure, Outcome};

/// How long the text of a transaction may be. No transaction that is accepted is longer, unless it
/// is full of spaces: its bytes are at most 15 MiB, and a byte takes at most 6 to write.
const TXN_TEXT_LEN_MAX: u64 = 100 << 20;

pub(super) fn incr(common: &Common, args: IncrArgs) -> Outcome {
    let value = common.clerk()?.increment(bytes(&args.key), args.by)?;
    print_of_write(&[value.to_string().as_bytes(), b"\n"])?;
    Ok(Exit::Done)
}

pub(super) fn delete(common: &Common, args: DeleteArgs) -> Outcome {
    let key = bytes(&args.key).to_vec();
    let keys = if args.prefix { KeyRange::prefix(key) } else { KeyRange::key(key) };
    let count = common.clerk()?.delete_range(keys)?;
    let print = if count == 0 { print } else { print_of_write };
    print(&[count.to_string().as_bytes(), b"\n"])?;
    Ok(if count == 0 { Exit::Absent } else { Exit::Done })
}

pub(super) fn cas(common: &Common, args: CasArgs) -> Outcome {
    let key = bytes(&args.key);
    let swap = match (args.absent, args.delete, &args.first, &args.second) {
        (false, false, Some(expected), Some(new)) => {
            common.clerk()?.compare_and_set(key, bytes(expected), value(new)?)?
        }
        (true, false, Some(new), None) => {
            common.clerk()?.compare_and_set(key, Expected::Absent, value(new)?)?
        }
        (false, true, Some(expected), None) => {
            common.clerk()?.compare_and_delete(key, bytes(expected))?
        }
        _ => {
            let words = "cas takes KEY EXPECTED NEW, KEY --absent NEW, or KEY EXPECTED --delete";
            return Err(Failure::usage(words));
        }
    };
    match swap {
        Swap::Done { .. } => Ok(Exit::Done),
        Swap::Differs { found: None } => Err(Failure::differs("not changed: the key is absent")),
        Swap::Differs { found: Some(_) } if args.absent => {
            Err(Failure::differs("not changed: the key is there"))
        }
        Swap::Differs { found: Some(_) } => {
            Err(Failure::differs("not changed: the key holds another value"))
        }
    }
}

pub(super) fn txn(common: &Common, args: TxnArgs) -> Outcome {
    let text = match args.file.as_deref() {
        Some(file) if file != Path::new("-") => {
            let read = File::open(file).and_then(read_text);
            read.map_err(|error| {
                let hint = match file.as_os_str().as_encoded_bytes().starts_with(b"{") {
                    true => " (FILE is the name of a file; JSON itself goes to standard input)",
                    false => "",
                };
                Failure::usage(format!("{}: {error}{hint}", file.display()))
            })?
        }
        _ => read_text(io::stdin().lock())
            .map_err(|error| Failure::usage(format!("cannot read standard input: {error}")))?,
    };
    let txn = json::txn(&text)
        .map_err(|error| Failure::usage(format!("this is not a transaction: {error}")))?;
    let committed = common.clerk()?.run(&txn)?;
    let print = if txn.is_read() { print } else { print_of_write };
    print(&[
        &json::line(&CommittedJson::new(committed.revision, committed.held, &committed.answers)),
        b"\n",
    ])?;
    Ok(if committed.held { Exit::Done } else { Exit::Differs })
}

fn read_text(input: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    input.take(TXN_TEXT_LEN_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > TXN_TEXT_LEN_MAX {
        let words = format!("more than {TXN_TEXT_LEN_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, words));
    }
    Ok(text)
}

pub(super) fn compact(common: &Common, args: CompactArgs) -> Outcome {
    common.clerk()?.compact(Revision(args.revision))?;
    Ok(Exit::Done)
}

pub(super) fn limits(common: &Common, args: LimitsArgs) -> Outcome {
    let LimitsArgs { bytes, keys, history, leases, json } = args;
    let change = LimitsChange {
        bytes_max: bytes,
        keys_max: keys,
        history_bytes_max: history,
        leases_max: leases,
    };
    let clerk = common.clerk()?;
    let deadline = Instant::now() + common.timeout();
    let print = if change == LimitsChange::default() { print } else { print_of_write };
    if change != LimitsChange::default() {
        clerk.set_limits(change)?;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let stats = clerk.with_timeout(left).stats()?;
    match json {
        true => print(&[&json::line(&LimitsJson::from(stats)), b"\n"])?,
        false => print(&[as_text(&stats).as_bytes()])?,
    }
    Ok(Exit::Done)
}

/// Names never change.
#[derive(Serialize)]
struct LimitsJson {
    bytes: u64,
    bytes_max: u64,
    keys: u64,
    keys_max: u64,
    history_bytes: u64,
    history_bytes_max: u64,
    revision: u64,
    compacted: u64,
    leases: u64,
    leases_max: u64,
    keys_with_ttl: u64,
}

impl From<Stats> for LimitsJson {
    fn from(stats: Stats) -> LimitsJson {
        LimitsJson {
            bytes: stats.bytes,
            bytes_max: stats.limits.bytes_max,
            keys: stats.keys,
            keys_max: stats.limits.keys_max,
            history_bytes: stats.history_bytes,
            history_bytes_max: stats.limits.history_bytes_max,
            revision: stats.revision.0,
            compacted: stats.compacted.0,
            leases: stats.leases,
            leases_max: stats.limits.leases_max,
            keys_with_ttl: stats.keys_with_ttl,
        }
    }
}

fn as_text(stats: &Stats) -> String {
    let Stats { bytes, keys, history_bytes, revision, compacted, leases, limits, .. } = stats;
    format!(
        "bytes    {bytes} of {}\nkeys     {keys} of {}\nhistory  {history_bytes} of {} bytes\n\
         leases   {leases} of {}\nrevision {revision}; {compacted} and later can be read\n",
        limits.bytes_max, limits.keys_max, limits.history_bytes_max, limits.leases_max
    )
}
