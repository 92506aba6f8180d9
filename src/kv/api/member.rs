//! What fronts tell of the member itself, and ask of it.

use super::Api;
use crate::kv::model::Revision;
use crate::members::Members;
use crate::raft::{Index, MemberId, Status};

impl Api {
    /// Where the member stands.
    pub fn status(&self) -> Status {
        self.shared.node.status()
    }

    /// The last entry that the member has applied.
    pub fn applied_index(&self) -> Index {
        self.shared.node.applied_index()
    }

    /// The revision of this member's state, which may be old. [`Revision::NONE`] while the member
    /// stops.
    pub fn revision(&self) -> Revision {
        let revision = self.shared.node.inspect(|store| store.revision());
        revision.unwrap_or(Revision::NONE)
    }

    /// Whether this member learns and does not vote, by the configuration in force.
    pub fn is_learner(&self, id: MemberId) -> bool {
        let latest = self.shared.node.members().latest;
        latest.is_some_and(|it| it.membership.learners().any(|learner| learner == id))
    }

    /// The id of the cluster; 0 while this member does not know it.
    pub fn cluster_id(&self) -> u64 {
        self.shared.node.cluster_id()
    }

    /// All members of the cluster, at the addresses that clients reach.
    pub fn members(&self) -> Members {
        self.shared.node.addresses()
    }

    /// The same, and the entry of the committed configuration that says so; 0 if the newest one
    /// that is known may still change.
    pub fn members_at(&self) -> (Members, Index) {
        let known = self.shared.node.members();
        let certain = known.latest.as_ref().filter(|it| known.committed.as_ref() == Some(it));
        let pairs =
            certain.iter().flat_map(|it| it.addrs()).map(|(id, addr)| (id, addr.to_owned()));
        match Members::new(pairs) {
            Ok(members) => (members, known.index),
            Err(_) => (self.members(), Index::ZERO),
        }
    }

    /// Begins to hand the leadership over to this member, if this one leads. Its
    /// [`status`](Api::status) tells whether it has happened.
    pub fn transfer(&self, to: MemberId) {
        self.shared.node.transfer(Some(to));
    }
}
