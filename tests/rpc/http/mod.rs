//! The HTTP server, tested from outside: [`requests`] and their answers, [`bad`] input,
//! [`streams`], [`limits`] and the graceful end, [`memory`], [`metrics`] of a member.

mod bad;
mod limits;
#[cfg(target_os = "linux")]
mod memory;
mod metrics;
mod requests;
mod streams;
mod support;
