//! How much is in flight: calls and their bytes, from before the body is received until the call is
//! answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// One word counts calls in its upper bits and bytes in its lower bits, so that a call changes both
/// in one step.
const BYTES_BITS: u32 = 40;
const CALL: u64 = 1 << BYTES_BITS;
const BYTES_MAX: u64 = CALL - 1;
const CALLS_MAX: u64 = (1 << (u64::BITS - BYTES_BITS)) - 1;

/// A count with bounds, shared by all threads that add to it.
#[derive(Debug)]
pub(crate) struct Gauge {
    calls_max: u64,
    bytes_max: u64,
    taken: AtomicU64,
    /// How many threads wait for room. They wait under the lock, and look from time to time.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    released: Condvar,
}

impl Gauge {
    /// Bounds above 16 million calls and one tebibyte are lowered to that.
    pub(crate) fn new(calls_max: usize, bytes_max: usize) -> Self {
        Gauge {
            calls_max: (calls_max as u64).min(CALLS_MAX),
            bytes_max: (bytes_max as u64).min(BYTES_MAX),
            taken: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            lock: Mutex::new(()),
            released: Condvar::new(),
        }
    }

    /// Takes room for one call of `bytes`, if there is any.
    fn try_take(&self, bytes: usize) -> bool {
        let add = |taken: u64| {
            let (calls, held) = (taken >> BYTES_BITS, taken & BYTES_MAX);
            let fits = calls < self.calls_max && bytes as u64 <= self.bytes_max - held;
            fits.then(|| taken + CALL + bytes as u64)
        };
        self.taken.fetch_update(Ordering::SeqCst, Ordering::Relaxed, add).is_ok()
    }

    /// Takes room for more bytes of a call that has room, if there is any.
    fn try_grow(&self, bytes: usize) -> bool {
        let add = |taken: u64| {
            let fits = bytes as u64 <= self.bytes_max - (taken & BYTES_MAX);
            fits.then(|| taken + bytes as u64)
        };
        self.taken.fetch_update(Ordering::SeqCst, Ordering::Relaxed, add).is_ok()
    }

    /// Takes room, waiting for it; see [`Slot::take`].
    fn take(&self, bytes: usize, check_every: Duration, is_over: impl Fn() -> bool) -> bool {
        if self.try_take(bytes) {
            return true;
        }
        let mut lock = self.lock.lock();
        // Counted before it looks again, so that whoever gives room back after that sees it
        // waiting.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let is_taken = loop {
            if self.try_take(bytes) {
                break true;
            }
            if is_over() {
                break false;
            }
            self.released.wait_for(&mut lock, check_every);
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        is_taken
    }

    fn release(&self, bytes: usize) {
        self.give_back(CALL + bytes as u64);
    }

    fn shrink(&self, bytes: usize) {
        self.give_back(bytes as u64);
    }

    fn give_back(&self, calls_and_bytes: u64) {
        self.taken.fetch_sub(calls_and_bytes, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let _lock = self.lock.lock();
            self.released.notify_all();
        }
    }
}

/// The gauges that count a connection's calls: its own, and the server's two, for reserved services
/// and for all others.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) own: Gauge,
    pub(crate) all: Arc<Gauge>,
    pub(crate) reserved: Arc<Gauge>,
}

impl Room {
    fn gauges(&self, is_reserved: bool) -> [&Gauge; 2] {
        [&self.own, if is_reserved { &self.reserved } else { &self.all }]
    }
}

/// Room taken in the gauge of a connection and in that of the server. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Slot {
    room: Arc<Room>,
    is_reserved: bool,
    bytes: usize,
}

impl Slot {
    /// Room for a call of `bytes` in both gauges, if there is any.
    pub(crate) fn try_take(room: &Arc<Room>, is_reserved: bool, bytes: usize) -> Option<Slot> {
        Slot::take_by(room, is_reserved, bytes, Gauge::try_take)
    }

    /// Waits until there is room. At least every `check_every`, it asks `is_over` whether to stop
    /// waiting; then it returns `None`.
    pub(crate) fn take(
        room: &Arc<Room>,
        is_reserved: bool,
        bytes: usize,
        check_every: Duration,
        is_over: impl Fn() -> bool,
    ) -> Option<Slot> {
        let take = |gauge: &Gauge, bytes| gauge.take(bytes, check_every, &is_over);
        Slot::take_by(room, is_reserved, bytes, take)
    }

