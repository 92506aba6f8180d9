//! [`Targets`]: calls over the channels to the endpoints of a source.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::entries::CallEnd;
use super::failure::Failure;
use super::health::{HealthChange, HealthPolicy, HealthSignal};
use super::table::{Attempt, EndpointTable, TargetStatus};
use super::{Balancer, Endpoint, RoundRobin, Source};
use crate::net::{join, spawn, time_left};
use crate::{CallError, CallOptions, Channel, ChannelBuilder, Deadline, Invoke, Method, Payload};

/// Several servers that offer the same services, called as if they were one: each call goes to one
/// server, chosen by a [`Balancer`] among those in good health. Clones share everything.
///
/// - A call is *one* attempt. It goes on to another endpoint only if it has certainly not run,
///   because the endpoint cannot be connected to or says that it is stopping. It goes on at once,
///   tries each endpoint once, and ends at the deadline. Connecting gets an even share of the time
///   left.
/// - An endpoint that cannot be connected to is ejected for a
///   [cool-down](TargetsBuilder::cool_down). So is one that has lost or not answered [three calls
///   in a row](TargetsBuilder::losses_max). Then one call probes it, and no other call goes there
///   until the probe has ended. Any answer puts the endpoint back in use. If all are ejected, a
///   call goes to the one whose cool-down ends first: health alone never refuses a call.
/// - The response time `e` is a moving average: each sample `s` (replies, and timeouts) changes it
///   to `e + (s - e) / 8`, and without samples it halves every 5 s. An endpoint that was ejected
///   comes back with its time unknown.
/// - An endpoint that stays in the [`Source`] keeps its channel and its health. One that leaves
///   gets no more calls, and its channel is closed when its last call has ended.
///
/// ```no_run
/// use std::time::{Duration, Instant};
/// use syncraft_rpc::{Channel, FileSource, LeastConnections, Method, Targets};
///
/// let targets = Targets::builder(FileSource::open("/etc/greeters")?)
///     .balancer(LeastConnections::new())
///     .channel(|addr| Channel::builder(addr).caller("me"))
///     .build();
/// let deadline = Instant::now() + Duration::from_secs(1);
/// let greet = Method::new("greetRpc", "Greet");
/// let reply: String = targets.call(&greet, &"you".to_owned(), deadline)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Targets {
    inner: Arc<Inner>,
}

impl Targets {
    /// Targets at the endpoints of `source`.
    pub fn builder(source: impl Source + 'static) -> TargetsBuilder {
        TargetsBuilder {
            source: Box::new(source),
            balancer: Box::new(RoundRobin::new()),
            channel: Box::new(|addr| Channel::builder(addr)),
            policy: HealthPolicy::default(),
        }
    }

    /// Calls one endpoint, and waits for the reply until `deadline`. Each such call has a key of
    /// its own, so balancers that hash spread them; [`CallOptions::key`] gives a call a key.
    ///
    /// # Errors
    ///
    /// Those of [`Channel::call`] from the endpoint that was called. If no endpoint could be
    /// connected to, [`CallError::NotSent`] with the reason of the last, or [`CallError::TimedOut`]
    /// with `sent: false`; both name all addresses that were tried. [`CallError::NotSent`] also if
    /// the source is empty.
    pub fn call<A: Payload, R: Payload>(
        &self,
        method: &Method,
        args: &A,
        deadline: Instant,
    ) -> Result<R, CallError> {
        self.invoke(method, &CallOptions::default(), args, deadline)
    }

    /// What is known of each endpoint now, in the order of the source.
    pub fn status(&self) -> Vec<TargetStatus> {
        self.inner.refresh();
        self.inner.table.status()
    }
}

impl Invoke for Targets {
    fn invoke<A: Payload, R: Payload>(
        &self,
        method: &Method,
        options: &CallOptions,
        args: &A,
        deadline: Instant,
    ) -> Result<R, CallError> {
        self.inner.refresh();
        let next_key = || self.inner.next_key.fetch_add(1, Ordering::Relaxed);
        let key = options.key.unwrap_or_else(next_key);
        self.inner.run(key, deadline, |channel| channel.invoke(method, options, args, deadline))
    }
}

impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Targets").field("table", &self.inner.table).finish_non_exhaustive()
    }
}

/// Settings of [`Targets`].
pub struct TargetsBuilder {
    source: Box<dyn Source>,
    balancer: Box<dyn Balancer>,
    channel: Box<dyn Fn(&str) -> ChannelBuilder + Send + Sync>,
    policy: HealthPolicy,
}

impl TargetsBuilder {
    /// Which balancer chooses the endpoint of a call; default [`RoundRobin`].
    pub fn balancer(mut self, balancer: impl Balancer + 'static) -> Self {
        self.balancer = Box::new(balancer);
        self
    }

    /// Makes the channel to an address, when the first call goes there; default
    /// [`Channel::builder`] with nothing else set.
    pub fn channel(
        mut self,
        channel: impl Fn(&str) -> ChannelBuilder + Send + Sync + 'static,
    ) -> Self {
        self.channel = Box::new(channel);
        self
    }

    /// How many losses and timeouts in a row eject an endpoint; default 3, at least 1.
    /// One failure to connect is always enough. Too small: one call with a short deadline keeps all
    /// others away. Too large: a server that hangs costs that many calls. All calls that are lost
    /// with one connection count.
    pub fn losses_max(mut self, losses: u32) -> Self {
        self.policy.losses_max = losses;
        self
    }

    /// How long an endpoint is ejected: `first`, default 1 s, doubled by each failed probe up to
    /// `longest`, default 30 s. Too short: calls waste time on an endpoint that is gone. Too long:
    /// an endpoint that is back gets no work.
    pub fn cool_down(mut self, first: Duration, longest: Duration) -> Self {
        self.policy.cool_down_min = first;
        self.policy.cool_down_max = longest;
        self
    }

    /// The targets. They connect when they are called.
    pub fn build(self) -> Targets {
        let inner = Inner {
            source: self.source,
            balancer: self.balancer,
            channel: self.channel,
            next_key: AtomicU64::new(0),
            table: EndpointTable::new(self.policy),
            closer: Arc::default(),
        };
        Targets { inner: Arc::new(inner) }
    }
}

impl fmt::Debug for TargetsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetsBuilder").field("policy", &self.policy).finish_non_exhaustive()
    }
}

struct Inner {
    source: Box<dyn Source>,
    balancer: Box<dyn Balancer>,
    channel: Box<dyn Fn(&str) -> ChannelBuilder + Send + Sync>,
    /// The next key for calls that have none.
    next_key: AtomicU64,
    // Dropped in this order: the channels, then the closer, which waits until they are closed.
    table: EndpointTable<LazyChannel>,
    closer: Arc<Closer>,
}

impl Inner {
    /// Applies the source's list if it has changed.
    fn refresh(&self) {
        // The number is read before the list, so the list is at least as new as the number says.
        let generation = self.source.generation();
        if self.table.is_behind(generation) {
            let lazy_channel = |endpoint: &Endpoint| LazyChannel {
                addr: endpoint.addr().to_owned(),
                channel: OnceLock::new(),
                closer: Arc::clone(&self.closer),
            };
            self.table.apply(generation, self.source.endpoints(), lazy_channel);
        }
    }

    /// Tries one endpoint after another until an attempt may have run.
    fn run<R>(
        &self,
        key: u64,
        deadline: Instant,
        invoke: impl Fn(&Channel) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        let (began, mut tried) = (Instant::now(), Tried::default());
        loop {
            let Some(left) = time_left(deadline) else {
                return Err(tried.timed_out(deadline.saturating_duration_since(began)));
            };
            let Some(attempt) = self.table.pick(&*self.balancer, key, &tried.numbers) else {
                return Err(tried.not_sent());
            };
            let connect_by = deadline - (left - left / attempt.untried());
            match self.run_at(&attempt, connect_by, &invoke) {
                (Ok(reply), took) => {
                    end(attempt, HealthSignal::Answered, Some(took));
                    return Ok(reply);
                }
                (Err(failure), took) => {
                    let (signal, sample) = (failure.signal(), failure.sample(took));
                    if !failure.goes_on() {
                        end(attempt, signal, sample);
                        return Err(failure.into_error());
                    }
                    tried.add(&attempt, failure.into_error());
                    end(attempt, signal, sample);
                }
            }
        }
    }

