//! Remote procedure calls over TCP: protobuf services, plain threads, nothing to await. It knows
//! nothing of Raft.
//!
//! ```text
//!   caller                                                                    callee
//!   FooRpcStub ── Channel ── frame ── outbox ══ TCP ══ frame ── Server ── FooRpcService ── impl FooRpc
//!                   ^                                                                        │ Done
//!                   └──────────────── frame ══ TCP ══ outbox ── frame <──────────────────────┘
//! ```
//!
//! # Four steps
//!
//! 1. **Define** a service in a `.proto`, and have it compiled by `build.rs`: `syncraft-build` is all that a crate needs beside
//!    `syncraft-rpc`, and nobody needs `protoc`.
//!
//!    ```proto
//!    syntax = "proto3";
//!    package friends;
//!    message ListArgs { string user = 1; }
//!    message ListReply { repeated string friends = 1; }
//!    service FriendService {
//!      rpc List(ListArgs) returns (ListReply) { option idempotency_level = NO_SIDE_EFFECTS; }
//!    }
//!    ```
//!
//!    ```text
//!    // build.rs
//!    fn main() -> Result<(), syncraft_build::Error> {
//!        syncraft_build::compile(&["proto/friends.proto"], &["proto"])
//!    }
//!    // src/lib.rs
//!    syncraft_rpc::include_proto!("friends");
//!    ```
//!
//! 2. **Implement** the trait of the service's name. Each method gets its arguments and a [`Done`], and answers through it, at once or
//!    later, from any thread: `fn list(&self, args: ListArgs, done: Done<ListReply>)`.
//!
//! 3. **Serve** it. `into_service` makes of the implementation what a server publishes:
//!
//!    ```text
//!    let server = rpc::Server::builder().service(friends.into_service()).bind("0.0.0.0:7100").handlers(8).build()?.start();
//!    ```
//!
//! 4. **Call** it, through a stub over a [`Channel`]; over several servers ([`Targets`]); or with repeats ([`Retrying`]) over either.
//!    Every call has a deadline, and ends by then:
//!
//!    ```text
//!    let channel = Channel::builder("host:7100").lazy();
//!    channel.connect_wait(deadline)?; // if it should be there already: until it answers a ping
//!    let stub = FriendServiceStub::new(channel);
//!    let reply = stub.list(&args, deadline)?;                  // waits
//!    let pending = stub.list_async(&args, deadline);           // is waited for later: `Pending`
//!    stub.list_then(&args, deadline, |result| { /* ... */ });  // calls back
//!    ```
//!
//! `examples/friend_service` is such a crate. A service between Rust programs needs no .proto:
//! [`service!`]. What both rest on can be written by hand, too:
//!
//! ```
//! use std::time::{Duration, Instant};
//! use syncraft_rpc::prost::bytes::Bytes;
//! use syncraft_rpc::{Call, Channel, Method, Server, Service};
//!
//! struct Greeter;
//!
//! impl Service for Greeter {
//!     fn name(&self) -> &'static str { "greetRpc" }
//!     fn methods(&self) -> &'static [&'static str] { &["Greet"] }
//!     fn call(&self, _method: usize, args: Bytes, call: Call) {
//!         // What is no `String` is answered by `open`.
//!         if let Some((name, done)) = call.open::<String, String>(args) {
//!             done.run(format!("hello, {name}"));
//!         }
//!     }
//! }
//!
//! const GREET: Method = Method::new("greetRpc", "Greet");
//! let server = Server::builder().service(Greeter).bind("127.0.0.1:0").build()?.start();
//! let channel = Channel::builder(server.local_addr().to_string()).lazy();
//! let reply: String = channel.call(&GREET, &"you".to_owned(), Instant::now() + Duration::from_secs(5))?;
//! assert_eq!(reply, "hello, you");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which thing for what
//!
//! | one wants | there is |
//! |---|---|
//! | methods that take long | [`handlers`](ServerBuilder::handlers) and their [`queue`](ServerBuilder::queue); an [`inline_service`](ServerBuilder::inline_service) goes without |
//! | that one caller does not crowd out others | [`fair`](ServerBuilder::fair); callers name themselves: [`ChannelBuilder::caller`] |
//! | a service that gets through whatever others do | [`reserved_service`](ServerBuilder::reserved_service) |
//! | to know whether a call has run | [`CallError::may_have_run`] |
//! | to show an error with its causes | [`ErrorChain`] |
//! | repeats of what may be repeated | [`Retrying`], and `idempotency_level` in the .proto |
//! | many calls in flight | [`Pending`], from the stub's `..._async` |
//! | several servers | [`Targets`], a [`Balancer`] and a [`Source`] of endpoints |
//! | to choose among servers by rules of one's own | [`EndpointTable`] |
//! | to find a server that is frozen | [`ChannelBuilder::ping_interval`] |
//! | that callers of another version are told | `version(n)` of the generated service, [`CallOptions::version`] |
//! | pure Rust types | [`service!`], [`Bincode`] |
//! | to stop without losing calls | [`Server::drain`] |
//! | to see inside | [`Server::stats`], [`Limits::slow_call`], [`builtin`] |
//!
//! # The wire
//!
//! Two formats on one port; what tells them apart is whether a call has a `call_id`.
//!
//! | | documented | extended |
//! |---|---|---|
//! | call | `head_size`, `RpcHeader` (fields 1 to 3), arguments | the same, with `call_id > 0` and fields 5 to 12 |
//! | reply | the bare serialized reply | `head_size`, `RpcReplyHeader`, reply |
//! | calls in flight on a connection | one after another, in order | many, answered in any order |
//! | error | the connection is reset | a status for this call |
//!
//! `RpcHeader`:
//!
//! | field | type | meaning | why |
//! |---|---|---|---|
//! | 1 `service_name` | bytes | "kvServerRpc" | must not be empty: a header begins with its tag, 0x0A |
//! | 2 `method_name` | bytes | "PutAppend" | |
//! | 3 `args_size` | uint32 | bytes of arguments after the header | the only length of the body |
//! | 4 `call_id` | uint64 | chosen by the caller, repeated by the reply | many calls in flight; 0 or absent: documented |
//! | 5 `deadline_ms` | uint32 | how much longer the caller waits; 0: no limit | a call that nobody waits for is not run |
//! | 6 `codec` | uint32 | 0: protobuf, 1: bincode | a service takes one of them and refuses the other |
//! | 7 `caller` | bytes | who calls; at most 256 bytes | for fair queueing |
//! | 8 `version` | uint32 | of the service, as the caller knows it; 0: any | a mismatch is told, not found out |
//! | 9 `client_id` | bytes | 16 random bytes: whose request it is | a repeat can be told from another request |
//! | 10 `request_id` | uint64 | which of theirs | the same for every attempt, where `call_id` is not |
//! | 11 `attempt` | uint32 | how often it was tried before | |
//! | 12 `trace` | bytes | the caller's mark; at most 128 bytes | the same on both sides' logs |
//!
//! `RpcReplyHeader`:
//!
//! | field | type | meaning | why |
//! |---|---|---|---|
//! | 1 `call_id` | uint64 | the call's; 0: about the connection, which then ends | a refusal may be of no single call |
//! | 2 `status` | uint32 | 0: OK; else [`StatusCode`] | |
//! | 3 `message` | string | for people; at most 512 bytes; the middle of a longer one is left out | the header stays under its limit |
//! | 4 `reply_size` | uint32 | bytes of the reply after the header | |
//! | 5 `retry_after_ms` | uint32 | with "busy": when to try again | |
//!
//! `head_size` is a little-endian `u32`, or a varint (a later generation of existing clients); the
//! first three bytes of a connection tell. The byte layout, and the proof that they do, stand in
//! `frame`. Replies are framed as the connection's calls are; before the first call a server sends
//! nothing.
//!
//! # Limits
//!
//! Everything that can grow has one. The server's are in [`Limits`] (connections, calls and bytes
//! in flight, unsent replies, times), the frame's in [`FrameLimits`] and [`HEAD_LEN_MAX_BYTES`],
//! the channel's in [`ChannelBuilder`]. Each says what happens beyond it, and what goes wrong if it
//! is too small or too large.
//!
//! # Invariants
//!
//! - A call is answered at most once, and unless its connection ends, exactly once: see [`Done`].
//! - Nobody who answers or calls waits for a peer to read: see `outbox`.
//! - A client can cost only its own connection, and its own share of [`Limits`].
//! - An error says whether the call may have run, and says so when in doubt: [`CallError::may_have_run`].
//! - No foreign code (services, completions) runs under a lock of this module, but for a [`Balancer`]; its panics end one call.
//!
//! # Threads
//!
//! Named after what they do and the port: `rpc-accept`, `rpc-hand-N`, `rpc-conn-PORT`,
//! `rpc-send-PORT` on the server's side, `rpc-chan-PORT`, `rpc-timer`, `rpc-send-PORT` on the
//! channel's. Each is joined by [`Server::stop`] or [`Channel::close`]. Beyond these,
//! `rpc-endpoints` watches the file of a [`FileSource`], and `rpc-retire` closes the channels of
//! endpoints that have left their source.
//!
//! # Left out
//!
//! Encryption and authentication: nothing proves a caller's name, and whoever reaches the port may
//! call. So there are no access lists either. Streams; hedged calls.

