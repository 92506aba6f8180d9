//! [`History`]: what clients asked and were told, and whether one copy of the data could have told them so.
//!
//! A history is linearizable if its calls can be put in an order that explains every answer, and in which no call comes
//! before one that had ended when it began. Keys are independent of each other, so each is judged on its own. The search is
//! Wing and Gong's with Lowe's memory of what was tried: take any call that may come next, and step back when none fits.
//!
//! - A write whose outcome is unknown may take effect at any time after it began, or never.
//! - A write that failed for certain takes no effect: a read that saw it is a violation.
//! - A read that failed says nothing.
//!
//! Let each written value be unique, and none the beginning of another (`[1]`, `[2]`): then a read tells which writes it has seen,
//! and the search is short however many calls are made at once (`parts`). Otherwise it may be given up.

mod parts;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::clerk::{Clerk, ClerkError, ClerkErrorKind};
use search::Search;

/// A record of calls, shared by the threads that make them.
///
/// ```no_run
/// use std::thread;
/// use syncraft::testing::{Cluster, History};
///
/// let cluster = Cluster::start(3)?;
/// let history = History::new();
/// thread::scope(|scope| {
///     for client in 0..4 {
///         let (history, clerk) = (&history, cluster.clerk());
///         scope.spawn(move || {
///             for n in 0..100 {
///                 // Failures are part of the record.
///                 let _ = history.append(&clerk, "log", format!("{client}:{n},"));
///                 let _ = history.get(&clerk, "log");
///             }
///         });
///     }
///     cluster.kill(cluster.leader().expect("someone leads"));
/// });
/// history.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Clients other than a [`Clerk`] record with [`begin_put`](History::begin_put) and the like:
///
/// ```
/// use syncraft::testing::{History, Outcome};
///
/// let history = History::new();
/// let put = history.begin_put("k", "v");
/// put.end(Outcome::Done);
/// let get = history.begin_get("k");
/// get.end(Outcome::Value(None));
/// assert!(history.check().is_err());       // a write that was acknowledged was not seen
/// ```
#[derive(Debug)]
pub struct History {
    began: Instant,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    /// Counts beginnings and ends: an order that agrees with real time.
    moment: u64,
    calls: Vec<Record>,
}

#[derive(Clone, Debug)]
struct Record {
    key: Bytes,
    action: Action,
    began: Moment,
    ended: Option<(Moment, Outcome)>,
}

#[derive(Clone, Copy, Debug)]
struct Moment {
    order: u64,
    at: Instant,
}

#[derive(Clone, Debug)]
enum Action {
    Put(Bytes),
    Append(Bytes),
    Get,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write is acknowledged.
    Done,
    /// What the read saw; `None` if the key was absent.
    Value(Option<Bytes>),
    /// The write had no effect and never will have. A read that failed.
    NotApplied,
    /// The write may or may not have happened, or may yet.
    Unknown,
}

/// A call that has begun. Dropped without an end, its outcome is unknown.
#[derive(Debug)]
#[must_use = "a call that is dropped at once is one whose outcome is unknown"]
pub struct Call<'a> {
    history: &'a History,
    index: usize,
}

/// Why a history is not accepted.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// No order explains it.
    #[error(
        "key \"{key}\": no order of its {calls} calls explains what was answered\n{explanation}"
    )]
    NotLinearizable {
        /// The key, escaped.
        key: String,
        /// Its calls.
        calls: usize,
        /// The longest order that was found, and what cannot come next in it: some lines.
        explanation: String,
    },
    /// The search was given up.
    #[error("key \"{key}\": undecided after {steps} steps: too many of its {calls} calls at once")]
    Undecided {
        /// The key, escaped.
        key: String,
        /// Its calls.
        calls: usize,
        /// Orders that were looked at.
        steps: u64,
    },
}

impl Default for History {
    fn default() -> History {
        History::new()
    }
}

impl History {
    /// Nothing yet.
    pub fn new() -> History {
        History { began: Instant::now(), calls: Mutex::default() }
    }

    /// [`Clerk::put`], recorded.
    ///
    /// # Errors
    /// The Clerk's.
    pub fn put(
        &self,
        clerk: &Clerk,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), ClerkError> {
        let call = self.begin_put(&key, &value);
        call.end_write(clerk.put(key, value))
    }

    /// [`Clerk::append`], recorded.
    ///
    /// # Errors
    /// The Clerk's.
    pub fn append(
        &self,
        clerk: &Clerk,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), ClerkError> {
        let call = self.begin_append(&key, &value);
        call.end_write(clerk.append(key, value))
    }

    /// [`Clerk::get`], recorded.
    ///
    /// # Errors
    /// The Clerk's.
    pub fn get(&self, clerk: &Clerk, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, ClerkError> {
        let call = self.begin_get(&key);
        let result = clerk.get(key);
        call.end(result.as_ref().map_or(Outcome::NotApplied, |it| Outcome::Value(it.clone())));
        result
    }

    /// A put is about to be sent.
    pub fn begin_put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Call<'_> {
        self.begin(key.as_ref(), Action::Put(Bytes::copy_from_slice(value.as_ref())))
    }

