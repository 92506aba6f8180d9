//! The event loop: virtual time, faults, and the two phases of a run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use syncraft::raft::{
    AppendEntriesReply, Body, Effect, Event, Index, MemberId, Message, Rejection, RequestId,
    RequestVoteReply, RoleName, Status, Term,
};

use crate::member::Member;
use crate::network::Network;
use crate::oracle::Oracle;
use crate::plan::{FAULTS_EVERY_US, Faults, Plan};
use crate::trace::{Detail, Trace};
use crate::workload::Workload;

/// How long a calm cluster may take to agree: fifty election timeouts, and time for each entry, as with the tiniest limits
/// each one takes a round trip.
const AGREE_WITHIN_US: u64 = 50 * 600_000;
const AGREE_EACH_ENTRY_WITHIN_US: u64 = 40_000;

/// How long it must then stay as it is.
const STABLE_FOR_US: u64 = 3_000_000;

/// What a run came to: how often what happened, and the hash of all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) trace_hash: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Report) {
        for (name, count) in &other.counts {
            *self.counts.entry(name).or_default() += count;
        }
        self.trace_hash ^= other.trace_hash;
    }

    /// The rare paths were all taken: otherwise the runs prove less than they seem to.
    pub(crate) fn assert_nothing_was_missed(&self) {
        for name in [
            "leader elected",
            "leader stepped down",
            "entries replaced",
            "conflict answered",
            "stale append refused",
            "vote refused",
            "committed before the leader's own disk",
            "read ready",
            "request refused: busy",
            "request refused: not leader",
            "crash",
            "crash lost writes",
            "partition",
            "pause",
            "disconnect",
            "disk stalled",
        ] {
            assert!(self.counts.get(name).is_some_and(|&count| count > 0), "never: {name}");
        }
    }
}

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
    is_calm: bool,
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
            is_calm: false,
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
        self.members[at].start(&self.plan);
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
            self.post(at, Event::Message(message));
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
                .map(|event| format!("{id} <- {}", words::event(event)))
                .collect::<Vec<_>>()
                .join("\n              ")
        });
        let before = living.status;
        let effects = living.core.step(events);
        living.status = living.core.status();
        self.note(at, before, &effects);
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
            self.trace.line(self.now_us, || format!("    {id} -> {}", words::effect(effect)));
            if let Effect::Persist(persist) = effect {
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
            }
            Effect::ReadReady(ids) => {
                let applied = self.members[at].living.as_ref().map_or(Index::ZERO, |it| it.applied);
                for read in ids {
                    self.count("read ready");
                    self.oracle.read_ready(read, id, applied);
                }
            }
            Effect::RoleChanged(_) => {}
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

/// Faults.
impl World {
    fn draw_faults(&mut self) {
        if self.is_calm {
            return;
        }
        let Faults { partition, crash, crash_all, pause, false_disconnect, disk_stall, .. } =
            self.plan.faults;
        if self.chance(partition) {
            self.partition();
        }
        if self.chance(crash) {
            let victim = self.victim();
            self.crash(victim);
        }
        if self.chance(crash_all) {
            (0..self.members.len()).for_each(|at| self.crash(at));
        }
        if self.chance(pause) {
            self.pause();
        }
        if self.chance(false_disconnect) {
            let (at, peer) = (self.victim(), self.victim());
            let peer = self.members[peer].id;
            self.disconnect(at, peer);
        }
        if self.chance(disk_stall) {
            self.count("disk stalled");
            let (at, for_us) = (self.victim(), self.fault_rng.u64(10_000..2_000_000));
            self.members[at].disk.stall(self.now_us, for_us);
        }
        self.after(FAULTS_EVERY_US, What::Faults);
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.fault_rng.f64() < probability
    }

    /// Whom it hits: a leader half the time, as most of what can go wrong begins there.
    fn victim(&mut self) -> usize {
        let leader = self.leader_among(|_| true).filter(|_| self.fault_rng.bool());
        leader.unwrap_or_else(|| self.fault_rng.usize(..self.members.len()))
    }

    fn partition(&mut self) {
        self.count("partition");
        let ids: Vec<MemberId> = self.members.iter().map(|member| member.id).collect();
        let words = self.network.partition(&ids);
        self.trace.line(self.now_us, || words);
        if self.plan.are_sockets_noticed && self.fault_rng.bool() {
            self.notice_cuts(&ids);
        }
        let for_us = self.fault_rng.u64(50_000..4_000_000);
        self.after(for_us, What::Heal);
    }

    fn notice_cuts(&mut self, ids: &[MemberId]) {
        for &one in ids {
            for &other in ids {
                if self.network.is_cut(one, other) {
                    self.disconnect(Self::at_of(one), other);
                    self.disconnect(Self::at_of(other), one);
                }
            }
        }
    }

    fn disconnect(&mut self, at: usize, peer: MemberId) {
        self.count("disconnect");
        let delay_us = self.fault_rng.u64(..5_000);
        self.after(delay_us, What::Happen(self.who(at), Event::Disconnected(peer)));
    }

    fn crash(&mut self, at: usize) {
        let Some(_) = self.members[at].living.take() else { return };
        let (id, is_loss) = (self.members[at].id, self.members[at].disk.crash(&mut self.disk_rng));
        self.trace.line(self.now_us, || format!("{id} crashes, writes lost: {is_loss}"));
        self.count("crash");
        if is_loss {
            self.count("crash lost writes");
        }
        self.oracle.crashed(id);
        if self.plan.are_sockets_noticed {
            (0..self.members.len()).filter(|&other| other != at).for_each(|other| {
                self.disconnect(other, id);
            });
        }
        let longest_us = if self.fault_rng.bool() { 50_000 } else { 3_000_000 };
        let for_us = self.fault_rng.u64(1_000..longest_us);
        self.after(for_us, What::Start(at));
    }

