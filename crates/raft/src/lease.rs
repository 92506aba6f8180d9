//! Leader leases (thesis §6.4.1): while nobody else can have been elected, a leader answers reads
//! without asking.
//!
//! ```text
//!   leader    ── heartbeat, sent at t ─────────────────> reads are served here until t + 9/10 p
//!   follower        └─> promises: for p from now on I help nobody else ────> free again
//! ```
//! The promises of a quorum are a lease, because any other leader would need a vote of one of them.
//! Only answers to heartbeats extend it.
//!
//! # Assumptions
//! From the departure of a heartbeat to the end of the promise, at least `p` passes on the
//! follower's clock. So a read is linearizable if no member's clock runs more than a tenth faster
//! than another's. What time the clocks show does not matter. The leader reads the boot-time clock,
//! which goes on while a machine sleeps. A follower counts ticks, and is told of none before its
//! time.
//!
//! # How the promise is kept
//! - A follower gives neither vote nor pre-vote, and waits even if the connection to the leader
//!   breaks. Without leases, it would then look for another leader at once.
//! - A member that starts may have made a promise before, so it waits for one election timeout, as
//!   configured now. A change to shorter times takes a stop of the old timeout.
//! - A member that does not use leases promises nothing, so a cluster of both kinds asks for each
//!   read.
//! - A leader that tells another member to take over gives up its lease for the rest of its term,
//!   because the votes for that member break the promises.

use std::collections::VecDeque;

use super::common::Common;
use super::types::MemberId;

/// The number of rounds whose departure is remembered: more than a lease lasts, at the usual pace.
const ROUNDS_MAX: usize = 32;

/// Ticks that a promise may lack: the first may come just after the heartbeat, and one is under
/// way.
const TICKS_CUT: u32 = 2;

#[derive(Debug, Default)]
pub(super) struct Lease {
    /// The last rounds, and when each left, by the leader's clock.
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

    /// The end of a promise of `promised_us` that answers `round`.
    pub(super) fn end_us(&self, round: u64, promised_us: u64) -> u64 {
        let sent = self.sent.iter().find(|&&(sent, _)| sent == round);
        sent.map_or(0, |&(_, at_us)| at_us.saturating_add(promised_us / 10 * 9))
    }

    pub(super) fn give_away(&mut self) {
        self.is_given_away = true;
    }

    /// Until when this leader may answer reads without asking, because nobody else can lead yet; 0
    /// without a lease. `promises` has the end of each peer's promise.
    pub(super) fn holds_until_us(
        &self,
        common: &Common,
        promises: impl Iterator<Item = (MemberId, u64)>,
    ) -> u64 {
        if !common.config.lease || self.is_given_away {
            return 0;
        }
        common.membership().reached_by_quorum(promises.chain([(common.config.id, u64::MAX)]))
    }
}

impl Common {
    /// A heartbeat has come. Returns for how long this member promises to help nobody else.
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
