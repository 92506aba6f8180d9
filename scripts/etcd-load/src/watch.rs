//! Watches of one key, and writers that put it as fast as the watchers keep up.
//!
//! A put counts as done when it is answered and every watcher has its event. Only then does its
//! writer put again, so the number of writers bounds what waits for the watchers.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::cluster::{Cluster, Leader};
use crate::etcd::{Connection, Error, PutRequest};
use crate::load::{CALL_TIMEOUT, Outcome, Until};
use crate::stream::{Replies, Requests};

const KEY: &[u8] = b"bench/watched";
/// What watchers watch that are sent nothing.
const IDLE_PREFIX: &str = "bench/idle/";

#[derive(Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreate>,
}

#[derive(Message)]
struct WatchCreate {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Message)]
struct WatchResponse {
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(bool, tag = "4")]
    canceled: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

#[derive(Message)]
struct Event {
    #[prost(message, tag = "2")]
    kv: Option<Changed>,
}

/// Of an entry, what is looked at.
#[derive(Message)]
struct Changed {
    #[prost(int64, tag = "3")]
    mod_revision: i64,
}

pub struct Watch {
    leader: Leader,
    value: Bytes,
    seen: Arc<Seen>,
    /// Kept, as dropping them ends the watches.
    _requests: Vec<Requests>,
}

/// What the watchers have been sent.
pub struct Seen {
    watchers: u32,
    /// How many have a revision that not all of them have.
    by_revision: Mutex<BTreeMap<i64, u32>>,
    /// The latest revision that all of them have, and so all revisions before.
    by_all: watch::Sender<i64>,
}

impl Watch {
    /// Makes the watches, spread evenly over the streams, and these over the connections.
    pub async fn new(
        cluster: &Cluster,
        value_size: usize,
        (watchers, idle): (usize, usize),
        streams: usize,
    ) -> Result<Watch, Error> {
        let leader = cluster.leader().await;
        let seen = Arc::new(Seen::new(watchers));
        let mut requests = Vec::new();
        for stream in 0..streams {
            let watched = (stream..watchers).step_by(streams).map(|_| Bytes::from_static(KEY));
            let unchanged = (stream..idle).step_by(streams);
            let unchanged = unchanged.map(|number| Bytes::from(format!("{IDLE_PREFIX}{number}")));
            let keys: Vec<Bytes> = watched.chain(unchanged).collect();
            if keys.is_empty() {
                continue;
            }
            let (kept, replies) = open(leader.connection(stream), &keys).await?;
            requests.push(kept);
            tokio::spawn(receive(replies, seen.clone()));
        }
        let value = std::iter::repeat_with(|| fastrand::u8(..)).take(value_size).collect();
        Ok(Watch { leader, value, seen, _requests: requests })
    }

    pub async fn run(&self, writers: usize, until: Until) -> Outcome {
        let begun = Instant::now();
        let taken = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        for writer in 0..writers {
            let connection = self.leader.connection(writer).clone();
            let request = PutRequest { key: Bytes::from_static(KEY), value: self.value.clone() };
            let (seen, taken) = (self.seen.clone(), taken.clone());
            running
                .spawn(async move { write(connection, request, seen, begun, until, taken).await });
        }
        let mut total = Outcome::default();
        while let Some(outcome) = running.join_next().await {
            total.add(outcome.expect("a writer does not panic"));
        }
        total.elapsed = begun.elapsed();
        total
    }
}

/// Opens a stream with a watch of each of these keys, and waits until all of them are made.
async fn open(connection: &Connection, keys: &[Bytes]) -> Result<(Requests, Replies), Error> {
    let create = |key: &Bytes| WatchRequest { create: Some(WatchCreate { key: key.clone() }) };
    let (mut requests, mut replies) = connection.watch(&create(&keys[0])).await?;
    for key in &keys[1..] {
        requests.send(&create(key))?;
    }
    let mut made = 0;
    while made < keys.len() {
        let reply: WatchResponse = replies.next().await?;
        if reply.canceled || !reply.created {
            return Err(Error::Malformed);
        }
        made += 1;
    }
    Ok((requests, replies))
}

/// Counts what one stream brings.
async fn receive(mut replies: Replies, seen: Arc<Seen>) {
    loop {
        match replies.next::<WatchResponse>().await {
            Ok(reply) if !reply.canceled => {
                let changed = reply.events.iter().filter_map(|event| event.kv.as_ref());
                seen.count(changed.map(|kv| kv.mod_revision));
            }
            // Puts that are not seen show in the report.
            Ok(_) => return eprintln!("etcd-load: a watch was cancelled"),
            Err(error) => return eprintln!("etcd-load: {error}"),
        }
    }
}

impl Seen {
    pub fn new(watchers: usize) -> Seen {
        let watchers = u32::try_from(watchers).unwrap_or(u32::MAX);
        Seen { watchers, by_revision: Mutex::default(), by_all: watch::Sender::new(0) }
    }

    /// Counts the changes that one watcher was sent.
    pub fn count(&self, revisions: impl Iterator<Item = i64>) {
        let mut by_revision = self.by_revision.lock().unwrap_or_else(PoisonError::into_inner);
        for revision in revisions {
            let count = by_revision.entry(revision).or_default();
            *count += 1;
            if *count == self.watchers {
                by_revision.remove(&revision);
                self.by_all.send_replace(revision);
            }
        }
    }

    /// Waits until all watchers have a revision.
    pub async fn wait_for(&self, revision: i64) -> Result<(), Error> {
        let mut by_all = self.by_all.subscribe();
        let all_have_it = by_all.wait_for(|by_all| *by_all >= revision);
        all_have_it.await.map(drop).map_err(|_| Error::Ended)
    }
}

async fn write(
    connection: Connection,
    request: PutRequest,
    seen: Arc<Seen>,
    begun: Instant,
    until: Until,
    taken: Arc<AtomicU64>,
) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let now = Instant::now();
        if until.is_over(begun, now, &taken) {
            return outcome;
        }
        let is_seen = async {
            let header = connection.put(&request).await?.header.ok_or(Error::Malformed)?;
            seen.wait_for(header.revision).await
        };
        match timeout_at((now + CALL_TIMEOUT).into(), is_seen).await {
            Ok(Ok(())) => outcome.succeeded(now.elapsed()),
            Ok(Err(error)) => {
                eprintln!("etcd-load: {error}");
                outcome.rejected += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(_) => outcome.timed_out += 1,
        }
    }
}
