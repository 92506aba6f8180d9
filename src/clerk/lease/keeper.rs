//! [`Keeper`]: the thread that keeps leases alive.
//!
//! One for a Clerk and all its clones, while there are leases. When a third of a lease's time has
//! passed, it sends one request for all leases of which a sixth has passed. So leases of the same
//! time to live soon share their requests. A request ends, at the latest, when the first lease has
//! no time left, and one that fails is made again after a short pause. So a change of leader costs
//! no lease that lives for some seconds.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::held::Held;
use crate::clerk::{Clerk, ClerkError};
use crate::clock;
use crate::kv::LEASES_PER_REQUEST_MAX;
use crate::kv::model::LeaseId;

/// The longest that a request may take. Shorter times to live shorten it.
const TIMEOUT_MAX: Duration = Duration::from_secs(10);

/// Shorter requests would end before most of their answers.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// The bounds of the pause after a request that has failed.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long the thread waits at most before it looks at the clock again: a machine that sleeps
/// stops the clock of the wait, but not that of the leases.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Default)]
pub(in crate::clerk) struct Keeper {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    leases: Vec<Arc<Held>>,
    /// A thread runs.
    is_running: bool,
}

/// What the thread does next.
struct Turn {
    lost: Vec<Arc<Held>>,
    /// Those to keep alive.
    due: Vec<Arc<Held>>,
    /// How long that may take, for the lease that has the least time left.
    timeout: Duration,
}

impl Keeper {
    /// Keeps one more lease alive.
    pub(super) fn add(self: &Arc<Keeper>, clerk: &Clerk, held: Arc<Held>) {
        let mut state = self.state.lock();
        state.leases.push(held);
        if !state.is_running {
            let (keeper, clerk) = (self.clone(), clerk.clone());
            let thread = thread::Builder::new().name("lease-keeper".to_owned());
            // Without a thread, the leases end, and say so.
            state.is_running = thread.spawn(move || keeper.run(&clerk)).is_ok();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// A lease was released.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    fn run(&self, clerk: &Clerk) {
        while let Some(Turn { lost, due, timeout }) = self.next() {
            lost.iter().for_each(|held| held.lose());
            if due.is_empty() {
                continue;
            }
            if let Err(error) = keep_alive(&clerk.clone().with_timeout(timeout), &due) {
                log::warn!("leases could not be kept alive: {}", crate::ErrorChain(&error));
                self.pause((timeout / 10).clamp(PAUSE_MIN, PAUSE_MAX));
            }
        }
    }

    /// A lease that is added meanwhile ends the pause.
    fn pause(&self, pause: Duration) {
        let _ = self.changed.wait_for(&mut self.state.lock(), pause);
    }

    /// Waits until there is something to do. `None`: there is no lease any more.
    fn next(&self) -> Option<Turn> {
        let mut state = self.state.lock();
        loop {
            let lost: Vec<_> = state.leases.extract_if(.., |held| !held.is_held()).collect();
            state.leases.retain(|held| !held.is_released());
            let shortest = state.leases.iter().map(|held| held.time_left()).min();
            let due: Vec<_> = match state.leases.iter().any(|held| held.age() >= held.ttl / 3) {
                true => state.leases.iter().filter(|held| held.age() >= held.ttl / 6).collect(),
                false => Vec::new(),
            };
            if !lost.is_empty() || !due.is_empty() {
                let due = due.into_iter().cloned().collect();
                let timeout = shortest.unwrap_or_default().clamp(TIMEOUT_MIN, TIMEOUT_MAX);
                return Some(Turn { lost, due, timeout });
            }
            let next = state.leases.iter().map(|held| (held.ttl / 3).saturating_sub(held.age()));
            let Some(next) = next.min() else {
                state.is_running = false;
                return None;
            };
            let _ = self.changed.wait_for(&mut state, next.min(LOOK_MAX));
        }
    }
}

/// One request for all of these, or for as many as one request may name.
fn keep_alive(clerk: &Clerk, leases: &[Arc<Held>]) -> Result<(), ClerkError> {
    leases.chunks(LEASES_PER_REQUEST_MAX).try_for_each(|leases| {
        let ids: Vec<LeaseId> = leases.iter().map(|held| held.id).collect();
        let asked = clock::boot_time();
        for (held, kept) in leases.iter().zip(clerk.keep_alive(&ids)?) {
            match kept {
                Some(_) => held.kept_alive(asked),
                None => held.lose(),
            }
        }
        Ok(())
    })
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper")
            .field("leases", &self.state.lock().leases.len())
            .finish_non_exhaustive()
    }
}
