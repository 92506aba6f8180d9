//! Load that nobody retries, and the members that it goes to.

use syncraft::kv::Store;
use syncraft::node::StateMachine;
use syncraft::raft::{Event, RequestId, RoleName, Term};

use super::steps::clock_us;
use super::{What, World};
use crate::clerk::Answer;
use crate::member::Member;

impl World {
    pub(super) fn ask(&mut self) {
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
        self.ask_other_leaders(at);
        self.after(self.plan.request_every_us, What::Requests);
    }

    /// No other member that believes it leads may serve a read that a new commit has made stale.
    pub(super) fn ask_other_leaders(&mut self, at: usize) {
        for other in (0..self.members.len()).filter(|&other| other != at) {
            self.ask_leader(other);
        }
    }

    /// A read, if this member believes that it leads.
    pub(super) fn ask_leader(&mut self, at: usize) {
        let role = self.members[at].living.as_ref().map(|living| living.status.role.role);
        if role == Some(RoleName::Leader) {
            let read = self.workload.read();
            self.request(at, read);
        }
    }

    pub(super) fn request(&mut self, at: usize, event: Event) {
        let Some(living) = &self.members[at].living else { return };
        let is_leader = living.status.role.role == RoleName::Leader;
        if let Event::Propose { id, .. } = event
            && is_leader
            && self.members[at].disk.is_full()
        {
            self.count("request refused: disk full");
            return self.end_request(at, id, Answer::Busy);
        }
        match &event {
            Event::Propose { id, command } => {
                self.oracle.requests.asked_to_propose(*id, command.clone());
            }
            Event::Read { id } => {
                self.oracle.asked_to_read(*id, self.members[at].id);
                if self.read_under_lease(at, *id) {
                    return;
                }
            }
            _ => {}
        }
        self.post(at, stamped(event));
    }

    /// Answers every other read without the core, as a node does, if a lease allows it.
    fn read_under_lease(&mut self, at: usize, read: RequestId) -> bool {
        let Member { id, living: Some(living), .. } = &self.members[at] else { return false };
        let now_us = clock_us(&self.plan, at, self.now_us, self.members[at].clock_jumps_us);
        let applied = living.machine.applied();
        let is_allowed = read.0.is_multiple_of(2)
            && !living.is_paused
            && now_us < living.core.lease_end_us()
            && applied >= living.status.commit_index;
        if is_allowed {
            self.oracle.requests.read_ready(read, *id, applied);
            self.count("read without the core");
            self.serve(at, read);
        }
        is_allowed
    }

    /// One of the members that believe they lead. In the calm the newest leader, because an old one
    /// may be in a minority.
    pub(super) fn leader_among(&mut self, is_asked: impl Fn(usize) -> bool) -> Option<usize> {
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

/// The leader adds its time to some commands.
fn stamped(event: Event) -> Event {
    match event {
        Event::Propose { id, command } if Store::is_stamped(&command) => {
            Event::ProposeStamped { id, command }
        }
        event => event,
    }
}
