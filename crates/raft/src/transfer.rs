//! Handing the leadership over (thesis §3.10): the leader takes no new proposals, waits until one
//! peer has everything, and asks it to stand for election at once. If no election follows within an
//! election timeout, the leader goes on. A leader whose disk takes no writes hands over by itself.

use super::common::Common;
use super::config::Config;
use super::membership::Membership;
use super::progress::{Peers, Progress};
use super::types::{Index, MemberId};

#[derive(Debug)]
pub(super) struct Transfer {
    to: MemberId,
    is_sent: bool,
    ticks: u32,
}

impl Transfer {
    /// A transfer to this peer, or to the furthest. `None` if it cannot take over.
    pub(super) fn begin(
        membership: &Membership,
        peers: &Peers,
        to: Option<MemberId>,
    ) -> Option<Transfer> {
        let may_lead = |id: &MemberId| peers.contains_key(id) && membership.will_vote(*id);
        let furthest = || {
            let able = able(peers).filter(|(id, _)| may_lead(id));
            able.max_by_key(|(_, peer)| peer.match_index()).map(|(id, _)| id)
        };
        let to = to.or_else(furthest).filter(may_lead)?;
        Some(Transfer { to, is_sent: false, ticks: 0 })
    }

    /// A tick has passed. Returns whether the transfer has taken too long, and is over.
    pub(super) fn tick(&mut self, config: &Config) -> bool {
        self.ticks += 1;
        self.ticks >= config.election_ticks_min
    }

    /// The next leader, once: when it has the whole log, up to `last_index`, on its disk.
    pub(super) fn take_ready(
        &mut self,
        membership: &Membership,
        peers: &Peers,
        last_index: Index,
    ) -> Option<MemberId> {
        let has_all = peers.get(&self.to).is_some_and(|peer| peer.match_index() == last_index)
            && membership.is_voter(self.to);
        let is_now = has_all && !std::mem::replace(&mut self.is_sent, true);
        is_now.then_some(self.to)
    }
}

/// Whether a leader should hand over because its disk has taken nothing for longer than an
/// election, stalled or full: a peer has written what it could not, and the peers that can write
/// are a majority without it, as its own vote would wait for the disk. If the other disks are as
/// slow or as full, it stays leader and serves reads.
pub(super) fn should_leave_bad_disk(common: &Common, peers: &Peers) -> bool {
    if !common.is_disk_stalled() {
        return false;
    }
    let missing = common.log.durable_index().next().max(common.persists.stalled_index);
    let has_written = |(_, peer): (_, &Progress)| peer.match_index() >= missing;
    common.membership().is_quorum(able(peers).map(|(id, _)| id)) && able(peers).any(has_written)
}

/// The peers that were heard and whose disks take writes.
fn able(peers: &Peers) -> impl Iterator<Item = (MemberId, &Progress)> {
    let able = peers.iter().filter(|(_, peer)| peer.is_active && peer.can_write);
    able.map(|(&id, peer)| (id, peer))
}
