//! Whether all members have the same state: what each of them says of its own at equal index, and what follows from that.
//!
//! ```text
//! leader ── heartbeat: "your digest at entry I?" ──> follower: has applied I, and remembers its digest there
//!        <── its answer: "at entry I: D" ──────────
//!        a digest that a quorum of all members has at I is the agreed one
//!        ── heartbeat: "at entry I it is D" ───────> follower: mine is another one: I have gone astray
//! ```
//!
//! This is the logic of it, without locks, clocks and logs; a leader's part and a follower's, since any member may lead.
//!
//! - I is what the leader has applied, so it is committed, and all members must agree on it, whatever the term. The question
//!   stays until all have answered, or for [`PATIENCE`]; then the leader asks about what it has applied by then. When there is
//!   nothing newer it stays: a member that comes back later is compared as well.
//! - Members remember their digest at each of their last [`DIGESTS_MAX`] entries. What a follower was asked about, or told,
//!   before it has come that far it remembers until it has.
//! - Each member judges itself, by what a quorum agreed on: a leader in the minority does so as well. A member that has not
//!   answered, or has no digest at that index any more, is not compared there, and is at a later one.
//! - Without a quorum of equals nobody knows who is right: that is told, and nobody stops.
//! - A new leader begins afresh. What an earlier one says late is as true as before.
//! - A member of an older version says nothing of digests, and takes no part.
//!
//! Invariant: a member judges itself against the digest of a quorum of all members only.
//!
//! A judgement lasts until the state is another one: with a restart, or a snapshot from the leader.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use crate::raft::{Index, MemberId, Membership, Term};

/// How many of a member's last digests are remembered: 64 KiB of them.
const DIGESTS_MAX: usize = 8_192;
/// How long a leader waits for those who have not answered.
const PATIENCE: Duration = Duration::from_secs(1);

/// A state machine's digest when it had applied the entry at `index` and none after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) index: Index,
    pub(super) digest: u64,
}

/// What a leader's heartbeat says of digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// Where it wants to know the follower's; 0: nowhere.
    pub(super) asked: Index,
    /// What a quorum has.
    pub(super) agreed: Option<Checkpoint>,
}

/// How a member's state differs from that of the others. See [`NodeHandle::divergence`](super::NodeHandle::divergence).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The entry at which it was noticed: the member went astray there, or before.
    pub index: Index,
    /// The digest of this member's state after that entry.
    pub own: u64,
    /// The digest that a majority of all members has there.
    pub agreed: u64,
}

/// What an operator should know, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// This member, the leader or not, has gone astray.
    Diverged { own: MemberId, divergence: Divergence },
    /// The leader's: another member has.
    Different { member: MemberId, answer: Checkpoint, agreed: u64, agreeing: Vec<MemberId> },
    /// The leader's: the answers differ, and none has a quorum.
    Undecided { index: Index, answers: BTreeMap<MemberId, u64> },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Diverged { own: id, divergence: Divergence { index, own, agreed } } => write!(
                f,
                "the state of member {id}, this one, has gone astray: its digest at entry {index} is {own:016x}, a majority has \
                 {agreed:016x}; it serves no reads and no writes from now on, and goes on as a voter: stop it and start \
                 it with `syncraft server --rebuild`"
            ),
            Finding::Different {
                member,
                answer: Checkpoint { index, digest },
                agreed,
                agreeing,
            } => {
                write!(
                    f,
                    "the state of member {member} has gone astray: its digest at entry {index} is {digest:016x}; \
                     {agreed:016x} is that of a majority: members"
                )?;
                agreeing.iter().try_for_each(|member| write!(f, " {member}"))
            }
            Finding::Undecided { index, answers } => {
                write!(f, "the members' states differ, and no majority agrees: at entry {index}")?;
                answers.iter().try_for_each(|(member, digest)| {
                    write!(f, ", member {member} has {digest:016x}")
                })
            }
        }
    }
}

/// What one member knows of its own digests, and as a leader of the others'.
pub(super) struct Comparison {
    own: MemberId,
    /// All of them, itself among them.
    members: Membership,
    digests: Digests,
    /// Where it was last asked about, and its digest there once it has one.
    asked: Index,
    answer: Option<Checkpoint>,
    /// What was agreed on about an entry that is not applied yet.
    pending: Option<Checkpoint>,
    leading: Leading,
    diverged: Option<Divergence>,
}

