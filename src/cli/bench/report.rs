//! The results of a run, for people and for scripts.

use serde::Serialize;

use super::super::args::{BenchArgs, BenchOperation};
use super::measured::Measured;

/// The cluster that was measured, as its leader describes it.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) members: usize,
    pub(super) durability: String,
    pub(super) read_mode: String,
}

/// What `--json` prints. Scripts depend on the names.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    operation: &'static str,
    clients: usize,
    connections: usize,
    value_size: usize,
    keys: u64,
    /// Operations per second; null: a closed loop.
    rate: Option<f64>,
    /// Only for a mixed load.
    #[serde(skip_serializing_if = "Option::is_none")]
    read_ratio: Option<f64>,
    /// Only for watches: how many were sent each change.
    #[serde(skip_serializing_if = "Option::is_none")]
    watchers: Option<u32>,
    /// Only for leases.
    #[serde(skip_serializing_if = "Option::is_none")]
    leases: Option<u64>,
    seconds: f64,
    /// Operations that succeeded.
    operations: u64,
    ops_per_second: f64,
    latency_us: Latency,
    errors: ErrorCounts,
    durability: String,
    read_mode: String,
    members: usize,
}

#[derive(Debug, Serialize)]
struct Latency {
    min: u64,
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

#[derive(Debug, Serialize)]
struct ErrorCounts {
    not_applied: u64,
    unknown: u64,
    rejected: u64,
    not_begun: u64,
}

impl Report {
    pub(super) fn new(
        args: &BenchArgs,
        connections: usize,
        measured: &Measured,
        cluster: Cluster,
    ) -> Report {
        let Measured { operations, latencies, elapsed, errors, .. } = measured;
        let at = |quantile| latencies.value_at_quantile(quantile);
        let (operations, seconds) = (*operations, elapsed.as_secs_f64());
        Report {
            operation: args.operation.as_str(),
            clients: args.clients,
            connections,
            value_size: args.value_size,
            keys: args.keys,
            rate: args.rate,
            read_ratio: args.read_ratio(),
            watchers: (args.operation == BenchOperation::Watch).then_some(args.watch.watchers),
            leases: (args.operation == BenchOperation::Lease).then_some(args.lease.leases),
            seconds,
            operations,
            ops_per_second: operations as f64 / seconds,
            latency_us: Latency {
                min: latencies.min(),
                mean: latencies.mean(),
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: latencies.max(),
            },
            errors: ErrorCounts {
                not_applied: errors.not_applied,
                unknown: errors.unknown,
                rejected: errors.rejected,
                not_begun: errors.not_begun,
            },
            durability: cluster.durability,
            read_mode: cluster.read_mode,
            members: cluster.members,
        }
    }

    pub(super) fn to_json(&self) -> String {
        let json = serde_json::to_string(self).expect("numbers and text have a form in JSON");
        format!("{json}\n")
    }

    pub(super) fn to_text(&self) -> String {
        let Report { operation, clients, connections, value_size, keys, seconds, .. } = self;
        let Latency { min, mean, p50, p90, p99, p999, max } = self.latency_us;
        let ms = |us: u64| us as f64 / 1000.0;
        let load = match (self.rate, self.watchers, self.leases) {
            (_, Some(watchers), _) => format!("closed loop, {watchers} watchers of one key"),
            (_, _, Some(leases)) => format!("{leases} leases kept alive at a steady pace"),
            (Some(rate), ..) => format!("open loop at {rate} operations a second, {keys} keys"),
            (None, ..) => format!("closed loop, {keys} keys"),
        };
        let ErrorCounts { not_applied, unknown, rejected, not_begun } = self.errors;
        format!(
            "{operation}: {clients} clients over {connections} connections, {load}, values of {value_size} bytes\n\
             cluster: {} members; durability: {}; reads: {}\n\
             {} operations in {seconds:.2} s: {:.0} a second\n\
             latency in ms: min {:.3}, mean {:.3}, p50 {:.3}, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3}\n\
             errors: {not_applied} not applied, {unknown} of unknown outcome, {rejected} rejected; {not_begun} were due and not begun\n",
            self.members,
            self.durability,
            self.read_mode,
            self.operations,
            self.ops_per_second,
            ms(min),
            mean / 1000.0,
            ms(p50),
            ms(p90),
            ms(p99),
            ms(p999),
            ms(max),
        )
    }
}
