//! The configuration of a node: who it is, who the others are, its times and limits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::members::Members;
use crate::raft::{Config, Configuration, MemberId};
use crate::storage::{DataDir, Identity};

/// The longest command. With its message around it, it fits into a frame of [`FRAME_LEN_MIN`].
pub const COMMAND_LEN_MAX: usize = (15 << 20) + (128 << 10);
/// A server that publishes a node must take frames of at least this length. Otherwise members
/// cannot send each other every entry.
pub const FRAME_LEN_MIN: usize = 16 << 20;

/// While so many messages with entries are on their way to a peer, small entries gather for the
/// next message: the next batch forms while a follower writes one, as it does at the leader's own
/// disk. A higher number wakes the followers more often, for fewer entries each time.
const APPEND_GATHER_FROM: usize = 1;

/// The log may become so many times as long as the snapshot before it, so that at most half a byte
/// is written to snapshots for each byte of log, ...
const LOG_LEN_PER_SNAPSHOT: u64 = 2;
/// ... but not longer than so many times `snapshot_log_bytes`, because a start applies all of it
/// again, ...
const LOG_LEN_MAX_FACTOR: u64 = 4;
/// ... unless loading the snapshot takes longer anyway: a quarter of it is always allowed.
const SNAPSHOT_LEN_PER_LOG: u64 = 4;

/// Configuration of one node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This member.
    pub id: MemberId,
    /// The members with their addresses. While the log has no configuration, these are the members,
    /// and the first leader records them. After that, this is only where to look for the others.
    pub members: Members,
    /// For tests: other addresses for some members, whatever the configuration says. Default: none.
    pub detour: Detour,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// A snapshot is taken when the log holds about this many bytes behind the last snapshot.
    /// Default 64 MiB. Too small: the state is written again and again. Too large: the log takes
    /// space on the disk, and a start takes longer.
    ///
    /// Behind a long snapshot the log may become longer: twice as long as the snapshot, up to four
    /// times this value, and always a quarter of the snapshot. Members take snapshots at different
    /// lengths, up to eleven eighths of these: if all did at the same time, no majority would be
    /// undisturbed.
    pub snapshot_log_bytes: u64,
    /// How a leader makes sure that it still leads before it answers a read.
    pub read_mode: ReadMode,
    /// Whether this member may have promised a lease to a leader that may still run. If so, it
    /// helps nobody to become leader for an election timeout after its start. Default true: before
    /// its last start the member may have had another read mode. False is safe only if no earlier
    /// leader can be alive, for example because all members of the cluster have ended.
    pub may_have_promised: bool,
    /// Whether the cluster is known to have begun with `members`. Then they say who votes until the
    /// log has a configuration, also in a directory that was filled while an older version of the
    /// cluster had none. Default false.
    pub is_first_list: bool,
    /// The highest [feature level](super::StateMachine#feature-levels) that this member announces
    /// and accepts, in place of [`StateMachine::level_max`](super::StateMachine::level_max). It is
    /// for tests of clusters whose members are of different versions: a level that the machine does
    /// not know has no rules. Default `None`.
    pub level_max: Option<u32>,
}

/// Where to reach members instead of at their configured addresses: through a test's network.
#[derive(Clone, Default)]
pub struct Detour(Option<Arc<Find>>);

type Find = dyn Fn(MemberId, &str) -> Option<String> + Send + Sync;

impl Detour {
    /// `find` is given a member and its configured address, and returns where to reach it instead,
    /// if that is elsewhere.
    pub fn new(find: impl Fn(MemberId, &str) -> Option<String> + Send + Sync + 'static) -> Detour {
        Detour(Some(Arc::new(find)))
    }

    /// Where to reach the member whose configured address is `addr`.
    pub(super) fn of(&self, id: MemberId, addr: &str) -> String {
        let elsewhere = self.0.as_ref().and_then(|find| find(id, addr));
        elsewhere.unwrap_or_else(|| addr.to_owned())
    }
}

impl fmt::Debug for Detour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Detour(..)" } else { "Detour" })
    }
}

