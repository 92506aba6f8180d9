//! syncraft

pub mod node;
pub mod raft;
pub mod rpc;
pub mod storage;
