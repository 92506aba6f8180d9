//! A leader changes who the members are (thesis §4).
//!
//! ```text
//!   AddLearner ──> learner ──Promote──> joint ──(committed)──> voter
//!   voter ──Remove──> joint ──(committed)──> gone, once that is committed
//!   learner ──Remove──> gone         Move: another address, at once
//! ```
//! - Voters change in two steps (joint consensus, thesis §4.3). The first entry is joint: from it
//!   on, everything needs a majority of the voters before and of those after the change. When it is
//!   committed, the leader appends the second one, of the voters after the change alone. A new
//!   leader that finds a committed joint configuration does the same. So a change that was cut off
//!   goes on by itself.
//! - Learners count nowhere, so they come and go in one step, and so do addresses.
//! - One change at a time: the one before must be committed. And a leader begins one only when an
//!   entry of its own term is committed. Otherwise two leaders could each have a configuration that
//!   the other does not know of, with majorities that do not meet (the error in the single-server
//!   changes of thesis §4.1, found in 2015).
//! - A learner is promoted when it has what was committed half of the shortest election timeout ago,
//!   or up to twice as long ago: a voter without the log would make each commit wait for it (thesis
//!   §4.2.1).
//! - A change is refused unless a quorum of the voters after it is well: heard lately, over a
//!   connection that has not broken since, and with its data. Otherwise that cluster could not
//!   commit anything, not even the next change.
//! - While a voter asks what it may have promised ([`joining`](super::joining)), no voters change,
//!   except that this one, or one that is not heard, is removed.
//! - The leader may remove itself (thesis §4.2.2). It goes on, without counting itself, until the
//!   entry that removes it is committed. Then it hands over and steps down.
//!
//! The first configuration, which names the cluster, is appended by the first leader that finds
//! none in its log and snapshot, behind its no-op.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Raft;
use super::Role;
use super::common::Common;
use super::configuration::{Configuration, Place};
use super::event::{Effect, Rejection, RequestId};
use super::leader::Leader;
use super::membership::Membership;
use super::progress::Progress;
use super::types::{Index, MemberId, Payload};

/// The most members. Beyond a handful, each further one only slows commits.
pub const MEMBERS_MAX: usize = 15;

/// The most ids that were members once. With a change in every minute they last for two months.
const REMOVED_MAX: usize = 100_000;

/// The longest address in bytes: the longest name of a host, and a port.
const ADDR_LEN_MAX: usize = 300;

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new member, which learns and does not vote.
    AddLearner {
        /// Its id, which no member has or ever had.
        id: MemberId,
        /// Where it is.
        place: Place,
    },
    /// A learner that has caught up becomes a voter.
    Promote(MemberId),
    /// A member leaves for ever.
    Remove(MemberId),
    /// A member is reached at another address.
    Move {
        /// The member.
        id: MemberId,
        /// Its new address.
        addr: String,
    },
}

/// Why a change of the members is refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another change is under way, or this leader has only just been elected.
    UnderWay,
    /// The log has no configuration yet, because not all members know of them.
    Unrecorded,
    /// The id is a member's.
    IdInUse,
    /// The id was a member's. It is not used again.
    IdWasUsed,
    /// Another member has this address.
    AddrInUse(MemberId),
    /// The address is empty or too long.
    BadAddr,
    /// There are [`MEMBERS_MAX`] members already, or too many have come and gone.
    TooMany,
    /// There is no such member.
    NotAMember,
    /// It votes already.
    IsVoter,
    /// It was not heard lately, or has lost its data.
    Silent(MemberId),
    /// It lacks this many entries.
    Behind(u64),
    /// The voters after the change that were heard lately are not a majority.
    NoLiveMajority,
    /// This voter has lost its data and asks what it may have promised.
    Rebuilding(MemberId),
}

impl Raft {
    /// An operator wants another membership.
    pub(super) fn change_members(&mut self, id: RequestId, change: &Change) {
        match &mut self.role {
            Role::Leader(leader) => leader.change_members(&mut self.common, id, change),
            _ => self.common.reject(id, Rejection::NotLeader(self.common.leader())),
        }
    }
}

