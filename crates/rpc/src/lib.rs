//! Remote procedure calls over TCP: protobuf services and plain threads, without an async runtime.
//! This crate knows nothing of Raft.
//!
//! ```text
//!   caller                                                                   callee
//!   FooRpcStub ── Channel ── frame ── outbox ══ TCP ══ frame ── Server ── FooRpcService ── Foo
//!                    ^                                                                      │ Done
//!                    └─────────────── frame ══ TCP ══ outbox ── frame <─────────────────────┘
//! ```
//!
//! # Four steps
//!
//! 1. **Define** a service in a `.proto`, and compile it in `build.rs`. A crate needs only
//!    `syncraft-rpc` and `syncraft-build`, and nobody needs `protoc`.
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
//! 2. **Implement** the trait with the service's name. Each method gets its arguments and a
//!    [`Done`], through which it answers, now or later, from any thread:
//!    `fn list(&self, args: ListArgs, done: Done<ListReply>)`.
//!
//! 3. **Serve** it. `into_service` turns the implementation into what a server publishes:
//!
//!    ```text
//!    let service = friends.into_service();
//!    let server = Server::builder().service(service).bind("0.0.0.0:7100").handlers(8);
//!    let server = server.build()?.start();
//!    ```
//!
//! 4. **Call** it through a stub: over a [`Channel`], over several servers ([`Targets`]), or with
//!    repeats ([`Retrying`]) over either. Every call has a deadline, and ends by then:
//!
//!    ```text
//!    let channel = Channel::builder("host:7100").lazy();
//!    channel.connect_wait(deadline)?;                         // optional: until it answers a ping
//!    let stub = FriendServiceStub::new(channel);
//!    let reply = stub.list(&args, deadline)?;                 // waits
//!    let pending = stub.list_async(&args, deadline);          // wait later: `Pending`
//!    stub.list_then(&args, deadline, |result| { /* ... */ }); // calls back
//!    ```
//!
//! Methods may stream, in either direction or in both: see [Streams](#streams).
//!
//! `examples/friend_service` is such a crate. A service between Rust programs needs no .proto: see
//! [`service!`]. You can also write by hand what these two generate:
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
//!         // If the arguments are not a `String`, `open` answers that.
//!         if let Some((name, done)) = call.open::<String, String>(args) {
//!             done.run(format!("hello, {name}"));
//!         }
//!     }
//! }
//!
//! const GREET: Method = Method::new("greetRpc", "Greet");
//! let server = Server::builder().service(Greeter).bind("127.0.0.1:0").build()?.start();
//! let channel = Channel::builder(server.local_addr().to_string()).lazy();
//! let deadline = Instant::now() + Duration::from_secs(5);
//! let reply: String = channel.call(&GREET, &"you".to_owned(), deadline)?;
//! assert_eq!(reply, "hello, you");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What to use for what
//!
//! | you want | use |
//! |---|---|
//! | methods that take long | [`ServerBuilder::handlers`], their [`queue`](ServerBuilder::queue) |
//! | one that does not use these | [`ServerBuilder::inline_service`] |
//! | no caller that crowds out others | [`ServerBuilder::fair`], [`ChannelBuilder::caller`] |
//! | a service that gets through whatever others do | [`ServerBuilder::reserved_service`] |
//! | to know whether a call has run | [`CallError::may_have_run`] |
//! | to show an error with its causes | [`ErrorChain`] |
//! | to repeat calls that may be repeated | [`Retrying`], and `idempotency_level` in the .proto |
//! | many calls in flight | [`Pending`], from the stub's `..._async` |
//! | several servers | [`Targets`], a [`Balancer`] and a [`Source`] of endpoints |
//! | to choose among servers by your own rules | [`EndpointTable`] |
//! | to notice a frozen server | [`ChannelBuilder::ping_interval`] |
//! | to refuse callers of another version | `version(n)` of a service, [`CallOptions::version`] |
//! | pure Rust types | [`service!`], [`Bincode`] |
//! | to stop without losing calls | [`Server::drain`] |
//! | many items for one call, or events as they happen | a method that [streams](#streams) |
//! | to see inside | [`Server::stats`], [`Limits::slow_call`], [`builtin`] |
//!
//! # Streams
//!
//! A method with `stream` in the .proto sends or takes any number of items, in order, for as long
//! as both sides want. Each stream has its own credit in bytes, so a slow one holds up no other; a
//! deadline, or none; and an end with a status, which either side may bring about.
//!
//! ```text
//! rpc List(ListArgs) returns (stream Friend);              // in the .proto
//!
//! fn list(&self, args: ListArgs, replies: Outgoing<Friend>) {
//!     for friend in self.friends_of(&args.user) {
//!         // Waits until the caller has room for it.
//!         if replies.send(&friend, Instant::now() + PATIENCE).is_err() {
//!             return;                                      // the caller is gone, or too slow
//!         }
//!     }
//!     replies.end();
//! }
//!
//! for friend in stub.list(&args, Some(deadline)) {         // dropping it cancels
//!     println!("{}", friend?.name);
//! }
//! ```
//!
//! | `rpc` | the method gets | the stub returns |
//! |---|---|---|
//! | `List(A) returns (stream B)` | the arguments, [`Outgoing`] | [`Incoming`] |
//! | `Load(stream A) returns (B)` | [`Incoming`], [`Done`] | [`Sender`], [`StreamReply`] |
//! | `Watch(stream A) returns (stream B)` | [`Incoming`], [`Outgoing`] | [`Sender`], [`Incoming`] |
//!
//! A method that must not wait sends with [`Outgoing::try_send`], is called back when there is room
//! ([`Outgoing::when_ready`]) and when the stream is over ([`Outgoing::when_over`]), and takes
//! items with [`Incoming::on_item`]. So ten thousand streams need no threads. A service that runs
//! inline must not wait: the thread that it would keep is the one that brings credit and items.
//!
//! Streams go through a [`Channel`]. Without a .proto, a [`Service`] takes them with
//! [`Call::open_stream`], [`Call::open_upload`] and [`Call::open_duplex`], and a channel opens them
//! with [`Channel::open_stream`], [`Channel::open_upload`] and [`Channel::open_duplex`].
//!
//! # The wire
//!
//! One port serves two formats. *Documented*: the format of the published C++ system whose clients
//! must keep working ("existing clients"). *Extended*: this project's own. A call with a `call_id`
//! is extended, a call without one is documented.
//!
//! | | documented | extended |
//! |---|---|---|
//! | call | `head_size`, `RpcHeader` (fields 1 to 3), arguments | and `call_id`, fields 5 to 12 |
//! | reply | the bare serialized reply | `head_size`, `RpcReplyHeader`, reply |
//! | calls in flight on a connection | one after another, in order | many, answered in any order |
//! | error | the connection is reset | a status for this call |
//!
//! `RpcHeader`:
//!
//! | field | type | meaning | why |
//! |---|---|---|---|
//! | 1 `service_name` | bytes | "kvServerRpc" | not empty: a header begins with its tag, 0x0A |
//! | 2 `method_name` | bytes | "PutAppend" | |
//! | 3 `args_size` | uint32 | bytes of arguments after the header | the only length of the body |
//! | 4 `call_id` | uint64 | of the caller and its reply | many calls in flight; 0: documented |
//! | 5 `deadline_ms` | uint32 | how much longer the caller waits; 0: any time | none runs in vain |
//! | 6 `codec` | uint32 | 0: protobuf, 1: bincode | a service takes one and refuses the other |
//! | 7 `caller` | bytes | the caller's name; at most 256 bytes | for fair queueing |
//! | 8 `version` | uint32 | that the caller was made for; 0: any | a mismatch is refused |
//! | 9 `client_id` | bytes | 16 random bytes: the caller | tells a repeat from another request |
//! | 10 `request_id` | uint64 | which of the caller's requests | the same for every attempt |
//! | 11 `attempt` | uint32 | how many attempts came before | |
//! | 12 `trace` | bytes | the caller's mark; at most 128 bytes | for the logs of both sides |
//! | 13 `stream`, 14 `credit` | uint32, uint64 | see below | absent in a call |
//!
//! `RpcReplyHeader`:
//!
//! | field | type | meaning | why |
//! |---|---|---|---|
//! | 1 `call_id` | uint64 | the call's; 0: about the connection | which then ends |
//! | 2 `status` | uint32 | 0: OK; others: [`StatusCode`] | |
//! | 3 `message` | string | for people; at most 512 bytes | the header stays under its limit |
//! | 4 `reply_size` | uint32 | bytes of the reply after the header | |
//! | 5 `retry_after_ms` | uint32 | with "busy": when to try again | |
//! | 6 `stream`, 7 `credit` | uint32, uint64 | see below | absent in a reply |
//!
//! The middle of a longer `message` is left out. `head_size` is a little-endian `u32`, or a varint
//! (a later generation of existing clients). The first three bytes of a connection tell which.
//! `frame` has the byte layout, and the proof that they suffice. Replies are framed like the calls
//! of their connection. A server sends nothing before the first call.
//!
//! A frame with a `stream` belongs to the stream whose id is its `call_id`, and is extended:
//!
//! | `stream` | from | body | meaning |
//! |---|---|---|---|
//! | 1 open | caller | none | opens a stream, with all the fields of a call; items follow |
//! | 2 open with one request | caller | the request | the same; no items follow |
//! | 3 item | both | an item | costs its length and 32 bytes of credit |
//! | 4 credit | both | none | the other side may send `credit` bytes more |
//! | 5 end | caller | none | no more items; the server's still come |
//! | 5 end | server | none | the stream is over, with `status` |
//! | 6 cancel | caller | none | the stream is over |
//!
//! With an open, `credit` is how many bytes the server may send. A caller begins with 64 KiB. An
//! item may be sent while credit is above zero, and may overdraw it. The caller's frames 3 to 6
//! have the `service_name` ":". A server refuses to open a stream by a reply with a status and
//! without `stream`, as it refuses a call. To a server without streams an open is a call of a
//! method that it does not have, and items are calls of a service that it does not have: it answers
//! so.
//!
//! There is no UDP: calls and streams need order, repeats and flow control on every network, and
//! TCP in the kernel has these at less cost than a copy of them in this crate would.
//!
//! # HTTP
//!
//! With the feature `http`, the module `http` has an HTTP/1.1 server. It shares with the RPC server
//! how connections are accepted, counted, limited and ended (`port`).
//!
//! # Limits
//!
//! Everything that can grow has a limit. Those of a server are in [`Limits`] (connections, calls
//! and bytes in flight, unsent replies, times), those of frames in [`FrameLimits`] and
//! [`HEAD_LEN_MAX_BYTES`], those of a channel in [`ChannelBuilder`]. Each limit's documentation
//! says what happens beyond it, and what goes wrong if it is too small or too large.
//!
//! # Invariants
//!
//! - A call is answered at most once; exactly once, unless its connection ends: see [`Done`].
//! - No thread that answers or calls waits for a peer to read: see `outbox`.
//! - A client can use up only its own connection, and its own share of [`Limits`].
//! - An error says whether the call may have run. In doubt it says yes:
//!   [`CallError::may_have_run`].
//! - No foreign code (services, completions) runs under a lock of this crate, except a
//!   [`Balancer`]. Its panics end one call.
//! - Only `transport` touches a connected socket (except the one by which a stopping server wakes
//!   its acceptor).
//!
//! # Threads
//!
//! Threads are named after what they do and the port. A server has `rpc-accept`, `rpc-hand-N`,
//! `rpc-conn-PORT` and `rpc-send-PORT`; [`Server::stop`] joins them. A channel has `rpc-chan-PORT`,
//! `rpc-timer` and `rpc-send-PORT`; [`Channel::close`] joins them. `rpc-endpoints` watches the file
//! of a [`FileSource`], and `rpc-retire` closes the channels of endpoints that have left their
//! source.
//!
//! # Left out
//!
//! - Encryption and authentication. Nothing proves a caller's name, and anybody who reaches the
//!   port may call. So there are no access lists either.
//! - Hedged calls. Streams over several servers, or with retries: only the application knows where
//!   to resume one.

