//! Which method a call is for ([`Method`]), what goes along ([`CallOptions`]), and what carries it
//! ([`Invoke`]).

use std::time::Instant;

use bytes::Bytes;

use super::{CallError, Payload};

/// A longer mark of a caller is cut, because it stands in the header.
const TRACE_LEN_MAX_BYTES: usize = 128;

/// A method of a service, by its names on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Method {
    /// "kvServerRpc".
    pub service: &'static str,
    /// "PutAppend".
    pub name: &'static str,
    /// Whether running it twice has the same effect as running it once. Then a call may be repeated
    /// even if it may have run. In a .proto: `option idempotency_level = IDEMPOTENT;` (or
    /// `NO_SIDE_EFFECTS`).
    pub is_idempotent: bool,
}

impl Method {
    /// A method that is not idempotent.
    pub const fn new(service: &'static str, name: &'static str) -> Method {
        Method { service, name, is_idempotent: false }
    }

    /// The same method, marked idempotent.
    pub const fn idempotent(self) -> Method {
        Method { is_idempotent: true, ..self }
    }
}

/// What a call carries beside its arguments.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    pub(super) version: u32,
    pub(super) key: Option<u64>,
    pub(super) trace: Bytes,
    pub(super) request: Option<RequestId>,
}

impl CallOptions {
    /// The version of the service that the caller was made for. A server that publishes another
    /// version refuses the call and names both. Default 0: any.
    pub fn version(mut self, version: u32) -> CallOptions {
        self.version = version;
        self
    }

    /// For balancers that hash: calls with the same key go to the same endpoint
    /// ([`hash_key`](super::hash_key) makes keys of bytes). Default none: calls are spread.
    pub fn key(mut self, key: u64) -> CallOptions {
        self.key = Some(key);
        self
    }

    /// A mark of the caller. The server logs it with slow calls, and methods can read it. More than
    /// 128 bytes are cut.
    pub fn trace(mut self, trace: impl Into<Bytes>) -> CallOptions {
        self.trace = trace.into();
        self.trace.truncate(TRACE_LEN_MAX_BYTES);
        self
    }
}

/// The identity of a call that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// The caller: 16 random bytes.
    pub client: Bytes,
    /// Which of the caller's calls. The same for every attempt.
    pub number: u64,
    /// How many attempts came before this one.
    pub attempt: u32,
}

/// What carries calls: a [`Channel`](super::Channel), several of them
/// ([`Targets`](super::Targets)), or either with retries ([`Retrying`](super::Retrying)). Generated
/// stubs call through any.
pub trait Invoke {
    /// Calls `method` and waits for the reply until `deadline`.
    ///
    /// # Errors
    ///
    /// Every [`CallError`].
    fn invoke<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        args: &A,
        deadline: Instant,
    ) -> Result<R, CallError>;
}
