//! The closed loop: every client makes its next call when the last is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};

use crate::Operation;
use crate::cluster::{Cluster, Leader};
use crate::etcd::{Connection, Error, PutRequest, RangeRequest};
use crate::swap::Revisions;

/// How long a call is repeated before it counts as an error.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Before a call that was refused is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(2);
pub const FILLING_CLIENTS: usize = 64;

#[derive(Clone, Copy)]
pub enum Until {
    Elapsed(Duration),
    /// So many operations, of all clients together.
    Count(u64),
}

impl Until {
    /// Whether no further operation is to begin. Otherwise the next one counts as `taken`.
    pub fn is_over(self, begun: Instant, now: Instant, taken: &AtomicU64) -> bool {
        match self {
            Until::Elapsed(duration) => now >= begun + duration,
            Until::Count(count) => taken.fetch_add(1, Ordering::Relaxed) >= count,
        }
    }
}

/// What a run has measured. An operation counts if it was begun in time, whenever it was answered: an outage at the end is not
/// left out.
#[derive(Default)]
pub struct Outcome {
    pub elapsed: Duration,
    pub latencies_us: Vec<u32>,
    /// The time was up: a write may have happened, a read has not.
    pub timed_out: u64,
    pub rejected: u64,
    /// Compare-and-sets that found another revision: somebody else writes the same keys.
    pub lost: u64,
}

impl Outcome {
    pub fn succeeded(&mut self, latency: Duration) {
        self.latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    /// Adds what another client of the same run has measured.
    pub fn add(&mut self, other: Outcome) {
        self.latencies_us.extend(other.latencies_us);
        self.timed_out += other.timed_out;
        self.rejected += other.rejected;
        self.lost += other.lost;
    }
}

pub struct Load(Arc<Shared>);

struct Shared {
    cluster: Cluster,
    operation: Operation,
    value: Bytes,
    keys: u64,
    clients: u64,
    /// For compare-and-set.
    revisions: Revisions,
}

/// How a call ended that was answered.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Done,
    LostRace,
}

impl Load {
    pub fn new(
        cluster: Cluster,
        operation: Operation,
        value_size: usize,
        keys: u64,
        clients: u64,
    ) -> Load {
        let value = std::iter::repeat_with(|| fastrand::u8(..)).take(value_size).collect();
        let revisions = Revisions::default();
        Load(Arc::new(Shared { cluster, operation, value, keys, clients, revisions }))
    }

    /// Reads the revision of every key, so that they can be compared.
    pub async fn read_revisions(&mut self) -> Result<(), String> {
        let leader = self.0.cluster.leader().await;
        let all = RangeRequest { keys_only: true, ..self.0.all_keys() };
        let found = leader.connection(0).range(&all).await.map_err(|error| error.to_string())?;
        // Sorted by key, so in the order of their numbers.
        let revisions = found.kvs.iter().map(|entry| entry.mod_revision).collect();
        Arc::get_mut(&mut self.0).expect("no client runs").revisions = revisions;
        Ok(())
    }

    /// Writes every key, unless all are there already.
    pub async fn fill(&self) -> Result<(), String> {
        let leader = self.0.cluster.leader().await;
        let all = RangeRequest { count_only: true, ..self.0.all_keys() };
        let found = leader.connection(0).range(&all).await.map_err(|error| error.to_string())?;
        if u64::try_from(found.count) == Ok(self.0.keys) {
            return Ok(());
        }
        let next = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for client in 0..FILLING_CLIENTS {
            let (shared, leader, next) = (self.0.clone(), leader.clone(), next.clone());
            clients.spawn(async move {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= shared.keys {
                        return Ok(());
                    }
                    shared.put(leader.connection(client), index).await?;
                }
            });
        }
        clients
            .join_all()
            .await
            .into_iter()
            .collect::<Result<(), Error>>()
            .map_err(|error| error.to_string())
    }

    pub async fn run(&self, clients: usize, until: Until) -> Outcome {
        let begun = Instant::now();
        let taken = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        for client in 0..clients {
            running.spawn(run_client(self.0.clone(), client, begun, until, taken.clone()));
        }
        let mut total = Outcome::default();
        while let Some(outcome) = running.join_next().await {
            total.add(outcome.expect("a client does not panic"));
        }
        total.elapsed = begun.elapsed();
        total
    }
}

