//! The cluster's time: a replicated number of milliseconds, by which leases end.
//!
//! ```text
//!            stamp T                                       C0 = T + (H - B)
//! leader 1 ──┴─ entry ──────────────── dies
//! leader 2      B: applied ─────────── H: last heard ── elected ── its no-op applied: C0 ──> time
//!               └── time that counts ─┘└─ does not count ────────┘└─ counts ────────────────
//! ```
//! Only a leader tells the time, and only by stamps in its log: 8 bytes behind a command
//! ([`Event::ProposeStamped`](super::Event::ProposeStamped)). The core adds the stamp when it
//! appends the entry, so a stamp is always of the entry's own term. Members learn the time by
//! applying stamps. Nobody's wall clock counts.
//!
//! # Rules
//! 1. A member remembers the newest stamp that it has applied (T), its boot-time clock at its first
//!    step after that (B), also if the stamp is equal to the one before, and when it last heard a
//!    leader or, leading, a quorum, in a term before the one that it leads now (H). None of B and H
//!    survives a restart. A start, and a snapshot that replaces the state, set B to the current
//!    reading.
//! 2. A leader tells no time before its own no-op is applied. Then it fixes, for its term,
//!    `C0 = T + max(0, H - B)`, or `T` without H. Its time is C0 and the boot time since then.
//! 3. The clock is read once a step, before anything is stamped. A difference between two readings
//!    that is negative, or longer than an election timeout (the machine was suspended), counts as
//!    0, on every member, also between B and H.
//! 4. While something has a deadline, the leader proposes an entry that only tells the time: at
//!    once when it has fixed its time, when the deadline has passed, and every
//!    [`TIME_ENTRY_PAUSE_US`]. One is under way at a time.
//!
//! # What follows
//! *Stamps never fall along the log.* Within a term, the time that counts never falls. A new
//! leader's C0 is at least T, and it has applied all earlier stamps in its log before its own
//! no-op.
//!
//! *No leader's time runs ahead of the clocks.* Let a stamp s be in the log, and let a later leader
//! tell the time c. Then at least `c - s` has passed, by the clocks of the members concerned, since
//! s was told. By induction over terms: in the term of s it is rule 2. For a later leader, T is at
//! least s, and T was told before B, so what passed from B to H, and from the fixing of C0 on, has
//! all passed since T was told. These spans do not overlap, because H is of an earlier term. By the
//! induction, `T - s` had passed from s to T.
//!
//! Both times are those of readings, not of appends. A shell takes what has arrived before it
//! reads the clock, so a command was sent before the reading that it is stamped with. It looks at
//! what is applied after it has read the clock; what is applied by then was told in an earlier
//! step.
//!
//! So a deadline `s + TTL` passes, by any leader's time, no earlier than TTL after s was told: see
//! the page of the store's leases.
//!
//! *A change of leader neither restarts a lease nor shortens it.* From B to H there was a leader
//! that was heard, and that time counts. Only the time without a leader, and what a member cannot
//! know after its restart, does not count.

use super::config::Config;
use super::types::Index;

/// How often a leader tells the time while something has a deadline, in microseconds: 10 s. It
/// bounds what a new leader cannot know that has just been restarted.
pub(super) const TIME_ENTRY_PAUSE_US: u64 = 10_000_000;

/// The length of a stamp in bytes: see [`Event::ProposeStamped`](super::Event::ProposeStamped).
pub const STAMP_LEN_BYTES: usize = 8;

/// What a state machine says of the cluster's time, as of the last entry that it has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedTime {
    /// The newest stamp that was applied, in milliseconds; 0: there was none.
    pub newest_ms: u64,
    /// When something is next due, in the same milliseconds. `None`: nothing has a deadline.
    pub next_deadline_ms: Option<u64>,
}

/// What a member knows of the time.
#[derive(Debug, Default)]
pub(super) struct Time {
    applied: AppliedTime,
    /// The last reading of the clock.
    reading_us: Option<u64>,
    /// The time that has counted since this member started.
    counted_us: u64,
    /// B: when the newest stamp was first seen to be applied, in time that counts.
    stamped_us: u64,
    /// H: when a leader, or a quorum as leader, was last heard, in time that counts.
    heard_us: Option<u64>,
}

