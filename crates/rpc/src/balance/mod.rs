//! Load balancing: a call that any of several servers can answer.
//!
//! ```text
//!                   Source (list, generation)
//!                      │ read again when the generation has grown
//!   caller ── Targets ── EndpointTable ── Balancer picks an endpoint in use ── Channel ══ server
//!                         ^                                                       │
//!                         └── outstanding calls, response time, health <── end ───┘
//! ```
//!
//! [`EndpointTable`] is the mechanism: what is known of each endpoint, and which one a call goes
//! to. [`Targets`] adds channels and a list that may change. A program that routes calls by other
//! rules as well has a table of its own: the Clerk of `syncraft` follows hints to a leader.
//!
//! # A call
//!
//! [`Targets::call`] makes *one* attempt at one endpoint. It goes on to another endpoint only if
//! the attempt has certainly not run, because the endpoint cannot be connected to or says that it
//! is stopping. It goes on at once, tries each endpoint once, and ends at the deadline. Connecting
//! gets an even share of the time left: that time divided by the number of endpoints not yet tried.
//! So a host that drops packets cannot use up the whole deadline. After any other failure, a
//! refusal or a loss, the caller decides whether to repeat the call.
//!
//! # Health
//!
//! ```text
//!          unavailable, or `losses_max`
//!          losses and timeouts in a row
//!   in use ──────────────────────────────> ejected <────────────┐
//!     ^ ^                                       │               │ failed: twice as long,
//!     │ └── any answer ─────────────────────────┤ cool-down     │ up to the longest
//!     │                                         v is over       │
//!     └──── an answer ──────────────────── probed by one call ──┘
//! ```
//!
//! An ejected endpoint is out of rotation. An endpoint whose cool-down is over is a candidate
//! again. The next call that the balancer sends there is the probe; no other call goes there until
//! the probe has ended. Because the balancer chooses the probe, a probe never moves a keyed call
//! away from its endpoint. If no endpoint is in use, a call goes to the one whose cool-down ends
//! first; such an early call can restore the endpoint's health but cannot make it worse. A refusal
//! is an answer: it shows that the endpoint is alive.
//!
//! # Response time
//!
//! A moving average `e` of the time from sending to the reply. Each sample `s` changes it to
//! `e + (s - e) / 8`. Without samples it halves every 5 s, so an endpoint that was slow once is
//! tried again. Replies are samples, and so are timeouts, which took at least that long. Refusals
//! and losses are not: a server that fails fast must not look fast. The average of an endpoint that
//! is ejected is forgotten.
//!
//! # The list
//!
//! It comes from code ([`FixedSource`]), from a watched file ([`FileSource`]), or from any
//! [`Source`]. The address identifies an endpoint. An endpoint that stays in the list keeps its
//! channel and its health, even if its weight changes. One that leaves the list gets no more calls,
//! and its channel is closed when its last call has ended.
//!
//! # Invariants
//!
//! - The files that decide (`entries`, `health`, `response`, the balancers) read no clock and do no
//!   I/O.
//! - No channel is made, called or closed, and no source is read, while the table's lock is held.
//!   Balancers do run under the lock, so that two calls never see the same counts.
//! - Health alone never refuses a call.
//!
//! # Threads
//!
//! - `rpc-endpoints`: one for each [`FileSource`], joined when the source is dropped.
//! - `rpc-retire`: one for each channel that is being closed, because closing may have to wait for
//!   an attempt to connect. A channel is closed when its endpoint has left the list, or its
//!   [`Targets`] are dropped. Joined when the last clone of the [`Targets`] is dropped.
//!
//! # Left out
//!
//! Retries ([`Retrying`](crate::Retrying) adds them), hedged calls, async calls, several
//! connections to one endpoint, pings of endpoints that receive no calls.

mod balancer;
mod endpoint;
mod entries;
mod failure;
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

pub use balancer::{Balancer, Candidate};
pub use endpoint::{Endpoint, EndpointError, WEIGHT_MAX};
pub use file::{FileSource, SourceError};
pub use hash::{Hash, hash_key};
pub use health::{HealthPolicy, HealthSignal};
pub use least::{LeastConnections, LeastResponseTime};
pub use ring::HashRing;
pub use round_robin::{RoundRobin, WeightedRoundRobin};
pub use source::{FixedSource, Source};
pub use table::{Attempt, EndpointTable, TargetStatus};
pub use targets::{Targets, TargetsBuilder};

#[cfg(test)]
mod testing;
