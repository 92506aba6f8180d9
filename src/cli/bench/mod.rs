//! `bench`: how fast a cluster is, as programs that hold a [`Clerk`](syncraft::clerk::Clerk) find it.
//!
//! Each client is a thread with a Clerk of its own; clients share connections where there are fewer of these. By default a
//! client begins its next operation when its last one has ended (closed loop). With `--rate` operations begin when the rate
//! says, whether or not earlier ones have ended, and a latency is counted from the moment at which its operation should have
//! begun: an operation that had to wait for a client has waited all the same (no coordinated omission).
//!
//! What an operation needs is prepared first: reads find their keys. What happens during the warm-up is not counted.

mod load;
mod report;
mod work;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use syncraft::clerk::{Clerk, Endpoints};
use syncraft::kv::VALUE_LEN_MAX;

use super::args::{BenchArgs, BenchOperation, Common};
use super::{Exit, Failure, Outcome, print, status};
use load::{End, Load};
use report::{Cluster, Report};
use work::Work;

/// More would be a mistake in the command.
const CLIENTS_MAX: usize = 100_000;
/// Clients that prepare the keys.
const PREPARING_CLIENTS: usize = 64;
/// How long one member may take to say how it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn run(common: &Common, args: BenchArgs) -> Outcome {
    check(&args)?;
    let endpoints = common.endpoints()?;
    let clerks = |clients: usize, connections: usize| clerks(common, clients, connections);
    let connections = args.conns.unwrap_or(args.clients).min(args.clients);
    let cluster = cluster(&endpoints)?;
    let shows_progress = io::stderr().is_terminal();

    let work = Work::new(&args);
    if work.reads() && !args.no_fill {
        let clients = PREPARING_CLIENTS.min(args.keys as usize);
        let fill = Load {
            work: work.filling(),
            end: End::Count(args.keys),
            rate: None,
            warm_up: Duration::ZERO,
            shows_progress,
        };
        let filled = fill.run(clerks(clients, clients)?)?;
        if let Some(error) = filled.first_error {
            return Err(Failure::not_applied(format!("the keys could not be prepared: {error}")));
        }
    }
    let load = Load {
        work,
        end: match args.count {
            Some(count) => End::Count(count),
            None => End::After(Duration::from_secs_f64(args.seconds)),
        },
        rate: args.rate,
        warm_up: args.warm_up,
        shows_progress,
    };
    let measured = load.run(clerks(args.clients, connections)?)?;
    let report = Report::new(&args, connections, &measured, cluster);
    let text = if args.json { report.to_json() } else { report.to_text() };
    print(&[text.as_bytes()])?;
    match measured.first_error {
        Some(error) if measured.latencies.is_empty() => Err(error.into()),
        Some(error) => {
            log::warn!("some operations failed, the first one so: {error}");
            Ok(Exit::Done)
        }
        None => Ok(Exit::Done),
    }
}

fn check(args: &BenchArgs) -> Result<(), Failure> {
    let wrong = |words: String| Err(Failure::usage(words));
    if args.clients == 0 || args.clients > CLIENTS_MAX {
        return wrong(format!("--clients {}: a number from 1 to {CLIENTS_MAX}", args.clients));
    }
    if args.conns == Some(0) {
        return wrong("--conns 0: at least one connection is needed".to_owned());
    }
    if args.value_size > VALUE_LEN_MAX {
        let size = args.value_size;
        return wrong(format!("--value-size {size}: at most {VALUE_LEN_MAX} bytes"));
    }
    if args.keys == 0 || args.count == Some(0) {
        return wrong("--keys and --count: at least 1".to_owned());
    }
    if !(args.seconds > 0.0 && args.seconds <= 1e6) {
        return wrong(format!("--seconds {}: more than 0, at most a million", args.seconds));
    }
    if args.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e9)) {
        return wrong("--rate: operations a second, more than 0".to_owned());
    }
    if !(0.0..=1.0).contains(&args.read_ratio) {
        return wrong(format!("--read-ratio {}: from 0 to 1", args.read_ratio));
    }
    if args.operation == BenchOperation::Append && args.no_fill {
        return wrong("--no-fill: appends need no keys".to_owned());
    }
    Ok(())
}

/// One Clerk a client, over so many connections to each member.
fn clerks(common: &Common, clients: usize, connections: usize) -> Result<Vec<Clerk>, Failure> {
    let own: Result<Vec<Clerk>, Failure> = (0..connections).map(|_| common.clerk()).collect();
    let mut clerks = own?;
    for i in connections..clients {
        clerks.push(clerks[i % connections].clone());
    }
    Ok(clerks)
}

/// What is measured: a number without it says little.
fn cluster(endpoints: &Endpoints) -> Result<Cluster, Failure> {
    let answers = status::ask_all(endpoints, Instant::now() + STATUS_TIMEOUT);
    let replies = || answers.iter().filter_map(|answer| answer.reply.as_ref().ok());
    let leader = replies().filter(|reply| reply.leader == reply.id).max_by_key(|reply| reply.term);
    let leader = leader.ok_or_else(|| Failure::not_applied("no member says that it leads"))?;
    Ok(Cluster {
        members: leader.members as usize,
        durability: leader.durability.clone(),
        read_mode: leader.read_mode.clone(),
    })
}
