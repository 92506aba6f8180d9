//! syncraft
#[allow(missing_docs)]
pub mod raft;
