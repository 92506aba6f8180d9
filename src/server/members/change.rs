//! One change of the members, from the order to its answer.
//!
//! The leader asks first whether it was done before, and who answers at an address that is to
//! become a member's. Then the core begins the change, or refuses it. The answer comes when the
//! cluster has settled on it. If this member loses its leadership meanwhile, the change is
//! undecided: whoever leads next may finish it, and says so when it is asked for the same again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::super::proto::{ChangeOutcome, ChangeReply};
use super::probe::{self, Present};
use super::reply;
use crate::kv::Store;
use crate::node::{ChangeError, ConfiguredMembers, NodeHandle};
use crate::raft::{Change, Configuration, MemberId, Place, Refusal, RoleName, Term};

/// The pause before a change is asked for again that another one, or a new leader, was in the way
/// of.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How long a change waits for a voter that does not answer, or asks the others what it may have
/// promised. One that is busy, or has only just joined, needs a moment.
const VOTERS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the members are waited for before this member looks whether it still leads.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// What somebody wants of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Wish {
    /// A new member learns, and does not vote.
    Add { id: MemberId, addr: String },
    /// A learner that has caught up becomes a voter.
    Promote { id: MemberId },
    /// A member leaves for ever.
    Remove { id: MemberId },
    /// A member is reached at another address. With `if_lost` only if it is not reached at the one
    /// that is configured.
    Move { id: MemberId, addr: String, if_lost: bool },
}

/// Carries out changes on behalf of this member, if it leads.
#[derive(Clone)]
pub(super) struct Changer {
    pub(super) node: NodeHandle<Store>,
    pub(super) is_stopping: Arc<AtomicBool>,
}

impl Changer {
    /// Carries the change out. The answer comes by the deadline, except that addresses are asked
    /// for a moment longer.
    pub(super) fn change(&self, wish: &Wish, deadline: Instant) -> ChangeReply {
        if !self.leads() {
            return not_leader();
        }
        if let Some(reply) = self.known(wish) {
            return reply;
        }
        if let Some(words) = self.nonsense(wish) {
            return reply(ChangeOutcome::Impossible, words);
        }
        let voters_by = deadline.min(Instant::now() + VOTERS_TIMEOUT);
        while let Some(refusal) = self.silence(wish) {
            if refusal != Refusal::NoLiveMajority || !self.has_time(voters_by) {
                return refused(wish.id(), refusal);
            }
            thread::sleep(RETRY_PAUSE);
        }
        match self.checked(wish, deadline) {
            Ok(change) => self.carry_out(wish, change, deadline),
            Err(words) => reply(ChangeOutcome::NotNow, words),
        }
    }

    pub(super) fn leads(&self) -> bool {
        self.node.status().role.role == RoleName::Leader
    }

    /// What can be answered from what is committed: the change was made before, or its id was used.
    fn known(&self, wish: &Wish) -> Option<ChangeReply> {
        let committed = self.node.members().committed?;
        if wish.is_shown_by(&committed) {
            return Some(reply(ChangeOutcome::Unchanged, wish.words_if_done(&committed)));
        }
        let Wish::Add { id, .. } = wish else { return None };
        match (committed.addr(*id), committed.removed.contains(id)) {
            (Some(other), _) => {
                let words = format!("member {id} is at {other}: choose another id, or move it");
                Some(reply(ChangeOutcome::Impossible, words))
            }
            (None, true) => Some(refused(*id, Refusal::IdWasUsed)),
            (None, false) => None,
        }
    }

    /// What can never be, whoever answers: nobody needs to be asked.
    fn nonsense(&self, wish: &Wish) -> Option<String> {
        let latest = self.node.members().latest?;
        let id = wish.id();
        match wish {
            Wish::Move { .. } | Wish::Remove { .. } if !latest.membership.contains(id) => {
                Some(format!("there is no member {id}"))
            }
            Wish::Remove { .. } if latest.membership.voters().eq([id]) => {
                Some(format!("member {id} is the only voter: without it, there is no cluster"))
            }
            _ => None,
        }
    }

    /// Why the change has to wait for somebody's answer: for that of the learner, which starts again
    /// once it has been added, and for those of a majority of the voters after the change. The core
    /// counts those that it has heard within an election timeout, and one of them may just have
    /// died.
    fn silence(&self, wish: &Wish) -> Option<Refusal> {
        let latest = self.node.members().latest?;
        let voters = latest.membership.voters();
        let (voters, newcomer) = match wish {
            Wish::Promote { id } if latest.membership.contains(*id) => {
                if !probe::answers(&self.node, *id) {
                    return Some(Refusal::Silent(*id));
                }
                (voters.chain([*id]).collect(), Some(*id))
            }
            Wish::Remove { id } if latest.membership.is_voter(*id) => {
                (voters.filter(|voter| voter != id).collect(), None)
            }
            _ => return None,
        };
        let is_live = probe::has_majority(&self.node, voters, newcomer);
        (!is_live).then_some(Refusal::NoLiveMajority)
    }

