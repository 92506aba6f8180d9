//! A replicated, linearizable, durable key-value store in plain blocking Rust, and the RPC
//! framework under it.
//!
//! No async runtime anywhere: `std::net` sockets, threads, locks and channels. Three kinds of
//! programs use it:
//!
//! - Rust programs that read and write a cluster hold a [`clerk::Clerk`], which blocks, retries, follows the leader, and
//!   ends every call with an answer or an error that says whether the write happened.
//! - Integration tests start whole clusters inside their own process with `testing::Cluster`.
//! - Programs that replicate state of their own implement [`node::StateMachine`] and run a [`node::Node`]. A member of the
//!   store, ready made, is [`server::Member`]; the `syncraft` command runs one.
//!
//! [`rpc`] is the crate `syncraft-rpc`, which stands on its own: blocking calls over TCP with
//! services from `.proto` files.
//!
//! # Features
//!
//! | feature | modules |
//! | --- | --- |
//! | `client` | [`clerk`], and of [`kv`] the messages, commands and limits |
//! | `server` | [`server`], [`node`], [`kv`], [`storage`], [`raft`] |
//! | `testing` (default) | `testing`, and those of `client` and `server` |
//! | `cli` (default) | those of `client` and `server`, and the `syncraft` command |
//!
//! ```no_run
//! use std::time::Duration;
//! use syncraft::clerk::Clerk;
//!
//! let members = "1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003";
//! let clerk = Clerk::builder().members(members).timeout(Duration::from_secs(5)).build()?;
//! clerk.put("greeting", "hello")?;
//! clerk.append("greeting", ", world")?;
//! assert_eq!(clerk.get("greeting")?.as_deref(), Some(&b"hello, world"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! How the parts fit is in `ARCHITECTURE.md`; each module's page is its specification.

#[cfg(feature = "client")]
pub mod clerk;
#[cfg(any(feature = "client", feature = "server"))]
mod clock;
#[cfg(any(feature = "client", feature = "server"))]
pub mod kv;
#[cfg(any(feature = "client", feature = "server"))]
pub mod members;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod storage;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "client")]
pub use clerk::Clerk;
#[cfg(feature = "server")]
pub use syncraft_raft as raft;
pub use syncraft_rpc as rpc;

/// The programs in the README are tests: they must compile, and those that need no cluster must
/// run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
