//! The channels to the endpoints of a source, and the calls over them.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::health::{Change, Policy, Role, Sign};
use super::table::{Ended, Picked, Table};
use super::verdict::Failure;
use super::{Balancer, Endpoint, RoundRobin, Source};
use crate::net::{join, spawn, time_left};
use crate::{CallError, CallOptions, Channel, ChannelBuilder, Deadline, Invoke, Method, Payload};

/// Several servers that offer the same services, called as if they were one: each call goes to one of them, which a [`Balancer`]
/// chooses among those that are in good health. Clones are the same.
///
/// - A call is *one* attempt. Only one that has certainly not run, because the endpoint cannot be connected to or says that it
///   is stopping, goes on to another endpoint: at once, each once, within the deadline. Connecting gets an even share of the
///   time left.
/// - An endpoint that cannot be connected to, or has lost or not answered [three calls in a row](TargetsBuilder::losses_max),
///   is left alone for a [cool-down](TargetsBuilder::cool_down). After that one call probes it, and others stay away until that
///   has ended. Any answer heals. If all are left alone, the one whose cool-down ends first is tried: health alone refuses no
///   call.
/// - The response time `e` is a moving average: with each sample `s` (replies, and timeouts) `e = e + (s - e) / 8`; without
///   samples it halves every 5 s. One that is left alone comes back with its time unknown.
/// - An endpoint that stays in the [`Source`] keeps its channel and its health. One that leaves gets no more calls; its channel
///   is closed when those that it has are answered.
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
/// let reply: String = targets.call(&Method::new("greetRpc", "Greet"), &"you".to_owned(), deadline)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Targets {
    inner: Arc<Inner>,
}

/// An endpoint, and what is known of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TargetStatus {
    /// Its address and weight.
    pub endpoint: Endpoint,
    /// Calls that have not ended.
    pub outstanding: usize,
    /// How long it takes to answer, a moving average; zero: not known.
    pub response_time: Duration,
    /// Whether it has failed, and no answer since has shown that it is back.
    pub is_left_alone: bool,
}

impl Targets {
    /// Targets at the endpoints of `source`.
    pub fn builder(source: impl Source + 'static) -> TargetsBuilder {
        TargetsBuilder {
            source: Box::new(source),
            balancer: Box::new(RoundRobin::new()),
            channel: Box::new(|addr| Channel::builder(addr)),
            policy: Policy::default(),
        }
    }

    /// Calls one endpoint, and waits for the reply until `deadline`. Where the balancer goes by keys, such calls are spread; for calls
    /// of a key there is [`CallOptions::key`].
    ///
    /// # Errors
    ///
    /// Those of [`Channel::call`] from the endpoint that was called. If none could be connected to, [`CallError::NotSent`] with
    /// the reason of the last, or [`CallError::TimedOut`] with `sent: false`, each with all addresses that were tried; the
    /// source may be empty, too.
    pub fn call<A: Payload, R: Payload>(
        &self,
        method: &Method,
        args: &A,
        deadline: Instant,
    ) -> Result<R, CallError> {
        self.invoke(method, &CallOptions::default(), args, deadline)
    }

    /// The endpoints now, in the order of the source.
    pub fn status(&self) -> Vec<TargetStatus> {
        self.inner.refresh();
        let (table, now) = (self.inner.table.lock(), Instant::now());
        let status = table.targets().iter().map(|target| TargetStatus {
            endpoint: target.endpoint.clone(),
            outstanding: target.outstanding,
            response_time: target.response_time(now),
            is_left_alone: target.is_left_alone(),
        });
        status.collect()
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
        self.inner.go(key, deadline, |channel| channel.invoke(method, options, args, deadline))
    }
}

impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.inner.table.lock();
        let addrs = table.targets().iter().map(|target| target.endpoint.addr());
        f.debug_tuple("Targets").field(&addrs.collect::<Vec<_>>()).finish()
    }
}

/// Settings of [`Targets`].
pub struct TargetsBuilder {
    source: Box<dyn Source>,
    balancer: Box<dyn Balancer>,
    channel: Box<dyn Fn(&str) -> ChannelBuilder + Send + Sync>,
    policy: Policy,
}

impl TargetsBuilder {
    /// Who chooses; default [`RoundRobin`].
    pub fn balancer(mut self, balancer: impl Balancer + 'static) -> Self {
        self.balancer = Box::new(balancer);
        self
    }

    /// Makes the channel to an address, at the first call that goes there; default [`Channel::builder`] with nothing else set.
    pub fn channel(
        mut self,
        channel: impl Fn(&str) -> ChannelBuilder + Send + Sync + 'static,
    ) -> Self {
        self.channel = Box::new(channel);
        self
    }

    /// An endpoint is left alone after so many losses and timeouts in a row; default 3, at least 1. (After a failure to
    /// connect, at once.) Too small: one call with a short deadline makes others stay away. Too large: a hung server takes that
    /// many calls with it. Calls that are lost with one connection count each.
    pub fn losses_max(mut self, losses: u32) -> Self {
        self.policy.losses_max = losses.max(1);
        self
    }

    /// How long an endpoint is left alone: the first time, default 1 s, and at the longest, default 30 s; it doubles with each
    /// probe that fails. Too short: calls lose time with an endpoint that is not there. Too long: one that is back waits for
    /// work.
    pub fn cool_down(mut self, first: Duration, longest: Duration) -> Self {
        self.policy.cool_down_min = first;
        self.policy.cool_down_max = longest;
        self
    }

