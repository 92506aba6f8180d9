//! Leader leases (thesis §6.4.1): a leader that knows that nobody else can have been elected yet need not ask.
//!
//! ```text
//!   leader    ── heartbeat, sent at t ──────────────────────────────> reads are served here until t + 9/10 p
//!   follower        └─> promises: for p from now on I help nobody else ─────────────────────────────> free again
//! ```
//! A quorum's promises make a lease: any other leader would need the vote of one of them. Only answers to heartbeats extend it.
//!
//! # Assumptions
//! Between a heartbeat's departure, by the leader's clock, and the promise's end, by the follower's, lies at least `p` of the
//! follower's time. So a read is linearizable as long as no member's clock runs more than a tenth faster than another's; by
//! how much they differ is nothing to it. The leader reads the boot-time clock, which goes on while a machine sleeps; a
//! follower counts ticks, of which none is shorter than it should be.
//!
//! # What keeps the promise
//! - Neither vote nor pre-vote, also when the connection to the leader breaks: without leases that is the sign to look for
//!   another one at once, with them a follower waits.
//! - A member that starts may have promised something in its earlier life, and waits as if it had: an election timeout of this
//!   life, so a change to shorter times takes a stop that long.
//! - Whoever does not know leases promises nothing, so a cluster of both kinds asks for each read.
//! - A leader that has told another member to take over has given its lease away, for the rest of its term: the vote for that
//!   member is the one that breaks promises.

use std::collections::VecDeque;

use super::common::Common;
use super::leader::Leader;

/// Rounds of heartbeats whose departure is remembered: at the usual pace of heartbeats more than a lease lasts.
const ROUNDS_MAX: usize = 32;

/// Ticks are not cut to the moment: one may come just after a heartbeat did, and one is under way.
const TICKS_CUT: u32 = 2;

#[derive(Debug, Default)]
pub(super) struct Lease {
    /// When each of the last rounds left, by the leader's clock.
    sent: VecDeque<(u64, u64)>,
    is_given_away: bool,
}

impl Lease {
    pub(super) fn sent(&mut self, round: u64, now_us: u64) {
        assert!(self.sent.back().is_none_or(|&(last, _)| last < round), "rounds are counted up");
        if self.sent.len() == ROUNDS_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((round, now_us));
    }

    /// Until when a promise of `promised_us` that answers `round` holds.
    pub(super) fn end_us(&self, round: u64, promised_us: u64) -> u64 {
        let sent = self.sent.iter().find(|&&(sent, _)| sent == round);
        sent.map_or(0, |&(_, at_us)| at_us.saturating_add(promised_us / 10 * 9))
    }

    pub(super) fn give_away(&mut self) {
        self.is_given_away = true;
    }
}

impl Leader {
    /// Whether this leader may answer reads without asking, as nobody else can lead yet.
    pub(super) fn has_lease(&self, common: &Common) -> bool {
        let is_under = |now_us| now_us < self.lease_end_us(common);
        common.config.lease && !self.lease.is_given_away && common.now_us.is_some_and(is_under)
    }

    /// Until when a quorum promises to elect nobody else.
    fn lease_end_us(&self, common: &Common) -> u64 {
        let promises = self.peers.iter().map(|(&id, peer)| (id, peer.promise_end_us));
        let own = (common.config.id, u64::MAX);
        common.config.members.reached_by_quorum(promises.chain([own]))
    }
}

impl Common {
    /// The leader's heartbeat has come: for how long this member promises to help nobody else.
    pub(super) fn promise(&mut self) -> u64 {
        if !self.config.lease {
            return 0;
        }
        assert!(self.promise_ticks <= self.config.election_ticks_min, "no promise is cut short");
        self.promise_ticks = self.config.election_ticks_min;
        let ticks = self.config.election_ticks_min.saturating_sub(TICKS_CUT);
        u64::from(ticks) * self.config.tick_us
    }
}