/// A leader's part, of one term.
#[derive(Default)]
struct Leading {
    term: Term,
    question: Option<Question>,
    agreed: Option<Checkpoint>,
    /// Who did.
    agreeing: Vec<MemberId>,
    /// Who last answered otherwise than a quorum.
    different: BTreeMap<MemberId, Checkpoint>,
    is_undecided: bool,
}

struct Question {
    index: Index,
    asked_at: Instant,
    answers: BTreeMap<MemberId, u64>,
}

impl Comparison {
    pub(super) fn new(own: MemberId, members: Membership) -> Comparison {
        Comparison {
            own,
            members,
            digests: Digests::default(),
            asked: Index::ZERO,
            answer: None,
            pending: None,
            leading: Leading::default(),
            diverged: None,
        }
    }

    /// The state is another one, which holds everything up to `index`: it is judged anew.
    pub(super) fn restored(&mut self, index: Index, digest: Option<u64>) -> Vec<Finding> {
        (self.digests, self.diverged) = (Digests::default(), None);
        self.applied(index, digest.as_slice())
    }

    /// The entries from `first` on were applied, and these are the digests after each of them.
    pub(super) fn applied(&mut self, first: Index, digests: &[u64]) -> Vec<Finding> {
        self.digests.extend(first, digests);
        self.look_up_answer();
        self.settle()
    }

    /// The newest digest.
    pub(super) fn newest(&self) -> Option<Checkpoint> {
        self.digests.newest()
    }

    pub(super) fn divergence(&self) -> Option<Divergence> {
        self.diverged
    }

    /// A leader's heartbeat says so.
    pub(super) fn heard(&mut self, Query { asked, agreed }: Query) -> Vec<Finding> {
        // Of those about entries to come the first is kept: a member that is always behind would never get to the last.
        let first =
            |one: Checkpoint, other: Checkpoint| if other.index < one.index { other } else { one };
        self.pending = match (self.pending, agreed) {
            (Some(pending), Some(agreed)) => Some(first(pending, agreed)),
            (pending, agreed) => pending.or(agreed),
        };
        // First: what it was asked about before may be what was agreed on, and the only digest there that it still has.
        let findings = self.settle();
        self.asked = asked;
        self.look_up_answer();
        findings
    }

    /// What the answer to a heartbeat says: this member's digest where it was asked about, if it has come so far.
    pub(super) fn answer(&self) -> Option<Checkpoint> {
        self.answer
    }

    /// What the heartbeats of `term` say, which this member sends as its leader.
    pub(super) fn ask(&mut self, term: Term, now: Instant) -> (Query, Vec<Finding>) {
        if term < self.leading.term {
            return Default::default();
        }
        if term > self.leading.term {
            self.leading = Leading { term, ..Leading::default() };
        }
        let mut findings = Vec::new();
        if self.is_over(now) {
            findings.extend(self.undecided());
            self.ask_anew(now);
        }
        let question = self.leading.question.as_ref();
        let asked = question.map_or(Index::ZERO, |question| question.index);
        (Query { asked, agreed: self.leading.agreed }, findings)
    }

    /// A follower answers this leader.
    pub(super) fn answered(&mut self, from: MemberId, answer: Checkpoint) -> Vec<Finding> {
        let question = self.leading.question.as_mut().filter(|it| it.index == answer.index);
        let Some(question) = question else { return Vec::new() };
        question.answers.insert(from, answer.digest);
        self.decide()
    }

    /// Whom this leader has found different, by what they last answered.
    pub(super) fn different(&self) -> Vec<MemberId> {
        self.leading.different.keys().copied().collect()
    }

    /// The quorum that had the same digest when this leader last found one.
    pub(super) fn agreeing(&self) -> &[MemberId] {
        &self.leading.agreeing
    }

    fn is_over(&self, now: Instant) -> bool {
        self.leading.question.as_ref().is_none_or(|question| {
            question.answers.len() >= self.members.len() || question.asked_at + PATIENCE <= now
        })
    }

