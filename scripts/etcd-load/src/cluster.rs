//! Connections to whoever leads, replaced for all callers at once when it leads no more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::etcd::Connection;

/// How long to look for a leader before giving up.
const LEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two rounds of asking all members who leads: short, as the wait is part of an outage that is measured.
const ROUND_PAUSE: Duration = Duration::from_millis(5);
/// How long one member may take to say whether it leads.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the other connections to the leader may take: there may be a thousand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Cluster {
    endpoints: Vec<String>,
    connections: usize,
    current: Mutex<Leader>,
}

/// The connections to one leader.
#[derive(Clone)]
pub struct Leader {
    /// Grows with each replacement.
    generation: u64,
    connections: Arc<[Connection]>,
}

impl Leader {
    /// The connection of the `client`-th caller.
    pub fn connection(&self, client: usize) -> &Connection {
        &self.connections[client % self.connections.len()]
    }
}

impl Cluster {
    /// Waits for a leader.
    pub async fn connect(endpoints: Vec<String>, connections: usize) -> Result<Cluster, NoLeader> {
        let found = find_leader(&endpoints, connections).await?;
        let current = Mutex::new(Leader { generation: 0, connections: found });
        Ok(Cluster { endpoints, connections, current })
    }

    pub async fn leader(&self) -> Leader {
        self.current.lock().await.clone()
    }

    /// A leader other than the one that has failed its caller. Whoever comes first looks for it, the others wait.
    pub async fn leader_after(&self, failed: &Leader) -> Result<Leader, NoLeader> {
        let mut current = self.current.lock().await;
        if current.generation == failed.generation {
            let connections = find_leader(&self.endpoints, self.connections).await?;
            *current = Leader { generation: failed.generation + 1, connections };
        }
        Ok(current.clone())
    }
}

/// No member has said that it leads for [`LEADER_TIMEOUT`].
#[derive(Debug)]
pub struct NoLeader;

impl std::fmt::Display for NoLeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no member says that it leads, for {LEADER_TIMEOUT:?}")
    }
}

impl std::error::Error for NoLeader {}

async fn find_leader(
    endpoints: &[String],
    connections: usize,
) -> Result<Arc<[Connection]>, NoLeader> {
    let deadline = Instant::now() + LEADER_TIMEOUT;
    while Instant::now() < deadline {
        for endpoint in endpoints {
            if let Some(found) = connect_if_leader(endpoint, connections).await {
                return Ok(found);
            }
        }
        sleep(ROUND_PAUSE).await;
    }
    Err(NoLeader)
}

async fn connect_if_leader(endpoint: &str, connections: usize) -> Option<Arc<[Connection]>> {
    let first = timeout(ASK_TIMEOUT, connect_to_leader(endpoint)).await.ok()??;
    timeout(CONNECT_TIMEOUT, connect_more(endpoint, first, connections)).await.ok()?
}

async fn connect_to_leader(endpoint: &str) -> Option<Connection> {
    let connection = Connection::open(endpoint).await.ok()?;
    connection.is_leader().await.ok()?.then_some(connection)
}

async fn connect_more(
    endpoint: &str,
    first: Connection,
    connections: usize,
) -> Option<Arc<[Connection]>> {
    let mut all = vec![first];
    while all.len() < connections {
        all.push(Connection::open(endpoint).await.ok()?);
    }
    Some(all.into())
}
