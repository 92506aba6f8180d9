//! `lease grant`, `lease keep-alive`, `lease revoke`, `lease info`, `lease list`.

use std::thread;
use std::time::{Duration, Instant};

use syncraft::clerk::{Clerk, ClerkError};
use syncraft::kv::json::{self, LeaseJson};
use syncraft::kv::model::{LeaseId, Reason};

use super::args::{Common, KeepAliveArgs, LeaseCommand};
use super::output::{Lines, print};
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
            print(&[lease.id.to_string().as_bytes(), b"\n"])?;
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

/// Until the lease is gone, or has not been kept alive for all of its time.
fn keep_alive(mut clerk: Clerk, args: &KeepAliveArgs) -> Outcome {
    let ids = [LeaseId(args.id)];
    let Some(ttl) = kept(&clerk.keep_alive(&ids)?) else { return Ok(Exit::Absent) };
    if args.once {
        return Ok(Exit::Done);
    }
    clerk = clerk.with_timeout((ttl / 3).max(ATTEMPT_MIN));
    let mut last = Instant::now();
    thread::sleep(ttl / 3);
    loop {
        let asked = Instant::now();
        match clerk.keep_alive(&ids) {
            Ok(answer) => {
                let Some(ttl) = kept(&answer) else { return Ok(Exit::Absent) };
                last = asked;
                thread::sleep(ttl / 3);
            }
            Err(error) if last.elapsed() > ttl => return Err(error.into()),
            Err(_) => thread::sleep((ttl / 10).clamp(PAUSE_MIN, PAUSE_MAX)),
        }
    }
}

fn kept(answer: &[Option<Duration>]) -> Option<Duration> {
    answer.first().copied().flatten()
}