    fn pause(&mut self) {
        let at = self.victim();
        let Some(living) = &mut self.members[at].living else { return };
        living.is_paused = true;
        let id = self.members[at].id;
        self.trace.line(self.now_us, || format!("{id} pauses"));
        self.count("pause");
        let for_us = self.fault_rng.u64(10_000..2_000_000);
        self.after(for_us, What::Resume(self.who(at)));
    }

    /// A paused member wakes: sometimes its clock has stood still, sometimes all ticks come at once.
    fn resume(&mut self, at: usize) {
        let is_clock_kept = self.fault_rng.bool();
        let Some(living) = &mut self.members[at].living else { return };
        living.is_paused = false;
        if !is_clock_kept {
            living.inbox.retain(|event| !matches!(event, Event::Tick));
        }
        let outbox = std::mem::take(&mut living.outbox);
        let id = self.members[at].id;
        self.trace.line(self.now_us, || format!("{id} resumes"));
        outbox.into_iter().for_each(|message| self.send(at, message));
        self.step(at);
    }
}

/// The calm after: liveness.
impl World {
    /// No more faults, and a random quorum is well; the others are down or cut off. Gives the quorum.
    fn calm_quorum(&mut self) -> Vec<usize> {
        self.is_calm = true;
        self.plan.faults = Faults::default();
        (self.plan.delay_us, self.plan.disk_us) = (100..5_000, 50..2_000);
        self.plan.apply_us = 1..1_000;
        self.plan.request_every_us = 50_000;
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        self.fault_rng.shuffle(&mut order);
        let quorum = self.members.len() / 2 + 1;
        let well = order[..self.fault_rng.usize(quorum..=order.len())].to_vec();
        self.network.calm();
        for &lost in &order[well.len()..] {
            if self.fault_rng.bool() {
                self.crash(lost);
            }
            self.lose(lost);
        }
        self.trace.line(self.now_us, || format!("calm: {well:?} (counted from 0) are well"));
        well.iter().for_each(|&at| self.make_well(at));
        well
    }

    /// Cuts a member off, perhaps one way only: a leader that is heard and hears nobody must give up by itself.
    fn lose(&mut self, at: usize) {
        let (is_heard, hears) =
            [(false, false), (true, false), (false, true)][self.fault_rng.usize(..3)];
        let id = self.members[at].id;
        for other in (1..=self.plan.members).map(MemberId).filter(|&other| other != id) {
            if !is_heard {
                self.network.cut(id, other);
            }
            if !hears {
                self.network.cut(other, id);
            }
        }
        self.trace.line(self.now_us, || format!("{id} is lost: heard {is_heard}, hears {hears}"));
    }

    fn calm_all(&mut self) {
        self.trace.line(self.now_us, || "calm: all are well");
        self.network.calm();
        self.marker = None;
        (0..self.members.len()).for_each(|at| self.make_well(at));
    }

    fn make_well(&mut self, at: usize) {
        match &self.members[at].living {
            None => self.start(at),
            Some(living) if living.is_paused => self.resume(at),
            Some(_) => {}
        }
    }

    /// A proposal and a read, again and again until one proposal came through.
    fn calm_requests(&mut self) -> Vec<Event> {
        match self.marker {
            Some((id, since_us))
                if self.oracle.is_committed(id) || self.now_us < since_us + 500_000 =>
            {
                Vec::new()
            }
            _ => {
                let proposal = self.workload.proposal(&self.plan);
                if let Event::Propose { id, .. } = proposal {
                    self.marker = Some((id, self.now_us));
                }
                vec![proposal, self.workload.read()]
            }
        }
    }

    fn run_until_agreed(&mut self, well: &[usize]) {
        let since_us = self.now_us;
        let within_us =
            AGREE_WITHIN_US + AGREE_EACH_ENTRY_WITHIN_US * self.oracle.committed_index().0;
        while !self.is_agreed(well) {
            assert!(
                self.now_us - since_us < within_us,
                "no agreement: {:#?}",
                well.iter()
                    .map(|&at| self.members[at].living.as_ref().map(|it| it.status))
                    .collect::<Vec<_>>()
            );
            self.run_until(self.now_us + 20_000);
        }
        *self.counts.entry("ms until agreed").or_default() += (self.now_us - since_us) / 1_000;
    }

    /// The marker is committed, all logs are equal and applied, and no read waits.
    fn is_agreed(&self, well: &[usize]) -> bool {
        let committed = self.oracle.committed_index();
        let is_there = |member: &Member| {
            member.living.as_ref().is_some_and(|it| {
                it.status.last_index == committed
                    && it.applied == committed
                    && it.status.durable_index == committed
            })
        };
        let is_marked = self.marker.is_some_and(|(id, _)| self.oracle.is_committed(id));
        let ids: Vec<MemberId> = well.iter().map(|&at| self.members[at].id).collect();
        is_marked
            && well.iter().all(|&at| is_there(&self.members[at]))
            && self.oracle.reads_open_at(&ids) == 0
    }

    /// A healthy cluster keeps its leader.
    fn run_stable(&mut self) {
        let terms = |world: &World| -> Vec<_> {
            world.members.iter().map(|it| it.living.as_ref().map(|it| it.status.role)).collect()
        };
        let before = terms(self);
        self.run_until(self.now_us + STABLE_FOR_US);
        assert_eq!(terms(self), before, "a healthy cluster keeps its leader");
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

mod words {
    use super::*;

    pub(super) fn event(event: &Event) -> String {
        format!("{event:?}")
    }

    pub(super) fn effect(effect: &Effect) -> String {
        format!("{effect:?}")
    }
}
