//! Bytes <-> calls.

mod channel;
mod error;
mod frame;
mod limits;
mod net;
mod outbox;
mod server;
mod service;
mod status;

pub use channel::{Channel, ChannelBuilder, Framing};
pub use error::{CallError, ServerError};
pub use limits::{FrameLimits, HEAD_LEN_MAX_BYTES, Limits};
pub use server::{Server, ServerBuilder};
pub use service::{Call, Done, Service};
pub use status::{Status, StatusCode};

/// The head of every call and of every extended reply.
#[allow(unreachable_pub, dead_code, reason = "generated: prost makes everything `pub`")]
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
