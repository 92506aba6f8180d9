//! Who the members are, as this member tells those who ask.

use std::collections::BTreeMap;

use super::super::proto::{MemberEntry, MemberProgress, MembersReply};
use crate::kv::Store;
use crate::node::{NodeHandle, PeerProgress};
use crate::raft::{MemberId, Membership, RoleName, Status};

/// Who the members are, as far as this member knows. Before there is a configuration, they are
/// those of the list.
pub(in super::super) fn view(node: &NodeHandle<Store>) -> MembersReply {
    let (members, status) = (node.members(), node.status());
    let listed = || node.addresses().membership();
    let membership = members.latest.as_ref().map_or_else(listed, |it| it.membership.clone());
    let progress = Progress::of(node, &status);
    let entry = |(id, addr): (MemberId, &str)| MemberEntry {
        id: id.0,
        addr: addr.to_owned(),
        kind: kind(&membership, id).to_owned(),
        progress: progress.as_ref().map(|progress| progress.of_member(id)),
    };
    MembersReply {
        id: status.id.0,
        term: status.role.term.0,
        leader: status.role.leader.map_or(0, |leader| leader.0),
        cluster_id: node.cluster_id(),
        index: members.index.0,
        is_settled: members.settled().is_some(),
        last_index: status.last_index.0,
        commit_index: status.commit_index.0,
        level: node.level().unwrap_or(0),
        members: node.addresses().iter().map(entry).collect(),
        asker_is_removed: false,
    }
}

fn kind(membership: &Membership, id: MemberId) -> &'static str {
    let was_voter = membership.outgoing().any(|it| it == id);
    match (membership.will_vote(id), was_voter) {
        (true, false) if membership.is_joint() => "incoming",
        (true, _) => "voter",
        (false, true) => "outgoing",
        (false, false) => "learner",
    }
}

/// What a leader knows of the others.
struct Progress {
    own: Status,
    peers: BTreeMap<MemberId, PeerProgress>,
    levels: BTreeMap<MemberId, u32>,
}

impl Progress {
    /// `None`: this member does not lead.
    fn of(node: &NodeHandle<Store>, own: &Status) -> Option<Progress> {
        let is_leader = own.role.role == RoleName::Leader;
        let (peers, levels) = (node.progress(), node.announced_levels());
        is_leader.then_some(Progress { own: *own, peers, levels })
    }

    fn of_member(&self, id: MemberId) -> MemberProgress {
        let level_max = self.levels.get(&id).copied().unwrap_or(0);
        if id == self.own.id {
            let match_index = self.own.durable_index.0;
            return MemberProgress { match_index, is_heard: true, level_max, ..Default::default() };
        }
        // A peer that has only just become one is not among them yet.
        let Some(peer) = self.peers.get(&id) else {
            return MemberProgress { level_max, ..Default::default() };
        };
        MemberProgress {
            match_index: peer.match_index.0,
            is_heard: peer.is_heard,
            level_max,
            snapshot_sent_bytes: peer.snapshot.map_or(0, |snapshot| snapshot.sent_bytes),
            snapshot_len_bytes: peer.snapshot.map_or(0, |snapshot| snapshot.len_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joint_configuration_says_who_comes_and_who_goes() {
        let ids = |ids: &[u64]| ids.iter().copied().map(MemberId).collect::<Vec<_>>();
        let settled = Membership::new(ids(&[1, 2])).with_learners(ids(&[3]));
        let joint = Membership::new(ids(&[1, 3])).joint_with(ids(&[1, 2])).with_learners(ids(&[4]));
        let kinds = |membership: &Membership| {
            membership.iter().map(|id| kind(membership, id)).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&settled), ["voter", "voter", "learner"]);
        assert_eq!(kinds(&joint), ["voter", "outgoing", "incoming", "learner"]);
    }
}
