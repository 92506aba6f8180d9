//! The event loop: virtual time, members, disks, messages. [`faults`] and [`calm`] are its two
//! phases.

mod calm;
mod clerks;
mod disks;
mod faults;
mod newcomers;
mod operator;
mod requests;
mod snapshots;
mod steps;
mod transfers;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use syncraft::kv::StoreView;
use syncraft::raft::{
    self, Body, Configuration, Event, Index, MemberId, Message, RequestId, Standing, Term,
};
use syncraft::storage::{Identity, Snapshot};

use crate::clerk::{Answer, Request};
use crate::member::Member;
use crate::network::{Letter, Network};
use crate::oracle::Oracle;
use crate::plan::{FAULTS_EVERY_US, Plan};
use crate::report::Report;
use crate::trace::{Detail, Trace};
use crate::workload::Workload;
use clerks::Clerks;
use operator::Operator;
use transfers::{Chunk, ChunkAnswer};

/// The hash of the list of the first members.
pub(crate) const FIRST_LIST_ID: u64 = 7;

pub(crate) struct World {
    plan: Plan,
    now_us: u64,
    scheduled: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    members: Vec<Member>,
    network: Network,
    oracle: Oracle,
    workload: Workload,
    clerks: Clerks,
    disk_rng: fastrand::Rng,
    fault_rng: fastrand::Rng,
    snapshot_rng: fastrand::Rng,
    operator: Operator,
    is_calm: bool,
    /// By then all messages sent before the calm have arrived.
    late_until_us: u64,
    /// In the calm: a proposal that must succeed, and when it was made.
    marker: Option<(RequestId, u64)>,
    /// Of the last transfer of a snapshot.
    last_token: u64,
    trace: Trace,
    counts: BTreeMap<&'static str, u64>,
}

struct Scheduled {
    at_us: u64,
    number: u64,
    what: What,
}

/// An event to come. A member is named with its life: an event for an earlier life is void.
enum What {
    Tick(Who),
    Step(Who),
    Arrive(Letter),
    Written(Who),
    Happen(Who, Event),
    /// A member's state machine says that it has applied everything up to here.
    Applied(Who, Index),
    Resume(Who),
    Crash(Who),
    DiskFreed(usize),
    /// A view of the state at this index was written out.
    SnapshotTaken(Who, Index, Option<Arc<Configuration>>, Box<StoreView>),
    ChunkArrived(Chunk),
    ChunkAnswered(Who, ChunkAnswer),
    /// The sender stops waiting for the answer to this many chunks.
    ChunkDeadline(Who, MemberId, u64, u64),
    /// A leader's whole snapshot is on the disk: the core may be told.
    SnapshotStored(Who, Message, Snapshot),
    Start(usize),
    /// A clerk's pause is over.
    ClerkActs {
        clerk: usize,
        attempt: u64,
    },
    /// A clerk's request reaches a member.
    Asked {
        at: usize,
        clerk: usize,
        attempt: u64,
        request: Request,
    },
    /// An answer reaches a clerk, or it has waited long enough.
    Answered {
        clerk: usize,
        attempt: u64,
        answer: Answer,
    },
    /// All members know of configurations.
    Upgraded,
    /// A member that was removed has had time to break the silence.
    Leave(Who),
    /// A member is cut off from all others.
    CutOff(usize),
    /// This member has committed something: does another one still believe that it leads?
    AskOtherLeaders(usize),
    Heal,
    Faults,
    Requests,
}

#[derive(Clone, Copy, Debug)]
struct Who {
    at: usize,
    life: u64,
}

impl World {
    /// Runs what a seed has drawn to its end.
    ///
    /// # Panics
    ///
    /// At the first violation.
    pub(crate) fn run(plan: Plan, detail: Detail) -> Report {
        let mut world = World::new(plan, Trace::new(detail));
        world.run_until(world.plan.safety_us);
        let quorum = world.calm_quorum();
        world.run_until_agreed(&quorum);
        let all = world.calm_all();
        world.run_until_agreed(&all);
        world.run_last_reads();
        world.run_stable();
        world.counts.extend(world.network.counts());
        let reference = world.oracle.reference();
        world.counts.insert("lease ended", reference.ended());
        world.counts.insert("request repeated", reference.repeated_requests());
        Report { trace_hash: world.trace.hash(), counts: world.counts }
    }

