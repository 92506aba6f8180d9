//! How a channel is made: [`ChannelBuilder`].

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::config::{Config, Disconnect, Framing};
use super::shared::Shared;
use super::{Channel, Handle};
use crate::stream::{FIRST_CREDIT_BYTES, WINDOW_MAX_BYTES};
use crate::{CallError, FrameLimits};

/// A longer name of a caller is cut, because every header carries it.
const CALLER_LEN_MAX_BYTES: usize = 256;

/// The shortest ping interval and idle timeout.
const PING_INTERVAL_MIN: Duration = Duration::from_millis(1);

impl Channel {
    /// A channel to `addr`, "host:port".
    pub fn builder(addr: impl Into<String>) -> ChannelBuilder {
        let (connect_timeout, calls_max) = (Duration::from_secs(2), 1024);
        let (framing, limits) = (Framing::default(), FrameLimits::default());
        let config = Config {
            addr: addr.into(),
            framing,
            connect_timeout,
            calls_max,
            streams_max: 16 * 1024,
            stream_window_bytes: 1 << 20,
            limits,
            resolver: None,
            caller: Bytes::new(),
            ping_interval: Duration::from_secs(10),
            bytes_per_second_min: 256 << 10,
            idle_timeout: Duration::from_secs(60),
            on_disconnect: None,
        };
        ChannelBuilder { config }
    }
}

/// Settings of a [`Channel`].
pub struct ChannelBuilder {
    config: Config,
}

impl ChannelBuilder {
    /// How calls look on the wire; default [`Framing::Extended`].
    pub fn framing(mut self, framing: Framing) -> Self {
        self.config.framing = framing;
        self
    }

    /// How long one attempt to connect may take, over all addresses of the server; default 2 s. Too
    /// small: a lost first packet, which TCP repeats after 1 s, is a failure. Too large:
    /// [`Channel::close`] may have to wait for it.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// Finds the server's addresses each time the channel connects, in place of the system's
    /// resolver. For names that the system does not know. It runs on the channel's thread.
    pub fn resolver(
        mut self,
        resolve: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        self.config.resolver = Some(Box::new(resolve));
        self
    }

    /// How many calls may be outstanding; default 1,024. Too small: callers get
    /// [`CallError::Busy`]. Too large: if a server hangs, the process holds that many.
    pub fn calls_max(mut self, calls: usize) -> Self {
        self.config.calls_max = calls;
        self
    }

    /// How many streams may be open; default 16,384. Too small: callers get [`CallError::Busy`].
    /// Too large: if a server hangs, the process holds that many.
    pub fn streams_max(mut self, streams: usize) -> Self {
        self.config.streams_max = streams;
        self
    }

    /// How many bytes of items the server may send on a stream before the application has taken
    /// them; 64 KiB to 64 MiB, default 1 MiB. Values beyond these bounds are changed to the
    /// nearest. Too small: a stream over a long way is slow, because each window takes a round
    /// trip. Too large: memory, while the application takes items slowly.
    pub fn stream_window_bytes(mut self, bytes: usize) -> Self {
        self.config.stream_window_bytes = bytes.clamp(FIRST_CREDIT_BYTES, WINDOW_MAX_BYTES);
        self
    }

    /// The longest arguments that are sent, and the longest replies that are taken; default 16 MiB.
    /// Longer ones fail only their own call. The same holds for items of streams.
    pub fn frame_limits(mut self, limits: FrameLimits) -> Self {
        self.config.limits =
            FrameLimits { body_len_max_bytes: limits.body_len_max_bytes.min(u32::MAX as usize) };
        self
    }

    /// The caller's name, for the server's fair queueing; default none. More than 256 bytes are
    /// cut.
    pub fn caller(mut self, caller: impl Into<Bytes>) -> Self {
        self.config.caller = caller.into();
        self.config.caller.truncate(CALLER_LEN_MAX_BYTES);
        self
    }

    /// If calls wait and nothing has come from the server for this long, it is pinged. If nothing
    /// has come after the same time again, the connection is given up ([`CallError::Lost`]), and
    /// the next call makes a new one. Default 10 s. This finds a frozen server, a machine that is
    /// gone, and a connection that a firewall has forgotten.
    ///
    /// A call that ends at its deadline without any sign of life also costs the connection: the
    /// server is pinged after half of the call's time, if that is less than this interval (but at
    /// least 250 ms). So the caller with the shortest timeout decides for all that share the
    /// channel. If methods run inline for long, give such a caller a channel of its own. Calls that
    /// send much have more time: see
    /// [`bytes_per_second_min`](ChannelBuilder::bytes_per_second_min).
    ///
    /// Too small: a server that runs a method inline for longer than this looks dead, because it
    /// answers no ping meanwhile. Too large: calls wait for a dead connection. Without effect for
    /// [`Framing::Documented`].
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.config.ping_interval = interval.max(PING_INTERVAL_MIN);
        self
    }

    /// The speed of the slowest network that the channel is for, at least 1; default 256 KiB a
    /// second. A silent connection is pinged and given up later by the time that the arguments of
    /// all waiting calls need on such a network. If that turns out to be too little, the next
    /// connection has twice the time. Too small: a dead connection with large calls on it is
    /// noticed late. Too large: on a slow network, large calls are sent more than once.
    pub fn bytes_per_second_min(mut self, bytes: u64) -> Self {
        self.config.bytes_per_second_min = bytes.max(1);
        self
    }

    /// A connection that the channel's thread reads is closed if no call was made over it for this
    /// long; default 60 s. The next call connects again. Without effect if
    /// [`on_disconnect`](ChannelBuilder::on_disconnect) is set. If callers read the connection, the
    /// server closes it.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.config.idle_timeout = timeout.max(PING_INTERVAL_MIN);
        self
    }

    /// Runs each time an established connection is lost, at once, on the connection's thread,
    /// before the completions of the calls that are lost with it. It must not block. It does not
    /// run when this channel is closed, or when the server refuses the connection because it has
    /// too many. While no calls wait, a server that has fallen silent is noticed after at most four
    /// [`ping_interval`](ChannelBuilder::ping_interval)s. The pings also keep the connection open.
    pub fn on_disconnect(self, callback: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_disconnect_how(move |_| callback())
    }

    /// The same, for a callback that wants to know how the connection was lost. It replaces
    /// [`on_disconnect`](ChannelBuilder::on_disconnect).
    pub fn on_disconnect_how(
        mut self,
        callback: impl Fn(Disconnect) + Send + Sync + 'static,
    ) -> Self {
        self.config.on_disconnect = Some(Box::new(callback));
        self
    }

    /// The channel. It connects at the first call.
    pub fn lazy(self) -> Channel {
        Channel { handle: Arc::new(Handle { shared: Shared::new(self.config) }) }
    }

    /// The channel, connected.
    ///
    /// # Errors
    ///
    /// Those of [`Channel::connect_now`].
    pub fn connect(self, deadline: Instant) -> Result<Channel, CallError> {
        let channel = self.lazy();
        channel.connect_now(deadline)?;
        Ok(channel)
    }
}

impl fmt::Debug for ChannelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { addr, framing, connect_timeout, calls_max, .. } = &self.config;
        f.debug_struct("ChannelBuilder")
            .field("addr", addr)
            .field("framing", framing)
            .field("connect_timeout", connect_timeout)
            .field("calls_max", calls_max)
            .finish_non_exhaustive()
    }
}
