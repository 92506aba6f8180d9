//! Whole clusters, message by message: a queue of sent messages, and disks that write at once or on
//! command.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use syncraft::raft::*;

use crate::node::*;
use crate::words;

pub(crate) struct Cluster {
    nodes: BTreeMap<u64, Node>,
    down: BTreeSet<u64>,
    /// Members that neither send nor receive.
    lost: BTreeSet<u64>,
    cut: BTreeSet<(u64, u64)>,
    /// Disks that write only on command.
    held: BTreeSet<u64>,
    pub(crate) queue: Vec<Message>,
    /// The events since they were last taken.
    pub(crate) story: Vec<String>,
    requests: u64,
}

impl Cluster {
    pub(crate) fn new(members: u64) -> Cluster {
        Cluster::with(members, |_| {})
    }

    pub(crate) fn with(members: u64, change: impl Fn(&mut Config)) -> Cluster {
        let start = |id| {
            let mut config = config(id, members);
            // A script says when there is a heartbeat.
            config.rare_heartbeat_ticks = config.heartbeat_ticks;
            change(&mut config);
            (id, Node::start(config, HardState::default(), None, Vec::new()))
        };
        Cluster {
            nodes: (1..=members).map(start).collect(),
            down: BTreeSet::new(),
            lost: BTreeSet::new(),
            cut: BTreeSet::new(),
            held: BTreeSet::new(),
            queue: Vec::new(),
            story: Vec::new(),
            requests: 0,
        }
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    pub(crate) fn is_down(&self, id: u64) -> bool {
        self.down.contains(&id)
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("the scripts name members only")
    }

    pub(crate) fn step(&mut self, id: u64, events: impl IntoIterator<Item = Event>) {
        if self.down.contains(&id) {
            return;
        }
        let effects = self.node_mut(id).step(events);
        self.take(id, effects);
        while !self.held.contains(&id) && !self.node(id).pending.is_empty() {
            self.persist_one(id);
        }
    }

    /// The oldest write of a held disk is done.
    pub(crate) fn persist_one(&mut self, id: u64) {
        let effects = self.node_mut(id).persist_one();
        self.take(id, effects);
    }

    fn take(&mut self, id: u64, effects: Vec<Effect>) {
        for effect in effects {
            let is_held = self.held.contains(&id);
            self.story.extend(words::effect(id, &effect, is_held));
            match effect {
                Effect::Send(message) => self.queue.push(message),
                Effect::SendSnapshot { to, term } => {
                    let node = self.node(id);
                    let meta = node.snapshot.expect("it has one to send");
                    let configuration = node.configuration.clone();
                    let end = Snapshot { meta, configuration };
                    let (from, body) = (MemberId(id), Body::Request(Request::InstallSnapshot(end)));
                    self.queue.push(Message { from, to, term, token: 0, body });
                }
                Effect::Apply(entries) => {
                    let last = entries.last().map_or(Index::ZERO, |entry| entry.index);
                    self.step(id, [Event::Applied(last)]);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn hold(&mut self, id: u64) {
        self.held.insert(id);
    }

    pub(crate) fn release(&mut self, id: u64) {
        self.held.remove(&id);
        while !self.node(id).pending.is_empty() {
            self.persist_one(id);
        }
    }

    /// Ticks until it asks for pre-votes.
    pub(crate) fn campaign(&mut self, id: u64) {
        for _ in 0..=self.node(id).config.election_ticks_max {
            let before = self.queue.len();
            self.step(id, [Event::Tick]);
            let is_asking = self.queue[before..].iter().any(is_vote_request);
            if is_asking || self.node(id).role() == RoleName::Leader {
                return;
            }
        }
        panic!("{id} does not campaign");
    }

    /// `id` campaigns, and every other member has forgotten its leader. Returns whether it wins.
    pub(crate) fn try_elect(&mut self, id: u64) -> bool {
        for other in self.ids() {
            if let Some(leader) = self.node(other).leader().filter(|&leader| leader != other) {
                self.step(other, [Event::Disconnected(MemberId(leader))]);
            }
        }
        self.campaign(id);
        while self.deliver_where(|message| {
            is_vote_request(message) || matches!(message.body, Body::Reply(Reply::RequestVote(_)))
        }) > 0
        {}
        self.node(id).role() == RoleName::Leader
    }

    pub(crate) fn elect(&mut self, id: u64) {
        assert!(self.try_elect(id), "{id} is elected: {:#?}", self.story);
    }

    /// A newcomer that has learned that it was added. Its disk is empty, and it looks for the
    /// others at `listed`.
    pub(crate) fn join(&mut self, id: u64, listed: &[u64]) {
        let mut config = Config::new(MemberId(id), listed.iter().map(|&id| MemberId(id)));
        config.directory = id;
        let node = Node::start(config, HardState::default(), None, Vec::new());
        self.nodes.insert(id, node);
    }

    /// An operator asks `id` for a change of the members.
    pub(crate) fn change(&mut self, id: u64, change: Change) {
        self.requests += 1;
        self.step(id, [Event::ChangeMembers { id: RequestId(self.requests), change }]);
    }

    pub(crate) fn propose(&mut self, id: u64, command: &str) {
        self.propose_all(id, &[command]);
    }

    pub(crate) fn propose_all(&mut self, id: u64, commands: &[&str]) {
        let event = |command: &&str| {
            self.requests += 1;
            let command = command.as_bytes().to_vec().into();
            Event::Propose { id: RequestId(self.requests), command }
        };
        let events: Vec<Event> = commands.iter().map(event).collect();
        self.step(id, events);
    }

    /// Delivers the messages in the queue that match, and returns how many. Messages that result
    /// from them stay in the queue.
    pub(crate) fn deliver_where(&mut self, fits: impl Fn(&Message) -> bool) -> usize {
        let (now, later) = std::mem::take(&mut self.queue).into_iter().partition(fits);
        let now: Vec<Message> = now;
        self.queue = later;
        let count = now.len();
        now.into_iter().for_each(|message| self.deliver(message));
        count
    }

    pub(crate) fn deliver(&mut self, message: Message) {
        let (from, to) = (message.from.0, message.to.0);
        let is_lost = [from, to].iter().any(|id| self.lost.contains(id))
            || self.cut.contains(&(from, to))
            || self.down.contains(&to);
        let fate = if is_lost { " (lost)" } else { "" };
        self.story.push(format!("{}{fate}", words::message(&message)));
        if !is_lost {
            if let Body::Request(Request::InstallSnapshot(snapshot)) = &message.body {
                let Snapshot { meta, configuration } = snapshot.clone();
                self.store_snapshot(to, meta, configuration);
            }
            self.step(to, [Event::Message(message)]);
        }
    }

    /// A message that nobody has sent.
    pub(crate) fn inject(&mut self, from: u64, to: u64, term: u64, body: Body) {
        let (from, to, term) = (MemberId(from), MemberId(to), Term(term));
        self.deliver(Message { from, to, term, token: 0, body });
    }

    /// Takes the newest append for `to` out of the queue.
    pub(crate) fn take_append(&mut self, to: u64) -> (u64, AppendEntries) {
        let is_it = |message: &Message| {
            message.to.0 == to && matches!(message.body, Body::Request(Request::AppendEntries(_)))
        };
        let at = self.queue.iter().rposition(is_it).expect("an append is in the queue");
        let Message { from, body: Body::Request(Request::AppendEntries(request)), .. } =
            self.queue.remove(at)
        else {
            unreachable!("it was just found")
        };
        (from.0, request)
    }

    /// Delivers everything, with heartbeats, until two rounds of heartbeats have changed nothing:
    /// the second one probes members that were away.
    pub(crate) fn settle(&mut self) {
        while self.deliver_where(|_| true) > 0 {}
        let mut idle_beats = 0;
        while idle_beats < 2 {
            let before = self.statuses();
            self.beat();
            while self.deliver_where(|_| true) > 0 {}
            idle_beats = if before == self.statuses() { idle_beats + 1 } else { 0 };
        }
    }

    fn statuses(&self) -> Vec<Status> {
        self.nodes.values().map(|node| node.raft.status()).collect()
    }

    /// Every leader sends its heartbeat.
    fn beat(&mut self) {
        for id in self.ids() {
            if self.node(id).role() == RoleName::Leader && !self.down.contains(&id) {
                let ticks = self.node(id).config.heartbeat_ticks;
                (0..ticks).for_each(|_| self.step(id, [Event::Tick]));
            }
        }
    }

    pub(crate) fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub(crate) fn lose(&mut self, id: u64) {
        self.lost.insert(id);
    }

    pub(crate) fn heal(&mut self) {
        self.lost.clear();
        self.cut.clear();
    }

    /// What was not on the disk is gone.
    pub(crate) fn crash(&mut self, id: u64) {
        self.down.insert(id);
        let node = self.node_mut(id);
        node.pending.clear();
    }

    pub(crate) fn restart(&mut self, id: u64) {
        let node = self.node(id);
        let configuration = node.configuration.clone();
        let snapshot = node.snapshot.map(|meta| Snapshot { meta, configuration });
        let (hard_state, entries) = (node.hard_state, node.entries.clone());
        self.start(id, hard_state, snapshot, entries);
    }

    /// Starts `id` with a disk that holds entries of these terms.
    pub(crate) fn restart_with(&mut self, id: u64, term: u64, log: &[u64]) {
        let hard_state = HardState { current_term: Term(term), voted_for: None };
        self.start(id, hard_state, None, entries(1, log));
    }

    /// A snapshot is on the disk of `id`: the newest one stays.
    fn store_snapshot(
        &mut self,
        id: u64,
        end: SnapshotMeta,
        configuration: Option<Arc<Configuration>>,
    ) {
        let node = self.node_mut(id);
        if node.snapshot.is_none_or(|old| old.last_included_index < end.last_included_index) {
            (node.snapshot, node.configuration) = (Some(end), configuration);
        }
    }

    /// `id` takes a snapshot of everything that it has applied.
    pub(crate) fn take_snapshot(&mut self, id: u64) {
        let last = self.node(id).applied.last().expect("something was applied");
        let end = end((last.index.0, last.term.0));
        let of = |entry: &Entry| match &entry.payload {
            Payload::Configuration(configuration) => Some(configuration.clone()),
            _ => None,
        };
        let node = self.node(id);
        let applied = node.applied.iter().rev().find_map(of);
        let configuration = applied.or_else(|| node.configuration.clone());
        self.store_snapshot(id, end, configuration);
        self.step(id, [Event::SnapshotTaken(end)]);
    }

    fn start(
        &mut self,
        id: u64,
        hard_state: HardState,
        snapshot: Option<Snapshot>,
        entries: Vec<Entry>,
    ) {
        self.down.remove(&id);
        self.lost.remove(&id);
        let mut config = self.node(id).config.clone();
        config.seed += 1;
        *self.node_mut(id) = Node::start_configured(config, hard_state, snapshot, entries);
    }
}

fn is_vote_request(message: &Message) -> bool {
    matches!(message.body, Body::Request(Request::RequestVote(_)))
}
