//! The clock of the core: a thread that tells the core of each tick.
//!
//! To wake a thread costs more than what most ticks do. So while nothing arrives but heartbeats, and
//! the core is [calm](crate::raft::Raft::is_calm), the thread sleeps for as many ticks as there are
//! between two heartbeats. All other times stay as they are:
//!
//! - The core is told of all the ticks that have passed, and of none before its time: promises of
//!   leases are counted in ticks. A turn that comes while the thread sleeps, with a heartbeat for
//!   example, begins with the ticks that have passed by then ([`Ticker::begin_turn`]).
//! - It is told of no more ticks at once than the thread meant to sleep. A member that got no
//!   processor time must not take many ticks at once for a silent leader.
//! - Whatever else arrives wakes the thread. The core then hears of each tick by itself, until
//!   nothing has arrived for [`QUIET_TICKS`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};
use parking_lot::Mutex;

/// How many ticks must pass without work before the thread sleeps for longer than one.
const QUIET_TICKS: u32 = 10;

pub(super) struct Ticker {
    tick: Duration,
    /// How long it sleeps while nothing happens.
    sleep_ticks: u32,
    /// While it sleeps for longer than one tick.
    sleep: Mutex<Option<Sleep>>,
    is_asleep: AtomicBool,
    /// Whether the core waits for nothing.
    is_calm: AtomicBool,
    /// Whether something but heartbeats has arrived since the last look.
    has_work: AtomicBool,
    to_sleeper: Sender<()>,
    wakes: Receiver<()>,
}

/// A sleep of several ticks.
#[derive(Clone, Copy, Debug)]
struct Sleep {
    begun: Instant,
    tick: Duration,
    /// Of how many of its ticks the core has been told.
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

impl Ticker {
    /// `sleep_ticks`: how many ticks there are between two heartbeats.
    pub(super) fn new(tick: Duration, sleep_ticks: u32) -> Ticker {
        let (to_sleeper, wakes) = bounded(1);
        Ticker {
            tick,
            sleep_ticks,
            sleep: Mutex::new(None),
            is_asleep: AtomicBool::new(false),
            is_calm: AtomicBool::new(false),
            has_work: AtomicBool::new(false),
            to_sleeper,
            wakes,
        }
    }

    /// The core begins a turn. `has_work`: something but heartbeats has arrived. Returns how many
    /// ticks the core is told of first.
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
        // The thread itself tells of the last one.
        let most = self.sleep_ticks - 1;
        self.sleep.lock().as_mut().map_or(0, |sleep| sleep.take(now, most))
    }

    /// The core has ended a turn.
    pub(super) fn end_turn(&self, is_calm: bool) {
        self.is_calm.store(is_calm, Ordering::Relaxed);
    }

    /// Calls `tell` with the ticks that have passed, until there is nobody left to stop it.
    pub(super) fn run(&self, stopped: &Receiver<()>, tell: impl Fn(u32)) {
        let mut quiet_ticks: u32 = 0;
        loop {
            let is_busy = self.has_work.swap(false, Ordering::SeqCst);
            let is_quiet = !is_busy && self.is_calm.load(Ordering::Relaxed);
            quiet_ticks = if is_quiet { quiet_ticks.saturating_add(1) } else { 0 };
            let passed = match quiet_ticks > QUIET_TICKS && self.sleep_ticks > 1 {
                true => self.sleep(stopped),
                false => has_passed(stopped, self.tick).then_some(1),
            };
            let Some(passed) = passed else { return };
            tell(passed);
        }
    }

    /// Sleeps until a heartbeat is due, or there is work and the tick that has begun is over.
    /// Returns the ticks that the core has not been told of; `None` if it was stopped.
    fn sleep(&self, stopped: &Receiver<()>) -> Option<u32> {
        let _ = self.wakes.try_recv();
        let begun = Instant::now();
        *self.sleep.lock() = Some(Sleep { begun, tick: self.tick, told: 0 });
        self.is_asleep.store(true, Ordering::SeqCst);
        if !self.has_work.load(Ordering::SeqCst) {
            select! {
                recv(stopped) -> _ => return None,
                recv(self.wakes) -> _ => {}
                default(self.tick * self.sleep_ticks) => {}
            }
        }
        self.is_asleep.store(false, Ordering::SeqCst);
        let mut sleep = self.sleep.lock().take().expect("only this thread ends its sleep");
        let left = sleep.next().saturating_duration_since(Instant::now());
        has_passed(stopped, left).then(|| sleep.take(Instant::now(), self.sleep_ticks).max(1))
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

    #[test]
    fn a_sleep_tells_of_each_tick_once_and_of_none_before_its_time() {
        let begun = Instant::now();
        let mut sleep = Sleep { begun, tick: TICK, told: 0 };
        let mut at = |ms, most| sleep.take(begun + Duration::from_millis(ms), most);
        assert_eq!(at(9, 4), 0);
        assert_eq!(at(29, 4), 2);
        assert_eq!(at(29, 4), 0);
        assert_eq!(at(1_000, 4), 2, "the thread tells of the last one");
        assert_eq!(at(1_000, 5), 1);
        assert_eq!(at(1_000, 5), 0, "no more than it meant to sleep");
    }

    #[test]
    fn a_turn_takes_ticks_only_while_the_thread_sleeps() {
        let ticker = Ticker::new(TICK, 5);
        let now = Instant::now();
        assert_eq!(ticker.begin_turn(true, now + TICK * 3), 0);
        assert!(ticker.has_work.load(Ordering::SeqCst));
        *ticker.sleep.lock() = Some(Sleep { begun: now, tick: TICK, told: 0 });
        ticker.is_asleep.store(true, Ordering::SeqCst);
        assert_eq!(ticker.begin_turn(false, now + TICK * 3), 3);
        assert!(ticker.wakes.is_empty(), "a heartbeat wakes nobody");
        assert_eq!(ticker.begin_turn(true, now + TICK * 3), 0);
        assert!(!ticker.wakes.is_empty());
    }

    /// As many ticks are told as pass, with sleeps and without.
    #[test]
    fn time_passes_as_fast_asleep_as_awake() {
        for sleep_ticks in [1, 5] {
            let ticker = Ticker::new(Duration::from_millis(1), sleep_ticks);
            ticker.end_turn(true);
            let (stop, stopped) = bounded(0);
            let told = std::sync::atomic::AtomicU32::new(0);
            let begun = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    ticker.run(&stopped, |ticks| {
                        let _ = told.fetch_add(ticks, Ordering::SeqCst);
                    })
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
