//! The clock of the core: a thread that tells the core of each tick.
//!
//! To wake a thread costs more than what most ticks do. So while nothing arrives but heartbeats, and
//! the core is [calm](crate::raft::Raft::calm_ticks), the thread sleeps: a leader's until the next
//! heartbeat is due, a follower's for longer. All other times stay as they are:
//!
//! - The core is told of all the ticks that have passed, and of none before its time: promises of
//!   leases are counted in ticks, from the heartbeat that asks for them. A turn that comes while the
//!   thread sleeps, with a heartbeat for example, begins with the ticks that have passed by then
//!   ([`Ticker::begin_turn`]). Of those that are due, only the last one comes behind what has
//!   arrived, as it would have without a sleep.
//! - It is told of no more ticks at once than the thread meant to sleep. A member that got no
//!   processor time must not take many ticks at once for a silent leader.
//! - Whatever else arrives wakes the thread. The core then hears of each tick by itself, until
//!   nothing has arrived for [`QUIET_TICKS`].

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};
use parking_lot::Mutex;

/// How many ticks must pass without work before the thread sleeps for longer than one. More than
/// anything is held back after work: keep-alives wait five ticks for others.
const QUIET_TICKS: u32 = 6;

pub(super) struct Ticker {
    tick: Duration,
    passed: Mutex<Passed>,
    /// Whether there may be something in `passed`.
    is_asleep: AtomicBool,
    /// For how many ticks the core waits for nothing. 0 or 1: each counts.
    calm_ticks: AtomicU32,
    /// Whether something but heartbeats has arrived since the last look.
    has_work: AtomicBool,
    to_sleeper: Sender<()>,
    wakes: Receiver<()>,
}

/// Ticks that the core has not been told of.
#[derive(Debug, Default)]
struct Passed {
    /// While the thread sleeps for longer than one tick.
    sleep: Option<Sleep>,
    /// Ticks of a sleep that is over, but for the last one.
    owed: u32,
}

/// A sleep of several ticks.
#[derive(Clone, Copy, Debug)]
struct Sleep {
    begun: Instant,
    tick: Duration,
    /// How many it takes.
    ticks: u32,
    /// Of how many of these the core has been told.
    told: u32,
}

impl Sleep {
    /// The ticks that have passed, up to `most` in all, and that the core has not been told of.
    fn take(&mut self, now: Instant, most: u32) -> u32 {
        let passed = now.saturating_duration_since(self.begun).as_nanos() / self.tick.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX).min(most);
        let news = passed.saturating_sub(self.told);
        self.told += news;
        news
    }

    /// When the next tick is due.
    fn next(&self) -> Instant {
        self.begun + self.tick * (self.told + 1)
    }
}

impl Passed {
    /// Of what has passed, all but the last tick of a sleep, which the thread tells of.
    fn take(&mut self, now: Instant) -> u32 {
        let of_sleep = self.sleep.as_mut().map_or(0, |sleep| sleep.take(now, sleep.ticks - 1));
        std::mem::take(&mut self.owed) + of_sleep
    }

    /// The thread is awake. Returns whether it has a tick to tell of; those before it are owed to the
    /// next turn. A turn may have taken the last one that has passed.
    fn end_sleep(&mut self, now: Instant) -> bool {
        let Some(mut sleep) = self.sleep.take() else { return false };
        let left = sleep.take(now, sleep.ticks);
        self.owed = (self.owed + left.saturating_sub(1)).min(sleep.ticks - 1);
        left > 0
    }
}

impl Ticker {
    pub(super) fn new(tick: Duration) -> Ticker {
        let (to_sleeper, wakes) = bounded(1);
        Ticker {
            tick,
            passed: Mutex::default(),
            is_asleep: AtomicBool::new(false),
            calm_ticks: AtomicU32::new(0),
            has_work: AtomicBool::new(false),
            to_sleeper,
            wakes,
        }
    }

    /// The core begins a turn. `has_work`: something but heartbeats has arrived. Returns how many
    /// ticks the core is told of before that.
    pub(super) fn begin_turn(&self, has_work: bool, now: Instant) -> u32 {
        // Either the thread sees that there is work before it sleeps, or this one sees it asleep.
        if has_work && !self.has_work.load(Ordering::Relaxed) {
            self.has_work.store(true, Ordering::SeqCst);
        }
        if !self.is_asleep.load(Ordering::SeqCst) {
            return 0;
        }
        if has_work {
            // If it is full, the thread wakes anyway.
            let _ = self.to_sleeper.try_send(());
        }
        let mut passed = self.passed.lock();
        let ticks = passed.take(now);
        if passed.sleep.is_none() {
            self.is_asleep.store(false, Ordering::SeqCst);
        }
        ticks
    }

    /// The core has ended a turn, and waits for nothing for so many ticks.
    pub(super) fn end_turn(&self, calm_ticks: u32) {
        self.calm_ticks.store(calm_ticks, Ordering::Relaxed);
    }

