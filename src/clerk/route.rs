//! Whom to ask next, and when to pause: the part of a call's retries that needs neither socket nor clock.
//!
//! Members are asked in rounds. In one round each is asked at most once, so a loop of hints (a says b leads, b says a does)
//! ends by itself; within a round there is no pause. A hint decides who is next in the round, or, if
//! that member was asked already, who is first in the next one. Between rounds there is a pause that grows: 4 ms, then half
//! as much again each time, up to 60 ms (with the jitter that the call adds, about 5 to 90 ms): an outage is noticed to be
//! over after at most about half as long again.
//!
//! A member that recently let a call wait in vain is left out, unless a hint names it or there is no other.

use std::time::Duration;

const PAUSE_MIN: Duration = Duration::from_millis(4);
const PAUSE_MAX: Duration = Duration::from_millis(60);

/// The longest that a busy member may send us away for: there are others to ask.
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often in a row one member may say "busy" and be asked again before the others are.
const BUSY_STREAK_MAX: u32 = 3;

/// A set of members, by their place in the list: bit i is member i.
pub(super) type MemberSet = u64;

/// The way of one call through the members.
#[derive(Debug)]
pub(super) struct Route {
    asked: MemberSet,
    next: usize,
    hint: Option<usize>,
    pause: Duration,
    busy_streak: u32,
    busy_pause: Option<Duration>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask this member.
    Ask(usize),
    /// Wait about so long: nobody asked for it, so less will do when time is short.
    Pause(Duration),
    /// Wait at least so long: a member asked for it.
    Wait(Duration),
}

impl Route {
    /// Begins with member `first`.
    pub(super) fn new(first: usize) -> Route {
        Route {
            asked: 0,
            next: first,
            hint: None,
            pause: PAUSE_MIN,
            busy_streak: 0,
            busy_pause: None,
        }
    }

    /// The next step among `len` members, of which some are better left alone.
    pub(super) fn step(&mut self, len: usize, avoid: MemberSet) -> Step {
        if let Some(pause) = self.busy_pause.take() {
            return Step::Wait(pause);
        }
        match self.choose(len, avoid) {
            Some(member) => {
                self.asked |= 1 << member;
                self.next = (member + 1) % len;
                Step::Ask(member)
            }
            None => {
                self.asked = 0;
                Step::Pause(self.longer_pause())
            }
        }
    }

    /// The member that was asked says that this one leads.
    pub(super) fn hint(&mut self, leader: usize) {
        self.hint = Some(leader);
    }

    /// The member that was asked is busy: after a pause it is asked again, for a few times.
    pub(super) fn busy(&mut self, member: usize, retry_after: Option<Duration>) {
        self.busy_streak += 1;
        let asked_for = retry_after.unwrap_or_default().min(BUSY_PAUSE_MAX);
        self.busy_pause = Some(asked_for.max(self.longer_pause()));
        if self.busy_streak <= BUSY_STREAK_MAX {
            self.asked &= !(1 << member);
            self.hint = Some(member);
        }
    }

    /// The member that was asked is not busy, whatever else it is.
    pub(super) fn not_busy(&mut self) {
        self.busy_streak = 0;
    }

    fn choose(&mut self, len: usize, avoid: MemberSet) -> Option<usize> {
        let all: MemberSet = (1 << len) - 1;
        if let Some(hint) = self.hint.filter(|hint| self.asked & (1 << hint) == 0) {
            self.hint = None;
            return Some(hint);
        }
        let candidates = if avoid & all == all { all } else { all & !avoid };
        let is_left = |member: &usize| candidates & !self.asked & (1 << member) != 0;
        (0..len).map(|i| (self.next + i) % len).find(is_left)
    }

    fn longer_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 3 / 2).min(PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::Step::Ask;
    use super::*;

    /// The members asked up to and without the next pause.
    fn round(route: &mut Route, len: usize, avoid: MemberSet) -> Vec<usize> {
        let mut asked = Vec::new();
        while let Ask(member) = route.step(len, avoid) {
            asked.push(member);
        }
        asked
    }

    #[test]
    fn a_round_asks_each_member_once_beginning_with_the_leader_of_last_time() {
        let mut route = Route::new(1);
        assert_eq!(round(&mut route, 3, 0), [1, 2, 0]);
        assert_eq!(round(&mut route, 3, 0), [1, 2, 0]);
        assert_eq!(round(&mut Route::new(0), 1, 0), [0]);
    }

    #[test]
    fn a_hint_is_followed_at_once() {
        let mut route = Route::new(0);
        assert_eq!(route.step(5, 0), Ask(0));
        route.hint(3);
        assert_eq!(round(&mut route, 5, 0), [3, 4, 1, 2]);
    }

    #[test]
    fn a_loop_of_hints_ends_with_the_round() {
        let mut route = Route::new(0);
        for expected in [0, 1] {
            assert_eq!(route.step(3, 0), Ask(expected));
            route.hint(1 - expected);
        }
        // The last hint (member 0, asked already) waits for the next round.
        assert_eq!(round(&mut route, 3, 0), [2]);
        assert_eq!(round(&mut route, 3, 0), [0, 1, 2]);
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut route = Route::new(0);
        let pauses: Vec<u64> = (0..14)
            .map(|_| {
                loop {
                    if let Step::Pause(pause) = route.step(3, 0) {
                        break pause.as_millis() as u64;
                    }
                }
            })
            .collect();
        assert_eq!(pauses, [4, 6, 9, 13, 20, 30, 45, 60, 60, 60, 60, 60, 60, 60]);
    }

    #[test]
    fn the_silent_are_left_out_unless_hinted_at_or_alone() {
        assert_eq!(round(&mut Route::new(0), 3, 0b001), [1, 2]);
        assert_eq!(round(&mut Route::new(0), 3, 0b111), [0, 1, 2]);
        let mut route = Route::new(1);
        assert_eq!(route.step(3, 0b001), Ask(1));
        route.hint(0);
        assert_eq!(round(&mut route, 3, 0b001), [0, 2]);
    }

    #[test]
    fn a_busy_member_is_asked_again_after_its_time_and_not_for_ever() {
        let mut route = Route::new(1);
        for asked_for in [300, 1000, 2000, 3_600_000].map(Duration::from_millis) {
            assert_eq!(route.step(3, 0), Ask(1));
            route.busy(1, Some(asked_for));
            assert_eq!(route.step(3, 0), Step::Wait(asked_for.min(BUSY_PAUSE_MAX)));
        }
        assert_eq!(route.step(3, 0), Ask(2));
        // Without a time of its own, the pause is the usual one.
        route.busy(2, None);
        assert!(matches!(route.step(3, 0), Step::Wait(pause) if pause <= PAUSE_MAX));
    }
}
