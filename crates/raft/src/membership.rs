//! Who votes, who only learns, and which sets of members are a quorum.
//!
//! A quorum is a majority of the voters. Any two quorums have a member in common, and every safety
//! argument of Raft rests on that member: it cannot vote for two candidates of one term, and it
//! brings committed entries into the next election (Raft §5.2, §5.4.3). So this file is the only
//! place that counts majorities. Everybody else names a set of members and asks. That leaves room
//! for joint consensus (thesis §4.3), where a quorum is not a number any more.
//!
//! Learners receive entries and heartbeats like voters, and never count (thesis §4.2.1). Only tests
//! have learners so far, because the membership of a running cluster does not change.

use std::collections::BTreeSet;

use super::types::MemberId;

/// The members of a cluster: voters, and learners that do not vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    voters: BTreeSet<MemberId>,
    learners: BTreeSet<MemberId>,
}

impl Membership {
    /// A cluster of these voters, without learners.
    ///
    /// # Panics
    /// If there are none, because such a cluster could never elect a leader.
    pub fn new(voters: impl IntoIterator<Item = MemberId>) -> Membership {
        let voters: BTreeSet<MemberId> = voters.into_iter().collect();
        assert!(!voters.is_empty(), "a cluster has voters");
        Membership { voters, learners: BTreeSet::new() }
    }

    /// The same voters, and these learners.
    ///
    /// # Panics
    /// If one of the learners is a voter.
    pub fn with_learners(self, learners: impl IntoIterator<Item = MemberId>) -> Membership {
        let learners: BTreeSet<MemberId> = learners.into_iter().collect();
        assert!(self.voters.is_disjoint(&learners), "a learner does not vote");
        Membership { learners, ..self }
    }

    /// Whether this is a member, of either kind.
    pub fn contains(&self, id: MemberId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// Whether this member votes.
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.voters.contains(&id)
    }

    /// All members, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.voters.union(&self.learners).copied()
    }

    /// How many members there are.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.voters.len() + self.learners.len()
    }

    /// Whether the voters among these members, each named once, are a majority of all voters.
    pub fn is_quorum(&self, members: impl IntoIterator<Item = MemberId>) -> bool {
        let voters = members.into_iter().filter(|&id| self.is_voter(id)).count();
        assert!(voters <= self.voters.len(), "each member is named once");
        voters >= self.quorum_len()
    }

    /// Whether there is no quorum without these members.
    pub fn is_blocked_by(&self, refusing: &BTreeSet<MemberId>) -> bool {
        !self.is_quorum(self.voters.difference(refusing).copied())
    }

    /// The largest value that a quorum has reached, given the value of each member.
    pub fn reached_by_quorum<T: Ord + Copy>(
        &self,
        values: impl IntoIterator<Item = (MemberId, T)>,
    ) -> T {
        let of_voters = values.into_iter().filter(|&(id, _)| self.is_voter(id));
        let mut values: Vec<T> = of_voters.map(|(_, value)| value).collect();
        assert_eq!(values.len(), self.voters.len(), "every voter has one value");
        values.sort_unstable_by(|a, b| b.cmp(a));
        values[self.quorum_len() - 1]
    }

    fn quorum_len(&self) -> usize {
        self.voters.len() / 2 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: impl IntoIterator<Item = u64>) -> impl Iterator<Item = MemberId> {
        ids.into_iter().map(MemberId)
    }

    fn voters(count: u64) -> Membership {
        Membership::new(ids(1..=count))
    }

    #[test]
    fn a_quorum_is_more_than_half_of_the_voters() {
        for (count, quorum) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
            let members = voters(count);
            assert!(members.is_quorum(ids(1..=quorum)), "{quorum} of {count}");
            assert!(!members.is_quorum(ids(1..quorum)), "{} of {count}", quorum - 1);
            assert!(members.is_quorum(ids(count - quorum + 1..=count)), "whoever they are");
        }
    }

    #[test]
    fn any_two_quorums_share_a_voter() {
        for count in 1..=6 {
            let members = voters(count);
            let of = |bits: u32| ids(1..=count).filter(move |id| bits & (1 << id.0) != 0);
            let quorums: Vec<u32> =
                (0..1 << (count + 1)).filter(|&bits| members.is_quorum(of(bits))).collect();
            for one in &quorums {
                assert!(quorums.iter().all(|other| of(one & other).next().is_some()), "{count}");
            }
        }
    }

    #[test]
    fn learners_are_members_and_do_not_count() {
        let members = voters(3).with_learners(ids([4, 5]));
        assert_eq!(members.iter().collect::<Vec<_>>(), ids(1..=5).collect::<Vec<_>>());
        assert!(members.contains(MemberId(4)) && !members.is_voter(MemberId(4)));
        assert!(!members.is_quorum(ids([1, 4, 5])));
        assert!(members.is_quorum(ids([1, 2])));
        let values = [(1, 10), (2, 7), (3, 5), (4, 20), (5, 20)];
        let reached = members.reached_by_quorum(values.map(|(id, value)| (MemberId(id), value)));
        assert_eq!(reached, 7, "two of the three voters are there");
    }

    #[test]
    fn strangers_do_not_count() {
        assert!(!voters(3).is_quorum(ids([1, 8, 9])));
    }

    #[test]
    fn half_of_the_voters_can_block_an_even_cluster() {
        let check = |count, refusing: &[u64], expected| {
            let refusing = ids(refusing.iter().copied()).collect();
            assert_eq!(voters(count).is_blocked_by(&refusing), expected, "{count} {refusing:?}");
        };
        check(3, &[1], false);
        check(3, &[1, 2], true);
        check(4, &[1], false);
        check(4, &[1, 2], true);
        check(4, &[1, 9], false);
    }
}
