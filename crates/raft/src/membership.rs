//! Who votes, who only learns, and which sets of members are a quorum.
//!
//! A quorum is a majority of the voters. Any two quorums have a member in common, and every safety
//! argument of Raft rests on that member: it cannot vote for two candidates of one term, and it
//! brings committed entries into the next election (Raft §5.2, §5.4.3). So this file is the only
//! place that counts majorities. Everybody else names a set of members and asks.
//!
//! While the voters change, there are two sets of them, and a quorum is a majority of each (joint
//! consensus, thesis §4.3). So it has a member in common with every quorum of the voters before
//! the change, and with every quorum of the voters after it.
//!
//! Learners receive heartbeats like voters, and never count (thesis §4.2.1). They receive entries once
//! these are committed. So a learner's log is never ahead of that of a voter who may be elected. If
//! it were, the learner would refuse its vote to that voter, who may need it: the voter's log may
//! have the entry that makes the learner a voter, while the learner's has not, so that it does not
//! stand itself.

use std::collections::BTreeSet;

use super::types::MemberId;

/// The members of a cluster: voters, and learners that do not vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    voters: BTreeSet<MemberId>,
    /// While the membership is joint: the voters before the change. Empty otherwise.
    outgoing: BTreeSet<MemberId>,
    learners: BTreeSet<MemberId>,
    /// All of these: they are asked for with every heartbeat.
    all: BTreeSet<MemberId>,
}

impl Membership {
    /// A cluster of these voters, without learners.
    ///
    /// # Panics
    /// If there are none, because such a cluster could never elect a leader.
    pub fn new(voters: impl IntoIterator<Item = MemberId>) -> Membership {
        let voters: BTreeSet<MemberId> = voters.into_iter().collect();
        assert!(!voters.is_empty(), "a cluster has voters");
        Membership::of(voters, BTreeSet::new(), BTreeSet::new())
    }

    /// The same voters, and these learners.
    ///
    /// # Panics
    /// If one of the learners is a voter.
    pub fn with_learners(self, learners: impl IntoIterator<Item = MemberId>) -> Membership {
        let learners: BTreeSet<MemberId> = learners.into_iter().collect();
        assert!(self.voters.is_disjoint(&learners), "a learner does not vote");
        assert!(self.outgoing.is_disjoint(&learners), "a learner does not vote");
        Membership::of(self.voters, self.outgoing, learners)
    }

    /// The joint membership on the way from the voters `outgoing` to those of this one (thesis
    /// §4.3, C-old,new).
    ///
    /// # Panics
    /// If there are none, or one of them is a learner here.
    pub fn joint_with(self, outgoing: impl IntoIterator<Item = MemberId>) -> Membership {
        let outgoing: BTreeSet<MemberId> = outgoing.into_iter().collect();
        assert!(!outgoing.is_empty(), "a cluster has voters");
        assert!(outgoing.is_disjoint(&self.learners), "a learner does not vote");
        Membership::of(self.voters, outgoing, self.learners)
    }

    fn of(
        voters: BTreeSet<MemberId>,
        outgoing: BTreeSet<MemberId>,
        learners: BTreeSet<MemberId>,
    ) -> Membership {
        let all = voters.iter().chain(&outgoing).chain(&learners).copied().collect();
        Membership { voters, outgoing, learners, all }
    }

    /// Whether the voters are changing: a quorum is then a majority of each of two sets.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether this is a member, of either kind.
    pub fn contains(&self, id: MemberId) -> bool {
        self.all.contains(&id)
    }

    /// Whether this member votes. While the membership is joint, the voters of both sets do.
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Whether this member votes, and still will once the change of voters is done.
    pub fn will_vote(&self, id: MemberId) -> bool {
        self.voters.contains(&id)
    }

    /// The voters, in order of their ids. While the membership is joint: those after the change.
    pub fn voters(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.voters.iter().copied()
    }

    /// While the membership is joint: the voters before the change, in order of their ids.
    pub fn outgoing(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.outgoing.iter().copied()
    }

    /// The learners, in order of their ids.
    pub fn learners(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.learners.iter().copied()
    }

