//! The messages and stubs of `proto/raft_rpc.proto`, generated.

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "generated; documented in proto/raft_rpc.proto"
)]

crate::rpc::include_proto!("syncraft.raft");