    /// The targets; nothing is connected to yet.
    pub fn build(self) -> Targets {
        let inner = Inner {
            source: self.source,
            balancer: self.balancer,
            channel: self.channel,
            table: Mutex::new(Table::new(self.policy)),
            next_key: AtomicU64::new(0),
            retiring: Mutex::new(Vec::new()),
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
    table: Mutex<Table<Arc<Line>>>,
    /// For calls without a key.
    next_key: AtomicU64,
    /// Threads that close channels.
    retiring: Mutex<Vec<JoinHandle<()>>>,
}

/// The way to an endpoint: its channel, from the first call on.
struct Line {
    addr: String,
    channel: OnceLock<Channel>,
}

impl Inner {
    /// Takes the list in, if it has changed.
    fn refresh(&self) {
        // First the number, then the list: the list is then at least that new.
        let generation = self.source.generation();
        if !self.table.lock().is_behind(generation) {
            return;
        }
        let endpoints = self.source.endpoints();
        let line_to = |endpoint: &Endpoint| {
            Arc::new(Line { addr: endpoint.addr().to_owned(), channel: OnceLock::new() })
        };
        let unused = self.table.lock().apply(generation, endpoints, line_to);
        self.retire(unused);
    }

    /// From endpoint to endpoint until one is there.
    fn go<R>(
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
            let Some(mut attempt) = self.begin(key, &tried.ids) else {
                return Err(tried.not_sent());
            };
            let connect_by = deadline - (left - left / attempt.untried);
            match attempt.run(connect_by, &invoke) {
                Ok(reply) => return Ok(reply),
                Err(failure) if failure.goes_on() => tried.add(&attempt, failure.into_error()),
                Err(failure) => return Err(failure.into_error()),
            }
        }
    }

    fn begin(&self, key: u64, tried: &[u64]) -> Option<Attempt<'_>> {
        let picked = self.table.lock().pick(&*self.balancer, key, tried, Instant::now())?;
        let ended = Ended { sign: Sign::None, sample: None };
        let Picked { id, role, line, untried } = picked;
        Some(Attempt { inner: self, id, role, line: Some(line), untried, ended })
    }

    /// Closes channels on a thread of their own: that waits for attempts to connect, and no caller should.
    fn retire(&self, lines: Vec<Arc<Line>>) {
        if lines.iter().all(|line| line.channel.get().is_none()) {
            return;
        }
        match spawn("rpc-retire".to_owned(), move || drop(lines)) {
            Ok(thread) => {
                let mut retiring = self.retiring.lock();
                // One that has ended needs no join.
                retiring.retain(|thread| !thread.is_finished());
                retiring.push(thread);
            }
            // The lines went with the closure: they have been closed here.
            Err(error) => log::warn!("rpc: no thread to close channels: {error}"),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        std::mem::take(self.retiring.get_mut()).into_iter().for_each(join);
    }
}

/// A call at one endpoint. Its end is told to the table when this is dropped, in whatever way.
struct Attempt<'a> {
    inner: &'a Inner,
    id: u64,
    role: Role,
    /// `None` only while it is dropped.
    line: Option<Arc<Line>>,
    untried: u32,
    ended: Ended,
}

impl Attempt<'_> {
    fn run<R>(
        &mut self,
        connect_by: Instant,
        invoke: impl FnOnce(&Channel) -> Result<R, CallError>,
    ) -> Result<R, Failure> {
        let line = self.line();
        let channel = line.channel.get_or_init(|| (self.inner.channel)(&line.addr).lazy());
        let mut took = Duration::ZERO;
        let result = channel.connect_now(connect_by).map_err(Failure::Connect).and_then(|()| {
            let sent = Instant::now();
            let result = invoke(channel).map_err(Failure::Call);
            took = sent.elapsed();
            result
        });
        self.ended = match &result {
            Ok(_) => Ended { sign: Sign::Alive, sample: Some(took) },
            Err(failure) => Ended { sign: failure.sign(), sample: failure.sample(took) },
        };
        result
    }

    fn line(&self) -> &Line {
        self.line.as_ref().expect("it is not being dropped")
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        // The table's must be the last one: it is closed on a thread of its own.
        self.line = None;
        let (unused, change) =
            self.inner.table.lock().end(self.id, self.role, self.ended, Instant::now());
        match change {
            Some((addr, Change::LeftAlone(time))) => {
                log::warn!("rpc: {addr} is left alone for {time:?}");
            }
            Some((addr, Change::ProbeFailed(time))) => {
                log::debug!("rpc: {addr} is left alone for {time:?} more");
            }
            Some((addr, Change::Healed)) => log::info!("rpc: {addr} is in use again"),
            None => {}
        }
        self.inner.retire(unused.into_iter().collect());
    }
}

/// Where a call has been in vain.
#[derive(Default)]
struct Tried {
    ids: Vec<u64>,
    addrs: Vec<String>,
    last: Option<CallError>,
}

impl Tried {
    fn add(&mut self, attempt: &Attempt<'_>, error: CallError) {
        self.ids.push(attempt.id);
        self.addrs.push(attempt.line().addr.clone());
        self.last = Some(error);
    }

    /// There is no other endpoint.
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

    /// There is no time.
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
