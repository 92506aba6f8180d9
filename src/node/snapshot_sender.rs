//! Sends a snapshot to a peer: one chunk after the other, each when the one before is acknowledged, so that a slow peer is
//! not overrun and heartbeats go between. There is no limit on the whole: only on the time without progress.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use parking_lot::Mutex;

use super::proto::{Envelope, InstallSnapshotArgs, InstallSnapshotReply, RaftRpcStub};
use super::shared::Shared;
use super::{Errand, Mailbox};
use crate::ErrorChain;
use crate::raft::{AppendEntriesReply, Body, MemberId, Message, Reply, Term};
use crate::rpc::CallError;
use crate::storage::{Snapshot, StorageError};

const CHUNK_LEN_BYTES: usize = 1 << 20;
/// A chunk's answer: the last one's waits until the peer has read back and loaded all of it.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct SnapshotSender {
    pub(super) own: MemberId,
    pub(super) peer: MemberId,
    pub(super) term: Term,
    pub(super) cluster_id: u64,
    pub(super) snapshot: Snapshot,
    pub(super) stub: RaftRpcStub,
    pub(super) mailbox: Arc<dyn Mailbox>,
    pub(super) shared: Arc<Shared>,
    /// Closes when the node stops.
    pub(super) stop: Receiver<()>,
    pub(super) turn: Arc<Turn>,
}

/// One transfer to a peer at a time. A request that comes meanwhile is not forgotten: the core that made it waits for an
/// end, and the end of the transfer under way may be of an earlier term, which says nothing to it.
#[derive(Debug, Default)]
pub(super) struct Turn(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    is_wanted: bool,
}

impl Turn {
    /// False if there is one under way.
    pub(super) fn take(&self) -> bool {
        let mut state = self.0.lock();
        state.is_wanted |= state.is_taken;
        !std::mem::replace(&mut state.is_taken, true)
    }

    /// The transfer has ended. True if another one was asked for meanwhile.
    pub(super) fn end(&self) -> bool {
        std::mem::take(&mut *self.0.lock()).is_wanted
    }
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the peer asks for offset {0} again and again")]
    NoProgress(u64),
    #[error("this member stops")]
    Stopped,
    #[error("this member's state has gone astray")]
    Diverged,
}

impl SnapshotSender {
    /// Until all is sent and answered, or something is in the way; the core is told of either.
    pub(super) fn run(self) {
        let result = self.send();
        let is_wanted_again = self.turn.end();
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
        self.mailbox.attend(Errand::Urgent);
    }

    fn send(&self) -> Result<InstallSnapshotReply, SendError> {
        let (mut offset, mut repeats) = (0, 0);
        loop {
            let reply = self.send_chunk(offset)?;
            let is_over = reply.term > self.term.0;
            if reply.is_done || is_over {
                return Ok(reply);
            }
            // A peer may have part of it from before, or have lost what it had: it says where to go on.
            repeats = if reply.next_offset > offset { 0 } else { repeats + 1 };
            if repeats > 3 {
                return Err(SendError::NoProgress(offset));
            }
            offset = reply.next_offset;
        }
    }

    fn send_chunk(&self, offset: u64) -> Result<InstallSnapshotReply, SendError> {
        if self.stop.try_recv() != Err(TryRecvError::Empty) {
            return Err(SendError::Stopped);
        }
        if self.shared.watch.is_diverged() {
            return Err(SendError::Diverged);
        }
        let meta = self.snapshot.meta();
        let args = InstallSnapshotArgs {
            term: self.term.0,
            last_included_index: meta.last_included_index.0,
            last_included_term: meta.last_included_term.0,
            offset,
            file_len: self.snapshot.len_bytes(),
            data: self.snapshot.read_chunk(offset, CHUNK_LEN_BYTES)?,
            envelope: Some(Envelope {
                cluster_id: self.cluster_id,
                from: self.own.0,
                to: self.peer.0,
            }),
        };
        Ok(self.stub.install_snapshot(&args, Instant::now() + PROGRESS_TIMEOUT)?)
    }

    fn deliver(&self, reply: InstallSnapshotReply) {
        let body = match reply.is_done {
            true => AppendEntriesReply::Matched { match_index: reply.match_index.into() },
            false => AppendEntriesReply::Stale,
        };
        let (from, to, term) = (self.peer, self.own, Term(reply.term));
        let body = Body::Reply(Reply::AppendEntries(body));
        if !self.mailbox.message(Message { from, to, term, token: 0, body }) {
            self.mailbox.disconnected(self.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::divergence::{Checkpoint, Query};
    use super::super::watch::Watch;
    use super::*;
    use crate::error_words::{check_all, every_variant};
    use crate::raft::{Config, HardState, Index, OtherCluster, Raft, SnapshotMeta};
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

        fn other_cluster(&self, _: MemberId, _: OtherCluster) {}

        fn attend(&self, _: Errand) {}
    }

    /// Nor is the rest of one that is on its way.
    #[test]
    fn a_snapshot_is_not_sent_when_the_state_has_gone_astray() {
        let (own, peer) = (MemberId(1), MemberId(2));
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path(), Identity { cluster_id: 7, member_id: own });
        let (snapshots, _) = Snapshots::open(&data_dir.unwrap()).unwrap();
        let meta = SnapshotMeta { last_included_index: Index(5), last_included_term: Term(1) };
        let mut writer = snapshots.create(meta).unwrap();
        writer.write_all(b"state").unwrap();
        let snapshot = writer.finish().unwrap();
        let config = Config::new(own, [own, peer]);
        let members = config.members.clone();
        let raft = Raft::new(config, HardState::default(), None, Vec::new());
        let shared = Arc::new(Shared::new(raft.status(), Watch::new(own, members)));
        let (_open, stop) = crossbeam_channel::bounded(0);
        let nobody = Port::free().unwrap();
        let sender = SnapshotSender {
            own,
            peer,
            term: Term(1),
            cluster_id: 7,
            snapshot,
            stub: RaftRpcStub::new(Channel::builder(nobody.addr().to_string()).lazy()),
            mailbox: Arc::new(Nobody),
            shared: shared.clone(),
            stop,
            turn: Arc::default(),
        };
        assert!(matches!(sender.send(), Err(SendError::Call(_))), "it tries");
        shared.watch.restored(Index(5), Some(1));
        let agreed = Some(Checkpoint { index: Index(5), digest: 2 });
        shared.watch.heard(Query { asked: Index::ZERO, agreed });
        assert!(matches!(sender.send(), Err(SendError::Diverged)), "it does not");
        // With the leader's state in place of its own, it may.
        shared.watch.restored(Index(6), Some(2));
        assert!(matches!(sender.send(), Err(SendError::Call(_))), "it tries again");
    }

    #[test]
    fn what_was_asked_for_during_a_transfer_is_remembered_to_its_end() {
        let turn = Turn::default();
        assert!(turn.take());
        assert!(!turn.end(), "nobody asked meanwhile");
        assert!(turn.take());
        assert!(!turn.take(), "one at a time");
        assert!(turn.end(), "the core still waits");
        assert!(turn.take(), "and may ask again");
    }
}
