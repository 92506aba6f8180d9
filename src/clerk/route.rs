//! Which member a call asks next, and when it pauses. Needs neither socket nor clock.
//!
//! Members are asked in rounds. A round asks each member at most once, without a pause, so hints
//! that form a loop (a says b leads, b says a leads) end with the round. A hint decides which
//! member comes next. If that member has been asked in this round, it comes first in the next one.
//! Between rounds there is a pause, which doubles from 4 ms to 60 ms ([`Backoff`]). So a call
//! notices the end of an outage after at most about as long again as the outage took.
//!
//! A member at which a call would probably wait in vain is left out, unless a hint names it or
//! there is no other.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::rpc::Backoff;

/// The pauses between rounds.
const PAUSES: Backoff =
    Backoff { first: Duration::from_millis(4), longest: Duration::from_millis(60) };

/// How long a busy member may at most make us wait. There are other members to ask.
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often in a row a busy member is asked again before the others are.
const BUSY_STREAK_MAX: u32 = 3;

/// A set of members, by their numbers in the list.
pub(super) type MemberSet = BTreeSet<usize>;

/// The way of one call through the members.
#[derive(Debug)]
pub(super) struct Route {
    asked: MemberSet,
    /// The member with this number, or else the next higher one.
    next: usize,
    hint: Option<usize>,
    /// Pauses so far.
    pauses: u32,
    busy_streak: u32,
    busy_pause: Option<Duration>,
}

/// What the call does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask this member.
    Ask(usize),
    /// Pause for about this long. Less will do if time is short.
    Pause(Duration),
    /// Wait at least this long, because a member asked for it.
    Wait(Duration),
}

impl Route {
    /// A route that begins with member `first`.
    pub(super) fn new(first: usize) -> Route {
        let asked = MemberSet::new();
        Route { asked, next: first, hint: None, pauses: 0, busy_streak: 0, busy_pause: None }
    }

    /// The next step among these members, whose numbers ascend, and of which those in `avoid` are
    /// left out if possible.
    pub(super) fn step(&mut self, members: &[usize], avoid: &MemberSet) -> Step {
        if let Some(pause) = self.busy_pause.take() {
            return Step::Wait(pause);
        }
        match self.choose(members, avoid) {
            Some(member) => {
                self.asked.insert(member);
                self.next = member + 1;
                Step::Ask(member)
            }
            None => {
                self.asked.clear();
                Step::Pause(self.next_pause())
            }
        }
    }

    /// The member that was asked says that `leader` leads.
    pub(super) fn hint(&mut self, leader: usize) {
        self.hint = Some(leader);
    }

    /// The member that was asked is busy. It is asked again after a pause, a few times at most.
    pub(super) fn busy(&mut self, member: usize, retry_after: Option<Duration>) {
        self.busy_streak += 1;
        let asked_for = retry_after.unwrap_or_default().min(BUSY_PAUSE_MAX);
        // Clients that a member turned away at the same time must not come back together.
        let share = asked_for / 3;
        let spread = Backoff { first: share, longest: share }.pause(1);
        self.busy_pause = Some(asked_for + spread + self.next_pause());
        if self.busy_streak <= BUSY_STREAK_MAX {
            self.asked.remove(&member);
            self.hint = Some(member);
        }
    }

    /// The member that was asked is not busy.
    pub(super) fn not_busy(&mut self) {
        self.busy_streak = 0;
    }

    fn choose(&mut self, members: &[usize], avoid: &MemberSet) -> Option<usize> {
        let is_unasked = |member: &usize| !self.asked.contains(member) && members.contains(member);
        if let Some(hint) = self.hint.filter(is_unasked) {
            self.hint = None;
            return Some(hint);
        }
        let is_last_resort = members.iter().all(|member| avoid.contains(member));
        let is_left =
            |member: &&usize| is_unasked(member) && (is_last_resort || !avoid.contains(member));
        let (before, from_next) = members.split_at(members.partition_point(|it| *it < self.next));
        from_next.iter().chain(before).find(is_left).copied()
    }

    fn next_pause(&mut self) -> Duration {
        self.pauses = self.pauses.saturating_add(1);
        PAUSES.pause(self.pauses)
    }
}

