//! What a test may say about its cluster: [`Options`], and the [`Delay`] of its network.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::node::{NodeConfig, ReadMode, Timing};

/// The options of a cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Heartbeats and elections of all members.
    pub timing: Timing,
    /// A member takes a snapshot when its log holds about this many bytes after the last one, or a
    /// few times as many if that one was long: see `NodeConfig`. Default 64 MiB.
    pub snapshot_log_bytes: u64,
    /// How a leader makes sure that it may answer a read.
    pub read_mode: ReadMode,
    /// How long each call of a clerk, and each change of the members, may take; default 10 s.
    pub timeout: Duration,
    /// How long a start, and [`Cluster::leader`](super::Cluster::leader), wait for a leader;
    /// default 10 s.
    pub leader_timeout: Duration,
    /// The port of member 1. Member 2 has the next one, and so on. Default 0: any free ports. Those
    /// who are added later have free ones.
    pub port: u16,
    /// The same for HTTP: the store (`/v1/kv/KEY`) and the pages for operators' tools. Default
    /// `None`: members serve no HTTP.
    pub http_port: Option<u16>,
    /// The same for etcd's clients. Default `None`: members serve none of them.
    pub etcd_port: Option<u16>,
    /// A directory for the data, which stays there and serves the next cluster that is started with
    /// as many members. If members have come or gone, the next cluster has those that there were
    /// last. The directory is absent or empty, or an earlier cluster had it. Default `None`: a
    /// temporary directory, which is removed with the cluster.
    pub data_dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            timing: Timing::default(),
            snapshot_log_bytes: NodeConfig::SNAPSHOT_LOG_BYTES,
            read_mode: ReadMode::default(),
            timeout: Duration::from_secs(10),
            leader_timeout: Duration::from_secs(10),
            port: 0,
            http_port: None,
            etcd_port: None,
            data_dir: None,
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
