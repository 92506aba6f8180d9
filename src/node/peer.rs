//! The connections to a peer. The thread that steps the core sends the messages; one thread a peer
//! keeps the connections up.
//!
//! A connection is kept even if there is nothing to send, because its end is news: when a process
//! dies, its sockets close, and a follower that loses its leader this way does not wait for an
//! election timeout. Entries have a connection of their own: on a slow network, a heartbeat must
//! not wait behind the megabytes of a large value. Sending never blocks. A message for a peer that
//! is not connected is dropped, and the core is told.
//!
//! A connection can also die without closing, for example when a firewall restarts, forgets it, and
//! drops its packets. So a connection that has been silent for two election timeouts, or for four
//! while nothing waits for an answer, is given up and made anew. The connection for entries is not
//! looked after while nothing waits: it is given up when the next entries get no answer. The core
//! is not told of this as of a close: a follower whose own connection to the leader has died may
//! still hear the leader's heartbeats. If it does not, its election timeout notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::config::Timing;
use super::mailbox::{Mailbox, MayDo};
use super::proto::{
    AppendEntriesArgs, AppendEntriesReply, HeartbeatArgs, HeartbeatReply, JoinArgs, JoinReply,
    RaftRpcStub, ReadIndexArgs, ReadIndexReply, RequestVoteArgs, RequestVoteReply, TimeoutNowArgs,
    TimeoutNowReply,
};
use super::shared::Shared;
use super::snapshot_sender::{SnapshotSender, Transfer};
use super::warnings::Warnings;
use crate::ErrorChain;
use crate::raft::{self, AppendEntries, Body, MemberId, Message, Reply, Request, Term};
use crate::rpc::{CallError, Channel, Disconnect, StatusCode};
use crate::storage::Snapshots;

/// Orders that may wait for a peer's thread. Further orders would only repeat these.
const ORDERS_MAX: usize = 4;
/// How long to wait before the next attempt to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether there is still a connection that has stood for as long: if it is
/// lost, its channel says so. (A peer that is full refuses it without a word to the core.)
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// How long an attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For a call that carries no entries.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// For a call with entries: its answer waits for the peer's disk.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// On a network that is at least this fast, a dead connection with entries on it is told from a
/// slow one at once. On a slower network entries are sent twice or more, with more time each time.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// The slowest network on which a call with entries has enough time.
const APPEND_BYTES_PER_SECOND_MIN: usize = 256 << 10;

/// What a peer's thread is to do.
pub(super) enum Order {
    /// Connect now.
    Connect,
    /// Send the newest snapshot, on behalf of the leader of this term.
    Snapshot(Term),
}

/// The connections to one peer.
pub(super) struct Link {
    id: MemberId,
    /// The connections to each address where it may be.
    ends: Vec<Ends>,
    /// The one of `ends` that is used.
    end: Arc<AtomicUsize>,
    mailbox: Arc<dyn Mailbox>,
    warnings: Arc<Warnings>,
    shared: Arc<Shared>,
    orders: Sender<Order>,
}

/// The connections to one address of a peer.
struct Ends {
    stub: RaftRpcStub,
    /// For entries, which have a connection of their own.
    bulk: RaftRpcStub,
}

impl Ends {
    fn new(
        own: MemberId,
        id: MemberId,
        addr: &str,
        timing: Timing,
        mailbox: &Arc<dyn Mailbox>,
        orders: &Sender<Order>,
    ) -> Ends {
        let builder = || {
            Channel::builder(addr).connect_timeout(CONNECT_TIMEOUT).caller(format!("member-{own}"))
        };
        // A peer answers pings on the thread that writes its log, so it gets more time here.
        let bulk = builder()
            .ping_interval(timing.election_max)
            .bytes_per_second_min(BYTES_PER_SECOND_MIN)
            .lazy();
        let on_disconnect = {
            let (mailbox, bulk, orders) = (mailbox.clone(), bulk.clone(), orders.clone());
            move |how| {
                // If orders wait already, the thread will connect anyway.
                drop(orders.try_send(Order::Connect));
                match how {
                    Disconnect::Ended => {
                        mailbox.disconnected(id);
                        mailbox.run_pending(MayDo::ServeReads);
                    }
                    // The same may have happened to the other connection.
                    Disconnect::Silent => bulk.give_up_if_silent(timing.election_min),
                }
            }
        };
        let urgent = builder().ping_interval(timing.election_min);
        let stub = RaftRpcStub::new(urgent.on_disconnect_how(on_disconnect).lazy());
        Ends { stub, bulk: RaftRpcStub::new(bulk) }
    }

    fn close(&self) {
        self.stub.invoker().close();
        self.bulk.invoker().close();
    }
}

