//! What a cluster replicates.

use std::io;

use bytes::Bytes;

use crate::raft::{AppliedTime, Index};

/// A deterministic machine that every member runs over the same log.
///
/// Every member applies each committed command once, in the order of the log. So everything that
/// `apply` does must follow from the state and the command alone: no clock, no randomness, no order
/// of a hash map, nothing local. Two members that differ after the same command have lost the one
/// thing that replication is for.
///
/// The log cannot be kept for ever. Now and then the state is written out as a snapshot, and the
/// entries that led to it are forgotten. A member that starts, or that has fallen behind, loads a
/// snapshot and applies the entries that follow:
///
/// ```text
/// apply ── apply ── view() ── apply ── apply ──      one thread at a time: never waits
///                     └─ StateView::write ──> disk   another thread, for as long as it takes
///                                              └──> load() ── apply ── apply ──
///                                                   this member later, or another one
/// ```
///
/// # Feature levels
/// What decides an outcome, such as a rule, a limit or the form of a command, may change between
/// versions of a program, while members of both versions run. If each member changed when it was
/// started anew, two members would apply one command differently. So the state has a *level*, a
/// number from 1: every member applies the rules of the applied state's level, not the newest that
/// its program knows. Every member tells the leader the highest level that its program knows. When
/// all members have announced a higher one, the leader proposes the command that raises the level,
/// and from that entry on the new rules hold on all of them.
///
/// A machine that has levels implements [`level`](Self::level), [`level_max`](Self::level_max) and
/// [`level_command`](Self::level_command). By default a machine has none.
///
/// The key-value store ([`kv::Store`](crate::kv::Store)) is one of these. A program may replicate
/// its own.
pub trait StateMachine: Send + Sync + 'static {
    /// The result of a command, for the client that proposed it.
    type Outcome: Send + 'static;
    /// A question that changes nothing.
    type Query: Send + 'static;
    /// The answer to a question.
    type Answer: Send + 'static;
    /// The state at one moment, to be written out.
    type View: StateView;

    /// Applies the command of the log's entry `index`. Indexes grow from call to call, not always
    /// by one: entries without a command are left out.
    ///
    /// A command that makes no sense needs an outcome, too: it is in the log, and every member will
    /// apply it.
    fn apply(&mut self, index: Index, command: &Bytes) -> Self::Outcome;

    /// Answers from the current state. The caller sees to it that the state is recent enough. This
    /// should take microseconds: it may run on a thread that carries heartbeats and, under a lease,
    /// on any thread that calls [`NodeHandle::read`](super::NodeHandle::read), on several at the
    /// same time. (After a slow turn, only the state machine's own thread runs it, until a turn is
    /// quick again.)
    fn query(&self, query: Self::Query) -> Self::Answer;

    /// The current state, which later commands do not change.
    ///
    /// Commands and reads wait for this call. So it should take microseconds for a state of any
    /// size: share a large state and copy the parts that change, rather than copy everything here.
    /// The view is written and dropped on another thread.
    fn view(&self) -> Self::View;

    /// Replaces the whole state by the one that a view wrote. `body` yields those bytes and then
    /// ends. Everything that later commands depend on must come with it: the same commands must
    /// have the same outcomes as on the original.
    ///
    /// Called before the first command, or between commands when this member has fallen behind. The
    /// bytes are known to be undamaged. A member of another version may have written them.
    ///
    /// # Errors
    /// That of `body`, or one of kind [`InvalidData`](io::ErrorKind::InvalidData) if this version
    /// does not know such a state. If the state is of a [level](Self::level) that this program does
    /// not know, `level` must say so after this call, whatever this call returns, so that the node
    /// can say what is wrong. The state machine may then be in any state, and is not used again. So
    /// the old state may be dropped before the new one is read, and they need not both fit into
    /// memory.
    fn load(&mut self, body: &mut dyn io::Read) -> io::Result<()>;

    /// A digest of everything applied so far. Members that have applied the same entries have the
    /// same digest, so a member with another one has diverged. [`view`](Self::view) and
    /// [`load`](Self::load) carry it over. It is asked for often: keep it up to date with each
    /// command.
    ///
    /// Default `None`: members are not compared.
    fn digest(&self) -> Option<u64> {
        None
    }

    /// The feature level of the state: 1 in a new one. It is replicated state. Only a
    /// [`level_command`](Self::level_command) and [`load`](Self::load) change it.
    ///
    /// If it is above [`level_max`](Self::level_max) after [`apply`](Self::apply) or `load`, the
    /// node stops ([`NodeFailure::UnknownLevel`](super::NodeFailure::UnknownLevel)) before it
    /// answers or publishes anything of the new state, and does not use the machine again.
    ///
    /// Default `None`: the machine has no levels.
    fn level(&self) -> Option<u32> {
        None
    }

    /// The highest level that this program knows, and every member tells the leader. The program
    /// must know all levels up to it. Asked for once, when the node starts. Default 0.
    fn level_max(&self) -> u32 {
        0
    }

    /// The lowest level whose programs know [configurations](crate::raft::Configuration). A cluster
    /// that an older program began gets its first one at this level.
    ///
    /// Default 0: all do.
    fn configurations_level() -> u32 {
        0
    }

    /// The command that raises the level to `level`, from 2 to `level_max`. Applying it must change
    /// nothing but the level, and nothing at all if the level is that high already: a leader may
    /// propose it more than once, and another leader's may come first. Applying it must also set a
    /// level that this program does not know, so that `level` says so.
    ///
    /// Called only if the machine has levels. Default: an empty command.
    fn level_command(&self, level: u32) -> Bytes {
        let _ = level;
        Bytes::new()
    }

    /// Whether the leader adds its time to this command: 8 bytes behind its last byte, the
    /// milliseconds of the cluster's time, little-endian. The command that is applied has them. The
    /// times in one log never fall. See [`raft::AppliedTime`](crate::raft::AppliedTime).
    ///
    /// Default false.
    fn is_stamped(command: &[u8]) -> bool {
        let _ = command;
        false
    }

    /// Whether this command, which [has a stamp](Self::is_stamped), puts deadlines off. While
    /// something is due soon, the leader proposes such commands before others with a stamp, which
    /// would end what they keep alive.
    ///
    /// Default false.
    fn keeps_alive(command: &[u8]) -> bool {
        let _ = command;
        false
    }

    /// The newest time that was applied, and when something is next due. It is replicated state.
    ///
    /// Default: nothing has a time, and nothing is due.
    fn time(&self) -> AppliedTime {
        AppliedTime::default()
    }

    /// A command that tells the time and does nothing else ([`is_stamped`](Self::is_stamped)). The
    /// leader proposes it when something is due, and now and then while something has a deadline.
    ///
    /// Called only if something has a deadline. Default: an empty command.
    fn time_command() -> Bytes {
        Bytes::new()
    }
}

/// Is told what happens to a state machine on one member, for those who follow it: see
/// [`NodeHandle::observe`](super::NodeHandle::observe). What an entry changed is for the machine to
/// say: it remembers as much of its last changes as its observers need.
///
/// Both methods run on the thread that applies entries, between one entry and the next, and before
/// anybody is told the entry's outcome. Every command waits for them, so they should take less than
/// a microsecond, and must not call the node.
pub trait Observer<S>: Send + Sync + 'static {
    /// The machine has applied an entry with a command.
    fn applied(&self, machine: &S);

    /// The machine has another state than before, which it has not come to by applying entries: it
    /// has loaded a snapshot. Also called once when the observer is added.
    fn replaced(&self, machine: &S);
}

/// The state at one moment. See [`StateMachine::view`].
pub trait StateView: Send + 'static {
    /// Writes the state in a form that [`StateMachine::load`] reads, piece by piece: a large state
    /// should not be built in memory once more. Equal states write equal bytes, on any member.
    /// Begin with a version, since a newer program will read the bytes.
    ///
    /// # Errors
    /// Those of `out`, and no others.
    fn write(&self, out: &mut dyn io::Write) -> io::Result<()>;
}
