//! The core against the Raft paper (Ongaro and Ousterhout 2014), the thesis, and recorded traces; all from outside, through
//! `Raft::step` and `Raft::status`.
//!
//! - [`terms`], [`elections`], [`replication`], [`safety`]: the sentences of sections 5.1 to 5.4 and figure 2, one test each.
//! - [`reads`], [`durability`], [`bounds`], [`nonsense`]: what goes beyond the paper.
//! - [`lease`], [`transfer`], [`joining`]: reads without asking, handing over, members without their data.
//! - [`snapshots`]: section 7 of the paper, 5 of the thesis.
//! - [`trace`]: the scripts in `tests/raft/scripts`, whole clusters message by message.

mod bounds;
mod cluster;
mod durability;
mod elections;
mod joining;
mod lease;
mod node;
mod nonsense;
mod reads;
mod replication;
mod safety;
mod snapshots;
mod terms;
mod trace;
mod transfer;
mod words;
