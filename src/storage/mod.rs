//! What survives a crash: the data directory, its lock, and the write-ahead log.

mod data_dir;
mod error;
mod wal;

pub use data_dir::{DataDir, Identity};
pub use error::StorageError;
pub use wal::{Recovered, TornTail, Wal, WalOptions};
