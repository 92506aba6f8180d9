//! What survives a crash: the data directory, its lock, snapshots, and the write-ahead log.
//!
//! ```text
//! DataDir::open ──> LOCK, meta: one process, one member
//!     ├── Snapshots::open ──> the newest snapshot ─┐ base
//!     └── Wal::open <──────────────────────────────┘ ──> Recovered: hard state, entries after it;
//!                                                        then append, append, sync: durable
//! ```
//!
//! - [`DataDir`]: records whose directory it is, and keeps other processes out; its file `meta`
//!   has its format in `meta.rs`
//! - [`Snapshots`]: hold the state machine's state, so that the log need not begin at 1; see
//!   [`snapshot`]
//! - [`Wal`]: the log; see [`wal`] for its format, recovery and failures
//! - [`disk`]: the file system as a trait; `sim`: a disk that loses power, for tests and the
//!   simulator
//!
//! Configurations of the members are in the log and in snapshots, each beside what it was in force
//! for. Each kind of file has its own version. One without a configuration is written as before
//! there were any, so that programs of that time can use it, and refuse the others in words.
//!
//! Invariant: nothing here retries a failed sync.
//!
//! Invariant: the next start returns everything that was acknowledged, or fails with
//! [`StorageError::Corrupt`], which names file and offset. It never returns less, or something
//! else.
//!
//! Of the rest of the crate it uses only Raft's types and [`ErrorChain`](crate::ErrorChain).

pub(crate) mod chunks;
mod create;
mod data_dir;
pub mod disk;
mod error;
mod identity;
mod meta;
mod open_dir;
mod progress;
mod replace;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod sim;
pub mod snapshot;
pub mod wal;

pub use data_dir::DataDir;
pub use error::StorageError;
pub use identity::Identity;
pub use snapshot::{Receiver, Snapshot, SnapshotReader, SnapshotWriter, Snapshots};
pub use wal::{Recovered, TornTail, Wal, WalOptions};
