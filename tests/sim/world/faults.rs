//! Faults: which ones are drawn, and what they do to a member or the network.

use syncraft::raft::{Event, HardState, MemberId, Membership};

use super::{What, World};
use crate::clerk::Answer;
use crate::device::Loss;
use crate::disk::Death;
use crate::member::Member;
use crate::plan::{FAULTS_EVERY_US, Faults};

impl World {
    pub(super) fn draw_faults(&mut self) {
        if self.is_calm {
            return;
        }
        let Faults {
            partition,
            crash,
            crash_all,
            pause,
            false_disconnect,
            transfer,
            clock_jump,
            campaign,
            depose,
            wipe,
            disk_stall,
            disk_full,
            sync_failure,
            change,
            ..
        } = self.plan.faults;
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
        if self.chance(transfer) {
            self.transfer();
        }
        // Not drawn without leases: a leader without a lease has nothing to lose.
        if self.plan.lease && self.chance(depose) {
            self.depose();
        }
        if self.chance(wipe) {
            let victim = self.victim();
            self.wipe(victim);
        }
        if self.chance(disk_stall) {
            self.count("disk stalled");
            let (at, for_us) = (self.victim(), self.fault_rng.u64(10_000..2_000_000));
            self.members[at].disk.stall(self.now_us, for_us);
        }
        if self.chance(disk_full) {
            let victim = self.victim();
            self.fill_disk(victim);
        }
        // Not drawn unless it is wanted, so that other seeds stay as they were.
        if clock_jump > 0.0 && self.chance(clock_jump) {
            self.jump();
        }
        if campaign > 0.0 && self.chance(campaign) {
            self.count("told to stand for election");
            let at = self.victim();
            self.after(0, What::Happen(self.who(at), Event::Campaign));
        }
        if self.chance(sync_failure) {
            let victim = self.victim();
            self.fail_sync(victim);
        }
        if change > 0.0 && self.chance(change) {
            self.operate();
        }
        self.after(FAULTS_EVERY_US, What::Faults);
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.fault_rng.f64() < probability
    }

    /// The member that it hits: half the time a leader, because most bugs begin there.
    fn victim(&mut self) -> usize {
        let leader = self.leader_among(|_| true).filter(|_| self.fault_rng.bool());
        leader.unwrap_or_else(|| self.fault_rng.usize(..self.members.len()))
    }

    fn partition(&mut self) {
        self.count("partition");
        let ids: Vec<MemberId> = self.members.iter().map(|member| member.id).collect();
        // The leader is the one whose lease is at stake.
        if self.plan.lease && self.fault_rng.bool() {
            let victim = self.victim();
            self.cut_off(victim);
        } else {
            let words = self.network.partition(&ids);
            self.trace.line(self.now_us, || words);
        }
        if self.plan.are_sockets_noticed && self.fault_rng.bool() {
            self.notice_cuts(&ids);
        }
        let for_us = self.fault_rng.u64(50_000..4_000_000);
        self.after(for_us, What::Heal);
    }

