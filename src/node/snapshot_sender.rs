//! Sends a snapshot to a peer. While the peer writes a chunk, the next one is on its way. No more
//! than these two are sent and not acknowledged, so that a slow peer is not overrun. The whole
//! transfer has no time limit: only the time without progress has one.
//!
//! Chunks are calls and not the items of a stream, because the peer answers each with the offset
//! where it wants to go on. A peer that has a part from before a lost connection is sent the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use parking_lot::Mutex;

use super::configured::SnapshotProgress;
use super::mailbox::{Mailbox, MayDo};
use super::proto::{InstallSnapshotArgs, InstallSnapshotReply, RaftRpcStub};
use super::shared::Shared;
use crate::ErrorChain;
use crate::raft::{AppendEntriesReply, Body, MemberId, Message, Reply, Term};
use crate::rpc::{CallError, Pending};
use crate::storage::{Snapshot, StorageError};

const CHUNK_LEN_BYTES: usize = 1 << 20;
/// How long the answer to a chunk may take, from when it was sent; the chunk before it may still be
/// unanswered then. The answer to the last chunk comes when the peer has read back and loaded
/// everything.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct SnapshotSender {
    pub(super) peer: MemberId,
    pub(super) term: Term,
    pub(super) snapshot: Snapshot,
    pub(super) stub: RaftRpcStub,
    pub(super) mailbox: Arc<dyn Mailbox>,
    pub(super) shared: Arc<Shared>,
    /// Closes when the node stops.
    pub(super) stop: Receiver<()>,
    pub(super) transfer: Arc<Transfer>,
}

/// Allows one transfer to a peer at a time. A request that comes during a transfer is remembered:
/// the core that made it waits for the end of a transfer, and the transfer under way may be of an
/// earlier term, whose end says nothing to the core.
#[derive(Debug, Default)]
pub(super) struct Transfer(Mutex<TransferState>);

#[derive(Debug, Default)]
struct TransferState {
    is_under_way: bool,
    is_wanted_again: bool,
}

impl Transfer {
    /// False if a transfer is under way.
    pub(super) fn try_begin(&self) -> bool {
        let mut state = self.0.lock();
        state.is_wanted_again |= state.is_under_way;
        !std::mem::replace(&mut state.is_under_way, true)
    }

    /// The transfer has ended. True if another one was requested meanwhile.
    pub(super) fn end(&self) -> bool {
        std::mem::take(&mut *self.0.lock()).is_wanted_again
    }
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the peer keeps asking for offset {0}")]
    NoProgress(u64),
    #[error("this member is stopping")]
    Stopped,
    #[error("this member's state differs from that of a majority")]
    Diverged,
}

impl SnapshotSender {
    /// Sends until everything is acknowledged or something fails. The core is told of either.
    pub(super) fn run(self) {
        let result = self.send();
        self.shared.members.set_snapshot(self.peer, None);
        let is_wanted_again = self.transfer.end();
        match result {
            Ok(reply) => {
                self.deliver(reply);
                if is_wanted_again {
                    self.mailbox.disconnected(self.peer);
                }
            }
            Err(error) => {
                let words = ErrorChain(&error);
                log::warn!("cannot send a snapshot to member {}: {words}", self.peer);
                self.mailbox.disconnected(self.peer);
            }
        }
        self.mailbox.run_pending(MayDo::ServeReads);
    }

    fn send(&self) -> Result<InstallSnapshotReply, SendError> {
        let (mut offset, mut repeats) = (0, 0);
        let (mut pending, mut ahead) = (self.send_chunk(offset)?, None);
        loop {
            let progress =
                SnapshotProgress { sent_bytes: offset, len_bytes: self.snapshot.len_bytes() };
            self.shared.members.set_snapshot(self.peer, Some(progress));
            let reply = pending.wait()?;
            let is_over = reply.term > self.term.0;
            if reply.is_done || is_over {
                return Ok(reply);
            }
            // A peer may have a part of it from before, or have lost a part: it says where to go
            // on.
            repeats = if reply.next_offset > offset { 0 } else { repeats + 1 };
            if repeats > 3 {
                return Err(SendError::NoProgress(offset));
            }
            offset = reply.next_offset;
            let is_next = |(at, _): &(u64, Pending<_>)| *at == offset;
            pending = match ahead.take().filter(is_next) {
                Some((_, pending)) => pending,
                None => self.send_chunk(offset)?,
            };
            // Only now: it is known where the peer goes on, and that it does not have everything.
            let next = offset + CHUNK_LEN_BYTES as u64;
            if next < self.snapshot.len_bytes() {
                ahead = Some((next, self.send_chunk(next)?));
            }
        }
    }