/// How a leader makes sure, before it answers a read, that no other member leads by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// It asks a majority each time, once for all reads that wait (ReadIndex, thesis §6.4). No
    /// clock is trusted.
    #[default]
    ReadIndex,
    /// A majority promises in advance to elect no other leader for a time (leases, thesis §6.4.1).
    /// This saves a round trip a read. It assumes that no member's clock runs more than a tenth
    /// faster than another's; the time that a clock shows does not matter, and it may be set. When
    /// a leader dies, the others wait until the promise ends, an election timeout, where they would
    /// notice at once otherwise. A leader that has too few promises asks, so members of both modes
    /// may be mixed.
    Lease,
}

impl ReadMode {
    /// The word that the command line uses.
    pub fn as_str(self) -> &'static str {
        match self {
            ReadMode::ReadIndex => "read-index",
            ReadMode::Lease => "lease",
        }
    }
}

impl NodeConfig {
    /// The default of [`snapshot_log_bytes`](NodeConfig::snapshot_log_bytes).
    pub const SNAPSHOT_LOG_BYTES: u64 = 64 << 20;

    /// The defaults for member `id` of `members`.
    pub fn new(id: MemberId, members: Members) -> NodeConfig {
        NodeConfig {
            id,
            members,
            timing: Timing::default(),
            snapshot_log_bytes: NodeConfig::SNAPSHOT_LOG_BYTES,
            read_mode: ReadMode::default(),
            detour: Detour::default(),
            may_have_promised: true,
            is_first_list: false,
            level_max: None,
        }
    }
}

/// The times of Raft, on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The core's unit of time; default 10 ms. The others are rounded up to multiples of it.
    pub tick: Duration,
    /// The time between a leader's heartbeats; default 50 ms. While they have nothing to tell and
    /// nothing to repair, it is twice this or a third of `election_min`, whichever is less, but
    /// never less than this: if one is lost, a follower hears nothing for 200 of its 300 ms or
    /// more. Too large: a few lost heartbeats look like a dead leader.
    pub heartbeat: Duration,
    /// The shortest election timeout; default 300 ms. Each timeout is drawn between the shortest
    /// and the longest. Too small: pauses of a busy machine cost the leader its term. Too large: it
    /// takes long to replace a leader that falls silent.
    pub election_min: Duration,
    /// The longest election timeout; default 600 ms.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            tick: Duration::from_millis(10),
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
        }
    }
}

/// The longest election timeout, in ticks. The core counts some multiples of it.
const ELECTION_TICKS_MAX: u32 = u32::MAX / 16;

impl Timing {
    /// Checks that the times fit together.
    ///
    /// # Errors
    /// One line that says which times do not.
    pub fn check(&self) -> Result<(), String> {
        let Timing { tick, heartbeat, election_min, election_max } = *self;
        if tick.is_zero() || heartbeat < tick {
            return Err(format!(
                "a heartbeat every {heartbeat:?} is more often than the clock ticks ({tick:?})"
            ));
        }
        if election_min < heartbeat.saturating_mul(2) {
            return Err(format!(
                "an election timeout of {election_min:?} leaves no room for a lost heartbeat \
                 ({heartbeat:?})"
            ));
        }
        if election_max <= election_min {
            return Err(format!(
                "election timeouts are drawn from {election_min:?} to {election_max:?}: an empty \
                 range"
            ));
        }
        if self.ticks(election_max) > ELECTION_TICKS_MAX {
            return Err(format!(
                "an election timeout of up to {election_max:?} is too long for a clock that ticks \
                 every {tick:?}"
            ));
        }
        Ok(())
    }

    /// Ticks between heartbeats while all members have everything. One that is lost causes no
    /// election: the next one comes before, also by a clock that is a tick or two ahead.
    fn rare_heartbeat_ticks(&self) -> u32 {
        let (often, election) = (self.ticks(self.heartbeat), self.ticks(self.election_min));
        let most = (election / 3).min(election.saturating_sub(3) / 2);
        often.saturating_mul(2).min(most).max(often)
    }

    pub(super) fn ticks(&self, time: Duration) -> u32 {
        u32::try_from(time.as_nanos().div_ceil(self.tick.as_nanos())).unwrap_or(u32::MAX)
    }
}