#[cfg(test)]
mod tests {
    use super::Step::Ask;
    use super::*;

    fn step(route: &mut Route, len: usize, avoid: &[usize]) -> Step {
        let members: Vec<usize> = (0..len).collect();
        route.step(&members, &avoid.iter().copied().collect())
    }

    /// The members asked before the next pause.
    fn round(route: &mut Route, len: usize, avoid: &[usize]) -> Vec<usize> {
        let mut asked = Vec::new();
        while let Ask(member) = step(route, len, avoid) {
            asked.push(member);
        }
        asked
    }

    #[test]
    fn a_round_asks_each_member_once_beginning_with_the_leader_of_last_time() {
        let mut route = Route::new(1);
        assert_eq!(round(&mut route, 3, &[]), [1, 2, 0]);
        assert_eq!(round(&mut route, 3, &[]), [1, 2, 0]);
        assert_eq!(round(&mut Route::new(0), 1, &[]), [0]);
    }

    #[test]
    fn members_come_and_go() {
        let mut route = Route::new(4);
        let avoid = MemberSet::new();
        assert_eq!(route.step(&[1, 4, 7], &avoid), Ask(4));
        // 7 has left, and 9 is new.
        assert_eq!(route.step(&[1, 4, 9], &avoid), Ask(9));
        route.hint(7);
        assert_eq!(route.step(&[1, 4, 9], &avoid), Ask(1));
        assert!(matches!(route.step(&[1, 4, 9], &avoid), Step::Pause(_)));
    }

    #[test]
    fn a_hint_is_followed_at_once() {
        let mut route = Route::new(0);
        assert_eq!(step(&mut route, 5, &[]), Ask(0));
        route.hint(3);
        assert_eq!(round(&mut route, 5, &[]), [3, 4, 1, 2]);
    }

    #[test]
    fn a_loop_of_hints_ends_with_the_round() {
        let mut route = Route::new(0);
        for expected in [0, 1] {
            assert_eq!(step(&mut route, 3, &[]), Ask(expected));
            route.hint(1 - expected);
        }
        // The last hint names member 0, which has been asked, so it counts in the next round.
        assert_eq!(round(&mut route, 3, &[]), [2]);
        assert_eq!(round(&mut route, 3, &[]), [0, 1, 2]);
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut route = Route::new(0);
        for expected_ms in [4, 8, 16, 32, 60, 60, 60] {
            let pause = loop {
                if let Step::Pause(pause) = step(&mut route, 3, &[]) {
                    break pause;
                }
            };
            let expected = Duration::from_millis(expected_ms);
            assert!(pause >= expected / 2 && pause <= expected * 3 / 2, "{expected:?}: {pause:?}");
        }
    }

    #[test]
    fn silent_members_are_left_out_unless_hinted_at_or_alone() {
        assert_eq!(round(&mut Route::new(0), 3, &[0]), [1, 2]);
        assert_eq!(round(&mut Route::new(0), 3, &[0, 1, 2]), [0, 1, 2]);
        let mut route = Route::new(1);
        assert_eq!(step(&mut route, 3, &[0]), Ask(1));
        route.hint(0);
        assert_eq!(round(&mut route, 3, &[0]), [0, 2]);
    }

    #[test]
    fn a_busy_member_is_asked_again_after_its_time_a_few_times() {
        let mut route = Route::new(1);
        for asked_for in [300, 1000, 2000, 3_600_000].map(Duration::from_millis) {
            assert_eq!(step(&mut route, 3, &[]), Ask(1));
            route.busy(1, Some(asked_for));
            let least = asked_for.min(BUSY_PAUSE_MAX);
            let Step::Wait(pause) = step(&mut route, 3, &[]) else { panic!("{route:?}") };
            assert!(
                pause > least && pause < least * 3 / 2 + PAUSES.longest * 2,
                "{least:?}: {pause:?}"
            );
        }
        assert_eq!(step(&mut route, 3, &[]), Ask(2));
        // If the member names no time, the pause is the usual one.
        route.busy(2, None);
        assert!(
            matches!(step(&mut route, 3, &[]), Step::Wait(pause) if pause < PAUSES.longest * 2)
        );
    }
}
