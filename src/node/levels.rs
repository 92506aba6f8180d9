//! The feature level of the cluster: which rules its members apply, and when they may change.
//!
//! ```text
//! leader ── heartbeat ──────────────────────────> follower
//!        <── reply: "I know levels up to 3" ─────     in every reply
//!        all members have said so, and the state is at level 2
//!        ── entry: the command that raises the level to 3 ──> everybody: applied like any command
//! ```
//!
//! - The level is a part of the replicated state ([`StateMachine::level`]): it changes by a
//!   command, is in snapshots, and is the same on all members at the same index.
//! - A cluster begins at level 1, whatever its members know. So a first start with members of mixed
//!   versions stops nobody.
//! - A leader raises the level to the highest that every member has announced to it in its term, a
//!   member that is down included. A new leader knows no announcements but its own. What an earlier
//!   one was told may be out of date: a member may have been started again with an older program.
//! - The leader looks at least at each heartbeat, outside the core: to the core, the command is one
//!   more proposal. One is under way at a time, with a deadline; then the leader tries again. A
//!   command that is applied twice, or late, changes nothing.
//! - A member whose state is at a level that its program does not know can apply nothing more. It
//!   stops in words ([`NodeFailure::UnknownLevel`]), before anything of that entry or snapshot is
//!   answered or published. Its data is whole: a newer program goes on with it. Only a member that
//!   is started with an older program than the one that announced the level meets this.
//!
//! A member of a program without levels announces 0, as one does that has not answered.
//!
//! Invariant: a leader proposes no level that a member has not announced to it in its term.
//!
//! Invariant: nothing is answered from a state at a level that the program does not know.
//!
//! [`StateMachine::level`]: super::StateMachine::level
//! [`NodeFailure::UnknownLevel`]: super::NodeFailure::UnknownLevel

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::raft::{MemberId, Membership, Term};

/// The state is at a level that this program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnknownLevel {
    pub(super) level: u32,
    pub(super) known: u32,
}

/// What a node's threads share about levels. Level 0 stands for none.
pub(super) struct Levels {
    own: MemberId,
    members: Mutex<Membership>,
    /// The highest level that this member knows.
    known: u32,
    /// That of the applied state.
    applied: AtomicU32,
    /// A command that raises the level is under way.
    is_raising: AtomicBool,
    announced: Mutex<Announced>,
}

/// What the other members have announced to a leader of this term.
#[derive(Default)]
struct Announced {
    term: Term,
    levels: BTreeMap<MemberId, u32>,
}

impl Levels {
    pub(super) fn new(own: MemberId, members: Membership, known: u32) -> Levels {
        Levels {
            own,
            members: Mutex::new(members),
            known,
            applied: AtomicU32::new(0),
            is_raising: AtomicBool::new(false),
            announced: Mutex::default(),
        }
    }

    /// Who the members are has changed.
    pub(super) fn set_members(&self, members: Membership) {
        *self.members.lock() = members;
    }

    /// Whether this member may apply and show a state of this level.
    pub(super) fn check(&self, level: Option<u32>) -> Result<(), UnknownLevel> {
        let known = self.known;
        match level {
            Some(level) if level > known => Err(UnknownLevel { level, known }),
            _ => Ok(()),
        }
    }

    /// The applied state is of this level, which was [checked](Levels::check).
    pub(super) fn set_applied(&self, level: Option<u32>) {
        let level = level.unwrap_or(0);
        assert!(level <= self.known, "level {level} is not known, only {}", self.known);
        // Only the applier writes it.
        let before = self.applied.load(Ordering::Relaxed);
        if before == level {
            return;
        }
        self.applied.store(level, Ordering::Release);
        if before != 0 {
            log::info!("member {}: the feature level is {level} from now on", self.own);
        }
    }

    /// The level of the applied state.
    pub(super) fn applied(&self) -> Option<u32> {
        let level = self.applied.load(Ordering::Acquire);
        (level != 0).then_some(level)
    }

    /// What this member announces.
    pub(super) fn own_announcement(&self) -> u32 {
        self.known
    }

    /// A member has answered a heartbeat that this one sent as the leader of `term`.
    pub(super) fn announced(&self, term: Term, from: MemberId, level: u32) {
        let mut announced = self.announced.lock();
        if announced.term < term {
            *announced = Announced { term, levels: BTreeMap::new() };
        }
        if announced.term == term {
            announced.levels.insert(from, level);
        }
    }

