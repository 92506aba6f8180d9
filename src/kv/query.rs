//! [`Query`] and [`Answer`]: what can be read from the store.

use bytes::Bytes;

use super::StoreView;
use super::limits::Limits;
use super::model::{LeaseId, LeaseInfo, Refusal, Revision, Txn, TxnAnswer};

/// What can be read from the store. What only few readers need is boxed, so that the others move
/// little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// The value of a key.
    Get {
        /// Any bytes.
        key: Bytes,
    },
    /// A transaction that changes nothing.
    Read(Box<Txn>),
    /// The whole state.
    View,
    /// How much the store holds.
    Stats,
    /// One lease.
    Lease {
        /// Which one.
        id: LeaseId,
        /// Whether its keys are wanted.
        keys: bool,
    },
    /// Leases in the order of their ids, without their keys.
    Leases {
        /// Those with higher ids.
        after: LeaseId,
        /// How many at most.
        limit: usize,
    },
}

/// The answer to a [`Query`].
#[derive(Debug)]
pub enum Answer {
    /// The answer to [`Query::Get`]: the value, or `None` if the key is absent.
    Value(Option<Bytes>),
    /// The answer to [`Query::Read`].
    Read(Box<ReadAnswer>),
    /// The answer to [`Query::View`]. Also to a [`Query::Read`] that takes too long for a thread
    /// that others wait for: whoever asked makes the read on this view, or on a later one
    /// ([`StoreView::read`]).
    View(Box<StoreView>),
    /// The answer to [`Query::Stats`].
    Stats(Box<Stats>),
    /// The answer to [`Query::Lease`], unless it is a [`View`](Answer::View) because the lease has
    /// many keys: then [`StoreView::lease`] has it.
    Lease(Box<LeaseAnswer>),
    /// The answer to [`Query::Leases`].
    Leases(Box<LeasesAnswer>),
}

/// What the store tells of one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// The revision of the store that was read.
    pub revision: Revision,
    /// The lease, or why it cannot be told.
    pub result: Result<LeaseInfo, Refusal>,
}

/// What the store tells of its leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasesAnswer {
    /// The revision of the store that was read.
    pub revision: Revision,
    /// In the order of their ids, without their keys.
    pub leases: Vec<LeaseInfo>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// The answer to a transaction that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    /// The revision of the store that was read.
    pub revision: Revision,
    /// What was read, or why nothing could be.
    pub result: Result<TxnAnswer, Refusal>,
}

/// How much a store holds, and may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys.
    pub keys: usize,
    /// The length of all keys and values together.
    pub bytes: u64,
    /// Clients whose sessions are remembered.
    pub sessions: usize,
    /// Keys of requests that are remembered.
    pub requests: usize,
    /// How many changes there have been.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// What the history costs: see [`Limits::history_bytes_max`].
    pub history_bytes: u64,
    /// Leases with an id.
    pub leases: usize,
    /// Keys that have a lease of their own.
    pub keys_with_ttl: usize,
    /// The cluster's time: the highest stamp that was applied, in milliseconds. It stands still
    /// while there is no lease.
    pub time_ms: u64,
    /// What the store may hold.
    pub limits: Limits,
}
