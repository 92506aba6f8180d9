//! What survives a crash: the data directory, its lock, snapshots, and the write-ahead log.
//!
//! ```text
//! DataDir::open ──> LOCK, meta: only we, and only this member
//!     ├── Snapshots::open ──> the newest snapshot ─┐ base
//!     └── Wal::open <──────────────────────────────┘ ──> Recovered { hard state, entries after it },
//!                                                        then append, append, sync: durable
//! ```
//!
//! - [`DataDir`]: whose directory it is, and that one process uses it
//! - [`Snapshots`]: the state machine's state, so that the log need not begin at 1; see [`snapshot`]
//! - [`Wal`]: the log: format, recovery, failures; see [`wal`]
//! - [`disk`]: the file system as a trait; `sim`: one that loses power, for tests and the simulator
//!
//! Invariant: nothing here retries a failed sync. Invariant: what was acknowledged is returned by the next start, or that
//! start fails with [`StorageError::Corrupt`], which names file and offset; it never returns less, or something else.
//!
//! Of the rest of the crate it knows Raft's types only.

mod data_dir;
pub mod disk;
mod error;
mod open_dir;
mod progress;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod sim;
pub mod snapshot;
pub mod wal;

pub use data_dir::{DataDir, Identity};
pub use error::StorageError;
pub use snapshot::{Receiver, Snapshot, SnapshotReader, SnapshotWriter, Snapshots};
pub use wal::{Recovered, TornTail, Wal, WalOptions};