    /// The highest level that each member has announced to the leader of `term`, this member; 0
    /// for one that has announced none.
    pub(super) fn all_announced(&self, term: Term) -> BTreeMap<MemberId, u32> {
        let announced = self.announced.lock();
        let of = |id| match id == self.own {
            true => self.known,
            false if announced.term == term => announced.levels.get(&id).copied().unwrap_or(0),
            false => 0,
        };
        self.members.lock().iter().map(|id| (id, of(id))).collect()
    }

    /// The level that the leader of `term`, this member, should propose now. The caller does so,
    /// and says when that [has ended](Levels::raise_ended).
    pub(super) fn begin_raise(&self, term: Term) -> Option<u32> {
        let applied = self.applied()?;
        if applied >= self.known || self.is_raising.load(Ordering::Acquire) {
            return None;
        }
        let common = self.all_announced(term).into_values().min()?;
        let is_due = common > applied && !self.is_raising.swap(true, Ordering::AcqRel);
        is_due.then_some(common)
    }

    /// The proposal has an outcome, or will have none.
    pub(super) fn raise_ended(&self) {
        self.is_raising.store(false, Ordering::Release);
    }
}

/// For operators: `level` is that of the state, `known` the highest of the program.
pub(super) fn unknown_level_words(level: u32, known: u32) -> String {
    format!(
        "the cluster is at feature level {level}, and this program knows levels up to {known}: \
         start a newer one with the same data"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Member 1 of three, which knows level 3, with a state of level 1.
    fn levels() -> Levels {
        let levels = Levels::new(MemberId(1), Membership::new([1, 2, 3].map(MemberId)), 3);
        levels.set_applied(Some(1));
        levels
    }

    fn announce(levels: &Levels, term: u64, announcements: &[(u64, u32)]) {
        for (from, level) in announcements {
            levels.announced(Term(term), MemberId(*from), *level);
        }
    }

    #[test]
    fn the_level_is_raised_to_the_highest_that_every_member_has_announced() {
        for (announcements, due) in [
            (&[][..], None),
            (&[(2, 3)], None),
            (&[(2, 3), (3, 0)], None),
            (&[(2, 3), (3, 1)], None),
            (&[(2, 3), (3, 2)], Some(2)),
            (&[(2, 9), (3, 9)], Some(3)),
            (&[(2, 2), (3, 2), (3, 1)], None),
            (&[(2, 2), (3, 1), (3, 2)], Some(2)),
        ] {
            let levels = levels();
            announce(&levels, 5, announcements);
            assert_eq!(levels.begin_raise(Term(5)), due, "{announcements:?}");
        }
    }

    #[test]
    fn a_new_leader_waits_until_it_has_heard_all_members_itself() {
        let levels = levels();
        announce(&levels, 5, &[(2, 3), (3, 3)]);
        assert_eq!(levels.begin_raise(Term(6)), None);
        announce(&levels, 6, &[(2, 3)]);
        announce(&levels, 5, &[(3, 3)]);
        assert_eq!(levels.begin_raise(Term(6)), None, "a late answer is of an earlier term");
        announce(&levels, 6, &[(3, 3)]);
        assert_eq!(levels.begin_raise(Term(6)), Some(3));
    }

    #[test]
    fn one_command_at_a_time_raises_the_level() {
        let levels = levels();
        announce(&levels, 5, &[(2, 3), (3, 3)]);
        assert_eq!(levels.begin_raise(Term(5)), Some(3));
        assert_eq!(levels.begin_raise(Term(5)), None, "it is under way");
        levels.raise_ended();
        assert_eq!(levels.begin_raise(Term(5)), Some(3), "the last one had no outcome");
        levels.set_applied(Some(3));
        levels.raise_ended();
        assert_eq!(levels.begin_raise(Term(5)), None);
    }

    #[test]
    fn a_machine_without_levels_has_none_to_raise() {
        let levels = Levels::new(MemberId(1), Membership::new([MemberId(1)]), 0);
        levels.set_applied(None);
        assert_eq!((levels.applied(), levels.begin_raise(Term(5))), (None, None));
        assert_eq!(levels.check(None), Ok(()));
    }

    #[test]
    fn a_level_beyond_those_known_is_refused() {
        let levels = levels();
        assert_eq!(levels.check(Some(3)), Ok(()));
        assert_eq!(levels.check(Some(4)), Err(UnknownLevel { level: 4, known: 3 }));
    }
}
