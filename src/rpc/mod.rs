//! Remote procedure calls over TCP: protobuf services, plain threads, nothing to await. It knows nothing of Raft.
//!
//! ```text
//!   caller                                                                    callee
//!   FooRpcStub ── Channel ── frame ── outbox ══ TCP ══ frame ── Server ── FooRpcService ── impl FooRpc
//!                   ^                                                                        │ Done
//!                   └──────────────── frame ══ TCP ══ outbox ── frame <──────────────────────┘
//! ```
//!
//! # Using it
//!
//! A `service fooRpc { rpc BarBaz(Args) returns (Reply); }` in a .proto becomes, by `build.rs`, the trait `FooRpc` to implement
//! (`fn bar_baz(&self, args: Args, done: Done<Reply>)`), `FooRpcService` to publish it, and `FooRpcStub` to call it:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::{Duration, Instant};
//! use syncraft::rpc::{Channel, Done, Server};
//! # use syncraft::rpc::{Call, Service};
//! # struct Greeter;
//! # impl Service for Greeter {
//! #     fn name(&self) -> &'static str { "greetRpc" }
//! #     fn methods(&self) -> &'static [&'static str] { &["Greet"] }
//! #     fn call(&self, _: usize, args: bytes::Bytes, call: Call) {
//! #         if let Some((name, done)) = call.open(args) { greet(name, done) }
//! #     }
//! # }
//! // What a generated trait asks for: arguments, and the answer, which may be given later, from any thread.
//! fn greet(name: String, done: Done<String>) {
//!     done.run(format!("hello, {name}"));
//! }
//!
//! let server = Server::builder().service(Greeter).bind("127.0.0.1:0")?;
//! let channel = Channel::builder(server.local_addr().to_string()).lazy();
//! let deadline = Instant::now() + Duration::from_secs(5);
//! // What a generated stub does.
//! let reply: String = channel.call("greetRpc", "Greet", &"you".to_owned(), deadline)?;
//! assert_eq!(reply, "hello, you");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Where several servers offer the same, [`Targets`] take the channel's place: they find the servers in a [`Source`], spread the calls
//! with a [`Balancer`], and leave those alone that have failed.
//!
//! # The wire
//!
//! Two formats on one port; what tells them apart is whether a call has a `call_id`.
//!
//! | | documented | extended |
//! |---|---|---|
//! | call | `head_size`, `RpcHeader` (fields 1 to 3), arguments | the same, with `call_id > 0` and fields 5 to 7 |
//! | reply | the bare serialized reply | `head_size`, `RpcReplyHeader`, reply |
//! | calls in flight on a connection | one after another, in order | many, answered in any order |
//! | error | the connection is closed | a status for this call |
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
//! | 6 `codec` | uint32 | 0: protobuf | others are refused until they are served |
//! | 7 `caller` | bytes | who calls | for fair queueing |
//!
//! `RpcReplyHeader`:
//!
//! | field | type | meaning | why |
//! |---|---|---|---|
//! | 1 `call_id` | uint64 | the call's; 0: about the connection, which then ends | a refusal may come before any call |
//! | 2 `status` | uint32 | 0: OK; else [`StatusCode`] | |
//! | 3 `message` | string | for people; at most 512 bytes | the header stays under its limit |
//! | 4 `reply_size` | uint32 | bytes of the reply after the header | |
//! | 5 `retry_after_ms` | uint32 | with "busy": when to try again | |
//!
//! `head_size` is a little-endian `u32`, or a varint (a later generation of existing clients); the first three bytes of a
//! connection tell. The byte layout, and the proof that they do, stand in `frame`. Replies are framed as the connection's
//! calls are; a refusal before the first call uses the `u32`.
//!
//! # Limits
//!
//! Everything that can grow has one. The server's are in [`Limits`] (connections, calls and bytes in flight, unsent replies,
//! times), the frame's in [`FrameLimits`] and [`HEAD_LEN_MAX_BYTES`], the channel's in [`ChannelBuilder`]. Each says what
//! happens beyond it, and what goes wrong if it is too small or too large.
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
//! Named after what they do and the port: `rpc-accept`, `rpc-conn-PORT`, `rpc-send-PORT` on the server's side, `rpc-chan-PORT`,
//! `rpc-timer`, `rpc-send-PORT` on the channel's. Each is joined by [`Server::stop`] or [`Channel::close`]. Beyond these, `rpc-endpoints`
//! watches the file of a [`FileSource`], and `rpc-retire` closes the channels of endpoints that have left their source.

mod balance;
mod channel;
mod error;
mod frame;
mod limits;
mod net;
mod outbox;
mod server;
mod service;
mod status;

pub use balance::{
    Balancer, Candidate, Endpoint, EndpointError, FileSource, FixedSource, Hash, HashRing,
    LeastConnections, LeastResponseTime, RoundRobin, Source, SourceError, TargetStatus, Targets,
    TargetsBuilder, WEIGHT_MAX, WeightedRoundRobin, hash_key,
};
pub use channel::{Channel, ChannelBuilder, Framing};
pub use error::{CallError, ServerError};
pub use limits::{FrameLimits, HEAD_LEN_MAX_BYTES, Limits};
pub(crate) use outbox::Cork;
pub use server::{Server, ServerBuilder};
pub use service::{Call, Done, Service};
pub use status::{Status, StatusCode};

/// The head of every call and of every extended reply.
#[allow(unreachable_pub, reason = "generated: prost makes everything `pub`")]
mod header {
    include!(concat!(env!("OUT_DIR"), "/syncraft.rpc.rs"));
}

#[cfg(test)]
mod generated {
    //! Every service of `proto/` compiles, in any module.
    #![allow(unreachable_pub, dead_code, reason = "generated, and only compiled here")]

    mod kv {
        include!(concat!(env!("OUT_DIR"), "/syncraft.kv.rs"));
    }
    mod raft {
        include!(concat!(env!("OUT_DIR"), "/syncraft.raft.rs"));
    }
    mod admin {
        include!(concat!(env!("OUT_DIR"), "/syncraft.admin.rs"));
    }
}