async fn run_client(
    shared: Arc<Shared>,
    client: usize,
    begun: Instant,
    until: Until,
    taken: Arc<AtomicU64>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut leader = shared.cluster.leader().await;
    let mut rng = Rng::new();
    loop {
        let now = Instant::now();
        if until.is_over(begun, now, &taken) {
            return outcome;
        }
        let index = shared.choose(client as u64, &mut rng);
        let answered = shared.call_until_answered(&mut leader, client, index);
        match timeout_at((now + CALL_TIMEOUT).into(), answered).await {
            Ok(Ok(Answer::LostRace)) => outcome.lost += 1,
            Ok(Ok(Answer::Done)) => outcome.succeeded(now.elapsed()),
            Ok(Err(error)) => {
                eprintln!("etcd-load: {error}");
                outcome.rejected += 1;
            }
            Err(_) => outcome.timed_out += 1,
        }
    }
}

impl Shared {
    async fn call_until_answered(
        &self,
        leader: &mut Leader,
        client: usize,
        index: u64,
    ) -> Result<Answer, Error> {
        let done = |()| Answer::Done;
        loop {
            let connection = leader.connection(client);
            let answer = match self.operation {
                Operation::Put => self.put(connection, index).await.map(done),
                Operation::Get => self.get(connection, index).await.map(done),
                Operation::Cas => self.swap(connection, index).await,
                Operation::Range => self.range(connection).await.map(done),
                Operation::Watch | Operation::Lease => unreachable!("they have loads of their own"),
            };
            match answer {
                Err(error) if error.is_retryable() => {
                    if !matches!(error, Error::Connection(_)) {
                        sleep(RETRY_PAUSE).await;
                    }
                    // Without one, the next attempt fails as this one did, until the call's time is up.
                    if let Ok(next) = self.cluster.leader_after(leader).await {
                        *leader = next;
                    }
                }
                answer => return answer,
            }
        }
    }

    async fn put(&self, connection: &Connection, index: u64) -> Result<(), Error> {
        let request = PutRequest { key: self.key(index), value: self.value.clone() };
        connection.put(&request).await.map(drop)
    }

    async fn get(&self, connection: &Connection, index: u64) -> Result<(), Error> {
        let request = RangeRequest { key: self.key(index), ..RangeRequest::default() };
        let found = connection.range(&request).await?;
        let value = found.kvs.first().ok_or(Error::Malformed)?;
        if value.value.len() == self.value.len() { Ok(()) } else { Err(Error::Malformed) }
    }

    async fn swap(&self, connection: &Connection, index: u64) -> Result<Answer, Error> {
        let request = self.revisions.request(index, self.key(index), self.value.clone());
        let response = connection.txn(&request).await?;
        match self.revisions.learn(index, &response)? {
            true => Ok(Answer::Done),
            false => Ok(Answer::LostRace),
        }
    }

    async fn range(&self, connection: &Connection) -> Result<(), Error> {
        let found = connection.range(&self.all_keys()).await?;
        if found.kvs.len() as u64 == self.keys { Ok(()) } else { Err(Error::Malformed) }
    }

    /// The key that an operation takes. For compare-and-set, clients share none: each has every
    /// `clients`th, from its number on.
    fn choose(&self, client: u64, rng: &mut Rng) -> u64 {
        match self.operation {
            Operation::Cas => {
                let own = (self.keys - client).div_ceil(self.clients);
                client + self.clients * rng.u64(..own)
            }
            _ => rng.u64(..self.keys),
        }
    }

    fn all_keys(&self) -> RangeRequest {
        let (key, range_end) = (self.key(0), self.key(self.keys));
        RangeRequest { key, range_end, ..RangeRequest::default() }
    }

    /// The size is part of it: values of another size are not found by mistake.
    fn key(&self, index: u64) -> Bytes {
        format!("bench/{}/{index:010}", self.value.len()).into()
    }
}