    /// One attempt at one endpoint, and how long the call took once there was a connection.
    fn run_at<R>(
        &self,
        lazy: &LazyChannel,
        connect_by: Instant,
        invoke: impl Fn(&Channel) -> Result<R, CallError>,
    ) -> (Result<R, Failure>, Duration) {
        let channel = lazy.channel.get_or_init(|| (self.channel)(&lazy.addr).lazy());
        if let Err(error) = channel.connect_now(connect_by) {
            return (Err(Failure::Connect(error)), Duration::ZERO);
        }
        let sent = Instant::now();
        let result = invoke(channel).map_err(Failure::Call);
        (result, sent.elapsed())
    }
}

/// Ends the attempt, and logs a change of the endpoint's health.
fn end(mut attempt: Attempt<'_, LazyChannel>, signal: HealthSignal, sample: Option<Duration>) {
    let Some(change) = attempt.finish(CallEnd { signal, sample }) else { return };
    let addr = &attempt.addr;
    match change {
        HealthChange::Ejected(time) => log::warn!("rpc: {addr} is out of rotation for {time:?}"),
        HealthChange::ProbeFailed(time) => {
            log::debug!("rpc: {addr} is out of rotation for {time:?} more");
        }
        HealthChange::Recovered => log::info!("rpc: {addr} is in use again"),
    }
}

/// The channel to an endpoint, made for the first call.
struct LazyChannel {
    addr: String,
    channel: OnceLock<Channel>,
    closer: Arc<Closer>,
}

impl Drop for LazyChannel {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.closer.close(channel);
        }
    }
}

/// Closes channels on threads of their own, because closing waits for an attempt to connect. Waits
/// for these threads when it is dropped.
#[derive(Default)]
struct Closer {
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Closer {
    fn close(&self, channel: Channel) {
        match spawn("rpc-retire".to_owned(), move || drop(channel)) {
            Ok(thread) => {
                let mut threads = self.threads.lock();
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
            }
            // The channel was dropped with the closure, so it is closed.
            Err(error) => log::warn!("rpc: no thread to close channels: {error}"),
        }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        std::mem::take(self.threads.get_mut()).into_iter().for_each(join);
    }
}

/// The endpoints that a call has tried.
#[derive(Default)]
struct Tried {
    numbers: Vec<usize>,
    addrs: Vec<String>,
    last: Option<CallError>,
}

impl Tried {
    fn add(&mut self, attempt: &Attempt<'_, LazyChannel>, error: CallError) {
        self.numbers.push(attempt.number());
        self.addrs.push(attempt.addr.clone());
        self.last = Some(error);
    }

    /// The error of a call that has tried all endpoints.
    fn not_sent(self) -> CallError {
        let addr = self.addr();
        match self.last {
            None => {
                let source = io::Error::new(ErrorKind::NotFound, "the list of endpoints is empty");
                CallError::NotSent { addr, source }
            }
            Some(CallError::NotSent { source, .. }) => CallError::NotSent { addr, source },
            Some(CallError::TimedOut { waited, sent, .. }) => {
                CallError::TimedOut { addr, waited, sent, which: Deadline::Call }
            }
            Some(error) => error,
        }
    }

    /// The error of a call whose time is up.
    fn timed_out(self, waited: Duration) -> CallError {
        CallError::TimedOut { addr: self.addr(), waited, sent: false, which: Deadline::Call }
    }

    fn addr(&self) -> String {
        match self.addrs.is_empty() {
            true => "any endpoint".to_owned(),
            false => self.addrs.join(", "),
        }
    }
}
