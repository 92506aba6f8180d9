//! [`Lease`]: a lease that is kept alive.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::clerk::{Clerk, ClerkError};
use crate::clock;
use crate::kv::model::LeaseId;

/// How long a thread waits for the loss of a lease before it looks at the clock again: a machine
/// that sleeps stops the clock of the wait, but not that of the lease.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// A lease that this process holds: see [`Clerk::lease`].
///
/// A thread keeps it alive every third of its time to live, until it is dropped or revoked. A lease
/// that is dropped ends by itself, with its keys, when its time is over; [`revoke`](Lease::revoke)
/// ends it at once.
///
/// # What it promises
/// While [`is_held`](Lease::is_held) says so, the cluster has not ended the lease, unless somebody
/// has revoked it, or clocks run more than a tenth faster or slower than others. It is false from
/// nine tenths of the time to live after the last grant or keep-alive was sent that was answered.
/// The clock goes on while the machine sleeps. A lease that was once lost stays lost.
///
/// It cannot promise anything about what happens after it has answered. A process may be stopped
/// between the question and the deed, for longer than the lease lives. Whoever must not act without
/// the lease lets the store compare: a [transaction](Clerk::txn) that compares a key of the lease
/// changes nothing once the lease has ended.
pub struct Lease {
    held: Arc<Held>,
    clerk: Clerk,
}

/// What a lease and the thread that keeps it alive share.
pub(super) struct Held {
    pub(super) id: LeaseId,
    pub(super) ttl: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// When the first attempt of the last request that was answered was sent, by the boot-time
    /// clock.
    asked: Duration,
    is_lost: bool,
    /// Nobody needs it to be kept alive any more.
    is_released: bool,
    when_lost: Vec<Callback>,
}

type Callback = Box<dyn FnOnce() + Send>;

impl Lease {
    /// Keeps a lease alive that was asked for at this moment of the boot-time clock.
    pub(super) fn keep(clerk: &Clerk, id: LeaseId, ttl: Duration, asked: Duration) -> Lease {
        let state = State { asked, is_lost: false, is_released: false, when_lost: Vec::new() };
        let held = Arc::new(Held { id, ttl, state: Mutex::new(state), changed: Condvar::new() });
        clerk.keeper.add(clerk, held.clone());
        Lease { held, clerk: clerk.clone() }
    }

    /// The lease's id, for puts.
    pub fn id(&self) -> LeaseId {
        self.held.id
    }

    /// How long it lives without being kept alive.
    pub fn ttl(&self) -> Duration {
        self.held.ttl
    }

    /// Whether the lease is certain to be there still: see [`Lease`].
    pub fn is_held(&self) -> bool {
        self.held.is_held()
    }

    /// Waits until the lease is lost, but not longer than `timeout`. Returns whether it is lost.
    pub fn wait_lost(&self, timeout: Duration) -> bool {
        let until = Instant::now().checked_add(timeout);
        let mut state = self.held.state.lock();
        loop {
            let left = self.held.left(&state);
            if left.is_zero() {
                return true;
            }
            let now = Instant::now();
            let waits = until.map_or(LOOK_MAX, |until| until.saturating_duration_since(now));
            if waits.is_zero() {
                return false;
            }
            let _ = self.held.changed.wait_for(&mut state, waits.min(left).min(LOOK_MAX));
        }
    }

    /// Calls `callback` once if the lease is lost, on the thread that keeps leases alive, which it
    /// must not block; on this thread if it is lost already. Never, if the lease is dropped or
    /// revoked before.
    pub fn when_lost(&self, callback: impl FnOnce() + Send + 'static) {
        let mut state = self.held.state.lock();
        if state.is_lost {
            drop(state);
            return callback();
        }
        state.when_lost.push(Box::new(callback));
    }

    /// Ends the lease and deletes its keys. It is kept alive no more, whatever becomes of this: it
    /// then ends by itself.
    ///
    /// # Errors
    /// [`ClerkError::kind`] says whether it happened. The store refuses to revoke a lease that has
    /// ended ([`ClerkError::refusal`]).
    pub fn revoke(self) -> Result<(), ClerkError> {
        self.held.release();
        self.clerk.revoke_lease(self.held.id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.held.release();
        self.clerk.keeper.wake();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("id", &self.held.id.0)
            .field("ttl", &self.held.ttl)
            .field("is_held", &self.is_held())
            .finish_non_exhaustive()
    }
}

impl Held {
    pub(super) fn is_held(&self) -> bool {
        !self.left(&self.state.lock()).is_zero()
    }

    /// For how long it is certain to be there.
    pub(super) fn time_left(&self) -> Duration {
        self.left(&self.state.lock())
    }

    fn left(&self, state: &State) -> Duration {
        match state.is_lost {
            true => Duration::ZERO,
            false => (self.ttl * 9 / 10).saturating_sub(clock::since(state.asked)),
        }
    }

    /// How long ago the last request was sent that was answered.
    pub(super) fn age(&self) -> Duration {
        clock::since(self.state.lock().asked)
    }

    /// The lease was kept alive by a request that was sent at this moment. That does not bring a
    /// lease back that was lost.
    pub(super) fn kept_alive(&self, asked: Duration) {
        let mut state = self.state.lock();
        if !self.left(&state).is_zero() {
            state.asked = state.asked.max(asked);
        }
    }

    /// The lease is not there any more, or nobody can say that it is.
    pub(super) fn lose(&self) {
        let callbacks = {
            let mut state = self.state.lock();
            state.is_lost = true;
            if state.is_released { Vec::new() } else { std::mem::take(&mut state.when_lost) }
        };
        self.changed.notify_all();
        for callback in callbacks {
            // One that panics has said so, and must not end the other leases.
            let _ = catch_unwind(AssertUnwindSafe(callback));
        }
    }

    fn release(&self) {
        let mut state = self.state.lock();
        state.is_released = true;
        state.when_lost.clear();
    }

    pub(super) fn is_released(&self) -> bool {
        self.state.lock().is_released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lease of which so many hundredths have passed. A machine that was started a moment ago has
    /// only a short one.
    fn passed(percent: u32) -> Held {
        let ttl = clock::boot_time().min(Duration::from_secs(100));
        let asked = clock::boot_time() - ttl * percent / 100;
        Held {
            id: LeaseId(7),
            ttl,
            state: Mutex::new(State {
                asked,
                is_lost: false,
                is_released: false,
                when_lost: Vec::new(),
            }),
            changed: Condvar::new(),
        }
    }

    #[test]
    fn a_lease_is_held_for_nine_tenths_of_its_time() {
        assert!(passed(30).is_held());
        assert!(!passed(90).is_held());
        let held = passed(30);
        assert!(held.time_left() <= held.ttl * 60 / 100, "{:?}", held.time_left());
    }

    #[test]
    fn a_lease_that_was_lost_stays_lost() {
        let lost = passed(90);
        lost.kept_alive(clock::boot_time());
        assert!(!lost.is_held());
        let held = passed(60);
        held.kept_alive(clock::boot_time());
        assert!(held.time_left() > held.ttl * 31 / 100);
        // An answer to an earlier request takes nothing back.
        held.kept_alive(clock::boot_time() - held.ttl * 80 / 100);
        assert!(held.time_left() > held.ttl * 31 / 100);
        held.lose();
        held.kept_alive(clock::boot_time());
        assert!(!held.is_held());
    }
}
