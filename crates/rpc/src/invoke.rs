//! What a call is for, and the one thing that a stub asks of what carries its calls: [`Invoke`].

use std::time::Instant;

use bytes::Bytes;

use super::{CallError, Payload};

/// A caller's mark longer than this is cut: it stands in the header.
const TRACE_LEN_MAX_BYTES: usize = 128;

/// A method of a service, by its names on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Method {
    /// "kvServerRpc".
    pub service: &'static str,
    /// "PutAppend".
    pub name: &'static str,
    /// Whether to run it twice does no more than to run it once, so that a call of which nobody knows whether it has run may be
    /// repeated. In a .proto: `option idempotency_level = IDEMPOTENT;` (or `NO_SIDE_EFFECTS`).
    pub is_idempotent: bool,
}

impl Method {
    /// One that is not known to be idempotent.
    pub const fn new(service: &'static str, name: &'static str) -> Method {
        Method { service, name, is_idempotent: false }
    }

    /// The same, marked idempotent.
    pub const fn idempotent(self) -> Method {
        Method { is_idempotent: true, ..self }
    }
}

/// What goes along with calls beside their arguments.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    pub(super) version: u32,
    pub(super) key: Option<u64>,
    pub(super) trace: Bytes,
    pub(super) request: Option<RequestId>,
}

impl CallOptions {
    /// The version of the service that the caller was made for: a server that publishes another one refuses, and names both.
    /// Default 0: any.
    pub fn version(mut self, version: u32) -> CallOptions {
        self.version = version;
        self
    }

    /// What balancers that hash go by: calls of one key go to one endpoint ([`hash_key`](super::hash_key) makes keys of
    /// bytes). Default none: they are spread.
    pub fn key(mut self, key: u64) -> CallOptions {
        self.key = Some(key);
        self
    }

    /// A mark of the caller's own, which the server shows in its log beside slow calls, and methods can show in theirs. More than 128 bytes are cut.
    pub fn trace(mut self, trace: impl Into<Bytes>) -> CallOptions {
        self.trace = trace.into();
        self.trace.truncate(TRACE_LEN_MAX_BYTES);
        self
    }
}

/// What a call that may be repeated is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// Whose it is: 16 random bytes of the caller's.
    pub client: Bytes,
    /// Which of theirs. The same for every attempt.
    pub number: u64,
    /// How often it was tried before.
    pub attempt: u32,
}

/// What carries calls: a [`Channel`](super::Channel), several ([`Targets`](super::Targets)), either with retries
/// ([`Retrying`](super::Retrying)). Generated stubs call through any.
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
