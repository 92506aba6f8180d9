//! syncraft

pub mod rpc;
