//! What peers call: each request becomes a message for the core, and its reply comes back through [`Post`].
//!
//! Appends that have arrived together are taken in together, and written by one fdatasync; all else is seen to at once.

use std::sync::Arc;

use super::complaints::Complaints;
use super::joining::Affiliation;
use super::post::{PeerCall, Post};
use super::proto::*;
use super::shared::Shared;
use super::snapshotter::Chunk;
use super::wire::{Head, WireError};
use super::{Errand, Mailbox};
use crate::raft::{self, Request};
use crate::rpc::{Done, Status, StatusCode};

/// The `raftRpc` service of a node.
pub(super) struct RaftService {
    affiliation: Affiliation,
    mailbox: Arc<dyn Mailbox>,
    pub(super) post: Arc<Post>,
    shared: Arc<Shared>,
    complaints: Complaints,
    /// Writing to a file is not for a connection's thread, on which heartbeats come, too.
    take_chunk: ChunkTaker,
}

type ChunkTaker = Box<dyn Fn(Chunk) + Send + Sync>;

impl RaftService {
    pub(super) fn new(
        affiliation: Affiliation,
        mailbox: Arc<dyn Mailbox>,
        post: Arc<Post>,
        shared: Arc<Shared>,
        take_chunk: ChunkTaker,
    ) -> RaftService {
        let complaints = Complaints::default();
        RaftService { affiliation, mailbox, post, shared, complaints, take_chunk }
    }

    fn deliver(&self, head: Head, request: Request, call: PeerCall) {
        let token = self.post.wait(call);
        if !self.mailbox.message(head.message(token, request)) {
            self.post.refuse(token);
        }
    }

    /// Takes a message in, and sees to it at once.
    fn deliver_now(&self, head: Head, request: Request, call: PeerCall) {
        self.deliver(head, request, call);
        self.mailbox.attend(Errand::Urgent);
    }

    fn check(&self, envelope: Option<Envelope>, term: u64) -> Result<Head, WireError> {
        Head::check(envelope, term, self.affiliation.cluster_id)
    }

    fn bad(&self, error: WireError) -> Status {
        match error {
            // It may well be of that cluster, and says itself what it waits for.
            WireError::OtherCluster { .. } if self.shared.status.lock().is_joining => {
                Status::new(StatusCode::BadArguments, WireError::NoData.to_string())
            }
            error => self.stranger(error),
        }
    }

    fn stranger(&self, error: WireError) -> Status {
        let words = error.to_string();
        if let WireError::OtherCluster { from, .. } = error {
            self.complaints.warn(from, format!("refused a message: {words}"));
        }
        Status::new(StatusCode::BadArguments, words)
    }

    /// A member of another cluster asks where this one stands: perhaps it has lost its data, and
    /// was started with a list of members that the others did not begin with. So it is told which
    /// cluster this is, by whoever knows that for certain.
    fn other_cluster(&self, envelope: Option<Envelope>) -> Option<JoinReply> {
        let Affiliation { cluster_id, list_id, came_new } = self.affiliation;
        let (id, is_joining) = {
            let status = self.shared.status.lock();
            (status.id, status.is_joining)
        };
        let is_meant = envelope.is_some_and(|envelope| envelope.to == id.0);
        let is_certain = !(came_new && is_joining);
        list_id.filter(|_| is_meant && is_certain).map(|it| JoinReply::naming(cluster_id, it))
    }
}

impl RaftRpc for RaftService {
    /// Only appends wait for it.
    fn after_calls(&self, method: &str) {
        if method == "AppendEntries" {
            self.mailbox.attend(Errand::Entries);
        }
    }

    fn request_vote(&self, args: RequestVoteArgs, done: Done<RequestVoteReply>) {
        match self.check(args.envelope, args.term) {
            Ok(head) => self.deliver_now(head, args.into_request(), PeerCall::RequestVote(done)),
            Err(error) => done.fail(self.bad(error)),
        }
    }

    fn append_entries(&self, args: AppendEntriesArgs, done: Done<AppendEntriesReply>) {
        let head = self.check(args.envelope, args.term);
        match head.and_then(|head| Ok((head, args.into_request()?))) {
            Ok((head, request)) => self.deliver(head, request, PeerCall::AppendEntries(done)),
            Err(error) => done.fail(self.bad(error)),
        }
    }

    fn heartbeat(&self, args: HeartbeatArgs, done: Done<HeartbeatReply>) {
        match self.check(args.envelope, args.term) {
            Ok(head) => {
                // Whatever its term is: what it says of digests is of committed entries.
                self.shared.watch.heard(args.query());
                self.deliver_now(head, args.into_request(), PeerCall::Heartbeat(done))
            }
            Err(error) => done.fail(self.bad(error)),
        }
    }

    fn timeout_now(&self, args: TimeoutNowArgs, done: Done<TimeoutNowReply>) {
        match self.check(args.envelope, args.term) {
            Ok(head) => self.deliver_now(head, Request::TimeoutNow, PeerCall::TimeoutNow(done)),
            Err(error) => done.fail(self.bad(error)),
        }
    }

    fn read_index(&self, args: ReadIndexArgs, done: Done<ReadIndexReply>) {
        match self.check(args.envelope, args.term) {
            Ok(head) => {
                let request = Request::ReadIndex(raft::ReadIndex { batch: args.batch });
                self.deliver_now(head, request, PeerCall::ReadIndex(done))
            }
            Err(error) => done.fail(self.bad(error)),
        }
    }

    fn join(&self, args: JoinArgs, done: Done<JoinReply>) {
        match self.check(args.envelope, args.term) {
            Ok(head) => {
                let request = Request::Join(raft::Join { question: args.question });
                self.deliver_now(head, request, PeerCall::Join(done))
            }
            Err(error) => match self.other_cluster(args.envelope) {
                Some(reply) => done.run(reply),
                None => done.fail(self.stranger(error)),
            },
        }
    }

    fn install_snapshot(&self, args: InstallSnapshotArgs, done: Done<InstallSnapshotReply>) {
        match self.check(args.envelope, args.term) {
            Ok(head) => (self.take_chunk)(Chunk { head, args, done }),
            Err(error) => done.fail(self.bad(error)),
        }
    }
}
