//! What happens to a member, and what it does: events in, one step of the core, effects out, in
//! order.

use syncraft::kv::{Outcome, Store};
use syncraft::node::StateMachine;
use syncraft::raft::{
    AppendEntriesReply, Body, Effect, Entry, Event, Index, Message, Payload, Rejection, Reply,
    Request, RequestId, RequestVoteReply, RoleChange, RoleName, Status,
};

use super::{What, World, snapshots};
use crate::clerk::Answer;
use crate::disk::Write;
use crate::lies::Lie;
use crate::machine::Applied;
use crate::member::{Living, Member};
use crate::network::Letter;
use crate::plan::{Plan, TICK_US};
use crate::show;

impl World {
    /// An event reaches a member, which takes it now, together with others, or after its pause.
    pub(super) fn post(&mut self, at: usize, event: Event) {
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

    pub(super) fn step(&mut self, at: usize) {
        let member = &mut self.members[at];
        let Some(living) = &mut member.living else { return };
        living.is_step_due = false;
        if living.is_paused || living.inbox.is_empty() {
            return;
        }
        let mut events = std::mem::take(&mut living.inbox);
        // Read once everything in the batch has arrived.
        let now_us = clock_us(&self.plan, at, self.now_us, member.clock_jumps_us);
        events.insert(0, Event::Clock(now_us));
        let has_ticked = events.iter().any(|event| matches!(event, Event::Tick));
        if has_ticked && living.core.is_time_due(now_us, None) {
            let (id, command) = (self.workload.next_id(), Store::time_command());
            self.oracle.requests.asked_to_propose(id, command.clone());
            events.push(Event::ProposeTime { id, command });
            *self.counts.entry("time told").or_default() += 1;
        }
        let id = member.id;
        self.trace.line(self.now_us, || {
            events
                .iter()
                .filter(|event| !matches!(event, Event::Tick))
                .map(|event| format!("{id} <- {}", show::event(event)))
                .collect::<Vec<_>>()
                .join("\n              ")
        });
        let before = living.status;
        let (snapshots, reads) = (snapshots::among(&events), reads_among(&events));
        let is_calm =
            matches!(events[..], [Event::Clock(_), Event::Tick]) && living.core.calm_ticks() > 1;
        let effects = living.core.step(events);
        living.status = living.core.status();
        assert!(
            !is_calm || !is_any_awaited(&effects),
            "a core that is calm has nothing to send: {effects:?}"
        );
        self.note(at, before, &effects);
        self.count_snapshots(at, before, &snapshots, &effects);
        self.count_lease_reads(&reads, &effects);
        for effect in effects {
            self.carry_out(at, effect);
        }
        if let Some(living) = &mut self.members[at].living {
            living.received.clear();
        }
    }

    /// Shows a step's result to the oracle before any effect is carried out.
    fn note(&mut self, at: usize, before: Status, effects: &[Effect]) {
        let Member { id, living, .. } = &mut self.members[at];
        let (id, living) = (*id, living.as_mut().expect("it has just taken a step"));
        let mut replaced = 0;
        self.oracle.ordered(living, effects);
        living.in_force = vec![living.log.configuration().map(|(_, it)| it.clone())];
        for effect in effects {
            self.trace.line(self.now_us, || format!("    {id} -> {}", show::effect(effect)));
            if let Effect::Reconfigured(configured) = effect {
                living.configured = configured.clone();
            }
            if let Effect::Persist(persist) = effect {
                if let Some(snapshot) = persist.reset {
                    living.log.reset(self.oracle.canonical(snapshot.last_included_index));
                }
                replaced += living.log.write(&persist.entries);
                living.note_configurations(&persist.entries);
                self.oracle.wrote(living, &persist.entries);
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
        self.check_changes(at, effects);
        let may_change = self.plan.faults.change > 0.0 || self.is_calm;
        self.oracle.stepped(&self.members, at, before, may_change);
        self.members[at].snapshot_index = after.snapshot_index;
        self.count_changes(before, after, replaced);
        // A lease that should be over shows at this moment.
        if self.plan.lease && after.commit_index > before.commit_index {
            self.after(0, What::AskOtherLeaders(at));
        }
    }

    fn check_changes(&self, at: usize, effects: &[Effect]) {
        let Some(living) = &self.members[at].living else { return };
        let persists = effects.iter().filter_map(|effect| match effect {
            Effect::Persist(persist) => Some(persist),
            _ => None,
        });
        for entry in persists.flat_map(|persist| &persist.entries) {
            self.oracle.configurations.appended(&self.members, living, entry);
        }
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

    fn count_lease_reads(&mut self, asked: &[RequestId], effects: &[Effect]) {
        let is_ready = |effect: &Effect| match effect {
            Effect::ReadReady(ids) => ids.iter().any(|id| asked.contains(id)),
            _ => false,
        };
        if self.plan.lease && self.members.len() > 1 && effects.iter().any(is_ready) {
            self.count("read under a lease");
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let id = self.members[at].id;
        match effect {
            Effect::Send(message) => self.send(at, message),
            Effect::Persist(persist) => {
                if self.plan.lie == Some(Lie::EarlyAnswers) {
                    persist.then.iter().for_each(|message| self.send(at, message.clone()));
                }
                self.submit(at, Write::Persist(persist));
            }
            Effect::Proposed { id, .. } if self.change_begun(id) => {}
            Effect::Rejected { id, reason } if self.change_refused(id, reason) => {}
            Effect::Proposed { id, index, term } => {
                self.oracle.requests.proposed(id, index, term);
                self.oracle.times.appended(index, term, self.now_us);
                let Some(living) = &mut self.members[at].living else { return };
                if living.waiting.contains_key(&id) {
                    living.machine.expect(index, term, id);
                }
            }
            Effect::Rejected { id, reason } => self.reject(at, id, reason),
            Effect::Apply(entries) => self.apply(at, entries),
            Effect::SendSnapshot { to, term } => self.send_snapshot(at, to, term),
            Effect::TakeSnapshot => {
                self.count("snapshot asked for by a leader");
                self.take_snapshot(at);
            }
            Effect::Install(snapshot) => self.install(at, snapshot),
            Effect::ReleaseLog(index) => self.submit(at, Write::Release(index)),
            Effect::ReadReady(ids) => {
                let Some(living) = &self.members[at].living else { return };
                let applied = living.machine.applied();
                // A machine takes its time to answer, and says when it has.
                let delay_us = self.disk_rng.u64(self.plan.apply_us.clone());
                let who = self.who(at);
                self.after(0, What::Happen(who, Event::Unanswered(ids.len())));
                self.after(delay_us, What::Happen(who, Event::Unanswered(0)));
                for read in ids {
                    self.count("read ready");
                    self.oracle.requests.read_ready(read, id, applied);
                    self.serve(at, read);
                }
            }
            Effect::RoleChanged(role) => self.role_changed(at, role),
            Effect::Joined => {
                self.count("member joined");
                self.submit(at, Write::Joined);
            }
            Effect::TakeCluster { cluster_id, list_id, standing } => {
                self.submit(at, Write::TakeCluster { cluster_id, list_id, standing });
            }
            Effect::ClusterKnown(cluster_id) => {
                self.cluster_known(at, cluster_id);
                if self.plan.is_upgraded(self.now_us) {
                    self.after(0, What::Happen(self.who(at), Event::MayConfigure));
                }
            }
            Effect::Reconfigured(configured) => self.reconfigured(at, &configured),
            Effect::Removed => self.removed(at),
            _ => {}
        }
    }

    fn reject(&mut self, at: usize, id: RequestId, reason: Rejection) {
        self.oracle.requests.rejected(id);
        let (name, answer) = match reason {
            Rejection::Busy => ("request refused: busy", Answer::Busy),
            Rejection::Members(refusal) => panic!("a request is refused as a change: {refusal:?}"),
            Rejection::HandingOver => ("request refused: handing over", Answer::Busy),
            Rejection::NotLeader(hint) => {
                ("request refused: not leader", Answer::NotLeader { hint, may_apply: false })
            }
        };
        self.count(name);
        self.end_request(at, id, answer);
    }

    /// A leader that steps down does not know what becomes of its proposals.
    fn role_changed(&mut self, at: usize, RoleChange { role, leader, .. }: RoleChange) {
        let Some(living) = &mut self.members[at].living else { return };
        let is_leader = role == RoleName::Leader;
        if std::mem::replace(&mut living.was_leader, is_leader) && !is_leader {
            for id in living.machine.give_up() {
                self.end_request(at, id, Answer::NotLeader { hint: leader, may_apply: true });
            }
        }
    }

    fn apply(&mut self, at: usize, entries: Vec<Entry>) {
        let Some(living) = &self.members[at].living else { return };
        self.oracle.applies(living, &entries);
        for entry in &entries {
            self.apply_entry(at, entry);
        }
        let delay_us = self.disk_rng.u64(self.plan.apply_us.clone());
        let applied = entries.last().map_or(Index::ZERO, |entry| entry.index);
        self.after(delay_us, What::Applied(self.who(at), applied));
        self.draw_snapshot(at);
    }

    /// The core learns of the time first: see [`Event::AppliedTime`].
    pub(super) fn say_applied(&mut self, at: usize, index: Index) {
        self.say_time(at);
        self.post(at, Event::Applied(index));
    }

    pub(super) fn say_time(&mut self, at: usize) {
        let Some(living) = &mut self.members[at].living else { return };
        let is_anew = std::mem::take(&mut living.is_anew);
        let time = living.machine.time();
        self.post(at, Event::AppliedTime { time, is_anew });
    }

    fn apply_entry(&mut self, at: usize, entry: &Entry) {
        let Some(living) = &mut self.members[at].living else { return };
        let Living { machine, is_anew, .. } = living;
        if self.plan.lie == Some(Lie::SkippedEntries) && self.disk_rng.u8(0..50) == 0 {
            return;
        }
        let is_stamped = match &entry.payload {
            Payload::Command(command) => Store::is_stamped(command),
            Payload::Noop | Payload::Configuration(_) => false,
        };
        *is_anew |= is_stamped;
        let Applied { outcome, expected } = machine.apply(entry);
        self.oracle.applied(machine, entry, &outcome);
        let loaded = machine.loaded();
        match &outcome {
            &Some(Outcome::Applied { index } | Outcome::Ran { index, .. })
                if index < entry.index =>
            {
                self.count("write repeated");
                if index <= loaded {
                    self.count("write repeated after a snapshot");
                }
            }
            Some(Outcome::SessionExpired { .. }) => self.count("session expired"),
            _ => {}
        }
        if let Some((id, is_same)) = expected {
            if !is_same {
                self.count("write superseded");
            }
            let answer = match outcome.filter(|_| is_same) {
                Some(outcome) => Answer::Written(outcome),
                // Another entry took its place: it never takes effect.
                None => Answer::NotLeader { hint: None, may_apply: false },
            };
            self.end_request(at, id, answer);
        }
    }

    pub(super) fn send(&mut self, at: usize, message: Message) {
        self.oracle.sends(&self.members[at], &message);
        match message.body {
            Body::Reply(Reply::AppendEntries(AppendEntriesReply::Conflict { .. })) => {
                self.count("conflict answered");
            }
            Body::Reply(Reply::AppendEntries(AppendEntriesReply::Stale)) => {
                self.count("stale append refused");
            }
            Body::Reply(Reply::RequestVote(RequestVoteReply { vote_granted: false, .. })) => {
                self.count("vote refused");
            }
            _ => {}
        }
        let Some(living) = &self.members[at].living else { return };
        let letter = Letter { message, sender: living.affiliation };
        for (at_us, letter) in self.network.send(&self.plan, self.now_us, letter) {
            self.at(at_us, What::Arrive(letter));
        }
    }
}

/// What a member's boot-time clock reads: it runs as fast as its ticks come, and jumps.
pub(super) fn clock_us(plan: &Plan, at: usize, now_us: u64, jumps_us: (u64, u64)) -> u64 {
    let (forward_us, back_us) = jumps_us;
    let begin_us = 1_000_000 * (1 + at as u64) + forward_us - back_us;
    begin_us + now_us * TICK_US / plan.tick_us[at]
}

fn reads_among(events: &[Event]) -> Vec<RequestId> {
    let read = |event: &Event| match event {
        Event::Read { id } => Some(*id),
        _ => None,
    };
    events.iter().filter_map(read).collect()
}

/// Whether any request leaves, except that a leader hands over because its disk has been bad for
/// long enough. One that steps down answers what it has been asked.
fn is_any_awaited(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| match effect {
        Effect::Send(Message { body: Body::Request(request), .. }) => {
            !matches!(request, Request::TimeoutNow)
        }
        _ => false,
    })
}