/// What a leader knows of the time of its term.
#[derive(Debug, Default)]
pub(super) struct LeaderTime {
    /// Once the no-op is applied.
    fixed: Option<Fixed>,
    /// The time entry that is under way.
    entry: Option<Index>,
    /// When the last one was proposed, in time that counts.
    told_us: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Fixed {
    /// C0, in microseconds.
    begin_us: u64,
    /// When it was fixed, in time that counts.
    at_us: u64,
}

impl Time {
    /// The clock has been read.
    #[inline]
    pub(super) fn read_clock(&mut self, now_us: u64, config: &Config) {
        let longest_us = u64::from(config.election_ticks_max) * config.tick_us;
        let passed_us = self.reading_us.replace(now_us).and_then(|last| now_us.checked_sub(last));
        self.counted_us += passed_us.filter(|&us| us <= longest_us).unwrap_or(0);
    }

    /// The state machine has come this far. `is_anew`: it has applied a stamp, or has just started,
    /// or a snapshot has replaced its state.
    pub(super) fn applied(&mut self, applied: AppliedTime, is_anew: bool) {
        let before = std::mem::replace(&mut self.applied, applied);
        assert!(is_anew || before.newest_ms == applied.newest_ms, "only stamps bring a new time");
        if is_anew {
            self.stamped_us = self.counted_us;
        }
    }

    /// The leader of the current term, another member, was heard.
    #[inline]
    pub(super) fn heard(&mut self) {
        self.heard_us = Some(self.counted_us);
    }

    /// As the leader of a term that is over, this member last heard a quorum then.
    pub(super) fn had_heard_quorum(&mut self, at_us: u64) {
        assert!(at_us <= self.counted_us, "nothing is heard in the future");
        self.heard_us = self.heard_us.max(Some(at_us));
    }

    pub(super) fn counted_us(&self) -> u64 {
        self.counted_us
    }

    /// How long ago the clock was last read, if it is `now_us` now.
    pub(super) fn since_reading_us(&self, now_us: u64) -> u64 {
        self.reading_us.map_or(0, |last| now_us.saturating_sub(last))
    }
}

impl LeaderTime {
    /// The no-op is applied: from now on this leader tells the time.
    pub(super) fn fix(&mut self, time: &Time) {
        if self.fixed.is_none() {
            let passed_us = time.heard_us.map_or(0, |at| at.saturating_sub(time.stamped_us));
            let begin_us = time.applied.newest_ms.saturating_mul(1000).saturating_add(passed_us);
            self.fixed = Some(Fixed { begin_us, at_us: time.counted_us });
        }
    }

    /// The time, in milliseconds. `None`: this leader does not know it yet.
    pub(super) fn now_ms(&self, time: &Time) -> Option<u64> {
        let Fixed { begin_us, at_us } = self.fixed?;
        Some(begin_us.saturating_add(time.counted_us - at_us) / 1000)
    }

    /// Whether the time should be told so long after the last reading of the clock. `news`: what
    /// the state machine has said since.
    pub(super) fn is_entry_due(
        &self,
        since_reading_us: u64,
        time: &Time,
        news: Option<AppliedTime>,
    ) -> bool {
        let has_deadline = news.unwrap_or(time.applied).next_deadline_ms.is_some();
        if self.fixed.is_none() || !has_deadline {
            return false;
        }
        let counted_us = time.counted_us.saturating_add(since_reading_us);
        let is_regular = self.told_us.is_none_or(|told| told + TIME_ENTRY_PAUSE_US <= counted_us);
        self.entry.is_none()
            && (is_regular || self.is_any_due_within(since_reading_us / 1000, time, news))
    }

    /// Whether something has its deadline within so long after the last reading of the clock.
    /// `news` as before.
    pub(super) fn is_any_due_within(
        &self,
        ms: u64,
        time: &Time,
        news: Option<AppliedTime>,
    ) -> bool {
        let now_ms = self.now_ms(time);
        let deadline_ms = news.unwrap_or(time.applied).next_deadline_ms;
        now_ms.zip(deadline_ms).is_some_and(|(now_ms, deadline)| deadline <= now_ms + ms)
    }

    /// The entry at `index` only tells the time.
    pub(super) fn told(&mut self, index: Index, time: &Time) {
        (self.entry, self.told_us) = (Some(index), Some(time.counted_us));
    }