impl Leader {
    fn change_members(&mut self, common: &mut Common, id: RequestId, change: &Change) {
        if self.is_handing_over() {
            return common.reject(id, Rejection::HandingOver);
        }
        match self.changed(common, change) {
            Ok(next) => {
                let index = self.append_configuration(common, next);
                let term = common.current_term();
                common.effects.push(Effect::Proposed { id, index, term });
            }
            Err(refusal) => common.reject(id, Rejection::Members(refusal)),
        }
    }

    /// The configuration after the change, or why there is none.
    fn changed(&self, common: &Common, change: &Change) -> Result<Configuration, Refusal> {
        let Some((index, current)) = common.configurations.latest() else {
            return Err(Refusal::Unrecorded);
        };
        let commit_index = common.commit_index();
        let is_settled = *index <= commit_index && !current.membership.is_joint();
        let is_new = !self.knows_who_lives(&common.config);
        if commit_index < self.noop_index() || is_new || !is_settled {
            return Err(Refusal::UnderWay);
        }
        let next = self.apply(common, current, change)?;
        self.check_voters(common, current, &next, change)?;
        Ok(next)
    }

    fn apply(
        &self,
        common: &Common,
        current: &Configuration,
        change: &Change,
    ) -> Result<Configuration, Refusal> {
        match change {
            Change::AddLearner { id, place } => with_learner(current, *id, place),
            Change::Promote(id) => {
                self.check_caught_up(common, current, *id)?;
                Ok(promoted(current, *id))
            }
            Change::Remove(id) => without(current, *id),
            Change::Move { id, addr } => moved(current, *id, addr),
        }
    }

    fn check_caught_up(
        &self,
        common: &Common,
        current: &Configuration,
        id: MemberId,
    ) -> Result<(), Refusal> {
        if !current.membership.contains(id) {
            return Err(Refusal::NotAMember);
        }
        if current.membership.is_voter(id) {
            return Err(Refusal::IsVoter);
        }
        if !self.peers().get(&id).is_some_and(|peer| peer.is_well(&common.config)) {
            return Err(Refusal::Silent(id));
        }
        let match_index = self.peers().get(&id).map_or(Index::ZERO, Progress::match_index);
        match match_index >= self.committed_before() {
            true => Ok(()),
            false => Err(Refusal::Behind(common.commit_index().0.saturating_sub(match_index.0))),
        }
    }

    /// Checks what a change of the voters needs: a quorum of the voters after it that lives, and
    /// nobody who may have forgotten a promise.
    fn check_voters(
        &self,
        common: &Common,
        current: &Configuration,
        next: &Configuration,
        change: &Change,
    ) -> Result<(), Refusal> {
        if !next.membership.is_joint() {
            return Ok(());
        }
        let removed = match change {
            Change::Remove(id) => Some(*id),
            _ => None,
        };
        let mut rebuilding = self.peers().iter().filter(|(id, peer)| {
            current.membership.is_voter(**id) && peer.is_rebuilding(&common.config)
        });
        let removes_the_dead = removed.is_some_and(|id| !self.hears(common, id));
        if let Some((&id, _)) = rebuilding.next()
            && removed != Some(id)
            && !removes_the_dead
        {
            return Err(Refusal::Rebuilding(id));
        }
        let after = Membership::new(next.membership.voters());
        // Whoever rebuilds gives no vote until a leader has filled it.
        let is_well = |id: &MemberId| {
            let peer = self.peers().get(id);
            *id == common.config.id || peer.is_some_and(|peer| peer.is_well(&common.config))
        };
        match after.is_quorum(after.voters().filter(is_well)) {
            true => Ok(()),
            false => Err(Refusal::NoLiveMajority),
        }
    }

    /// Whether this member, or a peer that was heard within an election timeout.
    fn hears(&self, common: &Common, id: MemberId) -> bool {
        id == common.config.id
            || self.peers().get(&id).is_some_and(|peer| peer.is_heard_lately(&common.config))
    }

    /// What the configuration in force wants from its leader, after a batch of events.
    pub(super) fn reconfigure(&mut self, common: &mut Common) {
        let Some((index, latest)) = common.configurations.latest() else {
            return self.append_first_configuration(common);
        };
        // A leader of a later term may do this too: the entry is in its log and committed.
        let is_committed = *index <= common.commit_index();
        if !is_committed {
            return;
        }
        if latest.membership.is_joint() {
            let settled = latest.settled();
            self.append_configuration(common, settled);
        } else if !latest.membership.contains(common.config.id) {
            self.leave(common);
        }
    }

