//! Calls that wait for a handler: a bounded queue, plain or fair. It has no lock and no clock: its
//! owner locks it and tells it the time.
//!
//! ```text
//!   offer ── the caller's level ──> │ 0 │ 1 │ 2 │ 3 │ ── take: 8, 4, 2, 1 in turns ──> handler
//!                  ^                 full: the next worse level; all full: refused        │
//!                  └──────────────────── charge: the cost of the call <───────────────────┘
//! ```
//!
//! *Plain*: first come, first served, and refused when full.
//!
//! *Fair* (after Hadoop's FairCallQueue and DecayRpcScheduler): four levels, of which 0 is the
//! best, each with an equal part of the places. A call waits in the level that its caller has when
//! it comes (see `shares`) or, if that is full, in the next worse level with a place. Calls are
//! taken from the levels in turns, as many from each as its weight says.
//!
//! # Invariants
//!
//! - Each call that is taken in is taken out once, and within a level in order of arrival.
//! - The queue never holds more than its bound. It refuses, and never waits.
//! - While something waits, a take returns it: the turn of an empty level passes to the next at
//!   once.
//! - No level starves: while all have calls, 15 takes are 8, 4, 2 and 1 of them.
//! - A greedy caller cannot fill the better levels, because a call only falls to worse ones. A
//!   light caller's call is refused only if its own level and all worse ones are full.
//!
//! # Left out
//!
//! - A call that waits keeps its level when the level of its caller changes.
//! - A call's cost is known when it is done. So until its first answers, a flood from a new caller
//!   counts as light, and fills all places it can. Those calls leave at the pace of their levels;
//!   the ones that come later are told apart.
//! - Nothing proves a caller's name. A caller that changes its name counts as light, up to
//!   `callers_max` names.
//! - Within a level callers are not told apart. Two callers with half of the cost each share the
//!   worst level in order of arrival.

mod shares;

use std::collections::VecDeque;
use std::time::Instant;

use crate::Fairness;
use crate::fairness::LEVELS;
use shares::Shares;

/// A bounded queue of calls. A plain queue is a fair one without shares, with all places in level
/// 0.
#[derive(Debug)]
pub(super) struct CallQueue<T> {
    levels: [Level<T>; LEVELS],
    /// The level whose turn it is, and how many more calls are taken from it.
    turn: (usize, u32),
    shares: Option<Shares>,
}

#[derive(Debug)]
struct Level<T> {
    waiting: VecDeque<T>,
    len_max: usize,
    weight: u32,
}

impl<T> CallQueue<T> {
    /// A plain queue of at most `len_max` calls.
    pub(super) fn fifo(len_max: usize) -> Self {
        CallQueue::new([len_max, 0, 0, 0], [1; LEVELS], None)
    }

    /// A fair queue of at most `len_max` calls, at least 4. The settings have been checked.
    pub(super) fn fair(len_max: usize, fairness: Fairness) -> Self {
        assert!(
            len_max >= LEVELS,
            "a fair queue of {len_max} calls leaves a level without a place"
        );
        assert!(fairness.check().is_ok(), "unchecked settings: {fairness:?}");
        let mut lens_max = [len_max / LEVELS; LEVELS];
        lens_max[0] += len_max % LEVELS;
        CallQueue::new(lens_max, fairness.weights, Some(Shares::new(fairness)))
    }

    fn new(lens_max: [usize; LEVELS], weights: [u32; LEVELS], shares: Option<Shares>) -> Self {
        let levels = std::array::from_fn(|level| Level {
            waiting: VecDeque::new(),
            len_max: lens_max[level],
            weight: weights[level],
        });
        CallQueue { levels, turn: (0, weights[0]), shares }
    }

    /// Takes in a call of `caller`; gives it back if there is no place for it.
    pub(super) fn offer(&mut self, caller: &[u8], item: T, now: Instant) -> Result<(), T> {
        let own = self.shares.as_mut().map_or(0, |shares| shares.level(caller, now));
        match self.levels[own..].iter_mut().find(|level| level.waiting.len() < level.len_max) {
            Some(level) => {
                level.waiting.push_back(item);
                Ok(())
            }
            None => Err(item),
        }
    }

    /// The call whose turn it is.
    pub(super) fn take(&mut self) -> Option<T> {
        if self.len() == 0 {
            return None;
        }
        // This ends within one round: something waits, and no weight is 0.
        loop {
            let (level, left) = self.turn;
            if left > 0
                && let Some(item) = self.levels[level].waiting.pop_front()
            {
                self.turn.1 -= 1;
                return Some(item);
            }
            let next = (level + 1) % LEVELS;
            self.turn = (next, self.levels[next].weight);
        }
    }

