//! Asks an address who answers there, before it becomes a member's.
//!
//! A member under a wrong address is a member that is down: it would cost the cluster a part of its
//! majority, and nobody would see the slip of the pen.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::super::proto::{AdminRpcStub, StatusArgs, StatusReply};
use crate::ErrorChain;
use crate::kv::Store;
use crate::node::NodeHandle;
use crate::raft::MemberId;
use crate::rpc::{CallError, Channel};

/// How long an address has to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a newcomer that is just starting has to answer, and to hear from its cluster.
const HEAR_TIMEOUT: Duration = Duration::from_secs(3);

/// The pause between two questions to such a newcomer.
const HEAR_PAUSE: Duration = Duration::from_millis(50);

/// What is known of the present address of a member that is to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    /// The member may answer there, too, if it is the same process.
    MayBeIt,
    /// Then it is not moved.
    MustBeLost,
}

/// Whoever answers at the address.
pub(super) fn ask(addr: &str) -> Result<StatusReply, CallError> {
    let channel = Channel::builder(addr).connect_timeout(ASK_TIMEOUT).lazy();
    AdminRpcStub::new(channel).status(&StatusArgs {}, Instant::now() + ASK_TIMEOUT)
}

/// Checks that at this address member `id` waits to be added to this cluster. Returns the random
/// number of its data directory.
pub(super) fn newcomer(
    node: &NodeHandle<Store>,
    id: MemberId,
    addr: &str,
    deadline: Instant,
) -> Result<u64, String> {
    let own = Own { cluster_id: node.cluster_id(), level: node.level().unwrap_or(0) };
    let deadline = deadline.min(Instant::now() + HEAR_TIMEOUT);
    loop {
        let answer = ask(addr).map_err(|error| nobody(id, addr, &error));
        match answer.and_then(|answer| own.check_newcomer(id, addr, &answer)) {
            Ok(directory) => return Ok(directory),
            // It may be about to start.
            Err(_) if Instant::now() + HEAR_PAUSE < deadline => thread::sleep(HEAR_PAUSE),
            Err(words) => return Err(words),
        }
    }
}

/// Whether this member of the cluster answers. It may still have to be filled.
pub(super) fn answers(node: &NodeHandle<Store>, id: MemberId) -> bool {
    id == node.status().id || asked(node, id).is_some()
}

/// Whether a majority of these voters answers. One that has lost its data has no vote until it is
/// filled. `newcomer` has answered a moment ago.
pub(super) fn has_majority(
    node: &NodeHandle<Store>,
    voters: BTreeSet<MemberId>,
    newcomer: Option<MemberId>,
) -> bool {
    let known: BTreeSet<MemberId> = newcomer.into_iter().chain([node.status().id]).collect();
    is_live(&voters, &known, |id| asked(node, id))
}

/// Whether a majority of the voters is known to answer, or answers now. No more of them are asked
/// than are needed.
fn is_live(
    voters: &BTreeSet<MemberId>,
    known: &BTreeSet<MemberId>,
    ask: impl Fn(MemberId) -> Option<StatusReply>,
) -> bool {
    let needed = voters.len() / 2 + 1;
    let has_data = |id: &MemberId| ask(*id).is_some_and(|answer| !answer.is_joining);
    let others = voters.difference(known).filter(|id| has_data(id));
    !voters.is_empty() && voters.intersection(known).chain(others).take(needed).count() == needed
}

fn asked(node: &NodeHandle<Store>, id: MemberId) -> Option<StatusReply> {
    let answer = node.reach(id).and_then(|addr| ask(&addr).ok());
    answer.filter(|answer| answer.id == id.0)
}

