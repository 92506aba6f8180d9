//! The settings of a channel, which do not change once it is made.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::FrameLimits;
use crate::frame::HeadSize;
use crate::limits::HEAD_LEN_MAX_BYTES;

/// How calls look on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// Our own servers: many calls in flight on the connection, deadlines, error statuses.
    #[default]
    Extended,
    /// Servers of the documented system: one call at a time (the others wait), bare replies.
    ///
    /// A bare reply does not say where it ends, so bytes that decode count as a whole reply. A
    /// reply that arrives in parts is therefore taken too early if its first part ends exactly
    /// between two fields. Servers that write a reply at once are safe, except for very long
    /// replies; all servers that we know do so. An empty reply cannot be seen at all. Bytes that
    /// come when no reply is due end the connection. So does a call that times out, because its
    /// reply would be taken for the next one.
    Documented,
    /// The documented system's later generation: the same, with the header's length as a varint.
    DocumentedVarint,
}

/// How an established connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// The other side ended it, or the system says that it is broken. The connections of a server
    /// whose process is gone end in this way.
    Ended,
    /// Nothing came over it for so long that it was given up: see
    /// [`ping_interval`](super::ChannelBuilder::ping_interval). The server may well be alive.
    Silent,
}

/// Turns the channel's address into socket addresses, each time it connects.
pub(super) type Resolver = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The settings of a channel. [`ChannelBuilder`](super::ChannelBuilder) says what each does.
pub(super) struct Config {
    pub(super) addr: String,
    pub(super) framing: Framing,
    pub(super) connect_timeout: Duration,
    pub(super) calls_max: usize,
    pub(super) streams_max: usize,
    pub(super) stream_window_bytes: usize,
    pub(super) limits: FrameLimits,
    /// In place of the system's.
    pub(super) resolver: Option<Box<Resolver>>,
    pub(super) caller: Bytes,
    pub(super) ping_interval: Duration,
    pub(super) bytes_per_second_min: u64,
    pub(super) idle_timeout: Duration,
    pub(super) on_disconnect: Option<Box<dyn Fn(Disconnect) + Send + Sync>>,
}

impl Config {
    /// The port, for the names of threads.
    pub(super) fn port(&self) -> &str {
        self.addr.rsplit(':').next().unwrap_or_default()
    }

    /// Bytes of calls that wait to be sent: room for a few of the longest frames.
    pub(super) fn unsent_bytes_max(&self) -> usize {
        4 * (self.limits.body_len_max_bytes + 2 * HEAD_LEN_MAX_BYTES)
    }

    pub(super) fn head_size(&self) -> HeadSize {
        match self.framing {
            Framing::Extended | Framing::Documented => HeadSize::U32Le,
            Framing::DocumentedVarint => HeadSize::Varint,
        }
    }
}
