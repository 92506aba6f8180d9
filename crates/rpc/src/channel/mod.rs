//! The side that calls: one connection, any number of threads and calls.
//!
//! ```text
//!  callers ── encode ── outbox (one send) ──> server ──> a caller that waits, or the channel's thread ──> the other callers,
//!     │                                                                                                  completions
//!     └── no connection? the call waits in `unsent` until the channel's thread has resolved, connected and sent what waits
//! ```
//!
//! # Calls
//!
//! Each call has a deadline, and nothing on its way outlasts it: not connecting (another thread
//! does that), not sending (the outbox never blocks), not waiting. At most
//! [`calls_max`](ChannelBuilder::calls_max) calls are outstanding; one more is [`CallError::Busy`]
//! at once. A reply that comes after its call was given up is dropped.
//!
//! A *blocking* call waits on its own thread, and one of those that wait reads the connection, for
//! all: an answer that comes to the one who reads wakes no other thread. The *completion* of an
//! async call runs exactly once, on one of the channel's threads (the connection's when an answer
//! comes or the connection is lost; the timer's at the deadline, or when the call fails at once),
//! with no lock of the channel held, never on the thread that made the call. It must not block, and
//! must not make blocking calls on the same channel: the thread that would bring their answer is
//! the one it runs on.
//!
//! # Errors
//!
//! A call that was never handed to a connection has certainly not run ([`CallError::NotSent`], or
//! [`CallError::TimedOut`] with `sent: false`). From then on it counts as sent, even if its bytes
//! still wait in our own queue: [`CallError::Lost`] and `sent: true` say *may have run*, and err on
//! that side.
//!
//! # The connection
//!
//! Made at once or by the first call; when it is lost, by the next one. The name is resolved anew
//! each time, and every address is tried. A loss is noticed at once if a call waits, or if the
//! channel's thread reads, as it does where [`on_disconnect`](ChannelBuilder::on_disconnect) is set
//! and from the first async call on. Else it is noticed by the next call, before it is sent; only a
//! call that follows within 100 microseconds of an answer does not look, and may be lost with the
//! connection.
//!
//! A server that says nothing while calls wait is asked whether it is there, and given up if it
//! does not answer: see [`ping_interval`](ChannelBuilder::ping_interval). One that says that it
//! closes the connection, all that it has run being answered, has not run the rest:
//! [`CallError::Refused`] with [`ShuttingDown`](super::StatusCode::ShuttingDown). A connection that
//! the channel's thread reads is closed when it has served no call for
//! [`idle_timeout`](ChannelBuilder::idle_timeout).
//!
//! # Threads
//!
//! `rpc-chan-PORT` while it connects, and where it reads until the connection is lost; `rpc-timer`
//! while async calls are outstanding, and a few seconds longer; `rpc-send-PORT` only while the
//! server takes bytes slower than calls are made. [`Channel::close`] (and dropping the last clone)
//! joins them.
//!
//! # Left out
//!
//! Retries ([`Retrying`](super::Retrying)) and several servers ([`Targets`](super::Targets)) are
//! built on this; several connections to one server are several channels.

mod calls;
mod connection;
mod core;
mod errors;
mod pending;
mod silence;
mod timer;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::calls::{Outcome, Waiter};
use self::core::{Core, Request};
pub use self::pending::Pending;
use super::builtin::{PingArgs, PingReply, RpcStub};
use super::limits::HEAD_LEN_MAX_BYTES;
use super::service::Reply;
use super::{CallError, CallOptions, ErrorChain, FrameLimits, Invoke, Method, Payload, StatusCode};

/// A caller's name longer than this is cut: it stands in every header.
const CALLER_LEN_MAX_BYTES: usize = 256;