/// Checks that at this address member `id` of this cluster answers, and nobody else who says so at
/// its present one.
pub(super) fn moved(
    node: &NodeHandle<Store>,
    id: MemberId,
    addr: &str,
    present: Present,
) -> Result<(), String> {
    let answer = ask(addr).map_err(|error| {
        let words = ErrorChain(&error).to_string();
        format!("nobody answers at {addr}, so member {id} is not moved there: {words}")
    })?;
    let own = Own { cluster_id: node.cluster_id(), level: 0 };
    own.check_moved(id, addr, &answer)?;
    let Some(before) = node.reach(id) else { return Ok(()) };
    match ask(&before) {
        Ok(other) if other.id == id.0 && other.cluster_id == own.cluster_id => {
            check_present(id, &before, present, &answer, &other)
        }
        _ => Ok(()),
    }
}

/// `answer` is of the new address, `other` of the present one.
fn check_present(
    id: MemberId,
    before: &str,
    present: Present,
    answer: &StatusReply,
    other: &StatusReply,
) -> Result<(), String> {
    match (answer.instance == other.instance, present) {
        (false, _) => Err(format!(
            "two processes say that they are member {id}: one at the new address, one at {before}. \
             Stop one of them. If it runs on a copy of the other one's data directory, delete the \
             copy"
        )),
        (true, Present::MustBeLost) => Err(format!("member {id} is reached at {before}")),
        (true, Present::MayBeIt) => Ok(()),
    }
}

fn nobody(id: MemberId, addr: &str, error: &CallError) -> String {
    let words = ErrorChain(error);
    format!(
        "nobody answers at {addr}, so member {id} is not added: {words}. Start it first: syncraft \
         server --id {id} --join LIST --listen HOST:PORT --data-dir DIR, where LIST has members of \
         this cluster"
    )
}

fn hears_nobody(id: MemberId, addr: &str) -> String {
    format!(
        "member {id} at {addr} has had no answer from this cluster: start it again with a --join \
         list of this cluster's members"
    )
}

/// What this cluster is.
struct Own {
    cluster_id: u64,
    level: u32,
}

impl Own {
    /// Returns the random number of its data directory.
    fn check_newcomer(
        &self,
        id: MemberId,
        addr: &str,
        answer: &StatusReply,
    ) -> Result<u64, String> {
        self.check_id(id, addr, answer)?;
        if !answer.waits_to_be_added {
            return Err(format!(
                "member {id} at {addr} does not wait to be added: start it with --join and an \
                 empty data directory"
            ));
        }
        let mut heard = answer.heard_clusters.iter();
        if let Some(other) = heard.find(|heard| **heard != self.cluster_id) {
            return Err(format!(
                "member {id} at {addr} was started to join cluster {other:016x}, and this is \
                 cluster {:016x}: start it again with a --join list of this cluster's members",
                self.cluster_id
            ));
        }
        if answer.level_max < self.level {
            return Err(format!(
                "member {id} at {addr} runs version {}, which knows feature levels up to {}, and \
                 the cluster is at level {}: start it with a newer version",
                answer.version, answer.level_max, self.level
            ));
        }
        match answer.heard_clusters.is_empty() {
            true => Err(hears_nobody(id, addr)),
            false => Ok(answer.directory),
        }
    }

    fn check_moved(&self, id: MemberId, addr: &str, answer: &StatusReply) -> Result<(), String> {
        self.check_id(id, addr, answer)?;
        if answer.waits_to_be_added {
            return Err(format!(
                "member {id} at {addr} waits to be added to a cluster, so it is not this cluster's \
                 member {id}"
            ));
        }
        Ok(())
    }

