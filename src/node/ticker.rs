//! The clock of the core: a thread that has the core step when a tick is due.
//!
//! To wake a thread costs more than what most ticks do. So while the core is
//! [calm](crate::raft::Raft::calm_ticks), the thread sleeps: a leader's until the next heartbeat is
//! due, a follower's for longer. Turns count the ticks that have passed, whatever they were begun
//! for, and may put off when the thread wakes: a heartbeat does so for a follower.
//!
//! - The core is told of the ticks that have passed, and of none before its time: promises of
//!   leases are counted in ticks, from the heartbeat that asks for them. A turn begins with the
//!   ticks that have passed by then ([`Ticker::begin_turn`]). The last one until the thread is to
//!   wake is left to the turn that the thread asks for, where it comes behind what has arrived.
//! - Late ticks are dropped, beyond those for which the thread meant to sleep. A member that got no
//!   processor time must not take many ticks at once for a silent leader.
//! - After a turn that leaves the core not calm, the thread asks for a turn at each of the next
//!   [`NEEDED_TICKS`] ticks. A core that is not calm now and then does not wake it for each.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use parking_lot::Mutex;

/// For how many ticks the thread asks for a turn each once it is needed.
const NEEDED_TICKS: u32 = 2;

pub(super) struct Ticker {
    tick: Duration,
    count: Mutex<Count>,
    to_sleeper: Sender<()>,
    wakes: Receiver<()>,
}

/// The ticks that a turn tells the core of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// They come before what has arrived.
    pub(super) before: u32,
    /// One more comes behind it.
    pub(super) is_one_behind: bool,
}

impl Passed {
    pub(super) fn ticks(self) -> u32 {
        self.before + u32::from(self.is_one_behind)
    }
}

/// What the core has been told of, and what is to come.
#[derive(Debug)]
struct Count {
    tick: Duration,
    /// When the last tick was over that the core was told of.
    told_at: Instant,
    /// After so many more ticks, at least 1, the thread wakes.
    ahead: u32,
    /// For how many more ticks the thread wakes for each.
    needed: u32,
    /// Until when the thread waits now, or will once it has seen that it was woken.
    waits_until: Instant,
}

impl Count {
    fn new(tick: Duration, now: Instant) -> Count {
        Count { tick, told_at: now, ahead: 1, needed: 0, waits_until: now }
    }

    /// A turn begins. `is_asked_for`: the thread has asked for it.
    fn begin_turn(&mut self, is_asked_for: bool, now: Instant) -> Passed {
        let all = now.saturating_duration_since(self.told_at).as_nanos() / self.tick.as_nanos();
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        let is_one_behind = is_asked_for && all > 0;
        let before = match is_one_behind {
            true => all.min(self.ahead) - 1,
            false => all.min(self.ahead - 1),
        };
        let passed = Passed { before, is_one_behind };
        let ticks = passed.ticks();
        self.ahead = self.ahead.saturating_sub(ticks).max(1);
        self.needed = self.needed.saturating_sub(ticks);
        self.told_at = match (all > ticks, is_one_behind) {
            (false, _) => self.told_at + self.tick * ticks,
            // The others are dropped, ...
            (true, true) => now,
            // ... but for one, for which the thread is about to ask.
            (true, false) => now - self.tick,
        };
        passed
    }

    /// A turn has ended. Returns whether the thread has to wake earlier than it meant to.
    fn end_turn(&mut self, calm_ticks: u32) -> bool {
        if calm_ticks == 0 {
            self.needed = NEEDED_TICKS;
        }
        self.ahead = if self.needed > 0 { 1 } else { calm_ticks };
        let due = self.due();
        // A core that is calm for more ticks and for fewer in turns wakes nobody each time.
        let is_sooner = due < self.waits_until;
        self.waits_until = self.waits_until.min(due);
        is_sooner
    }

    /// The thread begins to wait, at least until `not_before`. Returns for when.
    fn wait(&mut self, not_before: Option<Instant>) -> Instant {
        self.waits_until = not_before.map_or(self.due(), |at| self.due().max(at));
        self.waits_until
    }

