//! The side that calls: one connection, any number of threads and calls.
//!
//! ```text
//!  callers ── encode ── outbox (one send) ──> server ──> a caller that waits,  ──> other callers,
//!     │                                                  or the channel's thread   completions
//!     └── no connection? the call waits until the channel's thread has connected, and sends it
//! ```
//!
//! # Calls
//!
//! Each call has a deadline, and nothing on its way takes longer: not connecting (another thread
//! does that), not sending (the outbox never blocks), not waiting. At most
//! [`calls_max`](ChannelBuilder::calls_max) calls are outstanding; one more is [`CallError::Busy`]
//! at once. A reply that comes after its call was given up is dropped.
//!
//! A *blocking* call waits on its own thread. One of the threads that wait reads the connection for
//! all of them, so its own answer wakes no other thread. The *completion* of an async call runs
//! exactly once, on a thread of the channel: the connection's when an answer comes or the
//! connection is lost; the timer's at the deadline, when the call fails at once, or when a thread
//! that waits for something else has read the answer. Completions of several calls run in any
//! order. No lock of the channel is held, and it is never the thread that made the call. A
//! completion must not block, and must not make blocking calls on the same channel: the thread that
//! would bring their answer is the one it runs on.
//!
//! # Errors
//!
//! A call that was never handed to a connection has certainly not run ([`CallError::NotSent`], or
//! [`CallError::TimedOut`] with `sent: false`). From then on it counts as sent, even while its
//! bytes wait in our own queue: [`CallError::Lost`] and `sent: true` mean that it *may have run*.
//!
//! # Streams
//!
//! A stream is a call in the table of calls that lasts until its end: so its deadline, the loss of
//! its connection and the end of the channel reach it as they reach a call with a completion. Its
//! other frames go to the stream, on the thread that reads.
//!
//! # The connection
//!
//! It is made at once or by the first call, and after a loss by the next call. The name is resolved
//! anew each time, and every address is tried. A loss is noticed at once while a call waits or the
//! channel's thread reads. While the connection is lent to a stream's receiver that is busy
//! elsewhere, a loss is noticed up to 20 ms later. The channel's thread reads if
//! [`on_disconnect`](ChannelBuilder::on_disconnect) is set, and after the first async call.
//! Otherwise the next call notices the loss before it is sent, unless it follows an answer within
//! 100 microseconds: such a call does not check, and may be lost.
//!
//! A server that says nothing while calls wait is pinged, and given up if it does not answer: see
//! [`ping_interval`](ChannelBuilder::ping_interval). A server that announces a close has answered
//! every call it ran; the others did not run: [`CallError::Refused`] with
//! [`ShuttingDown`](super::StatusCode::ShuttingDown). A connection that the channel's thread reads
//! is closed when it has served no call for [`idle_timeout`](ChannelBuilder::idle_timeout).
//!
//! # Files
//!
//! Each file imports only files below it.
//!
//! | file | what |
//! |---|---|
//! | `builder`, `pending`, `sent`, `streams`, this one | what users see |
//! | `turns` | a caller waits: which one reads |
//! | `lent` | the receiver of a stream reads |
//! | `calling` | a call is made, sent, given up |
//! | `life` | the connection is made, lost, and made again; the channel's own thread |
//! | `reading` | answers go to those who wait for them |
//! | `timer` | completions run at their deadlines |
//! | `shared` | the lock and the state under it |
//! | `connection` | one connection: making it, and what has come over it |
//! | `errors` | what each end means for a call |
//! | `calls`, `silence` | the table of calls; for how long nothing may come |
//! | `request`, `parked`, `config` | calls as bytes; who waits for an outcome; settings |
//!
//! # Threads
//!
//! | name | lives | does |
//! |---|---|---|
//! | `rpc-chan-PORT` | until it has connected; if it reads, until that ends | connects, reads, lends |
//! | `rpc-timer` | with async calls, and a little longer | completes at deadlines and at once |
//! | `rpc-send-PORT` | while the server reads too slowly | writes the outbox's queue |
//!
//! [`Channel::close`] (and dropping the last clone) joins them.
//!
//! # Locks
//!
//! `State` has one lock. It is held for bookkeeping and for sends, which never block, and never
//! while foreign code runs. A thread that holds `Connection::incoming` reads. Order: `incoming`,
//! then `State`, then the outbox's or a [`Parked`](parked::Parked)'s.
//!
//! # Left out
//!
//! Retries ([`Retrying`](super::Retrying)) and several servers ([`Targets`](super::Targets)) are
//! built on this. For several connections to one server, make several channels.

mod builder;
mod calling;
mod calls;
mod config;
mod connection;
mod errors;
mod lent;
mod life;
mod parked;
mod pending;
mod reading;
mod request;
mod sent;
mod shared;
mod silence;
mod streams;
mod timer;
mod turns;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

