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

mod cluster;
mod port;

pub use cluster::{Cluster, ClusterError, Options};
pub use port::Port;
