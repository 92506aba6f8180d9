//! syncraft

pub mod clerk;
pub mod kv;
pub mod members;
pub mod node;
pub mod raft;
pub mod rpc;
pub mod server;
