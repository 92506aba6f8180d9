//! [`Query`] and [`Answer`]: what can be read from the store.

use bytes::Bytes;

/// What can be read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// The value of a key.
    Get {
        /// Any bytes.
        key: Bytes,
    },
    /// How much the store holds.
    Stats,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer to [`Query::Get`]: the value, or `None` if the key is absent.
    Value(Option<Bytes>),
    /// The answer to [`Query::Stats`].
    Stats(Stats),
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys.
    pub keys: usize,
    /// The length of all keys and values together.
    pub bytes: u64,
    /// Clients whose sessions are remembered.
    pub sessions: usize,
}
