//! A member: a data directory, a node that replicates the store in it, and a server that publishes
//! both on one port.
//!
//! ```text
//!   Config ──> start: check, listen, open the data, start the node, publish ──> Member
//!
//!   clients, members ──> rpc::Server ──┬─ kvServerRpc, storeRpc (front) ─> kv::Api ─┐
//!                                      ├─ raftRpc (node) ───────────────────────────┼─> node,
//!   operators ────────────────────────>├─ adminRpc (admin) ─────────────────────────┤   which
//!           │                          │                                            │   replicates
//!           └─> rpc::http::Server ─────┼─ pages; /v1/ (front) ─> kv::Api, Lanes ────┤   the Store
//!   etcd's ───> rpc::http::Server ─────┴─ pages; /v3/ (front) ─> kv::Api, Lanes ────┘
//!   clients
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `config` | [`Config`], and what it must fulfil |
//! | `start`, `error` | the steps of a start, and why it fails: [`StartError`] |
//! | `admin`, `backup` | the service that `syncraft status`, `transfer`, `snapshot`, `member` and `backup` call |
//! | `etcd_admin` | changes of the members that etcd's clients want |
//! | `members` | changes of the members, for operators and for a member that has moved |
//! | [`admin_client`] | finds the leader and has it change the members |
//! | `pages` | what the HTTP ports answer: pages for operators' tools, and the store |
//! | `urls` | members tell each other where they serve etcd's clients |
//! | `faults` | what `testing::Cluster` does to a member; only with the feature `testing` |
//!
//! # Invariants
//!
//! - [`Member::start`] either serves or says in one line why it cannot, and then leaves nothing
//!   running.
//! - A start listens before it touches the data, so a second process for the same member changes
//!   nothing. It locks and reads the data before it serves.
//! - Data of another member or cluster is never discarded, and a member's own data only once all
//!   other members have answered.
//! - [`Member::stop`] ends every thread and closes the log.
//! - Outside of tests, no call passes through code of `faults`.
//!
//! # Threads
//!
//! Those of the node and of the two servers, and `members-N`: see their pages.

mod admin;
pub mod admin_client;
mod backup;
mod config;
mod error;
mod etcd_admin;
#[cfg(feature = "testing")]
mod faults;
mod members;
mod pages;
pub mod proto;
mod rebuild;
mod start;
mod urls;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::kv::api::Api;
use crate::kv::{Lanes, Store};
use crate::node::{Node, NodeFailure, NodeHandle};
use crate::raft::RoleName;
use crate::rpc::{Server, http};
use members::MemberChanges;

pub use admin::{DISK_OK, STATE_DIVERGED, STATE_OK};
pub use config::Config;
pub use error::StartError;
pub use start::list_id;

pub(crate) use start::Surroundings;
use start::{Directly, EtcdParts, Started};

/// How long a member that stops tries to hand its leadership over.
pub const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(500);

/// The pause between two checks whether another member leads.
const HAND_OVER_POLL: Duration = Duration::from_millis(1);

/// How long a member that stops waits until the last answers have left its HTTP port. All requests
/// have ended by then.
const HTTP_DRAIN_TIME: Duration = Duration::from_secs(1);

/// A running member. Dropping it stops it.
pub struct Member {
    http: Option<http::Server>,
    etcd: Option<EtcdParts>,
    server: Server,
    lanes: Arc<Lanes>,
    changes: Arc<MemberChanges>,
    /// `None` once it has ended.
    node: Option<Node<Store>>,
    handle: NodeHandle<Store>,
    api: Api,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("status", &self.handle.status()).finish_non_exhaustive()
    }
}

impl From<Started> for Member {
    fn from(started: Started) -> Member {
        let Started { http, etcd, server, lanes, node, api, changes } = started;
        let handle = node.handle();
        Member { http, etcd, server, lanes, handle, node: Some(node), api, changes }
    }
}

impl Member {
    /// Listens on the member's address, and starts the member.
    ///
    /// # Errors
    /// [`StartError`]. Nothing is left running, and no data is changed that may not be the
    /// member's.
    pub fn start(config: Config) -> Result<Member, StartError> {
        let addr = config.listen_addr()?.to_owned();
        Member::start_on(start::listen(&addr)?, config)
    }

    /// Starts the member on a socket that already listens, for example on a port that the system
    /// chose.
    ///
    /// # Errors
    /// As for [`start`](Member::start).
    pub fn start_on(listener: TcpListener, config: Config) -> Result<Member, StartError> {
        let surroundings = Surroundings::usual(&config.members);
        start::start::<Directly>(listener, config, surroundings).map(Member::from)
    }

    /// The address that the member serves on.
    pub fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Writes on behalf of clients that have no identity of their own, whether this member leads or
    /// not.
    pub fn lanes(&self) -> &Arc<Lanes> {
        &self.lanes
    }

    /// The address that it serves HTTP on, if it does.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(http::Server::local_addr)
    }

    /// The address that it serves etcd's clients on, if it does.
    pub fn etcd_addr(&self) -> Option<SocketAddr> {
        self.etcd.as_ref().map(|etcd| etcd.server.local_addr())
    }

    /// The member's node: its status, and what an operator asks it to do.
    pub fn node(&self) -> NodeHandle<Store> {
        self.handle.clone()
    }

    /// The store as this member serves it: reads and writes without a socket.
    pub fn api(&self) -> Api {
        self.api.clone()
    }

    /// Why the member stopped serving by itself, if it did. Then stop it and look at it. After
    /// [`NodeFailure::ClusterTaken`], stop it and start it again with the same configuration.
    pub fn failure(&self) -> Option<NodeFailure> {
        self.handle.failure()
    }

    /// Hands the leadership over, if this member has it and another can take it, and then
    /// [stops](Member::stop). To clients this is a pause of a few milliseconds. Gives up handing
    /// over after [`HAND_OVER_TIMEOUT`].
    pub fn hand_over_and_stop(self) {
        let deadline = Instant::now() + HAND_OVER_TIMEOUT;
        let leads = || self.has_peers() && self.handle.status().role.role == RoleName::Leader;
        if leads() {
            self.handle.transfer(None);
        }
        while leads() && Instant::now() < deadline {
            thread::sleep(HAND_OVER_POLL);
        }
        self.stop();
    }

    fn has_peers(&self) -> bool {
        self.handle.addresses().len() > 1
    }

    /// Stops serving, ends every thread and closes the log.
    pub fn stop(mut self) {
        self.shut_down();
    }

    /// Ends the node before the server. If the sockets closed first, followers would see that the
    /// leader is gone, and then still get its heartbeats, and wait out an election timeout. The
    /// node ends the calls that wait and refuses new ones; the server still sends these answers.
    fn shut_down(&mut self) {
        if let Some(node) = self.node.take() {
            node.stop();
        }
        self.changes.stop();
        self.api.stop();
        self.lanes.stop();
        if let Some(EtcdParts { server, front, exchange }) = self.etcd.take() {
            exchange.stop();
            front.stop();
            server.drain(HTTP_DRAIN_TIME);
        }
        if let Some(http) = self.http.take() {
            http.drain(HTTP_DRAIN_TIME);
        }
        self.server.stop();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shut_down();
    }
}
