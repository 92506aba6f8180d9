//! Locks and elections: [`Clerk::lock`], [`Clerk::elect`].
//!
//! A lock is a queue of keys, each under a lease of its own (`queue`). The first of them holds the
//! lock. An election is the same, and its winner announces itself under the name of the election.
//!
//! # What a lock promises
//! - At most one guard is the first of its queue at any revision of the store.
//! - A guard that is not kept alive loses the lock within its time to live and what a lease may
//!   take longer to end (GUARANTEES.md); then the next one has it.
//! - [`Guard::is_held`] turns false before the store can give the lock to the next one, if the
//!   clocks' rates differ by less than a tenth, and nobody else touches what the lock is made of.
//! - A transaction of [`Guard::txn`] takes effect only while the guard is the first of its queue:
//!   the store checks it together with the rest.
//!
//! # When others interfere
//! Anybody who may write to the store can revoke the guard's lease, or delete its
//! [key](Guard::key). Then the next one has the lock at once, and the guard does not know. A
//! revoked lease is noticed when it is to be kept alive, within a third of its time to live. A
//! deleted key is noticed by [`Guard::check`], which asks the cluster. A program that must know of
//! both calls it as often as it wants to know; `syncraft lock` does so every third of the time to
//! live. Transactions of the guard need none of this.
//!
//! # What it cannot promise
//! That a program which holds the lock does nothing after it has lost it. Between the moment at
//! which it asks `is_held` and the moment at which its effect happens, the program may sleep for as
//! long as its machine, its garbage collector or its debugger pleases. Meanwhile the lock may go to
//! another one. What is protected must check who comes: either it is in this store and written by
//! [`Guard::txn`], or it remembers the highest [`fence`](Guard::fence) that it has seen, and
//! refuses lower ones.

mod error;
mod queue;

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::error::{Operation, Reason};
use super::{Clerk, ClerkError, TIMEOUT_MAX, TxnBuilder};
use crate::kv::model::{Action, Entry, LeaseId, Revision};
use crate::kv::{CommandError, KEY_LEN_MAX};
pub use error::LockError;
use queue::{Place, SUFFIX_LEN};

/// Long enough for an election and a busy machine, short enough to wait for when a holder dies.
const TTL_DEFAULT: Duration = Duration::from_secs(15);

/// How long the name of a lock may be, in bytes.
pub const LOCK_NAME_LEN_MAX: usize = KEY_LEN_MAX - SUFFIX_LEN;

/// A lock that is about to be taken. See [`Clerk::lock`] and [`Clerk::elect`].
///
/// Its name should be one below which there are no other keys: each time that a waiter looks, the
/// cluster sorts all keys that begin with the name and a slash.
#[must_use = "nothing is locked before it is acquired"]
pub struct LockBuilder<'a> {
    clerk: &'a Clerk,
    name: Bytes,
    ttl: Duration,
    wait: Duration,
    stop: Box<dyn FnMut() -> bool + 'a>,
    /// What the winner of an election announces.
    announced: Option<Bytes>,
}

impl std::fmt::Debug for LockBuilder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let LockBuilder { name, ttl, wait, announced, .. } = self;
        f.debug_struct("LockBuilder")
            .field("name", name)
            .field("ttl", ttl)
            .field("wait", wait)
            .field("announced", announced)
            .finish_non_exhaustive()
    }
}

impl<'a> LockBuilder<'a> {
    /// The time to live of the lock when its holder dies or is cut off; default 15 s. Too small: a
    /// busy machine or network loses it. Too large: the next one waits that long.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long to wait while another guard holds the lock; by default, as long as the Clerk's
    /// [timeout](super::ClerkBuilder::timeout). With zero it is taken at once or not at all.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Stops waiting when this returns true. It is called several times a second while another
    /// guard holds the lock, but not during a call: as long as no member answers, it is called once
    /// per [timeout](super::ClerkBuilder::timeout) of the Clerk.
    pub fn give_up_if(mut self, stop: impl FnMut() -> bool + 'a) -> Self {
        self.stop = Box::new(stop);
        self
    }

    /// Takes the lock, or wins the election. Once it has a place in the queue, calls that no member
    /// answers are made again until the time to [wait](LockBuilder::wait) is over.
    ///
    /// # Errors
    /// Every [`LockError`].
    pub fn acquire(self) -> Result<Guard, LockError> {
        let LockBuilder { clerk, name, ttl, wait, stop, announced } = self;
        if name.len() > LOCK_NAME_LEN_MAX {
            let (part, len, max) = ("name of a lock", name.len(), LOCK_NAME_LEN_MAX);
            let reason = Reason::Limit(CommandError::TooLarge { part, len, max });
            return Err(clerk.call(Operation::write("lock"), 0).reject(reason).into());
        }
        let began = Instant::now();
        let value = announced.clone().unwrap_or_default();
        let place = Place::enter(clerk.clone(), &name, ttl, value)?;
        // From here on, dropping the guard leaves the queue.
        let guard = Guard { place, is_released: false };
        if !guard.place.wait(began + wait.min(TIMEOUT_MAX), stop)? {
            return Err(LockError::Taken { waited: began.elapsed() });
        }
        if let Some(value) = announced {
            guard.announce(name, value)?;
        }
        Ok(guard)
    }
}

