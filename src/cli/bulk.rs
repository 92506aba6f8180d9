//! `list`, `export`, `import`: many entries.

use std::io::{self, BufRead, Read};

use bytes::Bytes;
use syncraft::clerk::{Clerk, Scan};
use syncraft::kv::json::{self, EntryJson, NewEntry};
use syncraft::kv::model::{Action, KeyRange, Operation, Revision, Txn};
use syncraft::kv::{KEY_LEN_MAX, VALUE_LEN_MAX};

use super::args::{Common, ExportArgs, ListArgs};
use super::kv::bytes;
use super::output::{Lines, print};
use super::{Exit, Failure, Outcome};

/// How many entries one transaction of an import puts at most, ...
const BATCH_LEN_MAX: usize = 1_000;
/// ... and how many bytes of them, unless a single entry is longer.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// How long a line of an import may be. JSON takes at most 6 bytes to write one.
const LINE_LEN_MAX: u64 = 6 * (KEY_LEN_MAX + VALUE_LEN_MAX) as u64 + 4096;

pub(super) fn list(common: &Common, args: ListArgs) -> Outcome {
    let clerk = common.clerk()?;
    let limit = args.limit.unwrap_or(u64::MAX);
    let mut scan = scan(&clerk, bytes(&args.prefix), args.at);
    if args.keys {
        scan = scan.keys_only();
    }
    if let Some(limit) = args.limit {
        scan = scan.first_page(limit.min(1_000));
    }
    let mut lines = Lines::begin();
    for entry in scan.take(usize::try_from(limit).unwrap_or(usize::MAX)) {
        let entry = entry?;
        let goes_on = match (args.json, args.keys) {
            (true, true) => {
                lines.print(&[&json::line(&EntryJson::without_value(&entry)), b"\n"])?
            }
            (true, false) => lines.print(&[&json::line(&EntryJson::whole(&entry)), b"\n"])?,
            (false, true) => lines.print(&[&entry.key, b"\n"])?,
            (false, false) => lines.print(&[&entry.key, b"\t", &entry.value, b"\n"])?,
        };
        if !goes_on {
            return Ok(Exit::Done);
        }
    }
    lines.end()?;
    Ok(Exit::Done)
}

pub(super) fn export(common: &Common, args: ExportArgs) -> Outcome {
    let clerk = common.clerk()?;
    let mut lines = Lines::begin();
    for entry in scan(&clerk, bytes(&args.prefix), None) {
        if !lines.print(&[&json::line(&EntryJson::whole(&entry?)), b"\n"])? {
            return Ok(Exit::Done);
        }
    }
    lines.end()?;
    Ok(Exit::Done)
}

fn scan<'a>(clerk: &'a Clerk, prefix: &[u8], at: Option<u64>) -> Scan<'a> {
    let scan = clerk.scan(KeyRange::prefix(Bytes::copy_from_slice(prefix)));
    match at {
        Some(at) => scan.at(Revision(at)),
        None => scan,
    }
}

pub(super) fn import(common: &Common) -> Outcome {
    let mut import = Import { clerk: common.clerk()?, batch: Batch::default(), imported: 0 };
    let done = import.run(&mut io::stdin().lock());
    let imported = import.imported;
    done.map_err(|Failure { exit, line }| {
        let line = format!("{line}; {imported} lines before were imported");
        Failure { exit, line }
    })?;
    print(&[imported.to_string().as_bytes(), b"\n"])?;
    Ok(Exit::Done)
}

struct Import {
    clerk: Clerk,
    batch: Batch,
    imported: u64,
}

/// Entries that are put together.
#[derive(Default)]
struct Batch {
    puts: Vec<Operation>,
    bytes: usize,
}

impl Import {
    fn run(&mut self, input: &mut impl BufRead) -> Result<(), Failure> {
        for number in 1.. {
            let Some(line) = read_line(input, number)? else { break };
            if line.trim_ascii().is_empty() {
                continue;
            }
            let NewEntry { key, value } = serde_json::from_slice(&line)
                .map_err(|error| Failure::usage(format!("line {number}: {error}")))?;
            let len = key.0.len() + value.0.len();
            if self.batch.puts.len() == BATCH_LEN_MAX || self.batch.bytes + len > BATCH_BYTES_MAX {
                self.put_batch()?;
            }
            self.batch.puts.push(Action::put(key.0, value.0).into());
            self.batch.bytes += len;
        }
        self.put_batch()
    }

    fn put_batch(&mut self) -> Result<(), Failure> {
        let Batch { puts, .. } = std::mem::take(&mut self.batch);
        let count = puts.len() as u64;
        if count > 0 {
            self.clerk.run(&Txn { then: puts, ..Txn::default() })?;
            self.imported += count;
        }
        Ok(())
    }
}

/// The next line without its end; `None` behind the last one.
fn read_line(input: &mut impl BufRead, number: u64) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    input
        .take(LINE_LEN_MAX + 1)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::usage(format!("cannot read line {number}: {error}")))?;
    if line.len() as u64 > LINE_LEN_MAX {
        let words = format!("line {number} is over the limit of {LINE_LEN_MAX} bytes");
        return Err(Failure::usage(words));
    }
    Ok((!line.is_empty()).then_some(line))
}