    /// About what is applied by now, if that is not what was asked about.
    fn ask_anew(&mut self, now: Instant) {
        let last = self.leading.question.as_ref().map_or(Index::ZERO, |question| question.index);
        let Some(newest) = self.newest().filter(|newest| newest.index > last) else { return };
        let answers = BTreeMap::from([(self.own, newest.digest)]);
        self.leading.question = Some(Question { index: newest.index, asked_at: now, answers });
        self.asked = newest.index;
        self.look_up_answer();
    }

    /// Told once, until there is an agreement again.
    fn undecided(&mut self) -> Option<Finding> {
        let Question { index, answers, .. } = self.leading.question.as_ref()?;
        let is_agreed = self.leading.agreed.is_some_and(|agreed| agreed.index == *index);
        let first = answers.values().next();
        let is_split = !is_agreed && answers.values().any(|digest| Some(digest) != first);
        (is_split && !std::mem::replace(&mut self.leading.is_undecided, true))
            .then(|| Finding::Undecided { index: *index, answers: answers.clone() })
    }

    /// Whether a quorum gave the same answer, and who another one.
    fn decide(&mut self) -> Vec<Finding> {
        let Leading { question, agreed, agreeing, different, is_undecided, .. } = &mut self.leading;
        let Some(Question { index, answers, .. }) = question else { return Vec::new() };
        let have = |digest: u64| {
            answers.iter().filter(move |it| *it.1 == digest).map(|(&id, _)| id).collect::<Vec<_>>()
        };
        let is_agreed = |digest: &&u64| self.members.is_quorum(have(**digest));
        let Some(&digest) = answers.values().find(is_agreed) else { return Vec::new() };
        let decision = Checkpoint { index: *index, digest };
        (*agreed, *agreeing, *is_undecided) = (Some(decision), have(digest), false);
        let mut findings = Vec::new();
        for (&member, &answer) in answers.iter() {
            let checkpoint = Checkpoint { index: *index, digest: answer };
            if answer == digest {
                different.remove(&member);
            } else if different.insert(member, checkpoint).is_none() && member != self.own {
                let agreeing = agreeing.clone();
                findings.push(Finding::Different {
                    member,
                    answer: checkpoint,
                    agreed: digest,
                    agreeing,
                });
            }
        }
        findings.extend(self.judge(decision));
        findings
    }

    fn look_up_answer(&mut self) {
        if self.answer.is_none_or(|answer| answer.index != self.asked) {
            self.answer = self.digests.at(self.asked).filter(|_| self.asked != Index::ZERO);
        }
    }

    /// Judges by what was agreed on, once this member has come so far.
    fn settle(&mut self) -> Vec<Finding> {
        let newest = self.newest();
        let is_applied = |pending: &Checkpoint| newest.is_some_and(|it| it.index >= pending.index);
        match self.pending.take_if(|pending| is_applied(pending)) {
            Some(agreed) => self.judge(agreed).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn judge(&mut self, agreed: Checkpoint) -> Option<Finding> {
        let answer = self.answer.filter(|answer| answer.index == agreed.index);
        let own = self.digests.at(agreed.index).or(answer)?;
        if own == agreed || self.diverged.is_some() {
            return None;
        }
        let divergence = Divergence { index: own.index, own: own.digest, agreed: agreed.digest };
        self.diverged = Some(divergence);
        Some(Finding::Diverged { own: self.own, divergence })
    }
}

/// The newest digests, one for each entry, without gaps.
#[derive(Default)]
struct Digests {
    first: Index,
    digests: VecDeque<u64>,
}

impl Digests {
    fn extend(&mut self, first: Index, digests: &[u64]) {
        let follows = self.newest().is_some_and(|newest| newest.index.next() == first);
        if !follows {
            self.digests.clear();
            self.first = first;
        }
        self.digests.extend(digests);
        let surplus = self.digests.len().saturating_sub(DIGESTS_MAX);
        self.digests.drain(..surplus);
        self.first.0 += surplus as u64;
    }

    fn at(&self, index: Index) -> Option<Checkpoint> {
        let place = usize::try_from(index.0.checked_sub(self.first.0)?).ok()?;
        self.digests.get(place).map(|&digest| Checkpoint { index, digest })
    }

    fn newest(&self) -> Option<Checkpoint> {
        let digest = *self.digests.back()?;
        Some(Checkpoint { index: Index(self.first.0 + self.digests.len() as u64 - 1), digest })
    }
}

#[cfg(test)]
mod tests;
