//! One core with a disk, and short constructors for messages. The node under test is member 1; its
//! peers are 2 and up.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use syncraft::raft::*;

pub(crate) struct Node {
    pub(crate) raft: Raft,
    pub(crate) config: Config,
    /// What the disk holds.
    pub(crate) hard_state: HardState,
    pub(crate) snapshot: Option<SnapshotMeta>,
    /// The configuration in that snapshot.
    pub(crate) configuration: Option<Arc<Configuration>>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) pending: VecDeque<Persist>,
    /// The core's log, as its writes have described it.
    pub(crate) log: Vec<Entry>,
    pub(crate) applied: Vec<Entry>,
}

impl Node {
    /// Member 1 of `members`, fresh.
    pub(crate) fn new(members: u64) -> Node {
        Node::restarted(members, 0, None, &[])
    }

    /// Member 1 of `members`, with a log on disk whose entries have these terms.
    pub(crate) fn restarted(members: u64, term: u64, voted_for: Option<u64>, log: &[u64]) -> Node {
        let hard_state = HardState { current_term: Term(term), voted_for: voted_for.map(MemberId) };
        Node::start(config(1, members), hard_state, None, entries(1, log))
    }

    /// With a given disk. The log is ignored if it does not continue the snapshot.
    pub(crate) fn start(
        config: Config,
        hard_state: HardState,
        snapshot: Option<SnapshotMeta>,
        entries: Vec<Entry>,
    ) -> Node {
        Node::start_configured(config, hard_state, snapshot.map(snapshot_of), entries)
    }

    /// The same, with a snapshot that has a configuration.
    pub(crate) fn start_configured(
        config: Config,
        hard_state: HardState,
        snapshot: Option<Snapshot>,
        mut entries: Vec<Entry>,
    ) -> Node {
        let configuration = snapshot.as_ref().and_then(|it| it.configuration.clone());
        let from = snapshot.clone();
        let snapshot = snapshot.map(|it| it.meta);
        if let Some(end) = snapshot {
            let begins_there = |entry: &Entry| entry.index == end.last_included_index.next();
            let is_held = entries.first().is_some_and(begins_there)
                || entries.iter().any(|entry| is_end(&end, entry));
            entries.retain(|entry| is_held && entry.index > end.last_included_index);
        }
        Node {
            raft: Raft::new(config.clone(), hard_state, from, entries.clone()),
            config,
            hard_state,
            snapshot,
            configuration,
            log: entries.clone(),
            entries,
            pending: VecDeque::new(),
            applied: Vec::new(),
        }
    }

    /// With other limits or times.
    pub(crate) fn with(members: u64, change: impl FnOnce(&mut Config)) -> Node {
        let mut config = config(1, members);
        change(&mut config);
        Node::start(config, HardState::default(), None, Vec::new())
    }

