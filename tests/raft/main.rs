//! The core against the Raft paper (Ongaro and Ousterhout 2014), the thesis, and recorded traces.
//! All tests use `Raft::step` and `Raft::status`, from outside.
//!
//! - [`terms`], [`elections`], [`replication`], [`safety`]: sections 5.1 to 5.4 and figure 2 of the
//!   paper, one test per sentence.
//! - [`snapshots`]: section 7 of the paper, chapter 5 of the thesis.
//! - [`reads`], [`durability`], [`bounds`], [`nonsense`]: what goes beyond the paper.
//! - [`lease`], [`time`], [`transfer`], [`joining`]: reads without a round, stamps, handing over,
//!   members without their data.
//! - [`membership`]: chapter 4 of the thesis.
//! - [`trace`]: the scripts in `tests/raft/scripts`: whole clusters, message by message.
//! - Shared helpers: one core with a disk ([`node`]), several of them ([`cluster`]), messages as
//!   text ([`words`]).

mod bounds;
mod cluster;
mod durability;
mod elections;
mod joining;
mod lease;
mod membership;
mod node;
mod nonsense;
mod reads;
mod replication;
mod safety;
mod snapshots;
mod terms;
mod time;
mod trace;
mod transfer;
mod words;
