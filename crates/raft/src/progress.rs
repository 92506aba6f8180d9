//! What a leader knows about one peer's log, and how much it has sent to it.
//!
//! ```text
//!            first match                     conflict, lost connection, silence
//!   Probe ───────────────> Replicate ──────────────────────────────────────────> Probe
//! ```
//! - `Probe`: one message at a time finds where the logs agree.
//! - `Replicate`: messages follow each other without waiting for answers, as many as the window
//!   allows (thesis §10.2.1). Beyond the first few, small messages are held back while entries
//!   gather.
//! - `AwaitSnapshot`: the peer lacks forgotten entries, and the newest snapshot does not hold all
//!   of them. The shell was asked for another one, and is asked again while none comes.
//! - `Snapshot`: the peer lacks forgotten entries, and was sent a snapshot that it has not
//!   answered.
//!
//! A leader keeps the entries that a peer needs next ([`Progress::kept_behind`]), unless the
//! connection to it is lost.
//!
//! Messages may be lost silently. So a peer that answers heartbeats but no append for
//! [`SILENT_HEARTBEATS_MAX`] heartbeats is probed again, and a probe is repeated, each time after
//! twice as many heartbeats. A large message has more time, because a network may be slow
//! ([`time_of`]).

use std::collections::{BTreeMap, VecDeque};

use super::config::Config;
use super::types::{Index, MemberId};

/// For how many heartbeats a living peer may leave appends unanswered before they count as lost. If
/// its disk is only slow, this costs one repeated message each time.
const SILENT_HEARTBEATS_MAX: u32 = 4;

/// The longest pause before a probe is repeated, in heartbeats: a second, besides the time for its
/// bytes.
const PROBE_HEARTBEATS_MAX: u32 = 20;

/// The slowest network that gets enough time: 5 MiB a second, at 20 heartbeats a second.
const BYTES_PER_HEARTBEAT_MIN: usize = 256 << 10;

/// The time that a message of so many bytes may need on a slow network, in heartbeats.
fn time_of(bytes: usize) -> u32 {
    u32::try_from(bytes / BYTES_PER_HEARTBEAT_MIN).unwrap_or(u32::MAX)
}

/// All peers of a leader.
pub(super) type Peers = BTreeMap<MemberId, Progress>;

#[derive(Debug)]
pub(super) struct Progress {
    /// The last entry known to be on the peer's disk (figure 2, `matchIndex`).
    match_index: Index,
    /// The next entry to send (figure 2, `nextIndex`).
    next_index: Index,
    mode: Mode,
    /// Whether a tick has passed since the last message.
    has_gathered: bool,
    /// The last round of heartbeats that the peer answered.
    pub(super) acked_round: u64,
    /// What the last heartbeat said is committed, and the round of the first one that did.
    told_commit: (Index, u64),
    /// The end of the peer's promise to help nobody else to become leader, by the leader's clock.
    pub(super) promise_end_us: u64,
    /// Whether the peer says that its disk takes writes.
    pub(super) can_write: bool,
    /// Whether anything came from the peer since the last check for a quorum (thesis §6.2).
    pub(super) is_active: bool,
    /// Whether anything came from the peer since the last heartbeat.
    is_heard: bool,
    /// For how long nothing came from the peer, at least.
    silent_ticks: u32,
    /// For how long it has not asked what it may have promised; `None` if it never did.
    ticks_since_join: Option<u32>,
    /// For how long it has been no member any more, once that is committed.
    leaving_ticks: Option<u32>,
    /// Whether the connection to the peer broke, and nothing came from it since.
    is_lost: bool,
    /// When it was last heard, in the time that counts ([`time`](super::time)); 0: never.
    pub(super) heard_us: u64,
    /// Heartbeats until the current probe is repeated, if the peer answers them.
    repeat_in: u32,
    /// The same for the next probe, besides the time for its bytes.
    repeat_pause: u32,
}

#[derive(Debug)]
enum Mode {
    Probe {
        is_waiting: bool,
    },
    Replicate {
        in_flight: VecDeque<InFlight>,
        bytes: usize,
        silent_heartbeats: u32,
    },
    /// The shell was asked for a snapshot that holds at least the entries up to `end`.
    AwaitSnapshot {
        end: Index,
    },
    /// A snapshot that holds the entries up to `end` is on its way; nothing else is sent.
    Snapshot {
        end: Index,
    },
}

#[derive(Debug)]
struct InFlight {
    last_index: Index,
    bytes: usize,
}

