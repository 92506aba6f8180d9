//! What peers call. Each request becomes a message for the core, and its reply comes back through
//! [`Post`].
//!
//! Appends that arrive together are pushed together and written by one fdatasync. Everything else
//! is processed at once.

use std::sync::Arc;

use super::joining::Affiliation;
use super::mailbox::{Chunk, Mailbox, MayDo};
use super::post::{PeerCall, Post};
use super::proto::*;
use super::shared::Shared;
use super::warnings::Warnings;
use super::wire::{Head, WireError};
use crate::raft::{self, Request};
use crate::rpc::{Done, Status, StatusCode};

/// The `raftRpc` service of a node.
pub(super) struct RaftService {
    affiliation: Affiliation,
    mailbox: Arc<dyn Mailbox>,
    post: Arc<Post>,
    shared: Arc<Shared>,
    warnings: Warnings,
}

impl RaftService {
    pub(super) fn new(
        affiliation: Affiliation,
        mailbox: Arc<dyn Mailbox>,
        post: Arc<Post>,
        shared: Arc<Shared>,
    ) -> RaftService {
        RaftService { affiliation, mailbox, post, shared, warnings: Warnings::default() }
    }

    fn push(&self, head: Head, request: Request, call: PeerCall) {
        let token = self.post.register(call);
        if !self.mailbox.message(head.message(token, request)) {
            self.post.refuse(token);
        }
    }

    /// Pushes a message and processes it at once.
    fn process(&self, head: Head, request: Request, call: PeerCall) {
        self.push(head, request, call);
        self.mailbox.run_pending(MayDo::ServeReads);
    }

    fn check(&self, envelope: Option<Envelope>, term: u64) -> Result<Head, WireError> {
        Head::check(envelope, term, self.affiliation.cluster_id)
    }

    fn refusal(&self, error: WireError) -> Status {
        match error {
            // This member may belong to that cluster, and says itself what it waits for.
            WireError::OtherCluster { .. } if self.shared.status.lock().is_joining => {
                Status::new(StatusCode::BadArguments, WireError::NoData.to_string())
            }
            error => self.warn_and_refuse(error),
        }
    }

    fn warn_and_refuse(&self, error: WireError) -> Status {
        let words = error.to_string();
        if let WireError::OtherCluster { from, .. } = error {
            self.warnings.warn(from, format!("refused a message: {words}"));
        }
        Status::new(StatusCode::BadArguments, words)
    }

    /// A member of another cluster asks where this one stands. Perhaps it has lost its data, and
    /// was started with another list of members than the others. So a member that knows its cluster
    /// for certain names it.
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
    /// Appends wait for this. Every other message is processed by its own call.
    fn after_calls(&self, method: &str) {
        if method == "AppendEntries" {
            self.mailbox.run_pending(MayDo::Write);
        }
    }

    fn request_vote(&self, args: RequestVoteArgs, done: Done<RequestVoteReply>) {
        match self.check(args.envelope, args.term) {
            Ok(head) => self.process(head, args.into_request(), PeerCall::RequestVote(done)),
            Err(error) => done.fail(self.refusal(error)),
        }
    }

    fn append_entries(&self, args: AppendEntriesArgs, done: Done<AppendEntriesReply>) {
        let head = self.check(args.envelope, args.term);
        match head.and_then(|head| Ok((head, args.into_request()?))) {
            Ok((head, request)) => self.push(head, request, PeerCall::AppendEntries(done)),
            Err(error) => done.fail(self.refusal(error)),
        }
    }

    fn heartbeat(&self, args: HeartbeatArgs, done: Done<HeartbeatReply>) {
        match self.check(args.envelope, args.term) {
            Ok(head) => {
                // In any term: the digests in it are of committed entries.
                self.shared.watch.heard(args.query());
                self.process(head, args.into_request(), PeerCall::Heartbeat(done))
            }
            Err(error) => done.fail(self.refusal(error)),
        }
    }

    fn timeout_now(&self, args: TimeoutNowArgs, done: Done<TimeoutNowReply>) {
        match self.check(args.envelope, args.term) {
            Ok(head) => self.process(head, Request::TimeoutNow, PeerCall::TimeoutNow(done)),
            Err(error) => done.fail(self.refusal(error)),
        }
    }

    fn read_index(&self, args: ReadIndexArgs, done: Done<ReadIndexReply>) {
        match self.check(args.envelope, args.term) {
            Ok(head) => {
                let request = Request::ReadIndex(raft::ReadIndex { batch: args.batch });
                self.process(head, request, PeerCall::ReadIndex(done))
            }
            Err(error) => done.fail(self.refusal(error)),
        }
    }

    fn join(&self, args: JoinArgs, done: Done<JoinReply>) {
        match self.check(args.envelope, args.term) {
            Ok(head) => {
                let request = Request::Join(raft::Join { question: args.question });
                self.process(head, request, PeerCall::Join(done))
            }
            Err(error) => match self.other_cluster(args.envelope) {
                Some(reply) => done.run(reply),
                None => done.fail(self.warn_and_refuse(error)),
            },
        }
    }

    /// Another thread writes it: heartbeats come over this connection, too.
    fn install_snapshot(&self, args: InstallSnapshotArgs, done: Done<InstallSnapshotReply>) {
        match self.check(args.envelope, args.term) {
            Ok(head) => self.mailbox.chunk(Chunk { head, args, done }),
            Err(error) => done.fail(self.refusal(error)),
        }
    }
}
