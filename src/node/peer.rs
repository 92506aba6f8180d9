//! The way to a peer: messages go out on whichever thread steps the core, and one thread a peer
//! keeps the connection up.
//!
//! The connection is kept even when there is nothing to say, because its end is news: when a
//! process dies its sockets close, and a follower that loses its leader this way does not wait out
//! an election timeout. Entries have a connection of their own: on a slow network a heartbeat must
//! not wait behind the megabytes of a large value. Sending never blocks: what is for a peer that is
//! not connected is dropped, and the core told.
//!
//! A connection can also die without an end: a firewall that was restarted forgets it, say, and
//! drops what is sent over it. So a connection that has been silent for two election timeouts is
//! given up and made anew. The core is not told of it as of an end: a follower whose own connection
//! to the leader has died may still hear the leader's heartbeats, and if it does not, its election
//! timeout notices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::complaints::Complaints;
use super::joining::Affiliation;
use super::proto::{
    AppendEntriesArgs, AppendEntriesReply, Envelope, HeartbeatArgs, HeartbeatReply, JoinArgs,
    JoinReply, RaftRpcStub, ReadIndexArgs, ReadIndexReply, RequestVoteArgs, RequestVoteReply,
    TimeoutNowArgs, TimeoutNowReply,
};
use super::shared::Shared;
use super::snapshot_sender::{SnapshotSender, Turn};
use super::{Errand, Mailbox, Timing};
use crate::ErrorChain;
use crate::raft::{
    self, AppendEntries, Body, MemberId, Message, OtherCluster, Reply, Request, Term,
};
use crate::rpc::{CallError, Channel, Disconnect, StatusCode};
use crate::storage::Snapshots;

/// Orders that may wait for a peer's thread. While it has more to do than that it does it anyway.
const ORDERS_MAX: usize = 4;
/// Between attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// An attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A call that carries no entries.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// A call with entries: its answer waits for the peer's disk.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// The slowest network on which a dead connection with entries on it is told from a slow one at
/// once; on a slower one the entries are sent twice or more, with ever more time.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// The slowest network that entries are given time for.
const APPEND_BYTES_PER_SECOND_MIN: usize = 256 << 10;

/// The ways to all peers.
pub(super) type Links = BTreeMap<MemberId, Arc<Link>>;

/// What a peer's thread is to do.
pub(super) enum Order {
    /// See to the connection now.
    Connect,
    /// Send the newest snapshot, on behalf of the leader of this term.
    Snapshot(Term),
}

/// The way to one peer.
pub(super) struct Link {
    own: MemberId,
    id: MemberId,
    affiliation: Affiliation,
    stub: RaftRpcStub,
    /// For entries, over a connection of their own.
    bulk: RaftRpcStub,
    mailbox: Arc<dyn Mailbox>,
    complaints: Arc<Complaints>,
    shared: Arc<Shared>,
    orders: Sender<Order>,
}

impl Link {
    /// It, and the orders for the peer's thread.
    pub(super) fn new(
        own: MemberId,
        id: MemberId,
        addr: &str,
        affiliation: Affiliation,
        timing: Timing,
        mailbox: Arc<dyn Mailbox>,
        shared: Arc<Shared>,
    ) -> (Link, Receiver<Order>) {
        let builder = || {
            Channel::builder(addr).connect_timeout(CONNECT_TIMEOUT).caller(format!("member-{own}"))
        };
        // A peer answers pings on the thread that writes its log, so it is given more time here.
        let bulk = builder()
            .ping_interval(timing.election_max)
            .bytes_per_second_min(BYTES_PER_SECOND_MIN)
            .lazy();
        let on_disconnect = {
            let (mailbox, bulk) = (mailbox.clone(), bulk.clone());
            move |how| match how {
                Disconnect::Ended => {
                    mailbox.disconnected(id);
                    mailbox.attend(Errand::Urgent);
                }
                // Whatever happened to this connection may have happened to the other one.
                Disconnect::Silent => bulk.give_up_if_silent(timing.election_min),
            }
        };
        let urgent = builder().ping_interval(timing.election_min);
        let stub = RaftRpcStub::new(urgent.on_disconnect_how(on_disconnect).lazy());
        let bulk = RaftRpcStub::new(bulk);
        let (orders, received) = bounded(ORDERS_MAX);
        let complaints = Arc::default();
        let link = Link { own, id, affiliation, stub, bulk, mailbox, complaints, shared, orders };
        (link, received)
    }

