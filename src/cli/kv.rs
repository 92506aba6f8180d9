//! `put`, `append`, `get`, `wait-ready`: each makes its calls with a `Clerk`.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use syncraft::ErrorChain;
use syncraft::clerk::{Clerk, ClerkError, Stale};
use syncraft::kv::VALUE_LEN_MAX;
use syncraft::kv::json::{self, EntryJson};
use syncraft::kv::model::{Action, Compare, LeaseId, NewLease, Revision};

use super::args::{Common, GetArgs, PutArgs, WriteArgs};
use super::asking::ask_cluster;
use super::output::{eprint_line, print};
use super::{Exit, Failure, Outcome, status};

/// The pause between two checks whether the leader can write.
const POLL_PAUSE: Duration = Duration::from_millis(100);
/// How long one member may take to report its status.
const POLL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a cluster that serves is waited for until all who answer vote. A member that is filled
/// with gigabytes takes longer, and nobody's script should wait for that.
const JOIN_GRACE: Duration = Duration::from_secs(5);

pub(super) fn put(common: &Common, args: PutArgs) -> Outcome {
    let PutArgs { write: WriteArgs { key, value: new }, if_absent, lease, ttl } = args;
    let (clerk, key, new) = (common.clerk()?, bytes(&key).to_vec(), value(&new)?);
    let lease = match (lease, ttl) {
        (Some(id), _) => NewLease::Set(LeaseId(id)),
        (None, Some(ttl)) => NewLease::ttl(ttl),
        (None, None) if !if_absent => {
            clerk.put(key, new)?;
            return Ok(Exit::Done);
        }
        (None, None) => NewLease::Set(LeaseId::NONE),
    };
    if !if_absent {
        clerk.put_with(key, new, lease)?;
        return Ok(Exit::Done);
    }
    let txn = clerk.txn().when(Compare::absent(key.clone()));
    match txn.then(Action::put_with(key, new, lease)).commit()?.held {
        true => Ok(Exit::Done),
        false => Err(Failure::differs("not put: the key is there")),
    }
}

pub(super) fn append(common: &Common, args: WriteArgs) -> Outcome {
    let clerk = common.clerk()?;
    clerk.append(bytes(&args.key), value(&args.value)?)?;
    Ok(Exit::Done)
}

pub(super) fn get(common: &Common, args: GetArgs) -> Outcome {
    let (clerk, key) = (common.clerk()?, bytes(&args.key));
    let value = match (args.stale, args.at) {
        _ if args.entry => return get_entry(&clerk, &args),
        (true, _) => get_stale(&clerk, key, args.max_age)?,
        (false, Some(at)) => clerk.get_at(key, Revision(at))?.map(|entry| entry.value),
        (false, None) => clerk.get(key)?,
    };
    let Some(value) = value else { return Ok(Exit::Absent) };
    let end: &[u8] = if args.raw { b"" } else { b"\n" };
    print(&[&value, end])?;
    Ok(Exit::Done)
}

fn get_entry(clerk: &Clerk, args: &GetArgs) -> Outcome {
    let at = args.at.map_or(Revision::NONE, Revision);
    let Some(entry) = clerk.get_at(bytes(&args.key), at)? else { return Ok(Exit::Absent) };
    print(&[&json::line(&EntryJson::whole(&entry)), b"\n"])?;
    Ok(Exit::Done)
}

/// Prints the age to standard error: standard output is for the value alone.
fn get_stale(
    clerk: &Clerk,
    key: &[u8],
    age_max: Option<Duration>,
) -> Result<Option<Bytes>, ClerkError> {
    let Stale { value, age_max } = clerk.get_stale(key, age_max)?;
    eprint_line(&format_args!("at most {:.3} s old", age_max.as_secs_f64()));
    Ok(value)
}

/// An answered read went through a leader that a majority follows, so the cluster serves reads. It
/// also serves writes if that leader's disk takes them. In a cluster that has just begun, the last
/// member may not vote yet, and a script that kills another one next would find no majority.
pub(super) fn wait_ready(common: &Common) -> Outcome {
    let not_ready = |why: &dyn Display| Failure::not_applied(format!("not ready: {why}"));
    let (endpoints, clerk) = (common.endpoints()?, common.clerk()?);
    let deadline = Instant::now() + common.timeout();
    let join_deadline = deadline.min(Instant::now() + JOIN_GRACE);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        clerk
            .clone()
            .with_timeout(left)
            .get(b"")
            .map_err(|error| not_ready(&ErrorChain(&error)))?;
        let deadline_of_poll = deadline.min(Instant::now() + POLL_TIMEOUT);
        let cluster = ask_cluster(&endpoints, deadline_of_poll);
        if let Some(stranger) = cluster.strangers().into_iter().next() {
            return Err(not_ready(&format!("these are several clusters: {stranger}")));
        }
        let answers = cluster.answers;
        match status::leader_that_cannot_write(&answers) {
            Some((id, disk)) if Instant::now() + POLL_PAUSE >= deadline => {
                return Err(not_ready(&format!("the disk of the leader, member {id}, is {disk}")));
            }
            None if !status::anybody_joins(&answers)
                || Instant::now() + POLL_PAUSE >= join_deadline =>
            {
                return Ok(Exit::Done);
            }
            _ => {}
        }
        thread::sleep(POLL_PAUSE);
    }
}

/// The bytes of the argument, which need not be text.
pub(super) fn bytes(arg: &OsStr) -> &[u8] {
    arg.as_encoded_bytes()
}

pub(super) fn value(arg: &OsStr) -> Result<Vec<u8>, Failure> {
    if arg == "-" { read_value(&mut io::stdin().lock()) } else { Ok(bytes(arg).to_vec()) }
}

fn read_value(input: &mut impl Read) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let read = input.take(VALUE_LEN_MAX as u64 + 1).read_to_end(&mut value);
    read.map_err(|error| {
        Failure::usage(format!("cannot read the value from standard input: {error}"))
    })?;
    if value.len() > VALUE_LEN_MAX {
        return Err(Failure::usage(format!(
            "standard input is over the limit of {VALUE_LEN_MAX} bytes for a value"
        )));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_up_to_its_limit() {
        let whole = read_value(&mut io::repeat(0xff).take(VALUE_LEN_MAX as u64));
        assert_eq!(
            whole.map(|value| value.len()).map_err(|failure| failure.line),
            Ok(VALUE_LEN_MAX)
        );
        let endless = read_value(&mut io::repeat(b'x'));
        assert!(
            endless.is_err_and(
                |failure| failure.exit == Exit::Usage && failure.line.contains("15728640")
            )
        );
    }
}