    /// Calls `tell` at each tick, or at the end of a sleep, until there is nobody left to stop it.
    pub(super) fn run(&self, stopped: &Receiver<()>, tell: impl Fn()) {
        let mut quiet_ticks: u32 = 0;
        loop {
            let is_busy = self.has_work.swap(false, Ordering::SeqCst);
            let calm_ticks = self.calm_ticks.load(Ordering::Relaxed);
            let is_quiet = !is_busy && calm_ticks > 0;
            quiet_ticks = if is_quiet { quiet_ticks.saturating_add(1) } else { 0 };
            let has_tick = match quiet_ticks > QUIET_TICKS && calm_ticks > 1 {
                true => self.sleep(calm_ticks, stopped),
                false => has_passed(stopped, self.tick).then_some(true),
            };
            match has_tick {
                Some(true) => tell(),
                Some(false) => {}
                None => return,
            }
        }
    }

    /// Sleeps for so many ticks, or until there is work and the tick that has begun is over. Returns
    /// whether there is a tick to tell of; `None` if it was stopped.
    fn sleep(&self, ticks: u32, stopped: &Receiver<()>) -> Option<bool> {
        let _ = self.wakes.try_recv();
        let sleep = Sleep { begun: Instant::now(), tick: self.tick, ticks, told: 0 };
        self.passed.lock().sleep = Some(sleep);
        self.is_asleep.store(true, Ordering::SeqCst);
        if !self.has_work.load(Ordering::SeqCst) {
            select! {
                recv(stopped) -> _ => return None,
                recv(self.wakes) -> _ => {}
                default(self.tick * ticks) => {}
            }
        }
        let next = self.passed.lock().sleep.as_ref().map(Sleep::next);
        let next = next.expect("only this thread ends its sleep");
        let left = next.saturating_duration_since(Instant::now());
        has_passed(stopped, left).then(|| self.passed.lock().end_sleep(Instant::now()))
    }
}

/// Waits. False if it was stopped.
fn has_passed(stopped: &Receiver<()>, time: Duration) -> bool {
    stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    fn sleep(begun: Instant) -> Sleep {
        Sleep { begun, tick: TICK, ticks: 5, told: 0 }
    }

    #[test]
    fn a_sleep_tells_of_each_tick_once_and_of_none_before_its_time() {
        let begun = Instant::now();
        let mut passed = Passed { sleep: Some(sleep(begun)), owed: 0 };
        let mut at = |ms| passed.take(begun + Duration::from_millis(ms));
        assert_eq!([at(9), at(29), at(29)], [0, 2, 0]);
        assert_eq!(at(1_000), 2, "the thread tells of the last one, and of no more");
        assert_eq!(at(1_000), 0);
    }

    /// A heartbeat that comes between the end of a sleep and its tick must not be followed by ticks
    /// that have passed before it: the promise that it asks for would end early.
    #[test]
    fn what_has_passed_in_a_sleep_comes_before_what_arrives_at_its_end() {
        let ticker = Ticker::new(TICK);
        let begun = Instant::now();
        ticker.passed.lock().sleep = Some(sleep(begun));
        ticker.is_asleep.store(true, Ordering::SeqCst);
        let end = begun + TICK * 100;
        assert!(ticker.passed.lock().end_sleep(end));
        assert_eq!(ticker.begin_turn(false, end), 4, "all but the one that the thread tells of");
        assert_eq!(ticker.begin_turn(false, end), 0);
        assert!(!ticker.is_asleep.load(Ordering::SeqCst));
        // Nobody has asked for what is owed when the next sleep begins.
        let mut passed = Passed { sleep: Some(sleep(begun)), owed: 3 };
        assert!(passed.end_sleep(begun + TICK * 3));
        assert_eq!(passed.take(end), 4, "no more than a sleep");
        // A turn has taken what the thread woke for.
        let mut passed = Passed { sleep: Some(sleep(begun)), owed: 0 };
        assert_eq!(passed.take(begun + TICK), 1);
        assert!(!passed.end_sleep(begun + TICK), "the second one has not passed");
    }

    #[test]
    fn a_turn_takes_ticks_only_while_the_thread_sleeps() {
        let ticker = Ticker::new(TICK);
        let now = Instant::now();
        assert_eq!(ticker.begin_turn(true, now + TICK * 3), 0);
        assert!(ticker.has_work.load(Ordering::SeqCst));
        ticker.passed.lock().sleep = Some(sleep(now));
        ticker.is_asleep.store(true, Ordering::SeqCst);
        assert_eq!(ticker.begin_turn(false, now + TICK * 3), 3);
        assert!(ticker.wakes.is_empty(), "a heartbeat wakes nobody");
        assert_eq!(ticker.begin_turn(true, now + TICK * 3), 0);
        assert!(!ticker.wakes.is_empty());
    }

    /// As many ticks are told as pass, with sleeps and without.
    #[test]
    fn time_passes_as_fast_asleep_as_awake() {
        for calm_ticks in [1, 5] {
            let ticker = Ticker::new(Duration::from_millis(1));
            ticker.end_turn(calm_ticks);
            let (stop, stopped) = bounded(0);
            let told = AtomicU32::new(0);
            let begun = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    ticker.run(&stopped, || {
                        let ticks = ticker.begin_turn(false, Instant::now()) + 1;
                        told.fetch_add(ticks, Ordering::SeqCst);
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
