//! Raft's core. So far only its words.

mod types;

pub use types::*;
