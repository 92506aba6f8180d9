//! What a cluster replicates.

use std::io;

use bytes::Bytes;

use crate::raft::Index;

/// A deterministic machine that every member runs over the same log.
///
/// Each committed command is applied once, in the log's order, by every member; so all that `apply` does must follow
/// from the state and the command alone. No clock, no randomness, no order of a hash map, nothing local: two members
/// that differ after the same command have lost the one thing that replication is for.
///
/// So that the log need not be kept for ever, the state is written out now and then, and the entries that led to it are
/// forgotten. A member that starts, or that has fallen behind, loads what was written and applies what follows:
///
/// ```text
/// apply ── apply ── view() ── apply ── apply ──      one thread at a time: never waits
///                     └─ StateView::write ──> disk   another thread, for as long as it takes
///                                              └──> load() ── apply ── apply ──   this member later, or another one
/// ```
///
/// The key-value store ([`kv::Store`](crate::kv::Store)) is one of these; a program may replicate its own.
pub trait StateMachine: Send + 'static {
    /// What a command came to; goes to whoever proposed it.
    type Outcome: Send + 'static;
    /// A question that changes nothing.
    type Query: Send + 'static;
    /// What a question is answered with.
    type Answer: Send + 'static;
    /// The state of one moment, to be written out.
    type View: StateView;

    /// Applies the command of the log's entry `index`. Indexes grow from call to call, not always by one: entries
    /// that carry no command are left out.
    ///
    /// A command that makes no sense must have an outcome as well: it is in the log and every member will meet it.
    fn apply(&mut self, index: Index, command: &Bytes) -> Self::Outcome;

    /// Answers from the state as it is now. When that is recent enough is the caller's concern. It should take microseconds:
    /// it may run on a thread that has heartbeats to carry. (A turn that takes long is noticed, and the next ones are left to the
    /// state machine's own thread until one is quick again.)
    fn query(&self, query: Self::Query) -> Self::Answer;

    /// The state as it is now, which later commands don't change.
    ///
    /// Applies and reads wait for this call, so a large state should be shared and copied where it changes, not copied
    /// here: microseconds, however much there is. The view is written and dropped on another thread.
    fn view(&self) -> Self::View;

    /// Replaces the whole state by the one that a view wrote: `body` yields those bytes and then ends. All that later
    /// commands depend on must come with it. Applying the same commands to it has the same outcomes as to the original.
    ///
    /// Called before the first command, or in between when this member has fallen behind. The bytes are known to be
    /// undamaged; a member of another version may have written them.
    ///
    /// # Errors
    /// That of `body`, or one of kind [`InvalidData`](io::ErrorKind::InvalidData) if this is no state that this version
    /// knows. The state machine may then be in any state, and is not used again: so the old state may be dropped before
    /// the new one is read, and both need never fit into memory.
    fn load(&mut self, body: &mut dyn io::Read) -> io::Result<()>;

    /// A digest of everything applied so far: members that have applied the same entries have the same, so one that
    /// differs has gone astray. Carried over by [`view`](Self::view) and [`load`](Self::load). Asked for often: keep it
    /// up to date with each command.
    ///
    /// `None`, unless you say otherwise: members are not compared.
    fn digest(&self) -> Option<u64> {
        None
    }
}

/// The state of one moment. See [`StateMachine::view`].
pub trait StateView: Send + 'static {
    /// Writes the state in a form that [`StateMachine::load`] reads. A piece at a time: a large state should not be built
    /// in memory once more. Equal states write equal bytes, on any member; and begin with a version, since a newer
    /// program will read them.
    ///
    /// # Errors
    /// Those of `out`, and no others.
    fn write(&self, out: &mut dyn io::Write) -> io::Result<()>;
}