/// When a member takes its next snapshot: see [`NodeConfig::snapshot_log_bytes`].
pub(super) struct SnapshotRule {
    log_bytes: u64,
    /// By how much this member waits longer, so that not all take snapshots at the same time.
    extra_eighths: u64,
}

impl SnapshotRule {
    /// How long the log may become behind a snapshot of this length.
    pub(super) fn log_len_max_bytes(&self, snapshot_len_bytes: u64) -> u64 {
        let log_bytes = snapshot_len_bytes
            .saturating_mul(LOG_LEN_PER_SNAPSHOT)
            .min(self.log_bytes.saturating_mul(LOG_LEN_MAX_FACTOR))
            .max(snapshot_len_bytes / SNAPSHOT_LEN_PER_LOG)
            .max(self.log_bytes);
        (log_bytes / 8).saturating_mul(8 + self.extra_eighths).max(1)
    }
}

impl NodeConfig {
    pub(super) fn snapshot_rule(&self) -> SnapshotRule {
        SnapshotRule { log_bytes: self.snapshot_log_bytes, extra_eighths: self.id.0 % 4 }
    }

    /// The configuration of the core, for a member with this data directory.
    pub(super) fn raft(&self, data_dir: &DataDir) -> Config {
        let Identity { cluster_id, list_id, .. } = data_dir.identity();
        // A cluster of an older version keeps its id.
        let first_id = if cluster_id == 0 { fastrand::u64(1..) } else { cluster_id };
        let addrs = self.members.iter().map(|(id, addr)| (id, addr.to_owned()));
        let first = Configuration::first(first_id, list_id, addrs);
        Config {
            is_list_in_force: self.is_first_list || !data_dir.is_cluster_recorded(),
            cluster_id,
            list_id,
            directory: data_dir.directory(),
            first_configuration: Some(Arc::new(first)),
            may_configure: cluster_id == 0,
            standing: data_dir.standing(),
            heartbeat_ticks: self.timing.ticks(self.timing.heartbeat),
            rare_heartbeat_ticks: self.timing.rare_heartbeat_ticks(),
            election_ticks_min: self.timing.ticks(self.timing.election_min),
            election_ticks_max: self.timing.ticks(self.timing.election_max),
            lease: self.read_mode == ReadMode::Lease,
            may_have_promised: self.may_have_promised,
            tick_us: u64::try_from(self.timing.tick.as_micros()).unwrap_or(u64::MAX),
            append_gather_from: APPEND_GATHER_FROM,
            seed: fastrand::u64(..),
            ..Config::new(self.id, self.members.iter().map(|(id, _)| id))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_do_not_fit_together_are_refused() {
        let check = |heartbeat, election_min, election_max| {
            Timing { heartbeat, election_min, election_max, ..Timing::default() }.check().is_ok()
        };
        let (ms, hour) = (Duration::from_millis(1), Duration::from_secs(3600));
        assert!(Timing::default().check().is_ok());
        assert!(check(50 * ms, 100 * ms, 101 * ms));
        assert!(!check(50 * ms, 99 * ms, 101 * ms));
        assert!(!check(50 * ms, 100 * ms, 100 * ms));
        assert!(!check(Duration::ZERO, 100 * ms, 200 * ms));
        // The clock counts its ticks in 32 bits.
        assert!(check(hour, 2 * hour, 700 * hour));
        assert!(!check(hour, 2 * hour, 800 * hour));
        assert!(!check(Duration::MAX, Duration::MAX, Duration::MAX));
    }

    #[test]
    fn the_log_may_grow_with_the_snapshot_before_it_within_bounds() {
        const MIB: u64 = 1 << 20;
        let check = |extra_eighths, snapshot_len_mib, expected_mib| {
            let rule = SnapshotRule { log_bytes: 64 * MIB, extra_eighths };
            let log_len_max_bytes = rule.log_len_max_bytes(snapshot_len_mib * MIB);
            assert_eq!(log_len_max_bytes, expected_mib * MIB, "{extra_eighths} {snapshot_len_mib}");
        };
        check(0, 0, 64);
        check(0, 32, 64);
        check(0, 70, 140);
        check(3, 0, 88);
        check(3, 64, 176);
        check(0, 500, 256);
        check(0, 1_024, 256);
        check(0, 4_096, 1_024);
    }
}