    /// Adds to the cost of `caller`: the microseconds for which its call kept a handler busy, at
    /// least 1.
    pub(super) fn charge(&mut self, caller: &[u8], cost: u64, now: Instant) {
        if let Some(shares) = &mut self.shares {
            shares.charge(caller, cost, now);
        }
    }

    /// Calls that wait.
    pub(super) fn len(&self) -> usize {
        self.lens().iter().sum()
    }

    /// Calls that wait in each level; all in level 0 if the queue is plain.
    pub(super) fn lens(&self) -> [usize; LEVELS] {
        self.levels.each_ref().map(|level| level.waiting.len())
    }

    /// Takes out all calls, the best level first.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.levels.iter_mut().flat_map(|level| level.waiting.drain(..)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// Callers named after their level, which stays the same until they are charged.
    const CALLERS: [&[u8]; LEVELS] = [b"level 0", b"level 1", b"level 2", b"level 3"];

    /// A fair queue in which `CALLERS` have 5, 15, 30 and 50 of 100.
    fn fair(len_max: usize) -> (CallQueue<usize>, Instant) {
        let (mut queue, now) = (CallQueue::fair(len_max, Fairness::default()), Instant::now());
        for (caller, cost) in CALLERS.iter().zip([5, 15, 30, 50]) {
            queue.charge(caller, cost, now);
        }
        (queue, now)
    }

    /// Fills each level by its own caller with its number.
    fn full(len_max: usize) -> CallQueue<usize> {
        let (mut queue, now) = fair(len_max);
        // The worst first: the better ones must not fall into it.
        for (level, caller) in CALLERS.iter().enumerate().rev() {
            while queue.offer(caller, level, now).is_ok() {}
        }
        assert_eq!(queue.len(), len_max);
        queue
    }

    fn take(queue: &mut CallQueue<usize>, times: usize) -> Vec<usize> {
        (0..times).map_while(|_| queue.take()).collect()
    }

    #[test]
    fn a_plain_queue_keeps_the_order_and_refuses_beyond_its_bound() {
        let (mut queue, now) = (CallQueue::fifo(3), Instant::now());
        for item in 0..3 {
            queue.charge(b"a", 1000, now);
            queue.offer(b"a", item, now).unwrap();
        }
        assert_eq!(queue.offer(b"b", 3, now), Err(3));
        assert_eq!(queue.lens(), [3, 0, 0, 0]);
        assert_eq!(queue.take(), Some(0));
        queue.offer(b"b", 4, now).unwrap();
        assert_eq!(take(&mut queue, 9), [1, 2, 4]);
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn fifteen_takes_from_full_levels_are_eight_four_two_and_one() {
        let mut queue = full(400);
        for _ in 0..3 {
            assert_eq!(take(&mut queue, 15), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3]);
        }
    }

