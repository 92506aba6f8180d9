//! Load for etcd, so that `scripts/bench.sh` can set syncraft beside it. It is meant to make etcd look as good as it is: gRPC
//! straight on HTTP/2 frames, with nothing between a caller and its connection; few connections that all clients share, so that many
//! calls travel in one segment; every call sent to the leader, which saves a hop.
//!
//! `--clients` callers each have one call under way, on one of `--conns` connections. A call that fails because its member died or
//! does not lead any more is repeated at the leader until it is answered: its latency is then the outage that a user sees.
//!
//! Prints one JSON object, of the same form as `syncraft bench --json` prints.

mod cluster;
mod etcd;
mod load;
mod report;
mod swap;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::runtime::{Builder, Runtime};

use crate::cluster::Cluster;
use crate::load::{Load, Until};
use crate::report::Report;

/// Load for etcd: puts, and linearizable gets, compare-and-sets or ranges, sent to the leader.
#[derive(Parser)]
struct Args {
    operation: Operation,
    /// Every member's client address, HOST:PORT.
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// How many callers, each with one call under way.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How many connections they share, at most one each.
    #[arg(long, default_value_t = 1)]
    conns: usize,
    /// How long to measure.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How many operations to measure, instead of for how long.
    #[arg(long)]
    count: Option<u64>,
    /// Milliseconds of load before measuring.
    #[arg(long, default_value_t = 2_000)]
    warm_up_ms: u64,
    /// Bytes.
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// How many keys, each as likely as the other. For cas: of those that belong to the client. For
    /// range: all of them. Except for puts, they are written first.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Threads of this program.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Operation {
    Put,
    Get,
    /// Compare the mod revision of a key, and put.
    Cas,
    /// Read all the keys in one answer.
    Range,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result =
        runtime(args.threads).map_err(Into::into).and_then(|runtime| runtime.block_on(run(args)));
    match result {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("etcd-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    match threads {
        // Saves the hand-overs between threads.
        0 | 1 => Builder::new_current_thread().enable_all().build(),
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}

async fn run(args: Args) -> Result<Report, Box<dyn Error>> {
    let members = args.endpoints.len();
    let clients = args.clients.max(1);
    let connections = args.conns.clamp(1, clients);
    let cluster = Cluster::connect(args.endpoints, connections).await?;
    let keys = args.keys.max(1);
    if args.operation == Operation::Cas && keys < clients as u64 {
        return Err(
            format!("--keys {keys}: each of {clients} clients needs a key of its own").into()
        );
    }
    let mut load = Load::new(cluster, args.operation, args.value_size, keys, clients as u64);
    if args.operation != Operation::Put {
        load.fill().await?;
    }
    if args.operation == Operation::Cas {
        load.read_revisions().await?;
    }
    if args.warm_up_ms > 0 {
        load.run(clients, Until::Elapsed(Duration::from_millis(args.warm_up_ms))).await;
    }
    let until = match args.count {
        Some(count) => Until::Count(count),
        None => Until::Elapsed(Duration::try_from_secs_f64(args.seconds)?),
    };
    let outcome = load.run(clients, until).await;
    Ok(Report {
        operation: args.operation,
        clients,
        connections,
        value_size: args.value_size,
        keys: args.keys,
        members,
        outcome,
    })
}
