//! The clock of the core: a thread that tells the core of ticks.
//!
//! To wake a thread costs more than what most ticks do. So while the core is
//! [calm](crate::raft::Raft::calm_ticks), the thread sleeps: a leader's until the next heartbeat is
//! due, a follower's for longer. Whoever runs a turn meanwhile tells the core of the ticks that have
//! passed, and may put off when the thread wakes: a heartbeat does so for a follower. All other
//! times stay as they are without a sleep:
//!
//! - The core is told of all the ticks that have passed, and of none before its time: promises of
//!   leases are counted in ticks, from the heartbeat that asks for them. A turn begins with the
//!   ticks that have passed by then ([`Ticker::begin_turn`]). Of those until the thread is to wake,
//!   only the last one comes behind what has arrived.
//! - Late ticks are dropped, beyond those for which the thread meant to sleep. A member that got no
//!   processor time must not take many ticks at once for a silent leader.
//! - After a turn that leaves the core not calm, the thread tells of the next [`NEEDED_TICKS`] ticks
//!   one by one. A core that is not calm now and then does not wake it for each.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use parking_lot::Mutex;

/// How many ticks the thread tells of by itself once it is needed.
const NEEDED_TICKS: u32 = 2;

pub(super) struct Ticker {
    count: Mutex<Count>,
    to_sleeper: Sender<()>,
    wakes: Receiver<()>,
}

/// What the core has been told of, and what is to come.
#[derive(Debug)]
struct Count {
    tick: Duration,
    /// When the last tick was over that counts as told.
    told_at: Instant,
    /// After so many more ticks, at least 1, the thread wakes. It tells of the last of these, the
    /// turns before that of the others.
    ahead: u32,
    /// Ticks that passed before the one of which the thread has told. They come first.
    owed: u32,
    /// For how many more ticks the thread sleeps for one at a time.
    needed: u32,
}

impl Count {
    fn new(tick: Duration, now: Instant) -> Count {
        Count { tick, told_at: now, ahead: 1, owed: 0, needed: 0 }
    }

    /// The ticks that a turn at this moment begins with.
    fn begin_turn(&mut self, now: Instant) -> u32 {
        let passed = now.saturating_duration_since(self.told_at).as_nanos() / self.tick.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        let ticks = passed.min(self.ahead - 1);
        self.count(ticks);
        self.told_at = match passed > ticks {
            // One is due, and more are not made up for.
            true => now - self.tick,
            false => self.told_at + self.tick * ticks,
        };
        std::mem::take(&mut self.owed) + ticks
    }

    /// A turn has ended. Returns whether the thread has to wake earlier than it meant to.
    fn end_turn(&mut self, calm_ticks: u32) -> bool {
        if calm_ticks == 0 {
            self.needed = NEEDED_TICKS;
        }
        let ahead = if self.needed > 0 { 1 } else { calm_ticks };
        std::mem::replace(&mut self.ahead, ahead) > ahead
    }

    /// When the thread is to wake.
    fn due(&self) -> Instant {
        self.told_at + self.tick * self.ahead
    }

    /// The thread tells of a tick.
    fn tell(&mut self, now: Instant) {
        let before = self.ahead - 1;
        self.count(before + 1);
        self.owed += before;
        (self.told_at, self.ahead) = (now, 1);
    }

    fn count(&mut self, ticks: u32) {
        self.ahead = self.ahead.saturating_sub(ticks);
        self.needed = self.needed.saturating_sub(ticks);
    }
}

impl Ticker {
    pub(super) fn new(tick: Duration) -> Ticker {
        let (to_sleeper, wakes) = bounded(1);
        Ticker { count: Mutex::new(Count::new(tick, Instant::now())), to_sleeper, wakes }
    }

    /// The core begins a turn. Returns how many ticks it is told of before that.
    pub(super) fn begin_turn(&self, now: Instant) -> u32 {
        self.count.lock().begin_turn(now)
    }

    /// The core has ended a turn, and waits for nothing for so many ticks.
    pub(super) fn end_turn(&self, calm_ticks: u32) {
        if self.count.lock().end_turn(calm_ticks) {
            // If it is full, the thread looks anyway.
            let _ = self.to_sleeper.try_send(());
        }
    }

