//! One thread a peer: sends what the core has for it, and keeps the connection up.
//!
//! The connection is kept even when there is nothing to say, because its end is news: when a process dies its sockets
//! close, and a follower that loses its leader this way does not wait out an election timeout. Entries have a connection
//! of their own: on a slow network a heartbeat must not wait behind the megabytes of a large value. A peer that cannot be
//! reached costs its own thread's time only: what is queued for it meanwhile is dropped, and the core told.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::Mailbox;
use super::complaints::Complaints;
use super::post::Outgoing;
use super::proto::{
    AppendEntriesArgs, AppendEntriesReply, Envelope, HeartbeatArgs, HeartbeatReply, JoinArgs,
    JoinReply, RaftRpcStub, ReadIndexArgs, ReadIndexReply, RequestVoteArgs, RequestVoteReply,
    TimeoutNowArgs, TimeoutNowReply,
};
use super::shared::Shared;
use super::snapshot_sender::{SnapshotSender, Turn};
use crate::raft::{self, AppendEntries, Body, MemberId, Message, Term};
use crate::rpc::{CallError, Channel, StatusCode};
use crate::storage::Snapshots;

/// Messages that may wait for one peer's sender: the core's window of appends, and heartbeats.
pub(super) const QUEUE_LEN_MAX: usize = 256;
/// Between attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// An attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A call that carries no entries.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// A call with entries: its answer waits for the peer's disk.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// The slowest network that entries are given time for.
const APPEND_BYTES_PER_SECOND_MIN: usize = 256 << 10;

pub(super) struct Peer {
    own: MemberId,
    id: MemberId,
    cluster_id: u64,
    channel: Channel,
    stub: RaftRpcStub,
    /// For entries, over a connection of their own.
    bulk: RaftRpcStub,
    mailbox: Arc<dyn Mailbox>,
    complaints: Arc<Complaints>,
    snapshots: Snapshots,
    shared: Arc<Shared>,
    turn: Arc<Turn>,
    sending: Option<JoinHandle<()>>,
    /// After a failed attempt to connect: not before then again.
    retry_at: Instant,
}

impl Peer {
    pub(super) fn new(
        own: MemberId,
        id: MemberId,
        addr: &str,
        snapshots: Snapshots,
        cluster_id: u64,
        mailbox: Arc<dyn Mailbox>,
        shared: Arc<Shared>,
    ) -> Peer {
        let lost = mailbox.clone();
        let builder = || {
            Channel::builder(addr).connect_timeout(CONNECT_TIMEOUT).caller(format!("member-{own}"))
        };
        let channel = builder().on_disconnect(move || lost.disconnected(id)).lazy();
        let stub = RaftRpcStub::new(channel.clone());
        let bulk = RaftRpcStub::new(builder().lazy());
        Peer {
            own,
            id,
            cluster_id,
            channel,
            stub,
            bulk,
            mailbox,
            snapshots,
            shared,
            turn: Arc::default(),
            sending: None,
            complaints: Arc::default(),
            retry_at: Instant::now(),
        }
    }

    /// Until `stop` closes.
    pub(super) fn run(mut self, queue: Receiver<Outgoing>, stop: Receiver<()>) {
        loop {
            select! {
                recv(stop) -> _ => break,
                recv(queue) -> outgoing => match outgoing {
                    Ok(Outgoing::Message(message)) => self.send(message),
                    Ok(Outgoing::Snapshot(term)) => self.send_snapshot(term, &stop),
                    Err(_) => break,
                },
                default(RECONNECT_PAUSE) => { self.connect(); }
            }
        }
        self.channel.close();
        self.bulk.channel().close();
        // With the channel closed its call has ended, and it with it.
        let _ = self.sending.map(JoinHandle::join);
    }

    fn connect(&mut self) -> bool {
        if self.channel.is_connected() {
            return true;
        }
        if Instant::now() < self.retry_at {
            return false;
        }
        let connected = self.channel.connect_now(Instant::now() + CONNECT_TIMEOUT);
        if let Err(error) = &connected {
            log::debug!("no connection to member {}: {error}", self.id);
            self.retry_at = Instant::now() + RECONNECT_PAUSE;
        }
        connected.is_ok()
    }

    /// On a thread of its own: heartbeats go on meanwhile. One at a time: while one is under way the core waits for its end.
    /// A state that has gone astray must not spread.
    fn send_snapshot(&mut self, term: Term, stop: &Receiver<()>) {
        let newest = self.snapshots.newest().filter(|_| !self.shared.watch.is_diverged());
        let Some(snapshot) = newest.filter(|_| self.connect()) else {
            return self.mailbox.disconnected(self.id);
        };
        if !self.turn.take() {
            return;
        }
        let sender = SnapshotSender {
            own: self.own,
            peer: self.id,
            term,
            cluster_id: self.cluster_id,
            snapshot,
            stub: self.bulk.clone(),
            mailbox: self.mailbox.clone(),
            shared: self.shared.clone(),
            stop: stop.clone(),
            turn: self.turn.clone(),
        };
        let name = format!("snap-{}-{}", self.own, self.id);
        match thread::Builder::new().name(name).spawn(move || sender.run()) {
            Ok(thread) => self.sending = Some(thread),
            Err(_) => {
                self.turn.end();
                self.mailbox.disconnected(self.id);
            }
        }
    }