    /// All members, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.all.iter().copied()
    }

    /// How many members there are.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether the voters among these members, each named once, are a majority of all voters; while
    /// the membership is joint, of both sets of them.
    pub fn is_quorum(&self, members: impl IntoIterator<Item = MemberId>) -> bool {
        let members: Vec<MemberId> = members.into_iter().collect();
        let is_majority = |voters: &BTreeSet<MemberId>| {
            let count = members.iter().filter(|id| voters.contains(id)).count();
            assert!(count <= voters.len(), "each member is named once");
            count >= majority_of(voters)
        };
        is_majority(&self.voters) && (!self.is_joint() || is_majority(&self.outgoing))
    }

    /// Whether there is no quorum without these members.
    pub fn is_blocked_by(&self, refusing: &BTreeSet<MemberId>) -> bool {
        !self.is_quorum(self.iter().filter(|id| !refusing.contains(id)))
    }

    /// The largest value that a quorum has reached, given the value of each member.
    pub fn reached_by_quorum<T: Ord + Copy>(
        &self,
        values: impl IntoIterator<Item = (MemberId, T)>,
    ) -> T {
        if !self.is_joint() {
            return reached_by_majority(&self.voters, values.into_iter());
        }
        let values: Vec<(MemberId, T)> = values.into_iter().collect();
        let incoming = reached_by_majority(&self.voters, values.iter().copied());
        incoming.min(reached_by_majority(&self.outgoing, values.into_iter()))
    }
}

fn majority_of(voters: &BTreeSet<MemberId>) -> usize {
    voters.len() / 2 + 1
}

/// The largest value that a majority of these voters has reached.
fn reached_by_majority<T: Ord + Copy>(
    voters: &BTreeSet<MemberId>,
    values: impl Iterator<Item = (MemberId, T)>,
) -> T {
    let of_voters = values.filter(|(id, _)| voters.contains(id));
    let mut values: Vec<T> = of_voters.map(|(_, value)| value).collect();
    assert_eq!(values.len(), voters.len(), "every voter has one value");
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[majority_of(voters) - 1]
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

    /// Voters 1 to 3 are replaced by 3 to 5.
    fn joint() -> Membership {
        Membership::new(ids(3..=5)).joint_with(ids(1..=3))
    }

    #[test]
    fn a_joint_quorum_is_a_majority_of_both_sets() {
        assert!(joint().is_quorum(ids([1, 3, 4])), "3 counts in both");
        assert!(joint().is_quorum(ids([1, 2, 4, 5])));
        assert!(!joint().is_quorum(ids([1, 2, 3])), "of the voters before the change alone");
        assert!(!joint().is_quorum(ids([3, 4, 5])), "of the voters after it alone");
        assert!(joint().is_blocked_by(&ids([1, 2]).collect()));
        assert!(joint().is_blocked_by(&ids([4, 5]).collect()));
        assert!(!joint().is_blocked_by(&ids([1, 5]).collect()));
    }

    #[test]
    fn a_joint_quorum_shares_a_voter_with_every_quorum_before_and_after_it() {
        let of = |bits: u32| ids(1..=5).filter(move |id| bits & 1 << id.0 != 0).collect();
        let subsets: Vec<Vec<MemberId>> = (0_u32..1 << 6).map(of).collect();
        let quorums = |members: &Membership| {
            let is_quorum = |it: &&Vec<MemberId>| members.is_quorum(it.iter().copied());
            subsets.iter().filter(is_quorum).cloned().collect::<Vec<_>>()
        };
        for members in [joint(), Membership::new(ids(1..=3)), Membership::new(ids(3..=5))] {
            for one in quorums(&joint()) {
                assert!(quorums(&members).iter().all(|it| it.iter().any(|id| one.contains(id))));
            }
        }
    }

    #[test]
    fn a_joint_quorum_has_reached_what_both_sets_have() {
        let values = [(1, 9), (2, 8), (3, 5), (4, 4), (5, 2)];
        let reached = joint().reached_by_quorum(values.map(|(id, value)| (MemberId(id), value)));
        assert_eq!(reached, 4, "8 by a majority of 1 to 3, 4 by one of 3 to 5");
    }
}
