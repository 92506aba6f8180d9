//! What others speak to a member: each front turns the requests of one protocol into calls of the
//! [`Api`](crate::kv::api::Api) and, for clients without an identity, writes of the
//! [`Lanes`](crate::kv::Lanes), and their outcomes into its answers. No front uses anything else of
//! the store, and nothing about a front is replicated.
//!
//! | module | protocol |
//! | --- | --- |
//! | [`etcd`] | etcd's v3 API, as JSON over HTTP/1.1 |
//! | [`http`] | HTTP/1.1: keys and values as resources, transactions as JSON |
//! | [`rpc`] | our own services, on the port that members use, too |

pub mod etcd;
pub mod http;
pub mod rpc;
