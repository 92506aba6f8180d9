//! [`Mailbox`]: how what comes from the network reaches the core and the snapshot thread.

use super::proto::{InstallSnapshotArgs, InstallSnapshotReply};
use super::wire::Head;
use crate::raft::{MemberId, Message};
use crate::rpc::Done;

/// Takes what peers send. Nothing blocks except [`run_pending`](Mailbox::run_pending), which does
/// as much as its caller allows.
pub(super) trait Mailbox: Send + Sync {
    /// A message for the core. False if there is no room for it.
    fn message(&self, message: Message) -> bool;
    /// The connection to `peer` has closed, or a call to it failed.
    fn disconnected(&self, peer: MemberId);
    /// A piece of a snapshot that a leader sends. Without room for it, the call is refused.
    fn chunk(&self, chunk: Chunk);
    /// Does what waits at the stages, as far as this thread may.
    fn run_pending(&self, may_do: MayDo);
}

/// A piece of a leader's snapshot, and the call that brought it.
pub(super) struct Chunk {
    pub(super) head: Head,
    pub(super) args: InstallSnapshotArgs,
    pub(super) done: Done<InstallSnapshotReply>,
}

/// What a thread that brings work may do itself. Each value allows what the ones before it allow.
/// The stages' own threads do the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum MayDo {
    /// Nothing: for a thread of low priority.
    Nothing,
    /// Step the core: for the clock, and for news of this member's own.
    Step,
    /// Serve reads: for heartbeats, votes and their answers, whose thread must be back soon.
    ServeReads,
    /// Apply entries: for clients' requests, and for peers' answers about entries.
    Apply,
    /// Write the log and wait for the disk: for a leader's entries.
    Write,
}
