//! The calm after the faults: liveness. First a random quorum is well, then everyone.

use syncraft::raft::{Event, MemberId, RoleName};

use super::World;
use crate::member::Member;
use crate::plan::Faults;

/// How long a calm cluster may take to agree: fifty election timeouts, and time for each entry,
/// because with the smallest limits each entry takes a round trip.
const AGREE_WITHIN_US: u64 = 50 * 600_000;
const AGREE_EACH_ENTRY_WITHIN_US: u64 = 40_000;

/// How long it must then stay as it is.
const STABLE_FOR_US: u64 = 3_000_000;

impl World {
    /// No more faults. A random quorum is well; the others are down or cut off. Returns the quorum.
    pub(super) fn calm_quorum(&mut self) -> Vec<usize> {
        self.is_calm = true;
        self.late_until_us = self.now_us + 200 * self.plan.delay_us.end;
        self.plan.faults = Faults::default();
        (self.plan.delay_us, self.plan.disk_us) = (100..5_000, 50..2_000);
        self.plan.apply_us = 1..1_000;
        self.plan.clerks.attempt_timeout_us = 1_000_000;
        self.plan.request_every_us = 50_000;
        (0..self.members.len()).for_each(|at| self.free_disk(at));
        self.revive_some();
        self.forget_orders();
        let mut order: Vec<usize> = self.configured().into_iter().collect();
        self.fault_rng.shuffle(&mut order);
        // A member that lacks its data needs all the others.
        let is_any_joining = order.iter().any(|&at| !self.members[at].disk.is_voter());
        let memberships = self.memberships();
        let is_enough = |count: &usize| {
            let ids = order[..*count].iter().map(|&at| self.members[at].id);
            !is_any_joining && memberships.iter().all(|it| it.is_quorum(ids.clone()))
        };
        let quorum = (1..=order.len()).find(is_enough).unwrap_or(order.len());
        let well = order[..self.fault_rng.usize(quorum..=order.len())].to_vec();
        self.network.calm();
        for &lost in &order[well.len()..] {
            if self.fault_rng.bool() {
                self.crash(lost);
            }
            self.lose(lost);
        }
        self.trace.line(self.now_us, || format!("calm: {well:?} (counted from 0) are well"));
        well.iter().for_each(|&at| self.refresh(at));
        well.iter().for_each(|&at| self.make_well(at));
        // Former members may be there, too.
        for at in 0..self.members.len() {
            if !order.contains(&at) {
                self.make_well(at);
            }
        }
        well
    }

    /// What the operator wanted of a member that is paused comes too late: it would change who must
    /// be well. (Before a leader begins a change, its shell asks who is well.)
    pub(super) fn forget_orders(&mut self) {
        for living in self.members.iter_mut().filter_map(|member| member.living.as_mut()) {
            living.inbox.retain(|event| !matches!(event, Event::ChangeMembers { .. }));
        }
    }

    /// Former members may come back once more.
    fn revive_some(&mut self) {
        for at in 0..self.members.len() {
            if self.members[at].is_gone && self.fault_rng.bool() {
                self.revive(at);
            }
        }
    }

    /// Cuts a member off, perhaps one way only: a leader that is heard and hears nobody must step
    /// down by itself.
    fn lose(&mut self, at: usize) {
        let (is_heard, hears) =
            [(false, false), (true, false), (false, true)][self.fault_rng.usize(..3)];
        let id = self.members[at].id;
        for other in self.others(id) {
            if !is_heard {
                self.network.cut(id, other);
            }
            if !hears {
                self.network.cut(other, id);
            }
        }
        self.trace.line(self.now_us, || format!("{id} is lost: heard {is_heard}, hears {hears}"));
    }

    /// Everybody is well. Returns the members.
    pub(super) fn calm_all(&mut self) -> Vec<usize> {
        self.trace.line(self.now_us, || "calm: all are well");
        self.network.calm();
        self.marker = None;
        (0..self.members.len()).for_each(|at| self.refresh(at));
        (0..self.members.len()).for_each(|at| self.make_well(at));
        self.configured().into_iter().collect()
    }

    /// An operator starts a member again that has no data, and that knows only former members.
    fn refresh(&mut self, at: usize) {
        let list = self.members[at].list.clone();
        self.refresh_list(at);
        if self.members[at].list != list && !self.members[at].disk.is_voter() {
            self.kill(at);
        }
    }

    fn make_well(&mut self, at: usize) {
        match &self.members[at].living {
            None => self.start(at),
            Some(living) if living.is_paused => self.resume(at),
            Some(_) => {}
        }
    }

    /// A proposal and a read, again and again until one proposal has succeeded.
    pub(super) fn calm_requests(&mut self) -> Vec<Event> {
        match self.marker {
            Some((id, since_us))
                if self.oracle.requests.is_committed(id) || self.now_us < since_us + 500_000 =>
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

    pub(super) fn run_until_agreed(&mut self, well: &[usize]) {
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

    /// The marker is committed, all logs of members are equal and applied, no read waits, and no
    /// change is under way.
    fn is_agreed(&self, well: &[usize]) -> bool {
        let current = self.current_members();
        let well: Vec<usize> =
            well.iter().copied().filter(|at| current.contains(&self.members[*at].id)).collect();
        let newest = self.oracle.configurations.newest();
        if newest.is_none_or(|it| it.membership.is_joint()) {
            return false;
        }
        let committed = self.oracle.committed_index();
        let is_there = |member: &Member| {
            member.living.as_ref().is_some_and(|it| {
                it.status.last_index == committed
                    && it.machine.applied() == committed
                    && it.status.durable_index == committed
            })
        };
        let is_marked = self.marker.is_some_and(|(id, _)| self.oracle.requests.is_committed(id));
        let ids: Vec<MemberId> = well.iter().map(|&at| self.members[at].id).collect();
        is_marked
            && well.iter().all(|&at| is_there(&self.members[at]))
            && self.oracle.requests.reads_open_at(&ids) == 0
    }

    /// A healthy cluster keeps its leader, once earlier messages have arrived, including old orders
    /// to take over.
    pub(super) fn run_stable(&mut self) {
        self.run_until(self.late_until_us.max(self.now_us + 200 * self.plan.delay_us.end));
        let current = self.current_members();
        let roles = |world: &World, is_current: bool| -> Vec<_> {
            let asked = world.members.iter().filter(|it| current.contains(&it.id) == is_current);
            let roles = asked.map(|it| it.living.as_ref().map(|it| it.status.role));
            roles.collect()
        };
        let (before, former) = (roles(self, true), roles(self, false));
        self.run_until(self.now_us + STABLE_FOR_US);
        assert_eq!(roles(self, true), before, "a healthy cluster keeps its leader");
        for (before, after) in former.into_iter().zip(roles(self, false)) {
            let (Some(before), Some(after)) = (before, after) else { continue };
            assert_eq!(after.term, before.term, "a former member disturbs nobody");
            assert_ne!(after.role, RoleName::Leader, "a former member does not lead");
        }
    }
}
