//! The event loop: virtual time, members, disks, messages. [`faults`] and [`calm`] are its two phases.

mod calm;
mod faults;
mod snapshots;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use syncraft::raft::{
    AppendEntriesReply, Body, Effect, Event, Index, MemberId, Message, Rejection, RequestId,
    RequestVoteReply, RoleName, Status, Term,
};

use crate::member::Member;
use crate::network::Network;
use crate::oracle::Oracle;
use crate::plan::{FAULTS_EVERY_US, Plan};
use crate::report::Report;
use crate::trace::{Detail, Trace};
use crate::workload::Workload;

pub(crate) struct World {
    plan: Plan,
    now_us: u64,
    scheduled: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    members: Vec<Member>,
    network: Network,
    oracle: Oracle,
    workload: Workload,
    disk_rng: fastrand::Rng,
    fault_rng: fastrand::Rng,
    snapshot_rng: fastrand::Rng,
    is_calm: bool,
    /// By then all that was sent before the calm has arrived.
    late_until_us: u64,
    /// In the calm: a proposal that must come through, and when it was made.
    marker: Option<(RequestId, u64)>,
    trace: Trace,
    counts: BTreeMap<&'static str, u64>,
}

struct Scheduled {
    at_us: u64,
    number: u64,
    what: What,
}

/// Something to happen. A member is named with its life: what was meant for an earlier one is void.
enum What {
    Tick(Who),
    Step(Who),
    Arrive(Message),
    Written(Who),
    Happen(Who, Event),
    Resume(Who),
    Crash(Who),
    /// A snapshot of the state at this index is on the disk.
    SnapshotTaken(Who, Index),
    /// All of a snapshot has arrived at a peer's disk, if both are there.
    SnapshotArrived(Who, Message),
    /// Nobody waits for the answer any longer.
    SnapshotDeadline(Who, MemberId, u64),
    Start(usize),
    Heal,
    Faults,
    Requests,
}

#[derive(Clone, Copy)]
struct Who {
    at: usize,
    life: u64,
}

impl World {
    /// Runs one seed to its end.
    ///
    /// # Panics
    /// At the first violation.
    pub(crate) fn run(seed: u64, detail: Detail) -> Report {
        let mut world = World::new(Plan::draw(seed), Trace::new(detail));
        world.run_until(world.plan.safety_us);
        let quorum = world.calm_quorum();
        world.run_until_agreed(&quorum);
        let all: Vec<usize> = (0..world.members.len()).collect();
        world.calm_all();
        world.run_until_agreed(&all);
        world.run_stable();
        Report { trace_hash: world.trace.hash(), counts: world.counts }
    }

    fn new(plan: Plan, trace: Trace) -> World {
        let mut seeds = fastrand::Rng::with_seed(plan.seed ^ 0x5eed);
        let mut world = World {
            now_us: 0,
            scheduled: 0,
            queue: BinaryHeap::new(),
            members: (1..=plan.members).map(|id| Member::new(MemberId(id))).collect(),
            network: Network::new(seeds.u64(..)),
            oracle: Oracle::default(),
            workload: Workload::new(seeds.u64(..)),
            disk_rng: seeds.fork(),
            fault_rng: seeds.fork(),
            snapshot_rng: seeds.fork(),
            is_calm: false,
            late_until_us: 0,
            marker: None,
            trace,
            counts: BTreeMap::new(),
            plan,
        };
        world.trace.line(0, || format!("{:?}", world.plan));
        for at in 0..world.members.len() {
            world.start(at);
        }
        world.after(FAULTS_EVERY_US, What::Faults);
        world.after(world.plan.request_every_us, What::Requests);
        world
    }

    fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    fn after(&mut self, delay_us: u64, what: What) {
        self.at(self.now_us + delay_us, what);
    }

