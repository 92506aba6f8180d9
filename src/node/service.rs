//! What peers call: each request becomes a message for the core, and its reply comes back through [`Post`].

use std::sync::Arc;

use super::Mailbox;
use super::post::{PeerCall, Post};
use super::proto::*;
use super::snapshotter::Chunk;
use super::wire::{Head, WireError};
use crate::raft::Body;
use crate::rpc::{Done, Status, StatusCode};

/// The `raftRpc` service of a node.
pub(super) struct RaftService {
    pub(super) cluster_id: u64,
    pub(super) mailbox: Arc<dyn Mailbox>,
    pub(super) post: Arc<Post>,
    /// Writing to a file is not for a connection's thread, on which heartbeats come, too.
    pub(super) take_chunk: Box<dyn Fn(Chunk) + Send + Sync>,
}

impl RaftService {
    fn deliver(&self, head: Head, body: Body, call: PeerCall) {
        let token = self.post.wait(call);
        if !self.mailbox.message(head.message(token, body)) {
            self.post.refuse(token);
        }
    }
}

fn bad(error: WireError) -> Status {
    Status::new(StatusCode::BadArguments, error.to_string())
}

impl RaftRpc for RaftService {
    fn request_vote(&self, args: RequestVoteArgs, done: Done<RequestVoteReply>) {
        match Head::check(args.envelope, args.term, self.cluster_id) {
            Ok(head) => self.deliver(head, args.into_body(), PeerCall::RequestVote(done)),
            Err(error) => done.fail(bad(error)),
        }
    }

    fn append_entries(&self, args: AppendEntriesArgs, done: Done<AppendEntriesReply>) {
        let head = Head::check(args.envelope, args.term, self.cluster_id);
        match head.and_then(|head| Ok((head, args.into_body()?))) {
            Ok((head, body)) => self.deliver(head, body, PeerCall::AppendEntries(done)),
            Err(error) => done.fail(bad(error)),
        }
    }

    fn heartbeat(&self, args: HeartbeatArgs, done: Done<HeartbeatReply>) {
        match Head::check(args.envelope, args.term, self.cluster_id) {
            Ok(head) => self.deliver(head, args.into_body(), PeerCall::Heartbeat(done)),
            Err(error) => done.fail(bad(error)),
        }
    }

    fn timeout_now(&self, args: TimeoutNowArgs, done: Done<TimeoutNowReply>) {
        match Head::check(args.envelope, args.term, self.cluster_id) {
            Ok(head) => self.deliver(head, Body::TimeoutNow, PeerCall::TimeoutNow(done)),
            Err(error) => done.fail(bad(error)),
        }
    }

    fn install_snapshot(&self, args: InstallSnapshotArgs, done: Done<InstallSnapshotReply>) {
        match Head::check(args.envelope, args.term, self.cluster_id) {
            Ok(head) => (self.take_chunk)(Chunk { head, args, done }),
            Err(error) => done.fail(bad(error)),
        }
    }
}
