//! Whole clusters inside one process, for integration tests: of this crate and of programs that use it.
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
//! These are real members: real sockets on loopback, real logs with real fsyncs, in a temporary directory that goes when the
//! cluster is dropped. Ports are free ones, and they stay the cluster's own from the start to the end, also while a member
//! is down: tests may run side by side.

//!
//! # Faults
//! | what | as if | undone by |
//! | --- | --- | --- |
//! | [`kill`](Cluster::kill) | `kill -9`, a crash | [`restart`](Cluster::restart) |
//! | [`stop`](Cluster::stop) | a shutdown in good order | [`restart`](Cluster::restart) |
//! | [`wipe`](Cluster::wipe) | a crash, and a new, empty disk | [`restart`](Cluster::restart), from the others |
//! | [`pause`](Cluster::pause) | `kill -STOP`, a machine that sleeps | [`resume`](Cluster::resume) |
//! | [`partition`](Cluster::partition), [`partition_one_way`](Cluster::partition_one_way) | a switch that fails | [`heal`](Cluster::heal) |
//! | [`delay`](Cluster::delay) | a network far away | [`delay`](Cluster::delay) of zero |
//! | [`drop_rate`](Cluster::drop_rate) | a network that loses packets | [`drop_rate`](Cluster::drop_rate) of zero |
//!
//! They may be combined, and may be changed from any thread. Those of the network lie between members only, in a small proxy
//! on each way from one to another: clients reach every member that runs. What was promised holds through all of them; a
//! [`History`] of what clients saw can be checked for it.

mod cluster;
mod faults;
mod history;
mod link;
mod network;
mod port;

pub use cluster::{Cluster, ClusterError, Delay, Options};
pub use history::{Call, History, Outcome, Violation};
pub use port::Port;