    /// When the thread is to wake.
    fn due(&self) -> Instant {
        self.told_at + self.tick * self.ahead
    }
}

impl Ticker {
    pub(super) fn new(tick: Duration) -> Ticker {
        let (to_sleeper, wakes) = bounded(1);
        let count = Mutex::new(Count::new(tick, Instant::now()));
        Ticker { tick, count, to_sleeper, wakes }
    }

    /// The core begins a turn. `is_asked_for`: [`run`](Ticker::run) has asked for it.
    pub(super) fn begin_turn(&self, is_asked_for: bool, now: Instant) -> Passed {
        self.count.lock().begin_turn(is_asked_for, now)
    }

    /// The core has ended a turn, and is calm for so many ticks.
    pub(super) fn end_turn(&self, calm_ticks: u32) {
        if self.count.lock().end_turn(calm_ticks) {
            // If it is full, the thread looks anyway.
            let _ = self.to_sleeper.try_send(());
        }
    }

    /// Calls `ask` when the core is to have a turn because of a tick, and again after each further
    /// tick until it has had it. Returns when there is nobody left to stop it.
    pub(super) fn run(&self, stopped: &Receiver<()>, ask: impl Fn()) {
        let mut not_before = None;
        loop {
            let until = self.count.lock().wait(not_before);
            select! {
                recv(stopped) -> _ => return,
                recv(self.wakes) -> _ => {}
                default(until.saturating_duration_since(Instant::now())) => {}
            }
            // A turn may have put it off.
            let (due, now) = (self.count.lock().due(), Instant::now());
            if now >= due && not_before.is_none_or(|at| now >= at) {
                ask();
                // Until the turn has been had, the count stands still.
                let is_had = self.count.lock().due() > now;
                not_before = (!is_had).then(|| now + self.tick);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    /// A count whose thread sleeps for so many ticks, and when that began.
    fn asleep(ticks: u32) -> (Count, Instant) {
        let now = Instant::now();
        let mut count = Count::new(TICK, now);
        assert!(!count.end_turn(ticks));
        assert_eq!(count.wait(None), now + TICK * ticks);
        (count, now)
    }

    fn before(before: u32) -> Passed {
        Passed { before, is_one_behind: false }
    }

    fn one_behind(before: u32) -> Passed {
        Passed { before, is_one_behind: true }
    }

    #[test]
    fn turns_tell_of_each_tick_once_and_of_none_before_its_time() {
        let (mut count, begun) = asleep(5);
        let mut at = |ms| count.begin_turn(false, begun + Duration::from_millis(ms)).ticks();
        assert_eq!([at(9), at(10), at(29), at(29)], [0, 1, 1, 0]);
        assert_eq!(at(49), 2);
        assert_eq!([at(50), at(59)], [0, 0], "the thread asks for a turn for the last one");
        // The thread has asked, but a turn of before has put the next tick off.
        let (mut count, begun) = asleep(5);
        assert_eq!(count.begin_turn(true, begun + TICK / 2), before(0));
    }

    #[test]
    fn a_late_member_is_told_of_no_more_than_a_sleep() {
        let (mut count, begun) = asleep(5);
        let late = begun + TICK * 100;
        assert_eq!(count.begin_turn(false, late), before(4));
        assert!(!count.end_turn(5));
        assert_eq!(count.begin_turn(false, late), before(1), "the one that is asked for");
        assert!(!count.end_turn(5));
        assert_eq!(count.begin_turn(false, late), before(0));
        assert_eq!(count.begin_turn(false, late + TICK), before(1));
        let (mut count, begun) = asleep(5);
        let late = begun + TICK * 100;
        assert_eq!(count.begin_turn(true, late), one_behind(4));
        assert!(!count.end_turn(5));
        assert_eq!(count.begin_turn(true, late), before(0));
    }

    /// A heartbeat that comes between the end of a sleep and its tick must not be followed by ticks
    /// that have passed before it: the promise that it asks for would end early. At most one is
    /// behind it, and the next one ends a tick later.
    #[test]
    fn what_has_passed_in_a_sleep_comes_before_what_arrives_at_its_end() {
        for late in [5, 6, 100] {
            let (mut count, begun) = asleep(5);
            let end = begun + TICK * late;
            assert_eq!(count.begin_turn(true, end), one_behind(4), "{late}");
            let soon = end + TICK - Duration::from_nanos(1);
            assert_eq!(count.begin_turn(true, soon), before(0), "{late}");
            assert_eq!(count.due(), end + TICK, "{late}");
        }
        // A turn has taken some of them.
        let (mut count, begun) = asleep(5);
        assert_eq!(count.begin_turn(false, begun + TICK * 3), before(3));
        assert_eq!(count.begin_turn(true, begun + TICK * 5), one_behind(1));
    }

    #[test]
    fn turns_move_when_the_thread_wakes() {
        let (mut count, begun) = asleep(5);
        assert_eq!(count.due(), begun + TICK * 5);
        let turn = begun + Duration::from_millis(35);
        assert_eq!(count.begin_turn(false, turn), before(3));
        assert!(!count.end_turn(5), "nobody is woken to sleep for longer");
        assert_eq!(count.due(), begun + TICK * 8);
        assert!(!count.end_turn(2), "it wakes then anyway");
        assert_eq!(count.due(), begun + TICK * 5);
        assert!(count.end_turn(1));
        assert!(!count.end_turn(5), "it has been woken");
        assert!(!count.end_turn(1), "and has not begun to wait again");
        assert_eq!(count.wait(None), begun + TICK * 4);
    }

    #[test]
    fn a_thread_that_always_wakes_a_little_late_loses_no_tick() {
        let (mut count, begun) = asleep(1);
        for n in 1..=1_000 {
            assert_eq!(count.wait(None), begun + TICK * n);
            assert_eq!(count.begin_turn(true, begun + TICK * n + TICK / 2), one_behind(0));
            assert!(!count.end_turn(0));
        }
    }

    #[test]
    fn a_thread_that_is_needed_asks_at_some_ticks() {
        let (mut count, begun) = asleep(5);
        assert!(count.end_turn(0));
        assert!(!count.end_turn(0), "once is enough");
        assert!(!count.end_turn(5), "it may be needed again");
        for n in 1..=NEEDED_TICKS {
            assert_eq!(count.wait(None), begun + TICK * n);
            assert_eq!(count.begin_turn(true, begun + TICK * n), one_behind(0));
            assert!(!count.end_turn(5));
        }
        assert_eq!(count.due(), begun + TICK * (NEEDED_TICKS + 5));
    }

    #[test]
    fn a_thread_that_sleeps_is_woken_when_it_is_needed() {
        let ticker = Ticker::new(Duration::from_millis(1));
        ticker.end_turn(u32::MAX / 2);
        let ((stop, stopped), (send, asked)) = (bounded(0), bounded(1));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                ticker.run(&stopped, || {
                    let _ = send.try_send(());
                });
            });
            let is_quiet = asked.recv_timeout(Duration::from_millis(100)).is_err();
            ticker.end_turn(0);
            let is_asked = asked.recv_timeout(Duration::from_secs(60)).is_ok();
            drop(stop);
            assert!(is_quiet && is_asked, "{is_quiet} {is_asked}");
        });
    }

    /// On a busy machine they are told late, and some are dropped.
    #[test]
    fn no_tick_is_told_before_its_time_asleep_or_awake() {
        for calm_ticks in [1, 5] {
            let ticker = Ticker::new(Duration::from_millis(1));
            let (stop, stopped) = bounded(0);
            let told = AtomicU32::new(0);
            let begun = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    ticker.run(&stopped, || {
                        let passed = ticker.begin_turn(true, Instant::now());
                        told.fetch_add(passed.ticks(), Ordering::SeqCst);
                        ticker.end_turn(calm_ticks);
                    });
                });
                while told.load(Ordering::SeqCst) < 200 {
                    std::thread::yield_now();
                }
                drop(stop);
            });
            assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
        }
    }
}
