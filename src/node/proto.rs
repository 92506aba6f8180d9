//! The messages and stubs of `proto/raft_rpc.proto`, generated.

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "generated; documented in proto/raft_rpc.proto"
)]

include!(concat!(env!("OUT_DIR"), "/syncraft.raft.rs"));