impl Link {
    /// A link to a peer that is at one of these addresses. Returns the orders for the peer's
    /// thread, too.
    pub(super) fn new(
        id: MemberId,
        addrs: &[String],
        timing: Timing,
        mailbox: Arc<dyn Mailbox>,
        shared: Arc<Shared>,
    ) -> (Link, Receiver<Order>) {
        let own = shared.identity.own();
        let (orders, received) = bounded(ORDERS_MAX);
        let end = |addr: &String| Ends::new(own, id, addr, timing, &mailbox, &orders);
        let ends = addrs.iter().map(end).collect();
        let (end, warnings) = (Arc::default(), Arc::default());
        let link = Link { id, ends, end, mailbox, warnings, shared, orders };
        (link, received)
    }

    fn ends(&self) -> &Ends {
        &self.ends[self.end.load(Ordering::Relaxed) % self.ends.len()]
    }

    fn stub(&self) -> &RaftRpcStub {
        &self.ends().stub
    }

    fn bulk(&self) -> &RaftRpcStub {
        &self.ends().bulk
    }

    /// The peer is not at this address now: its other one is tried, and later this one again.
    fn try_elsewhere(&self) {
        self.end.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether there is a connection. If there is none, the peer's thread connects.
    fn is_connected(&self) -> bool {
        let is_connected = self.stub().invoker().is_connected();
        if !is_connected {
            // If orders wait already, the thread will connect anyway.
            drop(self.orders.try_send(Order::Connect));
        }
        is_connected
    }

    /// Tells the peer's thread to send the newest snapshot.
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
        let envelope = self.shared.identity.envelope(self.id);
        let answer = self.answer_to(&request);
        match request {
            Request::RequestVote(request) => {
                let args = RequestVoteArgs::new(term, request, envelope);
                let done = move |reply: Result<RequestVoteReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, it.into_reply())))
                };
                self.stub().request_vote_then(&args, call_deadline, done);
            }
            Request::AppendEntries(request) => {
                let deadline = Instant::now() + append_timeout(&request);
                let args = AppendEntriesArgs::new(term, request, envelope);
                let done = move |reply: Result<AppendEntriesReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, it.into_reply())))
                };
                self.bulk().append_entries_then(&args, deadline, done);
            }
            Request::Heartbeat(request) => {
                let shared = self.shared.clone();
                let args = HeartbeatArgs::new(term, request, shared.watch.ask(term), envelope);
                let done = move |reply: Result<HeartbeatReply, _>| {
                    if let Ok(HeartbeatReply { level_max, .. }) = reply {
                        shared.levels.announced(term, answer.from, level_max);
                    }
                    if let Some(digest) = reply.as_ref().ok().and_then(HeartbeatReply::answer) {
                        shared.watch.answered(answer.from, digest);
                    }
                    answer.deliver(reply.map(|it| (it.term, it.into_reply())))
                };
                self.stub().heartbeat_then(&args, call_deadline, done);
            }
            Request::TimeoutNow => {
                let args = TimeoutNowArgs { term: term.0, envelope: Some(envelope) };
                let done = move |reply: Result<TimeoutNowReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, Reply::TimeoutNow)))
                };
                self.stub().timeout_now_then(&args, call_deadline, done);
            }
            Request::ReadIndex(raft::ReadIndex { batch }) => {
                let args = ReadIndexArgs { term: term.0, envelope: Some(envelope), batch };
                let done = move |reply: Result<ReadIndexReply, _>| {
                    answer.deliver(reply.map(|it| (it.term, it.into_reply())))
                };
                self.stub().read_index_then(&args, call_deadline, done);
            }
            Request::Join(raft::Join { question, .. }) => {
                let args = JoinArgs { term: term.0, envelope: Some(envelope), question };
                let asker = self.shared.identity.affiliation();
                let done = move |reply: Result<JoinReply, _>| match reply {
                    Ok(reply) => {
                        let term = reply.term;
                        match reply.into_reply(question, asker) {
                            Ok(reply) => answer.deliver(Ok((term, reply))),
                            Err(error) => log::warn!("member {}: {error}", answer.from),
                        }
                    }
                    Err(error) => answer.deliver(Err(error)),
                };
                self.stub().join_then(&args, call_deadline, done);
            }
            // It goes in chunks from the disk, on a thread of its own.
            Request::InstallSnapshot(_) => self.send_snapshot(term),
        }
    }

    /// What takes the peer's answer to this request to the core.
    fn answer_to(&self, request: &Request) -> Answer {
        Answer {
            mailbox: self.mailbox.clone(),
            warnings: self.warnings.clone(),
            end: self.end.clone(),
            from: self.id,
            to: self.shared.identity.own(),
            // The core repeats these by itself, and a leader that answers them slowly is not lost.
            is_question: matches!(request, Request::ReadIndex(_) | Request::Join(_)),
            may_do: match request {
                Request::AppendEntries(_) => MayDo::Apply,
                _ => MayDo::ServeReads,
            },
        }
    }
}