    fn take_by(
        room: &Arc<Room>,
        is_reserved: bool,
        bytes: usize,
        take: impl Fn(&Gauge, usize) -> bool,
    ) -> Option<Slot> {
        let [connection, server] = room.gauges(is_reserved);
        if !take(connection, bytes) {
            return None;
        }
        if !take(server, bytes) {
            connection.release(bytes);
            return None;
        }
        Some(Slot { room: Arc::clone(room), is_reserved, bytes })
    }

    /// Takes room for more bytes in both gauges, if there is any.
    pub(crate) fn try_grow(&mut self, bytes: usize) -> bool {
        let [connection, server] = self.room.gauges(self.is_reserved);
        if !connection.try_grow(bytes) {
            return false;
        }
        if !server.try_grow(bytes) {
            connection.shrink(bytes);
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// Gives room for some of the bytes back.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes, "{bytes} bytes given back of {}", self.bytes);
        self.bytes -= bytes;
        self.room.gauges(self.is_reserved).iter().for_each(|gauge| gauge.shrink(bytes));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.room.gauges(self.is_reserved).iter().for_each(|gauge| gauge.release(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn room(own: (usize, usize), all: (usize, usize)) -> Arc<Room> {
        let gauge = |(calls_max, bytes_max)| Gauge::new(calls_max, bytes_max);
        Arc::new(Room {
            own: gauge(own),
            all: Arc::new(gauge(all)),
            reserved: Arc::new(gauge(all)),
        })
    }

    fn is_empty(room: &Room) -> bool {
        [&room.own, &room.all, &room.reserved].iter().all(|it| it.taken.load(Ordering::SeqCst) == 0)
    }

    #[test]
    fn either_gauge_and_either_count_refuses() {
        let (wide, narrow) = ((100, 100), (2, 10));
        for room in [room(wide, narrow), room(narrow, wide)] {
            for is_reserved in [false, true] {
                let take = |bytes| Slot::try_take(&room, is_reserved, bytes);
                let first = take(4).unwrap();
                assert!(take(7).is_none(), "11 bytes of 10");
                let second = take(6).unwrap();
                assert!(take(0).is_none(), "3 calls of 2");
                drop((first, second));
                drop(take(10).unwrap());
                assert!(is_empty(&room));
            }
        }
    }

    #[test]
    fn a_slot_grows_and_shrinks_in_both_gauges() {
        for room in [room((9, 100), (9, 10)), room((9, 10), (9, 100))] {
            let mut slot = Slot::try_take(&room, false, 4).unwrap();
            assert!(slot.try_grow(6) && !slot.try_grow(1));
            assert!(Slot::try_take(&room, false, 1).is_none());
            slot.shrink(5);
            drop(Slot::try_take(&room, false, 5).unwrap());
            drop(slot);
            assert!(is_empty(&room));
        }
    }

    #[test]
    fn what_others_hold_is_not_that_of_reserved_services() {
        let room = room((100, 100), (1, 10));
        let _held = Slot::try_take(&room, false, 1).unwrap();
        assert!(Slot::try_take(&room, false, 1).is_none());
        assert!(Slot::try_take(&room, true, 1).is_some());
    }

    #[test]
    fn the_largest_limits_are_not_too_large() {
        let room = room((usize::MAX, usize::MAX), (usize::MAX, usize::MAX));
        let slots: Vec<Slot> =
            (0..3).map(|_| Slot::try_take(&room, false, u32::MAX as usize).unwrap()).collect();
        drop(slots);
        assert!(is_empty(&room));
    }

    #[test]
    fn waiting_ends_when_room_is_given_back_or_is_not_wanted_any_more() {
        let room = room((10, 10), (1, 10));
        let slot = Slot::try_take(&room, false, 1).unwrap();
        assert!(Slot::take(&room, false, 1, Duration::from_millis(1), || true).is_none());
        let waiter = thread::spawn({
            let room = room.clone();
            move || Slot::take(&room, false, 1, Duration::from_secs(60), || false).is_some()
        });
        // Whether it waits by now or only later, it gets the room.
        drop(slot);
        assert!(waiter.join().unwrap());
    }
}
