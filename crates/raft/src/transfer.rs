//! Handing the leadership over (thesis §3.10): the leader takes no new proposals, waits until one peer has everything, and
//! asks it to stand for election at once. If nothing comes of it within an election timeout, the leader goes on. A leader whose
//! disk takes no writes hands over by itself.

use super::event::Effect;
use super::message::{Body, Message};
use super::progress::Progress;
use super::types::MemberId;
use super::{Raft, Role};

#[derive(Debug)]
pub(super) struct Transfer {
    to: MemberId,
    is_sent: bool,
    ticks: u32,
}

impl Raft {
    /// Begins to hand over; a transfer that is under way is replaced.
    pub(super) fn transfer(&mut self, to: Option<MemberId>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let furthest = || {
            let able = leader.peers.iter().filter(|(_, peer)| peer.is_active && peer.can_write);
            able.max_by_key(|(_, peer)| peer.match_index).map(|(&id, _)| id)
        };
        let to = to.or_else(furthest).filter(|to| leader.peers.contains_key(to));
        leader.transfer = to.map(|to| Transfer { to, is_sent: false, ticks: 0 });
    }

    /// Once the one that is to take over has the whole log on its disk, it is told.
    pub(super) fn send_timeout_now(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let to = transfer.to;
        let has_all =
            leader.peers.get(&to).is_some_and(|peer| peer.match_index == self.log.last_index());
        if has_all && !std::mem::replace(&mut transfer.is_sent, true) {
            leader.lease.give_away();
            let message = self.request(to, self.current_term(), Body::TimeoutNow);
            self.effects.push(Effect::Send(message));
        }
    }

    /// A disk that takes nothing for longer than an election, stalled or full, costs the leader its leadership: if a peer has
    /// written what it could not, and the peers that can write are a majority without it, as its own vote waits for that disk.
    /// A disk that is only as slow or as full as the others' costs nothing: this leader can still serve reads.
    pub(super) fn leave_bad_disk(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let (durable_index, stalled_index) =
            (self.log.durable_index(), self.persists.stalled_index);
        let able = || leader.peers.values().filter(|peer| peer.is_active && peer.can_write);
        let has_written =
            |peer: &Progress| peer.match_index > durable_index && peer.match_index >= stalled_index;
        let is_due = self.is_disk_stalled() && leader.transfer.is_none();
        if is_due && able().count() >= self.config.quorum() && able().any(has_written) {
            self.transfer(None);
        }
    }

    pub(super) fn tick_transfer(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        transfer.ticks += 1;
        if transfer.ticks >= self.config.election_ticks_min {
            leader.transfer = None;
        }
    }

    /// The leader hands over to this member: no pre-vote, and those who hear the leader may vote all the same.
    pub(super) fn on_timeout_now(&mut self, message: &Message) {
        self.reply(message, Body::TimeoutNowReply);
        if self.may_stand() {
            self.stand_for_election(true);
        }
    }
}