/// A lock that is held, or an election that is won. Dropping it releases it.
///
/// A thread keeps it alive. If that cannot reach the cluster, or the program sleeps for too long,
/// the lock is lost: [`is_held`](Guard::is_held) tells. The [module](self) says what a lock cannot
/// promise.
#[derive(Debug)]
#[must_use = "dropping a guard releases the lock"]
pub struct Guard {
    place: Place,
    is_released: bool,
}

impl Guard {
    /// Whether the lock is held for certain: it was kept alive less than nine tenths of its time to
    /// live ago, by a clock that counts the machine's sleep. This asks nobody: if somebody has
    /// revoked the guard's lease or deleted its key, it is noticed later (see the [module](self)).
    pub fn is_held(&self) -> bool {
        self.place.is_held()
    }

    /// Asks the cluster whether the lock is held, in case somebody has revoked the guard's lease or
    /// deleted its key. If it is not, [`is_held`](Guard::is_held) is false from now on.
    ///
    /// # Errors
    /// No member answered within the Clerk's timeout, or a third of the time to live if that is
    /// shorter. That alone does not lose the lock.
    pub fn check(&self) -> Result<bool, ClerkError> {
        self.place.check()
    }

    /// A number that is higher than that of every guard of this lock before: the create revision of
    /// the guard's [key](Guard::key). Whoever is given it with a request can refuse one that comes
    /// too late.
    pub fn fence(&self) -> Revision {
        self.place.created()
    }

    /// The guard's place in the queue, which only this guard uses: the name of the lock, `/` and
    /// the id of its lease.
    pub fn key(&self) -> &Bytes {
        self.place.key()
    }

    /// The lease on which the lock depends. Keys that are put with it are gone with the lock.
    pub fn lease(&self) -> LeaseId {
        self.place.lease().id()
    }

    /// Begins a transaction whose comparisons hold only as long as the guard has the lock, so that
    /// a write under a lost lock cannot happen. See [`Clerk::txn`].
    pub fn txn(&self) -> TxnBuilder<'_> {
        self.place.clerk().txn().when(self.place.is_there())
    }

    /// Releases the lock, so that the next one has it. A lock that was lost counts as released.
    ///
    /// # Errors
    /// No member answered in time. Then the lock becomes free when its time to live is over.
    pub fn unlock(mut self) -> Result<(), ClerkError> {
        self.is_released = true;
        self.place.leave()
    }

    /// Writes the value of the winner under the name of its election.
    fn announce(&self, name: Bytes, value: Bytes) -> Result<(), LockError> {
        match self.txn().then(Action::put_with(name, value, self.lease())).commit()?.held {
            true => Ok(()),
            false => Err(LockError::Lost),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_released {
            // If it fails, the lock becomes free when its time to live is over.
            let _ = self.place.leave();
        }
    }
}

impl Clerk {
    /// A lock with this name. It is taken by [`acquire`](LockBuilder::acquire), and kept alive
    /// until the guard is dropped. Those who wait for it have it in the order in which they came.
    /// What a lock promises, and what it cannot, says the page of [`Guard`].
    ///
    /// ```
    /// use std::time::Duration;
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// let guard = clerk.lock("jobs/nightly").ttl(Duration::from_secs(5)).acquire()?;
    /// assert!(clerk.lock("jobs/nightly").wait(Duration::ZERO).acquire().is_err(), "it is taken");
    /// // This write happens only if the lock is held at that moment.
    /// assert!(guard.txn().then_put("jobs/state", "running").commit()?.held);
    /// guard.unlock()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lock(&self, name: impl AsRef<[u8]>) -> LockBuilder<'_> {
        LockBuilder {
            clerk: self,
            name: Bytes::copy_from_slice(name.as_ref()),
            ttl: TTL_DEFAULT,
            wait: self.timeout,
            stop: Box::new(|| false),
            announced: None,
        }
    }

    /// An election with this name, for which the caller stands with `value`. It is won as a lock is
    /// taken. Then the key `name` has the value, until the guard is dropped or its lease ends:
    /// others can [read](Clerk::leader) and [watch](Clerk::watch) it.
    ///
    /// ```
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// let guard = clerk.elect("primary", "db-1:5432").acquire()?;
    /// let leader = clerk.leader("primary")?.expect("there is one");
    /// assert_eq!(&leader.value[..], b"db-1:5432");
    /// guard.unlock()?;
    /// assert_eq!(clerk.leader("primary")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn elect(&self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> LockBuilder<'_> {
        let announced = Some(Bytes::copy_from_slice(value.as_ref()));
        LockBuilder { announced, ..self.lock(name) }
    }

    /// What the winner of an election has announced. `None`: nobody leads now.
    ///
    /// # Errors
    /// No member answered in time, or the name is too long.
    pub fn leader(&self, name: impl AsRef<[u8]>) -> Result<Option<Entry>, ClerkError> {
        self.get_entry(name)
    }
}
