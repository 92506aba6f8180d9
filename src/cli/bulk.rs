//! `list`, `export`: many entries.

use bytes::Bytes;
use syncraft::clerk::{Clerk, Scan};
use syncraft::kv::json::{self, EntryJson};
use syncraft::kv::model::{KeyRange, Revision};

use super::args::{Common, ExportArgs, ListArgs};
use super::kv::bytes;
use super::output::Lines;
use super::{Exit, Outcome};

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
