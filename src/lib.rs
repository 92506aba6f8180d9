//! A replicated, linearizable, durable key-value store in plain blocking Rust, and the RPC
//! framework under it.
//!
//! There is no async runtime, only `std::net` sockets, threads, locks and channels. Three kinds of
//! programs use this crate:
//!
//! - Programs that read and write a cluster hold a [`clerk::Clerk`]. It blocks, retries, follows
//!   the leader, and ends every call with an answer or an error that says whether the write
//!   happened.
//! - Tests start whole clusters inside their own process with `testing::Cluster`.
//! - Programs that replicate state of their own implement [`node::StateMachine`] and run a
//!   [`node::Node`]. [`server::Member`] is a member of the store; the `syncraft` command runs one.
//!
//! [`rpc`] is the crate `syncraft-rpc`: blocking calls over TCP with services from `.proto` files.
//! It can be used alone.
//!
//! # Errors
//!
//! The `Display` of every error says only its own part, and `source()` is its cause. [`ErrorChain`]
//! shows an error with its causes.
//!
//! # Features
//!
//! | feature | modules |
//! | --- | --- |
//! | `client` | [`clerk`], [`registry`], and of [`kv`] the messages, commands and limits |
//! | `server` | [`server`], [`backup`], [`front`], [`node`], [`kv`], [`storage`], [`raft`] |
//! | `testing` (default) | `testing`, and those of `client` and `server` |
//! | `cli` (default) | those of `client` and `server`; the `syncraft` command |
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
//! `ARCHITECTURE.md` shows how the parts fit together. Each module's page is its specification.

#[cfg(feature = "server")]
pub mod backup;
#[cfg(feature = "client")]
pub mod clerk;
#[cfg(any(feature = "client", feature = "server"))]
mod clock;
#[cfg(feature = "server")]
pub mod duration;
#[cfg(test)]
#[path = "../crates/rpc/src/error_words.rs"]
mod error_words;
#[cfg(all(test, feature = "testing"))]
mod every_error;
#[cfg(feature = "server")]
pub mod front;
#[cfg(any(feature = "client", feature = "server"))]
pub mod kv;
#[cfg(any(feature = "client", feature = "server"))]
pub mod members;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "client")]
pub mod registry;
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
pub use syncraft_rpc::ErrorChain;

/// Tests the programs in the README: all must compile, and those that need no cluster must run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