    /// Names the cluster, if nobody has.
    fn append_first_configuration(&mut self, common: &mut Common) {
        if common.may_configure
            && let Some(first) = common.config.first_configuration.clone()
        {
            self.append_configuration(common, (*first).clone());
        }
    }

    fn append_configuration(&mut self, common: &mut Common, next: Configuration) -> Index {
        let latest = common.configurations.latest();
        assert!(
            latest.is_none_or(|(index, _)| *index <= common.commit_index()),
            "one change at a time (thesis §4.3)"
        );
        let index = self.append(common, Payload::Configuration(Arc::new(next)));
        self.meet_peers(common);
        // Perhaps nobody is left who would answer the rounds that are under way.
        self.confirm_reads(common);
        index
    }

    /// Makes the progress of new members, and forgets those who have left and need not hear of it
    /// any more.
    fn meet_peers(&mut self, common: &Common) {
        let next_index = common.log.last_index().next();
        let own = common.config.id;
        for id in common.membership().iter().filter(|&id| id != own) {
            let peer = self.peers_mut().entry(id).or_insert_with(|| Progress::new(next_index));
            peer.returned();
        }
        let members: BTreeSet<MemberId> = common.membership().iter().collect();
        let gone = self.peers_mut().iter_mut().filter(|(id, _)| !members.contains(id));
        gone.for_each(|(_, peer)| peer.leaves());
    }
}

impl Leader {
    /// Forgets the peers that have left, once they had time to hear of it.
    pub(super) fn part_with_peers(&mut self, common: &Common) {
        if common.configurations.is_settled(common.commit_index()) {
            let ticks_max = 2 * common.config.election_ticks_max;
            self.peers_mut().retain(|_, peer| !peer.has_left(ticks_max));
        }
    }
}

fn with_learner(
    current: &Configuration,
    id: MemberId,
    place: &Place,
) -> Result<Configuration, Refusal> {
    if current.membership.contains(id) {
        return Err(Refusal::IdInUse);
    }
    if current.removed.contains(&id) {
        return Err(Refusal::IdWasUsed);
    }
    check_addr(current, &place.addr)?;
    if current.places.len() >= MEMBERS_MAX || current.removed.len() >= REMOVED_MAX {
        return Err(Refusal::TooMany);
    }
    let mut next = current.clone();
    next.membership =
        current.membership.clone().with_learners(current.membership.learners().chain([id]));
    next.places.insert(id, place.clone());
    Ok(next)
}

fn promoted(current: &Configuration, id: MemberId) -> Configuration {
    let voters: Vec<MemberId> = current.membership.voters().collect();
    let learners = current.membership.learners().filter(|&it| it != id);
    let after = Membership::new(voters.iter().copied().chain([id]));
    let membership = after.joint_with(voters).with_learners(learners);
    Configuration { membership, ..current.clone() }
}

fn without(current: &Configuration, id: MemberId) -> Result<Configuration, Refusal> {
    let membership = &current.membership;
    if !membership.contains(id) {
        return Err(Refusal::NotAMember);
    }
    let voters: BTreeSet<MemberId> = membership.voters().filter(|&it| it != id).collect();
    if voters.is_empty() {
        return Err(Refusal::NoLiveMajority);
    }
    let learners = membership.learners().filter(|&it| it != id);
    let mut next = current.clone();
    next.membership = match membership.is_voter(id) {
        true => Membership::new(voters).joint_with(membership.voters()).with_learners(learners),
        false => Membership::new(voters).with_learners(learners),
    };
    next.forget_strangers();
    Ok(next)
}

fn moved(current: &Configuration, id: MemberId, addr: &str) -> Result<Configuration, Refusal> {
    if !current.membership.contains(id) {
        return Err(Refusal::NotAMember);
    }
    check_addr(current, addr)?;
    let mut next = current.clone();
    if let Some(place) = next.places.get_mut(&id) {
        place.addr = addr.to_owned();
    }
    Ok(next)
}

fn check_addr(current: &Configuration, addr: &str) -> Result<(), Refusal> {
    if addr.is_empty() || addr.len() > ADDR_LEN_MAX {
        return Err(Refusal::BadAddr);
    }
    let mut others = current.addrs();
    match others.find(|(_, other)| other.eq_ignore_ascii_case(addr)) {
        Some((id, _)) => Err(Refusal::AddrInUse(id)),
        None => Ok(()),
    }
}
