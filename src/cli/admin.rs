//! `transfer` and `snapshot`: give members an order, then wait until it is carried out.

use std::thread;
use std::time::{Duration, Instant};

use syncraft::ErrorChain;
use syncraft::clerk::Endpoint;
use syncraft::rpc::{CallError, Channel, StatusCode};
use syncraft::server::proto::{AdminRpcStub, SnapshotArgs, StatusReply, TransferArgs};

use super::args::{self, Common};
use super::asking::{Answer, ask_all, ask_cluster, check_protocol, with_reason};
use super::output::eprint_line;
use super::{Exit, Failure, Outcome};

/// The pause between two polls.
const POLL_PAUSE: Duration = Duration::from_millis(20);
/// The pause between two orders to hand over: longer than a transfer takes.
const ASK_PAUSE: Duration = Duration::from_millis(500);

/// Asks the current leader to hand over until member `args.id` leads.
pub(super) fn transfer(common: &Common, args: args::TransferArgs) -> Outcome {
    let endpoints = common.endpoints()?;
    let deadline = Instant::now() + common.timeout();
    let mut ask_at = Instant::now();
    // What the last round that found a leader has found. A later one may have no time for answers.
    let mut found = None;
    loop {
        let answers = ask_cluster(&endpoints, deadline).answers;
        check_protocol(&answers)?;
        let Some((addr, leader)) = leader(&answers) else {
            let nobody = || with_reason("no member leads", &answers);
            wait(deadline, &found.clone().unwrap_or_else(nobody))?;
            continue;
        };
        if leader.id == args.id {
            return Ok(Exit::Done);
        }
        // A leader gives up after an election timeout, for example because the heir has not caught
        // up. So it is asked again.
        if Instant::now() >= ask_at {
            ask_at = Instant::now() + ASK_PAUSE;
            let order = TransferArgs { to: args.id };
            if let Err(error) = stub(addr).transfer(&order, deadline) {
                return Err(match (&error, found) {
                    (CallError::TimedOut { .. }, Some(found)) => out_of_time(&found),
                    _ => refused(error),
                });
            }
        }
        let words = why_not_yet(&answers, leader.id, args.id);
        wait(deadline, &words)?;
        found = Some(words);
    }
}

/// A leader refuses the order only if nobody can carry it out: the mistake is in the command.
fn refused(error: CallError) -> Failure {
    match error {
        CallError::Refused { status, .. } if status.code == StatusCode::BadArguments => {
            Failure::usage(status.message)
        }
        error => error.into(),
    }
}

fn why_not_yet(answers: &[Answer], leader: u64, heir: u64) -> String {
    let is_heir = |answer: &&Answer| answer.endpoint.id.is_some_and(|id| id.0 == heir);
    match answers.iter().find(is_heir).map(|answer| &answer.reply) {
        Some(Err(error)) => {
            format!(
                "member {leader} still leads, and member {heir} does not answer: {}",
                ErrorChain(error)
            )
        }
        _ => format!("member {leader} still leads"),
    }
}

/// Orders every member that answers to write a snapshot, and waits for all of them.
pub(super) fn snapshot(common: &Common) -> Outcome {
    let endpoints = common.endpoints()?;
    let deadline = Instant::now() + common.timeout();
    let mut wanted: Vec<(Endpoint, u64)> = Vec::new();
    let answers = ask_cluster(&endpoints, deadline).answers;
    check_protocol(&answers)?;
    let nobody = with_reason("no member answers", &answers);
    for answer in answers {
        let endpoint = answer.endpoint;
        let order = |_| stub(&endpoint.addr).snapshot(&SnapshotArgs {}, deadline);
        match answer.reply.and_then(order) {
            Ok(reply) => wanted.push((endpoint, reply.index)),
            Err(error) => eprint_line(&format_args!("syncraft: {}", ErrorChain(&error))),
        }
    }
    if wanted.is_empty() {
        return Err(Failure::not_applied(nobody));
    }
    while let Some((endpoint, index)) = wanted.pop() {
        let addr = endpoint.addr.clone();
        let only = [endpoint];
        let has_it = |answer: &Answer| {
            answer.reply.as_ref().is_ok_and(|status| status.snapshot_index >= index)
        };
        while !ask_all(&only, deadline).iter().all(has_it) {
            wait(deadline, &format!("{addr} has no snapshot up to entry {index}"))?;
        }
    }
    Ok(Exit::Done)
}

fn wait(deadline: Instant, why: &str) -> Result<(), Failure> {
    // Stops a little early: a poll without time left would reach no member.
    if Instant::now() + 2 * POLL_PAUSE >= deadline {
        return Err(out_of_time(why));
    }
    thread::sleep(POLL_PAUSE);
    Ok(())
}

fn out_of_time(why: &str) -> Failure {
    Failure::not_applied(format!("out of time: {why}"))
}

fn stub(addr: &str) -> AdminRpcStub {
    AdminRpcStub::new(Channel::builder(addr).lazy())
}

/// The member that says it leads in the latest term, with its address.
fn leader(answers: &[Answer]) -> Option<(&str, &StatusReply)> {
    let replies = answers.iter().filter_map(|answer| {
        let status = answer.reply.as_ref().ok()?;
        Some((answer.endpoint.addr.as_str(), status))
    });
    replies.filter(|(_, status)| status.role == "leader").max_by_key(|(_, status)| status.term)
}
