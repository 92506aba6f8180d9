//! Whole members inside this process, on real disks and sockets, through the public API.
//!
//! - What a cluster promises: [`promises`], [`reads`], [`snapshots`], [`stopping`], [`divergence`],
//!   [`lanes`].
//! - Entries, ranges, transactions: [`store`]. Scans: [`scans`]. Watches: [`watches`], and those of
//!   a Clerk ([`clerk_watches`]). Leases: [`leases`]. Locks and elections: [`locks`]. Services:
//!   [`registry`].
//! - Faults: [`faults`] of members and networks, [`blackhole`], [`disk_stall`], [`overload`].
//! - Who else talks to a member: [`existing_clients`], operators' tools ([`http`]), clients of the
//!   store over HTTP ([`http_front`], [`http_watches`], [`http_leases`]), members with another list
//!   ([`lists`]), etcd's clients ([`etcd_kv`], [`etcd_leases`], [`etcd_watches`], [`etcd_locks`]).
//! - What a real etcd answered: [`etcd_golden`].
//! - Members of several versions: [`levels`].
//! - Members that come, go and move: [`membership`].
//! - [`own_state_machine`]: a program that replicates state of its own.
//! - Shared helpers: bare nodes ([`nodes`]).

#[path = "../support/alone.rs"]
mod alone;
mod blackhole;
mod clerk_watches;
#[path = "../support/collector.rs"]
mod collector;
mod disk_stall;
mod divergence;
mod etcd_golden;
mod etcd_kv;
mod etcd_leases;
mod etcd_locks;
mod etcd_watches;
mod existing_clients;
mod faults;
mod http;
mod http_front;
mod http_leases;
mod http_watches;
mod lanes;
mod leases;
mod levels;
mod lists;
mod locks;
mod membership;
mod nodes;
mod overload;
mod own_state_machine;
mod promises;
mod reads;
mod registry;
#[path = "../support/relay.rs"]
#[allow(dead_code, reason = "the tests of the RPC use the rest of it")]
mod relay;
mod scans;
mod snapshots;
mod stopping;
mod store;
mod watches;
