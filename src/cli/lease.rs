//! `lease grant`, `lease keep-alive`, `lease revoke`, `lease info`, `lease list`.

use std::thread;
use std::time::{Duration, Instant};

use syncraft::ErrorChain;
use syncraft::clerk::{Clerk, ClerkError, ClerkErrorKind};
use syncraft::kv::json::{self, LeaseJson};
use syncraft::kv::model::{LeaseId, Reason};

use super::args::{Common, KeepAliveArgs, LeaseCommand};
use super::output::{Lines, eprint_line, print, print_of_write};
use super::{Exit, Outcome};

/// The bounds of one attempt to keep a lease alive, and of the pause after one that has failed.
const ATTEMPT_MIN: Duration = Duration::from_millis(100);
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) fn run(common: &Common, command: LeaseCommand) -> Outcome {
    let clerk = common.clerk()?;
    match command {
        LeaseCommand::Grant(args) => {
            let lease = clerk.grant_lease(args.ttl, args.id.map(LeaseId))?;
            print_of_write(&[lease.id.to_string().as_bytes(), b"\n"])?;
            Ok(Exit::Done)
        }
        LeaseCommand::KeepAlive(args) => keep_alive(clerk, &args),
        LeaseCommand::Revoke(args) => match clerk.revoke_lease(LeaseId(args.id)) {
            Err(error) if is_absent(&error) => Ok(Exit::Absent),
            result => Ok(result.map(|()| Exit::Done)?),
        },
        LeaseCommand::Info(args) => {
            let Some(lease) = clerk.lease_info(LeaseId(args.id))? else { return Ok(Exit::Absent) };
            print(&[&json::line(&LeaseJson::whole(lease)), b"\n"])?;
            Ok(Exit::Done)
        }
        LeaseCommand::List(args) => {
            let mut lines = Lines::begin();
            for lease in clerk.leases()? {
                let line = match args.json {
                    true => json::line(&LeaseJson::without_keys(&lease)),
                    false => lease.id.to_string().into_bytes(),
                };
                if !lines.print(&[&line, b"\n"])? {
                    break;
                }
            }
            lines.end()?;
            Ok(Exit::Done)
        }
    }
}

fn is_absent(error: &ClerkError) -> bool {
    error.refusal().is_some_and(|refusal| refusal.reason == Reason::NoSuchLease)
}

/// Until the lease is gone, or a member refuses what is asked. If none answers, it goes on: time
/// without a leader does not count for a lease.
fn keep_alive(mut clerk: Clerk, args: &KeepAliveArgs) -> Outcome {
    let ids = [LeaseId(args.id)];
    let Some(ttl) = kept(&clerk.keep_alive(&ids)?) else { return Ok(Exit::Absent) };
    if args.once {
        return Ok(Exit::Done);
    }
    clerk = clerk.with_timeout((ttl / 3).max(ATTEMPT_MIN));
    let (mut last, mut is_told) = (Instant::now(), false);
    thread::sleep(ttl / 3);
    loop {
        let asked = Instant::now();
        match clerk.keep_alive(&ids) {
            Ok(answer) => {
                let Some(ttl) = kept(&answer) else { return Ok(Exit::Absent) };
                (last, is_told) = (asked, false);
                thread::sleep(ttl / 3);
            }
            Err(error) if error.kind() == ClerkErrorKind::Rejected => return Err(error.into()),
            Err(error) => {
                if last.elapsed() > ttl && !std::mem::replace(&mut is_told, true) {
                    let why = ErrorChain(&error);
                    eprint_line(&format_args!("syncraft: not kept alive for {ttl:?}: {why}"));
                }
                thread::sleep((ttl / 10).clamp(PAUSE_MIN, PAUSE_MAX));
            }
        }
    }
}

fn kept(answer: &[Option<Duration>]) -> Option<Duration> {
    answer.first().copied().flatten()
}
