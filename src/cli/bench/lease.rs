//! `bench lease`: leases that are kept alive, each three times within its time to live.
//!
//! Every `--round`, those that are due are kept alive, with one call over each connection. A short
//! round thus stands for many programs with a lease each, a long one for a program with many
//! leases. The ids are always the same, so `--no-fill` can use the leases of an earlier run. Nobody
//! revokes them.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use syncraft::ErrorChain;
use syncraft::kv::model::Reason;
use syncraft::kv::model::proto::{
    LeaseGrantReply, LeaseGrantRequest, LeaseKeepAliveReply, LeaseKeepAliveRequest, Refusal,
    lease_grant_reply,
};
use syncraft::rpc::CallError;

use super::super::Failure;
use super::super::args::BenchArgs;
use super::end;
use super::load::{End, check_line};
use super::measured::{Failed, LATENCY_MAX_US, Measured, Shard};
use super::wire::{Lines, Session};

/// The ids begin here, far from those that others choose.
const FIRST_ID: u64 = 0x62_65_6e_63_68_00_00_00;
/// Grants that are under way at a time.
const GRANTS: usize = 64;
/// How many calls may be under way. The members let keep-alives that are many wait for each other.
const CALLS_MAX: usize = 4_096;
/// How often a lease is kept alive within its time to live.
const KEEP_ALIVES: u32 = 3;
/// The shortest time between two keep-alives of a lease.
const INTERVAL_MIN: Duration = Duration::from_millis(1);
/// The most ids of one call.
const IDS_MAX: usize = 10_000;

pub(super) fn run(
    args: &BenchArgs,
    addr: String,
    connections: usize,
    timeout: Duration,
) -> Result<Measured, Failure> {
    let lines = Lines::new(addr, args.clients.max(CALLS_MAX), connections);
    let deadline = Instant::now() + timeout;
    lines.lines.iter().try_for_each(|line| check_line(line, deadline))?;
    if !args.no_fill {
        grant(args, &lines, timeout)?;
    }
    let mut keeper = Keeper {
        lines,
        leases: args.lease.leases,
        interval: (args.lease.ttl / KEEP_ALIVES).max(INTERVAL_MIN),
        round: args.lease.round,
        timeout,
        next: 0,
    };
    keeper.keep_alive(args.warm_up);
    let duration = match end(args) {
        End::After(duration) => duration,
        End::Count(count) => {
            let rounds = count as f64 / args.lease.leases as f64;
            let seconds = keeper.interval.as_secs_f64() * rounds;
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
        }
    };
    let begun = Instant::now();
    let shard = keeper.keep_alive(duration);
    let elapsed = begun.elapsed();
    keeper.lines.lines.iter().for_each(|line| line.kv.invoker().close());
    Ok(shard.measured(1, elapsed))
}

fn id_of(number: u64) -> u64 {
    FIRST_ID + number
}

fn grant(args: &BenchArgs, lines: &Lines, timeout: Duration) -> Result<(), Failure> {
    let ttl_ms = u64::try_from(args.lease.ttl.as_millis()).unwrap_or(u64::MAX);
    let mut rng = fastrand::Rng::new();
    let mut sessions: Vec<Session> = (0..GRANTS).map(|_| Session::new(&mut rng)).collect();
    let numbers: Vec<u64> = (0..args.lease.leases).collect();
    for chunk in numbers.chunks(GRANTS) {
        let deadline = Instant::now() + timeout;
        let pending = sessions.iter_mut().zip(chunk).map(|(session, number)| {
            let identity = Some(session.next_write());
            let request = LeaseGrantRequest { identity, ttl_ms, id: id_of(*number) };
            let line = &lines.lines[*number as usize % lines.lines.len()];
            line.store.lease_grant_async(&request, deadline)
        });
        let pending: Vec<_> = pending.collect();
        for (pending, session) in pending.into_iter().zip(&mut sessions) {
            session.saw(granted(pending.wait()?)?);
        }
    }
    Ok(())
}

/// The index that the reply to a grant names, if there is such a lease now.
fn granted(reply: LeaseGrantReply) -> Result<u64, Failure> {
    match reply.result {
        Some(lease_grant_reply::Result::Lease(_)) => Ok(reply.index),
        // An earlier run granted it.
        Some(lease_grant_reply::Result::Refusal(Refusal { reason, .. }))
            if reason == Reason::LeaseExists.number() =>
        {
            Ok(reply.index)
        }
        other => Err(Failure::not_applied(format!("a lease is not granted: {other:?}"))),
    }
}

/// Keeps the leases alive.
struct Keeper {
    lines: Lines,
    leases: u64,
    /// Between two keep-alives of one lease.
    interval: Duration,
    round: Duration,
    timeout: Duration,
    /// The number of the next keep-alive.
    next: u64,
}

impl Keeper {
    /// Keeps the leases alive for so long, and waits for the answers.
    fn keep_alive(&mut self, duration: Duration) -> Shard {
        let shard = Arc::new(Mutex::new(Shard::new()));
        let (first, begun, mut at) = (self.next, Instant::now(), Duration::ZERO);
        while at < duration {
            at = (at + self.round).min(duration);
            thread::sleep((begun + at).saturating_duration_since(Instant::now()));
            let due = at.as_secs_f64() / self.interval.as_secs_f64() * self.leases as f64;
            // A count was made a time, which is not exact.
            self.send((first + (due + 1e-3) as u64).max(self.next), &shard);
        }
        // Each call that has not ended holds it, and ends by its deadline.
        let mut shard = shard;
        loop {
            match Arc::try_unwrap(shard) {
                Ok(shard) => return shard.into_inner(),
                Err(shared) => shard = shared,
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends the keep-alives up to this number.
    fn send(&mut self, until: u64, shard: &Arc<Mutex<Shard>>) {
        let lines = self.lines.lines.len() as u64;
        for number in 0..lines {
            let ids = (self.next + number..until).step_by(lines as usize);
            let ids: Vec<u64> = ids.map(|next| id_of(next % self.leases)).collect();
            for ids in ids.chunks(IDS_MAX) {
                let (shard, len, begin) = (Arc::clone(shard), ids.len(), Instant::now());
                let request = LeaseKeepAliveRequest { ids: ids.to_vec() };
                let line = &self.lines.lines[number as usize];
                line.store.lease_keep_alive_then(&request, begin + self.timeout, move |reply| {
                    count(&mut shard.lock(), begin, len, reply);
                });
            }
        }
        self.next = until;
    }
}

/// Counts the answer to a call with `len` leases.
fn count(
    shard: &mut Shard,
    begin: Instant,
    len: usize,
    reply: Result<LeaseKeepAliveReply, CallError>,
) {
    let latency = u64::try_from(begin.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US);
    let failed = |words: &str| Err(Failed::not_applied(words));
    match reply {
        Ok(LeaseKeepAliveReply { not_served: None, leases, .. }) if leases.len() == len => {
            for lease in leases {
                shard.count(
                    latency,
                    match lease.ttl_ms {
                        0 => failed("a lease has ended"),
                        _ => Ok(()),
                    },
                );
            }
        }
        Ok(_) => (0..len).for_each(|_| shard.count(latency, failed("it was not served"))),
        Err(error) => {
            let words = ErrorChain(&error).to_string();
            (0..len).for_each(|_| shard.count(latency, failed(&words)));
        }
    }
}
