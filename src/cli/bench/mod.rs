//! `bench`: measures how fast a cluster is.
//!
//! Each client has a session of its own and runs one operation at a time. Clients share connections
//! to the leader. By default a client begins its next operation when its last one has ended (closed
//! loop). With `--rate`, operations begin at that rate, whether or not earlier ones have ended. A
//! latency is then counted from the moment at which the operation should have begun, so time spent
//! waiting for a free client counts too (no coordinated omission).
//!
//! The keys that reads need are written first. Operations during the warm-up are not counted.
//!
//! | operation | what a client does, again and again |
//! | --- | --- |
//! | put, append, get, mixed | writes or reads one of the keys, each as likely as the others |
//! | cas | compares the mod revision of one of its own keys with the one it knows, and puts |
//! | range | reads all the keys, in one answer |
//! | watch | puts a key that many watch: see `watch` |
//!
//! `lease` has no clients: it keeps leases alive at a steady pace.
//!
//! A compare-and-set that finds another revision counts as "not applied": somebody else writes the
//! same keys. So does a range that does not find all of them.

mod lease;
mod load;
mod measured;
mod report;
mod swap;
mod watch;
mod wire;
mod work;

use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, Instant};

use syncraft::clerk::{Clerk, Endpoints};
use syncraft::kv::VALUE_LEN_MAX;
use syncraft::kv::model::ANSWER_LEN_MAX;
use syncraft::server::proto::StatusReply;

use super::args::{BenchArgs, BenchOperation, Common, WatchLoadArgs};
use super::asking::{self, Answer, ask_cluster};
use super::output::{eprint_line, print};
use super::{Exit, Failure, Outcome};
use load::{End, Leader, Load};
use measured::Measured;
use report::{Cluster, Report};
use work::{KEY_LEN, Work};

/// A higher number is taken for a mistake.
const CLIENTS_MAX: usize = 100_000;
/// The most keys of a compare-and-set. Each has a revision here.
const CAS_KEYS_MAX: u64 = 100_000_000;
/// What an entry counts for in an answer, besides its key and its value, in bytes.
const ENTRY_OVERHEAD: usize = 64;
/// The most streams of watches. Each has a thread here.
const STREAMS_MAX: usize = 1000;
/// A higher number is taken for a mistake.
const LEASES_MAX: u64 = 10_000_000;
/// Clients that prepare the keys.
const PREPARING_CLIENTS: u64 = 256;
/// By default, this many clients share a connection, ...
const CLIENTS_PER_CONNECTION: usize = 32;
/// ... and there are at most this many connections. With more, members need more system calls, each
/// for fewer answers.
const CONNECTIONS_MAX: usize = 4;
/// How long members may take to report their status at the beginning, ...
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// ... and later, when another one may lead. Short, so as not to wait for a frozen member.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(250);
/// The pause between two searches for the leader.
const SEARCH_PAUSE: Duration = Duration::from_millis(20);

pub(super) fn run(common: &Common, args: BenchArgs) -> Outcome {
    check(&args)?;
    let endpoints = common.endpoints()?;
    let users = match args.operation {
        BenchOperation::Watch => args.clients.max(args.watch.streams as usize),
        _ => args.clients,
    };
    let connections = args.conns.unwrap_or(connections_for(args.clients)).min(users);
    let found = find(&endpoints, Instant::now() + common.timeout())?;
    // The report names these: a number without them says little.
    let cluster = Cluster {
        members: found.1.members as usize,
        durability: found.1.durability,
        read_mode: found.1.read_mode,
    };
    let leader = || Search { endpoints: endpoints.clone(), common: common.clone() };
    let measured = match args.operation {
        BenchOperation::Watch => watch::run(&args, found.0, connections, common.timeout())?,
        BenchOperation::Lease => lease::run(&args, found.0, connections, common.timeout())?,
        _ => call(&args, common, leader, connections)?,
    };
    let report = Report::new(&args, connections, &measured, cluster);
    let text = if args.json { report.to_json() } else { report.to_text() };
    print(&[text.as_bytes()])?;
    let Some(words) = measured.first_error else {
        return match measured.latencies.is_empty() {
            true => Err(Failure::not_applied("nothing was measured: the run was too short")),
            false => Ok(Exit::Done),
        };
    };
    let line = format!("some operations failed, the first one with: {words}");
    let exit = match (measured.latencies.is_empty(), measured.errors.unknown) {
        (false, _) => {
            eprint_line(&format_args!("syncraft: {line}"));
            return Ok(Exit::Done);
        }
        (true, 0) => Exit::NotApplied,
        (true, _) => Exit::Unknown,
    };
    Err(Failure { exit, line })
}

/// Who leads. If members answer, but none leads, an election may be under way.
fn find(endpoints: &Endpoints, deadline: Instant) -> Result<(String, StatusReply), Failure> {
    loop {
        let answers = ask_cluster(endpoints, deadline.min(Instant::now() + STATUS_TIMEOUT)).answers;
        asking::check_protocol(&answers)?;
        let is_there = answers.iter().any(|answer| answer.reply.is_ok());
        let nobody = asking::with_reason("no member leads", &answers);
        match newest_leader(answers) {
            Some(found) => return Ok(found),
            None if is_there && Instant::now() < deadline => thread::sleep(SEARCH_PAUSE),
            None => return Err(Failure::not_applied(nobody)),
        }
    }
}