    /// Calls `tell` when the core is to be told of a tick, until there is nobody left to stop it.
    pub(super) fn run(&self, stopped: &Receiver<()>, tell: impl Fn()) {
        loop {
            let due = self.count.lock().due();
            let is_due = select! {
                recv(stopped) -> _ => return,
                recv(self.wakes) -> _ => false,
                default(due.saturating_duration_since(Instant::now())) => self.take_due(),
            };
            if is_due {
                tell();
            }
        }
    }

    /// Whether the thread has a tick to tell of. A turn may have put it off.
    fn take_due(&self) -> bool {
        let (mut count, now) = (self.count.lock(), Instant::now());
        let is_due = now >= count.due();
        if is_due {
            count.tell(now);
        }
        is_due
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
        (count, now)
    }

    #[test]
    fn turns_tell_of_each_tick_once_and_of_none_before_its_time() {
        let (mut count, begun) = asleep(5);
        let mut at = |ms| count.begin_turn(begun + Duration::from_millis(ms));
        assert_eq!([at(9), at(10), at(29), at(29)], [0, 1, 1, 0]);
        assert_eq!(at(49), 2);
        assert_eq!([at(50), at(59)], [0, 0], "the thread tells of the last one");
    }

    #[test]
    fn a_late_member_is_told_of_no_more_than_a_sleep() {
        let (mut count, begun) = asleep(5);
        let late = begun + TICK * 100;
        assert_eq!(count.begin_turn(late), 4);
        assert!(!count.end_turn(5));
        assert_eq!(count.begin_turn(late), 1, "that for which the thread was to wake");
        assert!(!count.end_turn(5));
        assert_eq!(count.begin_turn(late), 0);
        assert_eq!(count.begin_turn(late + TICK), 1);
    }

    /// A heartbeat that comes between the end of a sleep and its tick must not be followed by ticks
    /// that have passed before it: the promise that it asks for would end early.
    #[test]
    fn what_has_passed_in_a_sleep_comes_before_what_arrives_at_its_end() {
        let (mut count, begun) = asleep(5);
        let end = begun + TICK * 100;
        count.tell(end);
        assert_eq!(count.begin_turn(end), 4, "all but the one that the thread tells of");
        assert_eq!(count.begin_turn(end), 0);
        assert_eq!(count.due(), end + TICK);
        // A turn has taken some of them.
        let (mut count, begun) = asleep(5);
        assert_eq!(count.begin_turn(begun + TICK * 3), 3);
        count.tell(begun + TICK * 5);
        assert_eq!(count.begin_turn(begun + TICK * 5), 1);
    }

    #[test]
    fn turns_move_when_the_thread_wakes() {
        let (mut count, begun) = asleep(5);
        assert_eq!(count.due(), begun + TICK * 5);
        let turn = begun + Duration::from_millis(35);
        assert_eq!(count.begin_turn(turn), 3);
        assert!(!count.end_turn(5), "nobody is woken to sleep for longer");
        assert_eq!(count.due(), begun + TICK * 8);
        assert!(count.end_turn(2));
        assert_eq!(count.due(), begun + TICK * 5);
    }

    #[test]
    fn a_thread_that_is_needed_tells_of_some_ticks_one_by_one() {
        let (mut count, begun) = asleep(5);
        assert!(count.end_turn(0));
        assert!(!count.end_turn(0), "once is enough");
        assert!(!count.end_turn(5), "it may be needed again");
        for n in 1..=NEEDED_TICKS {
            assert_eq!(count.due(), begun + TICK * n);
            count.tell(begun + TICK * n);
            assert!(!count.end_turn(5));
        }
        assert_eq!(count.due(), begun + TICK * (NEEDED_TICKS + 5));
    }

    /// As many ticks are told as pass, with sleeps and without.
    #[test]
    fn time_passes_as_fast_asleep_as_awake() {
        for calm_ticks in [1, 5] {
            let ticker = Ticker::new(Duration::from_millis(1));
            let (stop, stopped) = bounded(0);
            let told = AtomicU32::new(0);
            let begun = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    ticker.run(&stopped, || {
                        let ticks = ticker.begin_turn(Instant::now()) + 1;
                        told.fetch_add(ticks, Ordering::SeqCst);
                        ticker.end_turn(calm_ticks);
                    });
                });
                while told.load(Ordering::SeqCst) < 200 {
                    std::thread::yield_now();
                }
                drop(stop);
            });
            // On a busy machine they are told late, but never early.
            assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
        }
    }
}
