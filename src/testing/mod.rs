//! Whole clusters inside one process, for the integration tests of this crate and of programs that
//! use it.
//!
//! ```no_run
//! use syncraft::testing::Cluster;
//!
//! let cluster = Cluster::start(3)?;
//! let clerk = cluster.clerk();
//! clerk.put("k", "v")?;
//!
//! let leader = cluster.leader()?;
//! cluster.kill(leader);
//! assert_eq!(clerk.get("k")?.as_deref(), Some(&b"v"[..]));
//! cluster.restart(leader)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The members are real: they have sockets on loopback and logs with fsyncs, in a temporary
//! directory that is removed when the cluster is dropped. Their ports belong to the cluster from
//! start to end, even while a member is down, so tests may run in parallel.
//!
//! # Faults
//! | what | as if | undone by |
//! | --- | --- | --- |
//! | [`kill`](Cluster::kill) | `kill -9`, a crash | [`restart`](Cluster::restart) |
//! | [`stop`](Cluster::stop) | an orderly shutdown | [`restart`](Cluster::restart) |
//! | [`wipe`](Cluster::wipe) | a crash, and a new, empty disk | [`restart`](Cluster::restart) |
//! | [`pause`](Cluster::pause) | `kill -STOP`, a sleeping machine | [`resume`](Cluster::resume) |
//! | [`partition`](Cluster::partition) | a switch that fails | [`heal`](Cluster::heal) |
//! | [`partition_one_way`](Cluster::partition_one_way) | the same | [`heal`](Cluster::heal) |
//! | [`delay`](Cluster::delay) | a slow network | [`delay`](Cluster::delay) of zero |
//! | [`drop_rate`](Cluster::drop_rate) | a network that loses packets | the same, of zero |
//!
//! # Members that come and go
//! | what | as |
//! | --- | --- |
//! | [`add_member`](Cluster::add_member) | a newcomer's `syncraft server --join`, and `syncraft member add` |
//! | [`add_learner`](Cluster::add_learner) | the same with `--learner` |
//! | [`promote_member`](Cluster::promote_member) | `syncraft member promote` |
//! | [`remove_member`](Cluster::remove_member) | `syncraft member remove` |
//! | [`move_member`](Cluster::move_member) | a member that starts again at another address |
//!
//! [`control::Control`] serves all of them over HTTP.
//!
//! Faults may be combined, and changed from any thread. Faults of the network are between members
//! only, in a small proxy on each way from one member to another. Clients reach every member that
//! runs. The guarantees hold through all faults: a [`History`] of what clients saw can be checked
//! for them.

mod cluster;
pub mod control;
mod data;
mod faults;
mod history;
mod link;
mod membership;
mod network;
mod options;
mod parts;
mod port;
mod slots;

pub use cluster::{Cluster, ClusterError};
pub use history::{Call, History, Outcome, Violation};
pub use options::{Delay, Options};
pub use port::Port;
