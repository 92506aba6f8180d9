//! Before the data of a member is discarded: can the others be counted on to fill it?
//!
//! A member that is rebuilt waits until all others have answered, so it is better to say who is
//! missing while the data is still there. If one of the others is being filled itself, the data
//! here may be needed for a majority.
//!
//! The list of addresses is only where to look: who the others are stands in the newest
//! configuration of those who answer. Where nobody knows of one, they are those of the list.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use super::error::StartError;
use super::proto::{AdminRpcStub, MembersReply, StatusArgs, StatusReply};
use crate::ErrorChain;
use crate::members::Members;
use crate::raft::MemberId;
use crate::rpc::{CallError, Channel};

/// How long each other member may take to answer, and to get its vote.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a member that does not vote yet is asked again.
const JOINING_PAUSE: Duration = Duration::from_millis(50);

/// What was said at each address.
type Answers = BTreeMap<String, Result<StatusReply, CallError>>;

/// Checks that all other members answer, and vote. `list` says where to look for them. `cluster_id`
/// is that of the data, if it is known.
pub(super) fn check_others(
    own: MemberId,
    list: &Members,
    cluster_id: Option<u64>,
) -> Result<(), StartError> {
    let mut cluster_id = cluster_id;
    let mut answers = Answers::new();
    for (id, addr) in list.iter().filter(|(id, _)| *id != own) {
        let answer = ask(addr);
        if let Ok(reply) = &answer {
            check_cluster(&mut cluster_id, reply).map_err(|reason| away(id, addr, reason))?;
        }
        answers.insert(addr.to_owned(), answer);
    }
    loop {
        let configuration = newest(&answers);
        let index = configuration.as_ref().map_or(0, |it| it.index);
        let others = match configuration {
            Some(configuration) => others(own, &configuration)?,
            None => list.iter().map(|(id, addr)| (id, addr.to_owned())).collect(),
        };
        for (id, addr) in others.into_iter().filter(|(id, _)| *id != own) {
            let mut check_at = |addr: &str| {
                let answer = answers.entry(addr.to_owned()).or_insert_with(|| ask(addr));
                check(id, answer, &mut cluster_id).map_err(|reason| away(id, addr, reason))
            };
            // Who has just moved is where the list says, and not yet where the configuration says.
            let listed = list.addr(id).filter(|listed| *listed != addr);
            match (check_at(&addr), listed) {
                (Err(_), Some(listed)) => check_at(listed)?,
                (found, _) => found?,
            }
        }
        // One of them may know a newer configuration than those of the list.
        if newest(&answers).is_none_or(|it| it.index <= index) {
            return Ok(());
        }
    }
}

/// Checks that member `id` has given this answer, and can be counted on.
fn check(
    id: MemberId,
    answer: &Result<StatusReply, CallError>,
    cluster_id: &mut Option<u64>,
) -> Result<(), String> {
    match answer {
        Ok(reply) if reply.id != id.0 => Err(format!("the member there is {}", reply.id)),
        Ok(reply) if reply.is_joining => {
            Err("it is being filled itself, and has no vote until then".to_owned())
        }
        Ok(reply) => check_cluster(cluster_id, reply),
        Err(error) => Err(ErrorChain(error).to_string()),
    }
}

/// Checks that a member is of this cluster, and if that was not known, takes over the member's.
fn check_cluster(cluster_id: &mut Option<u64>, reply: &StatusReply) -> Result<(), String> {
    let found = reply.cluster_id;
    match *cluster_id {
        _ if found == 0 => Ok(()),
        Some(expected) if found != expected => {
            Err(format!("the member there is of cluster {found:016x}, and not of {expected:016x}"))
        }
        _ => {
            *cluster_id = Some(found);
            Ok(())
        }
    }
}

fn away(id: MemberId, addr: &str, reason: String) -> StartError {
    StartError::OtherAway { id, addr: addr.to_owned(), reason }
}

/// The newest configuration of those who answer.
fn newest(answers: &Answers) -> Option<MembersReply> {
    let replies = answers.values().filter_map(|answer| answer.as_ref().ok());
    let known = replies.filter_map(|reply| reply.configuration.as_ref());
    known.filter(|it| it.index != 0).max_by_key(|it| (it.index, it.term)).cloned()
}

/// All members but this one.
fn others(
    own: MemberId,
    configuration: &MembersReply,
) -> Result<Vec<(MemberId, String)>, StartError> {
    let (own_entry, others): (Vec<_>, Vec<_>) =
        configuration.members.iter().partition(|it| it.id == own.0);
    match (own_entry.is_empty(), others.is_empty()) {
        (false, true) => Err(StartError::NobodyToRebuildFrom { id: own }),
        (true, false) => {
            let other = others[0];
            let reason = format!("of its cluster, this one, {own}, is no member");
            Err(away(MemberId(other.id), &other.addr, reason))
        }
        _ => Ok(others.iter().map(|it| (MemberId(it.id), it.addr.clone())).collect()),
    }
}

fn ask(addr: &str) -> Result<StatusReply, CallError> {
    let channel = Channel::builder(addr).connect_timeout(OTHERS_TIMEOUT).lazy();
    let (stub, deadline) = (AdminRpcStub::new(channel), Instant::now() + OTHERS_TIMEOUT);
    // One that has just started for the first time needs a moment.
    loop {
        let reply = stub.status(&StatusArgs {}, deadline)?;
        if !reply.is_joining || Instant::now() + JOINING_PAUSE >= deadline {
            return Ok(reply);
        }
        thread::sleep(JOINING_PAUSE);
    }
}
