//! An operator changes the members: in turn with what the cluster needs, too early, at a member
//! that does not lead any more, and in ways that must be refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use syncraft::raft::{
    Change, Configuration, Event, MemberId, Place, Refusal, Rejection, RequestId,
};

use super::World;
use crate::member::addr;

/// A cluster of more voters is not made larger, one of fewer not smaller.
const VOTERS: std::ops::RangeInclusive<usize> = 3..=5;

/// Nobody has this id.
const NOBODY: MemberId = MemberId(1_000);

pub(super) struct Operator {
    pub(super) rng: fastrand::Rng,
    /// Changes that have no answer yet, and whether they can be accepted at all.
    asked: BTreeMap<RequestId, bool>,
    moves: u64,
}

impl Operator {
    pub(super) fn new(seed: u64) -> Operator {
        Operator { rng: fastrand::Rng::with_seed(seed), asked: BTreeMap::new(), moves: 0 }
    }

    fn one_of(&mut self, ids: impl IntoIterator<Item = MemberId>) -> Option<MemberId> {
        let ids: Vec<MemberId> = ids.into_iter().collect();
        (!ids.is_empty()).then(|| ids[self.rng.usize(..ids.len())])
    }

    /// An address that nobody has.
    fn new_addr(&mut self) -> String {
        self.moves += 1;
        format!("moved{}:1", self.moves)
    }
}

impl World {
    /// An operator does something about the members.
    pub(super) fn operate(&mut self) {
        let Some(at) = self.leader_among(|_| true) else { return };
        if self.operator.rng.u8(0..10) == 0 {
            return self.revive_removed();
        }
        let Some((change, is_possible)) = self.draw_change(at) else { return };
        // Most other members refuse at once.
        let is_elsewhere = self.operator.rng.u8(0..8) == 0;
        let at = if is_elsewhere { self.operator.rng.usize(..self.members.len()) } else { at };
        // Before a leader begins a change, its shell asks who is well. One that is paused does not.
        if self.members[at].living.as_ref().is_none_or(|living| living.is_paused) {
            return;
        }
        let id = self.workload.next_id();
        self.operator.asked.insert(id, is_possible);
        self.count("change asked for");
        self.post(at, Event::ChangeMembers { id, change });
    }

    /// The change, and whether it can be accepted at all.
    fn draw_change(&mut self, leader: usize) -> Option<(Change, bool)> {
        let Some(current) = self.oracle.configurations.newest().cloned() else {
            return Some((Change::Remove(MemberId(1)), true));
        };
        let (voters, learners) =
            (current.membership.voters().count(), current.membership.learners().count());
        let draw = self.operator.rng.u8(0..16);
        match draw {
            0..5 if learners > 0 => self.draw_promotion(&current),
            0..9 if voters + learners <= *VOTERS.end() => self.draw_newcomer(&current),
            // One of two voters may lose its data only once that configuration is committed
            // (`raft::joining`), so nobody makes a cluster of two while a member lacks its data.
            0..13
                if voters + learners > *VOTERS.start()
                    && (voters > *VOTERS.start() || self.all_have_data()) =>
            {
                self.draw_removal(&current, leader)
            }
            13 => self.draw_move(&current),
            14 => Some(self.draw_impossible(&current)),
            _ => None,
        }
    }

    pub(super) fn all_have_data(&self) -> bool {
        self.configured().iter().all(|&at| self.members[at].disk.is_voter())
    }

    fn draw_promotion(&mut self, current: &Configuration) -> Option<(Change, bool)> {
        let id = self.operator.one_of(current.membership.learners())?;
        Some((Change::Promote(id), true))
    }

    /// The newcomer is up, and is asked for the number of its directory.
    fn draw_newcomer(&mut self, current: &Arc<Configuration>) -> Option<(Change, bool)> {
        let Some(at) = self.stray(current) else {
            self.begin_newcomer(current);
            return None;
        };
        let directory = self.members[at].disk.directory()?;
        let id = self.members[at].id;
        if self.operator.rng.u8(0..6) == 0 {
            self.lose_newcomer(at);
        }
        Some((Change::AddLearner { id, place: Place { addr: addr(id), directory } }, true))
    }

    /// Half the time the leader; sometimes one that is down.
    fn draw_removal(&mut self, current: &Configuration, leader: usize) -> Option<(Change, bool)> {
        let leader = self.members[leader].id;
        let is_down = |id: &MemberId| self.members[Self::at_of(*id)].living.is_none();
        let down: Vec<MemberId> = current.membership.iter().filter(is_down).collect();
        let id = match self.operator.rng.u8(0..4) {
            0..2 => leader,
            2 if !down.is_empty() => self.operator.one_of(down)?,
            _ => self.operator.one_of(current.membership.iter())?,
        };
        Some((Change::Remove(id), true))
    }

    fn draw_move(&mut self, current: &Configuration) -> Option<(Change, bool)> {
        let id = self.operator.one_of(current.membership.iter())?;
        let addr = self.operator.new_addr();
        Some((Change::Move { id, addr }, true))
    }

    /// Some would be possible at a leader that has missed something.
    fn draw_impossible(&mut self, current: &Configuration) -> (Change, bool) {
        let voter = current.membership.voters().next().expect("a cluster has voters");
        let former = current.removed.iter().next().copied().unwrap_or(voter);
        let taken = current.addr(voter).unwrap_or_default().to_owned();
        let new_addr = self.operator.new_addr();
        let add = |id, addr| Change::AddLearner { id, place: Place { addr, directory: 1 } };
        match self.operator.rng.u8(0..8) {
            0 => (add(voter, new_addr), true),
            1 => (add(former, new_addr), true),
            2 => (add(NOBODY, String::new()), false),
            3 => (Change::Move { id: voter, addr: taken }, true),
            4 => (Change::Promote(voter), true),
            5 => (Change::Promote(NOBODY), false),
            6 => (Change::Move { id: NOBODY, addr: new_addr }, false),
            _ => (Change::Remove(NOBODY), false),
        }
    }

    /// A leader has begun a change. False if this is another proposal.
    pub(super) fn change_begun(&mut self, id: RequestId) -> bool {
        let Some(is_possible) = self.operator.asked.remove(&id) else { return false };
        assert!(is_possible, "a change that makes no sense is begun");
        self.count("change begun");
        true
    }

    /// A change is refused. False if this is another proposal.
    pub(super) fn change_refused(&mut self, id: RequestId, reason: Rejection) -> bool {
        if self.operator.asked.remove(&id).is_none() {
            return false;
        }
        self.count(match reason {
            Rejection::NotLeader(_) => "change refused: not leader",
            Rejection::Busy => panic!("a change is never refused as busy"),
            Rejection::HandingOver => "change refused: handing over",
            Rejection::Members(refusal) => match refusal {
                Refusal::UnderWay => "change refused: under way",
                Refusal::Unrecorded => "change refused: unrecorded",
                Refusal::IdInUse => "change refused: id in use",
                Refusal::IdWasUsed => "change refused: id was used",
                Refusal::AddrInUse(_) => "change refused: address in use",
                Refusal::BadAddr => "change refused: bad address",
                Refusal::TooMany => panic!("there are few members"),
                Refusal::NotAMember => "change refused: not a member",
                Refusal::IsVoter => "change refused: is a voter",
                Refusal::Silent(_) => "change refused: silent",
                Refusal::Behind(_) => "change refused: behind",
                Refusal::NoLiveMajority => "change refused: no live majority",
                Refusal::Rebuilding(_) => "change refused: rebuilding",
            },
        });
        true
    }
}
