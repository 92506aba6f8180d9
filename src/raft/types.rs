//! The words that every part of Raft shares: who, when, where, and what is in the log.
//!
//! Ids, terms and indexes are types of their own, so that a swapped pair does not compile.

use std::fmt;

use bytes::Bytes;

/// A member of the cluster: a number from 1 up, chosen by the operator and never reused for other data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

/// A period of time with at most one leader (Raft §5.1). 0 is before the first election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term(pub u64);

/// The place of an entry in the log. The first entry has index 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Index(pub u64);

impl From<u64> for Term {
    fn from(term: u64) -> Term {
        Term(term)
    }
}

impl From<u64> for Index {
    fn from(index: u64) -> Index {
        Index(index)
    }
}

impl From<u64> for MemberId {
    fn from(id: u64) -> MemberId {
        MemberId(id)
    }
}

impl Term {
    /// Before the first election.
    pub const ZERO: Term = Term(0);

    /// The term after this one.
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl Index {
    /// Before the first entry: the index of an empty log's end.
    pub const ZERO: Index = Index(0);

    /// The index after this one.
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; `ZERO` has none and stays.
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What must survive a crash besides the log (Raft figure 2, "persistent state"): durable before any message that
/// depends on it leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term this member has seen.
    pub current_term: Term,
    /// Whom it voted for in that term.
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
    /// Nothing: a new leader's first entry, which lets it commit what came before (Raft §5.4.2, §8).
    Noop,
    /// A command for the state machine. The core never looks inside.
    Command(Bytes),
}

impl Entry {
    /// The length of the command in bytes: what limits on bytes count.
    pub fn len_bytes(&self) -> usize {
        match &self.payload {
            Payload::Noop => 0,
            Payload::Command(command) => command.len(),
        }
    }
}

/// Where a snapshot ends: everything up to and including this entry is in it (Raft §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Index of the last entry in the snapshot.
    pub last_included_index: Index,
    /// Its term.
    pub last_included_term: Term,
}
