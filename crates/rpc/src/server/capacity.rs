//! How many connections may be open: as many as are configured, or fewer while the system has no room for them.
//!
//! A server learns that the system has no room when a thread does not start or `accept` finds no descriptor, whatever limit that
//! was and whoever else uses it up. Then it allows fewer connections for a minute. The difference is room for reserved services.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Connections beyond `connections_max` for clients of reserved services.
pub(super) const RESERVED_CONNECTIONS: usize = 32;

/// And for clients whose first call has not come yet: it decides which they are.
pub(super) const TRIAL_CONNECTIONS: usize = 8;

/// Connections that are allowed whatever the system says.
const ALL_MIN: usize = 4;

/// How long fewer connections are allowed after the system had no room.
const SHRUNK_FOR: Duration = Duration::from_secs(60);

pub(super) struct Capacity {
    configured: usize,
    shrunk: Mutex<Option<Shrunk>>,
    /// Places that are taken.
    of_clients: Arc<AtomicUsize>,
    reserved: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
struct Shrunk {
    connections_max: usize,
    all_max: usize,
    until: Instant,
}

impl Capacity {
    pub(super) fn new(configured: usize) -> Capacity {
        let (of_clients, reserved) = (Arc::default(), Arc::default());
        Capacity { configured, shrunk: Mutex::new(None), of_clients, reserved }
    }

    /// Connections whose clients have made a call, those of reserved services not counted.
    pub(super) fn connections_max(&self) -> usize {
        self.shrunk().map_or(self.configured, |it| it.connections_max)
    }

    /// All connections, those whose clients have said nothing yet among them.
    pub(super) fn all_max(&self) -> usize {
        self.shrunk().map_or(
            self.configured.saturating_add(RESERVED_CONNECTIONS + TRIAL_CONNECTIONS),
            |it| it.all_max,
        )
    }

    fn shrunk(&self) -> Option<Shrunk> {
        let mut shrunk = self.shrunk.lock();
        *shrunk = shrunk.filter(|it| Instant::now() < it.until);
        *shrunk
    }

    /// A place for a client of a reserved service, or of another one.
    pub(super) fn try_take(&self, is_reserved: bool) -> Option<Place> {
        let reserved = is_reserved.then(|| Place::try_take(&self.reserved, RESERVED_CONNECTIONS));
        let of_clients = || Place::try_take(&self.of_clients, self.connections_max());
        reserved.flatten().or_else(of_clients)
    }

    /// The system had no room for one more beside `open` connections: how many are allowed from now on, a quarter fewer each
    /// time. What is left over is for their second threads, and for what else has to start.
    pub(super) fn shrink(&self, open: usize) -> usize {
        let all_max = (self.all_max().min(open) / 4 * 3).max(ALL_MIN);
        let beyond = RESERVED_CONNECTIONS + TRIAL_CONNECTIONS;
        let connections_max = all_max.saturating_sub(beyond).max(all_max / 2);
        let until = Instant::now() + SHRUNK_FOR;
        *self.shrunk.lock() = Some(Shrunk { connections_max, all_max, until });
        all_max
    }
}

/// The right of a connection to stay, until it is dropped.
pub(super) struct Place {
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
        let capacity = Capacity::new(1024);
        assert_eq!((capacity.all_max(), capacity.connections_max()), (1064, 1024));
        // In turn: what was open; what is allowed then; and of that, for clients.
        for (open, all, of_clients) in
            [(250, 186, 146), (200, 138, 98), (100, 75, 37), (45, 33, 16), (1, 4, 2), (0, 4, 2)]
        {
            assert_eq!(capacity.shrink(open), all, "{open} are open");
            assert_eq!((capacity.all_max(), capacity.connections_max()), (all, of_clients));
        }
    }

    #[test]
    fn clients_cannot_take_the_places_of_reserved_services() {
        let capacity = Capacity::new(2);
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