    fn send_chunk(&self, offset: u64) -> Result<Pending<InstallSnapshotReply>, SendError> {
        if self.stop.try_recv() != Err(TryRecvError::Empty) {
            return Err(SendError::Stopped);
        }
        if self.shared.watch.is_diverged() {
            return Err(SendError::Diverged);
        }
        let (meta, len_bytes) = (self.snapshot.meta(), self.snapshot.len_bytes());
        let args = InstallSnapshotArgs {
            term: self.term.0,
            last_included_index: meta.last_included_index.0,
            last_included_term: meta.last_included_term.0,
            offset,
            file_len: len_bytes,
            data: self.snapshot.read_chunk(offset, CHUNK_LEN_BYTES)?,
            envelope: Some(self.shared.identity.envelope(self.peer)),
        };
        Ok(self.stub.install_snapshot_async(&args, Instant::now() + PROGRESS_TIMEOUT))
    }

    fn deliver(&self, reply: InstallSnapshotReply) {
        let body = match reply.is_done {
            true => AppendEntriesReply::Matched { match_index: reply.match_index.into() },
            false => AppendEntriesReply::Stale,
        };
        let (from, to) = (self.peer, self.shared.identity.own());
        let term = Term(reply.term);
        let body = Body::Reply(Reply::AppendEntries(body));
        if !self.mailbox.message(Message { from, to, term, token: 0, body }) {
            self.mailbox.disconnected(self.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::config::Detour;
    use super::super::configured::SharedMembers;
    use super::super::divergence::{Checkpoint, Query};
    use super::super::identity::{self, Affiliation};
    use super::super::levels::Levels;
    use super::super::mailbox::Chunk;
    use super::super::watch::Watch;
    use super::*;
    use crate::error_words::{check_all, every_variant};
    use crate::raft::{Config, HardState, Index, Raft, SnapshotMeta, Standing};
    use crate::rpc::Channel;
    use crate::storage::{DataDir, Identity, Snapshots};
    use crate::testing::Port;

    #[test]
    fn every_error_says_its_own_part_only() {
        let dir = "/d".into();
        check_all(&every_variant!(SendError:
            Storage(StorageError::Locked { dir, pid: None }),
            Call(CallError::Busy { addr: "b:2".to_owned(), calls: 3 }),
            NoProgress(7),
            Stopped {},
            Diverged {},
        ));
    }

    struct Nobody;

    impl Mailbox for Nobody {
        fn message(&self, _: Message) -> bool {
            false
        }

        fn disconnected(&self, _: MemberId) {}

        fn chunk(&self, _: Chunk) {}

        fn run_pending(&self, _: MayDo) {}
    }

    /// The rest of a snapshot that is on its way is not sent either.
    #[test]
    fn a_snapshot_is_not_sent_when_the_state_has_diverged() {
        let (own, peer) = (MemberId(1), MemberId(2));
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(
            dir.path(),
            Identity { cluster_id: 7, list_id: 7, member_id: own },
            Standing::New,
        );
        let (snapshots, _) = Snapshots::open(&data_dir.unwrap()).unwrap();
        let meta = SnapshotMeta { last_included_index: Index(5), last_included_term: Term(1) };
        let mut writer = snapshots.create(meta, None).unwrap();
        writer.write_all(b"state").unwrap();
        let snapshot = writer.finish().unwrap();
        let config = Config::new(own, [own, peer]);
        let members = config.members.clone();
        let raft = Raft::new(config, HardState::default(), None, Vec::new());
        let listed = "1=a:1,2=b:2".parse().unwrap();
        let identity = identity::Identity::new(own, Affiliation { cluster_id: 7, list_id: 7 });
        let shared = Arc::new(Shared::new(
            identity,
            SharedMembers::new(listed, Detour::default()),
            raft.status(),
            Watch::new(own, members.clone()),
            Levels::new(own, members, 0),
        ));
        let (_open, stop) = crossbeam_channel::bounded(0);
        let nobody = Port::free().unwrap();
        let sender = SnapshotSender {
            peer,
            term: Term(1),
            snapshot,
            stub: RaftRpcStub::new(Channel::builder(nobody.addr().to_string()).lazy()),
            mailbox: Arc::new(Nobody),
            shared: shared.clone(),
            stop,
            transfer: Arc::default(),
        };
        assert!(matches!(sender.send(), Err(SendError::Call(_))), "it tries");
        shared.watch.restored(Index(5), Some(1));
        let agreed = Some(Checkpoint { index: Index(5), digest: 2 });
        shared.watch.heard(Query { asked: Index::ZERO, agreed });
        assert!(matches!(sender.send(), Err(SendError::Diverged)), "it does not");
        // The leader's state has replaced its own.
        shared.watch.restored(Index(6), Some(2));
        assert!(matches!(sender.send(), Err(SendError::Call(_))), "it tries again");
    }

    #[test]
    fn a_request_during_a_transfer_is_remembered_until_it_ends() {
        let transfer = Transfer::default();
        assert!(transfer.try_begin());
        assert!(!transfer.end(), "nothing was requested meanwhile");
        assert!(transfer.try_begin());
        assert!(!transfer.try_begin(), "one at a time");
        assert!(transfer.end(), "the core still waits");
        assert!(transfer.try_begin(), "and may ask again");
    }
}