/// Between attempts to reach a server that is waited for.
const WAIT_PAUSE_MIN: Duration = Duration::from_millis(10);
const WAIT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// The shortest time after which a silent server is asked whether it is there.
const PING_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// How calls look on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// Our own servers: many calls in flight on the connection, deadlines, error statuses.
    #[default]
    Extended,
    /// Servers of the documented system: one call at a time (others wait their turn), bare replies.
    ///
    /// A bare reply does not say where it ends, so bytes that decode are taken for a whole reply. A
    /// reply that arrives in parts, of which the first ends exactly between two fields, is thus
    /// taken too early; servers that write a reply at once (all that we know do) are safe but for
    /// very long ones. An empty reply cannot be seen at all. Bytes that come when no reply is due
    /// end the connection; so does a call that times out, for its reply would be taken for the
    /// next.
    Documented,
    /// The documented system's later generation: the same with the header's length as a varint.
    DocumentedVarint,
}

/// How an established connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// The other side ended it, or the system says that it is broken. A server whose process is
    /// gone ends its connections in this way.
    Ended,
    /// Nothing came over it for so long that it was given up: see
    /// [`ping_interval`](ChannelBuilder::ping_interval). The server may well be there.
    Silent,
}

/// One connection to one server, shared by any number of threads and calls. Clones are the same
/// channel; the last one dropped closes it.
#[derive(Clone)]
pub struct Channel {
    handle: Arc<Handle>,
}

