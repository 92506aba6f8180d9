//! How many connections may be open.
//!
//! There are two kinds of connections, with a bound each:
//!
//! - A connection over which a call has come has a place. There are as many places for clients as
//!   are configured, and for the RPC 72 more for reserved services. A client that finds none is
//!   refused, unless another connection gives its place up. An RPC connection keeps its place until
//!   it ends. An idle HTTP connection gives its place up for the next client.
//! - Connections over which no call has come yet may use the free places, and eight more. They make
//!   room for each other. At least eight may always be open, so a peer always gets as far as its
//!   first call.
//!
//! A server learns that the system has no room when a thread does not start or `accept` finds no
//! descriptor, for whatever reason. For a minute it then lowers the second bound by a quarter of
//! what is open. The first bound stays, because the places say nothing about the room that the
//! system has a moment later.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Connections beyond `connections_max` for clients of reserved services: five from each of 14
/// other members, and two to spare.
pub(crate) const RESERVED_CONNECTIONS: usize = 72;

/// And for connections whose first call has not come yet. It decides what they are.
pub(super) const TRIAL_CONNECTIONS: usize = 8;

/// How long fewer connections without a call are allowed after the system had no room.
const SHRUNK_FOR: Duration = Duration::from_secs(60);

pub(crate) struct Capacity {
    configured: usize,
    /// Places for reserved services only.
    reserved_max: usize,
    shrunk: Mutex<Option<Shrunk>>,
    /// Places that are taken.
    of_clients: Arc<AtomicUsize>,
    reserved: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
struct Shrunk {
    open_max: usize,
    until: Instant,
}

impl Capacity {
    pub(crate) fn new(configured: usize, reserved_max: usize) -> Capacity {
        let (of_clients, reserved) = (Arc::default(), Arc::default());
        Capacity { configured, reserved_max, shrunk: Mutex::new(None), of_clients, reserved }
    }

    /// Connections over which a call has come, without those of reserved services.
    pub(crate) fn connections_max(&self) -> usize {
        self.configured
    }

    /// How many connections may be open before one without a call makes room for the next.
    pub(crate) fn open_max(&self) -> usize {
        let places = self.configured.saturating_add(self.reserved_max + TRIAL_CONNECTIONS);
        let open_max = self.shrunk.lock().filter(Shrunk::holds).map_or(places, |it| it.open_max);
        let taken = |places: &AtomicUsize| places.load(Ordering::Relaxed);
        open_max.max(taken(&self.of_clients) + taken(&self.reserved) + TRIAL_CONNECTIONS)
    }

    /// A place for a client of a reserved service, or of another service.
    pub(crate) fn try_take(&self, is_reserved: bool) -> Option<Place> {
        let reserved = is_reserved.then(|| Place::try_take(&self.reserved, self.reserved_max));
        let of_clients = || Place::try_take(&self.of_clients, self.connections_max());
        reserved.flatten().or_else(of_clients)
    }

    /// The system had no room for one more beside `open` connections. Returns how many are to be
    /// left: a quarter fewer each time, so that there is room for second threads, and for what else
    /// has to start.
    pub(crate) fn shrink(&self, open: usize) -> usize {
        let mut shrunk = self.shrunk.lock();
        // If more are open than were to be left, some are still ending, or no further one can be
        // ended.
        let before = shrunk.filter(|it| it.holds() && it.open_max < open);
        let open_max = before.map_or(open - open.div_ceil(4), |it| it.open_max);
        *shrunk = Some(Shrunk { open_max, until: Instant::now() + SHRUNK_FOR });
        open_max
    }
}

impl Shrunk {
    fn holds(&self) -> bool {
        Instant::now() < self.until
    }
}

/// The right of a connection to stay. Dropping it gives it back.
pub(crate) struct Place {
    taken: Arc<AtomicUsize>,
}

impl Place {
    fn try_take(taken: &Arc<AtomicUsize>, places: usize) -> Option<Place> {
        let more = |taken| (taken < places).then_some(taken + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place { taken: Arc::clone(taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_that_the_system_does_not_give_is_given_up_step_by_step() {
        let capacity = Capacity::new(1024, RESERVED_CONNECTIONS);
        assert_eq!(capacity.open_max(), 1104);
        // In turn: what was open; what is to be left; and what may be open then.
        for (open, left, open_max) in [
            (250, 187, 187),
            // They are still going.
            (250, 187, 187),
            (200, 187, 187),
            (180, 135, 135),
            (45, 33, 33),
            (8, 6, 8),
            (0, 0, 8),
        ] {
            assert_eq!(capacity.shrink(open), left, "{open} are open");
            assert_eq!(capacity.open_max(), open_max, "{open} were open");
        }
    }

    #[test]
    fn the_next_one_may_make_its_first_call_however_many_have_places() {
        let capacity = Capacity::new(100, RESERVED_CONNECTIONS);
        let take = |is_reserved| capacity.try_take(is_reserved).unwrap();
        let mut places: Vec<_> = (0..80).map(|_| take(false)).collect();
        for _ in 0..10 {
            capacity.shrink(80);
            assert_eq!(capacity.open_max(), 88);
        }
        // There are as many places as before.
        places.extend((0..20).map(|_| take(false)));
        places.extend((0..32).map(|_| take(true)));
        assert_eq!(capacity.open_max(), 140);
    }

    #[test]
    fn clients_cannot_take_the_places_of_reserved_services() {
        let capacity = Capacity::new(2, RESERVED_CONNECTIONS);
        let take = |is_reserved| capacity.try_take(is_reserved);
        let of_clients = [take(false).unwrap(), take(false).unwrap()];
        assert!(take(false).is_none());
        let reserved: Vec<_> = (0..RESERVED_CONNECTIONS).map(|_| take(true).unwrap()).collect();
        assert!(take(true).is_none());
        // The other way round they can.
        drop(of_clients);
        assert!(take(true).is_some());
        drop(reserved);
        assert!(take(true).is_some());
    }
}
