//! The types that every part of Raft shares: ids, terms, indexes, and what is in the log.
//!
//! Ids, terms and indexes are types of their own, so that a swapped pair does not compile.

use std::sync::Arc;

use bytes::Bytes;
pub use syncraft_types::{Index, MemberId, Term};

use super::configuration::Configuration;

/// What must survive a crash besides the log (Raft figure 2, "persistent state"): durable before
/// any message that depends on it leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term this member has seen.
    pub current_term: Term,
    /// The candidate for which it voted in that term.
    pub voted_for: Option<MemberId>,
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log, from 1.
    pub index: Index,
    /// The term of the leader that created it.
    pub term: Term,
    /// What it carries.
    pub payload: Payload,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing. This is a new leader's first entry, with which it commits what came before (Raft
    /// §5.4.2, §8).
    Noop,
    /// A command for the state machine. The core never looks inside.
    Command(Bytes),
    /// Who the members are, from the moment this entry is appended (thesis §4.1).
    Configuration(Arc<Configuration>),
}

impl Entry {
    /// The length of the payload in bytes, which limits count.
    pub fn len_bytes(&self) -> usize {
        match &self.payload {
            Payload::Noop => 0,
            Payload::Command(command) => command.len(),
            Payload::Configuration(configuration) => configuration.encode().len(),
        }
    }
}

/// The last entry in a snapshot, which contains everything up to it (Raft §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Index of the last entry in the snapshot.
    pub last_included_index: Index,
    /// Its term.
    pub last_included_term: Term,
}

/// What a snapshot says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its last entry.
    pub meta: SnapshotMeta,
    /// The configuration in force at that entry; `None` if there was none yet.
    pub configuration: Option<Arc<Configuration>>,
}
