//! Leases that are kept alive: each three times within its time to live, as etcd's client does it.
//!
//! Every so often, those that are due are kept alive together. etcd answers each on its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::cluster::Cluster;
use crate::etcd::{Error, ResponseHeader};
use crate::load::{CALL_TIMEOUT, FILLING_CLIENTS, Outcome, Until};
use crate::stream::{Replies, Requests};

/// The ids of our leases begin behind it, so that a later run finds those of an earlier one.
const FIRST_ID: i64 = 0x62_65_6e_63_68_00_00_00;
/// `grpc-status` of a grant whose id is taken: the lease of an earlier run.
const FAILED_PRECONDITION: u32 = 9;
/// In a time to live.
const KEEP_ALIVES: u32 = 3;

#[derive(Message)]
pub struct LeaseGrantRequest {
    /// Seconds.
    #[prost(int64, tag = "1")]
    ttl: i64,
    #[prost(int64, tag = "2")]
    id: i64,
}

#[derive(Message)]
pub struct LeaseGrantResponse {}

#[derive(Message)]
pub struct LeaseKeepAliveRequest {
    #[prost(int64, tag = "1")]
    id: i64,
}

#[derive(Message)]
struct LeaseKeepAliveResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    /// 0: there is no such lease.
    #[prost(int64, tag = "3")]
    ttl: i64,
}

pub struct Leases {
    count: u64,
    ttl: Duration,
    /// Between two rounds of keep-alives.
    pause: Duration,
    streams: Vec<(Requests, Arc<Waiting>)>,
    /// The number of the next keep-alive.
    next: u64,
}

/// Keep-alives of one stream that are not answered, and what became of the others.
#[derive(Default)]
struct Waiting {
    state: Mutex<State>,
    answered: Notify,
}

#[derive(Default)]
struct State {
    /// When they were sent. Answers come in the same order.
    sent: VecDeque<Instant>,
    outcome: Outcome,
}

impl Leases {
    /// Grants the leases, unless `are_granted`, and opens the streams, spread over the connections.
    pub async fn new(
        cluster: &Cluster,
        count: u64,
        ttl: Duration,
        pause: Duration,
        streams: usize,
        are_granted: bool,
    ) -> Result<Leases, Error> {
        if !are_granted {
            grant(cluster, count, ttl).await?;
        }
        let leader = cluster.leader().await;
        let mut opened = Vec::new();
        for stream in 0..streams {
            let first = LeaseKeepAliveRequest { id: id_of(stream as u64 % count) };
            let (requests, mut replies) = leader.connection(stream).keep_alive(&first).await?;
            replies.next::<LeaseKeepAliveResponse>().await?;
            let waiting = Arc::new(Waiting::default());
            tokio::spawn(receive(replies, waiting.clone()));
            opened.push((requests, waiting));
        }
        Ok(Leases { count, ttl, pause, streams: opened, next: 0 })
    }

    /// Keeps them alive for so long, or for so many keep-alives.
    pub async fn run(&mut self, until: Until) -> Outcome {
        let begun = Instant::now();
        let (first, interval) = (self.next, self.ttl / KEEP_ALIVES);
        let duration = match until {
            Until::Elapsed(duration) => duration,
            Until::Count(count) => interval.mul_f64(count as f64 / self.count as f64),
        };
        let mut at = Duration::ZERO;
        while at < duration {
            at = (at + self.pause).min(duration);
            sleep_until((begun + at).into()).await;
            let due = at.as_secs_f64() / interval.as_secs_f64() * self.count as f64;
            // A count was made a time, which is not exact.
            while self.next < first + (due + 1e-3) as u64 {
                if let Err(error) = self.keep_next_alive() {
                    eprintln!("etcd-load: {error}");
                }
            }
        }
        let mut total = Outcome::default();
        for (_, waiting) in &self.streams {
            total.add(waiting.end().await);
        }
        total.elapsed = begun.elapsed();
        total
    }

    fn keep_next_alive(&mut self) -> Result<(), Error> {
        let streams = self.streams.len() as u64;
        let (requests, waiting) = &mut self.streams[(self.next % streams) as usize];
        let id = id_of(self.next % self.count);
        self.next += 1;
        waiting.lock().sent.push_back(Instant::now());
        requests.send(&LeaseKeepAliveRequest { id })
    }
}

fn id_of(number: u64) -> i64 {
    FIRST_ID + number as i64
}

async fn grant(cluster: &Cluster, count: u64, ttl: Duration) -> Result<(), Error> {
    let leader = cluster.leader().await;
    let mut clients = JoinSet::new();
    for client in 0..FILLING_CLIENTS {
        let connection = leader.connection(client).clone();
        clients.spawn(async move {
            for number in (client as u64..count).step_by(FILLING_CLIENTS) {
                let ttl = ttl.as_secs_f64().ceil() as i64;
                match connection.grant(&LeaseGrantRequest { ttl, id: id_of(number) }).await {
                    Ok(_) | Err(Error::Status(FAILED_PRECONDITION, _)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
    }
    clients.join_all().await.into_iter().collect()
}

/// Counts what one stream brings.
async fn receive(mut replies: Replies, waiting: Arc<Waiting>) {
    loop {
        match replies.next::<LeaseKeepAliveResponse>().await {
            Ok(reply) => waiting.count(&reply),
            // What it leaves unanswered shows in the report.
            Err(error) => return eprintln!("etcd-load: {error}"),
        }
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, reply: &LeaseKeepAliveResponse) {
        let mut state = self.lock();
        let Some(sent) = state.sent.pop_front() else { return };
        match reply.header.is_some() && reply.ttl > 0 {
            true => state.outcome.succeeded(sent.elapsed()),
            false => state.outcome.rejected += 1,
        }
        if state.sent.is_empty() {
            self.answered.notify_one();
        }
    }

    /// Waits until all are answered, and begins anew.
    async fn end(&self) -> Outcome {
        let all_answered = async {
            while !self.lock().sent.is_empty() {
                self.answered.notified().await;
            }
        };
        let _ = timeout(CALL_TIMEOUT, all_answered).await;
        let State { sent, mut outcome } = std::mem::take(&mut *self.lock());
        outcome.timed_out += sent.len() as u64;
        outcome
    }
}
