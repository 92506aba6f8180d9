//! What others speak to a member: each front turns the requests of one protocol into calls of the
//! [`Api`](crate::kv::api::Api), and their outcomes into its answers. No front uses anything else
//! of the store, and nothing about a front is replicated.
//!
//! | module | protocol |
//! | --- | --- |
//! | [`rpc`] | our own services, on the port that members use, too |

pub mod rpc;