/// Closes the channel when the last clone goes. The threads hold the core, not this.
struct Handle {
    core: Arc<Core>,
}

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

    /// Calls and waits for the reply until `deadline`.
    ///
    /// # Errors
    ///
    /// Every [`CallError`].
    pub fn call<A: Payload, R: Payload>(
        &self,
        method: &Method,
        args: &A,
        deadline: Instant,
    ) -> Result<R, CallError> {
        self.invoke(method, &CallOptions::default(), args, deadline)
    }

    /// Calls without waiting: the answer is fetched from what comes back.
    pub fn call_async<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        args: &A,
        deadline: Instant,
    ) -> Pending<R> {
        let core = self.core();
        self.with_request::<A, R, _>(method, options, args, deadline, |it| Pending::start(core, it))
    }

    /// Calls without waiting: `done` runs exactly once, on a thread of the channel, never on the
    /// calling one. It must not block: other answers wait behind it.
    pub fn call_then<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        args: &A,
        deadline: Instant,
        done: impl FnOnce(Result<R, CallError>) + Send + 'static,
    ) {
        let addr = self.core().config.addr.clone();
        let waiter = Waiter::Completion(Box::new(move |outcome| done(decode(&addr, outcome))));
        self.with_request::<A, R, _>(method, options, args, deadline, |request| {
            self.core().start(request, waiter);
        });
    }

    fn with_request<A: Payload, R: Payload, T>(
        &self,
        method: &Method,
        options: &CallOptions,
        args: &A,
        deadline: Instant,
        run: impl FnOnce(&Request<'_>) -> T,
    ) -> T {
        let write = |out: &mut Vec<u8>| args.write(out);
        let args = args.measure().map(|len| Reply { len, write: &write });
        run(&Request { method, options, codec: A::CODEC, args, deadline, decodes: decodes::<R> })
    }

    /// Connects, unless it is connected.
    ///
    /// # Errors
    ///
    /// [`CallError::NotSent`] when no address of the server can be connected to, or the channel is
    /// closed; [`CallError::TimedOut`].
    pub fn connect_now(&self, deadline: Instant) -> Result<(), CallError> {
        self.core().connect(deadline)
    }

    /// Waits until the server is there: it has answered a ping, not only taken a connection. One
    /// that cannot be reached yet is tried again after 10 ms, then half as long again each time, up
    /// to half a second, and more often towards `deadline`.
    ///
    /// # Errors
    ///
    /// That of the last attempt, when there is no time for another before `deadline`, or the
    /// channel is closed.
    pub fn connect_wait(&self, deadline: Instant) -> Result<(), CallError> {
        let mut pause = WAIT_PAUSE_MIN;
        loop {
            let Err(error) = self.ping(deadline) else { return Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= WAIT_PAUSE_MIN || self.core().is_closed() {
                return Err(error);
            }
            thread::sleep(pause.min(left / 2));
            pause = (pause * 3 / 2).min(WAIT_PAUSE_MAX);
        }
    }

    /// Asks the server whether it is there, and waits for its answer. Over a documented framing,
    /// which has no pings: connects.
    ///
    /// # Errors
    ///
    /// Every [`CallError`].
    pub fn ping(&self, deadline: Instant) -> Result<(), CallError> {
        if self.core().config.framing != Framing::Extended {
            return self.connect_now(deadline);
        }
        match self.call::<PingArgs, PingReply>(&RpcStub::PING, &PingArgs {}, deadline) {
            // One that does not know pings is there, too.
            Err(CallError::Refused { status, .. }) if status.code == StatusCode::UnknownService => {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// Gives the connection up ([`CallError::Lost`]) if calls wait and nothing has come over it for
    /// `limit`. For whoever has learned from elsewhere that the network has failed: from another
    /// connection to the same server, say.
    pub fn give_up_if_silent(&self, limit: Duration) {
        self.core().give_up_if_silent(limit);
    }

    /// Answers so far that came when their calls had been given up.
    pub fn late_replies(&self) -> u64 {
        self.core().late_replies.load(Ordering::Relaxed)
    }

    /// Whether a connection is established now.
    pub fn is_connected(&self) -> bool {
        self.core().is_connected()
    }

    /// Fails what is outstanding ([`CallError::Lost`] what was sent, [`CallError::NotSent`] the
    /// rest and every later call) and joins the channel's threads, but for the calling one: it may
    /// be called from a completion. A thread that is connecting is waited for, up to the connect
    /// timeout. Hold no lock that a completion takes.
    pub fn close(&self) {
        self.core().close();
    }

    /// The address, as it was given.
    pub fn addr(&self) -> &str {
        &self.core().config.addr
    }

    fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("addr", &self.addr())
            .field("framing", &self.core().config.framing)
            .finish()
    }
}

impl Invoke for Channel {
    fn invoke<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        args: &A,
        deadline: Instant,
    ) -> Result<R, CallError> {
        let call = |request: &Request<'_>| self.core().call(request);
        decode(self.addr(), self.with_request::<A, R, _>(method, options, args, deadline, call))
    }
}

fn decodes<R: Payload>(bytes: &Bytes) -> bool {
    R::read(bytes.clone()).is_ok()
}

fn decode<R: Payload>(addr: &str, outcome: Outcome) -> Result<R, CallError> {
    R::read(outcome?).map_err(|error| CallError::BadReply {
        addr: addr.to_owned(),
        reason: ErrorChain(&error).to_string(),
    })
}

/// What makes addresses of a channel's, each time it connects.
type Resolver = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The settings of a channel, fixed once it is made.
struct Config {
    addr: String,
    framing: Framing,
    connect_timeout: Duration,
    calls_max: usize,
    limits: FrameLimits,
    /// In place of the system's.
    resolver: Option<Box<Resolver>>,
    caller: Bytes,
    ping_interval: Duration,
    bytes_per_second_min: u64,
    idle_timeout: Duration,
    on_disconnect: Option<Box<dyn Fn(Disconnect) + Send + Sync>>,
}

impl Config {
    /// The port, for the names of threads.
    fn port(&self) -> &str {
        self.addr.rsplit(':').next().unwrap_or_default()
    }

    /// Bytes of calls that wait to be sent: room for a few of the longest frames.
    fn unsent_bytes_max(&self) -> usize {
        4 * (self.limits.body_len_max_bytes + 2 * HEAD_LEN_MAX_BYTES)
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
    /// small: a lost first packet (repeated after 1 s) is a failure. Too large: [`Channel::close`]
    /// may have to wait for it.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// Finds the server's addresses, each time the channel connects, in place of the system's
    /// resolver: for names that it does not know. It runs on the channel's thread.
    pub fn resolver(
        mut self,
        resolve: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        self.config.resolver = Some(Box::new(resolve));
        self
    }

    /// Calls outstanding at a time; default 1,024. Too small: callers get [`CallError::Busy`]. Too
    /// large: a server that hangs makes the process hold that many.
    pub fn calls_max(mut self, calls: usize) -> Self {
        self.config.calls_max = calls;
        self
    }

    /// Longest arguments that are sent and longest replies that are taken; default 16 MiB. Longer
    /// ones fail the call alone.
    pub fn frame_limits(mut self, limits: FrameLimits) -> Self {
        self.config.limits =
            FrameLimits { body_len_max_bytes: limits.body_len_max_bytes.min(u32::MAX as usize) };
        self
    }

    /// Who calls, for the server's fair queueing; default nobody. More than 256 bytes are cut.
    pub fn caller(mut self, caller: impl Into<Bytes>) -> Self {
        self.config.caller = caller.into();
        self.config.caller.truncate(CALLER_LEN_MAX_BYTES);
        self
    }

    /// While calls wait and nothing has come from the server for this long, it is asked whether it
    /// is there. If still nothing has come after as long again, the connection is given up
    /// ([`CallError::Lost`]), and the next call makes a new one. Default 10 s. This finds a server
    /// that is frozen, one whose machine is gone, and a connection that a firewall has forgotten.
    ///
    /// A call that ends at its deadline without any sign of life costs the connection as well: the
    /// server is asked after half of the call's time, if that is less than this interval (and at
    /// least 250 ms). So a caller that allows little time speaks for all that share the channel:
    /// give such a caller a channel of its own where methods run inline for long. For calls that
    /// send much, there is more time: see
    /// [`bytes_per_second_min`](ChannelBuilder::bytes_per_second_min).
    ///
    /// Too small: a server that runs a method inline for longer than this looks dead, for it
    /// answers no ping meanwhile. Too large: calls wait for a dead connection. Not with
    /// [`Framing::Documented`].
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.config.ping_interval = interval.max(PING_INTERVAL_MIN);
        self
    }

    /// The slowest network that the channel is for, at least 1; default 256 KiB a second. While
    /// calls wait whose arguments have so many bytes, a silent connection is asked and given up
    /// later by the time that they need on such a network. Where that turns out to be too little,
    /// the next connection has twice the time. Too small: a dead connection with large calls on it
    /// is noticed late. Too large: on a slow network large calls are sent more than once.
    pub fn bytes_per_second_min(mut self, bytes: u64) -> Self {
        self.config.bytes_per_second_min = bytes.max(1);
        self
    }

    /// A connection that the channel's thread reads, and over which no call was made for this long,
    /// is closed; default 60 s. The next call connects again. Never with
    /// [`on_disconnect`](ChannelBuilder::on_disconnect). One that callers read is left to the
    /// server.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.config.idle_timeout = timeout.max(PING_INTERVAL_MIN);
        self
    }

    /// Runs each time an established connection is lost (not when this channel is closed, and not
    /// when the server refuses the connection because it has too many): at once, on the
    /// connection's thread, before the completions of the calls that are lost with it. It must not
    /// block.
    pub fn on_disconnect(self, callback: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_disconnect_how(move |_| callback())
    }

    /// The same, for a callback that wants to know how the connection was lost. It takes the place
    /// of [`on_disconnect`](ChannelBuilder::on_disconnect).
    pub fn on_disconnect_how(
        mut self,
        callback: impl Fn(Disconnect) + Send + Sync + 'static,
    ) -> Self {
        self.config.on_disconnect = Some(Box::new(callback));
        self
    }

    /// The channel; it connects at the first call.
    pub fn lazy(self) -> Channel {
        Channel { handle: Arc::new(Handle { core: Core::new(self.config) }) }
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