pub use self::builder::ChannelBuilder;
pub use self::config::{Disconnect, Framing};
use self::parked::Waiter;
pub use self::pending::Pending;
use self::request::{Request, decode, decodes};
pub use self::sent::Sent;
use self::shared::Shared;
use super::builtin::{PingArgs, PingReply, RpcStub};
use super::service::Reply;
use super::{CallError, CallOptions, Invoke, Method, Payload, StatusCode};

/// Between attempts to reach a server that is waited for.
const WAIT_PAUSE_MIN: Duration = Duration::from_millis(10);
const WAIT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// One connection to one server, shared by any number of threads and calls. Clones are the same
/// channel; the last one dropped closes it.
#[derive(Clone)]
pub struct Channel {
    handle: Arc<Handle>,
}

/// Closes the channel when the last clone goes. The threads hold `Shared`, not this.
struct Handle {
    shared: Arc<Shared>,
}

impl Channel {
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

    /// Calls without waiting. The answer is fetched later from what this returns.
    pub fn call_async<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        args: &A,
        deadline: Instant,
    ) -> Pending<R> {
        let shared = self.shared();
        self.with_request::<A, R, _>(method, options, args, deadline, |it| {
            Pending::start(shared, it)
        })
    }

    /// Calls without waiting. `done` runs exactly once, on a thread of the channel, never on the
    /// calling one. It must not block, because other answers wait behind it.
    pub fn call_then<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        args: &A,
        deadline: Instant,
        done: impl FnOnce(Result<R, CallError>) + Send + 'static,
    ) {
        let addr = self.shared().config.addr.clone();
        let waiter = Waiter::Completion(Box::new(move |outcome| done(decode(&addr, outcome))));
        self.with_request::<A, R, _>(method, options, args, deadline, |request| {
            self.shared().start(request, waiter);
        });
    }

    /// Sends a blocking call, which the caller is about to wait for: see [`Sent`].
    pub fn send<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        args: &A,
        deadline: Instant,
    ) -> Sent<R> {
        let shared = self.shared();
        self.with_request::<A, R, _>(method, options, args, deadline, |it| Sent::start(shared, it))
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
        let (codec, decodes) = (A::CODEC, decodes::<R>);
        run(&Request { method, options, codec, args, deadline, decodes, stream: None })
    }

    /// Connects, unless it is connected.
    ///
    /// # Errors
    ///
    /// [`CallError::NotSent`] when no address of the server can be connected to, or the channel is
    /// closed; [`CallError::TimedOut`].
    pub fn connect_now(&self, deadline: Instant) -> Result<(), CallError> {
        self.shared().connect(deadline)
    }

    /// Waits until the server answers a ping, not only accepts a connection. It tries again after
    /// 10 ms, then after half as long again each time, up to half a second, and more often towards
    /// `deadline`.
    ///
    /// # Errors
    ///
    /// That of the last attempt, if there is no time for another before `deadline`, or the channel
    /// is closed.
    pub fn connect_wait(&self, deadline: Instant) -> Result<(), CallError> {
        let mut pause = WAIT_PAUSE_MIN;
        loop {
            let Err(error) = self.ping(deadline) else { return Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= WAIT_PAUSE_MIN || self.shared().is_closed() {
                return Err(error);
            }
            thread::sleep(pause.min(left / 2));
            pause = (pause * 3 / 2).min(WAIT_PAUSE_MAX);
        }
    }

    /// Asks the server whether it is there, and waits for its answer. A documented framing has no
    /// pings; with it, this only connects.
    ///
    /// # Errors
    ///
    /// Every [`CallError`].
    pub fn ping(&self, deadline: Instant) -> Result<(), CallError> {
        if self.shared().config.framing != Framing::Extended {
            return self.connect_now(deadline);
        }
        match self.call::<PingArgs, PingReply>(&RpcStub::PING, &PingArgs {}, deadline) {
            // A server that does not know pings is there, too.
            Err(CallError::Refused { status, .. }) if status.code == StatusCode::UnknownService => {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// Gives the connection up ([`CallError::Lost`]) if calls wait and nothing has come over it for
    /// `limit`. For callers that know from elsewhere that the network has failed, for example from
    /// another connection to the same server.
    pub fn give_up_if_silent(&self, limit: Duration) {
        self.shared().give_up_if_silent(limit);
    }

    /// How many answers came when their calls had been given up.
    pub fn late_replies(&self) -> u64 {
        self.shared().late_replies.load(Ordering::Relaxed)
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.shared().is_connected()
    }

    /// Fails all outstanding calls: with [`CallError::Lost`] if they were sent, otherwise with
    /// [`CallError::NotSent`], like every later call. Joins the channel's threads except the
    /// calling one, so a completion may call it. Waits for a thread that is connecting, up to the
    /// connect timeout. The caller must hold no lock that a completion takes.
    pub fn close(&self) {
        self.shared().close();
    }

    /// The address, as it was given.
    pub fn addr(&self) -> &str {
        &self.shared().config.addr
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("addr", &self.addr())
            .field("framing", &self.shared().config.framing)
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
        let call = |request: &Request<'_>| self.shared().call(request);
        decode(self.addr(), self.with_request::<A, R, _>(method, options, args, deadline, call))
    }
}