    fn check_id(&self, id: MemberId, addr: &str, answer: &StatusReply) -> Result<(), String> {
        if answer.id != id.0 {
            return Err(format!("at {addr}, member {} answers, not member {id}", answer.id));
        }
        // 0: it does not know yet.
        match answer.cluster_id {
            0 => Ok(()),
            cluster_id if cluster_id == self.cluster_id => Ok(()),
            other => Err(format!(
                "member {id} at {addr} is of cluster {other:016x}, and this is cluster {:016x}",
                self.cluster_id
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Own = Own { cluster_id: 7, level: 2 };

    fn waiting() -> StatusReply {
        StatusReply {
            id: 4,
            waits_to_be_added: true,
            heard_clusters: vec![7],
            level_max: 2,
            directory: 1,
            ..Default::default()
        }
    }

    #[test]
    fn only_a_newcomer_that_waits_for_this_cluster_is_added() {
        let check = |answer: StatusReply, expected: Option<&str>| {
            let found = OWN.check_newcomer(MemberId(4), "d:4", &answer);
            match expected {
                None => assert_eq!(found, Ok(1)),
                Some(words) => {
                    let said = found.expect_err("it must be refused");
                    assert!(said.contains(words), "{said}");
                }
            }
        };
        check(waiting(), None);
        let alone = StatusReply { heard_clusters: vec![], ..waiting() };
        check(alone, Some("no answer from this cluster"));
        check(StatusReply { id: 5, ..waiting() }, Some("member 5 answers, not member 4"));
        let stranger = StatusReply { cluster_id: 8, waits_to_be_added: false, ..waiting() };
        check(stranger, Some("is of cluster 0000000000000008"));
        let member = StatusReply { cluster_id: 7, waits_to_be_added: false, ..waiting() };
        check(member, Some("does not wait to be added"));
        let elsewhere = StatusReply { heard_clusters: vec![7, 9], ..waiting() };
        check(elsewhere, Some("to join cluster 0000000000000009"));
        check(StatusReply { level_max: 1, ..waiting() }, Some("levels up to 1"));
        // A version without configurations.
        let old = StatusReply { id: 4, level_max: 0, ..Default::default() };
        check(old, Some("does not wait to be added"));
    }

    #[test]
    fn a_member_that_has_lost_its_data_counts_for_no_majority() {
        let answers = |id: MemberId| {
            let is_joining = id == MemberId(3);
            (id != MemberId(4)).then(|| StatusReply { id: id.0, is_joining, ..Default::default() })
        };
        let ids = |ids: &[u64]| ids.iter().copied().map(MemberId).collect::<BTreeSet<_>>();
        for (voters, known, expected) in [
            (&[1, 2, 5][..], &[1][..], true),
            (&[2, 5], &[1], true),
            (&[1, 3, 4], &[1], false),
            (&[1, 2, 3, 4], &[1], false),
            // A newcomer has answered, and may be starting again by now.
            (&[1, 3], &[1, 3], true),
            (&[1, 4], &[1, 4], true),
            (&[], &[1], false),
        ] {
            assert_eq!(is_live(&ids(voters), &ids(known), answers), expected, "{voters:?}");
        }
    }

    #[test]
    fn only_the_member_itself_is_moved() {
        let check = |answer: StatusReply, is_ok| {
            assert_eq!(OWN.check_moved(MemberId(4), "d:4", &answer).is_ok(), is_ok, "{answer:?}");
        };
        let member = StatusReply { id: 4, cluster_id: 7, ..Default::default() };
        check(member.clone(), true);
        check(StatusReply { cluster_id: 0, ..member.clone() }, true);
        check(StatusReply { cluster_id: 8, ..member.clone() }, false);
        check(StatusReply { id: 3, ..member }, false);
        check(waiting(), false);
    }

    #[test]
    fn two_processes_that_say_they_are_one_member_are_told_apart() {
        let of = |instance| StatusReply { id: 4, instance, ..Default::default() };
        let check = |present, other, words: Option<&str>| {
            let found = check_present(MemberId(4), "d:3", present, &of(1), &of(other));
            assert_eq!(found.as_ref().err().is_some(), words.is_some(), "{found:?}");
            assert!(found.err().unwrap_or_default().contains(words.unwrap_or_default()));
        };
        check(Present::MayBeIt, 1, None);
        check(Present::MayBeIt, 2, Some("two processes"));
        check(Present::MustBeLost, 1, Some("is reached at d:3"));
        check(Present::MustBeLost, 2, Some("two processes"));
    }
}
