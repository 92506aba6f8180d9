//! What a cluster replicates.

use bytes::Bytes;

use crate::raft::Index;

/// A deterministic machine that every member runs over the same log.
///
/// Each committed command is applied once, in the log's order, by every member; so all that `apply` does must follow
/// from the state and the command alone. No clock, no randomness, no order of a hash map, nothing local: two members
/// that differ after the same command have lost the one thing that replication is for.
///
/// The key-value store ([`kv::Store`](crate::kv::Store)) is one of these; a program may replicate its own.
pub trait StateMachine: Send + 'static {
    /// What a command came to; goes to whoever proposed it.
    type Outcome: Send + 'static;
    /// A question that changes nothing.
    type Query: Send + 'static;
    /// What a question is answered with.
    type Answer: Send + 'static;

    /// Applies the command of the log's entry `index`. Indexes grow from call to call, not always by one: entries
    /// that carry no command are left out.
    ///
    /// A command that makes no sense must have an outcome as well: it is in the log and every member will meet it.
    fn apply(&mut self, index: Index, command: &Bytes) -> Self::Outcome;

    /// Answers from the state as it is now. When that is recent enough is the caller's concern.
    fn query(&self, query: Self::Query) -> Self::Answer;
}
