//! Whether all members have the same state. Members compare the digests of their states at equal
//! index.
//!
//! ```text
//! leader ── heartbeat: "your digest at entry I?" ──> follower: applies I, remembers its digest
//!        <── reply: "at entry I it is D" ──────────
//!        a digest that a quorum of all members has at I is the agreed one
//!        ── heartbeat: "at entry I it is D" ───────> follower: mine differs, so I have diverged
//! ```
//!
//! This file is the logic, without locks, clocks and logs. It has a leader's part and a follower's,
//! as any member may lead.
//!
//! - The leader asks about an entry that it has applied. That entry is committed, so all members
//!   must agree on it, in any term. The question stays until all have answered, or for
//!   [`ANSWER_TIMEOUT`]; then the leader asks about its newest entry. If there is none newer, the
//!   question stays: a member that comes back later is compared as well.
//! - Members remember their digests at their last [`DIGESTS_MAX`] entries. A follower that is asked
//!   or told about an entry that it has not applied yet remembers that until it has.
//! - Each member judges itself by what a quorum agreed on. So does a leader in the minority. A
//!   member that has not answered, or no longer has its digest at that index, is compared at a
//!   later one.
//! - If no quorum agrees, nobody knows which state is right. This is logged, and nobody stops.
//! - A new leader begins anew. A late message of an earlier leader still counts: what a quorum
//!   agreed on stays true.
//! - A member of an older version sends no digests, and is not compared.
//!
//! Invariant: a member judges itself only against the digest of a quorum of all members.
//!
//! A judgement lasts until the state is replaced: by a restart, or by a snapshot of the leader's.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use crate::raft::{Index, MemberId, Membership, Term};

/// How many digests a member remembers: 64 KiB.
const DIGESTS_MAX: usize = 8_192;
/// How long a leader waits for members that have not answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A state machine's digest when `index` was the last entry it had applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) index: Index,
    pub(super) digest: u64,
}

/// What a leader's heartbeat says of digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// The entry at which the leader asks for the follower's digest; 0: none.
    pub(super) asked: Index,
    /// The digest that a quorum has.
    pub(super) agreed: Option<Checkpoint>,
}

/// How a member's state differs from that of the others. See
/// [`NodeHandle::divergence`](super::NodeHandle::divergence).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The entry at which it was noticed. The member diverged there, or before.
    pub index: Index,
    /// The digest of this member's state after that entry.
    pub own: u64,
    /// The digest that a majority of all members has there.
    pub agreed: u64,
}

