//! [`Place`]: a place in the queue of a lock.
//!
//! ```text
//! NAME/00000000000004d2   create revision 17   <- the first holds the lock
//! NAME/0000000000000929   create revision 21   <- watches only the key above
//! NAME/000000000000007b   create revision 30   <- watches only the key above
//! ```
//!
//! Each place is a key under the name of the lock: the name, `/` and the id of the place's lease.
//! etcd's clients have the same queue, but leave out the zeros before an id: their keys are places,
//! too, if the key's lease has that id.
//! The keys' create revisions are the order of the queue. A place holds the lock when there is no
//! key of the queue before it. Otherwise it waits until the last of the keys before it is gone, and
//! looks again, because that one may have given up its place without holding the lock. So when a
//! lock becomes free, one place wakes up, however many wait.
//!
//! # Invariants
//! - A place finds itself the first only in a state in which its own key is there: one transaction
//!   reads both. So nobody is told to hold a lock whose lease has ended while it waited.
//! - Whatever ends the lease of a place takes the place out of the queue.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::LockError;
use crate::clerk::{Clerk, ClerkError, Lease, WatchError};
use crate::kv::model::{
    Action, Compare, Entry, KeyRange, LeaseId, OperationAnswer, Range, Reason, Revision,
    RevisionBounds, SortBy, Want,
};

/// The digits of a lease's id in the key of a place.
const ID_DIGITS: usize = 16;

/// How many bytes the key of a place is longer than the name of its lock.
pub(super) const SUFFIX_LEN: usize = 1 + ID_DIGITS;

/// How many of the keys before a place are read at a time. All but the last are of interest only if
/// that is not the key of a place, but of somebody else who uses the same prefix.
const BEFORE_MAX: u64 = 16;

/// How often a place that waits checks that its lease is held, and that it shall go on.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// See the file. Dropping it without [`leave`](Place::leave) leaves it to its lease.
#[derive(Debug)]
pub(super) struct Place {
    clerk: Clerk,
    lease: Lease,
    prefix: Bytes,
    key: Bytes,
    created: Revision,
    /// The cluster has said that the place is gone.
    is_gone: AtomicBool,
}

impl Place {
    /// Takes the last place of the queue.
    pub(super) fn enter(
        clerk: Clerk,
        name: &[u8],
        ttl: Duration,
        value: Bytes,
    ) -> Result<Place, LockError> {
        let lease = clerk.lease(ttl)?;
        let prefix = Bytes::from([name, b"/"].concat());
        let id = format!("{:0width$x}", lease.id().0, width = ID_DIGITS);
        let key = Bytes::from([&prefix[..], id.as_bytes()].concat());
        let put = Action::put_with(key.clone(), value, lease.id());
        let entered = clerk.txn().when(Compare::absent(key.clone())).then(put).commit();
        let (created, is_gone) = (Revision::NONE, AtomicBool::new(false));
        let mut place = Place { clerk, lease, prefix, key, created, is_gone };
        match entered {
            Ok(entered) if entered.held => {
                place.created = entered.revision;
                Ok(place)
            }
            // Nobody else has this lease.
            Ok(_) => {
                place.leave()?;
                Err(LockError::Lost)
            }
            Err(error) if is_of_ended_lease(&error) => Err(LockError::Lost),
            Err(error) => {
                // It may have a place all the same. If this fails, too, its lease will end.
                let _ = place.leave();
                Err(error.into())
            }
        }
    }

    /// Waits until it is the first, or `deadline`, or until `stop`. Returns whether it is the
    /// first. Calls that fail because no member answers are made again until then.
    pub(super) fn wait(
        &self,
        deadline: Instant,
        mut stop: impl FnMut() -> bool,
    ) -> Result<bool, LockError> {
        loop {
            match self.wait_once(deadline, &mut stop) {
                Err(error) if may_pass(&error) && Instant::now() < deadline => {
                    // As long as the lease is held, there is hope.
                    self.check_lease()?;
                    if stop() {
                        return Ok(false);
                    }
                    thread::sleep(CHECK_INTERVAL);
                }
                waited => return waited,
            }
        }
    }

    /// As [`wait`](Place::wait), until a call fails.
    fn wait_once(
        &self,
        deadline: Instant,
        stop: &mut impl FnMut() -> bool,
    ) -> Result<bool, LockError> {
        while let Some((before, at)) = self.before()? {
            if !self.wait_for(before, at, deadline, stop)? {
                return Ok(false);
            }
        }
        self.check_lease().map(|()| true)
    }

