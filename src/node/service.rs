//! What peers call: each request becomes a message for the core, and its reply comes back through [`Post`].
//!
//! Appends that have arrived together are taken in together, and written by one fdatasync; all else is seen to at once.

use std::sync::Arc;

use super::complaints::Complaints;
use super::post::{PeerCall, Post};
use super::proto::*;
use super::shared::Shared;
use super::snapshotter::Chunk;
use super::wire::{Head, WireError};
use super::{Errand, Mailbox};
use crate::raft::{self, Body};
use crate::rpc::{Done, Status, StatusCode};

/// The `raftRpc` service of a node.
pub(super) struct RaftService {
    cluster_id: u64,
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
        cluster_id: u64,
        mailbox: Arc<dyn Mailbox>,
        post: Arc<Post>,
        shared: Arc<Shared>,
        take_chunk: ChunkTaker,
    ) -> RaftService {
        let complaints = Complaints::default();
        RaftService { cluster_id, mailbox, post, shared, complaints, take_chunk }
    }

    fn deliver(&self, head: Head, body: Body, call: PeerCall) {
        let token = self.post.wait(call);
        if !self.mailbox.message(head.message(token, body)) {
            self.post.refuse(token);
        }
    }

    /// Takes a message in, and sees to it at once.
    fn deliver_now(&self, head: Head, body: Body, call: PeerCall) {
        self.deliver(head, body, call);
        self.mailbox.attend(Errand::Urgent);
    }

    fn bad(&self, error: WireError) -> Status {
        let words = error.to_string();
        if let WireError::OtherCluster { from, .. } = error {
            self.complaints.warn(from, format!("refused a message: {words}"));
        }
        Status::new(StatusCode::BadArguments, words)
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
        match Head::check(args.envelope, args.term, self.cluster_id) {
            Ok(head) => self.deliver_now(head, args.into_body(), PeerCall::RequestVote(done)),
            Err(error) => done.fail(self.bad(error)),
        }
    }

    fn append_entries(&self, args: AppendEntriesArgs, done: Done<AppendEntriesReply>) {
        let head = Head::check(args.envelope, args.term, self.cluster_id);
        match head.and_then(|head| Ok((head, args.into_body()?))) {
            Ok((head, body)) => self.deliver(head, body, PeerCall::AppendEntries(done)),
            Err(error) => done.fail(self.bad(error)),
        }
    }

    fn heartbeat(&self, args: HeartbeatArgs, done: Done<HeartbeatReply>) {
        match Head::check(args.envelope, args.term, self.cluster_id) {
            Ok(head) => {
                // Whatever its term is: what it says of digests is of committed entries.
                self.shared.watch.heard(args.query());
                self.deliver_now(head, args.into_body(), PeerCall::Heartbeat(done))
            }
            Err(error) => done.fail(self.bad(error)),
        }
    }

    fn timeout_now(&self, args: TimeoutNowArgs, done: Done<TimeoutNowReply>) {
        match Head::check(args.envelope, args.term, self.cluster_id) {
            Ok(head) => self.deliver_now(head, Body::TimeoutNow, PeerCall::TimeoutNow(done)),
            Err(error) => done.fail(self.bad(error)),
        }
    }

    fn read_index(&self, args: ReadIndexArgs, done: Done<ReadIndexReply>) {
        match Head::check(args.envelope, args.term, self.cluster_id) {
            Ok(head) => {
                let body = Body::ReadIndex(raft::ReadIndex { batch: args.batch });
                self.deliver_now(head, body, PeerCall::ReadIndex(done))
            }
            Err(error) => done.fail(self.bad(error)),
        }
    }

    fn join(&self, args: JoinArgs, done: Done<JoinReply>) {
        match Head::check(args.envelope, args.term, self.cluster_id) {
            Ok(head) => {
                let body = Body::Join(raft::Join { question: args.question });
                self.deliver_now(head, body, PeerCall::Join(done))
            }
            Err(error) => done.fail(self.bad(error)),
        }
    }

    fn install_snapshot(&self, args: InstallSnapshotArgs, done: Done<InstallSnapshotReply>) {
        match Head::check(args.envelope, args.term, self.cluster_id) {
            Ok(head) => (self.take_chunk)(Chunk { head, args, done }),
            Err(error) => done.fail(self.bad(error)),
        }
    }
}