    #[test]
    fn the_turn_of_an_empty_level_passes_at_once() {
        let (mut queue, now) = fair(40);
        for level in [1, 1, 3, 3] {
            queue.offer(CALLERS[level], level, now).unwrap();
        }
        assert_eq!(take(&mut queue, 2), [1, 1]);
        assert_eq!(take(&mut queue, 1), [3]);
        // The turn of level 3 is over.
        for level in [3, 0, 2] {
            queue.offer(CALLERS[level], level, now).unwrap();
        }
        assert_eq!(take(&mut queue, 9), [0, 2, 3, 3]);
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn an_empty_queue_keeps_the_turn() {
        let (mut queue, now) = fair(40);
        queue.offer(CALLERS[2], 2, now).unwrap();
        assert_eq!((queue.take(), queue.take()), (Some(2), None));
        for level in [0, 2, 2] {
            queue.offer(CALLERS[level], level, now).unwrap();
        }
        assert_eq!(take(&mut queue, 3), [2, 0, 2], "one more of two was left to level 2");
    }

    #[test]
    fn places_are_split_equally_and_the_remainder_is_of_level_0() {
        assert_eq!(full(4).lens(), [1, 1, 1, 1]);
        assert_eq!(full(11).lens(), [5, 2, 2, 2]);
    }

    #[test]
    #[should_panic(expected = "leaves a level without a place")]
    fn a_fair_queue_has_a_place_in_every_level() {
        CallQueue::<()>::fair(3, Fairness::default());
    }

    #[test]
    fn a_full_level_overflows_into_worse_ones_only() {
        let (mut queue, now) = fair(8);
        let mut check = |level: usize, expected: Result<[usize; LEVELS], usize>| {
            let offered = queue.offer(CALLERS[level], level, now);
            assert_eq!(offered.map(|()| queue.lens()), expected);
        };
        check(2, Ok([0, 0, 1, 0]));
        check(2, Ok([0, 0, 2, 0]));
        check(2, Ok([0, 0, 2, 1]));
        check(2, Ok([0, 0, 2, 2]));
        check(2, Err(2));
        check(3, Err(3));
        check(1, Ok([0, 1, 2, 2]));
        check(0, Ok([1, 1, 2, 2]));
        check(0, Ok([2, 1, 2, 2]));
        check(0, Ok([2, 2, 2, 2]));
        check(0, Err(0));
    }

    #[test]
    fn the_exempt_wait_in_level_0_whatever_they_cost() {
        let exempt = vec![Bytes::from_static(b"operator")];
        let mut queue = CallQueue::fair(40, Fairness { exempt, ..Fairness::default() });
        let now = Instant::now();
        queue.charge(b"operator", 1_000_000, now);
        queue.charge(b"other", 1, now);
        queue.offer(b"operator", 0, now).unwrap();
        queue.offer(b"other", 1, now).unwrap();
        assert_eq!(queue.lens(), [1, 0, 0, 1]);
    }

    #[test]
    fn draining_takes_out_all() {
        let mut queue = full(8);
        assert_eq!(queue.drain(), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!((queue.len(), queue.take()), (0, None));
    }

    /// One handler, a caller that fills every place it gets, and one that calls in every twentieth
    /// round.
    #[test]
    fn a_light_caller_waits_for_one_call_of_a_greedy_one() {
        let mut queue = CallQueue::fair(64, Fairness::default());
        let start = Instant::now();
        let mut waits = Vec::new();
        let mut since = None;
        for round in 0..2000u32 {
            let now = start + Duration::from_millis(10) * round;
            while queue.offer(b"greedy", "greedy", now).is_ok() {}
            if round % 20 == 10 && since.is_none() && queue.offer(b"light", "light", now).is_ok() {
                since = Some(round);
            }
            let taken = queue.take().unwrap();
            queue.charge(taken.as_bytes(), 10_000, now);
            if taken == "light" {
                waits.push(round - since.take().unwrap());
            }
        }
        // At the start the greedy caller counts as light, and fills every level before its first
        // answer.
        let settled = waits.split_off(5);
        assert!(waits.iter().all(|wait| *wait <= 30), "{waits:?}");
        assert!(settled.len() > 90 && settled.iter().all(|wait| *wait <= 1), "{settled:?}");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Offer(usize),
        Take,
        Charge(usize, u64),
        Pass(Duration),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..6usize).prop_map(Step::Offer),
            4 => Just(Step::Take),
            4 => (0..6usize, 1..1000u64).prop_map(|(caller, cost)| Step::Charge(caller, cost)),
            1 => (0..12_000u64).prop_map(|millis| Step::Pass(Duration::from_millis(millis))),
        ]
    }

    /// The level whose length has changed.
    fn changed(before: [usize; LEVELS], after: [usize; LEVELS]) -> usize {
        let levels: Vec<usize> =
            (0..LEVELS).filter(|&level| before[level] != after[level]).collect();
        assert_eq!(levels.len(), 1, "{before:?} {after:?}");
        levels[0]
    }

    proptest! {
        #[test]
        fn what_is_taken_in_is_taken_out_once_and_in_order(
            len_max in 4..24usize,
            is_fair: bool,
            steps in prop::collection::vec(step(), 0..300),
        ) {
            let fairness = Fairness { callers_max: 4, ..Fairness::default() };
            let mut queue = if is_fair {
                CallQueue::fair(len_max, fairness)
            } else {
                CallQueue::fifo(len_max)
            };
            let mut model: [VecDeque<usize>; LEVELS] = Default::default();
            let mut now = Instant::now();
            for (number, step) in steps.into_iter().enumerate() {
                let before = queue.lens();
                match step {
                    Step::Offer(caller) => match queue.offer(&[caller as u8], number, now) {
                        Ok(()) => model[changed(before, queue.lens())].push_back(number),
                        Err(item) => {
                            prop_assert_eq!(item, number);
                            prop_assert!(is_fair || before[0] == len_max);
                        }
                    },
                    Step::Take => match queue.take() {
                        Some(item) => {
                            let level = changed(before, queue.lens());
                            prop_assert_eq!(model[level].pop_front(), Some(item));
                        }
                        None => prop_assert_eq!(before, [0; LEVELS]),
                    },
                    Step::Charge(caller, cost) => queue.charge(&[caller as u8], cost, now),
                    Step::Pass(time) => now += time,
                }
                prop_assert_eq!(queue.lens(), model.each_ref().map(VecDeque::len));
                prop_assert!(queue.len() <= len_max);
            }
            prop_assert_eq!(queue.drain(), model.into_iter().flatten().collect::<Vec<_>>());
        }
    }
}
