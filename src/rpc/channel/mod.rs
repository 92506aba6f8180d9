//! The side that calls.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::{CallError, FrameLimits};

/// How calls look on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// Our own servers: many calls in flight on the connection, deadlines, error statuses.
    #[default]
    Extended,
    /// Servers of the documented system: one call at a time, bare replies.
    Documented,
    /// The documented system's later generation: the same with the header's length as a varint.
    DocumentedVarint,
}

/// One connection to one server, shared by any number of threads and calls. Clones are the same channel.
#[derive(Clone, Debug)]
pub struct Channel {}

impl Channel {
    /// A channel to `addr`, "host:port".
    pub fn builder(_addr: impl Into<String>) -> ChannelBuilder {
        todo!()
    }

    /// Calls and waits for the reply until `deadline`. The generated stubs call this.
    pub fn call<A: Message, R: Message + Default>(
        &self,
        _service: &'static str,
        _method: &'static str,
        _args: &A,
        _deadline: Instant,
    ) -> Result<R, CallError> {
        todo!()
    }

    /// Calls without waiting: `done` runs exactly once, on a thread of the channel, never on the calling one. It must not block.
    pub fn call_async<A: Message, R: Message + Default>(
        &self,
        _service: &'static str,
        _method: &'static str,
        _args: &A,
        _deadline: Instant,
        _done: impl FnOnce(Result<R, CallError>) + Send + 'static,
    ) {
        todo!()
    }

    /// Connects unless it is connected.
    pub fn connect_now(&self, _deadline: Instant) -> Result<(), CallError> {
        todo!()
    }

    /// Whether a connection is established now.
    pub fn is_connected(&self) -> bool {
        todo!()
    }

    /// Fails what is outstanding and joins the channel's threads.
    pub fn close(&self) {
        todo!()
    }

    /// The address as it was given.
    pub fn addr(&self) -> &str {
        todo!()
    }
}

/// Settings of a [`Channel`].
pub struct ChannelBuilder {}

impl ChannelBuilder {
    /// How calls look on the wire; default [`Framing::Extended`].
    pub fn framing(self, _framing: Framing) -> Self {
        todo!()
    }

    /// How long one attempt to connect may take, over all addresses.
    pub fn connect_timeout(self, _timeout: Duration) -> Self {
        todo!()
    }

    /// Calls outstanding at a time.
    pub fn calls_max(self, _calls: usize) -> Self {
        todo!()
    }

    /// Longest frames.
    pub fn frame_limits(self, _limits: FrameLimits) -> Self {
        todo!()
    }

    /// Who calls, for the server's fair queueing.
    pub fn caller(self, _caller: impl Into<Bytes>) -> Self {
        todo!()
    }

    /// Runs each time an established connection is lost.
    pub fn on_disconnect(self, _callback: impl Fn() + Send + Sync + 'static) -> Self {
        todo!()
    }

    /// The channel; it connects at the first call.
    pub fn lazy(self) -> Channel {
        todo!()
    }

    /// The channel, connected.
    pub fn connect(self, _deadline: Instant) -> Result<Channel, CallError> {
        todo!()
    }
}