    /// The change for the core, once its address is what it should be.
    fn checked(&self, wish: &Wish, deadline: Instant) -> Result<Change, String> {
        Ok(match wish {
            Wish::Add { id, addr } => {
                let directory = probe::newcomer(&self.node, *id, addr, deadline)?;
                let place = Place { addr: addr.clone(), directory };
                Change::AddLearner { id: *id, place }
            }
            Wish::Promote { id } => Change::Promote(*id),
            Wish::Remove { id } => Change::Remove(*id),
            Wish::Move { id, addr, if_lost } => {
                let present = if *if_lost { Present::MustBeLost } else { Present::MayBeIt };
                probe::moved(&self.node, *id, addr, present)?;
                Change::Move { id: *id, addr: addr.clone() }
            }
        })
    }

    fn carry_out(&self, wish: &Wish, change: Change, deadline: Instant) -> ChangeReply {
        let voters_by = deadline.min(Instant::now() + VOTERS_TIMEOUT);
        loop {
            let refusal = match self.begin(change.clone(), deadline) {
                Begun::At(term) => return self.await_settled(wish, term, deadline),
                Begun::Refused(error) => error,
                Begun::Unknown => {
                    return undecided("the leader was too busy to say what came of it");
                }
            };
            match refusal {
                ChangeError::HandingOver | ChangeError::Refused(Refusal::UnderWay)
                    if self.has_time(deadline) =>
                {
                    thread::sleep(RETRY_PAUSE);
                }
                ChangeError::Refused(Refusal::Rebuilding(_) | Refusal::NoLiveMajority)
                    if self.has_time(voters_by) =>
                {
                    thread::sleep(RETRY_PAUSE);
                }
                ChangeError::Refused(refusal) => return refused(wish.id(), refusal),
                ChangeError::HandingOver | ChangeError::NotLeader { .. } | ChangeError::Stopped => {
                    return not_leader();
                }
            }
        }
    }

    /// Asks the core, and waits for its answer.
    fn begin(&self, change: Change, deadline: Instant) -> Begun {
        let (to_here, answer) = bounded(1);
        self.node.change_members(change, move |begun| {
            // Nobody listens any more if the deadline has passed.
            let _ = to_here.try_send(begun);
        });
        match answer.recv_deadline(deadline) {
            Ok(Ok((_, term))) => Begun::At(term),
            Ok(Err(error)) => Begun::Refused(error),
            Err(RecvTimeoutError::Timeout) => Begun::Unknown,
            Err(RecvTimeoutError::Disconnected) => Begun::Refused(ChangeError::Stopped),
        }
    }

    /// Waits until a committed configuration shows the change. A leader that removes itself sees it
    /// before it goes.
    fn await_settled(&self, wish: &Wish, term: Term, deadline: Instant) -> ChangeReply {
        let shows = |members: &ConfiguredMembers| {
            members.committed.as_ref().is_some_and(|committed| wish.is_shown_by(committed))
        };
        loop {
            let look = deadline.min(Instant::now() + LOOK_PAUSE);
            // Before the members are looked at: whoever leads until then has begun nothing else.
            let leads = self.leads() && self.node.status().role.term == term;
            if self.node.wait_for_members(look, shows).is_some() {
                return reply(ChangeOutcome::Changed, String::new());
            }
            if !leads || self.is_stopping() {
                return undecided("the leader lost its leadership meanwhile");
            }
            if look >= deadline {
                return undecided("it was begun, and a majority has not confirmed it in time");
            }
        }
    }

    /// Whether there is time for another attempt.
    fn has_time(&self, until: Instant) -> bool {
        Instant::now() + RETRY_PAUSE < until && !self.is_stopping()
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }
}

/// What the core has answered.
enum Begun {
    /// It is in the log, of this term.
    At(Term),
    Refused(ChangeError),
    /// Nothing in time.
    Unknown,
}

impl Wish {
    fn id(&self) -> MemberId {
        match self {
            Wish::Add { id, .. } | Wish::Move { id, .. } => *id,
            Wish::Promote { id } | Wish::Remove { id } => *id,
        }
    }

    /// Whether the members are as wanted, in a configuration that is committed.
    fn is_shown_by(&self, committed: &Configuration) -> bool {
        let membership = &committed.membership;
        match self {
            Wish::Add { id, addr } => is_at(committed, *id, addr),
            Wish::Promote { id } => membership.will_vote(*id) && !membership.is_joint(),
            Wish::Remove { id } => {
                committed.removed.contains(id)
                    && !membership.contains(*id)
                    && !membership.is_joint()
            }
            Wish::Move { id, addr, .. } => is_at(committed, *id, addr),
        }
    }