/// The thread that keeps the connections to a peer up, and has snapshots sent to it.
pub(super) struct Peer {
    link: Arc<Link>,
    orders: Receiver<Order>,
    snapshots: Snapshots,
    transfer: Arc<Transfer>,
    sending: Option<JoinHandle<()>>,
    /// When to connect again after an attempt.
    retry_at: Instant,
    /// Since when there has been a connection.
    connected_at: Option<Instant>,
}

impl Peer {
    pub(super) fn new(link: Arc<Link>, orders: Receiver<Order>, snapshots: Snapshots) -> Peer {
        let (transfer, retry_at) = (Arc::default(), Instant::now());
        Peer { link, orders, snapshots, transfer, sending: None, retry_at, connected_at: None }
    }

    /// Works until `stop` closes.
    pub(super) fn run(mut self, stop: Receiver<()>) {
        let orders = self.orders.clone();
        self.connect();
        loop {
            let stands = self.connected_at.is_some_and(|since| since.elapsed() >= LOOK_PAUSE);
            let pause = if stands { LOOK_PAUSE } else { RECONNECT_PAUSE };
            select! {
                recv(stop) -> _ => break,
                recv(orders) -> order => match order {
                    Ok(Order::Connect) => { self.connect(); }
                    Ok(Order::Snapshot(term)) => {
                        self.send_snapshot(term, &stop);
                        self.link.mailbox.run_pending(MayDo::ServeReads);
                    }
                    Err(_) => break,
                },
                default(pause) => { self.connect(); }
            }
        }
        self.link.ends.iter().for_each(Ends::close);
        // A closed channel ends its calls, and so this thread.
        let _ = self.sending.map(JoinHandle::join);
    }

    fn connect(&mut self) -> bool {
        if self.link.stub().invoker().is_connected() {
            self.connected_at.get_or_insert_with(Instant::now);
            return true;
        }
        self.connected_at = None;
        if Instant::now() < self.retry_at {
            return false;
        }
        let connected = self.link.stub().invoker().connect_now(Instant::now() + CONNECT_TIMEOUT);
        // Also after success: a proxy in front of a dead peer accepts, and closes at once.
        self.retry_at = Instant::now() + RECONNECT_PAUSE;
        match &connected {
            Ok(()) => self.connected_at = Some(Instant::now()),
            Err(error) => {
                log::debug!("no connection to member {}: {}", self.link.id, ErrorChain(error));
                self.link.try_elsewhere();
            }
        }
        connected.is_ok()
    }

    /// Sends on a thread of its own, so that heartbeats go on meanwhile. One transfer at a time:
    /// the core waits for its end. A state that has diverged must not spread.
    fn send_snapshot(&mut self, term: Term, stop: &Receiver<()>) {
        let newest = self.snapshots.newest().filter(|_| !self.link.shared.watch.is_diverged());
        let Some(snapshot) = newest.filter(|_| self.connect()) else {
            return self.link.mailbox.disconnected(self.link.id);
        };
        if !self.transfer.try_begin() {
            return;
        }
        let sender = SnapshotSender {
            peer: self.link.id,
            term,
            snapshot,
            stub: self.link.bulk().clone(),
            mailbox: self.link.mailbox.clone(),
            shared: self.link.shared.clone(),
            stop: stop.clone(),
            transfer: self.transfer.clone(),
        };
        let name = format!("snap-{}-{}", self.link.shared.identity.own(), self.link.id);
        match thread::Builder::new().name(name).spawn(move || sender.run()) {
            Ok(thread) => self.sending = Some(thread),
            Err(_) => {
                self.transfer.end();
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
    warnings: Arc<Warnings>,
    /// Which of the peer's addresses is used.
    end: Arc<AtomicUsize>,
    from: MemberId,
    to: MemberId,
    is_question: bool,
    /// What the thread that brings it may do.
    may_do: MayDo,
}

impl Answer {
    fn deliver(self, answer: Result<(u64, Reply), CallError>) {
        let Answer { mailbox, warnings, end, from, to, is_question, may_do } = self;
        match answer {
            Ok((term, reply)) => {
                let body = Body::Reply(reply);
                // A full inbox loses it, as a network may.
                let _ = mailbox.message(Message { from, to, term: Term(term), token: 0, body });
            }
            Err(error) => {
                log::debug!("call to member {from} failed: {}", ErrorChain(&error));
                if let CallError::Refused { status, .. } = &error
                    && status.code == StatusCode::BadArguments
                {
                    let words = format!("member {from} refuses what we send: {}", status.message);
                    warnings.warn(from, words);
                    // Somebody else may be there by now.
                    end.fetch_add(1, Ordering::Relaxed);
                }
                if !is_question {
                    mailbox.disconnected(from);
                }
            }
        }
        mailbox.run_pending(may_do);
    }
}