/// Includes the code that `syncraft_build::compile` has generated for a package: its messages and,
/// for each service, the trait, the service and the stub. Takes the package as the .proto spells
/// it: `include_proto!("friends")`; for a file without `package`, `include_proto!("_")`. Packages
/// that refer to each other are included in modules with their names: see the example on
/// `syncraft_build`'s page.
#[macro_export]
macro_rules! include_proto {
    ($package:literal) => {
        #[allow(unused_imports, reason = "a package may be empty")]
        use $crate::__runtime::*;
        include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
    };
}

/// The name of this crate in generated code, whatever the including crate calls it. Imported with
/// `*`, so that two packages may be included in one module.
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
#[cfg(feature = "http")]
pub mod http;
mod invoke;
mod limits;
mod net;
mod outbox;
mod payload;
mod port;
mod pure;
mod retry;
mod server;
mod service;
mod status;
mod stream;
mod transport;

pub use balance::{
    Attempt, Balancer, Candidate, Endpoint, EndpointError, EndpointTable, FileSource, FixedSource,
    Hash, HashRing, HealthPolicy, HealthSignal, LeastConnections, LeastResponseTime, RoundRobin,
    Source, SourceError, TargetStatus, Targets, TargetsBuilder, WEIGHT_MAX, WeightedRoundRobin,
    hash_key,
};
pub use chain::ErrorChain;
pub use channel::{Channel, ChannelBuilder, Disconnect, Framing, Pending, Sent};
pub use error::{CallError, Deadline, ServerError};
pub use fairness::Fairness;
pub use invoke::{CallOptions, Invoke, Method, RequestId};
pub use limits::{FrameLimits, HEAD_LEN_MAX_BYTES, Limits};
pub use net::resolve;
pub use outbox::Cork;
pub use payload::{Bincode, Payload, PayloadError};
/// Generated code uses it. It is here so that a crate with services needs no dependency of its own
/// for it.
pub use prost;
/// The types of `google.protobuf` that fields of generated messages may have: `Timestamp`,
/// `Duration`, `Any`, ...
pub use prost_types;
pub use retry::{Backoff, Retry, Retrying};
pub use server::{BoundServer, MethodReport, Server, ServerBuilder, Stats, Times};
pub use service::{Call, Done, Service};
pub use status::{Status, StatusCode};
pub use stream::{Incoming, Next, Outgoing, SendError, Sender, StreamReply};

/// The header of every call and of every extended reply.
#[allow(unreachable_pub, reason = "generated: prost makes everything `pub`")]
mod header {
    crate::include_proto!("syncraft.rpc");
}

/// The service `rpc`, which every server has: pings ([`Channel::ping`]), and the list of what it
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
