//! The consensus core.

mod types;

pub use types::*;
