//! Watches: who wants to know is told what changes, from this member's own state.
//!
//! ```text
//! applier ── each entry ──> Interests: marks the keys that are watched ──┐ Signal
//! fronts ── create, cancel, progress ──────────> Inbox ──────────────────┤
//!                                                                        v
//!                    sinks <── what fits ── Watches (thread watch-N): a Cursor for each
//!                                              │ read: Timeline of the state's history
//! ```
//!
//! A watch is a cursor over the history: the next revision, and a place in it. It has no buffer.
//! What it has to tell is read from the history when its sink has room, so a client that does not
//! read costs a member a cursor. All watches of the same keys that are equally far read the same
//! piece, once, and those of one sink are told it together.
//!
//! # What a watch promises
//! - *Ordered*: revisions come in their order, and within one the changes come in that of their
//!   keys. *Unique*: each change is told once. *Atomic*: a revision counts as told when all of it
//!   was.
//! - *Complete*: of everything up to the revision that a watch says it is complete to, nothing is
//!   missing. A watch that cannot go on because the history has forgotten what it would tell next
//!   ends, and says at which revision a new one can begin.
//! - *Resumable*: a watch from the revision behind that, at any member, goes on.
//! - A watch that is made knows all that was committed when it was asked for.
//!
//! # Why nothing is missed
//! A watch that is *not behind* was told everything up to the newest revision. The applier marks
//! its keys before anybody learns of a later change, and the thread takes the marks before it looks
//! at the state. So what is marked afterwards is told by a later turn, and what was marked before
//! is in the state that it looks at. A new watch is among the interests before the read begins
//! after which it is made, so the first change behind that read marks it, too.
//!
//! A watch that is not behind needs no history. Only changes of its own keys bring it back there,
//! and it looks for them from the first one on. So it does not fall out of the history because
//! other keys change.
//!
//! If a snapshot replaces the state, what was changed in between is not known. All watches are
//! behind then, and find in the new state's history what they have missed, or that it is forgotten.
//!
//! # Far behind
//! What a key held after a change is in its next record in the history, which may be far away. So
//! reading needs an index of all changes from the cursor on ([`Timeline`](super::state::Timeline)).
//! Near the newest revision the thread makes it by itself for each turn. For watches that are
//! further behind another thread makes one, which serves all of them, piece by piece, for at most a
//! few milliseconds a turn.
//!
//! # Bounds
//! [`WATCHES_MAX`] watches, and [`GROUP_MAX`] for each sink. These are limits of one member.
//!
//! # Threads
//! `watch-N`, from the first watch on, until the member stops.

mod batch;
mod cursor;
mod far;
mod group;
mod hub;
mod interests;
mod ranges;
mod signal;
mod sink;
mod slots;
mod spots;
#[cfg(test)]
mod tests;
mod turn;
mod view;
#[allow(clippy::module_inception, reason = "one of all watches")]
mod watch;
mod watches;

pub(super) use hub::Hub;
pub use hub::WatchGroup;
pub use sink::{NoRoom, WatchEnd, WatchNews, WatchSink, WatchesEnd};

/// How many watches a member serves.
const WATCHES_MAX: usize = 100_000;

/// What the keys of a member's watches may take, in bytes.
const KEYS_BYTES_MAX: usize = 256 << 20;

/// How many watches one sink has.
const GROUP_MAX: usize = 20_000;