impl Progress {
    pub(super) fn new(next_index: Index) -> Progress {
        Progress {
            match_index: Index::ZERO,
            next_index,
            mode: Mode::Probe { is_waiting: false },
            has_gathered: false,
            acked_round: 0,
            told_commit: (Index::ZERO, 0),
            promise_end_us: 0,
            can_write: true,
            // Each peer has one election timeout to answer a new leader.
            is_active: true,
            is_heard: true,
            silent_ticks: u32::MAX,
            ticks_since_join: None,
            leaving_ticks: None,
            is_lost: false,
            heard_us: 0,
            repeat_in: 0,
            repeat_pause: 1,
        }
    }

    pub(super) fn match_index(&self) -> Index {
        self.match_index
    }

    pub(super) fn next_index(&self) -> Index {
        self.next_index
    }

    /// Whether the leader still has to find out where the logs agree. It then sends a message even
    /// without entries. Otherwise a peer that returns with an empty disk would stay empty until the
    /// next proposal.
    pub(super) fn is_probed(&self) -> bool {
        matches!(self.mode, Mode::Probe { .. })
    }

    /// The leader keeps the entries behind this one for the peer. `None` if the peer is lost, or
    /// nothing is known of its log.
    pub(super) fn kept_behind(&self) -> Option<Index> {
        match self.mode {
            _ if self.is_lost => None,
            Mode::AwaitSnapshot { end } | Mode::Snapshot { end } => Some(end),
            Mode::Probe { .. } | Mode::Replicate { .. } => {
                Some(self.match_index).filter(|&matched| matched > Index::ZERO)
            }
        }
    }

    /// Whether another `AppendEntries` may leave now. `is_full` says whether enough entries have
    /// gathered.
    pub(super) fn may_send(&self, config: &Config, is_full: impl FnOnce() -> bool) -> bool {
        match &self.mode {
            Mode::Probe { is_waiting } => !is_waiting,
            Mode::AwaitSnapshot { .. } | Mode::Snapshot { .. } => false,
            Mode::Replicate { in_flight, bytes, .. } => {
                let has_room = in_flight.len() < config.window_messages_max
                    && *bytes < config.window_bytes_max;
                let is_due = in_flight.len() < config.append_gather_from || self.has_gathered;
                has_room && (is_due || is_full())
            }
        }
    }

    /// Whether entries, of those up to `last_index`, are held back until the next tick.
    pub(super) fn is_gathering(&self, config: &Config, last_index: Index) -> bool {
        let is_any_unsent = self.next_index <= last_index;
        is_any_unsent && !self.has_gathered && !self.may_send(config, || false)
    }

    /// The heartbeat of a round leaves, and says that the entries up to `commit_index` are
    /// committed.
    pub(super) fn told_commit(&mut self, commit_index: Index, round: u64) {
        if self.told_commit.0 != commit_index {
            self.told_commit = (commit_index, round);
        }
    }

    /// After how many ticks the peer counts as silent if nothing comes from it, `silent_max` ticks
    /// after the last word. 0: it does, or it may lack something: an entry up to `last_index`, or
    /// the news that this is committed.
    pub(super) fn settled_ticks(&self, last_index: Index, silent_max: u32) -> u32 {
        let has_entries = self.match_index == last_index && !self.is_probed();
        let (told_index, round) = self.told_commit;
        let has_news = told_index == last_index && self.acked_round >= round;
        match has_entries && has_news && !self.is_lost {
            true => silent_max.saturating_sub(self.silent_ticks),
            false => 0,
        }
    }

    /// A tick has passed, so entries have gathered for long enough.
    pub(super) fn tick(&mut self) {
        self.has_gathered = true;
        self.silent_ticks = self.silent_ticks.saturating_add(1);
        self.ticks_since_join = self.ticks_since_join.map(|ticks| ticks.saturating_add(1));
    }

    /// A message with entries up to `last_index` has been sent.
    pub(super) fn sent(&mut self, last_index: Index, bytes: usize) {
        assert!(last_index >= self.next_index.prev(), "entries are sent from next_index on");
        assert!(!self.needs_snapshot(), "nothing is sent beside a snapshot");
        match &mut self.mode {
            Mode::Replicate { in_flight, bytes: total, .. } => {
                in_flight.push_back(InFlight { last_index, bytes });
                *total += bytes;
                self.has_gathered = false;
                self.next_index = last_index.next();
                assert!(self.match_index < self.next_index, "what matches is not sent (figure 2)");
            }
            Mode::Probe { is_waiting } => {
                *is_waiting = true;
                self.repeat_after(bytes);
            }
            Mode::AwaitSnapshot { .. } | Mode::Snapshot { .. } => {}
        }
    }

