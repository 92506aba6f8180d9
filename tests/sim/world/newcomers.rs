//! Members that come and go: newcomers with an empty directory, former members that stop, and
//! former members that come back with what they had.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncraft::raft::{
    Configuration, Configured, Event, Index, MemberId, Membership, Payload, Standing,
};
use syncraft::storage::Identity;

use super::{FIRST_LIST_ID, What, World};
use crate::device::Loss;
use crate::disk::Write;
use crate::member::Member;
use crate::plan::NEWCOMERS_MAX;

/// A newcomer's list is only where it looks for the others.
const NO_LIST_ID: u64 = 0;

impl World {
    /// The first members, while no configuration is committed; then those of the newest one.
    pub(super) fn current_members(&self) -> Vec<MemberId> {
        match self.oracle.configurations.newest() {
            Some(newest) => newest.membership.iter().collect(),
            None => self.plan.first_members(),
        }
    }

    /// The configurations that may come to be in force: the newest that is committed, and those in
    /// logs that are newer.
    pub(super) fn memberships(&self) -> Vec<Membership> {
        let mut memberships = Vec::new();
        let committed = match self.oracle.configurations.newest_with_index() {
            None => {
                memberships.push(Membership::new(self.plan.first_members()));
                Index::ZERO
            }
            Some((index, newest)) => {
                memberships.push(newest.membership.clone());
                *index
            }
        };
        for member in self.members.iter().filter(|member| !member.is_gone) {
            for (index, newer) in configurations_of(member) {
                if index > committed && !memberships.contains(&newer.membership) {
                    memberships.push(newer.membership.clone());
                }
            }
        }
        memberships
    }

    /// Where the members are that may count, counted from 0.
    pub(super) fn configured(&self) -> BTreeSet<usize> {
        let memberships = self.memberships();
        memberships.iter().flat_map(Membership::iter).map(Self::at_of).collect()
    }

    /// A newcomer that is up and that no leader has been told of, as far as anybody knows.
    pub(super) fn stray(&self, current: &Configuration) -> Option<usize> {
        let is_stray = |member: &Member| {
            let is_known =
                current.membership.contains(member.id) || current.removed.contains(&member.id);
            !member.is_gone && member.living.is_some() && !is_known
        };
        self.members.iter().position(is_stray)
    }

    /// A newcomer starts, and waits.
    pub(super) fn begin_newcomer(&mut self, current: &Arc<Configuration>) {
        let first = self.plan.members as usize;
        if self.members.len() >= first + NEWCOMERS_MAX as usize {
            return;
        }
        let member_id = MemberId(self.members.len() as u64 + 1);
        let identity = Identity { cluster_id: 0, list_id: NO_LIST_ID, member_id };
        let (list, seed) = (current.membership.iter().collect(), self.operator.rng.u64(..));
        let member = Member::new(identity, Standing::Newcomer, list, &self.plan, seed);
        self.members.push(member);
        self.count("newcomer");
        self.start(self.members.len() - 1);
    }

    /// A newcomer loses its directory, and comes with another one.
    pub(super) fn lose_newcomer(&mut self, at: usize) {
        self.count("newcomer with another directory");
        self.crash(at);
        let loss = Loss::Unknown { list_id: NO_LIST_ID, standing: Standing::Newcomer };
        let seed = self.operator.rng.u64(..);
        self.members[at].lose_data(loss, seed);
        self.trace_of(at, || "has lost its directory");
    }

    /// The list that an operator gives a member that starts again. It matters only where nothing is
    /// recorded.
    pub(super) fn redraw_list(&mut self, at: usize) {
        if self.plan.faults.change == 0.0 || self.operator.rng.u8(0..3) > 0 {
            return;
        }
        let mut list = self.current_members();
        if self.operator.rng.bool() {
            let own = self.members[at].id;
            list.retain(|id| *id != own);
        }
        if !list.is_empty() {
            self.members[at].list = list;
        }
    }

    /// Makes sure that the list of a member that has no data names somebody who is a member.
    pub(super) fn refresh_list(&mut self, at: usize) {
        let (own, current) = (self.members[at].id, self.current_members());
        let is_useful = |id: &MemberId| *id != own && current.contains(id);
        if !self.members[at].list.iter().any(is_useful) {
            self.members[at].list = current;
        }
    }

