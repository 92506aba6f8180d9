//! Which cluster a member belongs to, and whose messages it takes.
//!
//! A cluster gets its id with its first configuration. Until a member knows that id, it goes by the
//! hash of the list of members with which it was first started. So two clusters that were begun
//! with the same list do not talk to each other once they have their ids.
//!
//! | sender knows the id | receiver knows it | the message is taken if |
//! |---|---|---|
//! | yes | yes | the ids are equal |
//! | otherwise | | the hashes are equal |
//!
//! A member of a version without configurations sends no hash: its id is the hash of its first
//! list.

use std::sync::atomic::{AtomicU64, Ordering};

use super::proto::Envelope;
use crate::raft::MemberId;

/// A cluster, as far as a member knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Affiliation {
    /// 0: not known yet.
    pub(super) cluster_id: u64,
    /// The hash of the list of members at the first start.
    pub(super) list_id: u64,
}

impl Affiliation {
    /// What the sender of a request says about itself.
    pub(super) fn of(envelope: Envelope) -> Affiliation {
        let Envelope { cluster_id, list_id, .. } = envelope;
        let list_id = if list_id == 0 { cluster_id } else { list_id };
        Affiliation { cluster_id, list_id }
    }

    /// Whether the two can be of the same cluster.
    pub(super) fn is_compatible(self, other: Affiliation) -> bool {
        match self.cluster_id != 0 && other.cluster_id != 0 {
            true => self.cluster_id == other.cluster_id,
            false => self.list_id == other.list_id,
        }
    }

    /// For people.
    pub(super) fn words(self) -> String {
        match self.cluster_id {
            0 => format!("a cluster that begins with list {:016x}", self.list_id),
            id => format!("cluster {id:016x}"),
        }
    }
}

/// The cluster of a running member, which it may learn while it runs.
pub(super) struct Identity {
    own: MemberId,
    cluster_id: AtomicU64,
    list_id: u64,
    /// A member of another cluster that counts this member among its own; 0: none has called.
    called_by: AtomicU64,
}

impl Identity {
    pub(super) fn new(own: MemberId, Affiliation { cluster_id, list_id }: Affiliation) -> Identity {
        let cluster_id = AtomicU64::new(cluster_id);
        Identity { own, cluster_id, list_id, called_by: AtomicU64::new(0) }
    }

    /// A member of another cluster has taken this one for a member of its own.
    pub(super) fn called(&self, from: MemberId) {
        self.called_by.store(from.0, Ordering::Release);
    }

    /// The last one that has.
    pub(super) fn called_by(&self) -> Option<MemberId> {
        Some(MemberId(self.called_by.load(Ordering::Acquire))).filter(|id| id.0 != 0)
    }

    /// This member.
    pub(super) fn own(&self) -> MemberId {
        self.own
    }

    pub(super) fn affiliation(&self) -> Affiliation {
        let cluster_id = self.cluster_id.load(Ordering::Acquire);
        Affiliation { cluster_id, list_id: self.list_id }
    }

    /// The cluster's id has become known. False if this member is of another one: it has taken a
    /// cluster that began with the same list for its own.
    #[must_use]
    pub(super) fn learn(&self, cluster_id: u64) -> bool {
        let taken = |before| (before == 0).then_some(cluster_id);
        match self.cluster_id.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken) {
            Ok(_) => true,
            Err(before) => before == cluster_id,
        }
    }

    /// What a request to `to` says about its sender.
    pub(super) fn envelope(&self, to: MemberId) -> Envelope {
        let Affiliation { cluster_id, list_id } = self.affiliation();
        Envelope { cluster_id, from: self.own.0, to: to.0, list_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_count_where_both_know_them_and_lists_otherwise() {
        let of = |cluster_id, list_id| Affiliation { cluster_id, list_id };
        let check = |one: Affiliation, other: Affiliation, expected| {
            assert_eq!(one.is_compatible(other), expected, "{one:?} {other:?}");
            assert_eq!(other.is_compatible(one), expected, "{one:?} {other:?}");
        };
        check(of(7, 1), of(7, 2), true);
        check(of(7, 1), of(8, 1), false);
        check(of(0, 1), of(8, 1), true);
        check(of(0, 1), of(8, 2), false);
        check(of(0, 1), of(0, 1), true);
        check(of(0, 1), of(0, 2), false);
    }

    #[test]
    fn an_older_member_names_its_list_as_its_cluster() {
        let envelope = Envelope { cluster_id: 9, from: 1, to: 2, list_id: 0 };
        assert_eq!(Affiliation::of(envelope), Affiliation { cluster_id: 9, list_id: 9 });
    }
}
