//! The model of the store, as clients and members share it: entries with revisions, ranges of keys,
//! transactions and their answers.
//!
//! # Entries and revisions
//! An [`Entry`] is a key with its value and what the store knows of it. A [`Revision`] counts
//! changes: an empty store is at 1, and a write that changes anything takes the next number, which
//! everything it changed carries as its `mod_revision`. A write that changes nothing takes none.
//! Several changes of one key by one transaction are one change.
//!
//! # Transactions
//! A [`Txn`] has comparisons and two branches. If all comparisons hold, the operations of `then`
//! run, otherwise those of `otherwise`. Each operation sees what the earlier ones did. All of them
//! take effect, or none: if one fails, nothing has changed, and the client is told which one and
//! why ([`Refusal`]). An operation marked [`may_fail`](Operation::may_fail) instead has its
//! [`Reason`] as its answer, and the rest goes on.
//!
//! A transaction that contains no operation that changes anything is a read. It never enters the
//! log.
//!
//! # Bounds
//! Every member applies them alike, so they belong to feature level 1: a command of at most
//! [`COMMAND_LEN_MAX`](crate::kv::COMMAND_LEN_MAX) bytes, [`DEPTH_MAX`], [`OPERATIONS_MAX`],
//! [`TOUCHED_KEYS_MAX`], [`ANSWER_LEN_MAX`].

mod answer;
mod check;
#[cfg(feature = "server")]
mod encoded;
mod entry;
mod lease;
mod range;
mod reason;
mod scan;
mod txn;
mod watch;
mod wire;

pub use answer::{OperationAnswer, RangeAnswer, TxnAnswer};
pub use check::TxnError;
#[cfg(feature = "server")]
pub(in crate::kv) use encoded::check_message;
#[cfg(feature = "server")]
pub(crate) use encoded::check_request;
pub use entry::{Entry, LeaseId, Revision};
pub use lease::LeaseInfo;
pub use range::{KeyRange, Range, RangeEnd, RangeError, RevisionBounds, SortBy, Want};
pub use reason::{Reason, Refusal};
pub use scan::{ScanPage, ScanRange};
pub use txn::{Action, Compare, NewLease, NewValue, Operand, Operation, Relation, Txn};
pub use watch::{Change, Changes, WatchRange};
pub use wire::WireError;

/// How deep transactions may be nested. The outermost one has depth 1.
pub const DEPTH_MAX: usize = 16;

/// How many operations and comparisons a transaction may have, those of nested ones included.
pub const OPERATIONS_MAX: usize = 50_000;

/// How many keys the operations and comparisons of one command may look at or change. An operation
/// counts as one key in any case, a change that a read of the past goes back over counts as one,
/// and each 4 KiB of a value that is appended to or compared counts as one more.
pub const TOUCHED_KEYS_MAX: u64 = 1_000_000;

/// How long the answer of a command may be, in bytes. An entry counts as its key, its value and 64
/// bytes. An answer with a single entry may be longer, so that every value can be read.
pub const ANSWER_LEN_MAX: u64 = 8 << 20;

/// The longest time that a lease can live without being kept alive, in milliseconds: 9,000,000,000
/// seconds, as etcd's.
pub const TTL_MAX_MS: u64 = 9_000_000_000_000;

/// The messages and the service, generated from `proto/store_rpc.proto`.
#[allow(missing_docs, reason = "the .proto file has them")]
pub mod proto {
    crate::rpc::include_proto!("syncraft.store");
}
