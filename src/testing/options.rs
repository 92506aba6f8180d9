//! What a test may say about its cluster: [`Options`], and the [`Delay`] of its network.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::node::{NodeConfig, ReadMode, Timing};

/// The options of a cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Heartbeats and elections of all members.
    pub timing: Timing,
    /// A member takes a snapshot when its log holds about this many bytes after the last one;
    /// default 64 MiB.
    pub snapshot_log_bytes: u64,
    /// How a leader makes sure that it may answer a read.
    pub read_mode: ReadMode,
    /// How long each call of a clerk may take; default 10 s.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            timing: Timing::default(),
            snapshot_log_bytes: NodeConfig::SNAPSHOT_LOG_BYTES,
            read_mode: ReadMode::default(),
            timeout: Duration::from_secs(10),
        }
    }
}

/// How long the network takes: always the same time, or a time from a range. See
/// [`Cluster::delay`](super::Cluster::delay).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay(pub(super) RangeInclusive<Duration>);

impl From<Duration> for Delay {
    fn from(delay: Duration) -> Delay {
        Delay(delay..=delay)
    }
}

impl From<RangeInclusive<Duration>> for Delay {
    fn from(range: RangeInclusive<Duration>) -> Delay {
        Delay(range)
    }
}
