//! The key-value store: commands, the state machine that applies them, and the sessions that make
//! retries harmless.
//!
//! ```text
//! request ─> Api ─> Command ─ encode ─> Raft's log ─ decode ─> Store::apply ─> Outcome ──> reply
//!             │  (Lanes, for clients without an identity)       ├─ Sessions, Requests: a repeat?
//!             │                                                 └─ State: entries, their history
//!             └───> Query ─── (once the read is safe) ───────> Store::query ─> Answer ───> reply
//! Store::apply ─> Interests ─> Watches (thread watch-N) ─> what has changed, to who watches it
//! Store::view ──────> StoreView::write ─> the bytes of a snapshot ─> Store::load
//!                       └─ in a backup ─> Store::load, begin_anew ─> a new cluster
//! ```
//!
//! `model` has what clients and members share: entries, ranges, transactions and their answers.
//!
//! Keys and values are bytes. Keys are ordered by their bytes. An absent key is not the same as an
//! empty value.
//!
//! # Invariants
//!
//! - What a command does follows from the log alone. Nothing here reads a clock, and no result
//!   depends on the order of a hash map.
//! - A write that carries a session is applied at most once, however often it is in the log. The
//!   page of `sessions` has the proof. `requests` promises less to clients without a session.
//! - The limits below and those of `model` decide outcomes, so members with different limits would
//!   diverge. They belong to feature level 1: to change one takes a new level.

#[cfg(feature = "server")]
mod anew;
#[cfg(feature = "server")]
pub mod api;
mod command;
#[cfg(feature = "server")]
mod digest;
#[cfg(feature = "server")]
pub mod json;
#[cfg(feature = "server")]
mod lanes;
mod limits;
pub mod model;
#[cfg(feature = "server")]
mod outcome;
#[cfg(feature = "server")]
mod query;
#[cfg(feature = "server")]
mod requests;
#[cfg(feature = "server")]
mod sessions;
#[cfg(feature = "server")]
mod snapshot;
#[cfg(feature = "server")]
mod state;
#[cfg(feature = "server")]
mod store;
#[cfg(feature = "server")]
mod watch;
pub(crate) mod words;

#[cfg(feature = "server")]
pub use anew::{RAISED_BY, TooHigh};
#[cfg(feature = "server")]
pub use command::Fingerprint;
pub use command::{
    Change, Command, CommandError, Identity, KEEP_ALIVE_IDS_MAX, LEASES_PER_REQUEST_MAX, Stamped,
};
#[cfg(feature = "client")]
pub(crate) use command::{check_grant, check_key_and_value};
#[cfg(feature = "server")]
pub use lanes::{LANES_MAX, LaneError, LaneService, Lanes};
pub use limits::{Limits, LimitsChange};
#[cfg(feature = "server")]
pub use outcome::{Branches, Done, Outcome};
#[cfg(feature = "server")]
pub use query::{Answer, LeaseAnswer, LeasesAnswer, Query, ReadAnswer, Stats};
#[cfg(feature = "server")]
pub use requests::REQUESTS_MAX;
#[cfg(feature = "server")]
pub use sessions::{ANSWER_KEPT_MAX, ANSWERS_KEPT_MAX, Admission, SessionLimits, Sessions};
#[cfg(feature = "server")]
pub use snapshot::{StoreView, ViewScan};
#[cfg(feature = "server")]
pub use store::Store;

/// The longest key, in bytes: 64 KiB.
pub const KEY_LEN_MAX: usize = 64 << 10;

/// The longest value, in bytes: 15 MiB. An append that would exceed it is refused and changes
/// nothing.
pub const VALUE_LEN_MAX: usize = 15 << 20;

/// The longest command, in bytes. With its message around it, it fits into a message between
/// members.
pub const COMMAND_LEN_MAX: usize = (15 << 20) + (128 << 10);

/// The feature level from which on all members know configurations.
pub const LEVEL_CONFIGURATIONS: u32 = 2;

/// The highest feature level that this version knows: see ARCHITECTURE.md.
pub const LEVEL_MAX: u32 = 2;

/// The longest client id, in bytes.
pub const CLIENT_ID_LEN_MAX: usize = 64;

/// The longest key of a request, in bytes: see [`Change::TxnOnce`].
pub const REQUEST_KEY_LEN_MAX: usize = 255;

/// How many clients' sessions are remembered, at about 200 bytes each (measured). For one more, the
/// session that was used longest ago is forgotten.
pub const SESSIONS_MAX: usize = 100_000;

/// The messages and the service between members, generated from `proto/lane_rpc.proto`.
#[cfg(feature = "server")]
#[allow(missing_docs, unreachable_pub, reason = "generated")]
pub(crate) mod lane_proto {
    crate::rpc::include_proto!("syncraft.lane");
}

/// The messages and the service, generated from `proto/kv_server_rpc.proto`.
pub mod proto {
    crate::rpc::include_proto!("syncraft.kv");
}
