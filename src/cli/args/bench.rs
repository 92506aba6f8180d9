//! The arguments of `bench`.

use std::time::Duration;

use super::parse_duration;

const BENCH_HELP: &str = "\
Examples:
  syncraft bench put --clients 64 --seconds 10
  syncraft bench get --clients 64 --conns 64 --json
  syncraft bench watch --watchers 1000 --clients 16";

#[derive(Debug, clap::Args)]
#[command(after_help = BENCH_HELP)]
pub(crate) struct BenchArgs {
    /// The operation to measure
    #[arg(value_enum)]
    pub(crate) operation: BenchOperation,
    /// Clients; each runs one operation at a time. watch: those that put the key
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) clients: usize,
    /// Connections to the leader that the clients share; by default one for every 32 clients, from
    /// 1 to 4
    #[arg(long, value_name = "N")]
    pub(crate) conns: Option<usize>,
    /// How many seconds to measure
    #[arg(long, value_name = "S", default_value_t = 10.0, conflicts_with = "count")]
    pub(crate) seconds: f64,
    /// How many operations to measure, instead of a time
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// The size of each value in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub(crate) value_size: usize,
    /// The number of keys; each operation takes one of them at random. cas: one of those that
    /// belong to its client. range: all of them
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) keys: u64,
    /// Begin N operations per second, whether or not earlier ones have ended (open loop)
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<f64>,
    /// For mixed: the share of operations that read
    #[arg(long, value_name = "0..1", default_value_t = 0.5)]
    pub(crate) read_ratio: f64,
    /// How long to run before the measurement begins
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = super::parse_duration_or_none)]
    pub(crate) warm_up: Duration,
    /// Read the keys as they are, without writing each of them first. lease: use the leases that
    /// an earlier run granted
    #[arg(long)]
    pub(crate) no_fill: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) watch: WatchLoadArgs,
    #[command(flatten)]
    pub(crate) lease: LeaseLoadArgs,
}

/// What only `bench watch` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct WatchLoadArgs {
    /// For watch: how many watches of the one key that is put
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) watchers: u32,
    /// For watch: how many more watches, each of a key that nobody changes
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) idle: u32,
    /// For watch: how many streams carry the watches
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) streams: u32,
}

/// What only `bench lease` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct LeaseLoadArgs {
    /// For lease: how many
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) leases: u64,
    /// For lease: the time to live of each, which is kept alive three times within it
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(crate) ttl: Duration,
    /// For lease: how often those that are due are kept alive, together
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_duration)]
    pub(crate) round: Duration,
}

impl BenchArgs {
    /// Set for a mixed load only.
    pub(crate) fn read_ratio(&self) -> Option<f64> {
        (self.operation == BenchOperation::Mixed).then_some(self.read_ratio)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BenchOperation {
    /// Replace the value of a key
    Put,
    /// Read a key
    Get,
    /// Add to the end of a value
    Append,
    /// Put or get: see --read-ratio
    Mixed,
    /// Compare and set: put, if nobody else has changed the key
    Cas,
    /// Read all the keys in one answer, which has at most 8 MiB
    Range,
    /// Put a key that many watch; counts the changes that they are sent
    Watch,
    /// Keep leases alive
    Lease,
}

impl BenchOperation {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            BenchOperation::Put => "put",
            BenchOperation::Get => "get",
            BenchOperation::Append => "append",
            BenchOperation::Mixed => "mixed",
            BenchOperation::Cas => "cas",
            BenchOperation::Range => "range",
            BenchOperation::Watch => "watch",
            BenchOperation::Lease => "lease",
        }
    }
}