    /// Whether there is a connection. If not, its thread sees to it.
    fn is_connected(&self) -> bool {
        let is_connected = self.stub.invoker().is_connected();
        if !is_connected {
            // Where orders wait the thread is at it.
            drop(self.orders.try_send(Order::Connect));
        }
        is_connected
    }

    /// Has the peer's thread send the newest snapshot.
    pub(super) fn send_snapshot(&self, term: Term) {
        if self.orders.try_send(Order::Snapshot(term)).is_err() {
            self.mailbox.disconnected(self.id);
        }
    }

    /// Sends one request of the core's. Never blocks.
    pub(super) fn send(&self, term: Term, request: Request) {
        if !self.is_connected() {
            return self.mailbox.disconnected(self.id);
        }
        let call_deadline = Instant::now() + CALL_TIMEOUT;
        let Affiliation { cluster_id, list_id, .. } = self.affiliation;
        let envelope = Envelope { cluster_id, from: self.own.0, to: self.id.0 };
        let answer = self.answer_to(&request);
        match request {
            Request::RequestVote(request) => {
                let args = RequestVoteArgs::new(term, request, envelope);
                let done = move |reply: Result<RequestVoteReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, it.into_reply())))
                };
                self.stub.request_vote_then(&args, call_deadline, done);
            }
            Request::AppendEntries(request) => {
                let deadline = Instant::now() + append_timeout(&request);
                let args = AppendEntriesArgs::new(term, request, envelope);
                let done = move |reply: Result<AppendEntriesReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, it.into_reply())))
                };
                self.bulk.append_entries_then(&args, deadline, done);
            }
            Request::Heartbeat(request) => {
                let shared = self.shared.clone();
                let args = HeartbeatArgs::new(term, request, shared.watch.ask(term), envelope);
                let done = move |reply: Result<HeartbeatReply, _>| {
                    if let Some(digest) = reply.as_ref().ok().and_then(HeartbeatReply::answer) {
                        shared.watch.answered(answer.from, digest);
                    }
                    answer.deliver(reply.map(|it| (it.term, it.into_reply())))
                };
                self.stub.heartbeat_then(&args, call_deadline, done);
            }
            Request::TimeoutNow => {
                let args = TimeoutNowArgs { term: term.0, envelope: Some(envelope) };
                let done = move |reply: Result<TimeoutNowReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, Reply::TimeoutNow)))
                };
                self.stub.timeout_now_then(&args, call_deadline, done);
            }
            Request::ReadIndex(raft::ReadIndex { batch }) => {
                let args = ReadIndexArgs { term: term.0, envelope: Some(envelope), batch };
                let done = move |reply: Result<ReadIndexReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, it.into_reply())))
                };
                self.stub.read_index_then(&args, call_deadline, done);
            }
            Request::Join(raft::Join { question }) => {
                let args = JoinArgs { term: term.0, envelope: Some(envelope), question };
                let done = move |reply: Result<JoinReply, _>| {
                    let other = reply.as_ref().ok().and_then(|it| it.other_cluster(list_id));
                    match other {
                        Some(other) => answer.other_cluster(other),
                        None => answer.deliver(reply.map(|it| (it.term, it.into_reply()))),
                    }
                };
                self.stub.join_then(&args, call_deadline, done);
            }
            // In chunks, from the disk, on a thread of its own.
            Request::InstallSnapshot(_) => self.send_snapshot(term),
        }
    }

    /// What will take the peer's answer to this request to the core.
    fn answer_to(&self, request: &Request) -> Answer {
        Answer {
            mailbox: self.mailbox.clone(),
            complaints: self.complaints.clone(),
            from: self.id,
            to: self.own,
            // The core asks these again by itself, and a leader that is slow to answer them is not
            // lost.
            is_question: matches!(request, Request::ReadIndex(_) | Request::Join(_)),
            errand: match request {
                Request::AppendEntries(_) => Errand::Request,
                _ => Errand::Urgent,
            },
        }
    }
}

