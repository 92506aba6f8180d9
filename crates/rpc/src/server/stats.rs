//! What a server has done: [`Stats`].
//!
//! Counts are exact. Times are kept in histograms with two significant digits, from a microsecond
//! to ten minutes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::StatusCode;

const TIME_MAX_US: u64 = 600_000_000;
const DIGITS: u8 = 2;

/// What a [`Server`](super::Server) has done since it started.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that are open.
    pub connections: usize,
    /// Connections accepted so far, without those that were refused afterwards.
    pub connections_accepted: u64,
    /// Connections refused because too many were open.
    pub connections_refused: u64,
    /// Connections closed because no call had come over them for long.
    pub connections_idle: u64,
    /// Calls that wait for a handler.
    pub queue_len: usize,
    /// Calls for a service or method that this server does not have.
    pub unknown_calls: u64,
    /// Each method, by the names of its service and itself.
    pub methods: BTreeMap<(&'static str, &'static str), MethodReport>,
}

/// What one method has done.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct MethodReport {
    /// Calls that came, including refused ones.
    pub calls: u64,
    /// Calls that are begun and not answered. A stream is a call, which its end answers.
    pub open: u64,
    /// Calls refused before they began: busy, another version, another codec.
    pub rejected: u64,
    /// Calls that did not run because their connection had gone, perhaps before all of their
    /// arguments had come.
    pub dropped: u64,
    /// Calls that took longer than [`Limits::slow_call`](crate::Limits::slow_call).
    pub slow: u64,
    /// Answers that were a status, including refusals, by the number of their code.
    pub errors: BTreeMap<u32, u64>,
    /// Bytes of arguments, and of the items of streams that are over.
    pub args_bytes: u64,
    /// Bytes of replies, and of the items of streams that are over.
    pub reply_bytes: u64,
    /// Time from the arrival of the arguments until a handler takes the call.
    pub waiting: Times,
    /// Time from the beginning of the method to its answer, on whichever thread; or to the end of
    /// the stream.
    pub running: Times,
}

/// How long something took, over all times that it happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// How often.
    pub count: u64,
    /// The arithmetic mean.
    pub mean: Duration,
    /// Half took no longer.
    pub p50: Duration,
    /// Nine in ten took no longer.
    pub p90: Duration,
    /// All but one in a hundred took no longer.
    pub p99: Duration,
    /// All but one in a thousand took no longer.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Times { count, mean, p50, p99, max, .. } = self;
        write!(f, "{count} times, mean {mean:?}, p50 {p50:?}, p99 {p99:?}, max {max:?}")
    }
}

/// The counts of one method, shared by all threads that serve it.
pub(super) struct MethodStats {
    pub(super) service: &'static str,
    pub(super) method: &'static str,
    calls: AtomicU64,
    open: AtomicU64,
    rejected: AtomicU64,
    dropped: AtomicU64,
    slow: AtomicU64,
    args_bytes: AtomicU64,
    reply_bytes: AtomicU64,
    errors: Mutex<BTreeMap<u32, u64>>,
    waiting: Mutex<Histogram<u32>>,
    running: Mutex<Histogram<u32>>,
}

impl MethodStats {
    pub(super) fn new(service: &'static str, method: &'static str) -> MethodStats {
        let histogram = || {
            let empty = Histogram::new_with_bounds(1, TIME_MAX_US, DIGITS);
            Mutex::new(empty.expect("these bounds are in order"))
        };
        MethodStats {
            service,
            method,
            calls: AtomicU64::new(0),
            open: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            args_bytes: AtomicU64::new(0),
            reply_bytes: AtomicU64::new(0),
            errors: Mutex::default(),
            waiting: histogram(),
            running: histogram(),
        }
    }

    /// A call has its arguments.
    pub(super) fn begun(&self, args_bytes: usize) {
        add(&self.calls, 1);
        add(&self.open, 1);
        add(&self.args_bytes, args_bytes as u64);
    }

    /// A call is refused before it begins.
    pub(super) fn refused(&self, code: StatusCode) {
        add(&self.calls, 1);
        add(&self.rejected, 1);
        self.failed(code);
    }

    /// A call that was begun has found no place with the handlers.
    pub(super) fn rejected(&self) {
        add(&self.rejected, 1);
    }

    pub(super) fn dropped(&self) {
        add(&self.dropped, 1);
    }

    pub(super) fn slow(&self) {
        add(&self.slow, 1);
    }

    pub(super) fn waited(&self, time: Duration) {
        record(&self.waiting, time);
    }

    /// A call is answered, with a reply of this many bytes or with a status. `ran`: how long its
    /// method ran, if it did.
    pub(super) fn ended(&self, ran: Option<Duration>, outcome: Result<usize, StatusCode>) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(ran) = ran {
            record(&self.running, ran);
        }
        match outcome {
            Ok(reply_bytes) => add(&self.reply_bytes, reply_bytes as u64),
            Err(code) => self.failed(code),
        }
    }

    /// A reply of this many bytes found no room after it was counted.
    pub(super) fn not_sent(&self, reply_bytes: usize, code: StatusCode) {
        self.reply_bytes.fetch_sub(reply_bytes as u64, Ordering::Relaxed);
        self.failed(code);
    }

    /// A stream is over, after so many bytes of items.
    pub(super) fn streamed(&self, sent: u64, received: u64) {
        add(&self.reply_bytes, sent);
        add(&self.args_bytes, received);
    }

    fn failed(&self, code: StatusCode) {
        *self.errors.lock().entry(code.number()).or_default() += 1;
    }

    pub(super) fn report(&self) -> MethodReport {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        MethodReport {
            calls: of(&self.calls),
            open: of(&self.open),
            rejected: of(&self.rejected),
            dropped: of(&self.dropped),
            slow: of(&self.slow),
            errors: self.errors.lock().clone(),
            args_bytes: of(&self.args_bytes),
            reply_bytes: of(&self.reply_bytes),
            waiting: times(&self.waiting),
            running: times(&self.running),
        }
    }
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

fn record(histogram: &Mutex<Histogram<u32>>, time: Duration) {
    histogram.lock().saturating_record(time.as_micros().min(TIME_MAX_US.into()) as u64);
}

fn times(histogram: &Mutex<Histogram<u32>>) -> Times {
    let histogram = histogram.lock();
    let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
    Times {
        count: histogram.len(),
        mean: Duration::from_nanos((histogram.mean() * 1000.0) as u64),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: Duration::from_micros(histogram.max()),
    }
}