    fn new(plan: Plan, trace: Trace) -> World {
        let mut seeds = fastrand::Rng::with_seed(plan.seed ^ 0x5eed);
        let mut world = World {
            now_us: 0,
            scheduled: 0,
            queue: BinaryHeap::new(),
            members: first_members(&plan, &mut seeds),
            network: Network::new(seeds.u64(..)),
            oracle: Oracle::new(plan.first_members(), plan.session_limits, plan.clock_rate_max()),
            workload: Workload::new(seeds.u64(..)),
            clerks: Clerks::new(&plan, seeds.u64(..)),
            disk_rng: seeds.fork(),
            fault_rng: seeds.fork(),
            snapshot_rng: seeds.fork(),
            operator: Operator::new(seeds.u64(..)),
            is_calm: false,
            late_until_us: 0,
            marker: None,
            last_token: 0,
            trace,
            counts: BTreeMap::new(),
            plan,
        };
        world.trace.line(0, || format!("{:?}", world.plan));
        for at in 0..world.members.len() {
            world.start(at);
        }
        world.start_clerks();
        world.after(FAULTS_EVERY_US, What::Faults);
        world.after(world.plan.request_every_us, What::Requests);
        if let Some(at_us) = world.plan.upgraded_at_us {
            world.at(at_us, What::Upgraded);
        }
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
            What::Arrive(letter) => self.arrive(letter),
            What::Written(who) if self.is_alive(who) => self.written(who.at),
            What::Happen(who, event) if self.is_alive(who) => self.post(who.at, event),
            What::Applied(who, index) if self.is_alive(who) => self.say_applied(who.at, index),
            What::Resume(who) if self.is_alive(who) => self.resume(who.at),
            What::DiskFreed(at) => self.free_disk(at),
            What::SnapshotTaken(who, index, configuration, view) if self.is_alive(who) => {
                self.snapshot_taken(who.at, index, configuration.as_deref(), &view);
            }
            What::ChunkArrived(chunk) => self.chunk_arrived(chunk),
            What::ChunkAnswered(who, answer) if self.is_alive(who) => {
                self.chunk_answered(who.at, answer);
            }
            What::ChunkDeadline(who, peer, token, chunks) if self.is_alive(who) => {
                self.chunk_deadline(who.at, peer, token, chunks);
            }
            What::SnapshotStored(who, message, snapshot) if self.is_alive(who) => {
                self.snapshot_stored(who.at, message, snapshot);
            }
            What::Crash(who) if self.is_alive(who) && !self.is_calm => self.crash(who.at),
            What::Start(at) if self.members[at].living.is_none() => self.start(at),
            What::ClerkActs { clerk, attempt } => self.clerk_acts(clerk, attempt),
            What::Asked { at, clerk, attempt, request } => self.asked(at, clerk, attempt, request),
            What::Answered { clerk, attempt, answer } => self.answered(clerk, attempt, answer),
            What::Upgraded => self.upgraded(),
            What::Leave(who) if self.is_alive(who) => self.leave(who.at),
            What::CutOff(at) if !self.is_calm => self.cut_off(at),
            What::AskOtherLeaders(at) => self.ask_other_leaders(at),
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

    fn trace_of<D: std::fmt::Display>(&mut self, at: usize, words: impl FnOnce() -> D) {
        let id = self.members[at].id;
        self.trace.line(self.now_us, || format!("{id} {}", words()));
    }

    /// Each member has a clock of its own speed.
    fn tick(&mut self, who: Who) {
        if !self.is_alive(who) {
            return;
        }
        self.after(self.plan.tick_us[who.at], What::Tick(who));
        self.post(who.at, Event::Tick);
    }

    fn arrive(&mut self, Letter { mut message, sender }: Letter) {
        let at = Self::at_of(message.to);
        let is_cut = self.network.is_cut(message.from, message.to);
        if let Some(living) = &self.members[at].living
            && !is_cut
        {
            // The terms of another cluster mean nothing here, and only its questions are answered.
            if let Body::Request(request) = &message.body
                && !sender.is_compatible(living.affiliation)
            {
                let is_question = matches!(request, raft::Request::Join(_));
                message.term = Term::ZERO;
                self.count("message of another cluster");
                if !is_question {
                    return;
                }
            }
            self.arrived(at, message);
        } else if self.plan.are_sockets_noticed && self.members[at].living.is_none() {
            let who = self.who(Self::at_of(message.from));
            self.after(500, What::Happen(who, Event::Disconnected(message.to)));
        }
    }
}

fn first_members(plan: &Plan, seeds: &mut fastrand::Rng) -> Vec<Member> {
    let list = plan.first_members();
    // An older version calls its cluster by the hash of its list.
    let cluster_id = if plan.upgraded_at_us.is_some() { FIRST_LIST_ID } else { 0 };
    let member = |&member_id: &MemberId| {
        let identity = Identity { cluster_id, list_id: FIRST_LIST_ID, member_id };
        Member::new(identity, Standing::New, list.clone(), plan, seeds.u64(..))
    };
    list.iter().map(member).collect()
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
