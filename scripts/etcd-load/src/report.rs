//! What is printed.

use std::fmt;

use hdrhistogram::Histogram;

use crate::Operation;
use crate::load::Outcome;

pub struct Report {
    pub operation: Operation,
    pub clients: usize,
    pub connections: usize,
    pub value_size: usize,
    pub keys: u64,
    pub members: usize,
    /// Each put is one operation for each of them.
    pub watchers: usize,
    pub outcome: Outcome,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { clients, connections, value_size, keys, members, outcome, .. } = self;
        let (operation, not_applied, unknown) = match self.operation {
            Operation::Put => ("put", 0, outcome.timed_out),
            Operation::Get => ("get", outcome.timed_out, 0),
            Operation::Cas => ("cas", outcome.lost, outcome.timed_out),
            Operation::Range => ("range", outcome.timed_out, 0),
            Operation::Watch => ("watch", 0, outcome.timed_out),
            Operation::Lease => ("lease", 0, outcome.timed_out),
        };
        let (seconds, mut operations) = (outcome.elapsed.as_secs_f64(), outcome.latencies_us.len());
        if self.operation == Operation::Watch {
            operations *= self.watchers;
        }
        let ops_per_second = operations as f64 / seconds;
        write!(
            f,
            r#"{{"operation":"{operation}","clients":{clients},"connections":{connections},"#
        )?;
        write!(
            f,
            r#""value_size":{value_size},"keys":{keys},"seconds":{seconds:.3},"operations":{operations},"#
        )?;
        write!(f, r#""ops_per_second":{ops_per_second:.1},"latency_us":{},"#, latency_us(outcome))?;
        write!(
            f,
            r#""errors":{{"not_applied":{not_applied},"unknown":{unknown},"rejected":{}}},"#,
            outcome.rejected
        )?;
        write!(f, r#""durability":"fsync of a majority's write-ahead logs, etcd's default","#)?;
        write!(f, r#""read_mode":"linearizable, etcd's default","members":{members}}}"#)
    }
}

fn latency_us(outcome: &Outcome) -> String {
    let mut histogram = Histogram::<u64>::new(3).expect("3 is a precision it has");
    for latency in &outcome.latencies_us {
        histogram.record(u64::from(*latency)).expect("it grows as it must");
    }
    let at = |quantile| histogram.value_at_quantile(quantile);
    format!(
        r#"{{"min":{},"mean":{:.1},"p50":{},"p90":{},"p99":{},"p999":{},"max":{}}}"#,
        histogram.min(),
        histogram.mean(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        histogram.max()
    )
}
