//! What is printed.

use std::fmt;

use crate::args::{Args, Operation};

/// The result of a run, in the form of `syncraft bench --json`.
pub(crate) struct Report<'a> {
    args: &'a Args,
    sorted_us: Vec<u32>,
}

impl Report<'_> {
    pub(crate) fn new(args: &Args, mut latencies_us: Vec<u32>) -> Report<'_> {
        latencies_us.sort_unstable();
        Report { args, sorted_us: latencies_us }
    }

    /// The latency that the share `quantile` of all requests does not exceed.
    fn at(&self, quantile: f64) -> u32 {
        let last = self.sorted_us.len().saturating_sub(1);
        self.sorted_us.get((last as f64 * quantile).round() as usize).copied().unwrap_or(0)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Args { clients, connections, value_bytes, .. } = self.args;
        let operation = match self.args.operation {
            Operation::Put => "put",
            Operation::Get => "get",
        };
        let (seconds, operations) = (self.args.length.as_secs_f64(), self.sorted_us.len());
        let ops_per_second = operations as f64 / seconds;
        write!(
            f,
            r#"{{"operation":"{operation}","clients":{clients},"connections":{connections},"#
        )?;
        write!(
            f,
            r#""value_size":{value_bytes},"seconds":{seconds:.3},"operations":{operations},"#
        )?;
        write!(f, r#""ops_per_second":{ops_per_second:.1},"#)?;
        write!(
            f,
            r#""latency_us":{{"p50":{},"p99":{},"max":{}}}}}"#,
            self.at(0.5),
            self.at(0.99),
            self.at(1.0)
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn latencies_are_counted_from_the_lowest() {
        let args = Args {
            operation: Operation::Put,
            dir: "unused".into(),
            clients: 1,
            connections: 1,
            value_bytes: 256,
            length: Duration::from_secs(2),
            warm_up: Duration::ZERO,
        };
        let report = Report::new(&args, (1..=101).rev().collect()).to_string();
        assert!(report.contains(r#""ops_per_second":50.5,"#), "{report}");
        assert!(report.contains(r#""p50":51,"p99":100,"max":101"#), "{report}");

        let empty = Report::new(&args, Vec::new()).to_string();
        assert!(empty.contains(r#""p50":0,"#), "{empty}");
    }
}
