//! Where the core's messages go: a request to its peer, a reply to the call that waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::peers::Links;
use super::proto::{
    AppendEntriesReply, HeartbeatReply, InstallSnapshotReply, JoinReply, ReadIndexReply,
    RequestVoteReply, TimeoutNowReply,
};
use super::shared::Shared;
use crate::raft::{Body, MemberId, Message, Reply, Term};
use crate::rpc::{Done, Status, StatusCode};

/// Calls of peers that may wait for a reply. Past this bound the oldest is given up: the core has
/// dropped its message.
const WAITING_MAX: usize = 8_192;

/// A peer's call that waits for its reply.
pub(super) enum PeerCall {
    RequestVote(Done<RequestVoteReply>),
    AppendEntries(Done<AppendEntriesReply>),
    Heartbeat(Done<HeartbeatReply>),
    TimeoutNow(Done<TimeoutNowReply>),
    InstallSnapshot(Done<InstallSnapshotReply>),
    ReadIndex(Done<ReadIndexReply>),
    Join(Done<JoinReply>),
}

impl PeerCall {
    /// When the caller stops waiting.
    fn deadline(&self) -> Option<Instant> {
        match self {
            PeerCall::RequestVote(done) => done.deadline(),
            PeerCall::AppendEntries(done) => done.deadline(),
            PeerCall::Heartbeat(done) => done.deadline(),
            PeerCall::TimeoutNow(done) => done.deadline(),
            PeerCall::InstallSnapshot(done) => done.deadline(),
            PeerCall::ReadIndex(done) => done.deadline(),
            PeerCall::Join(done) => done.deadline(),
        }
    }
}

pub(super) struct Post {
    links: Arc<Links>,
    calls: Mutex<Calls>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Calls {
    last_token: u64,
    waiting: BTreeMap<u64, PeerCall>,
}

impl Post {
    pub(super) fn new(links: Arc<Links>, shared: Arc<Shared>) -> Post {
        Post { links, calls: Mutex::default(), shared }
    }

    /// Never blocks. A request for which there is no room is lost, and the core is told.
    pub(super) fn send(&self, message: Message) {
        let Message { to, term, token, body, .. } = message;
        match body {
            Body::Reply(reply) => self.reply(token, term, reply),
            Body::Request(request) => {
                if let Some(link) = self.links.read().get(&to) {
                    link.send(term, request);
                }
            }
        }
    }

    /// Sends a peer the newest snapshot, on behalf of the leader of this term.
    pub(super) fn send_snapshot(&self, peer: MemberId, term: Term) {
        if let Some(link) = self.links.read().get(&peer) {
            link.send_snapshot(term);
        }
    }

    /// Keeps a peer's call until its reply. Returns the token that the reply will carry.
    pub(super) fn register(&self, call: PeerCall) -> u64 {
        let mut calls = self.calls.lock();
        calls.last_token += 1;
        let token = calls.last_token;
        calls.waiting.insert(token, call);
        let oldest = (calls.waiting.len() > WAITING_MAX).then(|| calls.waiting.pop_first());
        // Dropping a call answers it, which writes to a socket: not under the lock.
        drop(calls);
        drop(oldest);
        token
    }

    /// Gives up the calls whose callers have stopped waiting. The core has dropped their messages
    /// as nonsense, or their replies wait for the disk. They would use up the calls that their
    /// connection may have open.
    pub(super) fn sweep(&self, now: Instant) {
        let is_over = |call: &PeerCall| call.deadline().is_some_and(|deadline| deadline <= now);
        let mut calls = self.calls.lock();
        let over: Vec<PeerCall> =
            calls.waiting.extract_if(.., |_, call| is_over(call)).map(|(_, call)| call).collect();
        drop(calls);
        drop(over);
    }

    /// Answers a call that will have no reply from the core.
    pub(super) fn refuse(&self, token: u64) {
        let call = self.calls.lock().waiting.remove(&token);
        let status = || Status::new(StatusCode::Busy, "this member takes no more messages now");
        match call {
            Some(PeerCall::RequestVote(done)) => done.fail(status()),
            Some(PeerCall::AppendEntries(done)) => done.fail(status()),
            Some(PeerCall::Heartbeat(done)) => done.fail(status()),
            Some(PeerCall::TimeoutNow(done)) => done.fail(status()),
            Some(PeerCall::InstallSnapshot(done)) => done.fail(status()),
            Some(PeerCall::ReadIndex(done)) => done.fail(status()),
            Some(PeerCall::Join(done)) => done.fail(status()),
            None => {}
        }
    }

    /// Gives up all calls that wait.
    pub(super) fn close(&self) {
        let waiting = std::mem::take(&mut self.calls.lock().waiting);
        drop(waiting);
    }

    fn reply(&self, token: u64, term: Term, reply: Reply) {
        let call = self.calls.lock().waiting.remove(&token);
        match (call, reply) {
            (Some(PeerCall::RequestVote(done)), Reply::RequestVote(reply)) => {
                done.run(RequestVoteReply::new(term, reply));
            }
            (Some(PeerCall::AppendEntries(done)), Reply::AppendEntries(reply)) => {
                done.run(AppendEntriesReply::new(term, reply));
            }
            (Some(PeerCall::Heartbeat(done)), Reply::Heartbeat(reply)) => {
                let digest = self.shared.watch.answer();
                let level_max = self.shared.levels.own_announcement();
                done.run(HeartbeatReply::new(term, reply, digest, level_max));
            }
            (Some(PeerCall::TimeoutNow(done)), Reply::TimeoutNow) => {
                done.run(TimeoutNowReply { term: term.0 });
            }
            (Some(PeerCall::InstallSnapshot(done)), Reply::AppendEntries(reply)) => {
                done.run(InstallSnapshotReply::new(term, reply));
            }
            (Some(PeerCall::ReadIndex(done)), Reply::ReadIndex(reply)) => {
                done.run(ReadIndexReply::new(term, reply));
            }
            (Some(PeerCall::Join(done)), Reply::Join(reply)) => {
                done.run(JoinReply::new(term, reply));
            }
            // The call was given up meanwhile.
            _ => {}
        }
    }
}
