//! `watch`, `wait`: changes as they happen.

use std::ffi::OsString;
use std::process::Command;
use std::time::{Duration, Instant};

use syncraft::clerk::{Clerk, Watch, WatchError};
use syncraft::kv::json::{self, ChangeJson};
use syncraft::kv::model::{Change, KeyRange, Revision};

use super::args::{Common, WaitArgs, WatchArgs};
use super::child::{self, Ended, Runner};
use super::kv::bytes;
use super::output::{print_now, reader_is_gone};
use super::{Exit, Failure, Outcome};

/// How often it is checked whether anybody still reads what is printed.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a key or a value may be in the environment of a COMMAND. The system allows a little
/// more.
const VARIABLE_LEN_MAX: usize = 100_000;

pub(super) fn watch(common: &Common, args: &WatchArgs) -> Outcome {
    let clerk = common.clerk()?;
    let key = bytes(&args.key).to_vec();
    let keys = if args.prefix { KeyRange::prefix(key) } else { KeyRange::key(key) };
    let runner = (!args.command.is_empty()).then(Runner::new).transpose()?;
    let from = args.from.map_or(Revision::NONE, Revision);
    let mut watch = clerk.watch(keys).from(from).start()?;
    let mut left = args.count.unwrap_or(u64::MAX);
    loop {
        let Some(changes) = watch.next_timeout(CHECK_INTERVAL)? else {
            if runner.is_none() && reader_is_gone() {
                return Ok(Exit::Done);
            }
            continue;
        };
        for change in &changes.changes {
            let goes_on = match &runner {
                Some(runner) => run(runner, common, &args.command, change)?,
                None => print(change, args.json)?,
            };
            left -= 1;
            match goes_on {
                Some(exit) => return Ok(exit),
                None if left == 0 => return Ok(Exit::Done),
                None => {}
            }
        }
    }
}

/// Prints a change. `Some`: that was the last one, because nobody reads on.
fn print(change: &Change, json: bool) -> Result<Option<Exit>, Failure> {
    let goes_on = match change {
        _ if json => print_now(&[&json::line(&ChangeJson::whole(change)), b"\n"])?,
        Change::Put { entry, .. } => {
            print_now(&[b"put\t", &entry.key, b"\t", &entry.value, b"\n"])?
        }
        Change::Delete { key, .. } => print_now(&[b"delete\t", key, b"\n"])?,
    };
    Ok((!goes_on).then_some(Exit::Done))
}

/// Runs COMMAND for a change. `Some`: it has failed, or a signal has come that ends programs.
fn run(
    runner: &Runner,
    common: &Common,
    words: &[OsString],
    change: &Change,
) -> Result<Option<Exit>, Failure> {
    let mut command = child::command(common.members()?, words);
    let kind = if change.value().is_some() { "put" } else { "delete" };
    command.env("SYNCRAFT_TYPE", kind);
    command.env("SYNCRAFT_REVISION", change.revision().0.to_string());
    set(&mut command, "SYNCRAFT_KEY", Some(change.key()));
    set(&mut command, "SYNCRAFT_VALUE", change.value().map(|value| &value[..]));
    let input = [&json::line(&ChangeJson::whole(change))[..], b"\n"].concat();
    Ok(match runner.run(command, Some(&input), || true)? {
        Ended { status: 0, signal: None } => None,
        // COMMAND has done what it had to, and the watch was to end as well.
        Ended { status: 0, signal: Some(signal) } => {
            Some(Exit::Command(child::code_of_signal(signal)))
        }
        Ended { status, .. } => Some(Exit::Command(status)),
    })
}

/// Sets a variable, if these bytes can be the value of one. What was there before is not left.
fn set(command: &mut Command, name: &str, value: Option<&[u8]>) {
    match value.filter(|value| value.len() <= VARIABLE_LEN_MAX && !value.contains(&0)) {
        Some(value) => command.env(name, child::os(value)),
        None => command.env_remove(name),
    };
}

pub(super) fn wait(common: &Common, args: &WaitArgs) -> Outcome {
    let (clerk, deadline) = (common.clerk()?, Instant::now() + common.timeout());
    let left = || deadline.saturating_duration_since(Instant::now());
    loop {
        // What comes between the watch and the read is seen twice, and nothing is missed.
        let clerk = clerk.clone().with_timeout(left());
        let mut watch = clerk.watch(KeyRange::key(bytes(&args.key).to_vec())).start()?;
        match wait_with(&clerk, &mut watch, args, &left)? {
            Waited::ItIsSo => return Ok(Exit::Done),
            Waited::InVain => {
                let words = "the time ran out before it was so";
                return Err(Failure::not_applied(words));
            }
            Waited::Forgotten => {}
        }
    }
}

/// How a watch for something to be so has ended.
enum Waited {
    ItIsSo,
    InVain,
    /// Changes were forgotten before they were seen.
    Forgotten,
}

fn wait_with(
    clerk: &Clerk,
    watch: &mut Watch,
    args: &WaitArgs,
    left: &impl Fn() -> Duration,
) -> Result<Waited, Failure> {
    if is_so(args, clerk.get(bytes(&args.key))?.as_deref()) {
        return Ok(Waited::ItIsSo);
    }
    loop {
        match watch.next_timeout(left()) {
            Ok(Some(changes)) => {
                if changes.changes.iter().any(|it| is_so(args, it.value().map(|it| &it[..]))) {
                    return Ok(Waited::ItIsSo);
                }
            }
            Ok(None) => return Ok(Waited::InVain),
            Err(error @ WatchError::NotServed(_)) if error.is_final() => return Err(error.into()),
            Err(WatchError::NotServed(_)) if !left().is_zero() => {}
            Err(error @ WatchError::NotServed(_)) => return Err(error.into()),
            Err(WatchError::Refused(refusal)) => return Err(WatchError::Refused(refusal).into()),
            Err(_) => return Ok(Waited::Forgotten),
        }
    }
}

fn is_so(args: &WaitArgs, value: Option<&[u8]>) -> bool {
    match &args.equals {
        Some(wanted) => value == Some(bytes(wanted)),
        None => value.is_some() != args.absent,
    }
}
