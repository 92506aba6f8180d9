//! The [`Comparison`] of states that a node's threads share: a lock around it, and a log of what it
//! finds.
//!
//! The applier takes the lock once a batch, a peer's thread and the service once a heartbeat. Each
//! request asks whether this member has diverged, which takes no lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::divergence::{Checkpoint, Comparison, Divergence, Finding, Query};
use crate::raft::{Index, MemberId, Membership, Term};

/// How often a leader that has diverged hands over, until it leads no more.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    comparison: Mutex<Comparison>,
    is_diverged: AtomicBool,
    hand_overs: Mutex<HandOvers>,
}

#[derive(Default)]
struct HandOvers {
    count: usize,
    last: Option<Instant>,
}

impl Watch {
    pub(super) fn new(own: MemberId, members: Membership) -> Watch {
        Watch {
            comparison: Mutex::new(Comparison::new(own, members)),
            is_diverged: AtomicBool::new(false),
            hand_overs: Mutex::default(),
        }
    }

    /// Who the members are has changed.
    pub(super) fn set_members(&self, members: Membership) {
        self.comparison.lock().set_members(members);
    }

    /// See [`Comparison::restored`].
    pub(super) fn restored(&self, index: Index, digest: Option<u64>) {
        self.update(|comparison| ((), comparison.restored(index, digest)));
    }

    /// See [`Comparison::applied`].
    pub(super) fn applied(&self, first: Index, digests: &[u64]) {
        self.update(|comparison| ((), comparison.applied(first, digests)));
    }

    /// See [`Comparison::ask`].
    pub(super) fn ask(&self, term: Term) -> Query {
        self.update(|comparison| comparison.ask(term, Instant::now()))
    }

    /// See [`Comparison::answered`].
    pub(super) fn answered(&self, from: MemberId, answer: Checkpoint) {
        self.update(|comparison| ((), comparison.answered(from, answer)));
    }

    /// See [`Comparison::heard`].
    pub(super) fn heard(&self, query: Query) {
        self.update(|comparison| ((), comparison.heard(query)));
    }

    /// See [`Comparison::answer`].
    pub(super) fn answer(&self) -> Option<Checkpoint> {
        self.comparison.lock().answer()
    }

    /// Whether this member's state is known to be wrong.
    pub(super) fn is_diverged(&self) -> bool {
        self.is_diverged.load(Ordering::Acquire)
    }

    pub(super) fn divergence(&self) -> Option<Divergence> {
        self.comparison.lock().divergence()
    }

    pub(super) fn newest(&self) -> Option<Checkpoint> {
        self.comparison.lock().newest()
    }

    pub(super) fn different(&self) -> Vec<MemberId> {
        self.comparison.lock().different()
    }

    /// Whether this member, if it leads, should hand the leadership over now. If it knows whose
    /// states are right, it names one of them: each in turn, as one may be down.
    pub(super) fn transfer_if_diverged(&self, now: Instant) -> Option<Option<MemberId>> {
        if !self.is_diverged() {
            return None;
        }
        let mut hand_overs = self.hand_overs.lock();
        if hand_overs.last.is_some_and(|last| now < last + HAND_OVER_PAUSE) {
            return None;
        }
        *hand_overs = HandOvers { count: hand_overs.count + 1, last: Some(now) };
        let comparison = self.comparison.lock();
        let agreeing = comparison.agreeing();
        Some(agreeing.get(hand_overs.count % agreeing.len().max(1)).copied())
    }

    fn update<T>(&self, update: impl FnOnce(&mut Comparison) -> (T, Vec<Finding>)) -> T {
        let mut comparison = self.comparison.lock();
        let (result, findings) = update(&mut comparison);
        self.is_diverged.store(comparison.divergence().is_some(), Ordering::Release);
        drop(comparison);
        findings.iter().for_each(|finding| log::error!("{finding}"));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_has_diverged_hands_over_to_each_member_in_turn_whose_state_is_right() {
        let (watch, mut now) =
            (Watch::new(MemberId(1), Membership::new([1, 2, 3].map(MemberId))), Instant::now());
        let answer = |digest| Checkpoint { index: Index(5), digest };
        watch.restored(Index(5), Some(1));
        assert_eq!(watch.ask(Term(1)).asked, Index(5));
        watch.answered(MemberId(2), answer(2));
        assert_eq!(watch.transfer_if_diverged(now), None, "it may be right");
        watch.answered(MemberId(3), answer(2));
        assert!(watch.is_diverged());
        let mut successors = Vec::new();
        for _ in 0..2 {
            successors.extend(watch.transfer_if_diverged(now).expect("it is time"));
            assert_eq!(watch.transfer_if_diverged(now), None, "taking over needs some time");
            now += HAND_OVER_PAUSE;
        }
        successors.sort();
        assert_eq!(successors, [MemberId(2), MemberId(3)]);
    }
}
