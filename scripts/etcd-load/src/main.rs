//! Load for etcd, so that `scripts/bench.sh` can set syncraft beside it. It is meant to make etcd look as good as it is: gRPC
//! straight on HTTP/2 frames, with nothing between a caller and its connection; few connections that all clients share, so that many
//! calls travel in one segment; every call sent to the leader, which saves a hop.
//!
//! `--clients` callers each have one call under way, on one of `--conns` connections. A call that fails because its member died or
//! does not lead any more is repeated at the leader until it is answered: its latency is then the outage that a user sees.
//!
//! `watch` and `lease` have loads of their own, with streams: see their files. So has the JSON API (`--json`), which syncraft serves,
//! too: its load is the same for both.
//!
//! Prints one JSON object, of the same form as `syncraft bench --json` prints.

mod cluster;
mod etcd;
mod http;
mod json;
mod lease;
mod load;
mod report;
mod stream;
mod swap;
mod watch;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::runtime::{Builder, Runtime};

use crate::cluster::Cluster;
use crate::json::JsonLoad;
use crate::lease::Leases;
use crate::load::{Load, Outcome, Until};
use crate::report::Report;
use crate::watch::Watch;

/// Load for etcd: puts, and linearizable gets, compare-and-sets or ranges, watches and leases, sent
/// to the leader.
#[derive(Parser)]
struct Args {
    operation: Operation,
    /// Every member's client address, HOST:PORT.
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// How many callers, each with one call under way. For watch: those that put the key.
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
    /// For watch: how many watches of the one key that is put. Each put is so many operations, and
    /// takes until the last watch has it.
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// For watch: how many more watches, each of a key that nobody changes.
    #[arg(long, default_value_t = 0)]
    idle: usize,
    /// For watch and lease: how many streams, over all connections.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// For lease: how many.
    #[arg(long, default_value_t = 10_000)]
    leases: u64,
    /// For lease: the time to live, in seconds. Each is kept alive three times meanwhile.
    #[arg(long, default_value_t = 30)]
    ttl: u64,
    /// For lease: milliseconds between two rounds, in which those that are due are kept alive.
    #[arg(long, default_value_t = 500)]
    round_ms: u64,
    /// For lease: use those of an earlier run.
    #[arg(long)]
    no_fill: bool,
    /// Use the JSON API, for put, get and watch. Each client and each watch has a connection.
    #[arg(long)]
    json: bool,
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
    /// Put a key that many watch.
    Watch,
    /// Keep leases alive.
    Lease,
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
    let clients = args.clients.max(1);
    let connections_max = match args.operation {
        Operation::Watch | Operation::Lease => clients.max(args.streams),
        _ => clients,
    };
    let connections = if args.json { clients } else { args.conns.clamp(1, connections_max) };
    if args.json {
        let outcome = call_json(&args, clients).await?;
        return Ok(args.report(clients, connections, outcome));
    }
    let cluster = Cluster::connect(args.endpoints.clone(), connections).await?;
    let outcome = match args.operation {
        Operation::Watch => watch(cluster, &args).await?,
        Operation::Lease => keep_alive(cluster, &args).await?,
        _ => call(cluster, &args).await?,
    };
    Ok(args.report(clients, connections, outcome))
}

/// Runs a load through the JSON API.
async fn call_json(args: &Args, clients: usize) -> Result<Outcome, Box<dyn Error>> {
    if !matches!(args.operation, Operation::Put | Operation::Get | Operation::Watch) {
        return Err("--json is for put, get and watch".into());
    }
    let (keys, watchers) = (args.keys.max(1), args.watchers.max(1));
    let load =
        JsonLoad::new(&args.endpoints, args.operation, args.value_size, keys, watchers).await?;
    if let Some(warm_up) = args.warm_up() {
        load.run(clients, warm_up).await;
    }
    Ok(load.run(clients, args.until()?).await)
}

/// Runs the load of an operation that is one call.
async fn call(cluster: Cluster, args: &Args) -> Result<Outcome, Box<dyn Error>> {
    let (clients, keys) = (args.clients.max(1), args.keys.max(1));
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
    if let Some(warm_up) = args.warm_up() {
        load.run(clients, warm_up).await;
    }
    Ok(load.run(clients, args.until()?).await)
}

async fn watch(cluster: Cluster, args: &Args) -> Result<Outcome, Box<dyn Error>> {
    let (watchers, writers) = ((args.watchers.max(1), args.idle), args.clients.max(1));
    let watch = Watch::new(&cluster, args.value_size, watchers, args.streams.max(1)).await?;
    if let Some(warm_up) = args.warm_up() {
        watch.run(writers, warm_up).await;
    }
    Ok(watch.run(writers, args.until()?).await)
}

async fn keep_alive(cluster: Cluster, args: &Args) -> Result<Outcome, Box<dyn Error>> {
    let ttl = Duration::from_secs(args.ttl.max(1));
    let pause = Duration::from_millis(args.round_ms.max(1));
    let (count, streams) = (args.leases.max(1), args.streams.max(1));
    let mut leases = Leases::new(&cluster, count, ttl, pause, streams, args.no_fill).await?;
    if let Some(warm_up) = args.warm_up() {
        leases.run(warm_up).await;
    }
    Ok(leases.run(args.until()?).await)
}

impl Args {
    fn report(&self, clients: usize, connections: usize, outcome: Outcome) -> Report {
        Report {
            operation: self.operation,
            clients,
            connections,
            value_size: self.value_size,
            keys: self.keys,
            members: self.endpoints.len(),
            watchers: self.watchers,
            outcome,
        }
    }

    fn warm_up(&self) -> Option<Until> {
        let elapsed = Until::Elapsed(Duration::from_millis(self.warm_up_ms));
        (self.warm_up_ms > 0).then_some(elapsed)
    }

    fn until(&self) -> Result<Until, Box<dyn Error>> {
        Ok(match self.count {
            Some(count) => Until::Count(count),
            None => Until::Elapsed(Duration::try_from_secs_f64(self.seconds)?),
        })
    }
}
