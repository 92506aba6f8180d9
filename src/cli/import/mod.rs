//! `import`: puts many entries, from lines of JSON or from an etcd.

mod etcd;
mod lines;

use bytes::Bytes;
use syncraft::clerk::Clerk;
use syncraft::kv::model::{Action, Operation, Txn};

use super::args::{Common, ImportArgs};
use super::kv::bytes;
use super::output::{eprint_line, print_of_write};
use super::{Exit, Failure, Outcome};

/// How many entries one transaction puts at most, ...
const BATCH_LEN_MAX: usize = 1_000;
/// ... and how many bytes of them, unless a single entry is longer.
const BATCH_BYTES_MAX: usize = 1 << 20;

pub(super) fn import(common: &Common, args: &ImportArgs) -> Outcome {
    let mut import = Import { clerk: common.clerk()?, batch: Batch::default(), imported: 0 };
    let done = match &args.etcd {
        None => lines::import(&mut import, &mut std::io::stdin().lock()),
        Some(url) => etcd::import(&mut import, url, bytes(&args.prefix), common.timeout()),
    };
    let imported = import.imported;
    let left_out = done.map_err(|Failure { exit, line }| {
        let line = format!("{line}; {imported} entries before were imported");
        Failure { exit, line }
    })?;
    if left_out > 0 {
        eprint_line(&format_args!(
            "syncraft: keys skipped because they have a lease, so that their owners have to write \
             them again: {left_out}"
        ));
    }
    print_of_write(&[imported.to_string().as_bytes(), b"\n"])?;
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
    fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Failure> {
        let len = key.len() + value.len();
        if self.batch.puts.len() == BATCH_LEN_MAX || self.batch.bytes + len > BATCH_BYTES_MAX {
            self.put_batch()?;
        }
        self.batch.puts.push(Action::put(key, value).into());
        self.batch.bytes += len;
        Ok(())
    }

    /// Puts what was gathered.
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