    /// How a member begins again that does not know that it has lost its data, and with which list.
    pub(super) fn draw_loss(&mut self, at: usize) -> (Loss, Vec<MemberId>) {
        let own = self.members[at].id;
        let (first, current) = (self.plan.first_members(), self.current_members());
        let is_first = |list: &[MemberId]| list == self.plan.first_members();
        let is_useful =
            first.contains(&own) && first.iter().any(|id| *id != own && current.contains(id));
        let unknown = |list_id, standing| Loss::Unknown { list_id, standing };
        match self.operator.rng.u8(0..3) {
            0 if !is_first(&current) => {
                let list = current.into_iter().filter(|id| *id != own).collect();
                (unknown(NO_LIST_ID, Standing::Newcomer), list)
            }
            1 | 2 if is_useful => (unknown(FIRST_LIST_ID, Standing::New), first),
            _ => {
                let list_id = match is_first(&current) {
                    true => FIRST_LIST_ID,
                    false => current.iter().fold(1, |hash, id| 31 * hash + id.0),
                };
                (unknown(list_id, Standing::New), current)
            }
        }
    }

    /// The configurations are others, or newly committed.
    pub(super) fn reconfigured(&mut self, at: usize, configured: &Configured) {
        if let Some(committed) = &configured.committed {
            self.cluster_known(at, committed.cluster_id);
        }
    }

    /// A member has learned the id of its cluster.
    pub(super) fn cluster_known(&mut self, at: usize, cluster_id: u64) {
        let Some(living) = &mut self.members[at].living else { return };
        if living.recorded_cluster == cluster_id {
            return;
        }
        let known = living.affiliation.cluster_id;
        assert!([0, cluster_id].contains(&known), "a cluster keeps its id");
        living.recorded_cluster = cluster_id;
        living.affiliation.cluster_id = cluster_id;
        self.submit(at, Write::RecordCluster(cluster_id));
    }

    /// A member learns that it was removed. It must be silent from now on; a little later it stops.
    pub(super) fn removed(&mut self, at: usize) {
        let member = &mut self.members[at];
        self.oracle.configurations.says_removed(member.id);
        let Some(living) = &mut member.living else { return };
        living.is_removed = true;
        self.count("member removed");
        let delay_us = self.operator.rng.u64(..1_000_000);
        self.after(delay_us, What::Leave(self.who(at)));
    }

    /// A member stops for ever.
    pub(super) fn leave(&mut self, at: usize) {
        self.kill(at);
        self.members[at].is_gone = true;
    }

    /// A member that was removed comes back, with its data or without.
    pub(super) fn revive_removed(&mut self) {
        let Some(current) = self.oracle.configurations.newest().cloned() else { return };
        let gone = |id: &MemberId| self.members[Self::at_of(*id)].is_gone;
        let gone: Vec<MemberId> = current.removed.iter().copied().filter(gone).collect();
        if gone.is_empty() {
            return;
        }
        let at = Self::at_of(gone[self.operator.rng.usize(..gone.len())]);
        self.revive(at);
    }

    pub(super) fn revive(&mut self, at: usize) {
        self.members[at].is_gone = false;
        self.count("member that was removed comes back");
        self.trace_of(at, || "comes back");
        self.start(at);
    }

    /// All members know of configurations.
    pub(super) fn upgraded(&mut self) {
        self.count("cluster upgraded");
        (0..self.members.len()).for_each(|at| self.post(at, Event::MayConfigure));
    }
}

/// Those in a member's log, whether it is up or not.
fn configurations_of(member: &Member) -> Vec<(Index, Arc<Configuration>)> {
    match &member.living {
        Some(living) => living.log.configurations().to_vec(),
        None => {
            let entries = member.disk.entries().iter();
            let configurations = entries.filter_map(|entry| match &entry.payload {
                Payload::Configuration(it) => Some((entry.index, it.clone())),
                _ => None,
            });
            configurations.collect()
        }
    }
}