    /// Each pause is twice as long as the last one.
    fn repeat_after(&mut self, bytes: usize) {
        self.repeat_in = self.repeat_pause.saturating_add(time_of(bytes));
        self.repeat_pause = (2 * self.repeat_pause).min(PROBE_HEARTBEATS_MAX);
    }

    /// Whether the peer waits for a snapshot.
    fn needs_snapshot(&self) -> bool {
        matches!(self.mode, Mode::AwaitSnapshot { .. } | Mode::Snapshot { .. })
    }

    /// Something came from the peer.
    pub(super) fn heard(&mut self) {
        self.is_active = true;
        self.is_heard = true;
        self.is_lost = false;
        self.silent_ticks = 0;
    }

    /// Whether something came from the peer within an election timeout.
    pub(super) fn is_heard_lately(&self, config: &Config) -> bool {
        self.silent_ticks < config.election_ticks_min
    }

    /// The peer has lost its data, and asks what it may have promised.
    pub(super) fn asks_to_join(&mut self) {
        self.ticks_since_join = Some(0);
    }

    /// Whether the peer has asked that within an election timeout.
    pub(super) fn is_rebuilding(&self, config: &Config) -> bool {
        self.ticks_since_join.is_some_and(|ticks| ticks < config.election_ticks_min)
    }

    /// Whether a change of the members may count on the peer: it was heard lately and has its data.
    /// If its connection has broken since, it may have lost its data and not said so yet.
    pub(super) fn is_well(&self, config: &Config) -> bool {
        self.is_heard_lately(config) && !self.is_lost && !self.is_rebuilding(config)
    }

    /// The peer is no member any more.
    pub(super) fn leaves(&mut self) {
        self.leaving_ticks.get_or_insert(0);
    }

    /// The peer is a member.
    pub(super) fn returned(&mut self) {
        self.leaving_ticks = None;
    }

    /// Counts a tick. Whether the peer has been no member for this long.
    pub(super) fn has_left(&mut self, ticks_max: u32) -> bool {
        self.leaving_ticks.as_mut().is_some_and(|ticks| {
            *ticks += 1;
            *ticks >= ticks_max
        })
    }

    /// The peer's disk has the log up to `match_index`. While a snapshot is on its way, an answer
    /// that says nothing new is an old one.
    pub(super) fn matched(&mut self, match_index: Index) {
        if self.needs_snapshot() && match_index <= self.match_index {
            return;
        }
        self.match_index = self.match_index.max(match_index);
        self.next_index = self.next_index.max(self.match_index.next());
        match &mut self.mode {
            Mode::Probe { .. } | Mode::AwaitSnapshot { .. } | Mode::Snapshot { .. } => {
                self.next_index = self.match_index.next();
                self.mode =
                    Mode::Replicate { in_flight: VecDeque::new(), bytes: 0, silent_heartbeats: 0 };
            }
            Mode::Replicate { in_flight, bytes, silent_heartbeats } => {
                *silent_heartbeats = 0;
                while let Some(first) = in_flight.front()
                    && first.last_index <= match_index
                {
                    *bytes -= first.bytes;
                    in_flight.pop_front();
                }
            }
        }
        self.assert_sound();
    }

    /// The peer refused the message that followed `rejected_index`, and its log cannot agree above
    /// `agree_max`. Outdated answers change nothing. Returns true if the peer refused what it had
    /// acknowledged: its disk has lost entries, so they no longer count, and it is filled again.
    #[must_use]
    pub(super) fn conflicted(&mut self, rejected_index: Index, agree_max: Index) -> bool {
        let is_stale = match self.mode {
            Mode::Probe { .. } => rejected_index != self.next_index.prev(),
            Mode::Replicate { .. } => rejected_index <= self.match_index,
            Mode::AwaitSnapshot { .. } | Mode::Snapshot { .. } => true,
        };
        if is_stale {
            return false;
        }
        let agree_max = agree_max.min(rejected_index.prev());
        let has_lost = rejected_index <= self.match_index;
        if has_lost {
            assert!(agree_max <= self.match_index, "a peer that has lost entries matches no more");
            self.match_index = agree_max;
        }
        self.probe_from(agree_max.max(self.match_index).next());
        has_lost
    }

