//! Where to send: one call, several servers that can answer it.
//!
//! ```text
//!                      Source (list, generation)
//!                         │ read anew when the generation has changed
//!   caller ── Targets ── Table ── Balancer picks one of those that are in use ── Channel ══ TCP ══ server
//!                         ^                                                         │
//!                         └── outstanding, response time, health <── how it ended ──┘
//! ```
//!
//! # A call
//!
//! [`Targets::call`] makes *one* attempt at one endpoint. Only an attempt that has certainly not
//! run, because the endpoint cannot be connected to or says that it is stopping, goes on to another
//! one: at once, without a sleep, until every endpoint was tried once or the deadline has passed.
//! Connecting gets an even share of the time that is left for it and the endpoints not yet tried,
//! so that a host that swallows packets does not use up the whole deadline. Everything else, a
//! refusal or a loss, is the caller's to repeat, or not.
//!
//! # Health
//!
//! ```text
//!            cannot be connected to, or `losses_max` losses and timeouts in a row
//!   in use ───────────────────────────────────────────────────────────────────────> left alone <──────┐
//!     ^ ^                                                                                │            │ failed:
//!     │ └── an answer to anything ───────────────────────────────────────────────────────┤ cool-down  │ twice as long,
//!     │                                                                                  v is over    │ up to the longest
//!     └────────────── an answer ─────────────────────────────────────────────────── probed by one call
//! ```
//!
//! An endpoint whose cool-down is over is a candidate again. The call that the balancer sends there
//! is the probe; while it is out others stay away. So no probe takes a keyed call away from its
//! place. If no endpoint is in use, the one whose cool-down ends first is tried all the same; such
//! an early attempt heals if it is answered, and makes nothing worse if it is not. A refusal is an
//! answer: the endpoint lives.
//!
//! # Response time
//!
//! A moving average `e` of the time from sending to the reply. With each sample `s`,
//! `e = e + (s - e) / 8`; between samples it halves every 5 s, so that an endpoint that was slow
//! once is tried again. Replies are samples, and timeouts, which took at least that long. Refusals
//! and losses are none: a server that fails fast must not look fast. An endpoint that is left alone
//! comes back with its time unknown.
//!
//! # The list
//!
//! From code ([`FixedSource`]), from a file that is watched ([`FileSource`]), or from any
//! [`Source`]. Endpoints are told apart by their address. One that stays keeps its channel and its
//! health, also with a new weight; one that leaves gets no further call, and its channel is closed
//! when its calls have ended.
//!
//! # Invariants
//!
//! - What decides (`table`, `health`, `response`, the balancers) reads no clock and does no I/O.
//! - The table's lock is never held while a channel is made, called or closed, or a source read. A balancer does run under it:
//!   its counts are exact for that.
//! - Health never refuses a call.
//!
//! # Threads
//!
//! `rpc-endpoints`, one for each [`FileSource`], joined when it is dropped. `rpc-retire`, while the
//! channel of an endpoint that has left is closed, which may wait for an attempt to connect; joined
//! when the last clone of the [`Targets`] goes.
//!
//! # Left out
//!
//! Retries ([`Retrying`](crate::Retrying) adds them), hedged calls, calls without waiting, several
//! connections to an endpoint, pings of endpoints that nobody calls.

mod balancer;
mod endpoint;
mod file;
mod hash;
mod health;
mod least;
mod response;
mod ring;
mod round_robin;
mod source;
mod table;
mod targets;
mod verdict;

pub use balancer::{Balancer, Candidate};
pub use endpoint::{Endpoint, EndpointError, WEIGHT_MAX};
pub use file::{FileSource, SourceError};
pub use hash::{Hash, hash_key};
pub use least::{LeastConnections, LeastResponseTime};
pub use response::ResponseTime;
pub use ring::HashRing;
pub use round_robin::{RoundRobin, WeightedRoundRobin};
pub use source::{FixedSource, Source};
pub use targets::{TargetStatus, Targets, TargetsBuilder};

#[cfg(test)]
mod testing;