    /// The state machine has applied the entries up to `index`.
    pub(super) fn applied(&mut self, index: Index) {
        self.entry.take_if(|entry| *entry <= index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MemberId;

    /// A member, with its clock at zero.
    struct Member(Time, Config, u64);

    impl Member {
        fn new() -> Member {
            let config = Config::new(MemberId(1), [1, 2, 3].map(MemberId));
            let mut member = Member(Time::default(), config, 5_000_000);
            member.pass(0);
            member
        }

        /// Some milliseconds pass, in steps of 10.
        fn pass(&mut self, ms: u64) {
            for _ in 0..(ms / 10).max(1) {
                self.2 += ms.min(10) * 1000;
                self.0.read_clock(self.2, &self.1);
            }
        }

        fn jump(&mut self, us: i64) {
            self.2 = self.2.checked_add_signed(us).unwrap();
            self.0.read_clock(self.2, &self.1);
        }

        fn apply(&mut self, newest_ms: u64) {
            self.0.applied(AppliedTime { newest_ms, next_deadline_ms: Some(1) }, true);
        }

        fn lead(&self) -> LeaderTime {
            let mut leader = LeaderTime::default();
            leader.fix(&self.0);
            leader
        }
    }

    #[test]
    fn time_with_a_leader_counts_and_time_without_one_does_not() {
        let mut member = Member::new();
        member.apply(7_000);
        member.pass(2_000);
        member.0.heard();
        member.pass(90_000);
        let leader = member.lead();
        assert_eq!(leader.now_ms(&member.0), Some(9_000));
        member.pass(500);
        assert_eq!(leader.now_ms(&member.0), Some(9_500));
        // Its term ends, and it leads again.
        member.0.had_heard_quorum(member.0.counted_us());
        member.pass(90_000);
        assert_eq!(member.lead().now_ms(&member.0), Some(99_500), "nothing newer was applied");
        member.apply(9_400);
        assert_eq!(member.lead().now_ms(&member.0), Some(9_400), "heard before it was applied");
    }

    #[test]
    fn a_member_that_has_just_started_counts_nothing() {
        let mut member = Member::new();
        member.pass(1_000);
        member.0.applied(AppliedTime { newest_ms: 7_000, next_deadline_ms: None }, true);
        member.pass(1_000);
        assert_eq!(member.lead().now_ms(&member.0), Some(7_000));
        member.0.heard();
        // A snapshot with the same stamp.
        member.0.applied(AppliedTime { newest_ms: 7_000, next_deadline_ms: None }, true);
        assert_eq!(member.lead().now_ms(&member.0), Some(7_000));
    }

    /// A new leader that remembers no other tells the newest stamp once more, later. Whoever
    /// applies it counts from then on, not from when it applied the first one.
    #[test]
    fn a_stamp_counts_although_it_is_equal_to_the_last_one() {
        let mut member = Member::new();
        for newest_ms in [0, 0, 7_000, 7_000] {
            member.pass(5_000);
            member.apply(newest_ms);
            member.pass(1_000);
            member.0.heard();
            assert_eq!(member.lead().now_ms(&member.0), Some(newest_ms + 1_000));
        }
    }

    #[test]
    fn a_clock_that_jumps_counts_nothing() {
        let mut member = Member::new();
        member.apply(7_000);
        member.jump(3_600_000_000);
        member.jump(-1_000_000);
        member.jump(-1_000_000);
        member.0.heard();
        let leader = member.lead();
        assert_eq!(leader.now_ms(&member.0), Some(7_000));
        member.jump(601_000);
        assert_eq!(leader.now_ms(&member.0), Some(7_000));
        member.jump(600_000);
        assert_eq!(leader.now_ms(&member.0), Some(7_600));
    }

    #[test]
    fn the_time_is_told_at_once_then_at_deadlines_and_now_and_then() {
        let mut member = Member::new();
        let mut leader = LeaderTime::default();
        let deadline = |member: &mut Member, next_deadline_ms| {
            member.0.applied(AppliedTime { newest_ms: 7_000, next_deadline_ms }, false);
        };
        member.apply(7_000);
        deadline(&mut member, Some(9_000));
        assert!(!leader.is_entry_due(0, &member.0, None), "its no-op is not applied");
        leader.fix(&member.0);
        assert!(leader.is_entry_due(0, &member.0, None));
        leader.told(Index(5), &member.0);
        member.pass(2_000);
        leader.applied(Index(4));
        assert!(!leader.is_entry_due(0, &member.0, None), "one is under way");
        leader.applied(Index(5));
        assert!(leader.is_entry_due(0, &member.0, None), "the deadline has passed");
        deadline(&mut member, Some(60_000));
        member.pass(7_990);
        assert!(!leader.is_entry_due(0, &member.0, None));
        member.pass(10);
        assert!(leader.is_entry_due(0, &member.0, None), "10 s after the last one");
        deadline(&mut member, None);
        assert!(!leader.is_entry_due(0, &member.0, None), "nothing has a deadline");
    }
}