    /// Messages on their way to the peer may be lost.
    pub(super) fn lost(&mut self) {
        self.is_lost = true;
        match self.mode {
            Mode::Probe { .. } => self.repeat_in = self.repeat_in.min(self.repeat_pause),
            Mode::Replicate { .. } => self.probe_from(self.match_index.next()),
            Mode::AwaitSnapshot { .. } | Mode::Snapshot { .. } => self.snapshot_lost(),
        }
    }

    /// The peer has refused a message of an earlier term. It may be a snapshot of that term, which
    /// keeps the current one from being sent.
    pub(super) fn refused(&mut self) {
        if let Mode::Snapshot { .. } = self.mode {
            self.snapshot_lost();
        }
    }

    /// The peer broke off a snapshot. It is not sent another before it answers a heartbeat.
    fn snapshot_lost(&mut self) {
        self.mode = Mode::Probe { is_waiting: true };
        (self.repeat_in, self.repeat_pause) = (1, 1);
        self.is_heard = false;
    }

    /// A heartbeat leaves. A peer that answers heartbeats but no appends is sent them again.
    pub(super) fn heartbeat(&mut self) {
        if !std::mem::take(&mut self.is_heard) {
            return;
        }
        match &mut self.mode {
            Mode::Probe { is_waiting } => {
                self.repeat_in = self.repeat_in.saturating_sub(1);
                *is_waiting &= self.repeat_in > 0;
            }
            Mode::AwaitSnapshot { .. } => {
                self.repeat_in = self.repeat_in.saturating_sub(1);
                if self.repeat_in == 0 {
                    self.mode = Mode::Probe { is_waiting: false };
                }
            }
            Mode::Replicate { in_flight, bytes, silent_heartbeats } if !in_flight.is_empty() => {
                *silent_heartbeats += 1;
                if *silent_heartbeats >= SILENT_HEARTBEATS_MAX.saturating_add(time_of(*bytes)) {
                    self.probe_from(self.match_index.next());
                }
            }
            Mode::Replicate { .. } | Mode::Snapshot { .. } => {}
        }
    }

    /// The shell was asked for a snapshot that holds the entries up to `end`.
    pub(super) fn await_snapshot(&mut self, end: Index) {
        assert!(!self.needs_snapshot(), "one snapshot at a time is waited for");
        self.mode = Mode::AwaitSnapshot { end };
        self.repeat_after(0);
    }

    /// There is a new snapshot. If the peer waits for one, it is looked at again what to send.
    pub(super) fn snapshot_taken(&mut self) {
        if let Mode::AwaitSnapshot { .. } = self.mode {
            self.mode = Mode::Probe { is_waiting: false };
        }
    }

    /// A snapshot that holds the entries up to `end` was sent.
    pub(super) fn snapshot_sent(&mut self, end: Index) {
        assert!(!self.needs_snapshot(), "one snapshot at a time is on its way");
        assert!(end >= self.next_index, "the peer lacks what is in it");
        self.mode = Mode::Snapshot { end };
    }

    fn probe_from(&mut self, next_index: Index) {
        self.next_index = next_index;
        self.assert_sound();
        self.mode = Mode::Probe { is_waiting: false };
        self.repeat_pause = 1;
    }