/// Includes what `syncraft_build::compile` has made of a package: its messages, and of each service
/// the trait, the service and the stub. Takes the package as the .proto spells it:
/// `include_proto!("friends")`; for a file without `package`, `include_proto!("_")`. Packages that
/// refer to each other are included in modules of their names: `syncraft_build`'s page has an
/// example.
#[macro_export]
macro_rules! include_proto {
    ($package:literal) => {
        #[allow(unused_imports, reason = "a package may be empty")]
        use $crate::__runtime::*;
        include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
    };
}

/// The name by which generated code knows this crate, however the including crate calls it.
/// Imported with `*`, so that two packages may be included in one module.
#[doc(hidden)]
pub mod __runtime {
    pub extern crate self as syncraft_rpc_runtime;
}

mod balance;
mod chain;
mod channel;
mod error;
#[cfg(test)]
mod error_words;
mod fairness;
mod frame;
mod invoke;
mod limits;
mod net;
mod outbox;
mod payload;
mod pure;
mod retry;
mod server;
mod service;
mod status;
mod transport;

pub use balance::{
    Attempt, Balancer, Candidate, Endpoint, EndpointError, EndpointTable, FileSource, FixedSource,
    Hash, HashRing, HealthPolicy, HealthSignal, LeastConnections, LeastResponseTime, RoundRobin,
    Source, SourceError, TargetStatus, Targets, TargetsBuilder, WEIGHT_MAX, WeightedRoundRobin,
    hash_key,
};
pub use chain::ErrorChain;
pub use channel::{Channel, ChannelBuilder, Disconnect, Framing, Pending};
pub use error::{CallError, Deadline, ServerError};
pub use fairness::Fairness;
pub use invoke::{CallOptions, Invoke, Method, RequestId};
pub use limits::{FrameLimits, HEAD_LEN_MAX_BYTES, Limits};
pub use net::resolve;
pub use outbox::Cork;
pub use payload::{Bincode, Payload, PayloadError};
/// What generated messages are made of, so that a crate with services needs no dependency of its
/// own for it.
pub use prost;
/// The types of `google.protobuf`, for generated messages that have fields of them: `Timestamp`,
/// `Duration`, `Any`, ...
pub use prost_types;
pub use retry::{Backoff, Retry, Retrying};
pub use server::{BoundServer, MethodReport, Server, ServerBuilder, Stats, Times};
pub use service::{Call, Done, Service};
pub use status::{Status, StatusCode};

/// The head of every call and of every extended reply.
#[allow(unreachable_pub, reason = "generated: prost makes everything `pub`")]
mod header {
    crate::include_proto!("syncraft.rpc");
}

/// The service `rpc`, which every server has: whether it is there ([`Channel::ping`]), and what it
/// serves.
///
/// ```
/// use std::time::{Duration, Instant};
/// use syncraft_rpc::builtin::{ListServicesArgs, RpcStub};
/// use syncraft_rpc::{Channel, Server};
///
/// let server = Server::builder().bind("127.0.0.1:0").build()?.start();
/// let stub = RpcStub::new(Channel::builder(server.local_addr().to_string()).lazy());
/// let deadline = Instant::now() + Duration::from_secs(5);
/// let services = stub.list_services(&ListServicesArgs {}, deadline)?.services;
/// assert_eq!(services[0].methods, ["Ping", "ListServices"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub mod builtin {
    crate::include_proto!("syncraft.rpc.builtin");
}

/// The program in the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
