//! How much is in flight: calls and their bytes, counted from before the body is received until the call is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A count with bounds, shared by all who add to it.
#[derive(Debug)]
pub(super) struct Gauge {
    calls_max: usize,
    bytes_max: usize,
    calls: AtomicUsize,
    bytes: AtomicUsize,
    /// How many wait for room, so that a release without waiters costs no lock.
    waiters: AtomicUsize,
    lock: Mutex<()>,
    released: Condvar,
}

impl Gauge {
    pub(super) fn new(calls_max: usize, bytes_max: usize) -> Self {
        let [calls, bytes, waiters] = [0; 3].map(AtomicUsize::new);
        Gauge {
            calls_max,
            bytes_max,
            calls,
            bytes,
            waiters,
            lock: Mutex::new(()),
            released: Condvar::new(),
        }
    }

    /// Takes room for one call of `bytes`, if there is any.
    fn try_take(&self, bytes: usize) -> bool {
        let calls = self.calls.fetch_add(1, SeqCst) + 1;
        let all_bytes = self.bytes.fetch_add(bytes, SeqCst) + bytes;
        let fits = calls <= self.calls_max && all_bytes <= self.bytes_max;
        if !fits {
            self.release(bytes);
        }
        fits
    }

    fn release(&self, bytes: usize) {
        self.calls.fetch_sub(1, SeqCst);
        self.bytes.fetch_sub(bytes, SeqCst);
        // Whoever waits has counted itself before it looked for room: it has seen this room, or is seen here.
        if self.waiters.load(SeqCst) > 0 {
            let _lock = self.lock.lock();
            self.released.notify_all();
        }
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
        let [connection, server] = gauges;
        if !connection.try_take(bytes) {
            return None;
        }
        if !server.try_take(bytes) {
            connection.release(bytes);
            return None;
        }
        Some(Slot { gauges: gauges.map(Arc::clone), bytes })
    }

    /// Waits until there is room. The first gauge is the caller's own and has room; the second is everyone's. At least
    /// every `check_every`, `is_over` is asked whether waiting still makes sense; `None` when it does not.
    pub(super) fn take(
        gauges: [&Arc<Gauge>; 2],
        bytes: usize,
        check_every: Duration,
        is_over: impl Fn() -> bool,
    ) -> Option<Slot> {
        let server = gauges[1];
        server.waiters.fetch_add(1, SeqCst);
        let mut lock = server.lock.lock();
        let slot = loop {
            if let Some(slot) = Slot::try_take(gauges, bytes) {
                break Some(slot);
            }
            if is_over() {
                break None;
            }
            server.released.wait_for(&mut lock, check_every);
        };
        server.waiters.fetch_sub(1, SeqCst);
        slot
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
            assert_eq!((gauge.calls.load(SeqCst), gauge.bytes.load(SeqCst)), (0, 0));
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
        while all.waiters.load(SeqCst) == 0 {
            thread::yield_now();
        }
        drop(slot);
        assert!(waiter.join().unwrap());
    }
}