    /// An append is about to be sent.
    pub fn begin_append(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Call<'_> {
        self.begin(key.as_ref(), Action::Append(Bytes::copy_from_slice(value.as_ref())))
    }

    /// A get is about to be sent.
    pub fn begin_get(&self, key: impl AsRef<[u8]>) -> Call<'_> {
        self.begin(key.as_ref(), Action::Get)
    }

    /// How many calls have begun.
    pub fn len(&self) -> usize {
        self.calls.lock().calls.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether what was recorded so far is linearizable.
    ///
    /// # Errors
    /// [`Violation`], which shows the calls that do not fit.
    pub fn check(&self) -> Result<(), Violation> {
        let mut keys: BTreeMap<Bytes, Vec<(usize, Record)>> = BTreeMap::new();
        for (number, record) in self.calls.lock().calls.iter().enumerate() {
            if record.says_something() {
                keys.entry(record.key.clone()).or_default().push((number, record.clone()));
            }
        }
        keys.iter().try_for_each(|(key, calls)| {
            let calls = search::that_matter(calls);
            Search::new(&calls).run(key, self.began)
        })
    }

    fn begin(&self, key: &[u8], action: Action) -> Call<'_> {
        let mut calls = self.calls.lock();
        let (key, began) = (Bytes::copy_from_slice(key), calls.next_moment());
        calls.calls.push(Record { key, action, began, ended: None });
        Call { history: self, index: calls.calls.len() - 1 }
    }
}

impl Call<'_> {
    /// It has ended so.
    pub fn end(self, outcome: Outcome) {
        let mut calls = self.history.calls.lock();
        let now = calls.next_moment();
        calls.calls[self.index].ended = Some((now, outcome));
    }

    fn end_write(self, result: Result<(), ClerkError>) -> Result<(), ClerkError> {
        self.end(match &result {
            Ok(()) => Outcome::Done,
            Err(error) if error.kind() == ClerkErrorKind::Unknown => Outcome::Unknown,
            Err(_) => Outcome::NotApplied,
        });
        result
    }
}

impl Calls {
    fn next_moment(&mut self) -> Moment {
        self.moment += 1;
        Moment { order: self.moment, at: Instant::now() }
    }
}

impl Record {
    /// A read that failed and a write that had no effect are not part of any order.
    fn says_something(&self) -> bool {
        match (&self.action, &self.ended) {
            (_, Some((_, Outcome::NotApplied))) => false,
            (Action::Get, ended) => matches!(ended, Some((_, Outcome::Value(_)))),
            _ => true,
        }
    }

    /// When it must have taken effect, if it must.
    fn returned(&self) -> Option<u64> {
        match &self.ended {
            Some((_, Outcome::Unknown)) | None => None,
            Some((moment, _)) => Some(moment.order),
        }
    }

    fn seen(&self) -> Option<&Option<Bytes>> {
        match &self.ended {
            Some((_, Outcome::Value(value))) => Some(value),
            _ => None,
        }
    }
}

/// One call in one line.
struct Shown<'a> {
    number: usize,
    record: &'a Record,
    began: Instant,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown { number, record, began } = self;
        let millis = |at: Instant| at.saturating_duration_since(*began).as_secs_f64() * 1e3;
        write!(f, "#{number} from {:.3} ms ", millis(record.began.at))?;
        match &record.ended {
            Some((moment, _)) => write!(f, "to {:.3} ms: ", millis(moment.at))?,
            None => f.write_str("on: ")?,
        }
        match &record.action {
            Action::Put(value) => write!(f, "put {}", quoted(value))?,
            Action::Append(value) => write!(f, "append {}", quoted(value))?,
            Action::Get => f.write_str("get")?,
        }
        match &record.ended {
            Some((_, Outcome::Done)) => f.write_str(", done"),
            Some((_, Outcome::Value(None))) => f.write_str(", absent"),
            Some((_, Outcome::Value(Some(value)))) => write!(f, ", saw {}", quoted(value)),
            Some((_, Outcome::NotApplied)) => f.write_str(", not applied"),
            Some((_, Outcome::Unknown)) | None => f.write_str(", outcome unknown"),
        }
    }
}

/// Escaped, and of a long value its end, where appends show.
fn quoted(value: &[u8]) -> String {
    const LEN_MAX: usize = 60;
    let tail = &value[value.len().saturating_sub(LEN_MAX)..];
    match tail.len() == value.len() {
        true => format!("\"{}\"", tail.escape_ascii()),
        false => format!("\"...{}\" ({} bytes)", tail.escape_ascii(), value.len()),
    }
}
