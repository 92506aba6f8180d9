//! Lines of JSON, as `export` prints them.

use std::io::{BufRead, Read};

use syncraft::kv::json::NewEntry;
use syncraft::kv::{KEY_LEN_MAX, VALUE_LEN_MAX};

use super::Import;
use crate::cli::Failure;

/// How long a line may be. JSON takes at most 6 bytes to write one.
const LINE_LEN_MAX: u64 = 6 * (KEY_LEN_MAX + VALUE_LEN_MAX) as u64 + 4096;

/// Returns how many entries were left out because they have a lease.
pub(super) fn import(import: &mut Import, input: &mut impl BufRead) -> Result<u64, Failure> {
    let mut left_out = 0;
    for number in 1.. {
        let Some(line) = read_line(input, number)? else { break };
        if line.trim_ascii().is_empty() {
            continue;
        }
        let NewEntry { key, value, lease } = NewEntry::read(&line)
            .map_err(|error| Failure::usage(format!("line {number}: {error}")))?;
        match lease {
            0 => import.put(key.0, value.0)?,
            _ => left_out += 1,
        }
    }
    import.put_batch()?;
    Ok(left_out)
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