    /// Waits until the key before is gone. `false`: it is not, and there is no more time.
    fn wait_for(
        &self,
        before: Bytes,
        at: Revision,
        deadline: Instant,
        stop: &mut impl FnMut() -> bool,
    ) -> Result<bool, LockError> {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        let watch = self.clerk.watch(KeyRange::key(before)).from(at.next()).deletes_only();
        let mut watch = match watch.start() {
            // It may be gone: look again.
            Err(WatchError::Compacted { .. }) => return Ok(true),
            watch => watch?,
        };
        loop {
            self.check_lease()?;
            if stop() {
                return Ok(false);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match watch.next_timeout(left.min(CHECK_INTERVAL)) {
                Ok(None) if left.is_zero() => return Ok(false),
                Ok(None) => {}
                Ok(Some(_)) | Err(WatchError::Compacted { .. }) => return Ok(true),
                // As long as the lease is held, there is hope.
                Err(error) if !error.is_final() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The last place before this one, and the revision at which it was there.
    fn before(&self) -> Result<Option<(Bytes, Revision)>, LockError> {
        let mut newest = Revision(self.created.0 - 1);
        loop {
            let places = Range {
                limit: BEFORE_MAX,
                sort_by: SortBy::CreateRevision,
                descending: true,
                want: Want::Keys,
                create_revision: RevisionBounds { min: Revision::NONE, max: newest },
                ..Range::of(KeyRange::prefix(self.prefix.clone()))
            };
            let read =
                self.clerk.txn().when(self.is_there()).then(Action::Range(places)).commit()?;
            let Some(OperationAnswer::Range(found)) = read.answers.first().filter(|_| read.held)
            else {
                return Err(LockError::Lost);
            };
            if let Some(place) = found.entries.iter().find(|entry| self.is_place(entry)) {
                return Ok(Some((place.key.clone(), read.revision)));
            }
            match found.entries.last() {
                // A place has its revision for itself, so none is passed over.
                Some(last) if found.more => newest = Revision(last.create_revision.0 - 1),
                _ => return Ok(None),
            }
        }
    }

    /// Whether this is the key of a place of the same queue: not one of a lock whose name begins
    /// with this one's, for example.
    fn is_place(&self, Entry { key, lease, .. }: &Entry) -> bool {
        let Some(id) = key.strip_prefix(&self.prefix[..]) else { return false };
        // Whatever its lease: a key that was written over may be that of a holder.
        let is_ours = id.len() == ID_DIGITS && id.iter().all(u8::is_ascii_hexdigit);
        is_ours || *lease != LeaseId::NONE && *id == *format!("{:x}", lease.0).as_bytes()
    }

    fn check_lease(&self) -> Result<(), LockError> {
        if self.is_held() { Ok(()) } else { Err(LockError::Lost) }
    }

    pub(super) fn is_held(&self) -> bool {
        self.lease.is_held() && !self.is_gone.load(Ordering::Relaxed)
    }

    /// Asks the cluster whether the place is still there. A place that is gone stays lost.
    pub(super) fn check(&self) -> Result<bool, ClerkError> {
        let timeout = self.clerk.timeout.min(self.lease.ttl() / 3);
        let found = self.clerk.clone().with_timeout(timeout).get_entry(&self.key)?;
        if found.is_none_or(|entry| entry.create_revision != self.created) {
            self.is_gone.store(true, Ordering::Relaxed);
        }
        Ok(self.is_held())
    }

    /// Holds if the place is there.
    pub(super) fn is_there(&self) -> Compare {
        Compare::create_revision(self.key.clone(), self.created)
    }

    pub(super) fn clerk(&self) -> &Clerk {
        &self.clerk
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(super) fn key(&self) -> &Bytes {
        &self.key
    }

    pub(super) fn created(&self) -> Revision {
        self.created
    }

    /// Gives the place up. If that fails, the lease ends by itself once this is dropped.
    pub(super) fn leave(&self) -> Result<(), ClerkError> {
        match self.clerk.revoke_lease(self.lease.id()) {
            Err(error) if is_of_ended_lease(&error) => Ok(()),
            left => left,
        }
    }
}

/// Whether a call was refused because the lease of the place has ended.
fn is_of_ended_lease(error: &ClerkError) -> bool {
    error.refusal().is_some_and(|it| it.reason == Reason::NoSuchLease)
}

/// Whether no member has answered, and one may later. What a place asks while it waits changes
/// nothing, so that it can be asked again.
fn may_pass(error: &LockError) -> bool {
    match error {
        LockError::Clerk(error) => error.is_retryable(),
        LockError::Watch(error) => !error.is_final(),
        LockError::Taken { .. } | LockError::Lost => false,
    }
}
