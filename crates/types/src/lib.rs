//! The numbers that the client, the server and the consensus core share: who, when, and where in
//! the log.
//!
//! Each is a type of its own, so that a swapped pair does not compile. They have their own crate
//! because a program with a Clerk needs [`MemberId`] but not the core. `syncraft-raft` exports them
//! too.

use std::fmt;

/// A member of the cluster: a number from 1 up, chosen by the operator and never reused for other
/// data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

/// A period with at most one leader (Raft §5.1). Term 0 is before the first election.
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
    /// Before the first entry: the last index of an empty log.
    pub const ZERO: Index = Index(0);

    /// The index after this one.
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; for `ZERO`, `ZERO`.
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
