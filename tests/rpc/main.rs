//! The RPC framework, tested from outside through `syncraft::rpc`: real servers and channels over
//! TCP in this process.
//!
//! - Servers: [`builder`], [`server`], [`services`], [`handlers`], [`fairness`], [`crowd`],
//!   [`no_room`], [`idle`], [`shutdown`], [`resets`], [`stats`], [`log_lines`], [`wire`].
//! - Channels: [`channel`], [`connection`], [`pending`], [`retry`], [`balance`], [`errors`],
//!   [`loss`], [`ping`], [`silence`], [`documented_server`].
//! - The HTTP server: [`http`].
//! - Both: [`streams`], [`noise`], [`many`], [`threads`].
//! - Shared helpers: a service to call and raw sockets ([`support`]); servers and networks that
//!   misbehave ([`peers`]); tests in a process of their own ([`alone`]); the log ([`collector`]).
//!
//! Tests that count threads or descriptors, install a logger or change limits run [`alone`].

#[path = "../support/alone.rs"]
mod alone;
mod balance;
mod builder;
mod channel;
#[path = "../support/collector.rs"]
mod collector;
mod connection;
mod crowd;
mod documented_server;
mod errors;
mod fairness;
mod handlers;
mod http;
mod idle;
mod log_lines;
mod loss;
#[cfg(target_os = "linux")]
mod many;
#[cfg(target_os = "linux")]
mod no_room;
mod noise;
mod peers;
mod pending;
mod ping;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/raw.rs"]
mod raw;
#[path = "../support/relay.rs"]
mod relay;
mod resets;
mod retry;
mod server;
mod services;
mod shutdown;
mod silence;
mod stats;
mod streams;
mod support;
#[cfg(target_os = "linux")]
mod threads;
mod wire;