    /// A clock jumps, by more than an election timeout. Read leases need clocks that never go back.
    fn jump(&mut self) {
        let at = self.victim();
        // Two jumps between two readings could look like time that passed.
        if self.members[at].living.as_ref().is_none_or(|living| living.is_paused) {
            return;
        }
        self.count("clock jumped");
        let by_us = self.fault_rng.u64(2_000_000..20_000_000_000);
        let Member { id, clock_jumps_us: (forward_us, back_us), .. } = &mut self.members[at];
        let is_back = !self.plan.lease && *forward_us > *back_us && self.fault_rng.bool();
        let words = match is_back {
            true => {
                let by_us = by_us.min(*forward_us - *back_us);
                *back_us += by_us;
                format!("{id}: the clock goes back by {by_us} us")
            }
            false => {
                *forward_us += by_us;
                format!("{id}: the clock goes forward by {by_us} us")
            }
        };
        self.trace.line(self.now_us, || words);
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

    fn transfer(&mut self) {
        self.count("transfer");
        let (at, to) = (self.victim(), self.victim());
        let to = self.fault_rng.bool().then_some(self.members[to].id);
        self.after(0, What::Happen(self.who(at), Event::Transfer { to }));
        // A member that hands over and is cut off the next moment does not hear who leads then.
        if self.plan.lease && self.fault_rng.bool() {
            let delay_us = self.fault_rng.u64(..3 * self.plan.delay_us.end);
            self.after(delay_us, What::CutOff(at));
        }
    }

    /// A leader under a lease goes on leading where nobody hears it, while the others elect another
    /// one. It is alone, with fewer peers than make a quorum, or asleep, so that the others'
    /// answers wait for it.
    fn depose(&mut self) {
        let Some(at) = self.leader_among(|_| true).filter(|_| self.members.len() > 1) else {
            return;
        };
        self.count("leader deposed");
        if self.fault_rng.bool() {
            self.pause_member(at);
            let delay_us = self.fault_rng.u64(..3 * self.plan.delay_us.end);
            return self.after(delay_us, What::CutOff(at));
        }
        let ids: Vec<MemberId> = self.members.iter().map(|member| member.id).collect();
        let mut others: Vec<MemberId> =
            ids.iter().copied().filter(|&id| Self::at_of(id) != at).collect();
        self.fault_rng.shuffle(&mut others);
        let companions = self.fault_rng.usize(..ids.len() / 2);
        let (near, far) = others.split_at(companions);
        self.trace_of(at, || format!("is cut off with {near:?}"));
        for &one in near.iter().chain([&ids[at]]) {
            for &other in far {
                self.network.cut(one, other);
                self.network.cut(other, one);
            }
        }
        if self.plan.are_sockets_noticed {
            self.notice_cuts(&ids);
        }
        let for_us = self.fault_rng.u64(300_000..2_000_000);
        self.after(for_us, What::Heal);
    }

    /// Nobody hears from it, and it hears from nobody, for a while.
    pub(super) fn cut_off(&mut self, at: usize) {
        let id = self.members[at].id;
        self.trace_of(at, || "is cut off");
        for other in self.others(id) {
            self.network.cut(id, other);
            self.network.cut(other, id);
        }
        let for_us = self.fault_rng.u64(50_000..2_000_000);
        self.after(for_us, What::Heal);
    }

    fn disconnect(&mut self, at: usize, peer: MemberId) {
        self.count("disconnect");
        let delay_us = self.fault_rng.u64(..5_000);
        self.after(delay_us, What::Happen(self.who(at), Event::Disconnected(peer)));
    }

    /// The ids of all other members that ever were.
    pub(super) fn others(&self, id: MemberId) -> Vec<MemberId> {
        self.members.iter().map(|member| member.id).filter(|&other| other != id).collect()
    }

    /// A member goes down, and comes up again later.
    pub(super) fn crash(&mut self, at: usize) {
        let is_recorded = self.members[at].disk.is_cluster_recorded();
        if !self.kill(at) {
            return;
        }
        if is_recorded {
            self.redraw_list(at);
        }
        let longest_us = if self.fault_rng.bool() { 50_000 } else { 3_000_000 };
        let for_us = self.fault_rng.u64(1_000..longest_us);
        self.after(for_us, What::Start(at));
    }

    /// A member goes down. False if it is down already.
    pub(super) fn kill(&mut self, at: usize) -> bool {
        let Some(mut living) = self.members[at].living.take() else { return false };
        let death = match self.disk_rng.u8(0..4) {
            0..2 => Death::PowerCut,
            2 => Death::Kill,
            _ => Death::Stop,
        };
        let (id, disk) = (self.members[at].id, &mut self.members[at].disk);
        disk.die(death, &mut self.disk_rng);
        let waiting = std::mem::take(&mut living.waiting);
        drop(living);
        disk.bury(death);
        self.trace.line(self.now_us, || format!("{id} crashes: {death:?}"));
        self.count(match death {
            Death::PowerCut => "crash: power cut",
            Death::Kill => "crash: killed",
            Death::Stop => "crash: stopped",
        });
        self.oracle.requests.crashed(id);
        if self.plan.are_sockets_noticed {
            (0..self.members.len()).filter(|&other| other != at).for_each(|other| {
                self.disconnect(other, id);
            });
            waiting.into_values().for_each(|waiting| self.answer(waiting, Answer::None));
        }
        true
    }

    /// A member loses its data. One at a time, because the others could not make good the loss of
    /// more. That its directory is new is believed only where all others have begun; an operator
    /// who knows better says so.
    fn wipe(&mut self, at: usize) {
        let configured = self.configured();
        let is_large = |it: &Membership| {
            it.voters().count() > 2 && (!it.is_joint() || it.outgoing().count() > 2)
        };
        let is_spare = configured.contains(&at)
            && self.all_have_data()
            && self.memberships().iter().all(is_large);
        if !is_spare {
            return;
        }
        let has_begun =
            |&other: &usize| self.members[other].disk.hard_state() != HardState::default();
        let is_known = self.fault_rng.bool() || !configured.iter().all(has_begun);
        self.count("member wiped");
        self.forget_orders();
        self.crash(at);
        let loss = if is_known {
            self.refresh_list(at);
            Loss::Known
        } else {
            let (loss, list) = self.draw_loss(at);
            self.members[at].list = list;
            loss
        };
        let seed = self.fault_rng.u64(..);
        self.members[at].lose_data(loss, seed);
        self.trace_of(at, || format!("has lost its data: {loss:?}"));
    }

    fn pause(&mut self) {
        let at = self.victim();
        self.pause_member(at);
    }

    fn pause_member(&mut self, at: usize) {
        let Some(living) = &mut self.members[at].living else { return };
        living.is_paused = true;
        let id = self.members[at].id;
        self.trace.line(self.now_us, || format!("{id} pauses"));
        self.count("pause");
        let for_us = self.fault_rng.u64(10_000..2_000_000);
        self.after(for_us, What::Resume(self.who(at)));
    }

    /// A paused member wakes: sometimes its clock has stood still, sometimes all ticks come at
    /// once.
    pub(super) fn resume(&mut self, at: usize) {
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
        if self.plan.lease {
            self.ask_leader(at);
        }
    }
}