    fn assert_sound(&self) {
        assert!(self.match_index < self.next_index, "what matches is not sent again (figure 2)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemberId;

    fn config() -> Config {
        let mut config = Config::new(MemberId(1), [MemberId(1), MemberId(2)]);
        (config.window_messages_max, config.window_bytes_max) = (2, 100);
        config
    }

    fn replicating() -> Progress {
        let mut progress = Progress::new(Index(1));
        progress.matched(Index::ZERO);
        progress
    }

    #[test]
    fn a_probe_goes_alone() {
        let mut progress = Progress::new(Index(5));
        assert!(progress.may_send(&config(), || false));
        progress.sent(Index(7), 10);
        assert!(!progress.may_send(&config(), || false));
        assert_eq!(progress.next_index, Index(5), "a probe's entries are sent again if it fails");
        progress.heartbeat();
        assert!(progress.may_send(&config(), || false), "a living peer is probed again");
    }

    /// The heartbeats, all answered, between each probe and the next.
    fn pauses(progress: &mut Progress, bytes: usize, count: usize) -> Vec<u32> {
        let mut pause = || {
            progress.sent(Index(7), bytes);
            let mut heartbeats = 0;
            while !progress.may_send(&config(), || false) {
                progress.heard();
                progress.heartbeat();
                heartbeats += 1;
            }
            heartbeats
        };
        (0..count).map(|_| pause()).collect()
    }

    #[test]
    fn a_probe_is_repeated_less_and_less_often() {
        let mut progress = Progress::new(Index(5));
        assert_eq!(pauses(&mut progress, 10, 8), [1, 2, 4, 8, 16, 20, 20, 20]);
        let _ = progress.conflicted(Index(4), Index(2));
        assert_eq!(pauses(&mut progress, 10, 2), [1, 2], "another probe begins anew");
    }

    #[test]
    fn a_large_probe_has_time_to_arrive_unless_it_is_lost() {
        assert_eq!(pauses(&mut Progress::new(Index(5)), 15 << 20, 2), [61, 62]);
        let mut progress = Progress::new(Index(5));
        progress.sent(Index(7), 15 << 20);
        progress.lost();
        for _ in 0..2 {
            assert!(!progress.may_send(&config(), || false));
            progress.heard();
            progress.heartbeat();
        }
        assert!(progress.may_send(&config(), || false), "it was not on its way any more");
    }

    #[test]
    fn the_window_bounds_messages_and_bytes() {
        let mut progress = replicating();
        progress.sent(Index(1), 10);
        assert!(progress.may_send(&config(), || false));
        progress.sent(Index(2), 10);
        assert!(!progress.may_send(&config(), || false), "two messages are the window");
        progress.matched(Index(1));
        assert!(progress.may_send(&config(), || false), "an answer frees its place");
        progress.matched(Index(2));
        progress.sent(Index(3), 100);
        assert!(!progress.may_send(&config(), || false), "100 bytes are the window");
    }

    #[test]
    fn small_messages_beyond_the_first_gather() {
        let config = Config {
            append_gather_from: 1,
            window_messages_max: 64,
            window_bytes_max: 1000,
            ..config()
        };
        let mut progress = replicating();
        progress.sent(Index(1), 10);
        assert!(!progress.may_send(&config, || false), "one is on its way");
        assert!(progress.may_send(&config, || true), "enough has gathered");
        progress.tick();
        assert!(progress.may_send(&config, || false), "for a tick at most");
        progress.sent(Index(2), 10);
        assert!(!progress.may_send(&config, || false));
        progress.matched(Index(2));
        assert!(progress.may_send(&config, || false), "the answer has come");
        progress.sent(Index(3), 1000);
        assert!(!progress.may_send(&config, || true), "the window bounds it all the same");
    }

    #[test]
    fn overtaken_conflicts_change_nothing() {
        let mut progress = replicating();
        progress.matched(Index(5));
        progress.sent(Index(9), 10);
        assert!(!progress.conflicted(Index(5), Index(3)));
        assert_eq!(progress.next_index, Index(10), "5 is known to match");
        assert!(!progress.conflicted(Index(9), Index(7)));
        assert_eq!(progress.next_index, Index(8));
        assert!(!progress.conflicted(Index(9), Index(2)));
        assert_eq!(progress.next_index, Index(8), "only the answer to the last probe counts");
        assert!(!progress.conflicted(Index(7), Index(2)));
        assert_eq!(progress.next_index, Index(6), "never below what is known to match");
    }

    #[test]
    fn a_peer_that_has_lost_its_disk_is_filled_from_where_it_agrees() {
        let mut progress = replicating();
        progress.matched(Index(5));
        progress.lost();
        progress.sent(Index(7), 10);
        assert!(progress.conflicted(Index(5), Index::ZERO));
        assert_eq!((progress.match_index, progress.next_index), (Index::ZERO, Index(1)));
    }

    #[test]
    fn silence_about_appends_is_taken_for_loss() {
        let mut progress = replicating();
        progress.matched(Index(2));
        progress.sent(Index(4), 10);
        for _ in 0..SILENT_HEARTBEATS_MAX {
            assert_eq!(progress.next_index, Index(5));
            progress.heard();
            progress.heartbeat();
        }
        assert_eq!(progress.next_index, Index(3));
    }

    #[test]
    fn a_peer_that_answers_nothing_is_not_sent_everything_again() {
        let mut progress = replicating();
        progress.sent(Index(4), 10);
        progress.heartbeat();
        for _ in 0..10 * SILENT_HEARTBEATS_MAX {
            progress.heartbeat();
        }
        assert_eq!(progress.next_index, Index(5));
    }
}