/// Runs the load of an operation that is one call.
fn call(
    args: &BenchArgs,
    common: &Common,
    leader: impl Fn() -> Search,
    connections: usize,
) -> Result<Measured, Failure> {
    let work = Work::new(args);
    if work.needs_keys() && !args.no_fill {
        fill(&work, args.keys, leader())?;
    }
    work.read_keys(&common.clerk()?)?;
    let load = Load {
        work,
        end: end(args),
        rate: args.rate,
        warm_up: args.warm_up,
        timeout: common.timeout(),
        ends_at_failure: false,
        shows_progress: io::stderr().is_terminal(),
    };
    load.run(leader(), args.clients, connections)
}

fn end(args: &BenchArgs) -> End {
    match args.count {
        Some(count) => End::Count(count),
        None => End::After(Duration::from_secs_f64(args.seconds)),
    }
}

/// Writes the keys of a run.
fn fill(work: &Work, keys: u64, leader: Search) -> Result<(), Failure> {
    let clients = PREPARING_CLIENTS.min(keys) as usize;
    let fill = Load {
        work: work.filling(),
        end: End::Count(keys),
        rate: None,
        warm_up: Duration::ZERO,
        timeout: leader.common.timeout(),
        ends_at_failure: true,
        shows_progress: io::stderr().is_terminal(),
    };
    match fill.run(leader, clients, connections_for(clients))?.first_error {
        None => Ok(()),
        Some(error) => Err(Failure::not_applied(format!(
            "cannot write the keys before the measurement: {error}"
        ))),
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
    if args.rate.is_some_and(|rate| !(0.001..=1e9).contains(&rate)) {
        return wrong("--rate: operations a second, at least 0.001".to_owned());
    }
    if !(0.0..=1.0).contains(&args.read_ratio) {
        return wrong(format!("--read-ratio {}: from 0 to 1", args.read_ratio));
    }
    if args.operation == BenchOperation::Append && args.no_fill {
        return wrong("--no-fill: append never fills keys".to_owned());
    }
    match args.operation {
        BenchOperation::Cas => check_cas(args),
        BenchOperation::Range => check_range(args),
        BenchOperation::Watch | BenchOperation::Lease => check_steady(args),
        _ => Ok(()),
    }
}

/// Checks what loads with streams, or at a pace of their own, take.
fn check_steady(args: &BenchArgs) -> Result<(), Failure> {
    let operation = args.operation.as_str();
    if args.rate.is_some() {
        return Err(Failure::usage(format!("--rate: not for {operation}")));
    }
    let (WatchLoadArgs { watchers, streams, .. }, leases) = (&args.watch, args.lease.leases);
    if *watchers == 0 || *streams == 0 || leases == 0 {
        return Err(Failure::usage("--watchers, --streams and --leases: at least 1"));
    }
    if *streams as usize > STREAMS_MAX || leases > LEASES_MAX {
        let words = format!("--streams: at most {STREAMS_MAX}; --leases: at most {LEASES_MAX}");
        return Err(Failure::usage(words));
    }
    Ok(())
}

fn check_cas(&BenchArgs { keys, clients, .. }: &BenchArgs) -> Result<(), Failure> {
    if keys < clients as u64 {
        let words = format!("--keys {keys}: each of {clients} clients needs a key of its own");
        return Err(Failure::usage(words));
    }
    if keys > CAS_KEYS_MAX {
        return Err(Failure::usage(format!("--keys {keys}: at most {CAS_KEYS_MAX} for cas")));
    }
    Ok(())
}

fn check_range(&BenchArgs { keys, value_size, .. }: &BenchArgs) -> Result<(), Failure> {
    let entry = (KEY_LEN + value_size + ENTRY_OVERHEAD) as u64;
    // An answer with a single entry may have any length.
    let keys_max = (ANSWER_LEN_MAX / entry).max(1);
    if keys > keys_max {
        let words = format!(
            "--keys {keys}: one answer holds at most {keys_max} keys with values of {value_size} \
             bytes"
        );
        return Err(Failure::usage(words));
    }
    Ok(())
}

fn connections_for(clients: usize) -> usize {
    (clients / CLIENTS_PER_CONNECTION).clamp(1, CONNECTIONS_MAX)
}

/// Searches for the leader.
struct Search {
    endpoints: Endpoints,
    common: Common,
}

impl Leader for Search {
    fn find(&self) -> Option<String> {
        let deadline = Instant::now() + SEARCH_TIMEOUT.min(self.common.timeout);
        newest_leader(ask_cluster(&self.endpoints, deadline).answers).map(|(addr, _)| addr)
    }

    fn clerk(&self) -> Result<Clerk, Failure> {
        self.common.clerk()
    }
}

/// The address and status of the newest leader.
fn newest_leader(answers: Vec<Answer>) -> Option<(String, StatusReply)> {
    let replies = answers
        .into_iter()
        .filter_map(|answer| answer.reply.ok().map(|reply| (answer.endpoint.addr, reply)));
    replies.filter(|(_, reply)| reply.leader == reply.id).max_by_key(|(_, reply)| reply.term)
}
