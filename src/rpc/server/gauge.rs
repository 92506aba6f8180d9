//! How much is in flight: calls and their bytes, counted from before the body is received until the call is answered.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A count with bounds, shared by all who add to it.
#[derive(Debug)]
pub(super) struct Gauge {
    calls_max: usize,
    bytes_max: usize,
    taken: Mutex<Taken>,
    released: Condvar,
}

#[derive(Debug, Default, PartialEq)]
struct Taken {
    calls: usize,
    bytes: usize,
}

impl Gauge {
    pub(super) fn new(calls_max: usize, bytes_max: usize) -> Self {
        Gauge { calls_max, bytes_max, taken: Mutex::default(), released: Condvar::new() }
    }

    /// Takes room for one call of `bytes`, if there is any.
    fn try_take(&self, bytes: usize) -> bool {
        self.add(&mut self.taken.lock(), bytes)
    }

    /// Takes room, waiting for it; see [`Slot::take`].
    fn take(&self, bytes: usize, check_every: Duration, is_over: impl Fn() -> bool) -> bool {
        let mut taken = self.taken.lock();
        while !self.add(&mut taken, bytes) {
            if is_over() {
                return false;
            }
            self.released.wait_for(&mut taken, check_every);
        }
        true
    }

    fn add(&self, taken: &mut Taken, bytes: usize) -> bool {
        let fits = taken.calls < self.calls_max && bytes <= self.bytes_max - taken.bytes;
        if fits {
            taken.calls += 1;
            taken.bytes += bytes;
        }
        fits
    }

    fn release(&self, bytes: usize) {
        let mut taken = self.taken.lock();
        taken.calls -= 1;
        taken.bytes -= bytes;
        // Costs nothing while nobody waits.
        self.released.notify_all();
    }
}

/// Room taken in the gauge of a connection and in that of the server; given back on drop.
#[derive(Debug)]
pub(super) struct Slot {
    gauges: [Arc<Gauge>; 2],
    bytes: usize,
}

impl Slot {
    /// Room for a call of `bytes` in both gauges, if there is any.
    pub(super) fn try_take(gauges: [&Arc<Gauge>; 2], bytes: usize) -> Option<Slot> {
        Slot::take_by(gauges, bytes, Gauge::try_take)
    }

    /// Waits until there is room. At least every `check_every`, `is_over` is asked whether waiting still makes sense; `None`
    /// when it does not.
    pub(super) fn take(
        gauges: [&Arc<Gauge>; 2],
        bytes: usize,
        check_every: Duration,
        is_over: impl Fn() -> bool,
    ) -> Option<Slot> {
        Slot::take_by(gauges, bytes, |gauge, bytes| gauge.take(bytes, check_every, &is_over))
    }

    fn take_by(
        gauges: [&Arc<Gauge>; 2],
        bytes: usize,
        take: impl Fn(&Gauge, usize) -> bool,
    ) -> Option<Slot> {
        let [connection, server] = gauges;
        if !take(connection, bytes) {
            return None;
        }
        if !take(server, bytes) {
            connection.release(bytes);
            return None;
        }
        Some(Slot { gauges: gauges.map(Arc::clone), bytes })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.gauges.iter().for_each(|gauge| gauge.release(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn gauge(calls_max: usize, bytes_max: usize) -> Arc<Gauge> {
        Arc::new(Gauge::new(calls_max, bytes_max))
    }

    #[test]
    fn either_gauge_and_either_count_refuses() {
        let (wide, narrow) = (gauge(100, 100), gauge(2, 10));
        for gauges in [[&wide, &narrow], [&narrow, &wide]] {
            let first = Slot::try_take(gauges, 4).unwrap();
            assert!(Slot::try_take(gauges, 7).is_none(), "11 bytes of 10");
            let second = Slot::try_take(gauges, 6).unwrap();
            assert!(Slot::try_take(gauges, 0).is_none(), "3 calls of 2");
            drop((first, second));
            drop(Slot::try_take(gauges, 10).unwrap());
        }
        for gauge in [wide, narrow] {
            assert_eq!(*gauge.taken.lock(), Taken::default());
        }
    }

    #[test]
    fn waiting_ends_when_room_is_given_back_or_is_not_wanted_any_more() {
        let (own, all) = (gauge(10, 10), gauge(1, 10));
        let slot = Slot::try_take([&own, &all], 1).unwrap();
        assert!(Slot::take([&own, &all], 1, Duration::from_millis(1), || true).is_none());
        let waiter = thread::spawn({
            let (own, all) = (own.clone(), all.clone());
            move || Slot::take([&own, &all], 1, Duration::from_secs(60), || false).is_some()
        });
        // Whether it waits by now or only later, it gets the room.
        drop(slot);
        assert!(waiter.join().unwrap());
    }
}
