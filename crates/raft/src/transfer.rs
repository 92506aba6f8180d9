//! Handing the leadership over (thesis §3.10): the leader takes no new proposals, waits until one
//! peer has everything, and asks it to stand for election at once. If no election follows within an
//! election timeout, the leader goes on. A leader whose disk takes no writes hands over by itself.

use super::common::Common;
use super::config::Config;
use super::event::Effect;
use super::leader::Leader;
use super::message::Request;
use super::progress::Progress;
use super::types::MemberId;

#[derive(Debug)]
pub(super) struct Transfer {
    to: MemberId,
    is_sent: bool,
    ticks: u32,
}

impl Leader {
    /// Begins a transfer, which replaces one that is under way.
    pub(super) fn begin_transfer(&mut self, config: &Config, to: Option<MemberId>) {
        let may_lead = |id: &MemberId| self.peers.contains_key(id) && config.members.is_voter(*id);
        let furthest = || {
            let able = self.able_peers().filter(|(id, _)| may_lead(id));
            able.max_by_key(|(_, peer)| peer.match_index()).map(|(id, _)| id)
        };
        let to = to.or_else(furthest).filter(may_lead);
        self.transfer = to.map(|to| Transfer { to, is_sent: false, ticks: 0 });
    }

    /// The peers that were heard and whose disks take writes.
    fn able_peers(&self) -> impl Iterator<Item = (MemberId, &Progress)> {
        let able = self.peers.iter().filter(|(_, peer)| peer.is_active && peer.can_write);
        able.map(|(&id, peer)| (id, peer))
    }

    /// Asks the next leader to stand once it has the whole log on its disk.
    pub(super) fn send_timeout_now(&mut self, common: &mut Common) {
        let Some(transfer) = &mut self.transfer else { return };
        let to = transfer.to;
        assert!(common.config.members.is_voter(to), "only a voter can take over");
        let last_index = common.log.last_index();
        let has_all = self.peers.get(&to).is_some_and(|peer| peer.match_index() == last_index);
        if has_all && !std::mem::replace(&mut transfer.is_sent, true) {
            self.lease.give_away();
            let message = common.request(to, common.current_term(), Request::TimeoutNow);
            common.effects.push(Effect::Send(message));
        }
    }

    /// A leader whose disk takes nothing for longer than an election, stalled or full, hands over
    /// if a peer has written what it could not, and the peers that can write are a majority without
    /// it: its own vote would wait for the disk. If the other disks are as slow or as full, it
    /// stays leader and serves reads.
    pub(super) fn leave_bad_disk(&mut self, common: &Common) {
        if !common.is_disk_stalled() || self.transfer.is_some() {
            return;
        }
        let missing = common.log.durable_index().next().max(common.persists.stalled_index);
        let has_written = |(_, peer): (_, &Progress)| peer.match_index() >= missing;
        let able = self.able_peers().map(|(id, _)| id);
        if common.config.members.is_quorum(able) && self.able_peers().any(has_written) {
            self.begin_transfer(&common.config, None);
        }
    }

    pub(super) fn tick_transfer(&mut self, config: &Config) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.ticks += 1;
        if transfer.ticks >= config.election_ticks_min {
            self.transfer = None;
        }
    }
}