    fn words_if_done(&self, committed: &Configuration) -> String {
        match self {
            Wish::Add { id, addr } => {
                let votes = committed.membership.will_vote(*id);
                let kind = if votes { "voter" } else { "learner" };
                format!("member {id} at {addr} is a {kind} already")
            }
            Wish::Promote { id } => format!("member {id} is a voter already"),
            Wish::Remove { id } => format!("member {id} was removed before"),
            Wish::Move { id, addr, .. } => format!("member {id} is at {addr} already"),
        }
    }
}

fn is_at(configuration: &Configuration, id: MemberId, addr: &str) -> bool {
    configuration.addr(id).is_some_and(|it| it.eq_ignore_ascii_case(addr))
}

/// For the one who asked: what is in the way, and what to do.
fn refused(id: MemberId, refusal: Refusal) -> ChangeReply {
    let outcome = match refusal {
        Refusal::IdInUse
        | Refusal::IdWasUsed
        | Refusal::AddrInUse(_)
        | Refusal::BadAddr
        | Refusal::NotAMember => ChangeOutcome::Impossible,
        Refusal::IsVoter => ChangeOutcome::Unchanged,
        Refusal::Behind(lacking_entries) => {
            let words = ChangeError::Refused(refusal).to_string();
            return ChangeReply { lacking_entries, ..reply(ChangeOutcome::Behind, words) };
        }
        // Perhaps it has only just been added.
        Refusal::Silent(_) => ChangeOutcome::Behind,
        Refusal::UnderWay
        | Refusal::Unrecorded
        | Refusal::TooMany
        | Refusal::NoLiveMajority
        | Refusal::Rebuilding(_) => ChangeOutcome::NotNow,
    };
    let words = match refusal {
        Refusal::NotAMember => format!("there is no member {id}"),
        Refusal::IdInUse => format!("there is a member {id}"),
        Refusal::IsVoter => format!("member {id} is a voter already"),
        Refusal::IdWasUsed => format!(
            "there was a member {id}, and an id is used only once: choose another one, and an \
             empty data directory"
        ),
        refusal => ChangeError::Refused(refusal).to_string(),
    };
    reply(outcome, words)
}

fn undecided(why: &str) -> ChangeReply {
    reply(ChangeOutcome::Undecided, why)
}

fn not_leader() -> ChangeReply {
    reply(ChangeOutcome::NotLeader, "this member does not lead")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Membership;

    fn ids(ids: &[u64]) -> impl Iterator<Item = MemberId> {
        ids.iter().copied().map(MemberId)
    }

    /// Voters 1 and 2, learner 3; 9 was removed.
    fn settled() -> Configuration {
        let addrs = ids(&[1, 2, 3]).map(|id| (id, format!("host{id}:7000")));
        let mut configuration = Configuration::first(1, 2, addrs);
        configuration.membership = Membership::new(ids(&[1, 2])).with_learners(ids(&[3]));
        configuration.removed = ids(&[9]).collect();
        configuration
    }

    /// Voter 3 takes the place of voter 1.
    fn joint() -> Configuration {
        let membership = Membership::new(ids(&[2, 3])).joint_with(ids(&[1, 2]));
        Configuration { membership, ..settled() }
    }

    #[test]
    fn a_wish_has_come_true_once_the_cluster_has_settled() {
        let at = |id: u64, host: &str| (MemberId(id), format!("{host}:7000"));
        let add = |(id, addr)| Wish::Add { id, addr };
        let moved = |(id, addr)| Wish::Move { id, addr, if_lost: false };
        let promote = |id| Wish::Promote { id: MemberId(id) };
        let remove = |id| Wish::Remove { id: MemberId(id) };
        for (wish, when_settled, when_joint) in [
            (add(at(3, "host3")), true, true),
            (add(at(3, "HOST3")), true, true),
            (add(at(3, "elsewhere")), false, false),
            (add(at(4, "host4")), false, false),
            (moved(at(2, "host2")), true, true),
            (moved(at(2, "elsewhere")), false, false),
            (promote(2), true, false),
            (promote(3), false, false),
            (remove(9), true, false),
            (remove(1), false, false),
            (remove(4), false, false),
        ] {
            assert_eq!(wish.is_shown_by(&settled()), when_settled, "{wish:?}");
            assert_eq!(wish.is_shown_by(&joint()), when_joint, "{wish:?}");
        }
    }

    #[test]
    fn refusals_say_whether_another_try_can_help() {
        let outcome = |refusal| refused(MemberId(4), refusal).outcome();
        assert_eq!(outcome(Refusal::NotAMember), ChangeOutcome::Impossible);
        assert_eq!(outcome(Refusal::IdWasUsed), ChangeOutcome::Impossible);
        assert_eq!(outcome(Refusal::IsVoter), ChangeOutcome::Unchanged);
        assert_eq!(outcome(Refusal::NoLiveMajority), ChangeOutcome::NotNow);
        let behind = refused(MemberId(4), Refusal::Behind(7));
        assert_eq!((behind.outcome(), behind.lacking_entries), (ChangeOutcome::Behind, 7));
    }
}
