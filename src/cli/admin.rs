//! `transfer` and `snapshot`: an order to members, and a look at whether it was carried out.

use std::thread;
use std::time::{Duration, Instant};

use syncraft::clerk::Endpoints;
use syncraft::rpc::Channel;
use syncraft::server::proto::{AdminRpcStub, SnapshotArgs, StatusReply, TransferArgs};

use super::args::{self, Common};
use super::status::{Answer, ask_all};
use super::{Exit, Failure, Outcome};

/// Between looks.
const POLL_PAUSE: Duration = Duration::from_millis(20);
/// Between orders to hand over: longer than a transfer takes.
const ASK_PAUSE: Duration = Duration::from_millis(500);

/// Asks whoever leads until the one that should lead does.
pub(super) fn transfer(common: &Common, args: args::TransferArgs) -> Outcome {
    let endpoints = common.endpoints()?;
    let deadline = Instant::now() + common.timeout();
    let mut ask_at = Instant::now();
    loop {
        let answers = ask_all(&endpoints, deadline);
        let Some((addr, leader)) = leader(&answers) else {
            wait(deadline, "nobody leads")?;
            continue;
        };
        if leader.id == args.id {
            return Ok(Exit::Done);
        }
        // A leader gives up after an election timeout, as it must if the heir has yet to catch up: then it is asked again.
        if Instant::now() >= ask_at {
            ask_at = Instant::now() + ASK_PAUSE;
            let order = TransferArgs { to: args.id };
            let asked = stub(addr).transfer(&order, deadline);
            asked.map_err(|error| Failure::not_applied(error.to_string()))?;
        }
        wait(deadline, &format!("member {} still leads", leader.id))?;
    }
}

/// Every member that answers; those that do not have nothing to write.
pub(super) fn snapshot(common: &Common) -> Outcome {
    let endpoints = common.endpoints()?;
    let deadline = Instant::now() + common.timeout();
    let mut wanted: Vec<(String, u64)> = Vec::new();
    for answer in ask_all(&endpoints, deadline) {
        let addr = answer.endpoint.addr;
        match answer.reply.and_then(|_| stub(&addr).snapshot(&SnapshotArgs {}, deadline)) {
            Ok(reply) => wanted.push((addr, reply.index)),
            Err(error) => log::warn!("{error}"),
        }
    }
    if wanted.is_empty() {
        return Err(Failure::not_applied("no member answers"));
    }
    while let Some((addr, index)) = wanted.pop() {
        let only: Endpoints =
            addr.parse().map_err(|error| Failure::usage(format!("--members: {error}")))?;
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
    // Before the last moment: a look that has no time left sees nobody.
    if Instant::now() + 2 * POLL_PAUSE >= deadline {
        return Err(Failure::not_applied(format!("not done in time: {why}")));
    }
    thread::sleep(POLL_PAUSE);
    Ok(())
}

fn stub(addr: &str) -> AdminRpcStub {
    AdminRpcStub::new(Channel::builder(addr).lazy())
}

/// Whoever says that it leads, in the latest term.
fn leader(answers: &[Answer]) -> Option<(&str, &StatusReply)> {
    let replies = answers.iter().filter_map(|answer| {
        let status = answer.reply.as_ref().ok()?;
        Some((answer.endpoint.addr.as_str(), status))
    });
    replies.filter(|(_, status)| status.role == "leader").max_by_key(|(_, status)| status.term)
}
