//! [`View`]: the cluster as `GET /v1/dev` tells it.

use std::time::Duration;

use serde::Serialize;

use crate::ErrorChain;
use crate::raft::MemberId;
use crate::testing::Cluster;

#[derive(Debug, Serialize)]
pub(super) struct View {
    /// The member that a majority follows.
    leader: Option<u64>,
    members: Vec<MemberView>,
    network: NetworkView,
}

#[derive(Debug, Serialize)]
struct MemberView {
    id: u64,
    state: &'static str,
    /// Why it serves no more although nobody has ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    /// What it takes itself for; `None` while it is down.
    role: Option<&'static str>,
    term: Option<u64>,
    /// Whether it does not vote yet, because it started without its data.
    joining: Option<bool>,
    addr: String,
    http: Option<String>,
    data_dir: String,
}

#[derive(Debug, Serialize)]
struct NetworkView {
    /// From which member to which nothing arrives.
    cut: Vec<[u64; 2]>,
    delay: DelayView,
    drop: f64,
}

#[derive(Debug, Serialize)]
struct DelayView {
    min: String,
    max: String,
}

impl View {
    pub(super) fn of(cluster: &Cluster) -> View {
        let (cut, delay, drop) = cluster.faults().now();
        View {
            leader: cluster.leader_now().map(|id| id.0),
            members: cluster.ids().into_iter().map(|id| MemberView::of(cluster, id)).collect(),
            network: NetworkView {
                cut: cut.into_iter().map(|(from, to)| [from.0, to.0]).collect(),
                delay: DelayView { min: in_words(*delay.start()), max: in_words(*delay.end()) },
                drop,
            },
        }
    }
}

impl MemberView {
    fn of(cluster: &Cluster, id: MemberId) -> MemberView {
        let (status, failure) = (cluster.status(id), cluster.failure(id));
        MemberView {
            id: id.0,
            state: match status {
                None => "down",
                Some(_) if failure.is_some() => "failed",
                Some(_) if cluster.is_paused(id) => "paused",
                Some(_) => "running",
            },
            failure: failure.map(|failure| ErrorChain(&failure).to_string()),
            role: status.map(|status| status.role.role.as_str()),
            term: status.map(|status| status.role.term.0),
            joining: status.map(|status| status.is_joining),
            addr: cluster.addr(id).to_string(),
            http: cluster.http_addr(id).map(|addr| format!("http://{addr}")),
            data_dir: cluster.data_dir(id).display().to_string(),
        }
    }
}

/// A time as the parameters of a delay have it.
pub(super) fn in_words(time: Duration) -> String {
    match time.is_zero() {
        true => "0s".to_owned(),
        false => format!("{}ms", time.as_secs_f64() * 1e3),
    }
}