    /// Steps once. Writes stay under way.
    pub(crate) fn step(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Effect> {
        let effects = self.raft.step(events);
        for effect in &effects {
            match effect {
                Effect::Persist(persist) => {
                    write(&mut self.log, persist);
                    self.pending.push_back(persist.clone());
                }
                Effect::Apply(entries) => self.applied.extend_from_slice(entries),
                _ => {}
            }
        }
        effects
    }

    /// The oldest write reaches the disk. Returns the messages that waited for it, and all further
    /// effects.
    pub(crate) fn persist_one(&mut self) -> Vec<Effect> {
        let Some(persist) = self.pending.pop_front() else { return Vec::new() };
        self.hard_state = persist.hard_state.unwrap_or(self.hard_state);
        write(&mut self.entries, &persist);
        let mut effects: Vec<Effect> = persist.then.into_iter().map(Effect::Send).collect();
        effects.extend(self.step([Event::Persisted(persist.id)]));
        effects
    }

    /// Steps, and lets the disk write everything that results.
    pub(crate) fn run(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Effect> {
        let mut effects = self.step(events);
        while !self.pending.is_empty() {
            effects.extend(self.persist_one());
        }
        effects
    }

    /// Runs one message. Returns what is sent.
    pub(crate) fn receive(&mut self, message: Message) -> Vec<Message> {
        sent(&self.run([Event::Message(message)]))
    }

    /// Runs one message that has one answer.
    pub(crate) fn answer(&mut self, message: Message) -> Message {
        let mut replies = self.receive(message);
        replies.retain(|message| matches!(message.body, Body::Reply(_)));
        assert_eq!(replies.len(), 1, "one answer: {replies:?}");
        replies.remove(0)
    }

    pub(crate) fn tick(&mut self, ticks: u32) -> Vec<Effect> {
        (0..ticks).flat_map(|_| self.run([Event::Tick])).collect()
    }

    pub(crate) fn propose(&mut self, id: u64) -> Vec<Effect> {
        self.run([proposal(id)])
    }

    /// Ticks until it asks for pre-votes. Returns the number of ticks.
    pub(crate) fn time_out(&mut self) -> u32 {
        for tick in 1..=self.config.election_ticks_max {
            if !sent(&self.run([Event::Tick])).is_empty() || self.role() != RoleName::Follower {
                return tick;
            }
        }
        panic!("no campaign within the longest election timeout");
    }

    /// Times out while its disk is busy.
    pub(crate) fn time_out_held(&mut self) {
        while self.role() == RoleName::Follower {
            self.step([Event::Tick]);
        }
    }

    /// Times out and wins the pre-vote. Returns its requests for votes.
    pub(crate) fn stand(&mut self) -> Vec<Message> {
        self.time_out();
        let term = self.term() + 1;
        (2..=self.majority())
            .flat_map(|peer| self.receive(vote_reply(peer, term, true, true)))
            .collect()
    }

    /// Members 1 to this one are a quorum, and fewer are not.
    fn majority(&self) -> u64 {
        let is_quorum = |last: &u64| self.config.members.is_quorum((1..=*last).map(MemberId));
        (1..).find(is_quorum).expect("all members are a quorum")
    }

    /// Wins an election. Returns what the new leader sends.
    pub(crate) fn lead(&mut self) -> Vec<Message> {
        let mut messages = self.stand();
        let term = self.term();
        for peer in 2..=self.majority() {
            messages.extend(self.receive(vote_reply(peer, term, false, true)));
        }
        assert_eq!(self.role(), RoleName::Leader);
        messages
    }

    pub(crate) fn role(&self) -> RoleName {
        self.raft.status().role.role
    }

    pub(crate) fn term(&self) -> u64 {
        self.raft.status().role.term.0
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        self.raft.status().role.leader.map(|id| id.0)
    }

    pub(crate) fn commit(&self) -> u64 {
        self.raft.status().commit_index.0
    }

    pub(crate) fn last(&self) -> u64 {
        self.raft.status().last_index.0
    }

    pub(crate) fn nonsense(&self) -> u64 {
        self.raft.status().nonsense_count
    }

    /// The terms of its log's entries.
    pub(crate) fn terms(&self) -> Vec<u64> {
        self.log.iter().map(|entry| entry.term.0).collect()
    }
}

pub(crate) fn config(id: u64, members: u64) -> Config {
    Config::new(MemberId(id), (1..=members).map(MemberId))
}

/// Applies a `Persist`: a reset discards everything, and the first entry replaces everything from
/// its index on.
pub(crate) fn write(log: &mut Vec<Entry>, persist: &Persist) {
    if persist.reset.is_some() {
        log.clear();
    }
    if let Some(first) = persist.entries.first() {
        log.retain(|entry| entry.index < first.index);
        log.extend_from_slice(&persist.entries);
    }
}

/// The end of a snapshot (index, term).
pub(crate) fn end((index, term): (u64, u64)) -> SnapshotMeta {
    SnapshotMeta { last_included_index: Index(index), last_included_term: Term(term) }
}

/// A snapshot without a configuration.
pub(crate) fn snapshot_of(meta: SnapshotMeta) -> Snapshot {
    Snapshot { meta, configuration: None }
}

/// Where a member without a configuration says that it stands.
pub(crate) fn standpoint(question: u64, is_new: bool) -> JoinReply {
    JoinReply {
        question,
        is_new,
        last: None,
        cluster_id: 0,
        list_id: 0,
        configuration: None,
        is_settled: true,
        is_needed: false,
        is_removed: false,
    }
}

fn is_end(end: &SnapshotMeta, entry: &Entry) -> bool {
    (entry.index, entry.term) == (end.last_included_index, end.last_included_term)
}

/// Entries of these terms, from `from` on. Equal index and term give an equal command.
pub(crate) fn entries(from: u64, terms: &[u64]) -> Vec<Entry> {
    let entry = |(at, &term): (usize, &u64)| {
        let index = from + at as u64;
        let command = Bytes::from(format!("{index}/{term}"));
        Entry { index: Index(index), term: Term(term), payload: Payload::Command(command) }
    };
    terms.iter().enumerate().map(entry).collect()
}

pub(crate) fn proposal(id: u64) -> Event {
    Event::Propose { id: RequestId(id), command: Bytes::from(format!("command {id}")) }
}

pub(crate) fn read(id: u64) -> Event {
    Event::Read { id: RequestId(id) }
}

pub(crate) fn message(from: u64, term: u64, body: Body) -> Message {
    Message { from: MemberId(from), to: MemberId(1), term: Term(term), token: 7, body }
}

pub(crate) fn vote(from: u64, term: u64, last: (u64, u64)) -> Message {
    request_vote(from, term, false, last)
}

pub(crate) fn pre_vote(from: u64, term: u64, last: (u64, u64)) -> Message {
    request_vote(from, term, true, last)
}

fn request_vote(from: u64, term: u64, pre_vote: bool, (index, last_term): (u64, u64)) -> Message {
    let request = RequestVote {
        pre_vote,
        is_transfer: false,
        last_log_index: Index(index),
        last_log_term: Term(last_term),
    };
    message(from, term, Body::Request(Request::RequestVote(request)))
}

pub(crate) fn vote_reply(from: u64, term: u64, pre_vote: bool, vote_granted: bool) -> Message {
    message(
        from,
        term,
        Body::Reply(Reply::RequestVote(RequestVoteReply {
            pre_vote,
            vote_granted,
            is_removed: false,
        })),
    )
}

/// Entries of `terms` after `prev` (index, term).
pub(crate) fn append(
    from: u64,
    term: u64,
    prev: (u64, u64),
    terms: &[u64],
    commit: u64,
) -> Message {
    let request = AppendEntries {
        prev_log_index: Index(prev.0),
        prev_log_term: Term(prev.1),
        entries: entries(prev.0 + 1, terms),
        leader_commit: Index(commit),
    };
    message(from, term, Body::Request(Request::AppendEntries(request)))
}

pub(crate) fn matched(from: u64, term: u64, index: u64) -> Message {
    let reply = AppendEntriesReply::Matched { match_index: Index(index) };
    message(from, term, Body::Reply(Reply::AppendEntries(reply)))
}

pub(crate) fn conflict(from: u64, term: u64, rejected: u64, hint: (u64, u64)) -> Message {
    let reply = AppendEntriesReply::Conflict {
        rejected_index: Index(rejected),
        conflict_index: Index(hint.0),
        conflict_term: Term(hint.1),
    };
    message(from, term, Body::Reply(Reply::AppendEntries(reply)))
}

pub(crate) fn heartbeat(from: u64, term: u64, commit: u64, round: u64) -> Message {
    message(
        from,
        term,
        Body::Request(Request::Heartbeat(Heartbeat { leader_commit: Index(commit), round })),
    )
}

pub(crate) fn heartbeat_reply(from: u64, term: u64, round: u64) -> Message {
    promising_reply(from, term, round, 0)
}

/// An answer that promises not to elect anybody else for this long.
pub(crate) fn promising_reply(from: u64, term: u64, round: u64, promised_us: u64) -> Message {
    message(
        from,
        term,
        Body::Reply(Reply::Heartbeat(HeartbeatReply { round, promised_us, cannot_write: false })),
    )
}

/// An answer of a peer whose disk takes no writes.
pub(crate) fn unable_reply(from: u64, term: u64, round: u64) -> Message {
    let reply = HeartbeatReply { round, promised_us: 0, cannot_write: true };
    message(from, term, Body::Reply(Reply::Heartbeat(reply)))
}

pub(crate) fn read_index(from: u64, term: u64, batch: u64) -> Message {
    message(from, term, Body::Request(Request::ReadIndex(ReadIndex { batch })))
}

pub(crate) fn read_index_reply(
    from: u64,
    term: u64,
    batch: u64,
    committed: Option<(u64, u64)>,
) -> Message {
    let committed = committed.map(|(index, term)| (Index(index), Term(term)));
    message(from, term, Body::Reply(Reply::ReadIndex(ReadIndexReply { batch, committed })))
}

pub(crate) fn join(from: u64, term: u64, question: u64) -> Message {
    message(from, term, Body::Request(Request::Join(Join { question, is_stranger: false })))
}

pub(crate) fn join_reply(
    from: u64,
    term: u64,
    question: u64,
    is_new: bool,
    last: Option<(u64, u64)>,
) -> Message {
    let last = last.map(|(index, term)| (Index(index), Term(term)));
    message(
        from,
        term,
        Body::Reply(Reply::Join(JoinReply { last, ..standpoint(question, is_new) })),
    )
}

/// A snapshot that ends with this entry (index, term) has arrived.
pub(crate) fn install(from: u64, term: u64, last: (u64, u64)) -> Message {
    message(from, term, Body::Request(Request::InstallSnapshot(snapshot_of(end(last)))))
}

/// One message of every kind, of `term`.
pub(crate) fn every_message(term: u64) -> Vec<Message> {
    vec![
        vote(2, term, (9, term)),
        vote_reply(2, term, false, true),
        vote_reply(2, term, false, false),
        vote_reply(2, term, true, false),
        append(2, term, (0, 0), &[], 0),
        matched(2, term, 0),
        conflict(2, term, 1, (0, 0)),
        heartbeat(2, term, 0, 1),
        heartbeat_reply(2, term, 1),
        install(2, term, (0, 0)),
        read_index(2, term, 1),
        read_index_reply(2, term, 1, Some((0, 0))),
        join(2, term, 1),
        join_reply(2, term, 1, false, None),
    ]
}

pub(crate) fn sent(effects: &[Effect]) -> Vec<Message> {
    let message = |effect: &Effect| match effect {
        Effect::Send(message) => Some(message.clone()),
        _ => None,
    };
    effects.iter().filter_map(message).collect()
}

pub(crate) fn is_vote_granted(message: &Message) -> bool {
    matches!(
        message.body,
        Body::Reply(Reply::RequestVote(RequestVoteReply { vote_granted: true, .. }))
    )
}

pub(crate) fn appends(messages: &[Message]) -> Vec<(u64, AppendEntries)> {
    let append = |message: &Message| match &message.body {
        Body::Request(Request::AppendEntries(request)) => Some((message.to.0, request.clone())),
        _ => None,
    };
    messages.iter().filter_map(append).collect()
}

/// The rounds of the heartbeats among `messages` to member 2.
pub(crate) fn rounds(messages: &[Message]) -> Vec<u64> {
    let round = |message: &Message| match message.body {
        Body::Request(Request::Heartbeat(Heartbeat { round, .. })) if message.to == MemberId(2) => {
            Some(round)
        }
        _ => None,
    };
    messages.iter().filter_map(round).collect()
}
