//! The load through the JSON API, `/v3/...` over HTTP/1.1: puts and gets over a connection for each
//! client, and watches, each of which is a connection. It speaks to whatever serves this API, and
//! to its leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};

use crate::Operation;
use crate::etcd::Error;
use crate::http::Http;
use crate::load::{CALL_TIMEOUT, FILLING_CLIENTS, Outcome, Until};
use crate::watch::Seen;

const LEADER_TIMEOUT: Duration = Duration::from_secs(30);
const ROUND_PAUSE: Duration = Duration::from_millis(50);
const WATCHED: &str = "bench/watched";

#[derive(Clone)]
pub struct JsonLoad(Arc<Shared>);

struct Shared {
    operation: Operation,
    /// The leader's address.
    addr: String,
    /// In base64.
    value: String,
    value_size: usize,
    keys: u64,
    /// What the watchers have been sent.
    seen: Arc<Seen>,
}

impl JsonLoad {
    /// Finds the leader. For gets, writes the keys. For watches, makes them.
    pub async fn new(
        endpoints: &[String],
        operation: Operation,
        value_size: usize,
        keys: u64,
        watchers: usize,
    ) -> Result<JsonLoad, Error> {
        let value: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(value_size).collect();
        let value = base64(&value);
        let (addr, seen) = (find_leader(endpoints).await?, Arc::new(Seen::new(watchers)));
        let shared = Shared { operation, addr, value, value_size, keys, seen };
        let load = JsonLoad(Arc::new(shared));
        match operation {
            Operation::Get => load.fill().await?,
            Operation::Watch => load.make_watches(watchers).await?,
            _ => {}
        }
        Ok(load)
    }

    async fn fill(&self) -> Result<(), Error> {
        let next = Arc::new(AtomicU64::new(0));
        let mut filling = JoinSet::new();
        for _ in 0..FILLING_CLIENTS {
            let (shared, next) = (self.0.clone(), next.clone());
            filling.spawn(async move {
                let mut http = shared.connect().await?;
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= shared.keys {
                        return Ok(());
                    }
                    shared.put(&mut http, &shared.key(index)).await?;
                }
            });
        }
        filling.join_all().await.into_iter().collect()
    }

    async fn make_watches(&self, watchers: usize) -> Result<(), Error> {
        let create = format!(r#"{{"create_request":{{"key":"{}"}}}}"#, base64(WATCHED.as_bytes()));
        for _ in 0..watchers {
            let mut http = self.0.connect().await?;
            http.open_stream("/v3/watch", &create).await?;
            if !http.chunk().await?.contains(r#""created":true"#) {
                return Err(Error::Malformed);
            }
            let seen = self.0.seen.clone();
            tokio::spawn(async move {
                loop {
                    match http.chunk().await {
                        Ok(chunk) => seen.count(numbers(&chunk, r#""mod_revision":""#)),
                        Err(error) => return eprintln!("etcd-load: a watch: {error}"),
                    }
                }
            });
        }
        Ok(())
    }

    pub async fn run(&self, clients: usize, until: Until) -> Outcome {
        let begun = Instant::now();
        let taken = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        for _ in 0..clients {
            running.spawn(self.0.clone().run_client(begun, until, taken.clone()));
        }
        let mut total = Outcome::default();
        while let Some(outcome) = running.join_next().await {
            total.add(outcome.expect("a client does not panic"));
        }
        total.elapsed = begun.elapsed();
        total
    }
}

impl Shared {
    async fn connect(&self) -> Result<Http, Error> {
        Http::open(&self.addr).await.map_err(|_| Error::Ended)
    }

    async fn run_client(
        self: Arc<Self>,
        begun: Instant,
        until: Until,
        taken: Arc<AtomicU64>,
    ) -> Outcome {
        let (mut outcome, mut rng, mut http) = (Outcome::default(), Rng::new(), None);
        loop {
            let now = Instant::now();
            if until.is_over(begun, now, &taken) {
                return outcome;
            }
            let called = self.call(&mut http, rng.u64(..self.keys));
            match timeout_at((now + CALL_TIMEOUT).into(), called).await {
                Ok(Ok(())) => outcome.succeeded(now.elapsed()),
                Ok(Err(error)) => {
                    eprintln!("etcd-load: {error}");
                    outcome.rejected += 1;
                    http = None;
                    sleep(ROUND_PAUSE).await;
                }
                Err(_) => {
                    outcome.timed_out += 1;
                    http = None;
                }
            }
        }
    }

    async fn call(&self, http: &mut Option<Http>, index: u64) -> Result<(), Error> {
        if http.is_none() {
            *http = Some(self.connect().await?);
        }
        let http = http.as_mut().expect("it is connected");
        match self.operation {
            Operation::Put => self.put(http, &self.key(index)).await.map(drop),
            Operation::Get => {
                let key = base64(self.key(index).as_bytes());
                let found = http.post("/v3/kv/range", &format!(r#"{{"key":"{key}"}}"#)).await?;
                if found.contains(&self.value) { Ok(()) } else { Err(Error::Malformed) }
            }
            Operation::Watch => {
                let revision = self.put(http, WATCHED).await?;
                self.seen.wait_for(revision).await
            }
            _ => unreachable!("they have no load through this API"),
        }
    }

    /// Returns the revision.
    async fn put(&self, http: &mut Http, key: &str) -> Result<i64, Error> {
        let body = format!(r#"{{"key":"{}","value":"{}"}}"#, base64(key.as_bytes()), self.value);
        let answer = http.post("/v3/kv/put", &body).await?;
        numbers(&answer, r#""revision":""#).next().ok_or(Error::Malformed)
    }

    /// The size is part of it: values of another size are not found by mistake.
    fn key(&self, index: u64) -> String {
        format!("bench/{}/{index:010}", self.value_size)
    }
}

async fn find_leader(endpoints: &[String]) -> Result<String, Error> {
    let deadline = Instant::now() + LEADER_TIMEOUT;
    while Instant::now() < deadline {
        for addr in endpoints {
            let Ok(mut http) = Http::open(addr).await else { continue };
            let Ok(status) = http.post("/v3/maintenance/status", "{}").await else { continue };
            let id = |name| status.split(name).nth(1).and_then(|rest| rest.split('"').next());
            let leader = id(r#""leader":""#);
            if leader.is_some() && leader == id(r#""member_id":""#) {
                return Ok(addr.clone());
            }
        }
        sleep(ROUND_PAUSE).await;
    }
    Err(Error::Status(14, "no member says that it leads".to_owned()))
}

/// The numbers behind a text, wherever it stands. Neither keys nor values hold it: they are in base64.
fn numbers(json: &str, before: &str) -> impl Iterator<Item = i64> {
    json.split(before).skip(1).filter_map(|rest| rest.split('"').next()?.parse().ok())
}

/// With padding (RFC 4648 §4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let at = |index: usize| u32::from(part.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= part.len() { DIGITS[index as usize].into() } else { '=' });
        }
    }
    text
}
