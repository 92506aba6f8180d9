//! What peers call. Each request becomes a message for the core, and its reply comes back through
//! [`Post`].
//!
//! Appends that arrive together are pushed together and written by one fdatasync. Everything else
//! is processed at once.

use std::sync::Arc;

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
    mailbox: Arc<dyn Mailbox>,
    post: Arc<Post>,
    shared: Arc<Shared>,
    warnings: Warnings,
}

impl RaftService {
    pub(super) fn new(
        mailbox: Arc<dyn Mailbox>,
        post: Arc<Post>,
        shared: Arc<Shared>,
    ) -> RaftService {
        RaftService { mailbox, post, shared, warnings: Warnings::default() }
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
        let identity = &self.shared.identity;
        Head::check(envelope, term, identity.own(), identity.affiliation())
    }

    fn refusal(&self, error: WireError) -> Status {
        match error {
            // This member may belong to that cluster, and says itself what it waits for.
            WireError::OtherCluster { from, .. } if self.shared.status.lock().is_joining => {
                self.shared.identity.called(from);
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

    /// A member that knows no cluster, or another one, asks where this one stands. Perhaps it is
    /// new, or has lost its data. Its terms mean nothing here.
    fn join_from_elsewhere(&self, args: JoinArgs, done: Done<JoinReply>, error: WireError) {
        let elsewhere = match error {
            WireError::OtherCluster { .. } => args.envelope,
            _ => None,
        };
        match elsewhere {
            Some(envelope) if envelope.list_id != 0 => {
                let (question, is_stranger) = (args.question, true);
                let request = Request::Join(raft::Join { question, is_stranger });
                self.process(Head::without_term(envelope), request, PeerCall::Join(done));
            }
            Some(_) if self.is_certain() => {
                done.run(JoinReply::naming(self.shared.identity.affiliation()));
            }
            _ => done.fail(self.warn_and_refuse(error)),
        }
    }

    /// Whether this member knows its cluster for certain.
    fn is_certain(&self) -> bool {
        self.shared.identity.affiliation().cluster_id != 0
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
                let (question, is_stranger) = (args.question, false);
                let request = Request::Join(raft::Join { question, is_stranger });
                self.process(head, request, PeerCall::Join(done))
            }
            Err(error) => self.join_from_elsewhere(args, done, error),
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
