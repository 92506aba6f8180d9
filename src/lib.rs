//! syncraft

pub mod members;
pub mod node;
pub mod raft;
pub mod rpc;
pub mod storage;
