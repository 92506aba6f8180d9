//! The data directory, tested from outside through `syncraft::storage`: the write-ahead log and the
//! snapshots.
//!
//! - [`crash`], [`damage`], [`compaction`], [`snapshot`]: power cuts, failing disks and flipped
//!   bits on a simulated disk, at every operation and at every byte.
//! - [`backup`]: files that hold a whole store, and data directories made from them.
//! - [`format`]: bytes that earlier versions wrote, from `tests/golden`.
//! - [`real`]: the file system of this machine.
//! - Shared helpers: random histories of a log, and what the log must hold afterwards ([`model`]).

mod backup;
mod compaction;
mod crash;
mod damage;
mod format;
mod model;
mod real;
mod snapshot;
