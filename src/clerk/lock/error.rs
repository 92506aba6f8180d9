//! [`LockError`].

use std::time::Duration;

use crate::clerk::{ClerkError, WatchError};

/// Why a lock was not taken. Nothing is left in its queue, or will be left when its time to live is
/// over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another guard held it for as long as there was time to wait.
    #[error("the lock is taken, and did not become free within {} ms", .waited.as_millis())]
    Taken {
        /// How long this one waited.
        waited: Duration,
    },
    /// The lease ended while this one waited: no member could be reached for nearly as long as its
    /// time to live, or somebody revoked it. The place in the queue is gone.
    #[error("the place in the queue of the lock is lost: its lease has ended")]
    Lost,
    /// A call failed.
    #[error(transparent)]
    Clerk(#[from] ClerkError),
    /// The watch for the guard before this one failed.
    #[error(transparent)]
    Watch(#[from] WatchError),
}