    fn send(&mut self, message: Message) {
        if !self.connect() {
            return self.mailbox.disconnected(self.id);
        }
        let call_deadline = Instant::now() + CALL_TIMEOUT;
        let Message { from, to, term, body, .. } = message;
        let envelope = Envelope { cluster_id: self.cluster_id, from: from.0, to: to.0 };
        let (mailbox, complaints) = (self.mailbox.clone(), self.complaints.clone());
        // The core asks these again by itself, and a leader that is slow to answer them is none that is lost.
        let is_question = matches!(body, Body::ReadIndex(_) | Body::Join(_));
        let answer = Answer { mailbox, complaints, from: to, to: from, is_question };
        match body {
            Body::RequestVote(request) => {
                let args = RequestVoteArgs::new(term, request, envelope);
                let done = move |reply: Result<RequestVoteReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, it.into_body())))
                };
                self.stub.request_vote_async(&args, call_deadline, done);
            }
            Body::AppendEntries(request) => {
                let deadline = Instant::now() + append_timeout(&request);
                let args = AppendEntriesArgs::new(term, request, envelope);
                let done = move |reply: Result<AppendEntriesReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, it.into_body())))
                };
                self.bulk.append_entries_async(&args, deadline, done);
            }
            Body::Heartbeat(request) => {
                let shared = self.shared.clone();
                let args = HeartbeatArgs::new(term, request, shared.watch.ask(term), envelope);
                let done = move |reply: Result<HeartbeatReply, _>| {
                    if let Some(digest) = reply.as_ref().ok().and_then(HeartbeatReply::answer) {
                        shared.watch.answered(answer.from, digest);
                    }
                    answer.deliver(reply.map(|it| (it.term, it.into_body())))
                };
                self.stub.heartbeat_async(&args, call_deadline, done);
            }
            Body::TimeoutNow => {
                let args = TimeoutNowArgs { term: term.0, envelope: Some(envelope) };
                let done = move |reply: Result<TimeoutNowReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, Body::TimeoutNowReply)))
                };
                self.stub.timeout_now_async(&args, call_deadline, done);
            }
            Body::ReadIndex(raft::ReadIndex { batch }) => {
                let args = ReadIndexArgs { term: term.0, envelope: Some(envelope), batch };
                let done = move |reply: Result<ReadIndexReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, it.into_body())))
                };
                self.stub.read_index_async(&args, call_deadline, done);
            }
            Body::Join(raft::Join { question }) => {
                let args = JoinArgs { term: term.0, envelope: Some(envelope), question };
                let done = move |reply: Result<JoinReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, it.into_body())))
                };
                self.stub.join_async(&args, call_deadline, done);
            }
            // Snapshots go in chunks, on a thread of their own.
            Body::InstallSnapshot(_)
            | Body::RequestVoteReply(_)
            | Body::AppendEntriesReply(_)
            | Body::HeartbeatReply(_)
            | Body::ReadIndexReply(_)
            | Body::JoinReply(_)
            | Body::TimeoutNowReply => {
                unreachable!("replies go to the calls that wait for them, snapshots by another way")
            }
        }
    }
}

fn append_timeout(request: &AppendEntries) -> Duration {
    let bytes: usize = request.entries.iter().map(|entry| entry.len_bytes()).sum();
    APPEND_TIMEOUT + Duration::from_secs((bytes / APPEND_BYTES_PER_SECOND_MIN) as u64)
}

/// Brings a peer's answer to the core.
struct Answer {
    mailbox: Arc<dyn Mailbox>,
    complaints: Arc<Complaints>,
    from: MemberId,
    to: MemberId,
    is_question: bool,
}

impl Answer {
    fn deliver(self, answer: Result<(u64, Body), CallError>) {
        let Answer { mailbox, complaints, from, to, is_question } = self;
        match answer {
            Ok((term, body)) => {
                // An inbox that is full loses it, as a network may.
                let _ = mailbox.message(Message { from, to, term: Term(term), token: 0, body });
            }
            Err(error) => {
                log::debug!("call to member {from} failed: {error}");
                if let CallError::Refused { status, .. } = &error
                    && status.code == StatusCode::BadArguments
                {
                    let words = format!("member {from} refuses what we send: {}", status.message);
                    complaints.warn(from, words);
                }
                if !is_question {
                    mailbox.disconnected(from);
                }
            }
        }
    }
}