    fn at(&mut self, at_us: u64, what: What) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled { at_us, number: self.scheduled, what }));
    }

    fn run_until(&mut self, until_us: u64) {
        while let Some(Reverse(next)) = self.queue.pop() {
            if next.at_us > until_us {
                self.queue.push(Reverse(next));
                break;
            }
            self.now_us = next.at_us;
            self.happen(next.what);
        }
        self.now_us = until_us;
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Tick(who) => self.tick(who),
            What::Step(who) if self.is_alive(who) => self.step(who.at),
            What::Arrive(message) => self.arrive(message),
            What::Written(who) if self.is_alive(who) => self.written(who.at),
            What::Happen(who, event) if self.is_alive(who) => self.post(who.at, event),
            What::Resume(who) if self.is_alive(who) => self.resume(who.at),
            What::SnapshotTaken(who, index) if self.is_alive(who) => {
                self.snapshot_taken(who.at, index);
            }
            What::SnapshotArrived(who, message) => self.snapshot_arrived(who, message),
            What::SnapshotDeadline(who, peer, token) if self.is_alive(who) => {
                self.snapshot_failed(who.at, peer, token);
            }
            What::Crash(who) if self.is_alive(who) && !self.is_calm => self.crash(who.at),
            What::Start(at) if self.members[at].living.is_none() => self.start(at),
            What::Heal if !self.is_calm => {
                self.trace.line(self.now_us, || "heal");
                self.network.heal();
            }
            What::Faults => self.draw_faults(),
            What::Requests => self.ask(),
            _ => {}
        }
    }

    fn is_alive(&self, who: Who) -> bool {
        self.members[who.at].living.is_some() && self.members[who.at].life == who.life
    }

    fn who(&self, at: usize) -> Who {
        Who { at, life: self.members[at].life }
    }

    fn at_of(id: MemberId) -> usize {
        id.0 as usize - 1
    }

    fn start(&mut self, at: usize) {
        let is_reset = self.members[at].start(&self.plan);
        self.count_restart(at, is_reset);
        let (id, life) = (self.members[at].id, self.members[at].life);
        self.trace.line(self.now_us, || format!("{id} starts, life {life}"));
        let phase_us = self.fault_rng.u64(..self.plan.tick_us[at]);
        self.after(phase_us, What::Tick(self.who(at)));
    }

    fn tick(&mut self, who: Who) {
        if !self.is_alive(who) {
            return;
        }
        self.after(self.plan.tick_us[who.at], What::Tick(who));
        self.post(who.at, Event::Tick);
    }

    fn arrive(&mut self, message: Message) {
        let at = Self::at_of(message.to);
        if self.members[at].living.is_some() && !self.network.is_cut(message.from, message.to) {
            self.arrived(at, message);
        } else if self.plan.are_sockets_noticed && self.members[at].living.is_none() {
            let who = self.who(Self::at_of(message.from));
            self.after(500, What::Happen(who, Event::Disconnected(message.to)));
        }
    }

    /// An event reaches a member, which takes it now, with others, or after its pause.
    fn post(&mut self, at: usize, event: Event) {
        let Some(living) = &mut self.members[at].living else { return };
        living.inbox.push(event);
        if living.is_paused {
            return;
        }
        if self.plan.batch_us == 0 {
            self.step(at);
        } else if !std::mem::replace(&mut living.is_step_due, true) {
            let delay_us = self.disk_rng.u64(..self.plan.batch_us);
            self.after(delay_us, What::Step(self.who(at)));
        }
    }

    fn step(&mut self, at: usize) {
        let member = &mut self.members[at];
        let Some(living) = &mut member.living else { return };
        living.is_step_due = false;
        if living.is_paused || living.inbox.is_empty() {
            return;
        }
        let events = std::mem::take(&mut living.inbox);
        let id = member.id;
        self.trace.line(self.now_us, || {
            events
                .iter()
                .map(|event| format!("{id} <- {event:?}"))
                .collect::<Vec<_>>()
                .join("\n              ")
        });
        let before = living.status;
        let snapshots = snapshots::among(&events);
        let effects = living.core.step(events);
        living.status = living.core.status();
        self.note(at, before, &effects);
        self.count_snapshots(at, before, &snapshots, &effects);
        for effect in effects {
            self.carry_out(at, effect);
        }
    }

    /// Shows the oracle what a step has done, before anything of it is carried out.
    fn note(&mut self, at: usize, before: Status, effects: &[Effect]) {
        let Member { id, living, .. } = &mut self.members[at];
        let (id, living) = (*id, living.as_mut().expect("it has just taken a step"));
        let mut replaced = 0;
        for effect in effects {
            self.trace.line(self.now_us, || format!("    {id} -> {effect:?}"));
            if let Effect::Persist(persist) = effect {
                if let Some(snapshot) = persist.reset {
                    living.log.reset(self.oracle.canonical(snapshot.last_included_index));
                }
                replaced += living.log.write(&persist.entries);
                self.oracle.wrote(&living.log, &persist.entries);
            }
        }
        let after = living.status;
        let numbers = [
            self.now_us,
            id.0,
            after.role.term.0,
            after.role.role as u64,
            after.last_index.0,
            after.commit_index.0,
            effects.len() as u64,
        ];
        self.trace.mix(&numbers);
        self.oracle.stepped(&self.members, at, before);
        self.members[at].snapshot_index = after.snapshot_index;
        self.count_changes(before, after, replaced);
    }

    fn count_changes(&mut self, before: Status, after: Status, replaced: usize) {
        self.count("step");
        *self.counts.entry("entries replaced").or_default() += replaced as u64;
        match (before.role.role, after.role.role) {
            (RoleName::Leader, RoleName::Leader) => {}
            (RoleName::Leader, _) => self.count("leader stepped down"),
            (_, RoleName::Leader) => self.count("leader elected"),
            _ => {}
        }
        let committed = after.commit_index.0 - before.commit_index.0;
        if after.role.role == RoleName::Leader && committed > 0 {
            *self.counts.entry("entries committed").or_default() += committed;
            if after.commit_index > after.durable_index {
                self.count("committed before the leader's own disk");
            }
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let id = self.members[at].id;
        match effect {
            Effect::Send(message) => self.send(at, message),
            Effect::Persist(persist) => {
                let duration_us = self.disk_rng.u64(self.plan.disk_us.clone());
                let done_us = self.members[at].disk.submit(persist, self.now_us, duration_us);
                self.at(done_us, What::Written(self.who(at)));
            }
            Effect::Proposed { id, index, term } => self.oracle.proposed(id, index, term),
            Effect::Rejected { id, reason } => {
                self.count(match reason {
                    Rejection::Busy => "request refused: busy",
                    Rejection::NotLeader(_) => "request refused: not leader",
                });
                self.oracle.rejected(id);
            }
            Effect::Apply(entries) => {
                let Some(living) = &mut self.members[at].living else { return };
                self.oracle.applies(living, &entries);
                living.applied = entries.last().map_or(living.applied, |entry| entry.index);
                let applied = Event::Applied(living.applied);
                let delay_us = self.disk_rng.u64(self.plan.apply_us.clone());
                self.after(delay_us, What::Happen(self.who(at), applied));
                self.draw_snapshot(at);
            }
            Effect::SendSnapshot { to, term } => self.send_snapshot(at, to, term),
            Effect::Install(snapshot) => self.install(at, snapshot),
            Effect::ReadReady(ids) => {
                let applied = self.members[at].living.as_ref().map_or(Index::ZERO, |it| it.applied);
                for read in ids {
                    self.count("read ready");
                    self.oracle.read_ready(read, id, applied);
                }
            }
            Effect::PeerLostData { .. } | Effect::RoleChanged(_) | Effect::Joined => {}
        }
    }

    fn send(&mut self, at: usize, message: Message) {
        self.oracle.sends(&self.members[at], &message);
        match message.body {
            Body::AppendEntriesReply(AppendEntriesReply::Conflict { .. }) => {
                self.count("conflict answered");
            }
            Body::AppendEntriesReply(AppendEntriesReply::Stale) => {
                self.count("stale append refused");
            }
            Body::RequestVoteReply(RequestVoteReply { vote_granted: false, .. }) => {
                self.count("vote refused");
            }
            _ => {}
        }
        for (at_us, message) in self.network.send(&self.plan, self.now_us, message) {
            self.at(at_us, What::Arrive(message));
        }
    }

    /// A flush is done, for all writes that shared it.
    fn written(&mut self, at: usize) {
        let (Some(id), then) = self.members[at].disk.complete(self.now_us) else { return };
        let Some(living) = &mut self.members[at].living else { return };
        if living.is_paused {
            living.outbox.extend(then);
            return living.inbox.push(Event::Persisted(id));
        }
        let is_told_first = self.disk_rng.bool();
        if is_told_first {
            self.post(at, Event::Persisted(id));
        }
        then.into_iter().for_each(|message| self.send(at, message));
        if !is_told_first {
            self.post(at, Event::Persisted(id));
        }
    }

    fn ask(&mut self) {
        let requests =
            if self.is_calm { self.calm_requests() } else { self.workload.requests(&self.plan) };
        let leader = self.leader_among(|_| true);
        let is_elsewhere = !self.is_calm && self.workload.rng().u8(0..8) == 0;
        let at = match leader {
            Some(at) if !is_elsewhere => at,
            _ => self.workload.rng().usize(..self.members.len()),
        };
        for event in requests {
            self.request(at, event);
        }
        // Everyone else who says it leads must not serve a read that another's commit has made stale.
        for other in 0..self.members.len() {
            let status = self.members[other].living.as_ref().map(|living| living.status.role.role);
            if other != at && status == Some(RoleName::Leader) {
                let read = self.workload.read();
                self.request(other, read);
            }
        }
        self.after(self.plan.request_every_us, What::Requests);
    }

    fn request(&mut self, at: usize, event: Event) {
        if self.members[at].living.is_none() {
            return;
        }
        match &event {
            Event::Propose { id, .. } => self.oracle.asked_to_propose(*id),
            Event::Read { id } => self.oracle.asked_to_read(*id, self.members[at].id),
            _ => {}
        }
        self.post(at, event);
    }

    /// One of those who say they lead; in the calm the newest, as an old one may sit in a minority.
    fn leader_among(&mut self, is_asked: impl Fn(usize) -> bool) -> Option<usize> {
        let leads = |member: &Member| {
            let role = member.living.as_ref()?.status.role;
            (role.role == RoleName::Leader).then_some(role.term)
        };
        let mut leaders: Vec<(Term, usize)> = self
            .members
            .iter()
            .enumerate()
            .filter(|(at, _)| is_asked(*at))
            .filter_map(|(at, member)| Some((leads(member)?, at)))
            .collect();
        leaders.sort_unstable();
        if self.is_calm {
            return leaders.last().map(|&(_, at)| at);
        }
        let choice = self.workload.rng().usize(..leaders.len().max(1));
        leaders.get(choice).map(|&(_, at)| at)
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}