/// What an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// This member has diverged. It may be the leader.
    Diverged { own: MemberId, divergence: Divergence },
    /// Found by a leader: another member has diverged.
    Different { member: MemberId, answer: Checkpoint, agreed: u64, agreeing: Vec<MemberId> },
    /// Found by a leader: the answers differ, and none has a quorum.
    Undecided { index: Index, answers: BTreeMap<MemberId, u64> },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Diverged { own: id, divergence: Divergence { index, own, agreed } } => write!(
                f,
                "the state of this member, {id}, has diverged: its digest at entry {index} is \
                 {own:016x}, and that of a majority is {agreed:016x}. It still votes, but serves \
                 no reads and no writes from now on: stop it and start it with `syncraft server \
                 --rebuild`"
            ),
            Finding::Different {
                member,
                answer: Checkpoint { index, digest },
                agreed,
                agreeing,
            } => {
                write!(
                    f,
                    "the state of member {member} has diverged: its digest at entry {index} is \
                     {digest:016x}, and {agreed:016x} is that of a majority: members"
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

/// What one member knows of its own digests and, if it leads, of the others'.
pub(super) struct Comparison {
    own: MemberId,
    /// All members, this one among them.
    members: Membership,
    digests: Digests,
    /// The entry that a leader last asked about, and this member's digest there once it has one.
    asked: Index,
    answer: Option<Checkpoint>,
    /// A digest that was agreed on, at an entry that is not applied yet.
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
    /// Who agreed.
    agreeing: Vec<MemberId>,
    /// Whose last answer differed from that of a quorum.
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

    /// Who the members are has changed. Their next answers decide; those of former members no
    /// longer count.
    pub(super) fn set_members(&mut self, members: Membership) {
        self.leading.different.retain(|id, _| members.contains(*id));
        if let Some(question) = &mut self.leading.question {
            question.answers.retain(|id, _| *id == self.own);
        }
        self.members = members;
    }

    /// The state was replaced by one that holds everything up to `index`: it is judged anew.
    pub(super) fn restored(&mut self, index: Index, digest: Option<u64>) -> Vec<Finding> {
        (self.digests, self.diverged) = (Digests::default(), None);
        self.applied(index, digest.as_slice())
    }

    /// The entries from `first` on were applied. `digests` has the digest after each of them.
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

    /// A leader's heartbeat has arrived.
    pub(super) fn heard(&mut self, Query { asked, agreed }: Query) -> Vec<Finding> {
        // Of two entries that are not applied yet, the first is kept: a member that is always
        // behind would never reach the last.
        let first =
            |one: Checkpoint, other: Checkpoint| if other.index < one.index { other } else { one };
        self.pending = match (self.pending, agreed) {
            (Some(pending), Some(agreed)) => Some(first(pending, agreed)),
            (pending, agreed) => pending.or(agreed),
        };
        // First of all: the earlier question may be about the agreed entry, and its answer the only
        // digest there that this member still has.
        let findings = self.settle();
        self.asked = asked;
        self.look_up_answer();
        findings
    }

    /// What the reply to a heartbeat carries: this member's digest at the entry in question, if it
    /// has applied that entry.
    pub(super) fn answer(&self) -> Option<Checkpoint> {
        self.answer
    }

    /// What this member's heartbeats carry, as the leader of `term`.
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

    /// A follower has answered.
    pub(super) fn answered(&mut self, from: MemberId, answer: Checkpoint) -> Vec<Finding> {
        let question = self.leading.question.as_mut().filter(|it| it.index == answer.index);
        let Some(question) = question else { return Vec::new() };
        // Most replies say again what the last one said.
        match question.answers.insert(from, answer.digest) {
            Some(before) if before == answer.digest => Vec::new(),
            _ => self.decide(),
        }
    }

    /// The members that this leader has found to differ, by their last answers.
    pub(super) fn different(&self) -> Vec<MemberId> {
        self.leading.different.keys().copied().collect()
    }

    /// The quorum that had the same digest when this leader last found one.
    pub(super) fn agreeing(&self) -> &[MemberId] {
        &self.leading.agreeing
    }

    fn is_over(&self, now: Instant) -> bool {
        self.leading.question.as_ref().is_none_or(|question| {
            question.answers.len() >= self.members.len()
                || question.asked_at + ANSWER_TIMEOUT <= now
        })
    }

    /// Asks about the newest entry, if the last question was about an earlier one.
    fn ask_anew(&mut self, now: Instant) {
        let last = self.leading.question.as_ref().map_or(Index::ZERO, |question| question.index);
        let Some(newest) = self.newest().filter(|newest| newest.index > last) else { return };
        let answers = BTreeMap::from([(self.own, newest.digest)]);
        self.leading.question = Some(Question { index: newest.index, asked_at: now, answers });
        self.asked = newest.index;
        self.look_up_answer();
    }

    /// Returned once, until members agree again.
    fn undecided(&mut self) -> Option<Finding> {
        let Question { index, answers, .. } = self.leading.question.as_ref()?;
        let is_agreed = self.leading.agreed.is_some_and(|agreed| agreed.index == *index);
        let first = answers.values().next();
        let is_split = !is_agreed && answers.values().any(|digest| Some(digest) != first);
        (is_split && !std::mem::replace(&mut self.leading.is_undecided, true))
            .then(|| Finding::Undecided { index: *index, answers: answers.clone() })
    }

    /// Finds out whether a quorum gave the same answer, and who gave another one.
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

    /// Judges this member by what was agreed on, once it has applied that entry.
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