/// The thread that keeps the way to a peer open, and sends it snapshots.
pub(super) struct Peer {
    link: Arc<Link>,
    orders: Receiver<Order>,
    snapshots: Snapshots,
    turn: Arc<Turn>,
    sending: Option<JoinHandle<()>>,
    /// After a failed attempt to connect: not before then again.
    retry_at: Instant,
}

impl Peer {
    pub(super) fn new(link: Arc<Link>, orders: Receiver<Order>, snapshots: Snapshots) -> Peer {
        let (turn, retry_at) = (Arc::default(), Instant::now());
        Peer { link, orders, snapshots, turn, sending: None, retry_at }
    }

    pub(super) fn id(&self) -> MemberId {
        self.link.id
    }

    /// Until `stop` closes.
    pub(super) fn run(mut self, stop: Receiver<()>) {
        let orders = self.orders.clone();
        self.connect();
        loop {
            select! {
                recv(stop) -> _ => break,
                recv(orders) -> order => match order {
                    Ok(Order::Connect) => { self.connect(); }
                    Ok(Order::Snapshot(term)) => {
                        self.send_snapshot(term, &stop);
                        self.link.mailbox.attend(Errand::Urgent);
                    }
                    Err(_) => break,
                },
                default(RECONNECT_PAUSE) => { self.connect(); }
            }
        }
        self.link.stub.invoker().close();
        self.link.bulk.invoker().close();
        // With the channel closed its call has ended, and it with it.
        let _ = self.sending.map(JoinHandle::join);
    }

    fn connect(&mut self) -> bool {
        if self.link.stub.invoker().is_connected() {
            return true;
        }
        if Instant::now() < self.retry_at {
            return false;
        }
        let connected = self.link.stub.invoker().connect_now(Instant::now() + CONNECT_TIMEOUT);
        if let Err(error) = &connected {
            log::debug!("no connection to member {}: {}", self.link.id, ErrorChain(error));
            self.retry_at = Instant::now() + RECONNECT_PAUSE;
        }
        connected.is_ok()
    }

    /// On a thread of its own: heartbeats go on meanwhile. One at a time: while one is under way
    /// the core waits for its end. A state that has gone astray must not spread.
    fn send_snapshot(&mut self, term: Term, stop: &Receiver<()>) {
        let newest = self.snapshots.newest().filter(|_| !self.link.shared.watch.is_diverged());
        let Some(snapshot) = newest.filter(|_| self.connect()) else {
            return self.link.mailbox.disconnected(self.link.id);
        };
        if !self.turn.take() {
            return;
        }
        let sender = SnapshotSender {
            own: self.link.own,
            peer: self.link.id,
            term,
            cluster_id: self.link.affiliation.cluster_id,
            snapshot,
            stub: self.link.bulk.clone(),
            mailbox: self.link.mailbox.clone(),
            shared: self.link.shared.clone(),
            stop: stop.clone(),
            turn: self.turn.clone(),
        };
        let name = format!("snap-{}-{}", self.link.own, self.link.id);
        match thread::Builder::new().name(name).spawn(move || sender.run()) {
            Ok(thread) => self.sending = Some(thread),
            Err(_) => {
                self.turn.end();
                self.link.mailbox.disconnected(self.link.id);
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
    /// What its thread may do with it.
    errand: Errand,
}

impl Answer {
    fn other_cluster(self, other: OtherCluster) {
        self.mailbox.other_cluster(self.from, other);
        self.mailbox.attend(self.errand);
    }

    fn deliver(self, answer: Result<(u64, Reply), CallError>) {
        let Answer { mailbox, complaints, from, to, is_question, errand } = self;
        match answer {
            Ok((term, reply)) => {
                let body = Body::Reply(reply);
                // An inbox that is full loses it, as a network may.
                let _ = mailbox.message(Message { from, to, term: Term(term), token: 0, body });
            }
            Err(error) => {
                log::debug!("call to member {from} failed: {}", ErrorChain(&error));
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
        mailbox.attend(errand);
    }
}
